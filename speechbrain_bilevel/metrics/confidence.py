"""Confidence intervals and paired tests, by resampling the trials.

Intervals are percentiles of the figures of bootstrap resamples (Efron and
Tibshirani, "An introduction to the bootstrap", 1993). The p-value of a
difference between two systems is twice the share of resamples in which it has
the other sign. A figure of 0 has the interval 0 to 0 whatever the number of
trials: resampling cannot make errors that were not made.
"""

import numpy as np
from tqdm import tqdm

from speechbrain_bilevel.metrics.bootstrap import draw_trials
from speechbrain_bilevel.metrics.resampled import ResampledSystem
from speechbrain_bilevel.metrics.results import Estimate

# The central 95 %.
_ENDS = 2.5, 97.5


def interval(value, resampled=None):
    """A figure with the interval that its resamples give.

    Arguments
    ---------
    value : float
        The figure of the trials themselves.
    resampled : array_like, optional
        The figure of each resample; NaN where it had no such trials.

    Returns
    -------
    Estimate
        With the central 95 % of the resamples, if there are any.

    Example
    -------
    >>> interval(50.0, np.arange(101.0))
    Estimate(value=50.0, low=2.5, high=97.5)
    """
    if resampled is None or np.isnan(resampled).all():
        return Estimate(value)
    low, high = np.nanpercentile(resampled, _ENDS)
    return Estimate(value, float(low), float(high))


def p_value(differences):
    """Two-sided p-value of "there is no difference".

    Arguments
    ---------
    differences : numpy.ndarray
        Between two systems, of each resample.

    Returns
    -------
    float
        At least 2 / (resamples + 1), at most 1.

    Example
    -------
    >>> p_value(np.array([0.1, 0.2, 0.3, -0.1, 0.2, 0.1, 0.4, 0.2, 0.1]))
    0.4
    """
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))


def resampled_figures(systems, rates, resample, draws, seed, threshold=None):
    """The figures of resamples; systems with the same trials have the same.

    Arguments
    ---------
    systems : list of CMScores
        Scores of each system.
    rates : ASVRates, optional
        Error rates of the ASV system, for the t-DCF.
    resample : str
        "speakers" or "utterances", see ``metrics.bootstrap``.
    draws : int
        Number of resamples.
    seed : int
        Equal seeds give equal figures.
    threshold : float, optional
        Where to take the actual error rates and t-DCFs.

    Returns
    -------
    list of dict
        For each system, by name of the metric, or ("eer", attack), an array
        with a value for each draw.

    Raises
    ------
    InputError
        If it is over speakers and they are not known or too few.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> scores = CMScores(
    ...     utt=np.array(["a", "b", "c", "d"]),
    ...     attack=np.array(["-", "-", "A07", "A07"]),
    ...     is_bonafide=np.array([True, True, False, False]),
    ...     score=np.array([2.0, 3.0, 0.0, 2.5]),
    ... )
    >>> (figures,) = resampled_figures([scores], None, "utterances", 4, seed=0)
    >>> figures["eer"]
    array([0. , 0. , 0.5, 0. ])
    """
    figures = [{} for _ in systems]
    for group in same_trials(systems):
        order = _by_name(systems[group[0]])
        resampled = []
        for i in group:
            # Where each trial of this system is among the first one's.
            place = np.empty_like(order)
            place[_by_name(systems[i])] = order
            resampled.append(
                ResampledSystem(systems[i], place, rates, threshold)
            )
        for counts in tqdm(
            draw_trials(systems[group[0]], resample, draws, seed),
            "Resampling",
            draws,
            unit="draw",
            leave=False,
            disable=None,
        ):
            for i, system in zip(group, resampled):
                for name, value in system.figures(counts).items():
                    figures[i].setdefault(name, []).append(value)
    return [
        {name: np.array(values) for name, values in system.items()}
        for system in figures
    ]


def usual_resampling(systems):
    """What to resample: speakers where they are known, else utterances.

    Arguments
    ---------
    systems : list of CMScores

    Returns
    -------
    str
        "speakers" if every system has several, else "utterances".

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> usual_resampling([CMScores(None, None, None, None)])
    'utterances'
    """
    several = all(
        scores.speaker is not None and len(set(scores.speaker)) > 1
        for scores in systems
    )
    return "speakers" if several else "utterances"


def same_trials(systems):
    """Which systems can be compared trial by trial.

    Arguments
    ---------
    systems : list of CMScores

    Returns
    -------
    list of list of int
        Indices of the systems, those with the same trials together.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> def system(*utts):
    ...     return CMScores(np.array(utts), None, np.ones(len(utts)), None)
    >>> same_trials([system("a", "b"), system("c", "d"), system("b", "a")])
    [[0, 2], [1]]
    """
    groups = {}
    for i, scores in enumerate(systems):
        order = _by_name(scores)
        keys = scores.is_bonafide[order].tobytes()
        trials = "\n".join(scores.utt[order].tolist()), keys
        groups.setdefault(trials, []).append(i)
    return list(groups.values())


def attack_trials(scores):
    """Which of the spoofed trials are whose.

    Arguments
    ---------
    scores : CMScores

    Returns
    -------
    dict of str to numpy.ndarray
        For each attack, sorted by name, its positions in ``scores.spoof``.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> attacks = np.array(["A08", "-", "A07", "A08"])
    >>> attack_trials(CMScores(None, attacks, attacks == "-", None))
    {'A07': array([1]), 'A08': array([0, 2])}
    """
    names, attack = np.unique(
        scores.attack[~scores.is_bonafide], return_inverse=True
    )
    order = np.argsort(attack, kind="stable")
    ends = np.cumsum(np.bincount(attack))
    return dict(zip(names.tolist(), np.split(order, ends[:-1])))


def _by_name(scores):
    return np.argsort(scores.utt, kind="stable")
