"""Scoring a list of trials, in one process or several."""

import hashlib
import math
import operator
import os
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio.lengths import measure_lengths, padding
from speechbrain_bilevel.dataio.trial_batches import TrialBatches
from speechbrain_bilevel.distributed import world_size
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import check_target
from speechbrain_bilevel.score_collection import ScoreFile
from speechbrain_bilevel.verdicts import no_number
from speechbrain_bilevel.views import View

_SHOWN = 20


def score_trials(
    detector,
    trials,
    path,
    batch_size=16,
    num_workers=0,
    trim_silence=False,
    whole=False,
):
    """Scores a list of trials; goes on where an earlier run stopped.

    Called by every process of a distributed run, each scores a share. Every
    trial has its own place in its own batch, so its score has the same bits
    however many processes there are, if each has as many threads (torchrun
    gives each one, unless OMP_NUM_THREADS says otherwise), and wherever a run
    was stopped. It takes under 100 bytes of memory a trial, beside the trials.

    Arguments
    ---------
    detector : SpoofDetector
        What scores them; the same on every process.
    trials : Sequence of Trial
        Their paths are absolute, or relative to the working directory.
    path : str or Path
        The score file, ``utt source key score``; see ``ScoreFile``. It appears
        when every trial has its score.
    batch_size : int
        Trials that the network sees at once; of whole recordings that last
        longer, as many fewer. Another size may change the last bits of the
        scores; those that are there already are kept.
    num_workers : int
        Processes that read audio, for each process that scores; with 0, that
        one reads.
    trim_silence : bool
        Whether the network sees the recordings without the silence around
        them; see ``dataio.silence.speech_bounds``.
    whole : bool
        Whether the network sees recordings up to ``dataio.lengths.LONGEST``,
        each repeated to the next of ``dataio.lengths.bucket_lengths``, instead of their first
        ``hparams.samples`` samples. Only of networks with an attribute
        ``any_length`` that is true, and not with ``trim_silence``.

    Raises
    ------
    InputError
        If two trials have the same name, the score file cannot be written,
        whole recordings cannot be scored, or some trials have no score because
        of their audio. These are named at the end, on the main process, when
        the others have been scored.

    Example
    -------
    >>> import soundfile
    >>> from types import SimpleNamespace
    >>> from speechbrain_bilevel.dataio.trials import Trial
    >>> class Loudness:  # instead of a SpoofDetector
    ...     windows = SimpleNamespace(samples=4)
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
    if whole:
        _check_whole(detector.mods.network, trim_silence)
    check_target(path)
    samples = detector.hparams.samples
    settings = {
        "samples": samples,
        "as_published": detector.hparams.as_published,
        "calibration": getattr(detector.hparams, "calibration", None),
        "bonafide_logit": getattr(detector.hparams, "bonafide_logit", False),
        "precision": detector.precision,
        "trim_silence": trim_silence,
        "whole": whole,
        "audio": _digest(os.path.abspath(trial.path) for trial in trials),
    }
    rows = View(trials, operator.attrgetter("utt", "attack", "label"))
    scores = ScoreFile(path, rows, detector.mods.network, settings)
    missing, lengths = scores.missing_positions, None
    if len(missing) and path.exists():
        raise InputError(
            f"{path}: is there already, and not with these trials' scores by "
            "this network and these settings; give another name, or delete it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if whole and len(missing):
        lengths = measure_lengths(trials, samples)
    batches = TrialBatches(
        trials, missing, batch_size, samples, trim_silence, lengths
    )
    # Also waits until every process has added its scores.
    shares = _from_all(_score_share(detector, batches, scores, num_workers))
    if not if_main_process():
        return
    if lengths is not None:
        _tell_padding(lengths, samples)
    n_faults = sum(share[0] for share in shares)
    if n_faults:
        shown = sum((share[1] for share in shares), [])[:_SHOWN]
        raise InputError(_list_faults(n_faults, shown, len(trials)))
    if not scores.finish():
        raise InputError(
            f"{path}: {len(scores.missing_positions)} trials have no score, "
            "although all were scored. Start again, and only one run at a "
            "time; if several machines score, they need a shared folder"
        )


def _check_whole(network, trim_silence):
    if trim_silence:
        raise InputError(
            "whole recordings without the silence around the speech: how long "
            "they are is not known before they are decoded; expected one of "
            "both, or audio that was cut before"
        )
    if not getattr(network, "any_length", False):
        raise InputError(
            f"{type(network).__name__}: takes recordings of one length only, "
            "so it cannot hear whole ones; score the beginnings of the "
            "recordings, or with AASIST, SSLAASIST or MelCNN"
        )


def _score_share(detector, batches, scores, num_workers):
    """Adds this process's scores; returns how many other trials there are, and
    what is wrong with the first of them."""
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    progress = tqdm(
        desc="Scoring",
        total=batches.n_trials,
        unit="trial",
        disable=not if_main_process() or not len(batches),
    )
    n_faults, shown = 0, []
    with progress:
        for trials, rows, wavs, faults in loader:
            n_trials = len(trials) + len(faults)
            if trials:
                found = _classify(detector, wavs)[rows].tolist()
                pairs = list(zip(trials, found))
                good = [(t.utt, s) for t, s in pairs if math.isfinite(s)]
                scores.add([utt for utt, _ in good], [s for _, s in good])
                faults += [
                    no_number(trial.path, score)
                    for trial, score in pairs
                    if not math.isfinite(score)
                ]
            n_faults += len(faults)
            shown = (shown + faults)[:_SHOWN]
            progress.update(n_trials)
    return n_faults, shown


@torch.no_grad()
def _classify(detector, wavs):
    """The score of each row, of which the network sees all."""
    windows = detector.windows
    usual, windows.samples = windows.samples, wavs.shape[1]
    try:
        return detector.classify_batch(wavs)[1]
    finally:
        windows.samples = usual


def _tell_padding(lengths, samples):
    share = 100 * padding(lengths, samples)
    text = f"padding: {share:.1f} % of what the network saw"
    tqdm.write(text, file=sys.stderr)


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


def _list_faults(n_faults, shown, n_trials):
    if n_faults > len(shown):
        shown = [*shown, f"and {n_faults - len(shown)} more"]
    return (
        f"{n_faults} of {n_trials} trials have no score:\n  "
        + "\n  ".join(shown)
        + "\nThe scores of all others are kept. Mend these files and start "
        "again: only they are tried"
    )
