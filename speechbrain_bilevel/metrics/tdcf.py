"""Tandem detection cost function (t-DCF) of ASVspoof 2019 and 2021.

The t-DCF is the cost of a countermeasure (CM) followed by a fixed speaker
verification (ASV) system. With Pmiss and Pfa the error rates of the CM, and
p_miss, p_fa and p_fa_spoof those of the ASV system,

    C0 = p_target c_miss_asv p_miss + p_nontarget c_fa_asv p_fa
    C1 = p_target c_miss_cm - C0
    C2 = p_spoof c_fa_cm p_fa_spoof

    "legacy", 2019:   (C1 Pmiss + C2 Pfa) / min(C1, C2)
    "revised", 2021:  (C0 + C1 Pmiss + C2 Pfa) / (C0 + min(C1, C2))

Both are lowest at the same threshold, and 1 when the CM is no better than
accepting or rejecting every trial.

References
----------
* T. Kinnunen et al., "t-DCF: a detection cost function for the tandem
  assessment of spoofing countermeasures and automatic speaker verification",
  Odyssey 2018; evaluation plan of ASVspoof 2019 (legacy).
* T. Kinnunen et al., "Tandem assessment of spoofing countermeasures and
  automatic speaker verification: fundamentals", IEEE/ACM TASLP 28, 2020;
  evaluation plan of ASVspoof 2021 (revised).
"""

from dataclasses import dataclass, fields

import numpy as np

from speechbrain_bilevel.metrics.eer import as_scores, det_curve, eer
from speechbrain_bilevel.utils.errors import InputError


@dataclass(frozen=True)
class TDCFCosts:
    """Priors and costs; by default those of ASVspoof.

    Arguments
    ---------
    p_target, p_nontarget, p_spoof : float
        Priors of a target speaker's, a zero-effort impostor's and a spoofed
        trial; they sum to 1.
    c_miss_asv, c_fa_asv : float
        Cost of the ASV system rejecting a target or accepting an impostor.
    c_miss_cm, c_fa_cm : float
        Cost of the CM rejecting a bona fide or accepting a spoofed trial.

    Raises
    ------
    InputError
        If a value is negative or not finite, or the priors do not sum to 1.

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


ASVSPOOF_COSTS = TDCFCosts()


@dataclass(frozen=True)
class ASVRates:
    """Error rates of an ASV system at its own EER threshold.

    Arguments
    ---------
    eer, threshold : float
        Equal error rate between targets and nontargets, a fraction, and its
        threshold; a score at or above it is accepted.
    p_miss, p_fa, p_fa_spoof : float
        Share of targets rejected, and of nontargets and spoofs accepted.
    """

    eer: float
    threshold: float
    p_miss: float
    p_fa: float
    p_fa_spoof: float


def asv_rates(target, nontarget, spoof):
    """Fix an ASV system at its EER threshold and count its errors there.

    Arguments
    ---------
    target, nontarget, spoof : array_like
        ASV scores of target trials, zero-effort impostors and spoofed trials,
        [n_target], [n_nontarget] and [n_spoof].

    Returns
    -------
    ASVRates
        As in the official evaluation, a score at the threshold is accepted
        here, but rejected on the DET curve, so the rates may differ from the
        EER by one trial.

    Raises
    ------
    InputError
        If the scores of a class cannot be used, see ``eer.as_scores``.

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


def tdcf_curve(bonafide, spoof, rates, costs=ASVSPOOF_COSTS, form="legacy"):
    """Return the normalized t-DCF at every threshold, and the thresholds.

    These are the points of ``eer.det_curve``. See ``min_tdcf`` for the
    arguments and the errors.
    """
    accept, miss, false_alarm = tdcf_coefficients(rates, costs, form)
    frr, far, thresholds = det_curve(bonafide, spoof)
    return accept + miss * frr + false_alarm * far, thresholds


def min_tdcf(bonafide, spoof, rates, costs=ASVSPOOF_COSTS, form="legacy"):
    """Compute the minimum normalized t-DCF and its threshold.

    Arguments
    ---------
    bonafide, spoof : array_like
        CM scores, see ``eer.det_curve``.
    rates : ASVRates
        See ``asv_rates``.
    costs : TDCFCosts
        By default those of ASVspoof.
    form : str
        "legacy" or "revised", see the top of this module.

    Returns
    -------
    min_tdcf : float
        At most 1.
    threshold : float
        The first that reaches it; trials with a score above are accepted.

    Raises
    ------
    InputError
        If the CM scores cannot be used, the form is unknown, or the t-DCF is
        undefined: C1 or C2 is not positive, or the revised form has two
        different costs of a miss.

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
    bonafide, spoof, rates, threshold, costs=ASVSPOOF_COSTS, form="legacy"
):
    """Compute the actual t-DCF, at a threshold that was fixed beforehand.

    CM trials with a score above the threshold are accepted. The t-DCF is
    normalized; above 1, the CM is worse than none. See ``min_tdcf`` for the
    other arguments and the errors.

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


def tdcf_coefficients(rates, costs=ASVSPOOF_COSTS, form="legacy"):
    """Return a, b and c of the normalized ``t-DCF = a + b Pmiss + c Pfa``.

    See ``min_tdcf`` for the arguments and the errors.

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
    fixed = c0 if form == "revised" else 0.0
    scale = fixed + min(c1, c2)
    return fixed / scale, c1 / scale, c2 / scale
