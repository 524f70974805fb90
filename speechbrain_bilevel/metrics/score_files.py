"""Files of scores, of a countermeasure (CM) and of an ASV system.

A CM's score file is one of

* ``utt source key score`` (ASVspoof 2019), key ``bonafide`` or ``spoof``;
* ``utt score`` (ASVspoof 2021); a protocol tells the keys;
* a table with a header, separated by commas or tabs (ASVspoof 5).

An ASV system's has lines ``source key score``, key ``target``, ``nontarget``
or ``spoof``. What cannot be used is refused by file, line and trial; a score
file with a broken, repeated or missing trial has no valid error rate.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import write_atomically
from speechbrain_bilevel.metrics.score_lines import (
    ASV_KEYS,
    ASV_LAYOUT,
    ASV_PROTOCOL_LAYOUT,
    BARE_ASV_LAYOUT,
    read_rows,
)
from speechbrain_bilevel.metrics.scores import ASVScores, CMScores
from speechbrain_bilevel.text import listed


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
