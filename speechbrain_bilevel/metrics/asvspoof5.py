"""The metrics of ASVspoof 5: minDCF, actDCF, Cllr (track 1); a-DCF (track 2).

Source: Wang et al., "ASVspoof 5: crowdsourced speech data, deepfakes, and
adversarial attacks at scale", ASVspoof 5 workshop, 2024, and the evaluation
plan; for the a-DCF also Shim et al., "a-DCF: an architecture agnostic metric
with application to spoofing-robust speaker verification", Odyssey 2024.
"""

import numpy as np

from speechbrain_bilevel.metrics.eer import as_scores, det_curve
from speechbrain_bilevel.metrics.tdcf import TDCFCosts
from speechbrain_bilevel.utils.errors import InputError

#: Prior of a spoofed trial, cost of rejecting a bona fide trial, and cost of
#: accepting a spoofed one.
P_SPOOF, C_MISS, C_FA = 0.05, 1.0, 10.0


def min_dcf(bonafide, spoof):
    """Minimum detection cost of track 1, and its threshold.

    The lowest ``0.95 Pmiss + 0.5 Pfa`` over the points of
    :func:`~speechbrain_bilevel.metrics.eer.det_curve`, divided by 0.5, what
    accepting every trial costs.

    Arguments
    ---------
    bonafide : array_like
        Scores of the bona fide trials, shape [n_bonafide]; higher means "more
        bona fide".
    spoof : array_like
        Scores of the spoofed trials, shape [n_spoof].

    Returns
    -------
    min_dcf : float
        In [0, 1].
    threshold : float
        Trials with a score above it are accepted.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite.

    Example
    -------
    >>> min_dcf([2.0, 3.0], [0.0, 2.5])
    (0.5, 0.0)
    """
    miss, false_alarm = dcf_coefficients()
    frr, far, thresholds = det_curve(bonafide, spoof)
    dcf = miss * frr + false_alarm * far
    lowest = np.argmin(dcf)
    return float(dcf[lowest]), float(thresholds[lowest])


def act_dcf(bonafide, spoof):
    """Actual detection cost of track 1: at the threshold of the costs.

    The scores have to be log-likelihood ratios (natural logarithm): the
    threshold is Bayes' for them, -ln(0.95 / 0.5), and a score at or above it
    is accepted.

    Arguments
    ---------
    bonafide : array_like
        Log-likelihood ratios of the bona fide trials, shape [n_bonafide].
    spoof : array_like
        Log-likelihood ratios of the spoofed trials, shape [n_spoof].

    Returns
    -------
    float
        At least the minimum; above 1 where the scores do harm.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite.

    Example
    -------
    >>> act_dcf([2.0, -0.7], [-1.0, -0.6])
    1.45
    """
    miss, false_alarm = dcf_coefficients()
    frr = np.mean(as_scores(bonafide, "bona fide") < BAYES_THRESHOLD)
    far = np.mean(as_scores(spoof, "spoof") >= BAYES_THRESHOLD)
    return float(miss * frr + false_alarm * far)


def dcf_coefficients():
    """What a miss and a false acceptance weigh in the normalised DCF.

    Returns
    -------
    tuple of float
        b and c of ``DCF = b Pmiss + c Pfa``.

    Example
    -------
    >>> dcf_coefficients()
    (1.9, 1.0)
    """
    miss, false_alarm = C_MISS * (1 - P_SPOOF), C_FA * P_SPOOF
    scale = min(miss, false_alarm)
    return miss / scale, false_alarm / scale


#: Bayes' threshold on log-likelihood ratios for these costs, -ln(1.9).
BAYES_THRESHOLD = -float(np.log(np.divide(*dcf_coefficients())))


def cllr(bonafide, spoof):
    """Cost of log-likelihood ratios, in bits.

    The mean of log2(1 + exp(-score)) over bona fide and of log2(1 +
    exp(score)) over spoofed trials, averaged over the two classes (Brümmer and
    du Preez, "Application-independent evaluation of speaker detection",
    Computer Speech & Language 20, 2006). 0 is perfect; scores that are always
    0, so tell nothing, have 1; misleading ones have more.

    Arguments
    ---------
    bonafide : array_like
        Log-likelihood ratios (natural logarithm) of the bona fide trials,
        shape [n_bonafide].
    spoof : array_like
        Log-likelihood ratios of the spoofed trials, shape [n_spoof].

    Returns
    -------
    float
        Bits.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite.

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
    """log2(1 + exp(score)), which never overflows.

    Arguments
    ---------
    scores : numpy.ndarray
        Any shape.

    Returns
    -------
    numpy.ndarray
        Bits, the same shape.

    Example
    -------
    >>> bits(np.array([0.0, 1e4])).round(2).tolist()
    [1.0, 14426.95]
    """
    return np.logaddexp(0, scores) / np.log(2)


def min_adcf(target, nontarget, spoof, costs=TDCFCosts()):
    """Minimum a-DCF of a spoofing-robust speaker verification system.

    Such a system gives each trial one score, high for the target speaker's
    bona fide speech. The a-DCF weighs its three error rates,

        p_target c_miss_asv Pmiss + p_nontarget c_fa_asv Pfa_nontarget
        + p_spoof c_fa_cm Pfa_spoof

    divided by what accepting every trial or rejecting every trial costs,
    whichever is less. Scores are passed one by one in ascending order; of
    equal ones targets come first, then nontargets, then spoofs.

    Arguments
    ---------
    target : array_like
        Scores of target speakers' bona fide trials, shape [n_target].
    nontarget : array_like
        Scores of other speakers' bona fide trials, shape [n_nontarget].
    spoof : array_like
        Scores of spoofed trials, shape [n_spoof].
    costs : TDCFCosts
        Priors and costs; ``c_miss_cm`` plays no part. The defaults are those
        of ASVspoof 5's track 2.

    Returns
    -------
    min_adcf : float
        In [0, 1].
    threshold : float
        Trials with a score above it are accepted.

    Raises
    ------
    InputError
        If a class has no trial, a score is NaN or infinite, or the costs make
        one of the two trivial decisions free.

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
