"""Millions of trials in little memory."""

import itertools
import operator
import os
from collections.abc import Sequence

import numpy as np

from speechbrain_bilevel.dataio.compact import NameBuilder, TextBuilder
from speechbrain_bilevel.dataio.trials import Trial

# Trials that exist at the same time while a table is built.
_CHUNK = 1 << 12
# The columns, in the order of the fields of a trial.
_BUILDERS = {
    "utt": TextBuilder,
    "path": TextBuilder,
    "speaker": NameBuilder,
    "attack": NameBuilder,
    "label": NameBuilder,
    "partition": NameBuilder,
}


class TrialTable(Sequence):
    """Trials that never change, in arrays rather than one object for each.

    It is used like a list: a ``Trial`` is made when it is asked for. A trial
    takes the bytes of its name and path and about 15 more, and processes that
    are forked share them.

    Arguments
    ---------
    trials : iterable of Trial
        Taken one by one, so they need not be in memory together.

    Example
    -------
    >>> table = TrialTable(
    ...     Trial(f"u{n}", f"{n}.wav", "s", f"A{n % 2}", "spoof", "eval")
    ...     for n in range(4)
    ... )
    >>> len(table), table[3].path, [trial.utt for trial in table[1:3]]
    (4, '3.wav', ['u1', 'u2'])
    >>> table.take([3, 0])[0] == table[3]
    True
    """

    def __init__(self, trials=()):
        builders = {name: build() for name, build in _BUILDERS.items()}
        trials = iter(trials)
        while some := list(itertools.islice(trials, _CHUNK)):
            for name, builder in builders.items():
                builder.extend([getattr(trial, name) for trial in some])
        self._root = ""
        self._columns = {
            name: builder.build() for name, builder in builders.items()
        }

    def _replace(self, columns, root):
        table = TrialTable.__new__(TrialTable)
        table._columns, table._root = columns, root
        return table

    def __len__(self):
        return len(self._columns["utt"])

    def __getitem__(self, at):
        """A trial, or for a slice the table of some of them.

        Arguments
        ---------
        at : int or slice

        Returns
        -------
        Trial or TrialTable
        """
        if isinstance(at, slice):
            return self.take(at)
        utt, path, *names = (column[at] for column in self._columns.values())
        return Trial(utt, self._join(path), *names)

    def __iter__(self):
        names = [self._columns[name] for name in list(_BUILDERS)[2:]]
        return map(Trial, self.texts("utt"), self.texts("path"), *names)

    def __eq__(self, other):
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __repr__(self):
        return f"TrialTable({len(self)} trials)"

    def _join(self, path):
        return os.path.join(self._root, path) if self._root else path

    def take(self, rows):
        """Some of the trials, in any order.

        Arguments
        ---------
        rows : numpy.ndarray, list of int or slice
            Their indices, or True for each of them.

        Returns
        -------
        TrialTable
            Where the indices are neighbours, it shares the memory of names and
            paths.
        """
        rows = np.arange(len(self))[rows]
        columns = {
            name: column.take(rows) for name, column in self._columns.items()
        }
        return self._replace(columns, self._root)

    def column(self, name):
        """A column as numbers.

        Arguments
        ---------
        name : str
            "speaker", "attack", "label" or "partition".

        Returns
        -------
        codes : numpy.ndarray
            Of each trial, where in ``names`` its is; unsigned, [n_trials].
        names : tuple of str
            All that occur, each once.

        Example
        -------
        >>> table = TrialTable(
        ...     [
        ...         Trial("u1", "1.wav", "s", "A07", "spoof", "eval"),
        ...         Trial("u2", "2.wav", "s", "-", "bonafide", "eval"),
        ...     ]
        ... )
        >>> table.column("attack")
        (array([0, 1], dtype=uint8), ('A07', '-'))
        """
        column = self._columns[name]
        return column.codes, column.names

    def counts(self, name):
        """How many trials have each value of a column.

        Arguments
        ---------
        name : str
            "speaker", "attack", "label" or "partition".

        Returns
        -------
        dict of str to int
            Of the values that occur.

        Example
        -------
        >>> trial = Trial("u1", "1.wav", "s", "A07", "spoof", "eval")
        >>> TrialTable([trial]).counts("attack")
        {'A07': 1}
        """
        column = self._columns[name]
        return dict(zip(column.names, column.counts().tolist()))

    def texts(self, name):
        """The names or the paths of all trials.

        Arguments
        ---------
        name : str
            "utt" or "path".

        Returns
        -------
        iterator of str
        """
        texts = iter(self._columns[name])
        return map(self._join, texts) if name == "path" else texts

    def repeats(self, name):
        """Finds trials whose name or path an earlier one has.

        Arguments
        ---------
        name : str
            "utt" or "path".

        Returns
        -------
        dict of int to int
            Their rows, ascending, and the first row with the same; it has a
            Python object for each, so it is for few of them.

        Example
        -------
        >>> trial = Trial("u1", "1.wav", "s", "A07", "spoof", "eval")
        >>> TrialTable([trial, trial]).repeats("utt")
        {1: 0}
        """
        return self._columns[name].repeats()

    def with_root(self, folder):
        """The same trials, their paths relative to another folder.

        Arguments
        ---------
        folder : str or Path
            What paths that are not absolute are joined to, when asked for.

        Returns
        -------
        TrialTable
            It shares the memory of this one.

        Example
        -------
        >>> trial = Trial("u1", "1.wav", "s", "A07", "spoof", "eval")
        >>> TrialTable([trial]).with_root("/data")[0].path
        '/data/1.wav'
        """
        root = os.path.join(folder, self._root)
        return self._replace(self._columns, root)

    def with_paths(self, paths):
        """The same trials with other paths.

        Arguments
        ---------
        paths : iterable of str
            As many as there are trials.

        Returns
        -------
        TrialTable
            It shares the memory of all columns but one.
        """
        builder, paths = TextBuilder(), iter(paths)
        while some := list(itertools.islice(paths, _CHUNK)):
            builder.extend(some)
        return self._replace({**self._columns, "path": builder.build()}, "")
