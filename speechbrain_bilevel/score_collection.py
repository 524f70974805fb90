"""Score files that grow while a long evaluation runs, and survive a kill."""

import hashlib
import itertools
import json
import math
import operator
import os
import re
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier

from speechbrain_bilevel.distributed import rank
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import write_atomically
from speechbrain_bilevel.name_index import NameIndex
from speechbrain_bilevel.verdicts import no_number
from speechbrain_bilevel.views import View

# Lines of a part file that are read at once.
_LINES = 1 << 12


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
    trials : Sequence of tuple
        (utt, source, key) of each trial; looked at as needed and not copied.
    network : torch.nn.Module
        What computes the scores.
    settings : object
        Whatever else the scores depend on; its ``repr`` must tell it.

    Raises
    ------
    InputError
        If two trials have the same name.

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
        self._index = NameIndex(View(trials, operator.itemgetter(0)))
        if repeats := self._index.repeats():
            raise InputError(
                f"{len(repeats)} names stand for more than one trial, first of "
                f"all {next(iter(repeats))}; score lists with the same names "
                "one by one"
            )
        self.fingerprint = _fingerprint(trials, network, settings)
        self.stamp = self.path.with_name(self.path.name + ".json")
        self.part = self.path.with_name(
            f"{self.path.name}.{self.fingerprint}.part{rank()}"
        )
        self.complete = self._is_complete()
        _cut_torn_line(self.part)
        self.scores = self._read_parts()
        # No process adds scores before every one has read the same parts.
        ddp_barrier()

    @property
    def missing(self):
        """The utts that have no score yet, in the order of the trials."""
        places = self.missing_positions.tolist()
        return [self.trials[place][0] for place in places]

    @property
    def missing_positions(self):
        """Where these trials stand, as an array."""
        if self.complete:
            return np.empty(0, int)
        return np.flatnonzero(np.isnan(self.scores))

    def add(self, utts, scores):
        """Appends scores to this process's part file.

        Arguments
        ---------
        utts : list of str
        scores : list of float

        Raises
        ------
        InputError
            If one is NaN, or they cannot be written, e.g. on a full disk.
        """
        for utt, score in zip(utts, scores):
            if math.isnan(score):
                raise InputError(no_number(utt, score))
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
            self.scores = self._read_parts()
            if len(self.missing_positions):
                return False
            _write(
                self.path,
                (
                    f"{utt} {source} {key} {float(score)!r}\n"
                    for (utt, source, key), score in zip(
                        self.trials, self.scores
                    )
                ),
            )
            _write(self.stamp, json.dumps(self._stamp()))
            self.complete = True
        for part in self._parts("[0-9a-f]{16}"):
            part.unlink()
        return True

    def _stamp(self):
        with open(self.path, "rb") as file:
            scores = hashlib.file_digest(file, "sha256").hexdigest()
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
        """The score of each trial, NaN where there is none yet."""
        scores = np.full(len(self.trials), np.nan)
        for part in self._parts(self.fingerprint):
            with open(part, "rb") as file:
                lines = _whole_lines(file)
                while some := list(itertools.islice(lines, _LINES)):
                    utts, values = zip(*map(_parse, some))
                    places, values = self._index.find(utts), np.array(values)
                    good = (places >= 0) & ~np.isnan(values)
                    scores[places[good]] = values[good]
        return scores


def _whole_lines(file):
    """Not a last line that is torn: by a kill, or because another process is
    just writing it."""
    return itertools.takewhile(lambda line: line.endswith(b"\n"), file)


def _parse(line):
    """A line's utt and score, NaN if it is spoilt."""
    utt, _, score = line.decode(errors="replace").partition(" ")
    try:
        return utt, float(score)
    except ValueError:
        return utt, math.nan


def _cut_torn_line(part):
    """So that the next score does not grow onto it."""
    if part.is_file():
        with open(part, "rb") as file:
            whole = sum(map(len, _whole_lines(file)))
        os.truncate(part, whole)


def _fingerprint(trials, network, settings):
    # As of the repr of the pair of both, which it once was: scores of then are
    # kept.
    digest = hashlib.sha256(b"([")
    for number, trial in enumerate(trials):
        digest.update(f"{', ' if number else ''}{trial!r}".encode())
    digest.update(f"], {settings!r})".encode())
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


def _write(path, content):
    try:
        write_atomically(path.parent, {path.name: content})
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path, error):
    return InputError(
        f"{path}: the scores could not be written ({error.strerror}); see to "
        "it and start again: scoring goes on from what is there"
    )
