"""Reading the score files of a countermeasure (CM) and of an ASV system.

Both are plain text in the ASVspoof layout, one trial a line, columns separated
by blanks:

* CM: ``utt source key score``, key ``bonafide`` or ``spoof``;
* ASV: ``source key score``, key ``target``, ``nontarget`` or ``spoof``.

Whatever cannot be read is refused with the file and the line; a score file
with a broken, repeated or missing trial has no valid error rate.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from speechbrain_bilevel.errors import InputError

CM_LAYOUT = ("utt", "source", "key", "score")
CM_KEYS = ("bonafide", "spoof")
ASV_LAYOUT = ("source", "key", "score")
ASV_KEYS = ("target", "nontarget", "spoof")

# A file without line ends (audio, an archive) must not fill the memory.
MAX_LINE_BYTES = 4096


@dataclass(frozen=True, eq=False)
class CMScores:
    """Scores of a countermeasure, one entry a trial, in the file's order.

    Arguments
    ---------
    utt : numpy.ndarray
        Utterance names, str objects, shape [n_trials].
    attack : numpy.ndarray
        The ``source`` column as given, str objects, shape [n_trials]: the
        attack of a spoofed trial; for bona fide ``-`` or ``bonafide`` or
        whatever else the file has.
    is_bonafide : numpy.ndarray
        True for bona fide, False for spoof, shape [n_trials].
    score : numpy.ndarray
        Scores, float64, shape [n_trials]; higher means "more bona fide".
    path : str
        Where the scores come from, for messages.

    Example
    -------
    >>> scores = CMScores(
    ...     utt=np.array(["a", "b"], dtype=object),
    ...     attack=np.array(["-", "A07"], dtype=object),
    ...     is_bonafide=np.array([True, False]),
    ...     score=np.array([2.0, -1.0]),
    ... )
    >>> scores.bonafide, scores.spoof
    (array([2.]), array([-1.]))
    """

    utt: np.ndarray
    attack: np.ndarray
    is_bonafide: np.ndarray
    score: np.ndarray
    path: str = "scores"

    @property
    def bonafide(self):
        """Scores of the bona fide trials, shape [n_bonafide]."""
        return self.score[self.is_bonafide]

    @property
    def spoof(self):
        """Scores of the spoofed trials, shape [n_spoof]."""
        return self.score[~self.is_bonafide]


@dataclass(frozen=True, eq=False)
class ASVScores:
    """Scores of an ASV system by class, float64, in the file's order.

    Arguments
    ---------
    target : numpy.ndarray
        Scores of target speakers, shape [n_target].
    nontarget : numpy.ndarray
        Scores of zero-effort impostors, shape [n_nontarget].
    spoof : numpy.ndarray
        Scores of spoofed trials, shape [n_spoof].
    path : str
        Where the scores come from, for messages.
    """

    target: np.ndarray
    nontarget: np.ndarray
    spoof: np.ndarray
    path: str = "ASV scores"


def read_cm_scores(path):
    """Reads a CM score file, ``utt source key score``.

    Empty lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.

    Returns
    -------
    scores : CMScores
        The trials in the file's order.

    Raises
    ------
    InputError
        If the file cannot be read or is not text, a line has another number
        of columns, an unknown key or a score that is no finite number, an
        utterance occurs twice, or a class is missing.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "scores.txt")
    ...     _ = path.write_text("LA_1 - bonafide 2.5\\nLA_2 A07 spoof -1\\n")
    ...     scores = read_cm_scores(path)
    >>> scores.attack.tolist(), scores.score.tolist()
    (['-', 'A07'], [2.5, -1.0])
    """
    utts, attacks, keys, values = [], [], [], []
    for utt, attack, key, score in _rows(path, CM_LAYOUT, CM_KEYS):
        utts.append(utt)
        # A file has few attacks and many lines: keep each name once.
        attacks.append(sys.intern(attack))
        keys.append(key == "bonafide")
        values.append(score)
    _refuse_repeats(path, utts)
    _refuse_missing_class(
        path, {"bonafide": sum(keys), "spoof": len(keys) - sum(keys)}
    )
    return CMScores(
        utt=np.array(utts, dtype=object),
        attack=np.array(attacks, dtype=object),
        is_bonafide=np.array(keys),
        score=np.array(values),
        path=str(path),
    )


def read_asv_scores(path):
    """Reads an ASV score file, ``source key score``.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.

    Returns
    -------
    scores : ASVScores
        The scores by class.

    Raises
    ------
    InputError
        If the file cannot be read or is not text, a line has another number
        of columns, an unknown key or a score that is no finite number, or a
        class is missing.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "asv.txt")
    ...     _ = path.write_text(
    ...         "bonafide target 3\\nbonafide nontarget 1\\nA07 spoof 2\\n"
    ...     )
    ...     scores = read_asv_scores(path)
    >>> scores.spoof
    array([2.])
    """
    values = {key: [] for key in ASV_KEYS}
    for _, key, score in _rows(path, ASV_LAYOUT, ASV_KEYS):
        values[key].append(score)
    _refuse_missing_class(path, {k: len(v) for k, v in values.items()})
    return ASVScores(
        **{key: np.array(scores) for key, scores in values.items()},
        path=str(path),
    )


def check_trials(scores, expected_utts):
    """Refuses scores that are not those of exactly the expected trials.

    Arguments
    ---------
    scores : CMScores
        The scores, see :func:`read_cm_scores`.
    expected_utts : iterable of str
        The utterances of the protocol, in any order.

    Raises
    ------
    InputError
        If trials are missing or extra: how many, and the names of the first
        five of each in alphabetical order.

    Example
    -------
    >>> scores = CMScores(np.array(["LA_1", "LA_2"]), None, None, None)
    >>> check_trials(scores, ["LA_2", "LA_1"])
    """
    scored, expected = set(scores.utt.tolist()), set(expected_utts)
    missing, extra = sorted(expected - scored), sorted(scored - expected)
    if missing or extra:
        raise InputError(
            f"{scores.path}: missing trials: {_listed(missing)}; extra "
            f"trials: {_listed(extra)}. Expected exactly the {len(expected)} "
            "of the protocol: score the partition again, or give the protocol "
            "that belongs to these scores"
        )


def _rows(path, layout, keys):
    """Yields the columns of every line that is not empty, score as float."""
    try:
        with open(path, "rb") as file:
            lines = iter(partial(file.readline, MAX_LINE_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                try:
                    fields = _text(line).split()
                    row = fields and _parsed(fields, layout, keys)
                except InputError as error:
                    raise InputError(
                        f"{path}, line {number}: {error}"
                    ) from None
                if row:
                    yield row
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; expected a score file with lines "
            f"`{' '.join(layout)}`"
        ) from error


def _text(line):
    """One line as text, without the byte order mark of a Windows editor."""
    try:
        if len(line) < MAX_LINE_BYTES and b"\0" not in line:
            return line.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        pass
    raise InputError(
        "not a line of UTF-8 text; expected a score file in plain text, one "
        "trial a line (if it is one, save it again as UTF-8)"
    )


def _parsed(fields, layout, keys):
    """The columns of one line, the score as a finite number."""
    expected = f"of `{' '.join(layout)}`"
    if len(fields) != len(layout):
        raise InputError(
            f"expected the {len(layout)} columns {expected}, separated by "
            f"blanks, found {len(fields)}"
        )
    *names, key, text = fields
    if key not in keys:
        raise InputError(
            f"unknown key {_quoted(key)}; expected {' or '.join(keys)} in "
            f"column {len(layout) - 1} {expected}"
        )
    try:
        # Python alone reads "1_000" as a number.
        score = float(text.replace("_", "?"))
    except ValueError:
        raise InputError(
            f"the score {_quoted(text)} is not a number; expected one in "
            f"column {len(layout)} {expected}"
        ) from None
    if not math.isfinite(score):
        raise InputError(
            f"the score is {_quoted(text)}; expected a finite number. Find "
            "out what the system made of this trial and score it again"
        )
    return *names, key, score


def _refuse_repeats(path, utts):
    if len(set(utts)) < len(utts):
        repeated = sorted(utt for utt, n in Counter(utts).items() if n > 1)
        raise InputError(
            f"{path}: utterances given more than once: {_listed(repeated)}. "
            "Expected one line for each trial: remove the repeated lines or "
            "score the partition again"
        )


def _refuse_missing_class(path, counts):
    """Refuses files in which a class of trials has no line."""
    missing = [name for name, count in counts.items() if count == 0]
    if missing:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(
            f"{path}: no {' and no '.join(missing)} trial (found {found}). "
            "Error rates need every class: give the scores of the whole "
            "partition"
        )


def _listed(names, shown=5):
    """How many names there are, and the first few of them."""
    if not names:
        return "0"
    rest = ", ..." if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{rest})"


def _quoted(text, shown=40):
    """The text as it can be printed on one short line."""
    return repr(text if len(text) <= shown else text[:shown] + "...")
