"""Score files of countermeasures (CM) and of speaker verification (ASV).

Scores of a countermeasure are a ``pandas.DataFrame`` with a row for each trial,
in the order of the file:

* ``utt``: the name of the trial, text;
* ``score``: float64, higher means "more bona fide";
* ``label``, ``attack``, ``speaker``: as in ``dataio.protocols``, each only if
  it is known; and the other ``columns`` that were read of a protocol.

``scores.attrs["path"]`` is the file, for messages and reports, and
``scores.attrs["read_as"]`` says what it was taken for.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from speechbrain_bilevel.dataio import BONAFIDE, LABELS, NO_ATTACK, SPOOF
from speechbrain_bilevel.dataio.protocols import read_label, without_place
from speechbrain_bilevel.evaluation.score_layouts import recognize_scores
from speechbrain_bilevel.utils.errors import InputError, listed, shorten
from speechbrain_bilevel.utils.files import write_atomically
from speechbrain_bilevel.utils.tables import (
    BadLines,
    Layout,
    read_table,
    refuse_repeated,
)

ASV_KEYS = "target", "nontarget", "spoof"

_EXPECTED = (
    "Expected a score file, one trial a line, with finite scores. Correct "
    "these lines, score the partition again, or say what the columns are, as "
    'in --columns "utt - score"'
)
_EXPECTED_ASV = (
    "Expected the scores of a speaker verification system, one trial a line: "
    "`source key score`, where key is target, nontarget or spoof (ASVspoof "
    "2019), or, with a protocol, `speaker utt score` (ASVspoof 2021)"
)
_EXPECTED_ASV_PROTOCOL = (
    "Expected the trial_metadata.txt of ASVspoof 2021's speaker verification "
    "scores: 8 columns, of which the first two are speaker and utt, the sixth "
    "is target, nontarget or spoof, and the last the subset"
)
# Sums and squares of smaller scores are finite.
_TOO_LARGE = 1e100
# Lines to write at once.
_LINES = 1 << 14


@dataclass(frozen=True, eq=False)
class ASVScores:
    """Scores of a speaker verification system by class, and their file.

    Arguments
    ---------
    target, nontarget, spoof : numpy.ndarray
        Scores of target speakers, zero-effort impostors and spoofed trials,
        float64.
    path : str
        For messages and reports.
    attacks : frozenset of str
        Names of the attacks of the spoofed trials, as far as they are known.
    """

    target: np.ndarray
    nontarget: np.ndarray
    spoof: np.ndarray
    path: str = "ASV scores"
    attacks: frozenset = frozenset()


def read_cm_scores(
    path,
    trials=None,
    partition=None,
    need_keys=True,
    columns=None,
    bonafide="",
):
    """Read the scores of a countermeasure.

    Arguments
    ---------
    path : str or Path
        Of one of ``score_layouts.LAYOUTS``, or a table with a header, see
        ``dataio.columns.COLUMN_NAMES``.
    trials : pandas.DataFrame, optional
        From ``dataio.protocols.read_protocol``: exactly these trials must have
        scores. Adds their labels, attacks and speakers. Names may have folders
        and endings of audio files that those of the trials lack, and the
        reverse.
    partition : str, optional
        The partition of these trials that counts; scores of the others are
        skipped. By default "eval", as in official figures, or all trials if
        there is no such partition.
    need_keys : bool
        Whether to refuse scores without labels, or of one class only.
    columns : str, optional
        What the columns are, see ``score_layouts.recognize_scores``; by default
        this is recognized.
    bonafide : str
        The digit, 0 or 1, that is bona fide as a key.

    Returns
    -------
    pandas.DataFrame
        See the top of this module.

    Raises
    ------
    InputError
        If the file cannot be read, has bad lines (all are counted, the first
        five shown), or does not fit the trials.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> _ = path.write_text("LA_1 - bonafide 2.5\\nLA_2 A07 spoof -1\\n")
    >>> read_cm_scores(path)
        utt  score     label attack
    0  LA_1    2.5  bonafide      -
    1  LA_2   -1.0     spoof    A07
    """
    read_as = {}

    def layout(line):
        found = recognize_scores(line, columns, bonafide)
        layout, read_as["bonafide"], read_as["description"] = found
        return layout

    scores = _read(
        path,
        layout,
        lambda cells: _parse_cm_row(cells, read_as["bonafide"]),
        {
            "utt": "str",
            "score": "float64",
            "label": "category",
            "attack": "category",
            "speaker": "category",
        },
        _EXPECTED,
    )
    for name in "label", "attack", "speaker":
        if (scores[name] == "").all():
            scores = scores.drop(columns=name)
    scores.attrs["path"] = str(path)
    scores.attrs["read_as"] = read_as["description"]
    if trials is not None:
        scores = _with_trials(scores, trials, partition)
    if not need_keys:
        return scores
    if "label" not in scores:
        raise InputError(
            f"{path}: has no keys, so it is unknown which trials are bona "
            "fide; give the protocol too (--protocol FILE)"
        )
    _check_classes(path, scores.label, LABELS)
    return scores


def read_asv_scores(path, protocol=None, partition="eval"):
    """Read the scores of a speaker verification system.

    Arguments
    ---------
    path : str or Path
        Lines ``source key score`` (ASVspoof 2019) or, with a protocol,
        ``speaker utt score`` (ASVspoof 2021; the claimed speaker).
    protocol : str or Path, optional
        ASVspoof 2021's ``trial_metadata.txt`` of these scores.
    partition : str
        The subset of this protocol that counts.

    Returns
    -------
    ASVScores

    Raises
    ------
    InputError
        If a file cannot be read or has bad lines, the two do not fit, or a
        class is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "asv.txt"
    >>> _ = path.write_text("- target 3\\n- nontarget 1\\nA07 spoof 2\\n")
    >>> read_asv_scores(path).spoof
    array([2.])
    """
    if protocol is not None:
        scores = _read_asv_scores_of_2021(path, protocol, partition)
    else:
        scores, _ = read_table(
            path,
            lambda line: Layout(("source", "key", "score")),
            lambda cells: (
                cells["source"],
                _asv_key(cells),
                _score(cells["score"]),
            ),
            {"source": "category", "key": "category", "score": "float64"},
            _EXPECTED_ASV,
        )
    _check_classes(path, scores.key, ASV_KEYS)
    classes = [scores.score[scores.key == key] for key in ASV_KEYS]
    attacks = frozenset()
    if "source" in scores:
        attacks = frozenset(scores.source[scores.key == "spoof"].unique())
    return ASVScores(
        *(each.to_numpy() for each in classes), path=str(path), attacks=attacks
    )


def _read_asv_scores_of_2021(path, protocol, partition):
    def trial(cells):
        # The same utterance is tested for several speakers.
        return f"{cells['speaker']} {cells['utt']}"

    scores = _read(
        path,
        lambda line: Layout(("speaker", "utt", "score")),
        lambda cells: (trial(cells), _score(cells["score"])),
        {"utt": "str", "score": "float64"},
        _EXPECTED_ASV,
    )
    columns = "speaker", "utt", "", "", "", "key", "", "subset"
    trials = _read(
        protocol,
        lambda line: Layout(columns),
        lambda cells: (trial(cells), _asv_key(cells), cells["subset"]),
        {"utt": "str", "key": "category", "subset": "category"},
        _EXPECTED_ASV_PROTOCOL,
    )
    trials = trials.take(_match(path, scores.utt, trials.utt))
    scores = scores.assign(key=trials.key.array)
    return scores[(trials.subset == partition).to_numpy()]


#: Columns and their separator of the layouts that can be written; the second
#: is that of ASVspoof 2021's submissions, the third that of ASVspoof 5's.
WRITTEN = {
    "asvspoof2019": (("utt", "attack", "label", "score"), " "),
    "asvspoof2021": (("utt", "score"), " "),
    "asvspoof5": (("utt", "score"), "\t"),
}


def write_cm_scores(path, scores):
    """Write ``utt source key score`` or, without labels, ``utt score``.

    ``scores`` are as described at the top of this module. Raise an
    ``InputError``, and change nothing, if the file cannot be written.
    """
    path = Path(path)
    layout = "asvspoof2019" if "label" in scores else "asvspoof2021"
    write_atomically(path.parent, {path.name: score_lines(scores, layout)})


def score_lines(scores, layout):
    """Yield the text of a score file in one of the layouts ``WRITTEN``.

    Example
    -------
    >>> "".join(score_lines(pd.DataFrame({"utt": ["a"], "score": [1.5]}),
    ...                     "asvspoof5"))
    'filename\\tcm-score\\na\\t1.5\\n'
    """
    names, separator = WRITTEN[layout]
    if layout == "asvspoof5":
        yield "filename\tcm-score\n"
    for start in range(0, len(scores), _LINES):
        part = scores.iloc[start : start + _LINES]
        columns = [part[name].tolist() for name in names[:-1]]
        columns.append(map(repr, part.score.tolist()))
        yield "".join(separator.join(row) + "\n" for row in zip(*columns))


def split_classes(scores):
    """Return the bona fide and the spoof scores, in the order of the file."""
    is_bonafide = (scores.label == BONAFIDE).to_numpy()
    score = scores.score.to_numpy()
    return score[is_bonafide], score[~is_bonafide]


def align_scores(systems):
    """Align the scores of systems, from ``read_cm_scores``, by trial.

    Return the first system that has labels, in the order of the first of all,
    and the scores, [n_trials, n_systems]. Raise an ``InputError`` if a trial is
    missing in a system or has another label there.
    """
    first, *others = systems
    aligned = [first]
    for other in others:
        rows = _match(_path(other), other.utt, first.utt, _path(first))
        aligned.append(other.take(np.argsort(rows)).reset_index(drop=True))
    labeled = [scores for scores in aligned if "label" in scores]
    for other in labeled[1:]:
        check_same_labels(labeled[0], other)
    columns = [scores.score for scores in aligned]
    return (labeled or aligned)[0], np.column_stack(columns)


def check_same_labels(first, other, source=None):
    """Refuse two systems with the same trials, in order, but different labels.

    The message calls the first by ``source``, or by its file.
    """
    differ = first.label.to_numpy() != other.label.to_numpy()
    if differ.any():
        raise InputError(
            f"{_path(other)}: trials with another key than in "
            f"{source or _path(first)}: {listed(first.utt[differ].tolist())}. "
            "Expected the same keys: find out which of the two is wrong"
        )


def _path(scores):
    return scores.attrs.get("path", "scores")


def _read(path, layout, parse, dtypes, expected):
    """Read a table in which no trial may occur twice."""
    table, numbers = read_table(path, layout, parse, dtypes, expected)
    expected = (
        "Expected one line for each trial; remove the others, or, if this is "
        "not its name, say what the columns are by --columns"
    )
    refuse_repeated(table.utt, numbers, BadLines(path, expected))
    return table


def _parse_cm_row(cells, bonafide):
    # As in a protocol: whitespace separates the columns of score files.
    names = (cells.get(key) for key in ("utt", "path", "id"))
    utt = "_".join(next(filter(None, names), "").split())
    if not utt:
        raise InputError("the trial has no name")
    speaker = "_".join(cells.get("speaker", "").split())
    score, is_pair = _score_of(cells)
    if "label" not in cells:
        return utt, score, "", "", speaker
    # Where both logits are given, 1 is bona fide, as the second logit is.
    label = read_label(cells["label"], bonafide or "1" * is_pair)
    attack = "_".join(cells.get("attack", "").split())
    if label == BONAFIDE:
        # Files call it -, bonafide or A00.
        attack = NO_ATTACK
    elif attack in ("", NO_ATTACK):
        attack = SPOOF
    return utt, score, label, attack, speaker


def _score_of(cells):
    """Return a trial's score, and whether it was a pair ``[spoof, bonafide]``.

    Such pairs of logits are what github.com/nii-yamagishilab/AntiDeepfake
    writes, see its evaluation.py.
    """
    if "score" not in cells:
        return _score(cells["bonafide"]) - _score(cells["spoof"]), False
    text = cells["score"]
    if not (text.startswith("[") and text.endswith("]")):
        return _score(text), False
    logits = text[1:-1].split(",")
    if len(logits) != 2:
        raise InputError(f"the score {shorten(text)} is no pair of logits")
    return _score(logits[1].strip()) - _score(logits[0].strip()), True


def _asv_key(cells):
    if cells["key"] not in ASV_KEYS:
        raise InputError(
            f"unknown key {shorten(cells['key'])}; expected one of "
            f"{', '.join(ASV_KEYS)}"
        )
    return cells["key"]


def _score(text):
    """Parse a number exactly as Python does, unlike pandas' parser."""
    try:
        # "1_000" is a number in Python only.
        score = float(text.replace("_", "?"))
    except ValueError:
        raise InputError(f"the score {shorten(text)} is not a number") from None
    if not abs(score) < _TOO_LARGE:
        raise InputError(
            f"the score is {shorten(text)}, not a finite number of ordinary "
            "size"
        )
    return score


def _with_trials(scores, trials, partition):
    """Return the scores of a partition, with the protocol's columns."""
    if partition is None and (trials.partition == "eval").any():
        partition = "eval"
    names = pd.Series(trials.utt.drop_duplicates().array)
    if partition is not None:
        is_wanted = trials.partition == partition
        if not is_wanted.any():
            known = ", ".join(sorted(trials.partition.unique()))
            raise InputError(
                f"{_path(scores)}: the protocol has no trial of partition "
                f"{partition!r}; expected one of {known}"
            )
        trials = trials[is_wanted]
    scores = _with_the_names_of(scores, names)
    # Scores of the other partitions are skipped.
    wanted, known = (
        pd.Index(each).get_indexer(scores.utt) >= 0
        for each in (trials.utt, names)
    )
    scores = scores[wanted | ~known].reset_index(drop=True)
    rows = _match(_path(scores), scores.utt, trials.utt)
    trials = trials.take(rows).reset_index(drop=True)
    if "label" in scores:
        check_same_labels(trials, scores, "the protocol")
    return scores.assign(**trials.drop(columns=["utt", "path", "partition"]))


def _with_the_names_of(scores, names):
    """Return the scores with the names that trials have.

    Where these differ by folders and the endings of audio files alone, this is
    said in ``read_as``.
    """
    if (pd.Index(names).get_indexer(scores.utt) >= 0).any():
        return scores
    ours, theirs = map(without_place, (scores.utt, names))
    if scores.empty or ours.duplicated().any() or theirs.duplicated().any():
        return scores
    rows = pd.Index(theirs).get_indexer(ours)
    if (rows < 0).any():
        return scores
    found = scores.assign(utt=names.array[rows])
    found.attrs["read_as"] += (
        f"; names matched without folders and endings ({scores.utt[0]} is "
        f"{found.utt[0]})"
    )
    return found


def _match(path, utts, expected, source="the protocol"):
    """Return where each trial is among the expected ones; both must agree."""
    rows = pd.Index(expected).get_indexer(utts)
    is_missing = np.ones(len(expected), dtype=bool)
    is_missing[rows[rows >= 0]] = False
    missing, extra = sorted(expected[is_missing]), sorted(utts[rows < 0])
    if missing or extra:
        raise InputError(
            f"{path}: missing trials: {listed(missing)}; extra trials: "
            f"{listed(extra)}. Expected exactly the {len(expected)} of "
            f"{source}: score the partition again, or give the file that "
            "belongs to these scores"
        )
    return rows


def _check_classes(path, column, expected):
    counts = {name: int((column == name).sum()) for name in expected}
    missing = [name for name, count in counts.items() if count == 0]
    if missing:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(
            f"{path}: no {' and no '.join(missing)} trial (found {found}). "
            "Error rates need every class: give the scores of the whole "
            "partition"
        )
