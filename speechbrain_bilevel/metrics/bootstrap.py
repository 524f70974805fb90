"""Resampling of trials: how often each of them is in a draw."""

import numpy as np

from speechbrain_bilevel.errors import InputError

#: What stands for a speaker of whom nothing is known.
UNKNOWN = "-"


def draw_trials(scores, resample, draws, seed):
    """Resamples the trials of a system.

    Arguments
    ---------
    scores : CMScores
        The trials.
    resample : str
        "utterances", see ``utterance_draws``, or "speakers", see
        ``speaker_draws``.
    draws : int
        How often.
    seed : int
        Equal seeds give equal draws.

    Returns
    -------
    iterator of numpy.ndarray
        How often each trial was drawn, int64, shape [n_trials].

    Raises
    ------
    InputError
        If it is over speakers and they are not known or too few.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> attack = np.array(["-", "A07", "A07"])
    >>> scores = CMScores(attack, attack, attack == "-", np.zeros(3))
    >>> list(draw_trials(scores, "utterances", draws=2, seed=0))
    [array([1, 0, 2]), array([1, 1, 1])]
    """
    if resample == "utterances":
        # A spoofed trial may have any attack, even "-", but not "".
        groups = np.where(scores.is_bonafide, "", scores.attack)
        return utterance_draws(groups, draws, seed)
    if scores.speaker is None:
        raise InputError(
            f"{scores.path}: resampling over speakers needs to know them; give "
            "the protocol too, or resample over utterances"
        )
    unknown = int(np.sum(scores.speaker == UNKNOWN))
    if unknown:
        raise InputError(
            f"{scores.path}: {unknown} of {len(scores.speaker)} trials have no "
            f"speaker but {UNKNOWN!r}; resample over utterances"
        )
    return speaker_draws(scores.speaker, scores.is_bonafide, draws, seed)


def utterance_draws(groups, draws, seed):
    """Resamples trials with replacement, within each group.

    Which attacks there are, and how many trials of each, is the design of a
    corpus and no chance; so every draw has as many trials of each group.

    Arguments
    ---------
    groups : array_like of str
        The attack of each trial, a name that no attack has for bona fide
        ones, shape [n_trials].
    draws : int
        How often.
    seed : int
        Equal seeds give equal draws.

    Yields
    ------
    numpy.ndarray
        How often each trial was drawn, int64, shape [n_trials].

    Example
    -------
    >>> groups = ["-", "A07", "-", "A07", "A07"]
    >>> for counts in utterance_draws(groups, draws=3, seed=0):
    ...     print(counts, counts[[0, 2]].sum(), counts[[1, 3, 4]].sum())
    [0 2 2 1 0] 2 3
    [2 2 0 0 1] 2 3
    [0 0 2 2 1] 2 3
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    for _ in range(draws):
        counts = np.empty(len(group), dtype=np.int64)
        for trials in members:
            n = len(trials)
            counts[trials] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield counts


def speaker_draws(speakers, is_bonafide, draws, seed):
    """Resamples speakers with replacement, each with all their trials.

    Trials of one speaker resemble one another, so they tell less than as many
    independent ones; resampling them one by one gives intervals that are too
    narrow. Draws without bona fide or without spoofed trials are made again.

    Arguments
    ---------
    speakers : array_like of str
        The speaker of each trial, shape [n_trials].
    is_bonafide : numpy.ndarray
        Which trials are bona fide, bool, shape [n_trials].
    draws : int
        How often.
    seed : int
        Equal seeds give equal draws.

    Yields
    ------
    numpy.ndarray
        How often each trial was drawn, int64, shape [n_trials].

    Raises
    ------
    InputError
        If there are fewer than two speakers, or draws with both classes are
        too rare to be found.

    Example
    -------
    >>> speakers, keys = ["S1", "S1", "S2", "S2"], np.array([True, False] * 2)
    >>> for counts in speaker_draws(speakers, keys, draws=3, seed=1):
    ...     print(counts)
    [1 1 1 1]
    [0 0 2 2]
    [2 2 0 0]
    """
    rng = np.random.default_rng(seed)
    names, speaker = np.unique(speakers, return_inverse=True)
    if len(names) < 2:
        raise InputError(
            f"resampling over speakers needs at least 2 of them, found "
            f"{len(names)}; resample over utterances"
        )
    made, tries = 0, 0
    while made < draws:
        drawn = rng.integers(len(names), size=len(names))
        counts = np.bincount(drawn, minlength=len(names))[speaker]
        tries += 1
        if counts[is_bonafide].any() and counts[~is_bonafide].any():
            made += 1
            yield counts
        elif tries > 100 * (made + 1):
            raise InputError(
                "resampling over speakers hardly ever draws both bona fide "
                "and spoofed trials, since too few speakers have them; "
                "resample over utterances"
            )
