"""Calibration and linear fusion of countermeasure scores.

A calibrated score is a log-likelihood ratio (LLR), natural logarithm, of bona
fide to spoof. One threshold then serves every system, and follows from costs
and priors alone.

References
----------
* N. Brümmer and J. du Preez, "Application-independent evaluation of speaker
  detection", Computer Speech & Language 20, 2006 (calibration, Cllr).
* S. Pigeon, P. Druyts and P. Verlinde, "Applying logistic regression to the
  fusion of the NIST'99 1-speaker submissions", Digital Signal Processing 10,
  2000 (fusion).
* J. Platt, "Probabilistic outputs for support vector machines and comparisons
  to regularized likelihood methods", 1999 (smoothed targets).
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import expit

from speechbrain_bilevel.metrics.eer import as_scores
from speechbrain_bilevel.utils.errors import InputError

#: Directions in which standardized scores spread less than this share of the
#: widest one are taken for rounding errors: a weight there would be random.
SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class LinearFusion:
    """A weighted sum of the scores of one or more systems, plus a constant.

    Arguments
    ---------
    weights : tuple of float
        One for each system.
    bias : float

    Example
    -------
    >>> fusion = LinearFusion(weights=(2.0, 0.5), bias=1.0)
    >>> fusion([[1.0, 2.0], [0.0, -2.0]])
    array([4., 0.])
    """

    weights: tuple
    bias: float

    def __call__(self, scores):
        """Fuse scores, [n_trials, n_systems], to [n_trials].

        Raise an ``InputError`` if the number of systems is wrong, or a sum is
        not finite.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(self.weights):
            raise InputError(
                f"scores of shape {scores.shape} for {len(self.weights)} "
                "weights; expected one column a weight, shape "
                "[n_trials, n_systems]"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            fused = scores @ np.array(self.weights) + self.bias
        unusable = np.flatnonzero(~np.isfinite(fused))
        if unusable.size:
            raise InputError(
                f"{unusable.size} of {fused.size} weighted sums are NaN or "
                f"infinite, the first at index {unusable[0]}; expected finite "
                "scores and weights whose sum is a finite number"
            )
        return fused


def learn_fusion(scores, is_bonafide, names=None):
    """Learn the linear map from scores to log-likelihood ratios.

    Calibration is the fusion of one system.

    Arguments
    ---------
    scores : array_like
        A column for each system, [n_trials, n_systems]; higher means "more
        bona fide".
    is_bonafide : array_like
        True for bona fide, False for spoof, [n_trials].
    names : list of str, optional
        Names of the systems in messages; by default "system 1", ...

    Returns
    -------
    LinearFusion
        Maps to natural-logarithm LLRs. With several systems, weights may be
        negative.

    Raises
    ------
    InputError
        If a class has no trial, shapes do not fit, a score is NaN or infinite,
        all scores of a system are equal, or the weight of a single system is
        not positive: its scores look negated.

    Notes
    -----
    The map minimizes the class-balanced logistic loss, which is Cllr (in nats)
    except for Platt's targets: (N_b + 1) / (N_b + 2) for each of N_b bona fide
    trials and 1 / (N_s + 2) for each of N_s spoofed ones, instead of 1 and 0.
    They keep the optimum finite even if a threshold separates the classes.

    The result is deterministic and invariant to offset and scale of the scores.
    If systems are affine copies of one another, up to ``SMALLEST_SPREAD``, the
    smallest weights are taken, in units of the systems' standard deviations, so
    that copies share the weight.

    Example
    -------
    >>> scores = [[3.0], [1.0], [2.0], [-3.0], [-1.0], [1.5]]
    >>> is_bonafide = [True, True, True, False, False, False]
    >>> calibrate = learn_fusion(scores, is_bonafide)
    >>> np.round(calibrate([[-2.0], [1.0], [4.0]]), 2)
    array([-1.32,  0.16,  1.63])
    """
    scores, is_bonafide = _check_shapes(scores, is_bonafide)
    names = names or [f"system {n + 1}" for n in range(scores.shape[1])]
    for name, column in zip(names, scores.T):
        _check_column(name, column)

    n_bonafide = int(is_bonafide.sum())
    n_spoof = is_bonafide.size - n_bonafide
    shares = np.where(is_bonafide, 0.5 / n_bonafide, 0.5 / n_spoof)
    targets = np.where(
        is_bonafide, (n_bonafide + 1) / (n_bonafide + 2), 1 / (n_spoof + 2)
    )
    standardized, center, spread = _standardize(scores, shares)
    directions = _independent_directions(standardized, shares)
    features = np.column_stack(
        [standardized @ directions, np.ones(len(shares))]
    )
    *along, bias = _minimize_loss(features, targets, shares)
    weights = directions @ np.array(along) / spread
    if len(weights) == 1 and weights[0] <= 0:
        raise InputError(
            f"{names[0]}: the learned weight is {weights[0]:.4g}, not "
            "positive: these scores look negated (or carry no information, or "
            "hold an extreme outlier). Expected a higher score for bona fide "
            "than for spoof. Nothing was flipped: if the sign is wrong, "
            "correct it in the score files"
        )
    return LinearFusion(tuple(weights.tolist()), float(bias - center @ weights))


def _check_shapes(scores, is_bonafide):
    scores = np.asarray(scores, dtype=np.float64)
    is_bonafide = np.asarray(is_bonafide, dtype=bool)
    if scores.ndim != 2 or is_bonafide.shape != scores.shape[:1]:
        raise InputError(
            f"scores of shape {scores.shape} with keys of shape "
            f"{is_bonafide.shape}; expected [n_trials, n_systems] and "
            "[n_trials]"
        )
    for name, members in (("bona fide", is_bonafide), ("spoof", ~is_bonafide)):
        if not members.any():
            raise InputError(
                f"none of the {members.size} trials to learn from is {name}; "
                "expected trials of both classes"
            )
    return scores, is_bonafide


def _check_column(name, column):
    column = as_scores(column, name)
    lowest, highest = column.min(), column.max()
    # Beyond these limits the weight, or its inverse, is not finite.
    if not 1e-300 < highest / 2 - lowest / 2 < 1e300:
        raise InputError(
            f"{name}: the scores lie between {lowest:g} and {highest:g}, and "
            "no weight fits that; expected scores that differ, of ordinary "
            "size. Leave this system out or score the partition again"
        )


def _standardize(scores, shares):
    """Return scores of mean 0 and deviation 1 with classes weighted equally."""
    # Divide by the range first: squares of extreme scores are 0 or infinite.
    lowest, width = scores.min(0), np.ptp(scores, axis=0)
    scores = (scores - lowest) / width
    mean = shares @ scores
    deviation = np.sqrt(shares @ (scores - mean) ** 2)
    standardized = (scores - mean) / deviation
    return standardized, lowest + mean * width, deviation * width


def _independent_directions(standardized, shares):
    """Return directions, [n_systems, rank], along which scores have variance 1.

    Directions left out get no weight, so the weights are the smallest ones.
    """
    correlation = (standardized.T * shares) @ standardized
    variances, directions = np.linalg.eigh(correlation)
    kept = variances > SMALLEST_SPREAD**2 * variances[-1]
    return directions[:, kept] / np.sqrt(variances[kept])


def _minimize_loss(features, targets, shares):
    """Return the parameters at which the slope of the convex loss is 0."""

    def gradient(parameters):
        return features.T @ (shares * (expit(features @ parameters) - targets))

    def hessian(parameters):
        llr = features @ parameters
        return (features.T * (shares * expit(llr) * expit(-llr))) @ features

    # A minimizer would stop where the loss no longer changes in its last digit;
    # the slope is still far from its own rounding error there.
    found = optimize.root(
        gradient,
        np.zeros(features.shape[1]),
        jac=hessian,
        method="lm",
        options={"xtol": 1e-13, "ftol": 1e-15},
    )
    if not np.abs(gradient(found.x)).max() < 1e-9:
        raise InputError(
            "the weights cannot be learned: no optimum was found. Expected "
            "scores of similar size: find out whether some are millions of "
            "times larger than the others"
        )
    return found.x
