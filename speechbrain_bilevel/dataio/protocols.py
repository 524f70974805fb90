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

import functools
import os
import re
from pathlib import Path

from speechbrain_bilevel.dataio import BONAFIDE, ENDINGS, NO_ATTACK, SPOOF
from speechbrain_bilevel.dataio.columns import (
    layout_as_said,
    plain,
    role_of,
    roles_in_header,
    ways_to_split,
)
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
    SPOOFCELEB,
)
from speechbrain_bilevel.dataio.parquet import is_parquet, read_rows
from speechbrain_bilevel.utils.errors import InputError, printable, shorten
from speechbrain_bilevel.utils.tables import (
    BadLines,
    Layout,
    build_table,
    read_lines,
    read_table,
    refuse_repeated,
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

_HEADER = (
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
_DIGITS = {"1.0": "1", "true": "1", "0.0": "0", "false": "0"}
# What a list must have one of.
_NAMED = "path", "utt", "id"
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
    list may be in any order; their names are those of
    ``dataio.columns.COLUMN_NAMES``:

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
        What the columns are, if this cannot be recognized: for each one a name
        of ``COLUMN_NAMES``, or "-" to ignore it.
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
    parse = list_parser(corpus, partition, bonafide, need_labels)
    if corpus is PARQUET:
        need_names = need_labels and bonafide == ""
        return _read_parquet(path, parse, keep, need_names)
    if columns:
        said = functools.partial(_as_said, columns=columns)
        return _read(path, said, parse, keep=keep)
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
    others = {name: name for name in keep if name not in DTYPES}

    def layout_with(line):
        found = layout(line)
        known = {plain(name): name for name in (*found.columns, *DTYPES)}
        for name in others:
            if plain(name) not in known:
                shown = ", ".join(sorted(filter(None, known.values())))
                raise InputError(f"no column {name}. Expected one of {shown}")
            others[name] = known[plain(name)]
        return found

    def parse_with(cells):
        more = (cells[column] or "-" for column in others.values())
        return *parse(cells), *more

    dtypes = DTYPES | dict.fromkeys(others, "category")
    trials, numbers = read_table(
        path, layout_with, parse_with, dtypes, expected
    )
    refuse_repeated(trials.utt, numbers, BadLines(path, expected))
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
        refuse_repeated(part.utt, numbers[part.index], bad, "in row")
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
    for _, names in ways_to_split(first):
        for corpus in CORPORA:
            if corpus.is_list and _is_header_of(corpus, names):
                return corpus
        if _has(names, *_NAMED) and (_has(names, "label") or not need_labels):
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
        if len(corpus.columns) < 9
    )
    raise InputError(
        f"{path}: the first line, {shorten(first)}, is of no known protocol. "
        f"Expected {_HEADER}, or without header, separated by whitespace:"
        f"{known}\nGive such a file; `prepare` and `score` can be told what "
        'its columns are, as in --columns "path - label", and `score` takes '
        "lists without labels"
    )


def _has(names, *roles):
    return any(role_of(name) in roles for name in names)


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
    known = [plain(name) for name in names]
    if corpus is MLAAD:
        return {*corpus.columns} <= {*known} and not _has(names, "label")
    if corpus is AUDIOFOLDER:
        return "file_name" in known and _has(names, "label")
    return known == [*corpus.columns]


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
def _list_layout(header):
    """Return the layout of a list, by its header."""
    separator, names = next(
        way for way in ways_to_split(header) if _has(way[1], *_NAMED)
    )
    roles = roles_in_header(names, ("score", "spoof", "bonafide"))
    return Layout(tuple(roles), separator, has_header=True)


def _as_said(line, columns):
    """Return the layout that the user states; a header may be above."""
    values = {
        "label": lambda cell: cell in ("0", "1") or label_of(cell) is not None
    }
    kinds = *_NAMED, "label", "speaker", "attack", "partition"
    layout = layout_as_said(line, columns, dict.fromkeys(kinds) | values)
    if not {*_NAMED} & {*layout.columns}:
        raise InputError(f"--columns {shorten(columns)}: expected path or utt")
    return layout


def list_parser(corpus, partition, bonafide="", need_labels=True):
    """Return a function that makes a row of trials from the cells of a line.

    These are a dict by the keys of ``COLUMN_NAMES``; the row is a tuple of
    ``DTYPES``. It raises an ``InputError`` for what cannot be used.
    """

    def parse(cells):
        name = cells.get("utt") or cells.get("id")
        path = cells.get("path") or name or ""
        # SpeechBrain's and others' manifests start with a name for the data
        # folder; a backslash separates folders on Windows.
        path = re.sub(r"^\$(data_root|ROOT)/", "", path.replace("\\", "/"))
        # So that a file that is there twice is noticed.
        path = re.sub(r"^(\./+)+", "", path)
        if not path:
            raise InputError("no path")
        if ".." in path.split("/"):
            raise InputError(f"the path {shorten(path)} has '..' in it")
        attack = cells.get("attack", "")
        if "label" in cells:
            label = read_label(cells["label"], bonafide)
        elif corpus is SPOOFCELEB:
            if not re.fullmatch(r"a\d+", attack):
                raise InputError(
                    f"the attack {shorten(attack)} is none of SpoofCeleb's, "
                    "a00 (bona fide) and so on; in a list, add a column label"
                )
            label = BONAFIDE if attack == "a00" else SPOOF
        elif corpus is MLAAD:
            label = SPOOF
        elif need_labels:
            raise InputError("no label")
        else:
            label = NO_LABEL
        if cells.get("-", "-") != "-":
            raise InputError(
                f"{shorten(cells['-'])} in a column that is - in {corpus.name}"
            )
        utt = _join(name or path)
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
    """Return names, a column of text, without folders and endings of audio."""
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
    # Of tables that hold them as numbers, or as answers to "is it real?".
    text = _DIGITS.get(text.lower(), text)
    if text in ("0", "1"):
        if bonafide:
            return BONAFIDE if text == bonafide else SPOOF
        raise InputError(
            f"label {text}: corpora do not agree on which class 0 and 1 are; "
            "say which is bona fide by --bonafide 0 or --bonafide 1"
        )
    label = label_of(text)
    if label is None:
        raise InputError(
            f"unknown label {shorten(text)}; expected bonafide or spoof"
        )
    return label


def _list_attack(utt, attack, label):
    utt = printable(utt, 60)
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
