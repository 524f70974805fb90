"""Tandem detection cost function (t-DCF) of ASVspoof 2019 and 2021.

The t-DCF rates a spoofing countermeasure (CM) by the cost of the whole
system: the CM followed by a fixed automatic speaker verification (ASV) system.
With Pmiss and Pfa the CM's false rejection and false acceptance rates, and the
ASV system's rates p_miss, p_fa and p_fa_spoof,

    C0 = p_target c_miss_asv p_miss + p_nontarget c_fa_asv p_fa
    C1 = p_target c_miss_cm - C0
    C2 = p_spoof c_fa_cm p_fa_spoof

    "legacy", 2019:   (C1 Pmiss + C2 Pfa) / min(C1, C2)
    "revised", 2021:  (C0 + C1 Pmiss + C2 Pfa) / (C0 + min(C1, C2))

so that the same threshold makes both lowest, and either is 1 when the CM is no
better than accepting or rejecting every trial.

Sources: Kinnunen et al., "t-DCF: a detection cost function for the tandem
assessment of spoofing countermeasures and automatic speaker verification",
Odyssey 2018, and the evaluation plan of ASVspoof 2019 (legacy); Kinnunen et
al., "Tandem assessment of spoofing countermeasures and automatic speaker
verification: fundamentals", IEEE/ACM TASLP 28, 2020, and the evaluation plan of
ASVspoof 2021 (revised).
"""

from dataclasses import dataclass, fields

import numpy as np

from speechbrain_bilevel.metrics.eer import as_scores, det_curve, eer
from speechbrain_bilevel.utils.errors import InputError


@dataclass(frozen=True)
class TDCFCosts:
    """Priors and costs of the t-DCF. The defaults are those of ASVspoof.

    Arguments
    ---------
    p_target : float
        Prior of a target speaker's trial.
    p_nontarget : float
        Prior of a zero-effort impostor's trial.
    p_spoof : float
        Prior of a spoofed trial. The three priors sum to 1.
    c_miss_asv : float
        Cost of the ASV system rejecting a target speaker.
    c_fa_asv : float
        Cost of the ASV system accepting a zero-effort impostor.
    c_miss_cm : float
        Cost of the countermeasure rejecting a bona fide trial.
    c_fa_cm : float
        Cost of the countermeasure accepting a spoofed trial.

    Raises
    ------
    InputError
        If a value is negative or not a finite number, or the priors do not
        sum to 1.

    Example
    -------
    >>> TDCFCosts().c_fa_cm
    10.0
    """

    p_target: float = 0.9405
    p_nontarget: float = 0.0095
    p_spoof: float = 0.05
    c_miss_asv: float = 1.0
    c_fa_asv: float = 10.0
    c_miss_cm: float = 1.0
    c_fa_cm: float = 10.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(
                    f"t-DCF costs: {field.name} is {value}; expected a finite "
                    "number of at least 0"
                )
        total = self.p_target + self.p_nontarget + self.p_spoof
        if abs(total - 1) > 1e-10:
            raise InputError(
                "t-DCF costs: p_target + p_nontarget + p_spoof is "
                f"{total:.10g}; expected 1"
            )


@dataclass(frozen=True)
class ASVRates:
    """Error rates of the ASV system at its own EER threshold.

    Arguments
    ---------
    eer : float
        Equal error rate between targets and nontargets, as a fraction.
    threshold : float
        The threshold of that EER; a score at or above it is accepted.
    p_miss : float
        Share of target trials rejected.
    p_fa : float
        Share of nontarget trials accepted.
    p_fa_spoof : float
        Share of spoofed trials accepted.
    """

    eer: float
    threshold: float
    p_miss: float
    p_fa: float
    p_fa_spoof: float


def asv_rates(target, nontarget, spoof):
    """Fixes the ASV system at its EER threshold and counts its errors there.

    The threshold is the one of :func:`~speechbrain_bilevel.metrics.eer.eer`
    with targets in the place of bona fide trials. A score at or above the
    threshold is accepted, as in the official evaluation. The DET curve rejects
    the trial at the threshold itself, so the rates may differ from the EER by
    that trial.

    Arguments
    ---------
    target : array_like
        ASV scores of target trials, shape [n_target].
    nontarget : array_like
        ASV scores of zero-effort impostors, shape [n_nontarget].
    spoof : array_like
        ASV scores of spoofed trials, shape [n_spoof].

    Returns
    -------
    rates : ASVRates
        Rates as fractions, and the threshold.

    Raises
    ------
    InputError
        If a class has no trial, or a score is NaN or infinite, or the scores
        are not one-dimensional.

    Example
    -------
    >>> rates = asv_rates([3.0, 4.0], [1.0, 2.0], [0.0, 2.0, 2.5, 5.0])
    >>> rates.threshold, rates.p_miss, rates.p_fa, rates.p_fa_spoof
    (2.0, 0.0, 0.5, 0.75)
    """
    target = as_scores(target, "ASV target")
    nontarget = as_scores(nontarget, "ASV nontarget")
    spoof = as_scores(spoof, "ASV spoof")
    rate, threshold = eer(target, nontarget)
    return ASVRates(
        eer=rate,
        threshold=threshold,
        p_miss=float(np.mean(target < threshold)),
        p_fa=float(np.mean(nontarget >= threshold)),
        p_fa_spoof=float(np.mean(spoof >= threshold)),
    )


def tdcf_curve(bonafide, spoof, rates, costs=TDCFCosts(), form="legacy"):
    """Normalised t-DCF of a countermeasure at every threshold.

    Arguments
    ---------
    bonafide : array_like
        CM scores of the bona fide trials, shape [n_bonafide]; higher means
        "more bona fide".
    spoof : array_like
        CM scores of the spoofed trials, shape [n_spoof].
    rates : ASVRates
        Error rates of the ASV system, see :func:`asv_rates`.
    costs : TDCFCosts
        Priors and costs.
    form : str
        "legacy" or "revised", see the head of this module.

    Returns
    -------
    tdcf : numpy.ndarray
        Normalised t-DCF, shape [n_bonafide + n_spoof + 1].
    thresholds : numpy.ndarray
        The points of :func:`~speechbrain_bilevel.metrics.eer.det_curve`, same
        shape.

    Raises
    ------
    InputError
        If the CM scores are unusable, or if the rates and costs make C1 or C2
        negative or zero: the normalised t-DCF is then undefined.

    Example
    -------
    >>> rates = ASVRates(0.0, 0.0, p_miss=0.0, p_fa=0.0, p_fa_spoof=1.0)
    >>> tdcf, thresholds = tdcf_curve([2.0, 3.0], [0.0, 2.5], rates)
    >>> tdcf.round(4).tolist()
    [1.0, 0.5, 1.4405, 0.9405, 1.881]
    """
    accept, miss, false_alarm = tdcf_coefficients(rates, costs, form)
    frr, far, thresholds = det_curve(bonafide, spoof)
    return accept + miss * frr + false_alarm * far, thresholds


def min_tdcf(bonafide, spoof, rates, costs=TDCFCosts(), form="legacy"):
    """Minimum normalised t-DCF of a countermeasure and its threshold.

    The first of the lowest points of :func:`tdcf_curve`; at most 1.

    Arguments
    ---------
    bonafide : array_like
        CM scores of the bona fide trials, shape [n_bonafide]; higher means
        "more bona fide".
    spoof : array_like
        CM scores of the spoofed trials, shape [n_spoof].
    rates : ASVRates
        Error rates of the ASV system, see :func:`asv_rates`.
    costs : TDCFCosts
        Priors and costs.
    form : str
        "legacy" or "revised", see the head of this module.

    Returns
    -------
    min_tdcf : float
        Minimum normalised t-DCF.
    threshold : float
        CM trials with a score above it are accepted.

    Raises
    ------
    InputError
        See :func:`tdcf_curve`.

    Example
    -------
    >>> rates = ASVRates(0.0, 0.0, p_miss=0.0, p_fa=0.0, p_fa_spoof=1.0)
    >>> min_tdcf([2.0, 3.0], [0.0, 2.5], rates)
    (0.5, 0.0)
    """
    tdcf, thresholds = tdcf_curve(bonafide, spoof, rates, costs, form)
    lowest = np.argmin(tdcf)
    return float(tdcf[lowest]), float(thresholds[lowest])


def act_tdcf(
    bonafide, spoof, rates, threshold, costs=TDCFCosts(), form="legacy"
):
    """Actual normalised t-DCF: at a threshold that was fixed beforehand.

    It is at least the minimum, and above 1 where the threshold makes the CM
    worse than none.

    Arguments
    ---------
    bonafide : array_like
        CM scores of the bona fide trials, shape [n_bonafide]; higher means
        "more bona fide".
    spoof : array_like
        CM scores of the spoofed trials, shape [n_spoof].
    rates : ASVRates
        Error rates of the ASV system, see :func:`asv_rates`.
    threshold : float
        CM trials with a score above it are accepted.
    costs : TDCFCosts
        Priors and costs.
    form : str
        "legacy" or "revised", see the head of this module.

    Returns
    -------
    float
        Normalised t-DCF at the threshold.

    Raises
    ------
    InputError
        See :func:`tdcf_curve`.

    Example
    -------
    >>> rates = ASVRates(0.0, 0.0, p_miss=0.0, p_fa=0.0, p_fa_spoof=1.0)
    >>> act_tdcf([2.0, 3.0], [0.0, 2.5], rates, threshold=1.0)
    0.5
    """
    accept, miss, false_alarm = tdcf_coefficients(rates, costs, form)
    frr = np.mean(as_scores(bonafide, "bona fide") <= threshold)
    far = np.mean(as_scores(spoof, "spoof") > threshold)
    return float(accept + miss * frr + false_alarm * far)


def tdcf_coefficients(rates, costs=TDCFCosts(), form="legacy"):
    """The t-DCF as a linear function of the CM's error rates.

    Arguments
    ---------
    rates : ASVRates
        Error rates of the ASV system.
    costs : TDCFCosts
        Priors and costs.
    form : str
        "legacy" or "revised", see the head of this module.

    Returns
    -------
    tuple of float
        a, b and c of ``t-DCF = a + b Pmiss + c Pfa``, normalised.

    Raises
    ------
    InputError
        If the normalised t-DCF is undefined, or the form unknown.

    Example
    -------
    >>> rates = ASVRates(0.0, 0.0, p_miss=0.0, p_fa=0.0, p_fa_spoof=1.0)
    >>> tdcf_coefficients(rates)
    (0.0, 1.881, 1.0)
    """
    if form not in ("legacy", "revised"):
        raise InputError(
            f"t-DCF: unknown form {form!r}; expected 'legacy' (2019) or "
            "'revised' (2021)"
        )
    if form == "revised" and costs.c_miss_asv != costs.c_miss_cm:
        raise InputError(
            "t-DCF: the revised form has one cost of a miss, but c_miss_asv is "
            f"{costs.c_miss_asv:g} and c_miss_cm is {costs.c_miss_cm:g}; make "
            "them equal or use the legacy form"
        )
    c0 = (
        costs.p_target * costs.c_miss_asv * rates.p_miss
        + costs.p_nontarget * costs.c_fa_asv * rates.p_fa
    )
    c1 = costs.p_target * costs.c_miss_cm - c0
    c2 = costs.p_spoof * costs.c_fa_cm * rates.p_fa_spoof
    _check_weights(c1, c2, rates)
    fixed = c0 if form == "revised" else 0.0
    scale = fixed + min(c1, c2)
    return fixed / scale, c1 / scale, c2 / scale


def _check_weights(c1, c2, rates):
    for name, weight in (("C1", c1), ("C2", c2)):
        # Written so that NaN rates are refused too.
        if not weight > 0:
            raise InputError(
                f"t-DCF undefined: {name} is {weight:.6g}, expected more than "
                f"0. The ASV system (miss rate {rates.p_miss:.4g}, false "
                f"acceptance rate {rates.p_fa:.4g}, spoof acceptance rate "
                f"{rates.p_fa_spoof:.4g}) does not fit the costs: check the "
                "ASV scores and their keys, or the costs"
            )
