"""Reading lists of trials with a header: CSV or TSV, ours or anybody's."""

import csv
import functools
import itertools
import sys

from speechbrain_bilevel.dataio.trials import (
    BONAFIDE,
    NO_ATTACK,
    SPOOF,
    Trial,
    collect_trials,
    protocol_lines,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import shorten

#: What a list has to have, for messages.
LIST_HEADER = (
    "a header, separated by commas or tabs, with path (or wav or file) and "
    "label, and if known id, speaker, attack and partition"
)

# What a column is called, and what we call it.
_COLUMNS = {
    "path": "path",
    "wav": "path",
    "file": "path",
    "label": "label",
    "id": "utt",
    "speaker": "speaker",
    "attack": "attack",
    "partition": "partition",
}
_LABELS = {
    "bonafide": BONAFIDE,
    "bona-fide": BONAFIDE,
    "bona fide": BONAFIDE,
    "genuine": BONAFIDE,
    "real": BONAFIDE,
    "spoof": SPOOF,
    "fake": SPOOF,
}
_EXPECTED = (
    "Expected of every line as many columns as the header has, a path without "
    "'..', a label (bonafide, bona-fide, genuine or real; spoof or fake), and "
    "an id or path that no other line has; correct these lines"
)


def read_list(path):
    """Reads a list of trials whose first line names the columns.

    Columns are separated by commas or tabs and may be in any order; others
    than those below are ignored. Cells may be empty but for path and label.

    * ``path``, ``wav`` or ``file``: the audio;
    * ``label``: bonafide, bona-fide, bona fide, genuine or real; spoof or fake;
    * ``id``: name of the trial, by default the path;
    * ``speaker``: by default "-";
    * ``attack``: by default "spoof" for a spoof;
    * ``partition``: by default "eval".

    So are manifests of SpeechBrain (``ID,duration,wav,speaker,attack,label``)
    and the list of In-the-Wild (``file,speaker,label``). Blanks in names become
    "_", because blanks separate the columns of score files.

    Arguments
    ---------
    path : str or Path
        The list.

    Returns
    -------
    list of Trial
        In the list's order, paths as they are written there.

    Raises
    ------
    InputError
        The list is missing, empty, not UTF-8, without the header or has bad
        lines; all bad lines are counted and the first ones shown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "mine.csv"
    >>> _ = path.write_text("label,path\\nreal,my call.wav\\nfake,b.wav\\n")
    >>> for trial in read_list(path):
    ...     print(trial.utt, trial.path, trial.label, trial.attack)
    my_call.wav my call.wav bonafide -
    b.wav b.wav spoof spoof
    """
    rows = _read_rows(path)
    _, header = next(rows, (0, []))
    columns = _find_columns(path, header)
    parse = functools.partial(_parse, columns, len(header))
    return collect_trials(path, rows, parse, _EXPECTED)


def is_list_header(line):
    """Whether a line names the columns of a list of trials.

    Arguments
    ---------
    line : str
        The first line of a file.

    Returns
    -------
    bool
        True if it names at least the audio and the label.

    Example
    -------
    >>> is_list_header("ID,duration,wav,label")
    True
    >>> is_list_header("LA_0079 LA_T_1138215 - - bonafide")
    False
    """
    # Not by the csv module, which refuses some lines of other files.
    header = line.replace('"', "").split(_delimiter(line))
    return {"path", "label"} <= {_column_of(name) for name in header}


def _column_of(name):
    return _COLUMNS.get(name.strip().lower())


def _delimiter(header):
    return "\t" if "\t" in header else ","


def _read_rows(path):
    """Yields line number and cells of every line, the header included."""
    lines = itertools.dropwhile(lambda line: not line[1], protocol_lines(path))
    for start, header in itertools.islice(lines, 1):
        texts = itertools.chain([header], (line for _, line in lines))
        reader = csv.reader(
            texts, delimiter=_delimiter(header), skipinitialspace=True
        )
        try:
            for row in reader:
                yield start + reader.line_num - 1, row
        except csv.Error as error:
            raise InputError(
                f"{path}, line {start + reader.line_num - 1}: {error}. "
                "Expected cells separated by commas or tabs; is a closing "
                "quote missing before?"
            ) from error


def _find_columns(path, header):
    """Where in a line each of our columns stands."""
    columns = {}
    for at, name in enumerate(header):
        column = _column_of(name)
        if column in columns:
            raise InputError(
                f"{path}, line 1: {shorten(name)} and "
                f"{shorten(header[columns[column]])} mean the same. Expected "
                f"{LIST_HEADER}; rename one of the two"
            )
        if column is not None:
            columns[column] = at
    if not {"path", "label"} <= set(columns):
        raise InputError(
            f"{path}: begins with {shorten(','.join(header))}. Expected "
            f"{LIST_HEADER}; add it"
        )
    return columns


def _parse(columns, n_columns, row):
    if len(row) != n_columns:
        raise InputError(
            f"{len(row)} columns, not the {n_columns} of the header"
        )
    cells = {name: row[at].strip() for name, at in columns.items()}
    path = cells["path"]
    _check_path(path)
    label = _label_of(cells["label"])
    utt = _join(cells.get("utt") or path)
    attack = _attack_of(utt, cells.get("attack", ""), label)
    for cell in (utt, attack, cells.get("speaker", "")):
        _check_text(cell)
    return Trial(
        utt,
        path,
        # A list has many lines, but few of these.
        sys.intern(_join(cells.get("speaker") or "-")),
        sys.intern(attack),
        label,
        sys.intern(cells.get("partition") or "eval"),
    )


def _join(name):
    return "_".join(name.split())


def _label_of(text):
    label = _LABELS.get(text.lower())
    if label is not None:
        return label
    if text in ("0", "1"):
        raise InputError(
            f"label {text}: corpora do not agree on which class 0 and 1 are; "
            "write bonafide and spoof"
        )
    raise InputError(f"unknown label {shorten(text)}")


def _attack_of(utt, attack, label):
    none = attack in ("", NO_ATTACK) or attack.lower() in _LABELS
    if label == SPOOF:
        return SPOOF if none else _join(attack)
    if none:
        return NO_ATTACK
    raise InputError(f"{utt} is bonafide but has the attack {shorten(attack)}")


def _check_path(path):
    if not path:
        raise InputError("no path")
    if ".." in path.replace("\\", "/").split("/"):
        raise InputError(f"the path {shorten(path)} has '..' in it")
    # A manifest may begin with $data_root.
    _check_text(path.removeprefix("$"))


def _check_text(text):
    """Refuses what SpeechBrain would replace and what cannot be printed."""
    if "$" in text or not text.isprintable():
        raise InputError(
            f"{shorten(text)} has a $ or a character that cannot be printed"
        )
