"""Read untrusted text tables: protocols, lists, manifests and score files."""

import csv
import functools
import itertools
import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from speechbrain_bilevel.utils.errors import InputError, printable, shorten

# A file without line ends (audio, an archive) must not fill the memory.
_MAX_LINE_BYTES = 1 << 16
# Lines to hold as Python objects at the same time.
_CHUNK = 1 << 14
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Arguments
    ---------
    columns : tuple of str
        A name for each column; "" for one to ignore.
    separator : str, optional
        One character, with quotes as in CSV; None for whitespace.
    has_header : bool
        Whether the first line names the columns.
    """

    columns: tuple
    separator: str | None = None
    has_header: bool = False

    def split(self, line):
        """Return the cells of a line, stripped.

        Raise an ``InputError`` if quotes do not pair, or the number of cells is
        wrong.
        """
        cells = split_line(line, self.separator)
        if len(cells) != len(self.columns):
            name = {None: "whitespace", ",": "commas", "\t": "tabs"}
            raise InputError(
                f"expected the {len(self.columns)} columns "
                f"`{' '.join(column or '...' for column in self.columns)}`, "
                f"separated by {name.get(self.separator, self.separator)}, "
                f"found {len(cells)}"
            )
        return cells


class BadLines:
    """Counts the unusable lines of a file and shows the first five.

    ``path`` and ``expected``, what a line should be and what to do, are for the
    message, and so is ``unit``, what a line is.

    Example
    -------
    >>> bad = BadLines("scores.txt", "Expected a score.")
    >>> bad.add(7, "no score")
    >>> bad.raise_if_any(n_lines=9)
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.utils.errors.InputError: scores.txt: 1 of 9 lines \
cannot be used:
      line 7: no score
    Expected a score.
    """

    def __init__(self, path, expected, unit="line"):
        self.path, self.expected, self.unit = path, expected, unit
        self.count, self.shown = 0, []

    def add(self, number, reason):
        """Count a line; store its number and what is wrong with it."""
        self.count += 1
        self.shown = sorted([*self.shown, (number, str(reason))])[:_SHOWN]

    def raise_if_any(self, n_lines):
        """Raise an ``InputError`` that counts and shows the bad lines."""
        if not self.count:
            return
        lines = [f"  {self.unit} {n}: {reason}" for n, reason in self.shown]
        if self.count > _SHOWN:
            lines.append(f"  and {self.count - _SHOWN} more")
        raise InputError(
            f"{self.path}: {self.count} of {n_lines} {self.unit}s cannot be "
            "used:\n" + "\n".join([*lines, self.expected])
        )


def read_table(path, layout, parse, dtypes, expected):
    """Read a table of any size; count all bad lines before refusing any.

    Blank lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or Path
        UTF-8 text.
    layout : callable
        Takes the first line that is not blank, returns its ``Layout``.
    parse : callable
        Takes the cells of a line, a dict by column; returns a tuple of values
        to keep, or raises an ``InputError`` that says what is wrong.
    dtypes : dict of str to str
        Name and pandas dtype of each of these values; text is kept by pyarrow.
    expected : str
        What the file should be and what to do, for messages.

    Returns
    -------
    table : pandas.DataFrame
        In the order of the file.
    numbers : numpy.ndarray
        The line number of each row, from 1.

    Raises
    ------
    InputError
        If the file cannot be read, is not text, has bad lines or no line.
    """
    lines = read_lines(path, expected)
    number, line = next(lines, (1, ""))
    if not line:
        raise InputError(f"{path}: empty. {expected}")
    try:
        layout = layout(line)
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from None
    if not layout.has_header:
        lines = itertools.chain([(number, line)], lines)

    def parse_line(line):
        return parse(dict(zip(layout.columns, layout.split(line))))

    bad = BadLines(path, expected)
    table, numbers = build_table(lines, parse_line, dtypes, bad)
    if not len(numbers):
        raise InputError(f"{path}: nothing below its header. {expected}")
    return table, numbers


def build_table(rows, parse, dtypes, bad):
    """Build a table of many rows; count all bad ones before refusing any.

    ``rows`` yields (number, row), and ``parse`` takes a row; ``bad`` is the
    ``BadLines`` to count in. See ``read_table`` for all else.
    """
    chunks, numbers = {name: [] for name in dtypes}, []
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        found, good = [], []
        for number, row in chunk:
            try:
                found.append(parse(row))
                good.append(number)
            except InputError as error:
                bad.add(number, error)
        numbers.append(np.array(good, dtype=np.int64))
        for (name, dtype), values in zip(dtypes.items(), zip(*found)):
            if dtype == "str":
                chunks[name].append(pa.array(values, pa.large_string()))
            else:
                chunks[name].append(pd.Series(values, dtype=dtype))
    numbers = np.concatenate([[], *numbers]).astype(np.int64)
    bad.raise_if_any(len(numbers) + bad.count)
    if not len(numbers):
        return None, numbers
    columns = {name: _concat(chunks.pop(name)) for name in dtypes}
    return pd.DataFrame(columns), numbers


def _concat(chunks):
    if isinstance(chunks[0], pa.Array):
        # pandas would keep the chunks, and some memory beside each.
        return pd.Series(pa.concat_arrays(chunks), dtype="str")
    # Concatenated, chunks with different categories would become text.
    if chunks[0].dtype == "category":
        return pd.Series(pd.api.types.union_categoricals(chunks))
    return pd.concat(chunks, ignore_index=True)


def read_lines(path, expected):
    """Yield (number, line) for the lines of a UTF-8 file that are not blank.

    Numbers count from 1, with blank lines; lines have no end. A byte order mark
    and Windows line ends are fine. Raise an ``InputError``, which ends with
    ``expected``, if the file cannot be read or is not text.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            lines = iter(functools.partial(file.readline, _MAX_LINE_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                try:
                    text = _decode(line)
                except InputError as error:
                    raise InputError(
                        f"{path}, line {number}: {error}. {expected}"
                    ) from None
                if number == 1:
                    # Some editors put a byte order mark in front.
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    yield number, text
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). {expected}"
        ) from error


def _at_once(path, flags):
    """Open a file; a pipe that nobody writes to is empty, and does not wait."""
    file = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(file, True)
    return file


def _decode(line):
    if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise InputError(f"{_MAX_LINE_BYTES} bytes and no line end; not text")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(
            "not UTF-8 text (if it is text, save it again as UTF-8; if it is "
            "compressed, unpack it)"
        )
    text = text.rstrip("\r\n")
    if "\r" in text:
        raise InputError(
            "lines end with a carriage return alone; save the file again with "
            "the line ends of Unix or Windows"
        )
    return text


def split_line(line, separator=None):
    """Return the cells of a line, stripped.

    The separator is one character, with quotes as in CSV, or None for
    whitespace. Raise an ``InputError`` if a quote is not closed on the line, or
    text follows a closing one; but "|" is used by lists that do not quote.

    Example
    -------
    >>> split_line('"Doe, Jane.wav", 1', ",")
    ['Doe, Jane.wav', '1']
    """
    if separator is None:
        return line.split()
    if '"' not in line:
        return [cell.strip() for cell in line.split(separator)]
    reader = csv.reader(
        [line], delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        return [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        if separator == "|":
            return [cell.strip() for cell in line.split(separator)]
        raise InputError(
            f'the quotes (") of {shorten(line)} do not pair ({error}); '
            "expected each cell on one line, and none or two around it"
        ) from None


def refuse_repeated(column, numbers, bad, where="on line"):
    """Raise an ``InputError``, by ``BadLines``, if a name is there twice."""
    for number, name, first in repeated(column, numbers):
        bad.add(number, f"{printable(name, 60)} is already {where} {first}")
    bad.raise_if_any(len(column))


def repeated(column, numbers):
    """Find the values that are on more than one line.

    ``numbers`` are the line numbers of a pandas column. Return a list of (line,
    value, line of the first occurrence).

    Example
    -------
    >>> repeated(pd.Series(["a", "b", "a"]), np.array([1, 2, 4]))
    [(4, 'a', 1)]
    """
    again = column.duplicated().to_numpy()
    # The check took as much memory as the column; pyarrow would keep it.
    pa.default_memory_pool().release_unused()
    if not again.any():
        return []
    values = column[again]
    twins = column.isin(values)
    firsts = dict(zip(column[twins & ~again], numbers[twins & ~again].tolist()))
    return [
        (line, value, firsts[value])
        for line, value in zip(numbers[again].tolist(), values)
    ]
