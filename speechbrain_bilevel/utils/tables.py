"""Read untrusted text tables: protocols, lists, manifests and score files."""

import csv
import functools
import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from speechbrain_bilevel.utils.errors import InputError, shorten

# A file without line ends (audio, an archive) must not fill the memory.
_MAX_LINE_BYTES = 1 << 16
# Lines that exist as Python objects at the same time.
_CHUNK = 1 << 16
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Arguments
    ---------
    columns : tuple of str
        A name for each column; "" for one that is ignored.
    separator : str, optional
        "," or a tab, with quotes as in CSV; None for whitespace.
    has_header : bool
        Whether the first line names the columns.
    """

    columns: tuple
    separator: str | None = None
    has_header: bool = False

    def split(self, line):
        """The cells of a line, stripped.

        Raises
        ------
        InputError
            If quotes do not pair, or the number of cells is wrong.

        Example
        -------
        >>> Layout(("path", "label"), ",").split('"Doe, Jane.wav", spoof')
        ['Doe, Jane.wav', 'spoof']
        """
        cells = split_line(line, self.separator)
        if len(cells) != len(self.columns):
            name = {None: "whitespace", ",": "commas", "\t": "tabs"}
            raise InputError(
                f"expected the {len(self.columns)} columns "
                f"`{' '.join(column or '...' for column in self.columns)}`, "
                f"separated by {name[self.separator]}, found {len(cells)}"
            )
        return cells


class BadLines:
    """Counts the unusable lines of a file; the first five are shown.

    Arguments
    ---------
    path : str or Path
        The file, for the message.
    expected : str
        What a line should be and what to do, for the message.

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

    def __init__(self, path, expected):
        self.path, self.expected = path, expected
        self.count, self.shown = 0, []

    def add(self, number, reason):
        """Count a line; keep its number and what is wrong with it."""
        self.count += 1
        self.shown = sorted([*self.shown, (number, str(reason))])[:_SHOWN]

    def raise_if_any(self, n_lines):
        """Raise an ``InputError`` that counts and shows the bad lines."""
        if not self.count:
            return
        lines = [f"  line {number}: {reason}" for number, reason in self.shown]
        if self.count > _SHOWN:
            lines.append(f"  and {self.count - _SHOWN} more")
        raise InputError(
            f"{self.path}: {self.count} of {n_lines} lines cannot be used:\n"
            + "\n".join([*lines, self.expected])
        )


def read_table(path, layout, parse, dtypes, expected):
    """Read a table of any size; bad lines are counted before any is refused.

    Blank lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or Path
        UTF-8 text.
    layout : callable
        Takes the first line that is not blank, returns its ``Layout``.
    parse : callable
        Takes the cells of a line, a dict by column; returns a tuple of what to
        keep of them, or raises ``InputError`` with what is wrong.
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

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> _ = path.write_text("a 1\\n\\nb 2\\n")
    >>> table, numbers = read_table(
    ...     path,
    ...     layout=lambda line: Layout(("utt", "score")),
    ...     parse=lambda cells: (cells["utt"], float(cells["score"])),
    ...     dtypes={"utt": "str", "score": "float64"},
    ...     expected="Expected scores",
    ... )
    >>> table.utt.tolist(), table.score.tolist(), numbers.tolist()
    (['a', 'b'], [1.0, 2.0], [1, 3])
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
    bad = BadLines(path, expected)
    chunks, numbers = {name: [] for name in dtypes}, []
    while chunk := list(itertools.islice(lines, _CHUNK)):
        rows, good = [], []
        for number, line in chunk:
            try:
                cells = dict(zip(layout.columns, layout.split(line)))
                rows.append(parse(cells))
                good.append(number)
            except InputError as error:
                bad.add(number, error)
        numbers.append(np.array(good, dtype=np.int64))
        for (name, dtype), values in zip(dtypes.items(), zip(*rows)):
            if dtype == "str":
                values = pa.array(values, pa.large_string())
            chunks[name].append(pd.Series(values, dtype=dtype))
    numbers = np.concatenate([[], *numbers]).astype(np.int64)
    bad.raise_if_any(len(numbers) + bad.count)
    if not len(numbers):
        raise InputError(f"{path}: nothing below its header. {expected}")
    return pd.DataFrame({n: _concat(c) for n, c in chunks.items()}), numbers


def _concat(chunks):
    # Categories differ from chunk to chunk; as text they would all be kept.
    if chunks[0].dtype == "category":
        return pd.Series(pd.api.types.union_categoricals(chunks))
    return pd.concat(chunks, ignore_index=True)


def read_lines(path, expected):
    """Yield the lines of a text file that are not blank.

    Arguments
    ---------
    path : str or Path
        UTF-8 text; a byte order mark and Windows line ends are fine.
    expected : str
        What the file should be and what to do, for messages.

    Yields
    ------
    number : int
        From 1, blank lines counted.
    line : str
        Without its end.

    Raises
    ------
    InputError
        If the file cannot be read or is not text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "protocol.txt"
    >>> _ = path.write_bytes(b"a b\\r\\n \\nc d\\n\\n")
    >>> list(read_lines(path, "Expected letters"))
    [(1, 'a b'), (3, 'c d')]
    """
    try:
        with open(path, "rb") as file:
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
    """The cells of a line, stripped.

    Arguments
    ---------
    line : str
    separator : str, optional
        "," or a tab, with quotes as in CSV; None for whitespace.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If a quote is not closed on the line, or text follows a closing one.

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
        raise InputError(
            f'the quotes (") of {shorten(line)} do not pair ({error}); '
            "expected each cell on one line, and none or two around it"
        ) from None


def repeated(column, numbers):
    """Find the values that stand on more than one line.

    Arguments
    ---------
    column : pandas.Series
    numbers : numpy.ndarray
        The line number of each value.

    Returns
    -------
    list of (int, str, int)
        Line, value, and line of its first occurrence.

    Example
    -------
    >>> repeated(pd.Series(["a", "b", "a"]), np.array([1, 2, 4]))
    [(4, 'a', 1)]
    """
    again = column.duplicated().to_numpy()
    # That took as much memory as the column, which pyarrow would keep.
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
