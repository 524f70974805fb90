"""Scoring a list of trials, in one process or several."""

import collections
import hashlib
import math
import os
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio.trial_batches import TrialBatches
from speechbrain_bilevel.distributed import world_size
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import check_target
from speechbrain_bilevel.score_collection import ScoreFile
from speechbrain_bilevel.verdicts import no_number

_SHOWN = 20


def score_trials(
    detector, trials, path, batch_size=16, num_workers=0, trim_silence=False
):
    """Scores a list of trials; goes on where an earlier run stopped.

    Called by every process of a distributed run, each scores a share. Every
    trial has its own place in batches of one size, so its score has the same
    bits however many processes there are and wherever a run was stopped.

    Arguments
    ---------
    detector : SpoofDetector
        What scores them; the same on every process.
    trials : list of Trial
        Their paths are absolute, or relative to the working directory.
    path : str or Path
        The score file, ``utt source key score``; see ``ScoreFile``. It appears
        when every trial has its score.
    batch_size : int
        Trials that the network sees at once. Another size may change the last
        bits of the scores; those that are there already are kept.
    num_workers : int
        Processes that read audio, for each process that scores; with 0, that
        one reads.
    trim_silence : bool
        Whether the network sees the recordings without the silence around
        them; see ``dataio.silence.speech_bounds``.

    Raises
    ------
    InputError
        If two trials have the same name, the score file cannot be written, or
        some trials have no score because of their audio. These are named at
        the end, on the main process, when the others have been scored.

    Example
    -------
    >>> import soundfile
    >>> from types import SimpleNamespace
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> class Loudness:  # instead of a SpoofDetector
    ...     mods = SimpleNamespace(network=torch.nn.Identity())
    ...     hparams = SimpleNamespace(samples=4, as_published=False)
    ...     precision = "fp32"
    ...
    ...     def classify_batch(self, wavs):
    ...         return None, wavs.square().sum(1), None, None
    >>> folder = Path(getfixture("tmpdir"))
    >>> audio = str(folder / "utt_1.wav")
    >>> soundfile.write(audio, [0.5, -0.5], 16000)
    >>> trials = [Trial("utt_1", audio, "p1", "A07", "spoof", "eval")]
    >>> score_trials(Loudness(), trials, folder / "scores.txt")
    >>> print((folder / "scores.txt").read_text().strip())
    utt_1 A07 spoof 1.0
    """
    path = Path(path)
    _check_names(trials)
    check_target(path)
    settings = {
        "samples": detector.hparams.samples,
        "as_published": detector.hparams.as_published,
        "calibration": getattr(detector.hparams, "calibration", None),
        "bonafide_logit": getattr(detector.hparams, "bonafide_logit", False),
        "precision": detector.precision,
        "trim_silence": trim_silence,
        "audio": _digest(os.path.abspath(trial.path) for trial in trials),
    }
    rows = [(trial.utt, trial.attack, trial.label) for trial in trials]
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = ScoreFile(path, rows, detector.mods.network, settings)
    if scores.missing and path.exists():
        raise InputError(
            f"{path}: is there already, and not with these trials' scores by "
            "this network and these settings; give another name, or delete it"
        )
    batches = TrialBatches(
        trials, scores.missing, batch_size, settings["samples"], trim_silence
    )
    faults = _score_share(detector, batches, scores, num_workers)
    # Also waits until every process has added its scores.
    faults = sum(_from_all(faults), [])
    if not if_main_process():
        return
    if faults:
        raise InputError(_list_faults(faults, len(trials)))
    if not scores.finish():
        raise InputError(
            f"{path}: {len(scores.missing)} trials have no score, although all "
            "were scored. Start again, and only one run at a time; if several "
            "machines score, they need a shared folder"
        )


def _score_share(detector, batches, scores, num_workers):
    """Adds this process's scores; returns what is wrong with other trials."""
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    progress = tqdm(
        desc="Scoring",
        total=batches.n_trials,
        unit="trial",
        disable=not if_main_process() or not len(batches),
    )
    faults, paths = [], {trial.utt: trial.path for trial in batches.trials}
    with progress:
        for utts, rows, wavs, unreadable in loader:
            if utts:
                with torch.no_grad():
                    found = detector.classify_batch(wavs)[1][rows].tolist()
                found = dict(zip(utts, found))
                good = {u: s for u, s in found.items() if math.isfinite(s)}
                scores.add(list(good), list(good.values()))
                faults += [
                    no_number(paths[utt], found[utt])
                    for utt in utts
                    if utt not in good
                ]
            faults += unreadable
            progress.update(len(utts) + len(unreadable))
    return faults


def _from_all(value):
    """A value of every process, as a list on every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _digest(paths):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    return digest.hexdigest()


def _check_names(trials):
    names = collections.Counter(trial.utt for trial in trials)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} names stand for more than one trial, first of all "
            f"{twice[0]}; score lists with the same names one by one"
        )


def _list_faults(faults, trials):
    shown = faults[:_SHOWN]
    if len(faults) > _SHOWN:
        shown.append(f"and {len(faults) - _SHOWN} more")
    return (
        f"{len(faults)} of {trials} trials have no score:\n  "
        + "\n  ".join(shown)
        + "\nThe scores of all others are kept. Mend these files and start "
        "again: only they are tried"
    )
