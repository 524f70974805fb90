"""What the columns of lists and score files are called, and how to tell."""

from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.tables import Layout, split_line

#: Names of each kind of column in a header, in lower case and with "_" for "-";
#: the first that is there counts. In MLAAD, the attack is the ``model_name``;
#: DeepFense's classes 0 and 1 are spoof and bona fide.
COLUMN_NAMES = {
    "utt": ("utt", "utterance", "utterance_id", "utt_id", "id_audio", "trial"),
    "id": ("id",),
    "path": (
        *("path", "wav", "file", "filename", "file_name", "filepath"),
        *("file_path", "audio", "audio_path", "audio_file_name"),
    ),
    "label": ("label", "key", "cm_label"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id"),
    "attack": ("attack", "source", "model_name"),
    "partition": ("partition", "split", "proportion"),
    "score": ("score", "cm_score", "llr"),
    "spoof": ("spoof", "score_class0"),
    "bonafide": ("bonafide", "score_class1"),
}
#: Columns that no two others may stand for.
_UNIQUE = "path", "label", "score"


def plain(name):
    """Return the name of a column in lower case, with "_" for "-"."""
    return name.strip('"').lower().replace("-", "_")


def role_of(name):
    """Return the key of ``COLUMN_NAMES`` that a name stands for, or None."""
    keys = (key for key, names in COLUMN_NAMES.items() if plain(name) in names)
    return next(keys, None)


def ways_to_split(line):
    """Yield every separator that may be that of a table, and the line's cells.

    Example
    -------
    >>> list(ways_to_split("a.wav, 0.5"))
    [(',', ['a.wav', '0.5']), (None, ['a.wav,', '0.5'])]
    """
    for separator in ("\t", ";", "|", ",", " ", None):
        # With a blank in front, pandas means a column without a name.
        if separator is None or (
            line.startswith(" ") if separator == " " else separator in line
        ):
            try:
                yield separator, split_line(line, separator)
            except InputError:
                # Its quotes do not pair if this is the separator.
                continue


def roles_in_header(names, unused=()):
    """Return what the columns of a header are; others keep their names.

    ``unused`` are keys of ``COLUMN_NAMES`` that are not read. Raise an
    ``InputError`` if two columns may both be the path, the label or the score,
    or have the same name.
    """
    roles, names_of = list(names), {}
    for index, name in enumerate(names):
        role = role_of(name)
        if role in unused:
            roles[index] = ""
        elif role:
            names_of.setdefault(role, []).append((plain(name), index))
    for role, found in names_of.items():
        rank = COLUMN_NAMES[role].index
        (first, index), *others = sorted(found, key=lambda each: rank(each[0]))
        if others and (role in _UNIQUE or others[0][0] == first):
            raise InputError(
                f"{shorten(names[index])} and {shorten(names[others[0][1]])} "
                f"may both be the {role}; rename one of the two, or say what "
                'the columns are by --columns, as in "utt - label"'
            )
        roles[index] = role
    return roles


def layout_as_said(line, columns, allowed):
    """Return the ``Layout`` that the user states by ``--columns``.

    Arguments
    ---------
    line : str
        The first line: a row, or a header, if it has a name of a column and
        nothing that can be a value in a column of values.
    columns : str
        A word for each column: a name of ``COLUMN_NAMES``, or "-".
    allowed : dict of str to callable
        Keys of ``COLUMN_NAMES``, each with a function that says whether a cell
        may be a value in such a column, None if anything may be.

    Raises
    ------
    InputError
        If a word is unknown or there twice, or the line has another number of
        columns.
    """
    roles = [role_of(word) if word != "-" else "" for word in columns.split()]
    for word, role in zip(columns.split(), roles):
        if role != "" and (role not in allowed or roles.count(role) > 1):
            why = "there twice" if role in allowed else "no kind of column"
            raise InputError(
                f"--columns {shorten(columns)}: {shorten(word)} is {why}; "
                f"expected a word for each column, {', '.join(allowed)}, or - "
                "to ignore it"
            )
    for separator, cells in ways_to_split(line):
        if len(cells) == len(roles):
            tests = [allowed.get(role) for role in roles]
            values = [t(c) for t, c in zip(tests, cells) if t is not None]
            is_named = any(role_of(cell) for cell in cells)
            has_header = is_named and not any(values)
            return Layout(tuple(roles), separator, has_header)
    raise InputError(
        f"--columns {shorten(columns)}: {len(roles)} words, but "
        f"{shorten(line)} has another number of columns"
    )
