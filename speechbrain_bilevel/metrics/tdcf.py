"""Tandem detection cost function (t-DCF), legacy form of ASVspoof 2019.

The t-DCF rates a spoofing countermeasure (CM) by the cost of the whole
system: the CM followed by a fixed automatic speaker verification (ASV) system.
Source: Kinnunen et al., "t-DCF: a detection cost function for the tandem
assessment of spoofing countermeasures and automatic speaker verification",
Odyssey 2018, and the evaluation plan of ASVspoof 2019.
"""

from dataclasses import dataclass, fields

import numpy as np

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.metrics.eer import as_scores, det_curve, eer


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


def min_tdcf(bonafide, spoof, rates, costs=TDCFCosts()):
    """Minimum normalised t-DCF of a countermeasure, legacy 2019 form.

    With Pmiss and Pfa the false rejection and false acceptance rates of
    :func:`~speechbrain_bilevel.metrics.eer.det_curve`,

        t-DCF = (C1 Pmiss + C2 Pfa) / min(C1, C2)
        C1 = p_target (c_miss_cm - c_miss_asv p_miss)
             - p_nontarget c_fa_asv p_fa
        C2 = c_fa_cm p_spoof p_fa_spoof

    and the first of its lowest points is taken. The value lies in [0, 1]: 1 is
    no better than accepting or rejecting every trial.

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

    Returns
    -------
    min_tdcf : float
        Minimum normalised t-DCF.
    threshold : float
        CM trials with a score above it are accepted.

    Raises
    ------
    InputError
        If the CM scores are unusable, or if the rates and costs make C1 or C2
        negative or zero: the normalised t-DCF is then undefined.

    Example
    -------
    >>> rates = ASVRates(0.0, 0.0, p_miss=0.0, p_fa=0.0, p_fa_spoof=1.0)
    >>> value, threshold = min_tdcf([2.0, 3.0], [0.0, 2.5], rates)
    >>> value, threshold
    (0.5, 0.0)
    """
    c1, c2 = _weights(rates, costs)
    frr, far, thresholds = det_curve(bonafide, spoof)
    tdcf = (c1 * frr + c2 * far) / min(c1, c2)
    lowest = np.argmin(tdcf)
    return float(tdcf[lowest]), float(thresholds[lowest])


def _weights(rates, costs):
    """C1 and C2: what a CM miss and a CM false acceptance cost in tandem."""
    c1 = (
        costs.p_target * (costs.c_miss_cm - costs.c_miss_asv * rates.p_miss)
        - costs.p_nontarget * costs.c_fa_asv * rates.p_fa
    )
    c2 = costs.c_fa_cm * costs.p_spoof * rates.p_fa_spoof
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
    return c1, c2
