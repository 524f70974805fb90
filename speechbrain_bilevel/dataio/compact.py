"""Columns of long tables, without a Python object for every row."""

import array
import itertools
from collections.abc import Sequence

import numpy as np

# Rows that are turned into Python objects at a time.
_CHUNK = 1 << 14


class Texts(Sequence):
    """Texts one behind the other in one buffer, with 4 bytes for each end.

    Arguments
    ---------
    data : numpy.ndarray
        UTF-8, uint8, shape [n_bytes].
    bounds : numpy.ndarray
        Where each text begins and, last, where the last one ends; uint32, or
        int64 if there are more than 4 GB; shape [n_texts + 1].

    Example
    -------
    >>> builder = TextBuilder()
    >>> builder.extend(["a.wav", "ä.wav"])
    >>> builder.extend(["c.wav"])
    >>> texts = builder.build()
    >>> len(texts), texts[1], list(texts.take(np.array([2, 0])))
    (3, 'ä.wav', ['c.wav', 'a.wav'])
    """

    def __init__(self, data, bounds):
        self._data, self._bounds = data, bounds

    def __len__(self):
        return len(self._bounds) - 1

    def __getitem__(self, at):
        at = range(len(self))[at]
        return str(self._data[self._bounds[at] : self._bounds[at + 1]], "utf-8")

    def __iter__(self):
        return (text.decode() for text in self._encoded())

    def _encoded(self):
        """Yields the bytes of each text."""
        for at in range(0, len(self), _CHUNK):
            bounds = self._bounds[at : at + _CHUNK + 1].tolist()
            data = self._data[bounds[0] : bounds[-1]].tobytes()
            for begin, end in itertools.pairwise(bounds):
                yield data[begin - bounds[0] : end - bounds[0]]

    def take(self, rows):
        """Some of the texts.

        Arguments
        ---------
        rows : numpy.ndarray
            Their indices, from 0.

        Returns
        -------
        Texts
        """
        if len(rows) and (np.diff(rows) == 1).all():
            # Neighbours need no copy.
            bounds = self._bounds[rows[0] : rows[-1] + 2]
            data = self._data[bounds[0] : bounds[-1]]
            return Texts(data, bounds - bounds[0])
        begins = self._bounds[:-1][rows]
        lengths = self._bounds[1:][rows] - begins
        bounds = _add_up(lengths)
        data = np.empty(bounds[-1], np.uint8)
        for at in range(0, len(rows), _CHUNK):
            chunk = slice(at, at + _CHUNK)
            begin, end = bounds[at], bounds[min(at + _CHUNK, len(rows))]
            # From where in the new buffer to where in the old one.
            moves = begins[chunk].astype(np.int64) - bounds[:-1][chunk]
            moves = np.repeat(moves, lengths[chunk])
            data[begin:end] = self._data[np.arange(begin, end) + moves]
        return Texts(data, bounds)

    def repeats(self):
        """Finds the texts that stood in an earlier row already.

        Returns
        -------
        dict of int to int
            Rows, ascending, and the first row with the same text.

        Example
        -------
        >>> builder = TextBuilder()
        >>> builder.extend(["a", "b", "a", "a"])
        >>> builder.build().repeats()
        {2: 0, 3: 0}
        """
        hashes = np.fromiter(map(hash, self._encoded()), np.int64, len(self))
        ordered = np.sort(hashes)
        same = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(same):
            return {}
        found, first = {}, {}
        # Different texts may have the same hash.
        for row in np.flatnonzero(np.isin(hashes, same)).tolist():
            earlier = first.setdefault(self[row], row)
            if earlier != row:
                found[row] = earlier
        return found


class TextBuilder:
    """Collects texts for ``Texts``; see there."""

    def __init__(self):
        self._data, self._lengths = bytearray(), array.array("I")

    def extend(self, texts):
        """Adds texts.

        Arguments
        ---------
        texts : iterable of str
        """
        encoded = [text.encode() for text in texts]
        self._data += b"".join(encoded)
        self._lengths.extend(map(len, encoded))

    def build(self):
        """What was collected.

        Returns
        -------
        Texts
            The builder cannot be used any more.
        """
        data = np.frombuffer(self._data, np.uint8)
        lengths = np.frombuffer(self._lengths, np.uint32)
        return Texts(data, _add_up(lengths))


class Names(Sequence):
    """Names of which there are few, as numbers into a list of them.

    Arguments
    ---------
    codes : numpy.ndarray
        Index of each row's name, unsigned, shape [n_rows].
    names : tuple of str
        Every one is in some row.

    Example
    -------
    >>> builder = NameBuilder()
    >>> builder.extend(["A01", "A02", "A01"])
    >>> column = builder.build()
    >>> column.names, column.codes.tolist(), column[2]
    (('A01', 'A02'), [0, 1, 0], 'A01')
    >>> column.take(np.array([1])).names
    ('A02',)
    """

    def __init__(self, codes, names):
        self.codes, self.names = codes, names
        codes.flags.writeable = False

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, at):
        return self.names[self.codes[at]]

    def __iter__(self):
        for at in range(0, len(self), _CHUNK):
            for code in self.codes[at : at + _CHUNK].tolist():
                yield self.names[code]

    def counts(self):
        """How many rows have each name.

        Returns
        -------
        numpy.ndarray
            int64, shape [n_names].
        """
        return np.bincount(self.codes, minlength=len(self.names))

    def take(self, rows):
        """Some of the rows; names that none of them has are left out.

        Arguments
        ---------
        rows : numpy.ndarray
            Their indices, from 0.

        Returns
        -------
        Names
        """
        codes = self.codes[rows]
        used = np.flatnonzero(np.bincount(codes, minlength=len(self.names)))
        renumbered = np.zeros(len(self.names), codes.dtype)
        renumbered[used] = np.arange(len(used))
        names = tuple(self.names[code] for code in used)
        return Names(renumbered[codes], names)


class NameBuilder:
    """Collects names for ``Names``; see there."""

    def __init__(self):
        self._codes, self._index = array.array("I"), {}

    def extend(self, names):
        """Adds the names of further rows.

        Arguments
        ---------
        names : iterable of str
        """
        index = self._index
        self._codes.extend(index.setdefault(name, len(index)) for name in names)

    def build(self):
        """What was collected.

        Returns
        -------
        Names
            The codes are of the smallest type that will do.
        """
        codes = np.frombuffer(self._codes, np.uint32)
        smallest = np.min_scalar_type(max(0, len(self._index) - 1))
        return Names(codes.astype(smallest), tuple(self._index))


def _add_up(lengths):
    """Where texts of these lengths begin, and where the last one ends."""
    small = lengths.sum(dtype=np.int64) < 1 << 32
    bounds = np.zeros(len(lengths) + 1, np.uint32 if small else np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds
