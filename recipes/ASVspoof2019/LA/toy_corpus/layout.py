"""What is in the toy corpus and where: trials, protocols and other texts."""

import itertools
import json
import math
from typing import NamedTuple, Optional

import numpy as np

from toy_corpus.attacks import (
    EVALUATION_ATTACKS,
    TRAINING_ATTACKS,
)

STAMP = "toy_corpus.json"
_VERSION = 1  # raise it when the same settings give other files
_README = """\
This corpus is SYNTHETIC. It has the layout of ASVspoof2019 LA and nothing of
its speech: the talkers are a source-filter synthesiser that says random
sounds, the spoofs are other such utterances after signal processing.

It is for trying out and testing the software. Results on it mean nothing.
The speaker verification scores are drawn from normal distributions.
"""


class Split(NamedTuple):
    """A partition of the corpus."""

    name: str
    letter: str  # in the utterances' ids
    protocol: str  # in the protocol's file name
    attacks: tuple
    speakers: range
    spoof_share: float  # of the clips per attack
    bonafide_share: float  # of the bona fide clips


class Trial(NamedTuple):
    """A clip of the corpus; ``attack`` is None where it is bona fide."""

    utt: str
    speaker: int
    attack: Optional[str]
    take: int  # counts the clips of one attack, or of bona fide speech


_SEEN, _UNSEEN = TRAINING_ATTACKS, EVALUATION_ATTACKS
SPLITS = {
    "train": Split("train", "T", "train.trn", _SEEN, range(1, 13), 1, 1),
    "dev": Split("dev", "D", "dev.trl", _SEEN, range(13, 21), 0.5, 0.5),
    "eval": Split("eval", "E", "eval.trl", _UNSEEN, range(21, 33), 0.5, 0.625),
}


def generator(*entropy):
    """A random generator of its own for each purpose.

    Whatever is drawn elsewhere, before or in another process, the same
    numbers give the same generator.

    Arguments
    ---------
    *entropy : int
        The corpus's seed, then numbers that say what is drawn.

    Returns
    -------
    rng : numpy.random.Generator

    Example
    -------
    >>> bool(generator(0, 1).random() == generator(0, 1).random())
    True
    """
    return np.random.default_rng(np.random.SeedSequence(entropy))


def plan_trials(clips_per_attack, bonafide, seed):
    """Decides which clips there will be.

    Arguments
    ---------
    clips_per_attack : int
        Clips of every attack in train.
    bonafide : int
        Bona fide clips in train.
    seed : int
        Shuffles the utterances' ids, which thus say nothing of the class.

    Returns
    -------
    plan : dict
        A list of `Trial`, by id, for each of "train", "dev" and "eval".

    Example
    -------
    >>> plan = plan_trials(clips_per_attack=16, bonafide=96, seed=0)
    >>> {name: len(trials) for name, trials in plan.items()}
    {'train': 192, 'dev': 96, 'eval': 164}
    """
    plan = {}
    for number, split in enumerate(SPLITS.values()):
        count = math.ceil(bonafide * split.bonafide_share)
        kinds = [(None, take) for take in range(count)]
        count = math.ceil(clips_per_attack * split.spoof_share)
        kinds += itertools.product(split.attacks, range(count))
        ids = 1000001 + generator(seed, 0, number).permutation(len(kinds))
        trials = []
        for place, (attack, take) in enumerate(kinds):
            utt = f"LA_{split.letter}_{ids[place]}"
            speaker = split.speakers[place % len(split.speakers)]
            trials.append(Trial(utt, speaker, attack, take))
        plan[split.name] = sorted(trials)
    return plan


def audio_place(split_name, trial):
    """Where a trial's audio is.

    Arguments
    ---------
    split_name : str
        "train", "dev" or "eval".
    trial : Trial
        The trial.

    Returns
    -------
    place : str
        Path from the corpus's folder.

    Example
    -------
    >>> audio_place("dev", Trial("LA_D_1000001", 13, None, 0))
    'ASVspoof2019_LA_dev/flac/LA_D_1000001.flac'
    """
    return f"ASVspoof2019_LA_{split_name}/flac/{trial.utt}.flac"


def text_files(plan, clips_per_attack, bonafide, seed):
    """Protocols, speaker verification scores, README and stamp.

    Arguments
    ---------
    plan : dict
        From `plan_trials`.
    clips_per_attack : int
        For the stamp.
    bonafide : int
        For the stamp.
    seed : int
        For the stamp and the scores.

    Returns
    -------
    texts : dict
        Each file's text by its path from the corpus's folder.

    Example
    -------
    >>> texts = text_files(plan_trials(1, 1, 0), 1, 1, 0)
    >>> print(texts["toy_corpus.json"], end="")
    {"toy_corpus": 1, "clips_per_attack": 1, "bonafide": 1, "seed": 0}
    """
    settings = {
        "toy_corpus": _VERSION,
        "clips_per_attack": clips_per_attack,
        "bonafide": bonafide,
        "seed": seed,
    }
    texts = {STAMP: json.dumps(settings) + "\n", "README.txt": _README}
    for number, split in enumerate(SPLITS.values()):
        protocol = f"ASVspoof2019.LA.cm.{split.protocol}.txt"
        lines = map(_protocol_line, plan[split.name])
        texts[f"ASVspoof2019_LA_cm_protocols/{protocol}"] = "".join(lines)
        if split.name != "train":
            scores = f"ASVspoof2019.LA.asv.{split.name}.gi.trl.scores.txt"
            texts[f"ASVspoof2019_LA_asv_scores/{scores}"] = "".join(
                _asv_score_lines(split, generator(seed, 1, number))
            )
    return texts


def _protocol_line(trial):
    """The five columns of a countermeasure protocol."""
    source = f"{trial.attack} spoof" if trial.attack else "- bonafide"
    return f"LA_{trial.speaker:04d} {trial.utt} - {source}\n"


def _asv_score_lines(split, rng):
    """Scores of an imagined speaker verification system of 2.3 % EER."""
    kinds = [
        ("bonafide", "target", 400, 3),
        ("bonafide", "nontarget", 1200, -1),
    ]
    for attack in split.attacks:
        # Between a third and nearly all of an attack's trials are accepted.
        kinds.append((attack, "spoof", 100, rng.uniform(0.6, 2.6)))
    for source, key, count, mean in kinds:
        for score in mean + rng.standard_normal(count):
            yield f"{source} {key} {score:.6f}\n"
