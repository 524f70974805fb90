"""The lines of score files: which layout they have, and what is wrong in them.

A file from a stranger is read line by line, so that it may be of any size; all
its bad lines are counted and the first ones are shown.
"""

from dataclasses import dataclass
from typing import Optional

from speechbrain_bilevel.dataio.trials import LABELS
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import read_lines, shorten, split

CM_COLUMNS = ("utt", "source", "key", "score")
BARE_COLUMNS = ("utt", "score")
CM_KEYS = ("bonafide", "spoof")
ASV_KEYS = ("target", "nontarget", "spoof")

#: What a header may call a column, the preferred name first.
HEADER_NAMES = {
    "utt": ("utt", "utterance", "id", "trial", "file", "filename", "path"),
    "source": ("source", "attack"),
    "key": ("key", "label"),
    "score": ("score", "cm-score", "cm_score", "llr"),
}

_KNOWN_NAMES = {name for names in HEADER_NAMES.values() for name in names}

_EXPECTED = "Expected a score file in plain text, one trial a line"
_SHOWN = 5
# Sums and squares of smaller ones are finite.
_TOO_LARGE = 1e100


@dataclass(frozen=True)
class Layout:
    """Where the columns of a line are.

    Arguments
    ---------
    columns : tuple of str
        "utt", "source", "key" or "score" for each column, or another name; ""
        for one that is not read.
    keys : tuple of str
        What the key may be.
    separator : str, optional
        "," or a tab for tables with a header; None for blanks.
    """

    columns: tuple
    keys: tuple
    separator: Optional[str] = None

    def parse(self, line):
        """The columns of a line by name, a score as a finite number.

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
        for name in {"utt", "source"} & row.keys():
            # As in a protocol: they become columns separated by blanks.
            row[name] = "_".join(row[name].split())
        if row.get("utt") == "":
            raise InputError("the utterance has no name")
        if row.get("source") == "":
            row["source"] = "-"
        if "key" in row and self.keys == CM_KEYS:
            row["key"] = LABELS.get(row["key"].lower(), row["key"])
        if "key" in row and row["key"] not in self.keys:
            raise InputError(
                f"unknown key {shorten(row['key'])}; expected "
                f"{' or '.join(self.keys)} in {self._column('key')}"
            )
        if "score" in row:
            row["score"] = self._score(row)
        return row

    def _score(self, row):
        text = row["score"]
        try:
            # Python alone reads "1_000" as a number.
            score = float(text.replace("_", "?"))
        except ValueError:
            raise InputError(
                f"the score {shorten(text)} is not a number; expected one in "
                f"{self._column('score')}"
            ) from None
        if not abs(score) < _TOO_LARGE:
            trial = f" for {shorten(row['utt'])}" if "utt" in row else ""
            raise InputError(
                f"the score is {shorten(text)}; expected a finite number of "
                f"ordinary size{trial}. Find out what the system made of this trial and "
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
        columns = separator in line and _header_columns(split(line, separator))
        if columns:
            return Layout(columns, CM_KEYS, separator), True
    names = {name.lower() for name in line.split()}
    if names & set(HEADER_NAMES["score"]) and len(names & _KNOWN_NAMES) > 1:
        raise InputError(
            f"{shorten(line)} looks like a header; expected one only where "
            "commas or tabs separate the columns: leave it out, or separate "
            "them so"
        )
    n_columns = len(line.split())
    for columns in CM_COLUMNS, BARE_COLUMNS:
        if n_columns == len(columns):
            return Layout(columns, CM_KEYS), False
    raise InputError(
        f"expected the {len(CM_COLUMNS)} columns of `{' '.join(CM_COLUMNS)}` "
        f"or the {len(BARE_COLUMNS)} of `{' '.join(BARE_COLUMNS)}`, separated "
        "by blanks, or the header of a table with commas or tabs that names an "
        f"utt and a score, found {n_columns}"
    )


#: An ASV system's scores (ASVspoof 2019).
ASV_LAYOUT = Layout(("source", "key", "score"), ASV_KEYS)
#: The same without keys (ASVspoof 2021), the speaker being the claimed one,
BARE_ASV_LAYOUT = Layout(("speaker", "utt", "score"), ())
#: and the protocol that belongs to it; codec, transmission, attack and
#: trimming are not read.
ASV_PROTOCOL_LAYOUT = Layout(
    ("speaker", "utt", "", "", "", "key", "", "subset"), ASV_KEYS
)


def read_rows(path, layout=None):
    """Reads a score file, whole or not at all.

    Empty lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.
    layout : Layout, optional
        Of each line; by default that of a countermeasure's score file, which
        the first line tells, see ``cm_layout``.

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
    >>> read_rows(path, ASV_LAYOUT)
    [{'source': 'A07', 'key': 'spoof', 'score': 2.0}]
    """
    rows, faults, n_bad = [], [], 0
    for number, line in read_lines(path, _EXPECTED):
        if not line:
            continue
        if layout is None:
            try:
                layout, is_header = cm_layout(line)
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
    if not rows:
        raise InputError(f"{path}: no trial in it. {_EXPECTED}")
    return rows


def _header_columns(names):
    """The column of each name of a header, or None if it is no header."""
    names = [name.lower() for name in names]
    columns = [""] * len(names)
    for column, synonyms in HEADER_NAMES.items():
        found = [name for name in synonyms if name in names]
        if found:
            # There may be the ASV system's score, too, under another name.
            columns[names.index(found[0])] = column
        if any(names.count(name) > 1 for name in found):
            raise InputError(
                f"{shorten(found[0])} names more than one column; rename the "
                "others"
            )
    return tuple(columns) if {"utt", "score"} <= set(columns) else None


def _called(separator):
    return {None: "blanks", ",": "commas", "\t": "tabs"}[separator]
