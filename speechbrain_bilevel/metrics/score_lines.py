"""The lines of score files: which layout they have, and what is wrong in them.

A file from a stranger is read line by line, so that it may be of any size; all
its bad lines are counted and the first ones are shown.
"""

import csv
import math
from dataclasses import dataclass
from functools import partial
from typing import Optional

from speechbrain_bilevel.errors import InputError

CM_COLUMNS = ("utt", "source", "key", "score")
BARE_COLUMNS = ("utt", "score")
ASV_COLUMNS = ("source", "key", "score")
CM_KEYS = ("bonafide", "spoof")
ASV_KEYS = ("target", "nontarget", "spoof")

#: What a header may call a column, the preferred name first.
HEADER_NAMES = {
    "utt": ("utt", "utterance", "id", "trial", "file", "filename", "path"),
    "source": ("source", "attack"),
    "key": ("key", "label"),
    "score": ("score", "cm-score", "cm_score", "llr"),
}

# A file without line ends (audio, an archive) must not fill the memory.
MAX_LINE_BYTES = 4096
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """Where the columns of a line are.

    Arguments
    ---------
    columns : tuple of str
        "utt", "source", "key" or "score" for each column; "" for one that is
        not read.
    keys : tuple of str
        What the key may be.
    separator : str, optional
        "," or a tab for tables with a header; None for blanks.
    """

    columns: tuple
    keys: tuple
    separator: Optional[str] = None

    def parse(self, line):
        """The columns of a line by name, the score as a finite number.

        Arguments
        ---------
        line : str

        Returns
        -------
        dict

        Raises
        ------
        InputError
            If the line does not have this layout.

        Example
        -------
        >>> Layout(("utt", "score"), ()).parse("LA_1 2.5")
        {'utt': 'LA_1', 'score': 2.5}
        """
        fields = split(line, self.separator)
        if len(fields) != len(self.columns):
            raise InputError(
                f"expected the {len(self.columns)} columns {self._shown()}, "
                f"separated by {_called(self.separator)}, found {len(fields)}"
            )
        row = dict(zip(self.columns, fields))
        row.pop("", None)
        if "utt" in row:
            # As in a protocol: names become columns separated by blanks.
            row["utt"] = "_".join(row["utt"].split())
            if not row["utt"]:
                raise InputError("the utterance has no name")
        if "key" in row and row["key"] not in self.keys:
            raise InputError(
                f"unknown key {_quoted(row['key'])}; expected "
                f"{' or '.join(self.keys)} in {self._column('key')}"
            )
        row["score"] = self._score(row)
        return row

    def _score(self, row):
        text = row["score"]
        try:
            # Python alone reads "1_000" as a number.
            score = float(text.replace("_", "?"))
        except ValueError:
            raise InputError(
                f"the score {_quoted(text)} is not a number; expected one in "
                f"{self._column('score')}"
            ) from None
        if not math.isfinite(score):
            trial = f" for {_quoted(row['utt'])}" if "utt" in row else ""
            raise InputError(
                f"the score is {_quoted(text)}; expected a finite number"
                f"{trial}. Find out what the system made of this trial and "
                "score it again"
            )
        return score

    def _column(self, name):
        return f"column {self.columns.index(name) + 1} {self._shown()}"

    def _shown(self):
        return f"of `{' '.join(name or '...' for name in self.columns)}`"


def cm_layout(line):
    """The layout of a countermeasure's score file, by its first line.

    Arguments
    ---------
    line : str

    Returns
    -------
    layout : Layout
    is_header : bool
        Whether the line is a header and no trial.

    Raises
    ------
    InputError
        If it is none of the known layouts.

    Example
    -------
    >>> cm_layout("LA_E_1 A07 spoof 0.5")[0].columns
    ('utt', 'source', 'key', 'score')
    >>> layout, is_header = cm_layout("filename,cm-score")
    >>> layout.columns, layout.separator, is_header
    (('utt', 'score'), ',', True)
    """
    for separator in ",", "\t":
        columns = _header_columns(split(line, separator))
        if columns:
            return Layout(columns, CM_KEYS, separator), True
    n_columns = len(line.split())
    for columns in CM_COLUMNS, BARE_COLUMNS:
        if n_columns == len(columns):
            return Layout(columns, CM_KEYS), False
    raise InputError(
        f"expected the {len(CM_COLUMNS)} columns of `{' '.join(CM_COLUMNS)}` or "
        f"the {len(BARE_COLUMNS)} of `{' '.join(BARE_COLUMNS)}`, separated by "
        "blanks, or the header of a table with commas or tabs that names an "
        f"utt and a score, found {n_columns}"
    )


def asv_layout(line):
    """The layout of an ASV system's score file, whatever its first line.

    Arguments
    ---------
    line : str

    Returns
    -------
    layout : Layout
    is_header : bool
    """
    return Layout(ASV_COLUMNS, ASV_KEYS), False


def read_rows(path, find_layout):
    """Reads a score file, whole or not at all.

    Empty lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.
    find_layout : callable
        ``cm_layout`` or ``asv_layout``.

    Returns
    -------
    list of dict
        The lines' columns by name, see ``Layout.parse``.

    Raises
    ------
    InputError
        If it cannot be read, is no text, or has bad lines.

    Example
    -------
    >>> path = getfixture("tmp_path") / "asv.txt"
    >>> _ = path.write_text("A07 spoof 2\\n")
    >>> read_rows(path, asv_layout)
    [{'source': 'A07', 'key': 'spoof', 'score': 2.0}]
    """
    rows, faults, n_bad, layout = [], [], 0, None
    for number, line in _lines(path):
        if layout is None:
            try:
                layout, is_header = find_layout(line)
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            if is_header:
                continue
        try:
            rows.append(layout.parse(line))
        except InputError as error:
            n_bad += 1
            if n_bad <= _SHOWN:
                faults.append(f"line {number}: {error}")
    if n_bad == 1:
        raise InputError(f"{path}, {faults[0]}")
    if faults:
        if n_bad > _SHOWN:
            faults.append(f"and {n_bad - _SHOWN} more")
        raise InputError(
            f"{path}: {n_bad} lines cannot be used:\n  " + "\n  ".join(faults)
        )
    return rows


def split(line, separator=None):
    """The fields of a line, without the blanks around them.

    Arguments
    ---------
    line : str
    separator : str, optional
        "," or a tab, with quotes as in CSV; None for blanks.

    Returns
    -------
    list of str

    Example
    -------
    >>> split('"Doe, Jane.wav", 1', ",")
    ['Doe, Jane.wav', '1']
    """
    if separator is None:
        return line.split()
    reader = csv.reader([line], delimiter=separator, skipinitialspace=True)
    return [field.strip() for field in next(reader)]


def _header_columns(names):
    """The column of each name of a header, or None if it is no header."""
    names = [name.lower() for name in names]
    columns = [""] * len(names)
    for column, synonyms in HEADER_NAMES.items():
        found = [name for name in synonyms if name in names]
        if found:
            columns[names.index(found[0])] = column
    return tuple(columns) if {"utt", "score"} <= set(columns) else None


def _lines(path):
    """Number and text of every line that is not empty."""
    try:
        with open(path, "rb") as file:
            lines = iter(partial(file.readline, MAX_LINE_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                text = _text(line)
                if text is None:
                    raise InputError(
                        f"{path}, line {number}: not a line of UTF-8 text; "
                        "expected a score file in plain text, one trial a line "
                        "(if it is one, save it again as UTF-8)"
                    )
                if text.strip():
                    yield number, text
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; expected a score file in plain text, "
            "one trial a line"
        ) from error


def _text(line):
    """A line as text without a byte order mark, or None if it is no text."""
    try:
        if len(line) < MAX_LINE_BYTES and b"\0" not in line:
            return line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        pass
    return None


def _called(separator):
    return {None: "blanks", ",": "commas", "\t": "tabs"}[separator]


def _quoted(text, shown=40):
    """The text as it can be printed on one short line."""
    return repr(text if len(text) <= shown else text[:shown] + "...")
