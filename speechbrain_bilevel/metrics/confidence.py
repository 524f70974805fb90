"""Confidence intervals and paired tests, by resampling the trials.

Intervals are bias-corrected percentiles of the figures of bootstrap resamples
(Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 14,
without acceleration). A minimum over thresholds comes out too low, in resamples
still more than in the trials themselves; the correction makes up for most of
that. The p-value of a difference between two systems is twice the share of
resamples in which it has the other sign. A figure of 0 has the interval 0 to 0
whatever the number of trials: resampling cannot make errors that were not made.
"""

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from speechbrain_bilevel.metrics.bootstrap import UNKNOWN, draw_trials
from speechbrain_bilevel.metrics.resampled import ResampledSystem
from speechbrain_bilevel.metrics.results import Estimate
from speechbrain_bilevel.metrics.scores import by_name

#: Of fewer trials or speakers, resampling tells nothing worth knowing.
FEWEST = 10

# The central 95 %.
_ENDS = 0.025, 0.975


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
        With the central 95 % of the resamples, corrected for bias, if there
        are any.

    Example
    -------
    >>> resampled = np.arange(101.0)
    >>> for value in 50.0, 60.0:
    ...     found = interval(value, resampled)
    ...     print(f"{found.low:.1f} to {found.high:.1f}")
    2.5 to 97.5
    7.2 to 99.3
    """
    if resampled is None or np.isnan(resampled).all():
        return Estimate(value)
    resampled = np.asarray(resampled)[~np.isnan(resampled)]
    below = np.mean(resampled < value) + np.mean(resampled == value) / 2
    finest = 0.5 / len(resampled)
    bias = ndtri(np.clip(below, finest, 1 - finest))
    ends = np.quantile(resampled, ndtr(2 * bias + ndtri(_ENDS)))
    return Estimate(value, *ends.tolist())


def difference_interval(first, second, resampled):
    """The difference of two figures with its interval.

    Arguments
    ---------
    first : float
    second : float
    resampled : numpy.ndarray
        The difference in each resample. Nothing is corrected, since what two
        systems have in common cancels out; so interval and ``p_value`` agree.

    Returns
    -------
    Estimate
        Of the first minus the second.

    Example
    -------
    >>> difference_interval(3.0, 1.0, np.arange(101.0) / 50 + 1)
    Estimate(value=2.0, low=1.05, high=2.95)
    """
    return Estimate(first - second, *np.quantile(resampled, _ENDS).tolist())


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
        # Sorted, all have the trials at the same places.
        alike = [by_name(systems[i]) for i in group]
        resampled = [ResampledSystem(s, rates, threshold) for s in alike]
        for counts in tqdm(
            draw_trials(alike[0], resample, draws, seed),
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
    """What to resample: speakers where enough are known, else utterances.

    Arguments
    ---------
    systems : list of CMScores

    Returns
    -------
    str
        "speakers" or "utterances".

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> usual_resampling([CMScores(None, None, None, None)])
    'utterances'
    """
    enough = all(n_speakers(scores) >= FEWEST for scores in systems)
    return "speakers" if enough else "utterances"


def n_speakers(scores):
    """How many speakers the rarer class has.

    Arguments
    ---------
    scores : CMScores

    Returns
    -------
    int
        0 if not all speakers are known.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> speakers = np.array(["S1", "S1", "S2"])
    >>> keys = np.array([True, False, False])
    >>> n_speakers(CMScores(None, None, keys, None, speaker=speakers))
    1
    """
    if scores.speaker is None or UNKNOWN in scores.speaker:
        return 0
    keys = scores.is_bonafide
    classes = scores.speaker[keys], scores.speaker[~keys]
    return min(len(set(speakers)) for speakers in classes)


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
    >>> trials = [["a", "b"], ["c", "d"], ["b", "a"]]
    >>> same_trials([CMScores(utts, None, None, None) for utts in trials])
    [[0, 2], [1]]
    """
    groups = {}
    for i, scores in enumerate(systems):
        groups.setdefault(frozenset(scores.utt), []).append(i)
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
