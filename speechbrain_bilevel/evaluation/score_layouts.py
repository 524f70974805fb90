"""How score files are laid out: one small description for each toolkit.

To read another layout, describe it by a ``ScoreLayout`` in ``LAYOUTS``, or, if
it has a header, add its names to ``dataio.columns.COLUMN_NAMES``.
"""

from dataclasses import dataclass

from speechbrain_bilevel.dataio.columns import (
    layout_as_said,
    plain,
    role_of,
    roles_in_header,
    ways_to_split,
)
from speechbrain_bilevel.dataio.protocols import label_of
from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.tables import Layout


@dataclass(frozen=True)
class ScoreLayout:
    """A kind of score file without header.

    Arguments
    ---------
    name : str
        Whose it is.
    columns : str
        What each column is, a name of ``COLUMN_NAMES``, or "-" if it is not
        read.
    first : tuple of str
        What the first cell of the first line may be, if not just anything.
    bonafide : str
        The digit, 0 or 1, that is bona fide as a key, if its source says so.

    Example
    -------
    >>> ScoreLayout("mine", "utt key score").fits(["a", "fake", "1.5"])
    True
    """

    name: str
    columns: str
    first: tuple = ()
    bonafide: str = ""

    def fits(self, cells, bonafide=""):
        """Whether the cells of a line may be those of this layout."""
        columns = self.columns.split()
        if len(cells) != len(columns):
            return False
        return (not self.first or cells[0] in self.first) and all(
            _may_be(role_of(column), cell, bonafide or self.bonafide)
            for column, cell in zip(columns, cells)
        )


LAYOUTS = (
    # Of the evaluation plan; 2021's baselines write the second.
    ScoreLayout("ASVspoof 2019", "utt source key score"),
    ScoreLayout("ASVspoof 2021", "utt score"),
    # github.com/asvspoof-challenge/asvspoof5, Baseline-AASIST/main.py.
    ScoreLayout("ASVspoof 5's baselines", "speaker utt score key"),
    ScoreLayout("key and score", "utt key score"),
    ScoreLayout("score and key", "utt score key"),
    # The index that pandas writes, if the header is gone.
    ScoreLayout("pandas' index", "- utt key score", ("0", "1")),
    ScoreLayout("pandas' index", "- utt score", ("0", "1")),
    # github.com/nii-yamagishilab/project-NN-Pytorch-scripts, model.py of its
    # countermeasures: what these print, where 1 is bona fide.
    ScoreLayout("NII's toolkit", "- utt key score", ("Output",), "1"),
)
# Tables in which 1 is bona fide. DeepFense's predictions: its repository,
# github.com/Yaselley/deepfense-framework, deepfense/cli/commands/test.py.
_ONE_IS_BONAFIDE = "score_class1"
# Tables in which the label is a verdict, not a key: those of `classify`.
_VERDICTS = "calibrated"

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
        What the columns are, if the user says so: a name of ``COLUMN_NAMES``
        for each, or "-" for one to ignore. ``spoof`` and ``bonafide`` are a
        logit of each class: the score is the second minus the first.
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
        return _as_the_user_says(line, columns, bonafide)
    ways = list(ways_to_split(line))
    for separator, cells in ways:
        if found := _table(cells, separator, bonafide):
            return found
    fits = {}
    for separator, cells in ways:
        for layout in LAYOUTS:
            if layout.fits(cells, bonafide):
                fits.setdefault(layout, separator)
    if len(fits) > 1:
        raise _ambiguous(line, [layout.columns for layout in fits])
    if fits:
        return _described(*next(iter(fits.items())), bonafide)
    return _by_number_of_columns(line, bonafide)


def _table(names, separator, bonafide):
    """Return how to read a table with this header; None if it is none."""
    known, roles = [plain(name) for name in names], [*map(role_of, names)]
    if not _has_name(roles) or {"label", "score", "spoof"}.isdisjoint(roles):
        return None
    if not _has_score(roles):
        raise InputError(
            f"{shorten(' '.join(names))} are the names of a key, which has no "
            "scores: give it as --protocol, beside a score file"
        )
    roles = roles_in_header(names, ("label",) if _VERDICTS in known else ())
    pairs = zip(names, roles)
    shown = " ".join(n if role_of(n) == role else "-" for n, role in pairs)
    layout = Layout(tuple(roles), separator, has_header=True)
    digit = bonafide or ("1" if _ONE_IS_BONAFIDE in known else "")
    return layout, digit, f"a table: {shown}"


def _as_the_user_says(line, columns, bonafide):
    allowed = {
        **dict.fromkeys(("utt", "id", "path", "speaker", "attack")),
        "label": lambda cell: _may_be("label", cell, "any"),
        **dict.fromkeys(("score", "spoof", "bonafide"), _is_score),
    }
    layout = layout_as_said(line, columns, allowed)
    if not (_has_name(layout.columns) and _has_score(layout.columns)):
        raise InputError(
            f"--columns {shorten(columns)}: expected utt, and score or both "
            "spoof and bonafide"
        )
    text = "--columns says" + ", below a header" * layout.has_header
    return layout, bonafide, text


def _by_number_of_columns(line, bonafide):
    """So that each bad line of a usual layout is told, or say what is wrong."""
    cells = line.split()
    if len(cells) == 3 and all(map(_is_score, cells[1:])):
        raise _ambiguous(
            line,
            [
                *("utt spoof bonafide", "utt bonafide spoof"),
                *("utt key score", "utt score key"),
            ],
        )
    for each in LAYOUTS[:2]:
        if len(cells) == len(each.columns.split()):
            return _described(each, None, bonafide)
    raise InputError(
        f"found {len(cells)} columns separated by whitespace, and no header. "
        f"{_EXPECTED}"
    )


def _described(layout, separator, bonafide):
    columns = tuple(role_of(word) or "" for word in layout.columns.split())
    text = f"{layout.name}: {layout.columns}"
    return Layout(columns, separator), bonafide or layout.bonafide, text


def _ambiguous(line, readings):
    choices = " or ".join(f'--columns "{each}"' for each in readings)
    return InputError(
        f"{shorten(line)} can be read in {len(readings)} ways; say which: "
        f"{choices} (two logits; a key of 0 or 1 needs --bonafide too)"
    )


def _may_be(role, cell, bonafide=""):
    if role == "label":
        is_digit = bonafide != "" and cell in ("0", "1")
        return label_of(cell) is not None or is_digit
    if role in ("score", "spoof", "bonafide"):
        return _is_score(cell)
    if role in ("utt", "speaker") and cell in ("", "-"):
        return False
    # A decimal comma, or another separator, does not make two columns.
    return role is None or not any(c.isspace() or c in ",;|" for c in cell)


def _is_score(cell):
    try:
        return float(cell) is not None
    except ValueError:
        # A pair of logits.
        return cell.startswith("[") and cell.endswith("]")


def _has_name(roles):
    return not {"utt", "path", "id"}.isdisjoint(roles)


def _has_score(roles):
    return "score" in roles or {"spoof", "bonafide"} <= {*roles}
