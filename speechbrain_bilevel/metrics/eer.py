"""Equal error rate of a countermeasure, in the ASVspoof convention.

Two score files that differ by one trial in 71,237 differ in the sixth digit
of the EER, and so do two conventions for reading the EER off the same scores.
The conventions here are those of the official ASVspoof evaluations, so that
numbers can be compared digit by digit with published ones. scikit-learn, the
ROC convex hull and torchmetrics choose otherwise and differ in the last digits.
"""

import numpy as np

from speechbrain_bilevel.utils.errors import InputError


def det_curve(bonafide, spoof):
    """False rejection and false acceptance rates at every threshold.

    All scores are put in ascending order and the threshold is moved past them
    one trial at a time, so that ``n`` scores give ``n + 1`` points:

    * a higher score means "more bona fide";
    * point 0 accepts every trial; its threshold is the lowest score - 0.001;
    * point ``k`` rejects the ``k`` lowest scores; its threshold is the
      ``k``-th lowest score, so the trials above the threshold are accepted;
    * ties are **not** collapsed: equal scores are passed one by one, bona fide
      trials first, and then in the order given. A countermeasure that gives
      all trials the same score therefore has an EER of 1.

    Arguments
    ---------
    bonafide : array_like
        Scores of the bona fide trials, shape [n_bonafide].
    spoof : array_like
        Scores of the spoofed trials, shape [n_spoof].

    Returns
    -------
    frr : numpy.ndarray
        Share of bona fide trials rejected, shape [n_bonafide + n_spoof + 1],
        rising from 0 to 1.
    far : numpy.ndarray
        Share of spoofed trials accepted, same shape, falling from 1 to 0.
    thresholds : numpy.ndarray
        The thresholds, same shape, ascending, in the unit of the scores.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite, or the scores
        are not one-dimensional.

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
    """Equal error rate and its threshold.

    The EER is the mean of the false rejection and the false acceptance rate
    at the first point of :func:`det_curve` where the two are closest. Nothing
    is interpolated.

    Arguments
    ---------
    bonafide : array_like
        Scores of the bona fide trials, shape [n_bonafide]; higher means "more
        bona fide".
    spoof : array_like
        Scores of the spoofed trials, shape [n_spoof].

    Returns
    -------
    eer : float
        Equal error rate as a fraction, in [0, 1]. Above 0.5 the scores are
        worse than chance: most likely their sign is wrong.
    threshold : float
        Trials with a score above it are accepted.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite, or the scores
        are not one-dimensional.

    Example
    -------
    >>> eer([2.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.5, 3.0])
    (0.25, 2.5)
    """
    frr, far, thresholds = det_curve(bonafide, spoof)
    closest = np.argmin(np.abs(frr - far))
    return float((frr[closest] + far[closest]) / 2), float(thresholds[closest])


def as_scores(scores, name):
    """Scores of one class as a float64 array, refused if they are unusable.

    Arguments
    ---------
    scores : array_like
        Scores of shape [n_trials].
    name : str
        What to call the class in the error message.

    Returns
    -------
    scores : numpy.ndarray
        The same scores, float64, shape [n_trials].

    Raises
    ------
    InputError
        If there is no score, or one is NaN or infinite, or the scores are not
        one-dimensional.

    Example
    -------
    >>> as_scores([1, 2], "bona fide")
    array([1., 2.])
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
