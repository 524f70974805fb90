"""Manifests of any length: the rows stay in the file until they are asked for."""

import array
import collections.abc
import itertools
import mmap
import operator
import os

import numpy as np

from speechbrain_bilevel.dataio.compact import NameBuilder
from speechbrain_bilevel.dataio.manifest_lines import ManifestLines
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.name_index import NameIndex, name_hash
from speechbrain_bilevel.text import shorten

# Rows whose places are looked up at once when all are read.
_BLOCK = 4096


class ManifestRows(collections.abc.Mapping):
    """The rows of a manifest by ID, each a dict as SpeechBrain makes it.

    Rows are read when they are asked for, so nothing may write to the file
    meanwhile; to put another in its place, as ``write_atomically`` does, is no
    harm.

    Arguments
    ---------
    path : str or Path
        The CSV file.
    replacements : dict, optional
        What to put in the place of each ``$name`` outside of the column ID.

    Raises
    ------
    InputError
        If the file is missing, empty or no manifest, or a line is not as it
        should be (see ``ManifestLines``) or has the ID of another.

    Example
    -------
    >>> path = getfixture("tmp_path") / "eval.csv"
    >>> _ = path.write_text("ID,attack\\nu1,A07\\nu2,-\\nu3,A07\\n")
    >>> rows = ManifestRows(path)
    >>> rows["u3"]
    {'attack': 'A07'}
    >>> list(rows.cells("ID", "attack"))
    [('u1', 'A07'), ('u2', '-'), ('u3', 'A07')]
    >>> attacks = rows.column("attack")
    >>> attacks.codes, attacks.names
    (array([0, 1, 0], dtype=uint8), ('A07', '-'))
    """

    def __init__(self, path, replacements=None):
        self.path = path
        try:
            with open(path, "rb") as file:
                header = file.readline()
                self.lines = ManifestLines(path, header, replacements or {})
                self._index(file)
                self._map_file(file)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}). Expected a "
                "manifest; prepare the corpus again"
            ) from error
        self._refuse_twins()

    def __getitem__(self, utt):
        (place,) = self._places.find([utt])
        if place < 0:
            raise KeyError(utt)
        (cells,) = self.read(int(place), 1)
        row = dict(zip(self.lines.columns, cells))
        del row["ID"]
        if "duration" in row:
            row["duration"] = float(row["duration"])
        return row

    def __iter__(self):
        return iter(self.cells("ID"))

    def __len__(self):
        return len(self._bounds) - 1

    def __getstate__(self):
        return {**vars(self), "_map": None}

    def __setstate__(self, state):
        vars(self).update(state)
        with open(self.path, "rb") as file:
            self._map_file(file)
        if self._stamp != state["_stamp"]:
            raise self.lines.refusal("", "has changed since it was indexed")

    def cells(self, *names):
        """Some columns of all rows, in the order of the file.

        Arguments
        ---------
        *names : str
            Columns.

        Returns
        -------
        Cells
            A sequence of str, or with several columns of tuples, which are
            read when they are asked for.
        """
        return Cells(self, [self.lines.place(name) for name in names])

    def column(self, name):
        """A column with few different values, as numbers; reads all rows once.

        Arguments
        ---------
        name : str

        Returns
        -------
        Names
            In the order in which they first come.
        """
        builder = NameBuilder()
        builder.extend(self.cells(name))
        return builder.build()

    def _index(self, file):
        """Checks each line; keeps where it starts and what its ID hashes to."""
        starts, hashes, start = array.array("Q"), array.array("Q"), file.tell()
        for number, line in enumerate(file, start=2):
            if cells := self.lines.checked(line, number):
                starts.append(start)
                hashes.append(name_hash(cells[self.lines.id_at]))
            start += len(line)
        if not starts:
            raise self.lines.refusal("", "lists no clip")
        starts.append(start)
        self._bounds = np.array(starts, np.min_scalar_type(start))
        self._places = NameIndex(self.cells("ID"), hashes)

    def _map_file(self, file):
        status = os.fstat(file.fileno())
        self._stamp = status.st_size, status.st_mtime_ns
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _refuse_twins(self):
        """Refuses an ID that two lines have."""
        for utt, (first, second, *_) in self._places.repeats().items():
            line, twin = (
                1 + self._map[: self._bounds[place]].count(b"\n")
                for place in (first, second)
            )
            raise self.lines.refusal(
                f", line {twin}",
                f"the ID {shorten(utt)} is already on line {line}",
            )

    def read(self, first, count):
        """The cells of some rows that follow each other.

        Arguments
        ---------
        first, count : int

        Yields
        ------
        list of str
        """
        bounds = self._bounds[first : first + count + 1].tolist()
        for start, stop in itertools.pairwise(bounds):
            yield self.lines.split(self._map[start:stop])


class Cells(collections.abc.Sequence):
    """What ``ManifestRows.cells`` returns: reads a row when it is asked for.

    Arguments
    ---------
    rows : ManifestRows
    places : list of int
        Of the columns in a row.
    """

    def __init__(self, rows, places):
        self._rows = rows
        self._pick = operator.itemgetter(*places)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[position] for position in chosen]
        return self._pick(*self._rows.read(chosen, 1))

    def __iter__(self):
        for first in range(0, len(self), _BLOCK):
            yield from map(self._pick, self._rows.read(first, _BLOCK))
