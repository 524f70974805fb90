"""Format figures, intervals, warnings and complete evaluations as text."""

import itertools
import textwrap
from typing import NamedTuple

from speechbrain_bilevel.utils.errors import printable


class Metric(NamedTuple):
    """Title of a metric, and the factor for display: 100 makes percent."""

    title: str
    scale: int = 1


#: All pooled figures that an evaluation may have, in the order of display.
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
    """Format a value of a metric, one of ``METRICS``.

    By default with 2 decimal places for percent and 4 for costs.

    Example
    -------
    >>> format_number("eer", 0.05653530214), format_number("min_dcf", 0.2)
    ('5.65', '0.2000')
    """
    scale = METRICS[metric].scale
    if digits is None:
        digits = 2 if scale == 100 else 4
    value = scale * value
    # Cllr may be enormous if scores are not log-likelihood ratios.
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.6g}"


def format_interval(metric, estimate, digits=None):
    """Format the interval of an ``Estimate``; "" if it has none.

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
    """Format an ``Estimate``, with its interval if it has one.

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
    """Format a p-value, to a thousandth."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def read_as(name, scores):
    """Say what the score file of a system was taken for."""
    return (
        f"{printable(name, 60)}: read as {printable(scores.attrs['read_as'])}"
    )


def eer_warning(name, rate, rate_negated):
    """Return title and text of what an EER above 50 % most likely means.

    ``rate`` is the EER of the scores called ``name``, ``rate_negated`` that of
    the scores with the opposite sign. Both texts are empty without a warning.

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


def metrics_of(subsets):
    """Return the metrics that any of these systems or subsets has, in order."""
    found = set().union(*(each.metrics for each in subsets))
    return [metric for metric in METRICS if metric in found]


def values_of(systems, column):
    """Return the ``Subset`` of each system, or None, by value of a column."""
    values = sorted(set().union(*(system.by[column] for system in systems)))
    return {
        value: [system.by[column].get(value) for system in systems]
        for value in values
    }


def worst_eer(subsets):
    """Return the highest EER of subsets; None if it is 0 or the only one."""
    rates = [each.metrics["eer"].value for each in subsets if each.metrics]
    return max(rates) or None if len(rates) > 1 else None


def format_report(report):
    """Format all figures of an evaluation as a text to print.

    Arguments
    ---------
    report : Report
        See ``evaluation.evaluate``.

    Returns
    -------
    str
        For one system, the figures with all digits; for several, a column for
        each, and the comparisons.

    Example
    -------
    >>> import pandas as pd
    >>> from speechbrain_bilevel.evaluation.evaluate import evaluate
    >>> scores = pd.DataFrame({
    ...     "utt": ["b1", "b2", "s1", "s2", "s3"],
    ...     "label": ["bonafide"] * 2 + ["spoof"] * 3,
    ...     "attack": ["-", "-", "A07", "A07", "A08"],
    ...     "score": [2.0, 3.0, 0.0, 2.5, 1.0],
    ... })
    >>> print(format_report(evaluate([scores], names=["mine"])))
    mine: 2 bona fide and 3 spoofed trials
    EER %                41.666666667  threshold 2.0
    EER %, interpolated  33.333333333  0 trials tied with the other class
    minDCF, ASVspoof 5    0.333333333  threshold 1.0
    actDCF, ASVspoof 5    1.000000000  if scores are log-likelihood ratios
    Cllr, bits            1.165835045  if scores are log-likelihood ratios
    <BLANKLINE>
    attack  trials  EER %
    A07          2  50.00  <- worst
    A08          1   0.00
    <BLANKLINE>
    min t-DCF not computed: it needs the ASV scores
    """
    if len(report.evaluations) == 1:
        parts = _one_system(report.evaluations[0])
    else:
        parts = [_side_by_side(report.evaluations)]
    if report.comparisons:
        parts.append(_comparisons(report.comparisons))
    parts += [shout(*each.warning) for each in report.evaluations]
    parts.append(_notes(report))
    return "\n\n".join(filter(None, parts))


def shout(title, text):
    """Format a warning so that it stands out; "" without a title.

    Example
    -------
    >>> print(shout("mine: the scores look negated", "Nothing was flipped."))
    !!! WARNING: mine: the scores look negated !!!
        Nothing was flipped.
    """
    if not title:
        return ""
    lines = textwrap.wrap(text, 76)
    return "\n    ".join([f"!!! WARNING: {title} !!!", *lines])


def _one_system(system):
    figures = []
    for name, estimate in system.metrics.items():
        value = format_number(name, estimate.value, 9)
        ends = format_interval(name, estimate)
        figures.append([METRICS[name].title, value, ends, _note(system, name)])
        if name == "eer":
            value = format_number("eer", system.eer_interpolated, 9)
            note = f"{system.n_tied} trials tied with the other class"
            figures.append(["EER %, interpolated", value, "", note])
    return [
        f"{printable(system.name, 60)}: {system.n_bonafide} bona fide and "
        f"{system.n_spoof} spoofed trials\n" + _align(figures, left=(0, 2, 3)),
        *(_by_column(column, subsets) for column, subsets in system.by.items()),
    ]


def _by_column(column, subsets):
    """Format a row for each value; that with the highest EER is marked."""
    metrics = metrics_of(subsets.values())
    counted = ["trials"] if column == "attack" else ["bona fide", "spoof"]
    titles = (METRICS[metric].title for metric in metrics)
    rows = [[printable(column, 40), *counted, *titles]]
    worst = worst_eer(subsets.values())
    for value, subset in subsets.items():
        counts = str(subset.n_bonafide), str(subset.n_spoof)
        cells = [_cell(subset, metric) for metric in metrics]
        if subset.metrics and subset.metrics["eer"].value == worst:
            cells.append("<- worst")
        rows.append([printable(value, 40), *counts[-len(counted) :], *cells])
    return _align(rows, left=(0, len(counted) + len(metrics) + 1))


def _note(system, metric):
    if metric in ("act_dcf", "cllr"):
        return "if scores are log-likelihood ratios"
    # Both forms of the t-DCF share one; all other figures are at the given one.
    where = metric.removesuffix("_legacy").removesuffix("_revised")
    threshold = system.thresholds.get(where, system.thresholds.get("given"))
    return f"threshold {threshold!r}"


def _side_by_side(systems):
    """Format a column for each system; "-" if it lacks a figure."""
    rows = [
        ["", *(printable(system.name, 40) for system in systems)],
        ["bona fide", *(str(system.n_bonafide) for system in systems)],
        ["spoof", *(str(system.n_spoof) for system in systems)],
    ]
    for name in metrics_of(systems):
        cells = (_cell(system, name) for system in systems)
        rows.append([METRICS[name].title, *cells])
    for column in systems[0].by:
        values = values_of(systems, column)
        subsets = filter(None, itertools.chain(*values.values()))
        counts = [] if column == "attack" else [None]
        for metric in counts + metrics_of(subsets):
            title = METRICS[metric].title if metric else "bona fide + spoof"
            rows += [[], [f"{title} by {printable(column, 40)}"]]
            for value, found in values.items():
                cells = (_cell(subset, metric) for subset in found)
                rows.append([printable(value, 40), *cells])
    return _align(rows, left=(0,))


def _cell(subset, metric):
    """Format a figure of a system or a subset; "-" if it has none.

    Without a metric, format its numbers of trials.
    """
    if subset is None or (metric and metric not in subset.metrics):
        return "-"
    if metric is None:
        return f"{subset.n_bonafide} + {subset.n_spoof}"
    return format_estimate(metric, subset.metrics[metric])


def _comparisons(comparisons):
    rows = [["difference", "", "", "95 % interval", "p"]]
    for found in comparisons:
        value = found.difference.value
        rows.append(
            [
                f"{printable(found.first, 40)} - {printable(found.second, 40)}",
                METRICS[found.metric].title,
                "+" * (value > 0) + format_number(found.metric, value),
                format_interval(found.metric, found.difference),
                format_p(found.p_value),
            ]
        )
    return _align(rows, left=(0, 1, 3))


def _notes(report):
    notes = []
    if len(report.evaluations) > 1:
        notes.append(
            "actDCF and Cllr hold only for scores that are log-likelihood "
            "ratios"
        )
    notes += [
        read_as(system.name, system.scores)
        for system in report.evaluations
        if "read_as" in system.scores.attrs
    ]
    if report.resampled:
        notes.append(
            f"95 % intervals: {report.n_resamples} resamples over "
            f"{report.resampled}, seed {report.seed}"
        )
    notes += [f"caution: {text}" for text in report.cautions]
    if len(report.groups) > 1:
        groups = (
            ", ".join(printable(report.evaluations[i].name, 40) for i in group)
            for group in report.groups
        )
        notes.append(
            "caution: these have different trials, so that their figures "
            "cannot be compared: " + " | ".join(groups)
        )
    if report.asv_rates is None:
        notes.append("min t-DCF not computed: it needs the ASV scores")
        return "\n".join(notes)
    notes.append(
        f"t-DCF: ASV EER {100 * report.asv_rates.eer:.5f} % at threshold "
        f"{report.asv_rates.threshold!r}"
    )
    if report.asv_rates.eer > 0.5:
        notes.append(
            shout("ASV EER above 50 %: the ASV scores look negated", "")
        )
    return "\n".join(notes)


def _align(rows, left):
    """Format rows of cells as lines; the columns in ``left`` are flush left."""
    columns = itertools.zip_longest(*rows, fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
            if width
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
