"""Bootstrap: figures of resampled trials, intervals and p-values from them."""

import bisect
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from speechbrain_bilevel.dataio import BONAFIDE
from speechbrain_bilevel.metrics.asvspoof5 import (
    BAYES_THRESHOLD,
    DCF_WEIGHTS,
    bits,
)
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients
from speechbrain_bilevel.utils.errors import InputError

#: Too few trials of a class, or speakers, for an interval.
MIN_FOR_INTERVAL = 10

# The speaker of trials of which nobody knows who speaks.
_UNKNOWN = "-"
# The central 95 %.
_ENDS = 0.025, 0.975


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Arguments
    ---------
    value : float
        Error rates are fractions.
    low, high : float, optional
        Ends of the 95 % interval; None without resampling.
    """

    value: float
    low: float | None = None
    high: float | None = None


def interval(value, resampled=None, correct_bias=True):
    """Attach to a figure the interval that its resamples give.

    Arguments
    ---------
    value : float
        The figure of the trials themselves.
    resampled : array_like, optional
        The figure of each resample; NaN where it had no such trials.
    correct_bias : bool
        Of a difference, False: what two systems have in common cancels out, and
        interval and ``p_value`` agree.

    Returns
    -------
    Estimate
        With the central 95 % of the resamples, if there are any.

    References
    ----------
    * B. Efron, "Nonparametric standard errors and confidence intervals",
      Canadian Journal of Statistics 9, 1981 (bias-corrected percentiles).

    Example
    -------
    >>> for value in 50.0, 60.0:
    ...     found = interval(value, np.arange(101.0))
    ...     print(f"{found.low:.1f} to {found.high:.1f}")
    2.5 to 97.5
    7.2 to 99.3
    """
    if resampled is None or np.isnan(resampled).all():
        return Estimate(value)
    resampled = np.asarray(resampled)[~np.isnan(resampled)]
    ends = _ENDS
    if correct_bias:
        below = np.mean(resampled < value) + np.mean(resampled == value) / 2
        finest = 0.5 / len(resampled)
        bias = ndtri(np.clip(below, finest, 1 - finest))
        ends = ndtr(2 * bias + ndtri(_ENDS))
    return Estimate(value, *np.quantile(resampled, ends).tolist())


def p_value(differences):
    """Compute the two-sided p-value of "there is no difference".

    Arguments
    ---------
    differences : numpy.ndarray
        Between two systems, in each resample.

    Returns
    -------
    float
        At least 2 / (n_resamples + 1), at most 1.

    Example
    -------
    >>> p_value(np.array([0.1, 0.2, 0.3, -0.1, 0.2, 0.1, 0.4, 0.2, 0.1]))
    0.4
    """
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))


def count_speakers(scores):
    """Count the speakers of the class with fewer; 0 if not all are known."""
    if "speaker" not in scores or (scores.speaker == _UNKNOWN).any():
        return 0
    is_bonafide = scores.label == BONAFIDE
    classes = scores.speaker[is_bonafide], scores.speaker[~is_bonafide]
    return min(speakers.nunique() for speakers in classes)


def default_resampling(systems):
    """Choose what to resample: speakers where enough are known.

    Arguments
    ---------
    systems : list of pandas.DataFrame

    Returns
    -------
    str
        "speakers" or "utterances".

    Example
    -------
    >>> import pandas as pd
    >>> default_resampling([pd.DataFrame({"score": [1.0, 2.0]})])
    'utterances'
    """
    enough = (count_speakers(each) >= MIN_FOR_INTERVAL for each in systems)
    return "speakers" if all(enough) else "utterances"


def resample(scores, over, n_resamples, seed):
    """Resample the trials of a system with replacement.

    Arguments
    ---------
    scores : pandas.DataFrame
    over : str
        "utterances": within each attack and within bona fide speech, because
        how many trials of each there are is the design of a corpus, not chance.
        "speakers": each with all their trials. These resemble one another, so
        that resampling utterances makes intervals too narrow. Resamples that
        lack a class are drawn again.
    n_resamples : int
    seed : int
        Equal seeds give equal resamples.

    Yields
    ------
    numpy.ndarray
        How often each trial is in the resample, int64, [n_trials].

    Raises
    ------
    InputError
        If speakers are not known, fewer than two, or resamples with both
        classes are too rare to be found.

    Example
    -------
    >>> import pandas as pd
    >>> labels = ["bonafide", "spoof", "bonafide", "spoof"]
    >>> scores = pd.DataFrame({
    ...     "label": labels,
    ...     "attack": ["-", "A07", "-", "A07"],
    ...     "speaker": ["S1", "S1", "S2", "S2"],
    ... })
    >>> list(resample(scores, "utterances", n_resamples=2, seed=0))
    [array([0, 1, 2, 1]), array([2, 2, 0, 0])]
    >>> list(resample(scores, "speakers", n_resamples=2, seed=1))
    [array([1, 1, 1, 1]), array([0, 0, 2, 2])]
    """
    rng = np.random.default_rng(seed)
    is_bonafide = (scores.label == BONAFIDE).to_numpy()
    if over == "speakers":
        speaker, n_speakers = _known_speakers(scores)
        return _draw_speakers(
            rng, speaker, n_speakers, is_bonafide, n_resamples
        )
    attack, _ = _encode(scores.attack)
    # Bona fide trials are the first group.
    attack[is_bonafide] = -1
    groups = [np.flatnonzero(attack == each) for each in np.unique(attack)]
    return _draw_utterances(rng, groups, n_resamples)


def _draw_utterances(rng, groups, n_resamples):
    for _ in range(n_resamples):
        counts = np.empty(sum(map(len, groups)), dtype=np.int64)
        for trials in groups:
            n = len(trials)
            counts[trials] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield counts


def _draw_speakers(rng, speaker, n, is_bonafide, n_resamples):
    # How many trials of either class each speaker has.
    n_bonafide = np.bincount(speaker[is_bonafide], minlength=n)
    n_spoof = np.bincount(speaker[~is_bonafide], minlength=n)
    made, tries = 0, 0
    while made < n_resamples:
        counts = np.bincount(rng.integers(n, size=n), minlength=n)
        tries += 1
        if counts @ n_bonafide and counts @ n_spoof:
            made += 1
            yield counts[speaker]
        elif tries > 100 * (made + 1):
            raise InputError(
                "resampling over speakers hardly ever draws both bona fide "
                "and spoofed trials, since too few speakers have them; "
                "resample over utterances"
            )


def _known_speakers(scores):
    """The speaker of each trial as an index, and how many there are."""
    path = scores.attrs.get("path", "scores")
    if "speaker" not in scores:
        raise InputError(
            f"{path}: resampling over speakers needs to know them; give the "
            "protocol too, or resample over utterances"
        )
    n_unknown = int((scores.speaker == _UNKNOWN).sum())
    if n_unknown:
        raise InputError(
            f"{path}: {n_unknown} of {len(scores)} trials have no speaker but "
            f"{_UNKNOWN!r}; resample over utterances"
        )
    speaker, names = _encode(scores.speaker)
    if len(names) < 2:
        raise InputError(
            f"{path}: resampling over speakers needs at least 2 of them, found "
            f"{len(names)}; resample over utterances"
        )
    return speaker, len(names)


def _encode(column):
    """The values of a column as indices, and its names, sorted."""
    names = sorted(column.unique())
    codes = column.astype("category").cat.set_categories(names).cat.codes
    return codes.to_numpy().astype(np.int64), names


def resample_figures(
    systems, over, n_resamples, seed, rates=None, threshold=None
):
    """Compute all figures of resamples, the same ones for all systems.

    Arguments
    ---------
    systems : list of pandas.DataFrame
        The same trials in the same order.
    over, n_resamples, seed
        See ``resample``.
    rates : ASVRates, optional
        For the t-DCF.
    threshold : float, optional
        Where to take the actual error rates and t-DCFs.

    Returns
    -------
    list of dict
        For each system, by name of the metric or ("eer", attack), an array with
        a value for each resample; NaN where it had no trial of the attack.
    """
    ranked = [_RankedScores(scores, rates, threshold) for scores in systems]
    resamples = resample(systems[0], over, n_resamples, seed)
    bar = {"desc": "Resampling", "total": n_resamples, "leave": False}
    found = [
        [system.figures(counts) for system in ranked]
        for counts in tqdm(resamples, disable=None, **bar)
    ]
    return [
        {name: np.array([each[name] for each in column]) for name in column[0]}
        for column in zip(*found)
    ]


class _RankedScores:
    """The scores of a system in ascending order, for figures of resamples.

    The figures are those of a file with as many lines as a trial is drawn.
    """

    def __init__(self, scores, rates=None, threshold=None):
        score = scores.score.to_numpy()
        order = np.argsort(score, kind="stable")
        is_bonafide = (scores.label == BONAFIDE).to_numpy()[order]
        # Where the counts of these trials are, in order of the scores.
        self.bonafide, self.spoof = order[is_bonafide], order[~is_bonafide]
        bonafide, spoof = score[self.bonafide], score[self.spoof]
        self.below = _count_below(bonafide, spoof)
        self.bits = bits(-bonafide) / 2, bits(spoof) / 2

        # Of each attack, where its trials are once they are sorted by attack.
        attack, names = _encode(scores.attack.iloc[self.spoof])
        self.by_attack = np.argsort(attack, kind="stable")
        edges = np.searchsorted(attack[self.by_attack], range(len(names) + 1))
        self.attacks = {}
        for name, start, end in zip(names, edges, edges[1:]):
            of_attack = spoof[self.by_attack[start:end]]
            below = _count_below(bonafide, of_attack)
            self.attacks["eer", name] = start, end, below

        # Costs are linear functions a + b FRR + c FAR of the error rates, at
        # the best threshold or at fixed ones.
        tdcf = {}
        if rates is not None:
            for form in "legacy", "revised":
                tdcf[f"tdcf_{form}"] = tdcf_coefficients(rates, form=form)
        dcf = 0.0, *DCF_WEIGHTS
        self.minima = {f"min_{name}": cost for name, cost in tdcf.items()}
        self.minima["min_dcf"] = dcf
        # A score at Bayes' threshold is accepted, one at the given rejected.
        rejected = [
            np.searchsorted(x, BAYES_THRESHOLD) for x in (bonafide, spoof)
        ]
        self.actual = {"act_dcf": (dcf, rejected)}
        if threshold is not None:
            given = [
                np.searchsorted(x, threshold, "right")
                for x in (bonafide, spoof)
            ]
            costs = {"frr": (0, 1, 0), "far": (0, 0, 1)}
            costs |= {f"act_{name}": cost for name, cost in tdcf.items()}
            self.actual |= {name: (cost, given) for name, cost in costs.items()}

    def figures(self, counts):
        """All figures, given how often each trial is in the resample."""
        bonafide_counts = counts[self.bonafide]
        spoof_counts = counts[self.spoof]
        bonafide, spoof = _cumulate(bonafide_counts), _cumulate(spoof_counts)
        figures = {"eer": _eer(bonafide, spoof, self.below)}

        # A cost can be lowest before a bona fide trial is rejected, and at the
        # end: rejecting more spoofed trials costs nothing.
        frr = bonafide / bonafide[-1]
        far = (spoof[-1] - spoof[self.below]) / spoof[-1]
        for name, (accept, miss, false_alarm) in self.minima.items():
            figures[name] = accept + (miss * frr + false_alarm * far).min()
        for name, ((accept, miss, false_alarm), ranks) in self.actual.items():
            frr = bonafide[ranks[0]] / bonafide[-1]
            far = 1 - spoof[ranks[1]] / spoof[-1]
            figures[name] = accept + miss * frr + false_alarm * far

        # Not a product of vectors: several threads would not add them up in the
        # same order, and wait for one another on a busy machine.
        figures["cllr"] = (
            np.sum(bonafide_counts * self.bits[0]) / bonafide[-1]
            + np.sum(spoof_counts * self.bits[1]) / spoof[-1]
        )
        spoof = _cumulate(spoof_counts[self.by_attack])
        for name, (start, end, below) in self.attacks.items():
            of_attack = spoof[start : end + 1] - spoof[start]
            figures[name] = _eer(bonafide, of_attack, below)
        return figures


def _count_below(bonafide, spoof):
    """Spoofed trials that are rejected before each bona fide one; then all."""
    # Of equal scores the bona fide ones come first.
    return np.append(np.searchsorted(spoof, bonafide), len(spoof))


def _cumulate(counts):
    """Trials up to each rank, from 0."""
    cumulated = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=cumulated[1:])
    return cumulated


def _eer(bonafide, spoof, below):
    """The equal error rate, given the trials up to each rank.

    By bisection, because there are a thousand resamples.
    """
    n_bonafide, n_spoof = int(bonafide[-1]), int(spoof[-1])
    if n_bonafide == 0 or n_spoof == 0:
        return float("nan")

    def balance(point):
        # FRR - FAR + 1, times the number of pairs, rises from one point before
        # a bona fide trial is rejected to the next.
        rejected = bonafide[point], spoof[below[point]]
        return rejected[0] * n_spoof + rejected[1] * n_bonafide

    n_pairs = n_bonafide * n_spoof
    point = bisect.bisect_left(range(len(below)), n_pairs, key=balance)
    before = below[point - 1] if point else 0
    rejected, passed = int(bonafide[point]), int(spoof[before])
    if rejected * n_spoof + passed * n_bonafide >= n_pairs:
        # It is 0 among the copies of the bona fide trial just rejected.
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
