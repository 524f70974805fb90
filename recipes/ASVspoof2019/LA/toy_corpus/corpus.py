"""Writes a small synthetic corpus in the layout of ASVspoof2019 LA.

It is there to try out and to test the software without a download: talkers are
synthesized (``speech``), spoofs are made from other utterances of theirs by
signal processing (``attacks``). Results on it mean nothing.
"""

import itertools
import json
import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from speechbrain_bilevel.dataio import (
    BONAFIDE,
    NO_ATTACK,
    SAMPLE_RATE,
    SPOOF,
)
from speechbrain_bilevel.utils.errors import InputError
from toy_corpus.attacks import ATTACKS
from toy_corpus.speech import Talker, record, speak

README, STAMP = "README.txt", "toy_corpus.json"
_VERSION = 2  # raise it when the same settings give other files
_SECONDS = 1.2, 2.5  # shortest and longest clip
_README = """\
This corpus is SYNTHETIC. It has the layout of ASVspoof2019 LA and nothing of
its speech: the talkers are a synthesizer that says random sounds, the spoofs
are other such utterances after signal processing. The scores of a speaker
verification system are drawn from normal distributions.

It is for trying out and testing the software. Results on it mean nothing.

The attacks of eval are not in train and dev, but for A16 = A04 and A19 = A06.
They are nevertheless easy to recognize, on purpose: all attacks are settings
of three functions (a vocoder, a change of the vocal tract, joined units), and
all of them blur the phases, which roughens the spectrum. A small network finds
that within a minute, and then errs on few clips of any attack. Real attacks
have no such trace in common.

Single numbers do not tell the classes apart: by duration, level, zero crossings
or energy above 4 kHz, the equal error rate on eval is 50 % give or take 7; by
the roughness of the spectrum below 1 kHz, the easiest, it is about 25 %
(corpus of the default size and seed).
"""


class Partition(NamedTuple):
    """A partition of the corpus."""

    letter: str  # in the utterances' ids
    protocol: str  # in the protocol's file name
    attacks: tuple
    speakers: range
    spoof: float  # share of the clips per attack
    bonafide: float  # share of the bona fide clips


class Trial(NamedTuple):
    """A clip of the corpus."""

    utt: str
    speaker: int
    attack: str
    take: int  # counts the clips of one attack, or of bona fide speech


_SEEN, _UNSEEN = tuple(ATTACKS)[:6], tuple(ATTACKS)[6:]
PARTITIONS = {
    "train": Partition("T", "train.trn", _SEEN, range(1, 13), 1, 1),
    "dev": Partition("D", "dev.trl", _SEEN, range(13, 21), 0.5, 0.5),
    "eval": Partition("E", "eval.trl", _UNSEEN, range(21, 33), 0.5, 0.625),
}


def write_toy_corpus(folder, clips_per_attack=16, bonafide=96, seed=0):
    """Write the toy corpus, or return at once where it already is.

    The clips are FLAC files, 16 kHz, mono, 16 bits, 1.2 to 2.5 s long, all at
    the same level. train and dev have attacks A01 to A06, eval has A07 to A19;
    no two partitions share a speaker. The same arguments give the same bytes.
    The corpus appears under its name only when it is complete.

    Arguments
    ---------
    folder : str or Path
        Missing, empty, or another toy corpus, which is replaced.
    clips_per_attack : int
        Clips of every attack in train; dev and eval have half as many.
    bonafide : int
        Bona fide clips in train; dev has half, eval five eighths as many.
    seed : int
        Another seed gives other talkers, utterances and scores; at least 0.

    Raises
    ------
    InputError
        If the folder holds anything but a toy corpus, cannot be written, or a
        number is too small.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "LA"
    >>> write_toy_corpus(folder, clips_per_attack=1, bonafide=1)
    >>> print(*sorted(os.listdir(folder)), sep="\\n")
    ASVspoof2019_LA_asv_scores
    ASVspoof2019_LA_cm_protocols
    ASVspoof2019_LA_dev
    ASVspoof2019_LA_eval
    ASVspoof2019_LA_train
    README.txt
    toy_corpus.json
    """
    if clips_per_attack < 1 or bonafide < 1 or seed < 0:
        raise InputError(
            "toy corpus: expected clips_per_attack and bonafide of at least 1 "
            f"and a seed of at least 0, not {clips_per_attack}, {bonafide} "
            f"and {seed}"
        )
    # A link to a folder elsewhere is followed, not replaced.
    folder = Path(os.path.realpath(folder))
    plan = plan_trials(clips_per_attack, bonafide, seed)
    texts = text_files(plan, clips_per_attack, bonafide, seed)
    try:
        if not _is_complete(folder, plan, texts):
            _check_replaceable(folder, texts)
            _build(folder, plan, texts, seed)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(
            f"{folder}: the toy corpus cannot be written ({error}); make room "
            "for it or choose another folder"
        ) from error


def make_clip(partition, speaker, attack=NO_ATTACK, take=0, seed=0):
    """Synthesize one clip of the corpus.

    Arguments
    ---------
    partition : str
        "train", "dev" or "eval".
    speaker : int
        The talker's number.
    attack : str
        "A01" to "A19", or "-" for bona fide speech.
    take : int
        Another take is another utterance.
    seed : int
        The corpus's seed.

    Returns
    -------
    numpy.ndarray
        [samples], 16 kHz, at a full scale of 1.

    Example
    -------
    >>> clip = make_clip("train", speaker=1, attack="A04")
    >>> 1.2 <= len(clip) / SAMPLE_RATE <= 2.5
    True
    """
    talker = Talker.draw(np.random.default_rng([seed, 2, speaker]))
    numbers = list(PARTITIONS).index(partition), speaker, take
    rng = np.random.default_rng([seed, 3, *numbers, *attack.encode()])
    clip = speak(talker, round(rng.uniform(*_SECONDS) * SAMPLE_RATE), rng)
    if attack != NO_ATTACK:
        clip = ATTACKS[attack](clip, rng)
    return record(clip, rng)


def plan_trials(clips_per_attack, bonafide, seed):
    """Decide which clips there will be.

    Arguments
    ---------
    clips_per_attack, bonafide, seed : int
        See ``write_toy_corpus``.

    Returns
    -------
    dict of str to list of Trial
        Of every partition, sorted by id; an id says nothing of the class.

    Example
    -------
    >>> plan = plan_trials(clips_per_attack=16, bonafide=96, seed=0)
    >>> {name: len(trials) for name, trials in plan.items()}
    {'train': 192, 'dev': 96, 'eval': 164}
    """
    plan = {}
    for number, (name, part) in enumerate(PARTITIONS.items()):
        count = math.ceil(bonafide * part.bonafide)
        kinds = [(NO_ATTACK, take) for take in range(count)]
        count = math.ceil(clips_per_attack * part.spoof)
        kinds += itertools.product(part.attacks, range(count))
        rng = np.random.default_rng([seed, 0, number])
        utts = [
            f"LA_{part.letter}_{1000001 + position}"
            for position in rng.permutation(len(kinds))
        ]
        speakers = itertools.cycle(part.speakers)
        plan[name] = sorted(
            Trial(utt, speaker, *kind)
            for utt, speaker, kind in zip(utts, speakers, kinds)
        )
    return plan


def text_files(plan, clips_per_attack, bonafide, seed):
    """Compose protocols, speaker verification scores, README and stamp.

    Arguments
    ---------
    plan : dict
        From ``plan_trials``.
    clips_per_attack, bonafide, seed : int
        See ``write_toy_corpus``.

    Returns
    -------
    dict of str to str
        Each file's text by its path from the corpus's folder.

    Example
    -------
    >>> texts = text_files(plan_trials(1, 1, 0), 1, 1, 0)
    >>> print(texts["toy_corpus.json"], end="")
    {"toy_corpus": 2, "clips_per_attack": 1, "bonafide": 1, "seed": 0}
    """
    settings = {
        "toy_corpus": _VERSION,
        "clips_per_attack": clips_per_attack,
        "bonafide": bonafide,
        "seed": seed,
    }
    texts = {STAMP: json.dumps(settings) + "\n", README: _README}
    for number, (name, part) in enumerate(PARTITIONS.items()):
        protocol = f"ASVspoof2019.LA.cm.{part.protocol}.txt"
        texts[f"ASVspoof2019_LA_cm_protocols/{protocol}"] = "".join(
            f"LA_{trial.speaker:04d} {trial.utt} - {trial.attack} "
            f"{BONAFIDE if trial.attack == NO_ATTACK else SPOOF}\n"
            for trial in plan[name]
        )
        if name != "train":
            scores = f"ASVspoof2019.LA.asv.{name}.gi.trl.scores.txt"
            rng = np.random.default_rng([seed, 1, number])
            texts[f"ASVspoof2019_LA_asv_scores/{scores}"] = "".join(
                _asv_score_lines(part.attacks, rng)
            )
    return texts


def _asv_score_lines(attacks, rng):
    """Scores of an imagined speaker verification system of 2.3 % EER."""
    kinds = [(BONAFIDE, "target", 400, 3), (BONAFIDE, "nontarget", 1200, -1)]
    # Between a third and nearly all of an attack's trials are accepted.
    kinds += [(attack, SPOOF, 100, rng.uniform(0.6, 2.6)) for attack in attacks]
    for source, key, count, mean in kinds:
        for score in rng.normal(mean, 1, count):
            yield f"{source} {key} {score:.6f}\n"


def _audio_places(plan):
    """Paths of the clips from the corpus's folder, with their trials."""
    for name, trials in plan.items():
        for trial in trials:
            place = f"ASVspoof2019_LA_{name}/flac/{trial.utt}.flac"
            yield place, name, trial


def _is_complete(folder, plan, texts):
    """Whether this very corpus is there, with all of its files."""
    stamp = folder / STAMP
    if not stamp.is_file() or stamp.read_text() != texts[STAMP]:
        return False
    places = [*texts, *(place for place, *_ in _audio_places(plan))]
    return all((folder / place).is_file() for place in places)


def _check_replaceable(folder, texts):
    """Refuse to replace what this module has not written."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder for the toy corpus, but this is a "
            "file; choose another name"
        )
    own = {Path(place).parts[0] for place in texts}
    own |= {f"ASVspoof2019_LA_{name}" for name in PARTITIONS}
    found = set(os.listdir(folder))
    if found and (STAMP not in found or found - own):
        raise InputError(
            f"{folder}: expected a missing or empty folder, or a toy corpus "
            f"and nothing else, but it holds {min(found - own or found)}; "
            "choose another folder for the toy corpus"
        )


def _build(folder, plan, texts, seed):
    """Write the corpus beside the folder, then rename it into place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{folder.name}.partial-"
    ) as workplace:
        new = Path(workplace, "new")
        for place, text in texts.items():
            (new / place).parent.mkdir(parents=True, exist_ok=True)
            (new / place).write_text(text)
        for name in PARTITIONS:
            (new / f"ASVspoof2019_LA_{name}/flac").mkdir(parents=True)
        clips = list(_audio_places(plan))
        # disable=None: no progress bar in a log file.
        for place, name, (_, *kind) in tqdm(
            clips, "toy corpus", unit="clip", disable=None
        ):
            pcm = np.round(make_clip(name, *kind, seed) * 2**15)
            soundfile.write(new / place, pcm.astype(np.int16), SAMPLE_RATE)
        if folder.exists():
            os.rename(folder, Path(workplace, "old"))
        os.rename(new, folder)
