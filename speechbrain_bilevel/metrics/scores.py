"""Scores of a countermeasure (CM) and of a speaker verification system (ASV)."""

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import listed


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
