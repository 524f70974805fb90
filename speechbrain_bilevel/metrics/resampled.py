"""The figures of a system for resamples of its trials."""

import numpy as np

from speechbrain_bilevel.metrics.asvspoof5 import (
    BAYES_THRESHOLD,
    bits,
    dcf_coefficients,
)
from speechbrain_bilevel.metrics.ranking import Ranking, cumulate
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients


class ResampledSystem:
    """One system's figures for any resample of its trials.

    Arguments
    ---------
    scores : CMScores
        The system's scores.
    rates : ASVRates, optional
        Error rates of the ASV system, for the t-DCF.
    threshold : float, optional
        Where to take the actual error rates and t-DCFs.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> attack = np.array(["-", "-", "A07", "A07"])
    >>> score = np.array([2.0, 3.0, 0.0, 2.5])
    >>> scores = CMScores(attack, attack, attack == "-", score)
    >>> system = ResampledSystem(scores)
    >>> system.figures(np.array([0, 2, 1, 1]))["eer"]
    0.0
    """

    def __init__(self, scores, rates=None, threshold=None):
        order = np.argsort(scores.score, kind="stable")
        is_bonafide = scores.is_bonafide[order]
        bonafide = scores.score[order][is_bonafide]
        spoof = scores.score[order][~is_bonafide]
        attack = scores.attack[order][~is_bonafide]
        # Where the counts of these trials are, in order of the scores.
        self.bonafide, self.spoof = order[is_bonafide], order[~is_bonafide]
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
        """The figures of a resample.

        Arguments
        ---------
        counts : numpy.ndarray
            How often each trial was drawn, int64, shape [n_trials].

        Returns
        -------
        dict
            By name of the metric, or ("eer", attack); NaN for an attack
            without a trial in the resample.
        """
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
