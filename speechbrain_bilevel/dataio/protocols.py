"""Read the trials of any corpus' protocol, or of a list, as one table.

A table of trials is a ``pandas.DataFrame`` with a row for each utterance:

* ``utt``: its name, without whitespace, unique in its partition;
* ``path``: the audio file, relative to the data folder, with forward slashes;
  in a list or a manifest it may be absolute;
* ``speaker``: the (target) speaker, "-" if unknown;
* ``attack``: the spoofing attack, "-" for bona fide speech;
* ``label``: "bonafide" or "spoof"; "-" if unknown;
* ``partition``: "train", "dev" or "eval"; ASVspoof2021 has "progress", "eval"
  and "hidden", a list may have others.

The first two are text (kept by pyarrow), the others categories. Code that uses
a table does not need to know which corpus a trial is from.
"""

import os
import re
from pathlib import Path

from speechbrain_bilevel.dataio import BONAFIDE, ENDINGS, NO_ATTACK, SPOOF
from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA,
    AUDIOFOLDER,
    CORPORA,
    LIST,
    MLAAD,
    NAMES,
    PARQUET,
    PARTITION_WORDS,
    PARTITIONS,
)
from speechbrain_bilevel.dataio.parquet import is_parquet, read_rows
from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.tables import (
    SEPARATORS,
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

#: The label of a trial whose key is unknown.
NO_LABEL = "-"

#: Names of the two labels in corpora, lists and score files, in lower case and
#: with "_" for "-" and spaces.
LABEL_WORDS = {
    **dict.fromkeys(("bonafide", "bona_fide", "genuine", "real"), BONAFIDE),
    **dict.fromkeys(("spoof", "spoofed", "fake", "deepfake"), SPOOF),
}

#: Names of a list's columns in its header, in lower case and with "_" for "-";
#: in MLAAD, the attack is the ``model_name``.
LIST_COLUMNS = {
    "path": (
        *("path", "wav", "file", "filename", "file_name", "filepath"),
        *("file_path", "audio", "audio_path"),
    ),
    "utt": ("id", "utt", "utterance", "utterance_id"),
    "label": ("label", "key", "cm_label"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id"),
    "attack": ("attack", "model_name"),
    "partition": ("partition", "split", "proportion"),
}

#: What a list must have, for messages.
LIST_HEADER = (
    "a header, separated by commas, tabs, semicolons or |, with path (or wav, "
    "file, filename, ...) and label (or key, cm-label), and if known id, "
    "speaker, attack and partition"
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
    "Expected of every line as many columns as the first one has, a path "
    "without '..', a label (bonafide, genuine or real; spoof, fake or "
    "deepfake), and an id or path that no other line has; correct these lines"
)

# Names become parts of a path and fields of a CSV in which SpeechBrain
# replaces $words, so no other characters are accepted.
_NAME = re.compile(r"[\w.-]+")
# What lists write for the attack of bona fide speech.
_NO_ATTACK = "", NO_ATTACK, "a00", "0"


def read_protocol(
    path,
    columns=None,
    bonafide="",
    keep=(),
    need_labels=True,
    partition=None,
):
    """Read the trials of any known corpus, or of your own list.

    The first line identifies the corpus, see ``recognize``. The columns of a
    list may be in any order; their names are those of ``LIST_COLUMNS``:

    * ``path``: the audio, by default the ``id``;
    * ``label``: see ``LABEL_WORDS``;
    * ``id``: name of the trial, by default the path;
    * ``speaker``: by default "-";
    * ``attack``: by default "spoof" for a spoof;
    * ``partition``: by default what the name of the file or of its folder says
      (see ``PARTITION_WORDS``), else "eval".

    Others are ignored. SpeechBrain's manifests and In-the-Wild's ``meta.csv``
    are such lists. Whitespace in names becomes "_", because it separates the
    columns of score files, and a backslash in a path becomes a slash. Parquet
    files of the ``datasets`` library, and folders of them, here or on the hub,
    are read too: see ``dataio.parquet``.

    Arguments
    ---------
    path : str or Path
        The protocol. ASVspoof2019 LA's partition follows from its name, else
        from the name of its first utterance (LA_T_, LA_D_ or LA_E_).
    columns : str, optional
        What the columns are, if this cannot be recognized: for each one a key
        of ``LIST_COLUMNS``, or "-" to ignore it.
    bonafide : str
        The digit, 0 or 1, that is bona fide as a label.
    keep : iterable of str
        Other columns of the protocol to keep, such as "codec", as categories.
    need_labels : bool
        Whether to refuse lists without labels.
    partition : str, optional
        That of all trials, if no column says it.

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
        the columns to ``keep``, or has bad lines; all of them are counted and
        the first ones shown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "mine.csv"
    >>> _ = path.write_text("label,path\\nreal,my call.wav\\nfake,b.wav\\n")
    >>> read_protocol(path)[["utt", "path", "label", "attack"]]
               utt         path     label attack
    0  my_call.wav  my call.wav  bonafide      -
    1        b.wav        b.wav     spoof  spoof
    """
    corpus = LIST if columns else recognize(path, need_labels)
    if corpus.official:
        return _read_columns(corpus, path, keep, partition)
    if corpus is not PARQUET:
        partition = partition or partition_of(path)
    parse = _list_parser(corpus, partition, bonafide, need_labels)
    if corpus is PARQUET:
        return _read_parquet(path, parse, keep, bonafide == "")
    if columns:
        return _read(
            path, lambda line: _as_said(line, columns), parse, keep=keep
        )
    if corpus.is_list:
        return _read(path, _list_layout, parse, keep=keep)
    names = {"utterance": "utt", corpus.attack: "attack"}
    layout = Layout(tuple(names.get(each, each) for each in corpus.columns))
    return _read(path, lambda line: layout, parse, keep=keep)


def _read_columns(corpus, path, keep=(), partition=None):
    """Read the official protocol of a corpus."""
    layout = Layout(corpus.columns)
    expected = (
        f"Expected on every line {len(corpus.columns)} columns, "
        f"'{corpus.layout}', where label is bonafide (then {corpus.attack} is "
        f"- or bonafide) or spoof (then {corpus.attack} is a name such as "
        f"{corpus.example}); correct these lines, get the corpus' full keys "
        "or unpack the corpus again"
    )
    parse = _column_parser(corpus, partition or _official_partition_of(path))
    return _read(path, lambda line: layout, parse, expected, keep)


def _read(path, layout, parse, expected=_EXPECTED_ROW, keep=()):
    others = [name for name in keep if name not in DTYPES]

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


def _read_parquet(path, parse, keep, need_names):
    others = [name for name in keep if name not in DTYPES]

    def parse_with(cells):
        try:
            if missing := [name for name in others if name not in cells]:
                raise InputError(f"no column {missing[0]}")
            return *parse(cells), *(cells[name] or "-" for name in others)
        except InputError as error:
            raise InputError(f"{cells['path']}: {error}") from None

    bad = BadLines(path, _EXPECTED_PARQUET, "row")
    dtypes = DTYPES | dict.fromkeys(others, "category")
    rows = enumerate(read_rows(path, need_names))
    trials, numbers = build_table(rows, parse_with, dtypes, bad)
    if trials is None:
        raise InputError(f"{path}: no rows. {_EXPECTED_PARQUET}")
    for _, part in trials.groupby("partition", observed=True):
        for row, utt, first in repeated(part.utt, numbers[part.index]):
            bad.add(row, f"{utt} is already in row {first}")
    bad.raise_if_any(len(trials))
    return trials


def recognize(path, need_labels=True):
    """Recognize a corpus by the first line of its protocol.

    It is a header, or decides by the number of its columns and what is in them.
    Return one of ``corpora.CORPORA``, ``corpora.LIST``, ``corpora.PARQUET`` or,
    if labels are not needed, ``corpora.NAMES``. Raise an ``InputError`` if the
    file is missing, empty or no known protocol.
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
    names = _header(first)[0]
    if names is not None:
        for corpus in CORPORA:
            if corpus.is_list and _is_header_of(corpus, names):
                return corpus
        roles = _list_roles(names)
        if {"path", "utt"} & {*roles} and ("label" in roles or not need_labels):
            return LIST
    cells = first.split()
    columns = [corpus for corpus in CORPORA if not corpus.is_list]
    for corpus in columns:
        if _fits(corpus, cells):
            return corpus
    for corpus in columns:
        # So that each bad line is told.
        if corpus.official and len(cells) == len(corpus.columns):
            return corpus
    if len(cells) == 1 and not need_labels:
        return NAMES
    known = "".join(
        f"\n  {len(corpus.columns)} columns: {corpus.layout} ({corpus.name})"
        for corpus in sorted(columns, key=lambda each: len(each.columns))
    )
    raise InputError(
        f"{path}: the first line, {shorten(first)}, is of no known protocol. "
        f"Expected {LIST_HEADER}, or without header, separated by whitespace:"
        f"{known}\nGive such a file, or say what its columns are, as in "
        '--columns "path - label"; `score` takes lists without labels too'
    )


def _fits(corpus, cells):
    """Whether the cells of a line may be those of a corpus' columns."""
    first = dict(zip(corpus.columns, cells))
    return len(cells) == len(corpus.columns) and all(
        cell == first[column]
        and (column != "-" or cell == "-")
        and (column != "label" or label_of(cell) is not None)
        for column, cell in zip(corpus.columns, cells)
    )


def _is_header_of(corpus, names):
    plain, roles = {_plain(name) for name in names}, _list_roles(names)
    if corpus is MLAAD:
        return {*corpus.columns} <= plain and "label" not in roles
    if corpus is AUDIOFOLDER:
        return "file_name" in plain and "label" in roles
    return [_plain(name) for name in names] == [*corpus.columns]


def _first_line(path):
    for _, line in read_lines(path, _EXPECTED_FILE):
        return line
    raise InputError(f"{path}: empty. {_EXPECTED_FILE}")


def partition_of(path):
    """Return the partition that a file's or its folder's name states, or eval.

    Example
    -------
    >>> partition_of("MyCorpus/validation/metadata.csv"), partition_of("a.csv")
    ('dev', 'eval')
    """
    for name in Path(path).stem, Path(os.path.abspath(path)).parent.name:
        words = re.split(r"[\W_]+", name.lower())
        found = {
            PARTITION_WORDS[word] for word in words if word in PARTITION_WORDS
        }
        if len(found) == 1:
            return found.pop()
    return "eval"


def _official_partition_of(path):
    """Return the partition that the name of the file or utterance states."""
    for partition in PARTITIONS:
        if f".{partition}." in Path(path).name:
            return partition
    utterance = _first_line(path).split()[1]
    for partition in PARTITIONS:
        if utterance.startswith(f"LA_{partition[0].upper()}_"):
            return partition
    return "eval"


# ---------------------------------------------------------- official protocols
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
    none = attack in (NO_ATTACK, BONAFIDE, "A00")
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


# ----------------------------------------------------------------------- lists
def _header(line):
    """Return the names of a list's columns and their separator, else None."""
    for separator in (*SEPARATORS[1:], None):
        try:
            names = split_line(line, separator)
        except InputError:
            continue
        if len(names) > 1 or separator is None:
            roles = {*_list_roles(names)}
            if {"path", "utt"} & roles:
                return names, separator
    return None, None


def _plain(name):
    return name.lower().replace("-", "_")


def _list_roles(names):
    """Return what each column of a header is; its own name if unknown."""
    roles, plain = list(names), [_plain(name) for name in names]
    for role, synonyms in LIST_COLUMNS.items():
        for name in synonyms:
            if name in plain:
                roles[plain.index(name)] = role
                break
    return roles


def _list_layout(header):
    """Return the layout of a list, by its header."""
    names, separator = _header(header)
    for role in LIST_COLUMNS:
        plain = [_plain(name) for name in names]
        same = [n for n, p in zip(names, plain) if p in LIST_COLUMNS[role]]
        if len(same) > 1 and (role in ("path", "label") or len({*same}) == 1):
            raise InputError(
                f"{shorten(same[0])} and {shorten(same[1])} mean the same. "
                f"Expected {LIST_HEADER}; rename one of the two, or say what "
                "the columns are by --columns"
            )
    return Layout(tuple(_list_roles(names)), separator, has_header=True)


def _as_said(line, columns):
    """Return the layout that the user states; a header may be above."""
    roles = columns.split()
    if not {"path", "utt"} & {*roles}:
        raise InputError(
            f"--columns {shorten(columns)}: expected a word for each column, "
            f"one of {', '.join(LIST_COLUMNS)}, or - to ignore it, and path or "
            "utt among them"
        )
    for separator in (*SEPARATORS[1:], None):
        cells = split_line(line, separator)
        if len(cells) == len(roles):
            label = dict(zip(roles, cells)).get("label", "0")
            has_header = label not in ("0", "1") and label_of(label) is None
            has_header |= any(
                role == cell.lower() != "-" for role, cell in zip(roles, cells)
            )
            named = tuple("" if each == "-" else each for each in roles)
            return Layout(named, separator, has_header)
    raise InputError(
        f"--columns has {len(roles)} words, but {shorten(line)} has another "
        "number of columns"
    )


def _list_parser(corpus, partition, bonafide, need_labels):
    """Return a function that makes a row of trials from the cells of a line."""

    def parse(cells):
        path = cells.get("path") or cells.get("utt", "")
        # SpeechBrain's and others' manifests start with a name for the data
        # folder; a backslash separates folders on Windows.
        path = re.sub(r"^\$(data_root|ROOT)/", "", path.replace("\\", "/"))
        if not path:
            raise InputError("no path")
        if ".." in path.split("/"):
            raise InputError(f"the path {shorten(path)} has '..' in it")
        attack = cells.get("attack", "")
        if "label" in cells:
            label = read_label(cells["label"], bonafide)
        elif corpus.bonafide is not None:
            label = BONAFIDE if attack == corpus.bonafide != "" else SPOOF
        elif need_labels:
            raise InputError("no label")
        else:
            label = NO_LABEL
        if cells.get("-", "-") != "-":
            raise InputError(
                f"{shorten(cells['-'])} in a column that is - in {corpus.name}"
            )
        utt = _join(cells.get("utt") or path)
        speaker = _join(cells.get("speaker") or "-")
        attack = _list_attack(utt, attack, label)
        part = cells.get("partition") or partition
        for text in (path, utt, speaker, attack, part):
            if "$" in text or not text.isprintable():
                raise InputError(
                    f"{shorten(text)} has a $ or a character that cannot be "
                    "printed"
                )
        return utt, path, speaker, attack, label, part

    return parse


def _join(name):
    return "_".join(name.split())


def without_place(names):
    """Return names of trials without folders and the endings of audio files.

    Example
    -------
    >>> import pandas as pd
    >>> without_place(pd.Series(["flac/LA_E_1.flac", "a.b"])).tolist()
    ['LA_E_1', 'a.b']
    """
    endings = "|".join(re.escape(ending) for ending in ENDINGS)
    return names.str.replace(rf"(?i)^.*[/\\]|({endings})$", "", regex=True)


def label_of(word):
    """Return the label that a word of ``LABEL_WORDS`` stands for, or None."""
    return LABEL_WORDS.get(word.lower().replace("-", "_").replace(" ", "_"))


def read_label(text, bonafide=""):
    """Return the label that a cell stands for.

    ``bonafide`` is the digit, 0 or 1, that is bona fide; without it, both are
    refused. Raise an ``InputError`` for any other word than ``LABEL_WORDS``.

    Example
    -------
    >>> read_label("Bona-fide"), read_label("0", bonafide="1")
    ('bonafide', 'spoof')
    """
    if text in ("0", "1"):
        if bonafide:
            return BONAFIDE if text == bonafide else SPOOF
        raise InputError(
            f"label {text}: corpora do not agree on which class 0 and 1 are "
            "(copies of ASVspoof 2019 on the Hugging Face hub have 0 for bona "
            "fide); write bonafide and spoof, or say which digit is bona fide "
            "by --bonafide 0 or --bonafide 1"
        )
    label = label_of(text)
    if label is None:
        raise InputError(
            f"unknown label {shorten(text)}; expected bonafide or spoof"
        )
    return label


def _list_attack(utt, attack, label):
    word = label_of(attack)
    if label != NO_LABEL and word not in (None, label):
        raise InputError(f"{utt} is {label} but has the attack {attack}")
    none = word is not None or attack.lower() in _NO_ATTACK
    if label == BONAFIDE and not none:
        raise InputError(
            f"{utt} is bonafide but has the attack {shorten(attack)}"
        )
    if label == SPOOF:
        return SPOOF if none else _join(attack)
    return NO_ATTACK


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
    trials = _read_columns(ASVSPOOF2019_LA, protocol, partition=partition)
    for label in (BONAFIDE, SPOOF):
        if not (trials.label == label).any():
            raise InputError(
                f"{protocol}: none of the {len(trials)} trials is {label}. "
                "Expected bona fide and spoof trials; unpack the corpus again"
            )
    return trials
