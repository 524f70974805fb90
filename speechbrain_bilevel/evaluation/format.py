"""Figures, intervals and warnings in words, for every kind of report."""

from typing import NamedTuple

from speechbrain_bilevel.utils.errors import printable


class Metric(NamedTuple):
    """How a metric is shown.

    Arguments
    ---------
    title : str
    scale : int
        What to multiply by: 100 makes per cent of a fraction.
    """

    title: str
    scale: int = 1


#: All pooled figures that an evaluation may have, in the order to show them.
METRICS = {
    "eer": Metric("EER %", 100),
    "min_tdcf_legacy": Metric("min t-DCF, legacy 2019"),
    "min_tdcf_revised": Metric("min t-DCF, revised 2021"),
    "min_dcf": Metric("minDCF, ASVspoof 5"),
    "act_dcf": Metric("actDCF, ASVspoof 5"),
    "cllr": Metric("Cllr, bits"),
    "frr": Metric("FRR %, at the given threshold", 100),
    "far": Metric("FAR %, at the given threshold", 100),
    "act_tdcf_legacy": Metric("t-DCF, legacy 2019, at it"),
    "act_tdcf_revised": Metric("t-DCF, revised 2021, at it"),
}


def format_number(metric, value, digits=None):
    """Write a figure.

    Arguments
    ---------
    metric : str
        A name of ``METRICS``.
    value : float
    digits : int, optional
        Decimal places; by default 2 of per cent and 4 of costs.

    Returns
    -------
    str

    Example
    -------
    >>> format_number("eer", 0.05653530214), format_number("min_dcf", 0.2)
    ('5.65', '0.2000')
    >>> format_number("cllr", 1.4427e99)
    '1.4427e+99'
    """
    scale = METRICS[metric].scale
    if digits is None:
        digits = 2 if scale == 100 else 4
    value = scale * value
    # Cllr of scores that are no log-likelihood ratios may be enormous.
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.6g}"


def format_interval(metric, estimate, digits=None):
    """Write the interval of an ``Estimate``; "" where it has none.

    Example
    -------
    >>> from speechbrain_bilevel.evaluation.bootstrap import Estimate
    >>> format_interval("eer", Estimate(0.05, 0.04, 0.07))
    '4.00 to 7.00'
    """
    if estimate.low is None:
        return ""
    low = format_number(metric, estimate.low, digits)
    return f"{low} to {format_number(metric, estimate.high, digits)}"


def format_estimate(metric, estimate, digits=None):
    """Write an ``Estimate``, with its interval if it has one.

    Example
    -------
    >>> from speechbrain_bilevel.evaluation.bootstrap import Estimate
    >>> format_estimate("eer", Estimate(0.05, 0.04, 0.07))
    '5.00 (4.00 to 7.00)'
    """
    text = format_number(metric, estimate.value, digits)
    ends = format_interval(metric, estimate, digits)
    return f"{text} ({ends})" if ends else text


def format_p(p_value):
    """Write a p-value, to a thousandth."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def eer_warning(name, rate, rate_negated):
    """Say what an EER above 50 % most likely means.

    Arguments
    ---------
    name : str
        What to call the scores.
    rate, rate_negated : float
        EER of the scores, and of the scores with the opposite sign.

    Returns
    -------
    title, text : str
        Both empty where there is nothing to warn of.

    Example
    -------
    >>> eer_warning("mine", 0.6, 0.4)[0]
    'mine: the scores look negated'
    """
    if rate <= 0.5:
        return "", ""
    name = printable(name, 60)
    rates = (
        f"The EER is {format_number('eer', rate)} %; with the opposite sign it "
        f"would be {format_number('eer', rate_negated)} %."
    )
    if rate_negated >= 0.5:
        return (
            f"{name}: EER above 50 % with either sign",
            f"{rates} Too many trials share one score, or there are too few "
            "trials.",
        )
    return (
        f"{name}: the scores look negated",
        f"{rates} Expected: a higher score for bona fide than for spoof. "
        "Nothing was flipped: if the sign is wrong, correct it in the score "
        "file.",
    )
