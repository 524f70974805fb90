"""Reading lists of trials with a header: CSV or TSV, ours or anybody's."""

import itertools

from speechbrain_bilevel.dataio.collecting import collect_trials
from speechbrain_bilevel.dataio.trials import (
    LABELS,
    NO_ATTACK,
    SPOOF,
    Trial,
    protocol_lines,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import shorten, split

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
_EXPECTED = (
    "Expected of every line as many columns as the header has, a path without "
    "'..', a label (bonafide, bona-fide, bona fide, genuine or real; spoof or "
    "fake), and "
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
    TrialTable
        In the list's order, paths as they are written there, but without the
        ``$data_root/`` of SpeechBrain's manifests.

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
    lines = itertools.dropwhile(lambda line: not line[1], protocol_lines(path))
    number, header = next(lines, (1, ""))
    separator = _separator(header)
    names = split(header, separator)
    columns = _find_columns(f"{path}, line {number}", names)

    def parse(line):
        return _parse(columns, len(names), split(line, separator))

    return collect_trials(path, lines, parse, _EXPECTED)


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
    try:
        names = split(line, _separator(line))
    except InputError:
        return False
    return {"path", "label"} <= {_column_of(name) for name in names}


def _column_of(name):
    return _COLUMNS.get(name.strip().lower())


def _separator(header):
    return "\t" if "\t" in header else ","


def _find_columns(place, header):
    """Where in a line each of our columns stands."""
    columns = {}
    for at, name in enumerate(header):
        column = _column_of(name)
        if column in columns:
            raise InputError(
                f"{place}: {shorten(name)} and "
                f"{shorten(header[columns[column]])} mean the same. Expected "
                f"{LIST_HEADER}; rename one of the two"
            )
        if column is not None:
            columns[column] = at
    if not {"path", "label"} <= set(columns):
        raise InputError(
            f"{place}: begins with {shorten(','.join(header))}. Expected "
            f"{LIST_HEADER}; add it"
        )
    return columns


def _parse(columns, n_columns, row):
    if len(row) != n_columns:
        raise InputError(
            f"{len(row)} columns, not the {n_columns} of the header"
        )
    cells = {name: row[at] for name, at in columns.items()}
    # SpeechBrain's name for the data folder, to which paths are relative.
    path = cells["path"].removeprefix("$data_root/")
    _check_path(path)
    label = _label_of(cells["label"])
    utt = _join(cells.get("utt") or path)
    attack = _attack_of(utt, cells.get("attack", ""), label)
    for cell in (utt, attack, cells.get("speaker", "")):
        _check_text(cell)
    return Trial(
        utt,
        path,
        _join(cells.get("speaker") or "-"),
        attack,
        label,
        cells.get("partition") or "eval",
    )


def _join(name):
    return "_".join(name.split())


def _label_of(text):
    label = LABELS.get(text.lower())
    if label is not None:
        return label
    if text in ("0", "1"):
        raise InputError(
            f"label {text}: corpora do not agree on which class 0 and 1 are; "
            "write bonafide and spoof"
        )
    raise InputError(f"unknown label {shorten(text)}")


def _attack_of(utt, attack, label):
    meant = LABELS.get(attack.lower(), label)
    if meant != label:
        raise InputError(f"{utt} is {label} but has the attack {attack}")
    none = attack in ("", NO_ATTACK) or attack.lower() in LABELS
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
    _check_text(path)


def _check_text(text):
    """Refuses what SpeechBrain would replace and what cannot be printed."""
    if "$" in text or not text.isprintable():
        raise InputError(
            f"{shorten(text)} has a $ or a character that cannot be printed"
        )
