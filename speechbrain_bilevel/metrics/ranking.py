"""Error rates of a resample, without sorting its scores.

The scores are ranked once; a draw then costs a cumulative sum over how often
each trial is in it, so that a thousand draws over 71,237 trials take seconds.
"""

import numpy as np


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
