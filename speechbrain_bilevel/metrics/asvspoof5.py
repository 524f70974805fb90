"""Metrics of ASVspoof 5: minDCF, actDCF, Cllr (track 1); a-DCF (track 2).

References
----------
* X. Wang et al., "ASVspoof 5: crowdsourced speech data, deepfakes, and
  adversarial attacks at scale", ASVspoof 5 workshop, 2024; evaluation plan.
* N. Brümmer and J. du Preez, "Application-independent evaluation of speaker
  detection", Computer Speech & Language 20, 2006 (Cllr).
* H. Shim et al., "a-DCF: an architecture agnostic metric with application to
  spoofing-robust speaker verification", Odyssey 2024.
"""

import numpy as np

from speechbrain_bilevel.metrics.eer import as_scores, det_curve
from speechbrain_bilevel.metrics.tdcf import ASVSPOOF_COSTS
from speechbrain_bilevel.utils.errors import InputError

#: Weights of Pmiss and Pfa in track 1: rejecting a bona fide trial costs 1,
#: accepting a spoofed one 10 at a prior of 0.05, divided by the cost of
#: accepting all.
DCF_WEIGHTS = 1 * (1 - 0.05) / (10 * 0.05), 1.0

#: Bayes' threshold on log-likelihood ratios for these weights, -ln(1.9).
BAYES_THRESHOLD = -float(np.log(np.divide(*DCF_WEIGHTS)))


def min_dcf(bonafide, spoof):
    """Compute the minimum detection cost of track 1 and its threshold.

    See ``eer.det_curve`` for the arguments and the errors.

    Returns
    -------
    min_dcf : float
        The lowest cost over the points of ``eer.det_curve``, in [0, 1].
    threshold : float
        Trials with a score above are accepted.

    Example
    -------
    >>> min_dcf([2.0, 3.0], [0.0, 2.5])
    (0.5, 0.0)
    """
    miss, false_alarm = DCF_WEIGHTS
    frr, far, thresholds = det_curve(bonafide, spoof)
    dcf = miss * frr + false_alarm * far
    lowest = np.argmin(dcf)
    return float(dcf[lowest]), float(thresholds[lowest])


def act_dcf(bonafide, spoof):
    """Compute the actual detection cost of track 1, at Bayes' threshold.

    Arguments
    ---------
    bonafide, spoof : array_like
        Log-likelihood ratios (natural logarithm) of the trials of each class,
        [n_bonafide] and [n_spoof]. One at the threshold is accepted.

    Returns
    -------
    float
        At least the minimum; above 1 if the scores do harm.

    Example
    -------
    >>> act_dcf([2.0, -0.7], [-1.0, -0.6])
    1.45
    """
    miss, false_alarm = DCF_WEIGHTS
    frr = np.mean(as_scores(bonafide, "bona fide") < BAYES_THRESHOLD)
    far = np.mean(as_scores(spoof, "spoof") >= BAYES_THRESHOLD)
    return float(miss * frr + false_alarm * far)


def cllr(bonafide, spoof):
    """Compute the cost of log-likelihood ratios, in bits.

    See ``act_dcf`` for the arguments. The cost is 0 for perfect scores, 1 for
    scores that are always 0, and higher for misleading ones.

    Example
    -------
    >>> cllr([0.0, 0.0], [0.0])
    1.0
    """
    bonafide = as_scores(bonafide, "bona fide")
    spoof = as_scores(spoof, "spoof")
    costs = bits(-bonafide).mean(), bits(spoof).mean()
    return float(sum(costs) / 2)


def bits(scores):
    """Compute log2(1 + exp(score)) without overflow."""
    return np.logaddexp(0, scores) / np.log(2)


def min_adcf(target, nontarget, spoof, costs=ASVSPOOF_COSTS):
    """Compute the minimum a-DCF of a spoofing-robust ASV system.

    Such a system gives each trial one score, high for the target speaker's
    bona fide speech.

    Arguments
    ---------
    target, nontarget, spoof : array_like
        Scores of target speakers' and other speakers' bona fide trials and of
        spoofed trials, [n_target], [n_nontarget] and [n_spoof].
    costs : TDCFCosts
        ``c_miss_cm`` is not used.

    Returns
    -------
    min_adcf : float
        In [0, 1].
    threshold : float
        Trials with a score above are accepted.

    Raises
    ------
    InputError
        If the scores of a class cannot be used, or accepting or rejecting
        every trial is free.

    Notes
    -----
    The cost is ``p_target c_miss_asv Pmiss + p_nontarget c_fa_asv
    Pfa_nontarget + p_spoof c_fa_cm Pfa_spoof``, divided by the lower of the
    costs of accepting and of rejecting every trial. Of equal scores, targets
    are rejected first, then nontargets, then spoofs.

    Example
    -------
    >>> value, threshold = min_adcf([2.0, 3.0], [0.0], [1.0, 2.5])
    >>> round(value, 4), threshold
    (0.4202, 1.0)
    """
    classes = [
        as_scores(target, "target"),
        as_scores(nontarget, "nontarget"),
        as_scores(spoof, "spoof"),
    ]
    miss = costs.p_target * costs.c_miss_asv
    wrong = costs.p_nontarget * costs.c_fa_asv, costs.p_spoof * costs.c_fa_cm
    scale = min(miss, sum(wrong))
    if scale <= 0:
        raise InputError(
            "a-DCF undefined: the costs make accepting or rejecting every "
            "trial free; expected a positive cost of both"
        )
    scores = np.concatenate(classes)
    order = np.argsort(scores, kind="stable")
    thresholds = np.concatenate([[scores[order[0]] - 0.001], scores[order]])
    label = np.repeat(np.arange(3), [len(scores) for scores in classes])[order]
    rejected = np.zeros((3, len(scores) + 1), dtype=np.int64)
    np.cumsum(label == np.arange(3)[:, None], axis=1, out=rejected[:, 1:])
    frr, rejected_nontarget, rejected_spoof = rejected / rejected[:, -1:]
    far, far_spoof = 1 - rejected_nontarget, 1 - rejected_spoof
    adcf = (miss * frr + wrong[0] * far + wrong[1] * far_spoof) / scale
    lowest = np.argmin(adcf)
    return float(adcf[lowest]), float(thresholds[lowest])
