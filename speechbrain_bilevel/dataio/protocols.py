"""Read the trials of any corpus' protocol, or of a list, as one table.

A table of trials is a ``pandas.DataFrame`` with a row for each utterance:

* ``utt``: its name, without whitespace, unique in its partition;
* ``path``: the audio file, relative to the data folder, with forward slashes;
  in a list or a manifest it may be absolute;
* ``speaker``: the (target) speaker, "-" if unknown;
* ``attack``: the spoofing attack, "-" for bona fide speech;
* ``label``: "bonafide" or "spoof";
* ``partition``: "train", "dev" or "eval"; ASVspoof2021 has "progress", "eval"
  and "hidden", a list may have others.

The first two are text (kept by pyarrow), the others categories. Code that uses
a table does not need to know which corpus a trial is from.
"""

import os
import re
from pathlib import Path

from speechbrain_bilevel.dataio import BONAFIDE, NO_ATTACK, SPOOF
from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA,
    CORPORA,
    IN_THE_WILD,
    LIST,
    PARQUET,
    PARTITIONS,
)
from speechbrain_bilevel.dataio.parquet import is_parquet, read_rows
from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.tables import (
    BadLines,
    Layout,
    build_table,
    read_lines,
    read_table,
    repeated,
    split_line,
)

#: The columns of a table of trials and their dtypes.
DTYPES = {
    "utt": "str",
    "path": "str",
    "speaker": "category",
    "attack": "category",
    "label": "category",
    "partition": "category",
}

#: Names of the two labels in corpora and lists, in lower case.
LABEL_WORDS = {
    "bonafide": BONAFIDE,
    "bona-fide": BONAFIDE,
    "bona fide": BONAFIDE,
    "genuine": BONAFIDE,
    "real": BONAFIDE,
    "spoof": SPOOF,
    "fake": SPOOF,
}

#: What a list must have, for messages.
LIST_HEADER = (
    "a header, separated by commas or tabs, with path (or wav or file) and "
    "label, and if known id, speaker, attack and partition"
)

_EXPECTED_FILE = (
    "Expected the protocol that the corpus ships, or another list of trials, "
    "in plain text, one trial a line; check the data folder or unpack the "
    "corpus again"
)
_EXPECTED_PARQUET = (
    "Expected rows with a label (bonafide or spoof), a name that no other row "
    "of the split has and, if they are known, a speaker and an attack; correct "
    "them, or give the file or folder of one data set only"
)
_EXPECTED_ROW = (
    "Expected of every line as many columns as the header has, a path without "
    "'..', a label (bonafide, bona-fide, bona fide, genuine or real; spoof or "
    "fake), and an id or path that no other line has; correct these lines"
)

# What a column of a list may be called -> its name here.
_LIST_COLUMNS = {
    "path": "path",
    "wav": "path",
    "file": "path",
    "label": "label",
    "id": "utt",
    "speaker": "speaker",
    "attack": "attack",
    "partition": "partition",
}

# Names become parts of a path and fields of a CSV in which SpeechBrain
# replaces $words, so no other characters are accepted.
_NAME = re.compile(r"[\w.-]+")


def read_protocol(path, columns=()):
    """Read the trials of any known corpus, or of your own list.

    The first line identifies the corpus, see ``recognize``. The columns of a
    list are separated by commas or tabs and may be in any order:

    * ``path``, ``wav`` or ``file``: the audio;
    * ``label``: see ``LABEL_WORDS``;
    * ``id``: name of the trial, by default the path;
    * ``speaker``: by default "-";
    * ``attack``: by default "spoof" for a spoof;
    * ``partition``: by default "eval".

    Others are ignored. SpeechBrain's manifests and In-the-Wild's ``meta.csv``
    are such lists. Whitespace in names becomes "_", because it separates the
    columns of score files. Parquet files of the ``datasets`` library, and
    folders of them, here or on the hub, are read too: see ``dataio.parquet``.

    Arguments
    ---------
    path : str or Path
        The protocol. ASVspoof2019 LA's partition follows from its name
        (".train.", ".dev." or ".eval."), else from the name of its first
        utterance (LA_T_, LA_D_ or LA_E_).
    columns : iterable of str
        Other columns of the protocol to keep, such as "codec", as categories.

    Returns
    -------
    pandas.DataFrame
        All partitions of the file, in its order; see the top of this module.
        Paths of a list are as in the file, but without the ``$data_root/`` of
        SpeechBrain's manifests.

    Raises
    ------
    InputError
        If the file is missing, empty, not UTF-8 or no protocol, lacks one of
        the ``columns``, or has bad lines; all of them are counted and the first
        ones shown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "mine.csv"
    >>> _ = path.write_text("label,path\\nreal,my call.wav\\nfake,b.wav\\n")
    >>> read_protocol(path)[["utt", "path", "label", "attack"]]
               utt         path     label attack
    0  my_call.wav  my call.wav  bonafide      -
    1        b.wav        b.wav     spoof  spoof
    """
    corpus = recognize(path)
    if corpus is PARQUET:
        return _read_parquet(path, columns)
    if corpus.is_list:
        return _read(
            path, _list_layout, _parse_list_row, _EXPECTED_ROW, columns
        )
    return _read_columns(corpus, path, _partition_of(path), columns)


def _read_columns(corpus, path, partition, columns=()):
    """Read a protocol in whitespace-separated columns."""
    layout = Layout(tuple(corpus.layout.split()))
    expected = (
        f"Expected on every line {corpus.n_columns} columns, "
        f"'{corpus.layout}', where label is bonafide (then {corpus.attack} is "
        f"- or bonafide) or spoof (then {corpus.attack} is a name such as "
        f"{corpus.example}); correct these lines, get the corpus' full keys "
        "or unpack the corpus again"
    )
    parse = _column_parser(corpus, partition)
    return _read(path, lambda line: layout, parse, expected, columns)


def _read(path, layout, parse, expected, columns):
    others = [name for name in columns if name not in DTYPES]

    def layout_with(line):
        found = layout(line)
        known = sorted(filter(None, {*found.columns, *DTYPES}))
        if missing := [name for name in others if name not in known]:
            raise InputError(
                f"no column {missing[0]}. Expected one of {', '.join(known)}"
            )
        return found

    def parse_with(cells):
        return *parse(cells), *(cells[name] or "-" for name in others)

    dtypes = DTYPES | dict.fromkeys(others, "category")
    trials, numbers = read_table(
        path, layout_with, parse_with, dtypes, expected
    )
    bad = BadLines(path, expected)
    for line, utt, first in repeated(trials.utt, numbers):
        bad.add(line, f"{utt} is already on line {first}")
    bad.raise_if_any(len(trials))
    return trials


def _read_parquet(path, columns):
    others = [name for name in columns if name not in DTYPES]

    def parse(cells):
        try:
            if missing := [name for name in others if name not in cells]:
                raise InputError(f"no column {missing[0]}")
            more = [cells[name] or "-" for name in others]
            return *_parse_list_row(cells), *more
        except InputError as error:
            raise InputError(f"{cells['path']}: {error}") from None

    bad = BadLines(path, _EXPECTED_PARQUET, "row")
    dtypes = DTYPES | dict.fromkeys(others, "category")
    rows = enumerate(read_rows(path))
    trials, numbers = build_table(rows, parse, dtypes, bad)
    if trials is None:
        raise InputError(f"{path}: no rows. {_EXPECTED_PARQUET}")
    for _, part in trials.groupby("partition", observed=True):
        for row, utt, first in repeated(part.utt, numbers[part.index]):
            bad.add(row, f"{utt} is already in row {first}")
    bad.raise_if_any(len(trials))
    return trials


def recognize(path):
    """Recognize a corpus by the first line of its protocol.

    It is a header, or decides by its number of columns. Return one of
    ``corpora.CORPORA``, ``corpora.LIST`` or ``corpora.PARQUET``. Raise an
    ``InputError`` if the file is missing, empty or no known protocol.
    """
    if is_parquet(path):
        return PARQUET
    if os.path.exists(path) and not (
        os.path.isfile(path) or os.path.isdir(path)
    ):
        raise InputError(
            f"{path}: a pipe or a device; expected a file, since it is read "
            "more than once"
        )
    first = _first_line(path)
    if _is_list_header(first):
        is_wild = ",".join(split_line(first, ",")) == IN_THE_WILD.layout
        return IN_THE_WILD if is_wild else LIST
    by_columns = {c.n_columns: c for c in CORPORA if not c.is_list}
    n_columns = len(first.split())
    if n_columns in by_columns:
        return by_columns[n_columns]
    known = "".join(
        f"\n  {number} columns: {corpus.layout} ({corpus.name})"
        for number, corpus in sorted(by_columns.items())
    )
    raise InputError(
        f"{path}: the first line, {shorten(first)}, is of no known protocol. "
        f"Expected {LIST_HEADER}, or without header, separated by whitespace:"
        f"{known}\nGive such a file; lists of names without labels are not "
        "enough"
    )


def _first_line(path):
    for _, line in read_lines(path, _EXPECTED_FILE):
        return line
    raise InputError(f"{path}: empty. {_EXPECTED_FILE}")


def _partition_of(path):
    """Return the partition that the name of the file or utterance states."""
    for partition in PARTITIONS:
        if f".{partition}." in Path(path).name:
            return partition
    utterance = _first_line(path).split()[1]
    for partition in PARTITIONS:
        if utterance.startswith(f"LA_{partition[0].upper()}_"):
            return partition
    return "eval"


def _column_parser(corpus, partition):
    """Return a function that makes a row of trials from the cells of a line."""
    folders = {part: places[0] for part, places in corpus.audio.items()}
    # A protocol has many lines, but few speakers and attacks.
    checked = set()

    def parse(cells):
        speaker, utt = cells["speaker"], cells["utterance"]
        label, attack = cells["label"], cells[corpus.attack]
        for name in {utt, speaker, attack} - checked:
            _check_name(name)
        checked.update((speaker, attack))
        if cells.get("-", "-") != "-":
            raise InputError(
                f"{shorten(cells['-'])} in a column that is - in "
                f"{corpus.name} (is it PA?)"
            )
        part = _partition_of_cells(corpus, cells, partition)
        path = f"{folders[part]}/{utt}.flac"
        return utt, path, speaker, _attack_of(utt, attack, label), label, part

    return parse


def _attack_of(utt, attack, label):
    """Return the attack of a trial; corpora write none in different ways."""
    none = attack in (NO_ATTACK, BONAFIDE)
    if label == BONAFIDE:
        if none:
            return NO_ATTACK
        raise InputError(
            f"{utt} is bonafide but has the attack {shorten(attack)}"
        )
    if label == SPOOF:
        if not none:
            return attack
        raise InputError(f"{utt} is spoof but has no attack")
    raise InputError(f"unknown label {shorten(label)}")


def _partition_of_cells(corpus, cells, partition):
    if "subset" in cells:
        subset = cells["subset"]
        if subset in corpus.audio:
            return subset
        known = ", ".join(corpus.audio)
        raise InputError(f"unknown subset {shorten(subset)}, not {known}")
    for prefix, part in corpus.prefixes.items():
        if cells["utterance"].startswith(prefix):
            return part
    if corpus.prefixes:
        raise InputError(
            f"{shorten(cells['utterance'])} does not begin with "
            f"{', '.join(corpus.prefixes)}, which state the partition"
        )
    return partition


def _check_name(name):
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"{shorten(name)} is not a plain name (letters, digits, "
            "_, - and single dots)"
        )


def _is_list_header(line):
    """Whether a line names at least the audio and the label."""
    try:
        names = split_line(line, _separator(line))
    except InputError:
        return False
    return {"path", "label"} <= {_list_column(name) for name in names}


def _list_column(name):
    return _LIST_COLUMNS.get(name.lower(), "")


def _separator(header):
    return "\t" if "\t" in header else ","


def _list_layout(header):
    """Return the layout of a list, by its header."""
    names = split_line(header, _separator(header))
    columns = [_list_column(name) for name in names]
    for column in filter(None, columns):
        if columns.count(column) > 1:
            same = [n for n, c in zip(names, columns) if c == column]
            raise InputError(
                f"{shorten(same[0])} and {shorten(same[1])} mean the same. "
                f"Expected {LIST_HEADER}; rename one of the two"
            )
    # Other columns keep their names, for `columns` of `read_protocol`.
    columns = [column or name for name, column in zip(names, columns)]
    return Layout(tuple(columns), _separator(header), has_header=True)


def _parse_list_row(cells):
    # Paths of SpeechBrain's manifests start with this name of the data folder.
    path = cells["path"].removeprefix("$data_root/")
    if not path:
        raise InputError("no path")
    if ".." in path.replace("\\", "/").split("/"):
        raise InputError(f"the path {shorten(path)} has '..' in it")
    label = LABEL_WORDS.get(cells["label"].lower())
    if label is None:
        raise _unknown_label(cells["label"])
    utt = _join(cells.get("utt") or path)
    speaker = _join(cells.get("speaker") or "-")
    attack = _list_attack(utt, cells.get("attack", ""), label)
    partition = cells.get("partition") or "eval"
    for text in (path, utt, speaker, attack, partition):
        if "$" in text or not text.isprintable():
            raise InputError(
                f"{shorten(text)} has a $ or a character that cannot be printed"
            )
    return utt, path, speaker, attack, label, partition


def _join(name):
    return "_".join(name.split())


def _unknown_label(text):
    if text in ("0", "1"):
        return InputError(
            f"label {text}: corpora do not agree on which class 0 and 1 are; "
            "write bonafide and spoof"
        )
    return InputError(f"unknown label {shorten(text)}")


def _list_attack(utt, attack, label):
    word = LABEL_WORDS.get(attack.lower())
    if word not in (None, label):
        raise InputError(f"{utt} is {label} but has the attack {attack}")
    none = word is not None or attack in ("", NO_ATTACK)
    if label == SPOOF:
        return SPOOF if none else _join(attack)
    return _attack_of(utt, NO_ATTACK if none else attack, label)


def asvspoof2019_protocol_path(data_folder, partition):
    """Return the path of a CM protocol in an ASVspoof2019 ``LA`` folder.

    The file need not exist. Raise an ``InputError`` unless the partition is
    "train", "dev" or "eval".
    """
    if partition not in PARTITIONS:
        raise InputError(
            f"unknown partition {partition!r}: expected one of "
            f"{', '.join(PARTITIONS)}"
        )
    return Path(data_folder) / ASVSPOOF2019_LA.protocols[partition][0]


def read_asvspoof2019_protocol(data_folder, partition):
    """Read a partition's trials from an ASVspoof2019 ``LA`` folder.

    The protocol's columns are ``speaker utterance - attack label`` (README of
    the corpus, https://doi.org/10.7488/ds/2555). See ``read_protocol`` for the
    result and the errors; a protocol that lacks a label is refused too.
    """
    protocol = asvspoof2019_protocol_path(data_folder, partition)
    trials = _read_columns(ASVSPOOF2019_LA, protocol, partition)
    for label in (BONAFIDE, SPOOF):
        if not (trials.label == label).any():
            raise InputError(
                f"{protocol}: none of the {len(trials)} trials is {label}. "
                "Expected bona fide and spoof trials; unpack the corpus again"
            )
    return trials
