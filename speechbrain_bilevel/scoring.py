"""Score files that grow while a long evaluation runs, and survive a kill."""

import collections
import errno
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.dataio.trial_batches import TrialBatches
from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import write_atomically

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
    _check_writable(path)
    settings = {
        "samples": detector.hparams.samples,
        "as_published": detector.hparams.as_published,
        "precision": detector.precision,
        "trim_silence": trim_silence,
        "audio": _digest(os.path.abspath(trial.path) for trial in trials),
    }
    rows = [(trial.utt, trial.attack, trial.label) for trial in trials]
    scores = ScoreFile(path, rows, detector.mods.network, settings)
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
            f"{path}: {len(scores.missing)} trials have no score; start again. "
            "Several machines need a shared folder"
        )


def _score_share(detector, batches, scores, num_workers):
    """Adds this process's scores; returns what is wrong with other trials."""
    loader = DataLoader(batches, batch_size=None, num_workers=num_workers)
    progress = tqdm(
        desc="Scoring",
        total=batches.n_trials,
        unit="trial",
        disable=not if_main_process(),
    )
    faults = []
    with progress:
        for utts, rows, wavs, unreadable in loader:
            if utts:
                found = detector.classify_batch(wavs)[1][rows].tolist()
                found = dict(zip(utts, found))
                good = {u: s for u, s in found.items() if math.isfinite(s)}
                scores.add(list(good), list(good.values()))
                faults += [
                    f"{utt}: its score is {found[utt]}; are the network's "
                    "weights damaged, or is its audio extremely loud?"
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


def _check_writable(path):
    """Finds out before the work, which may take days."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _not_written(path, error) from error


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


class ScoreFile:
    """Collects scores as they come; ``utt source key score`` when complete.

    Each process appends to a part file of its own beside ``path``. The parts
    begin with a fingerprint of the weights, the settings and the trials: a
    later run with the same ones goes on where this one stopped, any other
    starts anew. ``finish`` puts them together in the order of the trials.

    Arguments
    ---------
    path : str or Path
        The score file.
    trials : list of tuple
        (utt, source, key) of each trial.
    network : torch.nn.Module
        What computes the scores.
    settings : object
        Whatever else the scores depend on; its ``repr`` must tell it.

    Example
    -------
    >>> import torch
    >>> trials = [("utt_1", "A07", "spoof"), ("utt_2", "-", "bonafide")]
    >>> path = Path(getfixture("tmpdir")) / "scores.txt"
    >>> scores = ScoreFile(path, trials, torch.nn.Linear(1, 1))
    >>> scores.missing
    ['utt_1', 'utt_2']
    >>> scores.add(["utt_2", "utt_1"], [0.5, -1.0])
    >>> scores.finish()
    True
    >>> print(path.read_text().strip())
    utt_1 A07 spoof -1.0
    utt_2 - bonafide 0.5
    """

    def __init__(self, path, trials, network, settings=None):
        self.path = Path(path)
        self.trials = trials
        self.fingerprint = _fingerprint(trials, network, settings)
        self.stamp = self.path.with_name(self.path.name + ".json")
        self.part = self.path.with_name(f"{self.path.name}.part{rank()}")
        self.done = {} if self._is_complete() else self._read_parts()
        # No process adds scores before every one has read the same parts.
        ddp_barrier()

    @property
    def missing(self):
        """The utts that have no score yet, in the order of the trials."""
        if self._is_complete():
            return []
        return [utt for utt, _, _ in self.trials if utt not in self.done]

    def add(self, utts, scores):
        """Appends scores to this process's part file.

        Arguments
        ---------
        utts : list of str
        scores : list of float

        Raises
        ------
        InputError
            If they cannot be written, e.g. on a full disk.
        """
        new = not self.part.exists() or not self._is_ours(self.part)
        lines = [f"{utt} {score!r}\n" for utt, score in zip(utts, scores)]
        if new:
            lines.insert(0, self.fingerprint + "\n")
        try:
            with open(self.part, "w" if new else "a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise _not_written(self.part, error) from error

    def finish(self):
        """Writes the score file if every trial has its score.

        Called by one process, after all have added theirs.

        Returns
        -------
        bool
            Whether the score file is complete.

        Raises
        ------
        InputError
            If it cannot be written, e.g. on a full disk.
        """
        if self._is_complete():
            return True
        self.done = self._read_parts()
        if self.missing:
            return False
        _write(
            self.path,
            "".join(
                f"{utt} {source} {key} {self.done[utt]!r}\n"
                for utt, source, key in self.trials
            ),
        )
        _write(self.stamp, json.dumps(self._stamp()))
        for part in self._parts():
            part.unlink()
        return True

    def _stamp(self):
        scores = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"fingerprint": self.fingerprint, "sha256": scores}

    def _is_complete(self):
        if not (self.stamp.is_file() and self.path.is_file()):
            return False
        try:
            return json.loads(self.stamp.read_text()) == self._stamp()
        except ValueError:
            return False

    def _parts(self):
        return sorted(self.path.parent.glob(f"{self.path.name}.part*"))

    def _is_ours(self, part):
        with open(part, encoding="utf-8") as file:
            return file.readline().strip() == self.fingerprint

    def _read_parts(self):
        done = {}
        for part in filter(self._is_ours, self._parts()):
            # A killed run may leave a last line without its end. The file is
            # cut there, so that the next score does not grow onto it.
            whole = part.read_bytes().rpartition(b"\n")[0] + b"\n"
            if part.stat().st_size != len(whole):
                os.truncate(part, len(whole))
            for line in whole.decode().splitlines()[1:]:
                utt, score = line.split(" ")
                done[utt] = float(score)
        return done


def _fingerprint(trials, network, settings):
    digest = hashlib.sha256(repr((trials, settings)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _write(path, text):
    try:
        write_atomically(path.parent, {path.name: text})
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path, error):
    return InputError(
        f"{path}: the scores could not be written ({error.strerror}); see to "
        "it and start again: scoring goes on from what is there"
    )
