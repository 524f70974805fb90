"""Resampling of trials: how often each of them is in a draw."""

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from speechbrain_bilevel.evaluation.results import Estimate
from speechbrain_bilevel.evaluation.score_files import by_name
from speechbrain_bilevel.metrics.asvspoof5 import (
    BAYES_THRESHOLD,
    bits,
    dcf_coefficients,
)
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients
from speechbrain_bilevel.utils.errors import InputError

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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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


class Ranking:
    """Two classes in order of their scores, for error rates of resamples.

    Trials that occur several times count as in
    :func:`~speechbrain_bilevel.metrics.eer.det_curve`: the figures are those of
    a file with as many lines.

    Arguments
    ---------
    bonafide : numpy.ndarray
        Scores of the bona fide trials, ascending, shape [n_bonafide].
    spoof : numpy.ndarray
        Scores of the spoofed trials, ascending, shape [n_spoof].

    Example
    -------
    >>> ranking = Ranking(np.array([2.0, 4.0, 5.0, 6.0]), np.array([1.0, 3.0]))
    >>> bonafide, spoof = cumulate([1, 1, 1, 1]), cumulate([0, 1])
    >>> ranking.eer(bonafide, spoof)
    0.125
    >>> frr, far = ranking.corners(bonafide, spoof)
    >>> frr.tolist(), far.tolist()
    ([0.0, 0.25, 0.5, 0.75, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, bonafide, spoof):
        # Of equal scores the bona fide ones come first.
        below = np.searchsorted(spoof, bonafide)
        self.spoof_below = np.append(below, len(spoof))

    def corners(self, bonafide, spoof):
        """Error rates at the thresholds where a weighted sum can be lowest.

        These are the points before a bona fide trial is rejected, and the last
        one: rejecting more spoofed trials costs nothing.

        Arguments
        ---------
        bonafide : numpy.ndarray
            Trials up to each rank, see ``cumulate``, shape [n_bonafide + 1].
        spoof : numpy.ndarray
            The same, shape [n_spoof + 1].

        Returns
        -------
        frr : numpy.ndarray
            Share of bona fide trials rejected, shape [n_bonafide + 1].
        far : numpy.ndarray
            Share of spoofed trials accepted, the same shape.
        """
        frr = bonafide / bonafide[-1]
        far = (spoof[-1] - spoof[self.spoof_below]) / spoof[-1]
        return frr, far

    def eer(self, bonafide, spoof):
        """Equal error rate of a resample.

        Arguments
        ---------
        bonafide : numpy.ndarray
            Trials up to each rank, see ``cumulate``, shape [n_bonafide + 1].
        spoof : numpy.ndarray
            The same, shape [n_spoof + 1].

        Returns
        -------
        float
            As a fraction; NaN if a class is not in the resample.
        """
        n_bonafide, n_spoof = int(bonafide[-1]), int(spoof[-1])
        if n_bonafide == 0 or n_spoof == 0:
            return float("nan")
        # FRR - FAR, times the number of pairs, rises along the corners.
        balance = bonafide * n_spoof + spoof[self.spoof_below] * n_bonafide
        corner = int(np.searchsorted(balance, n_bonafide * n_spoof))
        before = self.spoof_below[corner - 1] if corner else 0
        rejected, passed = int(bonafide[corner]), int(spoof[before])
        if rejected * n_spoof + passed * n_bonafide >= n_bonafide * n_spoof:
            # Reached among the copies of the bona fide trial just rejected.
            fewest = n_bonafide * (n_spoof - passed) // n_spoof
            points = [(fewest, passed), (fewest + 1, passed)]
        else:
            fewest = n_spoof * (n_bonafide - rejected) // n_bonafide
            points = [(rejected, fewest), (rejected, fewest + 1)]
        rates = [
            (b / n_bonafide, (n_spoof - s) / n_spoof)
            for b, s in points
            if b <= n_bonafide and s <= n_spoof
        ]
        frr, far = min(rates, key=lambda rate: abs(rate[0] - rate[1]))
        return (frr + far) / 2


def cumulate(counts):
    """Cumulates how often each trial was drawn.

    Arguments
    ---------
    counts : array_like
        Of trials in ascending order of their scores, shape [n_trials].

    Returns
    -------
    numpy.ndarray
        Trials up to each rank, from 0, int64, shape [n_trials + 1].

    Example
    -------
    >>> cumulate([2, 0, 1])
    array([0, 2, 2, 3])
    """
    cumulated = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=cumulated[1:])
    return cumulated


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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
