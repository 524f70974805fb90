"""How score files are laid out: one small description for each toolkit.

To read another layout, describe it by a ``ScoreLayout`` in ``LAYOUTS``, or, if
it has a header, add its names to ``HEADER_NAMES``.
"""

from dataclasses import dataclass

from speechbrain_bilevel.dataio.protocols import label_of
from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.tables import SEPARATORS, Layout, split_line

#: What a column may be. ``spoof`` and ``bonafide`` are a logit of each class:
#: the score is the second minus the first.
ROLES = ("utt", "speaker", "source", "key", "score", "spoof", "bonafide")


@dataclass(frozen=True)
class ScoreLayout:
    """A kind of score file without header.

    Arguments
    ---------
    name : str
        Whose it is.
    columns : str
        What each column is, one of ``ROLES``, or "-" if it is not read.
    first : str
        The first cell of the first line, if it is always the same.
    bonafide : str
        The digit, 0 or 1, that is bona fide as a key, if its source says so.

    Example
    -------
    >>> ScoreLayout("mine", "utt key score").fits(["a", "fake", "1.5"])
    True
    """

    name: str
    columns: str
    first: str = ""
    bonafide: str = ""

    def fits(self, cells, bonafide=""):
        """Whether the cells of a line may be those of this layout."""
        columns = self.columns.split()
        if len(cells) != len(columns) or self.first not in ("", cells[0]):
            return False
        return all(
            _may_be(column, cell, bonafide or self.bonafide)
            for column, cell in zip(columns, cells)
        )


#: ASVspoof 2019: evaluation plan; the 2021 baselines write the second.
LAYOUTS = (
    ScoreLayout("ASVspoof 2019", "utt source key score"),
    ScoreLayout("ASVspoof 2021", "utt score"),
    # github.com/asvspoof-challenge/asvspoof5, Baseline-AASIST/main.py.
    ScoreLayout("ASVspoof 5's baselines", "speaker utt score key"),
    ScoreLayout("key and score", "utt key score"),
    # The index that pandas writes, which begins with 0, if the header is gone.
    ScoreLayout("pandas' index", "- utt key score", "0"),
    ScoreLayout("pandas' index", "- utt score", "0"),
    # github.com/nii-yamagishilab/project-NN-Pytorch-scripts, model.py of its
    # countermeasures: what these print, where 1 is bona fide.
    ScoreLayout("NII's toolkit", "- utt key score", "Output", "1"),
)

#: Names of a column in a header, in lower case and with "_" for "-".
HEADER_NAMES = {
    "utt": (
        *("utt", "utterance", "utterance_id", "id", "id_audio", "trial"),
        *("file", "filename", "file_name", "path"),
    ),
    "speaker": ("speaker", "speaker_id", "spk"),
    "source": ("source", "attack"),
    "key": ("key", "label", "cm_label"),
    "score": ("score", "cm_score", "llr"),
    "spoof": ("score_class0",),
    "bonafide": ("score_class1",),
}
# Tables in which 1 is bona fide. DeepFense's predictions: its repository,
# github.com/Yaselley/deepfense-framework, deepfense/cli/commands/test.py.
_ONE_IS_BONAFIDE = "score_class1"

_EXPECTED = (
    "Expected a score file in plain text, one trial a line: `utt score`, `utt "
    "source key score`, `speaker utt score key`, `utt key score`, or a table "
    "with a header; if it is something else, say what its columns are, as in "
    '--columns "utt - score"'
)


def recognize_scores(line, columns=None, bonafide=""):
    """Recognize the layout of a score file by its first line.

    Arguments
    ---------
    line : str
    columns : str, optional
        What the columns are, if the user says so: one of ``ROLES`` for each, or
        "-" for one to ignore.
    bonafide : str
        The digit that is bona fide as a key, if the user says so.

    Returns
    -------
    layout : Layout
        How to read the lines.
    bonafide : str
        The digit that is bona fide, "" if unknown.
    description : str
        What the file was taken for.

    Raises
    ------
    InputError
        If the line is of no known layout, or of two.

    Example
    -------
    >>> recognize_scores("LA_0039 LA_E_2834763 -8.558 spoof")[2]
    "ASVspoof 5's baselines: speaker utt score key"
    """
    if columns:
        return _as_the_user_says(line, columns.split(), bonafide)
    for separator in SEPARATORS:
        cells = split_line(line, separator)
        roles = _header_roles(cells)
        if "utt" in roles and _has_score(roles):
            if _ONE_IS_BONAFIDE in map(_plain, cells):
                bonafide = bonafide or "1"
            layout = Layout(roles, separator, has_header=True)
            return layout, bonafide, f"a table: {_shown(roles)}"
        if {"utt", "key"} <= set(roles):
            raise InputError(
                f"{shorten(line)} are the names of a key, which has no scores: "
                "give it as --protocol, beside a score file"
            )
        fits = [each for each in LAYOUTS if each.fits(cells, bonafide)]
        if len(fits) > 1:
            raise _ambiguous(line, [each.columns for each in fits])
        if fits:
            return _described(fits[0], separator, bonafide)
    return _by_number_of_columns(line, bonafide)


def _as_the_user_says(line, roles, bonafide):
    if unknown := [role for role in roles if role not in (*ROLES, "-")]:
        raise InputError(
            f"--columns: {shorten(unknown[0])} is no kind of column; expected "
            f"for each column one of {', '.join(ROLES)}, or - to ignore it"
        )
    if "utt" not in roles or not _has_score(roles):
        raise InputError(
            "--columns: expected utt, and score or both spoof and bonafide"
        )
    for separator in SEPARATORS:
        cells = split_line(line, separator)
        if len(cells) == len(roles):
            rows = zip(roles, cells)
            has_header = not all(_may_be(*row, "any") for row in rows)
            text = "--columns says" + ", below a header" * has_header
            columns = tuple("" if each == "-" else each for each in roles)
            return Layout(columns, separator, has_header), bonafide, text
    raise InputError(
        f"--columns names {len(roles)} columns, but {shorten(line)} has "
        "another number of them"
    )


def _by_number_of_columns(line, bonafide):
    """So that each bad line of a usual layout is told, or say what is wrong."""
    cells = line.split()
    if len(cells) == 3 and all(_may_be("score", cell) for cell in cells[1:]):
        raise _ambiguous(
            line, ["utt spoof bonafide", "utt bonafide spoof", "utt key score"]
        )
    for each in LAYOUTS[:2]:
        if len(cells) == len(each.columns.split()):
            return _described(each, None, bonafide)
    raise InputError(
        f"found {len(cells)} columns separated by whitespace, and no header. "
        f"{_EXPECTED}"
    )


def _described(layout, separator, bonafide):
    columns = tuple(c if c != "-" else "" for c in layout.columns.split())
    text = f"{layout.name}: {layout.columns}"
    return Layout(columns, separator), bonafide or layout.bonafide, text


def _ambiguous(line, readings):
    choices = " or ".join(f'--columns "{each}"' for each in readings)
    return InputError(
        f"{shorten(line)} can be read in {len(readings)} ways; say which: "
        f"{choices} (spoof and bonafide: a logit of each class; a key of 0 or "
        "1 needs --bonafide too)"
    )


def _may_be(column, cell, bonafide=""):
    if column == "key":
        return label_of(cell) is not None or (
            bonafide != "" and cell in ("0", "1")
        )
    if column in ("score", "spoof", "bonafide"):
        try:
            return float(cell) is not None
        except ValueError:
            return False
    if column in ("utt", "speaker") and cell in ("", "-"):
        return False
    # A decimal comma does not make two columns.
    return not any(map(str.isspace, cell))


def _has_score(roles):
    return "score" in roles or {"spoof", "bonafide"} <= set(roles)


def _plain(name):
    return name.lower().replace("-", "_")


def _header_roles(names):
    """Return the content of each column of a header; "" if it is not read."""
    plain = [_plain(name) for name in names]
    roles = [""] * len(names)
    for role, synonyms in HEADER_NAMES.items():
        found = [each for each in synonyms if each in plain]
        if any(plain.count(each) > 1 for each in found):
            raise InputError(
                f"{shorten(found[0])} names two columns; rename one"
            )
        if len(found) > 1 and role != "utt":
            raise InputError(
                f"{found[0]} and {found[1]} may both be the {role}; say which "
                'by --columns, with a word for each column, as in "utt - score"'
            )
        if found:
            roles[plain.index(found[0])] = role
    return tuple(roles)


def _shown(roles):
    return " ".join(role or "-" for role in roles)
