"""Score files that grow while a long evaluation runs, and survive a kill."""

import hashlib
import json
import os
import re
from pathlib import Path

import torch
from speechbrain.utils.distributed import ddp_barrier

from speechbrain_bilevel.distributed import rank
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import write_atomically


class ScoreFile:
    """Collects scores as they come; ``utt source key score`` when complete.

    Each process appends to a part file of its own beside ``path``, named by a
    fingerprint of the network, the settings and the trials. A later run with
    the same ones goes on where this one stopped, any other starts anew.
    ``finish`` puts the parts together in the order of the trials.

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
        self.part = self.path.with_name(
            f"{self.path.name}.{self.fingerprint}.part{rank()}"
        )
        self.complete = self._is_complete()
        _cut_torn_line(self.part)
        self.done = self._read_parts()
        # No process adds scores before every one has read the same parts.
        ddp_barrier()

    @property
    def missing(self):
        """The utts that have no score yet, in the order of the trials."""
        if self.complete:
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
        lines = [f"{utt} {score!r}\n" for utt, score in zip(utts, scores)]
        try:
            with open(self.part, "a", encoding="utf-8") as file:
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
        if not self.complete:
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
            self.complete = True
        for part in self._parts("[0-9a-f]{16}"):
            part.unlink()
        return True

    def _stamp(self):
        scores = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"fingerprint": self.fingerprint, "sha256": scores}

    def _is_complete(self):
        try:
            return json.loads(self.stamp.read_text()) == self._stamp()
        except (OSError, ValueError):
            return False

    def _parts(self, fingerprint):
        """Part files of all processes, none that only look alike."""
        name = rf"{re.escape(self.path.name)}\.{fingerprint}\.part\d+"
        try:
            files = sorted(os.scandir(self.path.parent), key=lambda f: f.name)
        except OSError:
            return []
        return [
            Path(file.path)
            for file in files
            if re.fullmatch(name, file.name) and file.is_file()
        ]

    def _read_parts(self):
        done = {}
        for part in self._parts(self.fingerprint):
            # The last line may be torn: by a kill, or because another process
            # is just writing it.
            whole = part.read_bytes().rpartition(b"\n")[0]
            for line in whole.decode(errors="replace").splitlines():
                utt, _, score = line.partition(" ")
                try:
                    done[utt] = float(score)
                except ValueError:
                    continue
        return done


def _cut_torn_line(part):
    """So that the next score does not grow onto it."""
    if part.is_file():
        whole = part.read_bytes().rpartition(b"\n")
        os.truncate(part, len(whole[0] + whole[1]))


def _fingerprint(trials, network, settings):
    digest = hashlib.sha256(repr((trials, settings)).encode())
    for name, module in network.named_modules():
        # Two networks may have the same weights and another number of heads.
        sizes = {
            key: value
            for key, value in sorted(vars(module).items())
            if isinstance(value, (bool, int, float, str, tuple))
            and not key.startswith("_")
            and key != "training"
        }
        digest.update(repr((name, type(module).__name__, sizes)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


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
