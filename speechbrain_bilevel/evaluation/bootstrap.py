"""Bootstrap: figures of resampled trials, their intervals and p-values."""

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

#: Least number of trials of a class, or of speakers, for an interval.
MIN_FOR_INTERVAL = 10

# The speaker of a trial if it is unknown.
_UNKNOWN = "-"
# The central 95 %.
_ENDS = 0.025, 0.975


@dataclass(frozen=True)
class Estimate:
    """A figure (error rates are fractions) and its 95 % interval, if any."""

    value: float
    low: float | None = None
    high: float | None = None


def interval(value, resampled=None, correct_bias=True):
    """Return a figure with the central 95 % of its resamples, if there are any.

    ``resampled`` has the figure of each resample, NaN where it is undefined.
    Percentiles are bias-corrected (B. Efron, "Nonparametric standard errors and
    confidence intervals", Canadian Journal of Statistics 9, 1981). For a
    difference, set ``correct_bias`` to False: what two systems have in common
    cancels out, and interval and ``p_value`` agree.
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
    """Return the two-sided p-value of "there is no difference".

    ``differences`` has that of two systems in each resample; the p-value is at
    least 2 / (n_resamples + 1).
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
    """Return "speakers" if all systems have enough, otherwise "utterances"."""
    enough = (count_speakers(each) >= MIN_FOR_INTERVAL for each in systems)
    return "speakers" if all(enough) else "utterances"


def resample(scores, over, n_resamples, seed):
    """Draw trials with replacement; yield how often each is drawn, [n_trials].

    Over "utterances", trials are drawn within each attack and within bona fide
    speech, because their numbers are by design of the corpus, not by chance.
    Over "speakers", each speaker brings all trials: these are similar, so that
    resampling utterances makes intervals too narrow. Resamples that lack a
    class are drawn again. Equal seeds give equal resamples.

    Raise an ``InputError`` if speakers are unknown or fewer than two, or
    resamples with both classes are too rare.
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
    # The number of trials of each class that each speaker has.
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
    """Return the speaker of each trial as an index, and how many there are."""
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
    """Return the values of a column as indices, and its names, sorted."""
    names = sorted(column.unique())
    codes = column.astype("category").cat.set_categories(names).cat.codes
    return codes.to_numpy().astype(np.int64), names


def subsets(scores, by=()):
    """Return the trials of each value of a column, by (column, value).

    Arguments
    ---------
    scores : pandas.DataFrame
        See ``evaluation.score_files``.
    by : iterable of str
        Columns of these scores. "attack" is always the first; an attack's
        trials are its spoofed ones and all bona fide ones.

    Returns
    -------
    dict of (str, str) to numpy.ndarray
        Positions of the trials, values in order of their names.
    """
    is_bonafide = (scores.label == BONAFIDE).to_numpy()
    found = {}
    for column in ("attack", *by):
        is_attack = column == "attack"
        named = scores[column][~is_bonafide] if is_attack else scores[column]
        for value in sorted(named.unique()):
            trials = (scores[column] == value).to_numpy()
            if is_attack:
                trials = trials | is_bonafide
            found[column, value] = np.flatnonzero(trials)
    return found


def resample_figures(
    systems, over, n_resamples, seed, rates=None, threshold=None, by=()
):
    """Compute all figures of resamples, the same ones for all systems.

    ``systems`` have the same trials in the same order. ``rates`` adds the
    t-DCF, ``threshold`` the actual error rates and t-DCFs, ``by`` the figures
    of each of the ``subsets``; see ``resample`` for the others. Return a dict
    for each system: by metric, or (metric, column, value), an array with a
    value for each resample, NaN if it lacks a class.
    """
    ranked = [_RankedScores(x, rates, threshold, by) for x in systems]
    resamples = resample(systems[0], over, n_resamples, seed)
    bar = {"desc": "Resampling", "total": n_resamples, "leave": False}
    names, found = (), [[] for _ in systems]
    for counts in tqdm(resamples, disable=None, **bar):
        for system, rows in zip(ranked, found):
            figures = system.figures(counts)
            names = figures.keys()
            rows.append(np.array([*figures.values()]))
    return [dict(zip(names, np.array(rows).T)) for rows in found]


class _RankedScores:
    """The scores of a system in ascending order, for figures of resamples.

    The figures equal those of a file in which each trial has as many lines as
    it was drawn, without its whole DET curve for each resample.
    """

    def __init__(self, scores, rates=None, threshold=None, by=()):
        score = scores.score.to_numpy()
        is_bonafide = (scores.label == BONAFIDE).to_numpy()
        everything = _rank(score, is_bonafide, np.arange(len(score)))
        self.bonafide, self.spoof, self.below = everything
        bonafide, spoof = score[self.bonafide], score[self.spoof]
        self.bits = bits(-bonafide) / 2, bits(spoof) / 2
        self.parts = {
            part: _rank(score, is_bonafide, trials)
            for part, trials in subsets(scores, by).items()
        }

        # Costs are a + b FRR + c FAR, at the best or at a fixed threshold.
        tdcf = {}
        if rates is not None:
            for form in "legacy", "revised":
                tdcf[f"tdcf_{form}"] = tdcf_coefficients(rates, form=form)
        dcf = 0.0, *DCF_WEIGHTS
        self.minima = {f"min_{name}": cost for name, cost in tdcf.items()}
        self.minima["min_dcf"] = dcf
        # A score at Bayes' threshold is accepted; at the given, rejected.
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
        """Return all figures, given how often each trial is in the resample."""
        bonafide_counts = counts[self.bonafide]
        spoof_counts = counts[self.spoof]
        bonafide, spoof = _cumulate(bonafide_counts), _cumulate(spoof_counts)
        figures = {"eer": _eer(bonafide, spoof, self.below)}
        figures |= self._minimum_costs(bonafide, spoof, self.below)
        for name, ((accept, miss, false_alarm), ranks) in self.actual.items():
            frr = bonafide[ranks[0]] / bonafide[-1]
            far = 1 - spoof[ranks[1]] / spoof[-1]
            figures[name] = accept + miss * frr + false_alarm * far
        # Not a product of vectors: several threads would sum in varying order,
        # and wait for one another on a busy machine.
        figures["cllr"] = (
            np.sum(bonafide_counts * self.bits[0]) / bonafide[-1]
            + np.sum(spoof_counts * self.bits[1]) / spoof[-1]
        )

        for (column, value), (of_part, spoof, below) in self.parts.items():
            spoof = _cumulate(counts[spoof])
            if column == "attack":
                found = {"eer": _eer(bonafide, spoof, below)}
            else:
                of_part = _cumulate(counts[of_part])
                found = {"eer": _eer(of_part, spoof, below)}
                found |= self._minimum_costs(of_part, spoof, below)
            for metric, figure in found.items():
                figures[metric, column, value] = figure
        return figures

    def _minimum_costs(self, bonafide, spoof, below):
        if bonafide[-1] == 0 or spoof[-1] == 0:
            return dict.fromkeys(self.minima, float("nan"))
        # A cost can be lowest before a bona fide trial is rejected, and at the
        # end: rejecting more spoofed trials costs nothing.
        frr = bonafide / bonafide[-1]
        far = (spoof[-1] - spoof[below]) / spoof[-1]
        return {
            name: accept + (miss * frr + false_alarm * far).min()
            for name, (accept, miss, false_alarm) in self.minima.items()
        }


def _rank(score, is_bonafide, trials):
    """Return the trials of each class by score, and where they meet.

    The latter is the number of spoofed trials that are rejected before each
    bona fide one, then of all; among equal scores, bona fide ones come first.
    """
    trials = trials[np.argsort(score[trials], kind="stable")]
    bonafide = trials[is_bonafide[trials]]
    spoof = trials[~is_bonafide[trials]]
    below = np.searchsorted(score[spoof], score[bonafide])
    return bonafide, spoof, np.append(below, len(spoof))


def _cumulate(counts):
    """Return the number of trials up to each rank, from 0."""
    cumulated = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=cumulated[1:])
    return cumulated


def _eer(bonafide, spoof, below):
    """Return the equal error rate, given the trials up to each rank.

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
        # FRR - FAR is 0 among the copies of the bona fide trial just rejected.
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
