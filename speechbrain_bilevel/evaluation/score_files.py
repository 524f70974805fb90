"""Scores of a countermeasure (CM) and of a speaker verification system (ASV)."""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import numpy as np

from speechbrain_bilevel.dataio.protocols import LABELS
from speechbrain_bilevel.utils.errors import (
    InputError,
    listed,
    read_lines,
    shorten,
    split,
)
from speechbrain_bilevel.utils.files import write_atomically


@dataclass(frozen=True, eq=False)
class CMScores:
    """Scores of a countermeasure, one entry a trial, in the file's order.

    Arguments
    ---------
    utt : numpy.ndarray
        Utterance names, str objects, shape [n_trials].
    attack : numpy.ndarray, optional
        The attack of a spoofed trial, str objects, shape [n_trials]; for bona
        fide ``-`` or ``bonafide`` or whatever else the file has. None where
        nothing tells the keys.
    is_bonafide : numpy.ndarray, optional
        True for bona fide, False for spoof, shape [n_trials]; or None.
    score : numpy.ndarray
        Scores, float64, shape [n_trials]; higher means "more bona fide".
    path : str
        Where the scores come from, for messages.
    speaker : numpy.ndarray, optional
        Speakers, str objects, shape [n_trials]; only a protocol tells them.

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
    attack: Optional[np.ndarray]
    is_bonafide: Optional[np.ndarray]
    score: np.ndarray
    path: str = "scores"
    speaker: Optional[np.ndarray] = None

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


def by_name(scores):
    """The same trials, sorted by name instead of as in the file.

    Arguments
    ---------
    scores : CMScores

    Returns
    -------
    CMScores

    Example
    -------
    >>> scores = CMScores(np.array(["b", "a"]), None, None, np.array([1, 2]))
    >>> by_name(scores).score
    array([2, 1])
    """
    return reordered(scores, np.argsort(scores.utt, kind="stable"))


def reordered(scores, order):
    """The same trials in another order, or some of them.

    Arguments
    ---------
    scores : CMScores
    order : numpy.ndarray
        Positions of the trials, shape [n].

    Returns
    -------
    CMScores
    """
    columns = ("utt", "attack", "is_bonafide", "score", "speaker")
    values = {name: getattr(scores, name) for name in columns}
    return replace(
        scores, **{k: v[order] for k, v in values.items() if v is not None}
    )


def refuse_other_keys(first, other):
    """Refuses two systems whose files contradict each other.

    Arguments
    ---------
    first : CMScores
    other : CMScores
        With the same trials, in any order.

    Raises
    ------
    InputError
        If a trial is bona fide in one and spoof in the other.
    """
    first, other = by_name(first), by_name(other)
    differ = first.is_bonafide != other.is_bonafide
    if differ.any():
        raise InputError(
            f"{other.path}: trials with another key than in {first.path}: "
            f"{listed(first.utt[differ].tolist())}. Expected the same keys: "
            "find out which file is wrong"
        )


CM_COLUMNS = ("utt", "source", "key", "score")


BARE_COLUMNS = ("utt", "score")


CM_KEYS = ("bonafide", "spoof")


ASV_KEYS = ("target", "nontarget", "spoof")


#: What a header may call a column, the preferred name first.
HEADER_NAMES = {
    "utt": ("utt", "utterance", "id", "trial", "file", "filename", "path"),
    "source": ("source", "attack"),
    "key": ("key", "label"),
    "score": ("score", "cm-score", "cm_score", "llr"),
}


_KNOWN_NAMES = {name for names in HEADER_NAMES.values() for name in names}


_EXPECTED = "Expected a score file in plain text, one trial a line"


_SHOWN = 5


# Sums and squares of smaller ones are finite.
_TOO_LARGE = 1e100


@dataclass(frozen=True)
class Layout:
    """Where the columns of a line are.

    Arguments
    ---------
    columns : tuple of str
        "utt", "source", "key" or "score" for each column, or another name; ""
        for one that is not read.
    keys : tuple of str
        What the key may be.
    separator : str, optional
        "," or a tab for tables with a header; None for blanks.
    """

    columns: tuple
    keys: tuple
    separator: Optional[str] = None

    def parse(self, line):
        """The columns of a line by name, a score as a finite number.

        Arguments
        ---------
        line : str

        Returns
        -------
        dict

        Raises
        ------
        InputError
            If the line does not have this layout.

        Example
        -------
        >>> Layout(("utt", "score"), ()).parse("LA_1 2.5")
        {'utt': 'LA_1', 'score': 2.5}
        """
        fields = split(line, self.separator)
        if len(fields) != len(self.columns):
            raise InputError(
                f"expected the {len(self.columns)} columns {self._shown()}, "
                f"separated by {_called(self.separator)}, found {len(fields)}"
            )
        row = dict(zip(self.columns, fields))
        row.pop("", None)
        for name in {"utt", "source"} & row.keys():
            # As in a protocol: they become columns separated by blanks.
            row[name] = "_".join(row[name].split())
        if row.get("utt") == "":
            raise InputError("the utterance has no name")
        if row.get("source") == "":
            row["source"] = "-"
        if "key" in row and self.keys == CM_KEYS:
            row["key"] = LABELS.get(row["key"].lower(), row["key"])
        if "key" in row and row["key"] not in self.keys:
            raise InputError(
                f"unknown key {shorten(row['key'])}; expected "
                f"{' or '.join(self.keys)} in {self._column('key')}"
            )
        if "score" in row:
            row["score"] = self._score(row)
        return row

    def _score(self, row):
        text = row["score"]
        try:
            # Python alone reads "1_000" as a number.
            score = float(text.replace("_", "?"))
        except ValueError:
            raise InputError(
                f"the score {shorten(text)} is not a number; expected one in "
                f"{self._column('score')}"
            ) from None
        if not abs(score) < _TOO_LARGE:
            trial = f" for {shorten(row['utt'])}" if "utt" in row else ""
            raise InputError(
                f"the score is {shorten(text)}; expected a finite number of "
                f"ordinary size{trial}. Find out what the system made of this trial and "
                "score it again"
            )
        return score

    def _column(self, name):
        return f"column {self.columns.index(name) + 1} {self._shown()}"

    def _shown(self):
        return f"of `{' '.join(name or '...' for name in self.columns)}`"


def cm_layout(line):
    """The layout of a countermeasure's score file, by its first line.

    Arguments
    ---------
    line : str

    Returns
    -------
    layout : Layout
    is_header : bool
        Whether the line is a header and no trial.

    Raises
    ------
    InputError
        If it is none of the known layouts.

    Example
    -------
    >>> cm_layout("LA_E_1 A07 spoof 0.5")[0].columns
    ('utt', 'source', 'key', 'score')
    >>> layout, is_header = cm_layout("filename,cm-score")
    >>> layout.columns, layout.separator, is_header
    (('utt', 'score'), ',', True)
    """
    for separator in ",", "\t":
        columns = separator in line and _header_columns(split(line, separator))
        if columns:
            return Layout(columns, CM_KEYS, separator), True
    names = {name.lower() for name in line.split()}
    if names & set(HEADER_NAMES["score"]) and len(names & _KNOWN_NAMES) > 1:
        raise InputError(
            f"{shorten(line)} looks like a header; expected one only where "
            "commas or tabs separate the columns: leave it out, or separate "
            "them so"
        )
    n_columns = len(line.split())
    for columns in CM_COLUMNS, BARE_COLUMNS:
        if n_columns == len(columns):
            return Layout(columns, CM_KEYS), False
    raise InputError(
        f"expected the {len(CM_COLUMNS)} columns of `{' '.join(CM_COLUMNS)}` "
        f"or the {len(BARE_COLUMNS)} of `{' '.join(BARE_COLUMNS)}`, separated "
        "by blanks, or the header of a table with commas or tabs that names an "
        f"utt and a score, found {n_columns}"
    )


#: An ASV system's scores (ASVspoof 2019).
ASV_LAYOUT = Layout(("source", "key", "score"), ASV_KEYS)


#: The same without keys (ASVspoof 2021), the speaker being the claimed one,
BARE_ASV_LAYOUT = Layout(("speaker", "utt", "score"), ())


#: and the protocol that belongs to it; codec, transmission, attack and
#: trimming are not read.
ASV_PROTOCOL_LAYOUT = Layout(
    ("speaker", "utt", "", "", "", "key", "", "subset"), ASV_KEYS
)


def read_rows(path, layout=None):
    """Reads a score file, whole or not at all.

    Empty lines are skipped; a byte order mark and Windows line ends are fine.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.
    layout : Layout, optional
        Of each line; by default that of a countermeasure's score file, which
        the first line tells, see ``cm_layout``.

    Returns
    -------
    list of dict
        The lines' columns by name, see ``Layout.parse``.

    Raises
    ------
    InputError
        If it cannot be read, is no text, or has bad lines.

    Example
    -------
    >>> path = getfixture("tmp_path") / "asv.txt"
    >>> _ = path.write_text("A07 spoof 2\\n")
    >>> read_rows(path, ASV_LAYOUT)
    [{'source': 'A07', 'key': 'spoof', 'score': 2.0}]
    """
    rows, faults, n_bad = [], [], 0
    for number, line in read_lines(path, _EXPECTED):
        if not line:
            continue
        if layout is None:
            try:
                layout, is_header = cm_layout(line)
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            if is_header:
                continue
        try:
            rows.append(layout.parse(line))
        except InputError as error:
            n_bad += 1
            if n_bad <= _SHOWN:
                faults.append(f"line {number}: {error}")
    if n_bad == 1:
        raise InputError(f"{path}, {faults[0]}")
    if faults:
        if n_bad > _SHOWN:
            faults.append(f"and {n_bad - _SHOWN} more")
        raise InputError(
            f"{path}: {n_bad} lines cannot be used:\n  " + "\n  ".join(faults)
        )
    if not rows:
        raise InputError(f"{path}: no trial in it. {_EXPECTED}")
    return rows


def _header_columns(names):
    """The column of each name of a header, or None if it is no header."""
    names = [name.lower() for name in names]
    columns = [""] * len(names)
    for column, synonyms in HEADER_NAMES.items():
        found = [name for name in synonyms if name in names]
        if found:
            # There may be the ASV system's score, too, under another name.
            columns[names.index(found[0])] = column
        if any(names.count(name) > 1 for name in found):
            raise InputError(
                f"{shorten(found[0])} names more than one column; rename the "
                "others"
            )
    return tuple(columns) if {"utt", "score"} <= set(columns) else None


def _called(separator):
    return {None: "blanks", ",": "commas", "\t": "tabs"}[separator]


def read_cm_scores(path, trials=None, partition=None, need_keys=True):
    """Reads the scores of a countermeasure; see the head of this module.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.
    trials : Sequence of Trial, optional
        The protocol, see ``dataio.protocols.read_protocol``: which trials have
        to have scores, their keys, attacks and speakers.
    partition : str, optional
        Which of the protocol's trials count; scores of the others are passed
        over. By default those of "eval", as in official figures, and all where
        there is no such partition.
    need_keys : bool
        False: scores without keys will do.

    Returns
    -------
    scores : CMScores
        The trials in the file's order.

    Raises
    ------
    InputError
        If the file cannot be read or is not text, or has bad lines (all are
        counted, the first five shown); if an utterance occurs twice, is missing
        or is not in the protocol, or has another key there; if nothing tells
        the keys, or a class is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> _ = path.write_text("LA_1 - bonafide 2.5\\nLA_2 A07 spoof -1\\n")
    >>> scores = read_cm_scores(path)
    >>> scores.attack.tolist(), scores.score.tolist()
    (['-', 'A07'], [2.5, -1.0])
    """
    rows = read_rows(path)
    _refuse_repeats(path, [row["utt"] for row in rows])
    if trials is not None:
        rows = _with_protocol(path, rows, trials, partition)
    has_keys = trials is not None or "key" in rows[0]
    if need_keys and not has_keys:
        raise InputError(
            f"{path}: has no keys, so nothing tells which trials are bona "
            "fide; give the protocol too (--protocol FILE)"
        )
    scores = _as_cm_scores(path, rows, has_keys)
    if has_keys and need_keys:
        n_bonafide = int(scores.is_bonafide.sum())
        _refuse_missing_class(
            path, {"bonafide": n_bonafide, "spoof": len(rows) - n_bonafide}
        )
    return scores


def read_asv_scores(path, protocol=None, partition="eval"):
    """Reads an ASV score file, ``source key score`` (ASVspoof 2019).

    With a protocol it is ``speaker utt score`` (ASVspoof 2021), where the
    speaker is the one that is claimed.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file, UTF-8 text.
    protocol : str or pathlib.Path, optional
        The ASV system's ``trial_metadata.txt`` of ASVspoof 2021, which tells
        the keys.
    partition : str
        Of a protocol, the subset to read.

    Returns
    -------
    scores : ASVScores
        The scores by class.

    Raises
    ------
    InputError
        If the file cannot be read or is not text, has bad lines, or a class is
        missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "asv.txt"
    >>> _ = path.write_text(
    ...     "bonafide target 3\\nbonafide nontarget 1\\nA07 spoof 2\\n"
    ... )
    >>> read_asv_scores(path).spoof
    array([2.])
    """
    if protocol is None:
        rows = read_rows(path, ASV_LAYOUT)
    else:
        rows = _with_asv_protocol(path, protocol, partition)
    values = {key: [] for key in ASV_KEYS}
    for row in rows:
        values[row["key"]].append(row["score"])
    _refuse_missing_class(path, {k: len(v) for k, v in values.items()})
    return ASVScores(
        **{key: np.array(scores) for key, scores in values.items()},
        path=str(path),
    )


def write_cm_scores(path, scores):
    """Writes ``utt source key score`` or, without keys, ``utt score``.

    Arguments
    ---------
    path : str or pathlib.Path
        The score file; it is seen whole or not at all.
    scores : CMScores

    Raises
    ------
    InputError
        If it cannot be written.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> write_cm_scores(path, CMScores(["LA_1"], None, None, np.array([2.5])))
    >>> path.read_text()
    'LA_1 2.5\\n'
    """
    path = Path(path)
    columns = [scores.utt]
    if scores.is_bonafide is not None:
        keys = np.where(scores.is_bonafide, "bonafide", "spoof")
        columns += [scores.attack, keys.tolist()]
    columns.append([repr(score) for score in scores.score.tolist()])
    lines = (" ".join(row) + "\n" for row in zip(*columns))
    try:
        write_atomically(path.parent, {path.name: "".join(lines)})
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); expected a file in "
            "a folder that exists and has room"
        ) from error


def check_trials(scores, expected_utts, source="the protocol"):
    """Refuses scores that are not those of exactly the expected trials.

    Arguments
    ---------
    scores : CMScores
        The scores, see :func:`read_cm_scores`.
    expected_utts : iterable of str
        The utterances that have to have scores, in any order.
    source : str
        Where these are from, for messages.

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
    _check_utts(scores.path, scores.utt.tolist(), set(expected_utts), source)


def _with_protocol(path, rows, trials, partition):
    """The rows of the partition, with what the protocol says of them."""
    known = {trial.partition for trial in trials}
    if partition is None and "eval" in known:
        partition = "eval"
    if partition is not None and partition not in known:
        raise InputError(
            f"{path}: the protocol has no trial of partition {partition!r}; "
            f"expected one of {', '.join(sorted(known))}"
        )
    wanted = {
        trial.utt: trial
        for trial in trials
        if partition is None or trial.partition == partition
    }
    others = {trial.utt for trial in trials if trial.utt not in wanted}
    rows = [row for row in rows if row["utt"] not in others]
    _check_utts(path, [row["utt"] for row in rows], wanted.keys())
    contrary = []
    for row in rows:
        trial = wanted[row["utt"]]
        if row.get("key", trial.label) != trial.label:
            contrary.append(trial.utt)
        row.update(key=trial.label, source=trial.attack, speaker=trial.speaker)
    if contrary:
        raise InputError(
            f"{path}: trials with another key than in the protocol: "
            f"{listed(contrary)}. Give the protocol that belongs to these "
            "scores, or correct the keys"
        )
    return rows


def _with_asv_protocol(path, protocol, partition):
    """The rows of the partition, with the keys of the protocol."""

    def read(path, layout):
        rows = read_rows(path, layout)
        # The same utterance is tried for several speakers.
        names = [f"{row['speaker']} {row['utt']}" for row in rows]
        _refuse_repeats(path, names)
        return dict(zip(names, rows))

    scored = read(path, BARE_ASV_LAYOUT)
    trials = read(protocol, ASV_PROTOCOL_LAYOUT)
    _check_utts(path, scored, trials.keys())
    return [
        {**scored[name], "key": trial["key"]}
        for name, trial in trials.items()
        if trial["subset"] == partition
    ]


def _as_cm_scores(path, rows, has_keys):
    def column(name):
        # There are few attacks and speakers and many lines: keep each name
        # once.
        names = [sys.intern(row.get(name, "-")) for row in rows]
        return np.array(names, dtype=object)

    has_speakers = bool(rows) and "speaker" in rows[0]
    keys = np.array([row.get("key") == "bonafide" for row in rows], dtype=bool)
    return CMScores(
        utt=np.array([row["utt"] for row in rows], dtype=object),
        attack=column("source") if has_keys else None,
        is_bonafide=keys if has_keys else None,
        score=np.array([row["score"] for row in rows], dtype=np.float64),
        path=str(path),
        speaker=column("speaker") if has_speakers else None,
    )


def _check_utts(path, scored, expected, source="the protocol"):
    missing = sorted(expected - set(scored))
    extra = sorted(set(scored) - expected)
    if missing or extra:
        raise InputError(
            f"{path}: missing trials: {listed(missing)}; extra "
            f"trials: {listed(extra)}. Expected exactly the {len(expected)} "
            f"of {source}: score the partition again, or give the file that "
            "belongs to these scores"
        )


def _refuse_repeats(path, utts):
    if len(set(utts)) < len(utts):
        repeated = sorted(utt for utt, n in Counter(utts).items() if n > 1)
        raise InputError(
            f"{path}: utterances given more than once: {listed(repeated)}. "
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
