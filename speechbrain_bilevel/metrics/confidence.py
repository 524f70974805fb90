"""Confidence intervals and paired tests, by resampling the trials.

Intervals are percentiles of the figures of bootstrap resamples (Efron and
Tibshirani, "An introduction to the bootstrap", 1993). The p-value of a
difference between two systems is twice the share of resamples in which it has
the other sign. A figure of 0 has the interval 0 to 0 whatever the number of
trials: resampling cannot make errors that were not made.
"""

import numpy as np
from tqdm import tqdm

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.metrics.asvspoof5 import (
    BAYES_THRESHOLD,
    bits,
    dcf_coefficients,
)
from speechbrain_bilevel.metrics.bootstrap import (
    Ranking,
    cumulate,
    speaker_draws,
    utterance_draws,
)
from speechbrain_bilevel.metrics.results import Estimate
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients

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
            resampled.append(_Resampled(systems[i], place, rates, threshold))
        for counts in tqdm(
            _draws(systems[group[0]], resample, draws, seed),
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


def _draws(scores, resample, draws, seed):
    if resample == "utterances":
        # A spoofed trial may have any attack, even "-", but not "".
        groups = np.where(scores.is_bonafide, "", scores.attack)
        return utterance_draws(groups, draws, seed)
    if scores.speaker is None:
        raise InputError(
            f"{scores.path}: resampling over speakers needs to know them; give "
            "the protocol too, or resample over utterances"
        )
    return speaker_draws(scores.speaker, scores.is_bonafide, draws, seed)


class _Resampled:
    """One system's figures for a resample of its trials."""

    def __init__(self, scores, place, rates, threshold):
        order = np.argsort(scores.score, kind="stable")
        is_bonafide = scores.is_bonafide[order]
        bonafide = scores.score[order][is_bonafide]
        spoof = scores.score[order][~is_bonafide]
        attack = scores.attack[order][~is_bonafide]
        # Where the counts of these trials are, in order of the scores.
        self.bonafide = place[order][is_bonafide]
        self.spoof = place[order][~is_bonafide]
        self.ranking = Ranking(bonafide, spoof)
        self.attacks = {}
        for name in set(attack.tolist()):
            trials = np.flatnonzero(attack == name)
            self.attacks["eer", name] = trials, Ranking(bonafide, spoof[trials])
        tdcf = {}
        if rates is not None:
            for form in "legacy", "revised":
                tdcf[f"tdcf_{form}"] = tdcf_coefficients(rates, form=form)
        # As linear functions of the error rates.
        self.minima = {f"min_{form}": costs for form, costs in tdcf.items()}
        self.minima["min_dcf"] = 0.0, *dcf_coefficients()
        self.actual = {}
        if threshold is not None:
            self.actual = {"frr": (0, 1, 0), "far": (0, 0, 1)}
            for form, costs in tdcf.items():
                self.actual[f"act_{form}"] = costs
            self.rejected = [
                np.searchsorted(ranked, threshold, side="right")
                for ranked in (bonafide, spoof)
            ]
        self.bits = bits(-bonafide) / 2, bits(spoof) / 2
        self.below_bayes = [
            np.searchsorted(ranked, BAYES_THRESHOLD)
            for ranked in (bonafide, spoof)
        ]

    def figures(self, counts):
        """The figures by name, for how often each trial was drawn."""
        bonafide_counts, spoof_counts = (
            counts[self.bonafide],
            counts[self.spoof],
        )
        bonafide, spoof = cumulate(bonafide_counts), cumulate(spoof_counts)
        figures = {"eer": self.ranking.eer(bonafide, spoof)}

        frr, far = self.ranking.corners(bonafide, spoof)
        for name, (accept, miss, false_alarm) in self.minima.items():
            figures[name] = accept + (miss * frr + false_alarm * far).min()

        def at(ranks):
            return (
                bonafide[ranks[0]] / bonafide[-1],
                1 - spoof[ranks[1]] / spoof[-1],
            )

        frr, far = at(self.below_bayes)
        miss, false_alarm = dcf_coefficients()
        figures["act_dcf"] = miss * frr + false_alarm * far
        for name, (accept, miss, false_alarm) in self.actual.items():
            frr, far = at(self.rejected)
            figures[name] = accept + miss * frr + false_alarm * far

        # Not a product of vectors: several threads would not add them up in the
        # same order, and wait for one another on a busy machine.
        figures["cllr"] = (
            np.sum(bonafide_counts * self.bits[0]) / bonafide[-1]
            + np.sum(spoof_counts * self.bits[1]) / spoof[-1]
        )
        for name, (trials, ranking) in self.attacks.items():
            of_attack = cumulate(spoof_counts[trials])
            figures[name] = ranking.eer(bonafide, of_attack)
        return figures
