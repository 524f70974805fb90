"""Calibration and linear fusion of countermeasure scores.

A calibrated score is a log-likelihood ratio (LLR): the natural logarithm of
how much more probable the trial is if it is bona fide than if it is spoof. One
threshold then serves every system, and it follows from costs and priors alone.

Sources: Brümmer and du Preez, "Application-independent evaluation of speaker
detection", Computer Speech & Language 20, 2006 (calibration, Cllr); Pigeon,
Druyts and Verlinde, "Applying logistic regression to the fusion of the NIST'99
1-speaker submissions", Digital Signal Processing 10, 2000; Platt,
"Probabilistic outputs for support vector machines and comparisons to
regularized likelihood methods", 1999 (smoothed targets).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from speechbrain_bilevel.utils.errors import InputError

#: Directions in which standardised scores spread less than this share of the
#: widest one are taken for rounding: a weight there would be huge and random.
SMALLEST_SPREAD = 1e-3

_MAX_STEPS = 200


@dataclass(frozen=True)
class LinearFusion:
    """A weighted sum of the scores of one or more systems, plus a constant.

    Arguments
    ---------
    weights : tuple of float
        One weight a system, in the unit of 1 / its scores.
    bias : float
        What is added to the sum.

    Example
    -------
    >>> fusion = LinearFusion(weights=(2.0, 0.5), bias=1.0)
    >>> fusion([[1.0, 2.0], [0.0, -2.0]])
    array([4., 0.])
    """

    weights: tuple
    bias: float

    def __call__(self, scores):
        """Fuses the scores.

        Arguments
        ---------
        scores : array_like
            A column a system, shape [n_trials, n_systems].

        Returns
        -------
        fused : numpy.ndarray
            Shape [n_trials].

        Raises
        ------
        InputError
            If the number of systems is another, or a sum is not finite.
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
    """Learns the linear map from scores to log-likelihood ratios.

    With s_k the score of system k, the map is

        llr = bias + sum_k weight_k s_k

    and calibration is the fusion of one system. It has the lowest
    class-balanced logistic loss: both classes weigh one half, whatever their
    counts, so that this is Cllr, in nats, but for one thing. The targets are
    not 1 and 0 but Platt's (N_b + 1) / (N_b + 2) for each of the N_b bona fide
    trials and 1 / (N_s + 2) for each of the N_s spoofed ones. Without that the
    optimum would be infinite wherever a threshold separates the two classes;
    with it, the optimum is always finite. On as many trials as ASVspoof2019
    LA's dev has, and normal scores, that raises Cllr on these very trials by
    7e-7 bits at an EER of 16 %, 2e-5 at 2.3 % and 6e-4 at 0.13 %.

    The result does not depend on an offset or a scale of the scores, and there
    is no randomness. Where systems say the same thing (equal scores, or one an
    affine copy of another, up to ``SMALLEST_SPREAD``) the optimum is not
    unique; then the one with the smallest weights is taken, in units of the
    systems' standard deviations, so that copies share the weight.

    Arguments
    ---------
    scores : array_like
        A column a system, shape [n_trials, n_systems]; higher means "more bona
        fide".
    is_bonafide : array_like
        True for bona fide, False for spoof, shape [n_trials].
    names : list of str, optional
        What messages call the systems; by default "system 1", ...

    Returns
    -------
    fusion : LinearFusion
        The map to natural-logarithm LLRs. A weight may be negative if there is
        more than one system.

    Raises
    ------
    InputError
        If a class has no trial, shapes do not fit, a score is NaN or infinite,
        all scores of a system are equal, or a single system's weight is not
        positive: its scores look negated.

    Example
    -------
    >>> scores = [[3.0], [1.0], [2.0], [-3.0], [-1.0], [1.5]]
    >>> is_bonafide = [True, True, True, False, False, False]
    >>> calibrate = learn_fusion(scores, is_bonafide)
    >>> np.round(calibrate([[-2.0], [1.0], [4.0]]), 2)
    array([-1.32,  0.16,  1.63])
    """
    scores, is_bonafide = _checked_shapes(scores, is_bonafide)
    names = names or [f"system {n + 1}" for n in range(scores.shape[1])]
    for name, column in zip(names, scores.T):
        _refuse_unusable(name, column)

    n_bonafide = int(is_bonafide.sum())
    n_spoof = is_bonafide.size - n_bonafide
    shares = np.where(is_bonafide, 0.5 / n_bonafide, 0.5 / n_spoof)
    targets = np.where(
        is_bonafide, (n_bonafide + 1) / (n_bonafide + 2), 1 / (n_spoof + 2)
    )
    standardised, centre, spread = _standardise(scores, shares)
    directions = _independent_directions(standardised, shares)
    features = np.column_stack(
        [standardised @ directions, np.ones(len(shares))]
    )
    *along, bias = _minimise_loss(features, targets, shares)
    weights = directions @ np.array(along) / spread
    if len(weights) == 1 and weights[0] <= 0:
        raise InputError(
            f"{names[0]}: the learned weight is {weights[0]:.4g}, not "
            "positive: these scores look negated (or tell nothing, or hold an "
            "extreme outlier). Expected a higher score for bona fide than for "
            "spoof. Nothing was flipped: if the sign is wrong, correct it in "
            "the score files"
        )
    return LinearFusion(tuple(weights.tolist()), float(bias - centre @ weights))


def _checked_shapes(scores, is_bonafide):
    """Both as arrays, refused if they do not fit or a class is missing."""
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


def _refuse_unusable(name, column):
    unusable = np.flatnonzero(~np.isfinite(column))
    if unusable.size:
        raise InputError(
            f"{name}: {unusable.size} of {column.size} scores are NaN or "
            f"infinite, the first at index {unusable[0]}; expected finite "
            "numbers"
        )
    lowest, highest = column.min(), column.max()
    # Beyond these limits the weight, or its inverse, is no finite number.
    if not 1e-300 < highest / 2 - lowest / 2 < 1e300:
        raise InputError(
            f"{name}: the scores lie between {lowest:g} and {highest:g}, and "
            "no weight fits that; expected scores that differ, of ordinary "
            "size. Leave this system out or score the partition again"
        )


def _standardise(scores, shares):
    """Scores with mean 0 and deviation 1 where each class weighs one half."""
    # By the range first: squares of very large or small scores are 0 or inf.
    lowest, width = scores.min(0), np.ptp(scores, axis=0)
    scores = (scores - lowest) / width
    mean = shares @ scores
    deviation = np.sqrt(shares @ (scores - mean) ** 2)
    standardised = (scores - mean) / deviation
    return standardised, lowest + mean * width, deviation * width


def _independent_directions(standardised, shares):
    """Directions of unit variance that span what the systems say.

    A matrix of shape [n_systems, rank]. What it leaves out gets no weight, and
    so the weights that it spans are the smallest.
    """
    correlation = (standardised.T * shares) @ standardised
    variances, directions = np.linalg.eigh(correlation)
    kept = variances > SMALLEST_SPREAD**2 * variances[-1]
    return directions[:, kept] / np.sqrt(variances[kept])


def _minimise_loss(features, targets, shares):
    """The minimum of the convex logistic loss, by Newton's method.

    From 0, and with classes of equal weight, no step has to be shortened.
    """
    parameters = np.zeros(features.shape[1])
    for _ in range(_MAX_STEPS):
        llr = features @ parameters
        posterior = expit(llr)
        gradient = features.T @ (shares * (posterior - targets))
        curvature = shares * posterior * expit(-llr)
        hessian = (features.T * curvature) @ features
        step = np.linalg.lstsq(hessian, -gradient)[0]
        parameters = parameters + step
        # The first is what the step gained, twice; it says nothing where
        # rounding has taken a direction from the Hessian, so the second.
        if -gradient @ step < 1e-20 and np.abs(gradient).max() < 1e-9:
            return parameters
    raise InputError(
        f"the weights cannot be learned: no optimum after {_MAX_STEPS} steps. "
        "Expected scores of similar size: find out whether some are millions "
        "of times larger than the others"
    )
