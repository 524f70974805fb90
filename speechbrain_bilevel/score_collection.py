"""Score files that grow while a long evaluation runs, and survive a kill."""

import hashlib
import json
import os
from pathlib import Path

from speechbrain.utils.distributed import ddp_barrier

from speechbrain_bilevel.distributed import rank
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import write_atomically


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
            raise not_written(self.part, error) from error

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
        raise not_written(path, error) from error


def not_written(path, error):
    """What to tell when scores cannot be written.

    Arguments
    ---------
    path : Path
    error : OSError

    Returns
    -------
    InputError
    """
    return InputError(
        f"{path}: the scores could not be written ({error.strerror}); see to "
        "it and start again: scoring goes on from what is there"
    )
