"""Equal error rate of a countermeasure, in the ASVspoof convention."""

import numpy as np

from speechbrain_bilevel.utils.errors import InputError


def det_curve(bonafide, spoof):
    """Compute the false rejection and acceptance rates at every threshold.

    Arguments
    ---------
    bonafide, spoof : array_like
        Scores of the trials of each class, [n_bonafide] and [n_spoof]; higher
        means "more bona fide".

    Returns
    -------
    frr, far : numpy.ndarray
        Share of bona fide trials rejected, rising from 0 to 1, and of spoofed
        trials accepted, falling from 1 to 0; [n_bonafide + n_spoof + 1].
    thresholds : numpy.ndarray
        Ascending, same shape; trials with a score above are accepted.

    Raises
    ------
    InputError
        If the scores of a class cannot be used, see ``as_scores``.

    Notes
    -----
    As in the official ASVspoof evaluations, trials are rejected one by one in
    ascending order of their scores: point 0, at the lowest score - 0.001,
    accepts all trials, point ``k`` rejects the ``k`` lowest scores. Ties are
    not collapsed: of equal scores, bona fide ones are rejected first, so a
    countermeasure that gives all trials one score has an EER of 1. Results
    of scikit-learn, torchmetrics and the ROC convex hull, which collapse ties
    or interpolate, differ in the last digits.

    Example
    -------
    >>> frr, far, thresholds = det_curve([2.0, 4.0], [1.0, 3.0])
    >>> frr.tolist()
    [0.0, 0.0, 0.5, 0.5, 1.0]
    >>> far.tolist()
    [1.0, 0.5, 0.5, 0.0, 0.0]
    >>> thresholds.tolist()
    [0.999, 1.0, 2.0, 3.0, 4.0]
    """
    bonafide = as_scores(bonafide, "bona fide")
    spoof = as_scores(spoof, "spoof")

    scores = np.concatenate([bonafide, spoof])
    # Stable: among equal scores the bona fide ones stay in front.
    order = np.argsort(scores, kind="stable")
    thresholds = np.empty(scores.size + 1)
    thresholds[1:] = scores[order]
    thresholds[0] = thresholds[1] - 0.001

    rejected_bonafide = np.zeros(scores.size + 1, dtype=np.int64)
    np.cumsum(order < bonafide.size, out=rejected_bonafide[1:])
    rejected_spoof = np.arange(scores.size + 1) - rejected_bonafide
    frr = rejected_bonafide / bonafide.size
    far = (spoof.size - rejected_spoof) / spoof.size
    return frr, far, thresholds


def eer(bonafide, spoof):
    """Compute the equal error rate and its threshold.

    See ``det_curve`` for the arguments and the errors.

    Returns
    -------
    eer : float
        A fraction: the mean of both error rates at the first point of
        ``det_curve`` where they are closest, not interpolated. Above 0.5, the
        scores most likely have the wrong sign.
    threshold : float
        Trials with a score above are accepted.

    Example
    -------
    >>> eer([2.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.5, 3.0])
    (0.25, 2.5)
    """
    frr, far, thresholds = det_curve(bonafide, spoof)
    closest = np.argmin(np.abs(frr - far))
    return float((frr[closest] + far[closest]) / 2), float(thresholds[closest])


def interpolated_eer(bonafide, spoof):
    """Compute the equal error rate where the error rates' curves cross.

    Trials with a score of at least the threshold are accepted. Between two
    successive distinct scores both rates are taken for linear, as the Speech
    Anti-Spoofing Arena does. See ``det_curve`` for the arguments and errors.

    Returns
    -------
    eer, threshold : float
        The first is a fraction.

    Example
    -------
    >>> interpolated_eer([2.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.5, 3.0])
    (0.25, 3.0)
    """
    bonafide = np.sort(as_scores(bonafide, "bona fide"))
    spoof = np.sort(as_scores(spoof, "spoof"))
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    frr = np.searchsorted(bonafide, thresholds) / bonafide.size
    far = 1 - np.searchsorted(spoof, thresholds) / spoof.size
    gap = far - frr
    crossings = np.flatnonzero(np.diff(np.sign(gap)))
    if not crossings.size:
        first = int(np.argmin(np.abs(gap)))
        return float((far[first] + frr[first]) / 2), float(thresholds[first])
    first = crossings[0]
    share = gap[first] / (gap[first] - gap[first + 1])
    pair = slice(first, first + 2)
    weights = np.array([1 - share, share])
    rate = weights @ (far[pair] + frr[pair]) / 2
    return float(rate), float(weights @ thresholds[pair])


def as_scores(scores, name):
    """Return the scores of one class, [n_trials], as float64.

    Raise an ``InputError`` that names the class if there is no score, one is
    NaN or infinite, or there is more than one dimension.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(
            f"{name} scores have shape {scores.shape}; expected one score for "
            "each trial, shape [n_trials]"
        )
    if scores.size == 0:
        raise InputError(
            f"there is no {name} score; error rates need at least one trial "
            "of every class"
        )
    unusable = np.flatnonzero(~np.isfinite(scores))
    if unusable.size:
        raise InputError(
            f"{unusable.size} of {scores.size} {name} scores are NaN or "
            f"infinite, the first at index {unusable[0]}; expected finite "
            "numbers"
        )
    return scores
