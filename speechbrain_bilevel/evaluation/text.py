"""An evaluation as plain text."""

from itertools import zip_longest

from speechbrain_bilevel.evaluation.results import METRICS
from speechbrain_bilevel.utils.errors import printable

_THRESHOLD_OF = {
    "eer": "eer",
    "min_tdcf_legacy": "min_tdcf",
    "min_tdcf_revised": "min_tdcf",
    "min_dcf": "min_dcf",
    "frr": "given",
    "far": "given",
    "act_tdcf_legacy": "given",
    "act_tdcf_revised": "given",
}


def format_report(report):
    """All figures of an evaluation as a text to print.

    Arguments
    ---------
    report : Report
        See ``metrics.evaluation.evaluate``.

    Returns
    -------
    str
        Of one system, the figures with all digits; of several, a column each
        and the comparisons. EERs above 50 % are announced in capitals.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_bilevel.evaluation.evaluate import evaluate
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
    >>> attacks = np.array(["-", "-", "A07", "A07", "A08"])
    >>> is_bonafide, score = attacks == "-", np.array([2, 3, 0, 2.5, 1])
    >>> scores = CMScores(attacks, attacks, is_bonafide, score, "s.txt")
    >>> print(format_report(evaluate([scores])))
    s.txt: 2 bona fide and 3 spoofed trials
    EER %               41.666666667  threshold 2.0
    minDCF, ASVspoof 5   0.333333333  threshold 1.0
    actDCF, ASVspoof 5   1.000000000  if scores are log-likelihood ratios
    Cllr, bits           1.165835045  if scores are log-likelihood ratios
    <BLANKLINE>
    attack  trials   EER %
    A07          2  50.000  <- worst
    A08          1   0.000
    <BLANKLINE>
    min t-DCF not computed: it needs the ASV scores
    """
    if len(report.evaluations) == 1:
        parts = _one_system(report.evaluations[0])
    else:
        parts = [_side_by_side(report.evaluations)]
    if report.comparisons:
        parts.append(_comparisons(report.comparisons))
    warnings = [warning(system) for system in report.evaluations]
    parts += [text for text in warnings if text]
    parts.append(_notes(report))
    return "\n\n".join(parts)


def warning(evaluation):
    """What an EER above 50 % most likely means, to be said aloud.

    Arguments
    ---------
    evaluation : Evaluation

    Returns
    -------
    str
        Empty where there is nothing to warn of.
    """
    rate = evaluation.metrics["eer"].value
    return eer_warning(evaluation.name, rate, evaluation.eer_negated)


def eer_warning(name, rate, rate_negated):
    """The same of any scores.

    Arguments
    ---------
    name : str
        What to call them.
    rate : float
        EER of the scores.
    rate_negated : float
        EER of the scores with the opposite sign.

    Returns
    -------
    str
        Empty where there is nothing to warn of.

    Example
    -------
    >>> eer_warning("mine", 0.2, 0.8)
    ''
    """
    if rate <= 0.5:
        return ""
    name, opposite = printable(name, 60), f"{100 * rate_negated:.3f} %"
    if rate_negated < 0.5:
        return (
            f"!!! WARNING: {name}: EER ABOVE 50 %, THE SCORES LOOK NEGATED !!!\n"
            "    Expected: a higher score for bona fide than for spoof.\n"
            f"    With the opposite sign the EER would be {opposite}. Nothing "
            "was flipped:\n"
            "    if the sign is wrong, correct it in the score file."
        )
    return (
        f"!!! WARNING: {name}: EER ABOVE 50 % WITH EITHER SIGN !!!\n"
        f"    With the opposite sign it would be {opposite}: too many trials "
        "share one score,\n"
        "    or there are too few trials."
    )


def _one_system(system):
    figures = []
    for name, estimate in system.metrics.items():
        title, scale = METRICS[name]
        note = ""
        if name in _THRESHOLD_OF:
            note = f"threshold {system.thresholds[_THRESHOLD_OF[name]]!r}"
        elif name in ("act_dcf", "cllr"):
            note = "if scores are log-likelihood ratios"
        value = number_text(scale * estimate.value, 9)
        figures.append([title, value, interval_text(estimate, scale), note])
    attacks = [["attack", "trials", "EER %", "", ""]]
    worst = max(attack.eer.value for attack in system.attacks.values())
    for name, attack in system.attacks.items():
        is_worst = attack.eer.value == worst > 0 and len(system.attacks) > 1
        cells = [str(attack.trials), f"{100 * attack.eer.value:.3f}"]
        cells += [
            interval_text(attack.eer, 100),
            "<- worst" if is_worst else "",
        ]
        attacks.append([printable(name, 40), *cells])
    return [
        f"{printable(system.name, 60)}: {system.n_bonafide} bona fide and "
        f"{system.n_spoof} spoofed trials\n"
        + _aligned(figures, left=(0, 2, 3)),
        _aligned(attacks, left=(0, 3, 4)),
    ]


def _side_by_side(systems):
    """A column each; ``-`` where a system has no such figure."""
    rows = [
        ["", *(printable(system.name, 40) for system in systems)],
        ["bona fide", *(str(system.n_bonafide) for system in systems)],
        ["spoof", *(str(system.n_spoof) for system in systems)],
    ]
    for name, (title, scale) in METRICS.items():
        estimates = [system.metrics.get(name) for system in systems]
        if any(estimates):
            digits = 3 if scale == 100 else 4
            cells = (_cell(estimate, scale, digits) for estimate in estimates)
            rows.append([title, *cells])
    rows += [[], ["EER % by attack"]]
    for attack in sorted(set().union(*(system.attacks for system in systems))):
        results = (system.attacks.get(attack) for system in systems)
        cells = (_cell(result and result.eer, 100, 3) for result in results)
        rows.append([printable(attack, 40), *cells])
    return _aligned(rows, left=(0,))


def _comparisons(comparisons):
    rows = [["difference", "", "", "95 % interval", "p"]]
    for found in comparisons:
        title, scale = METRICS[found.metric]
        value = f"{scale * found.difference.value:+.4f}"
        pair = " - ".join(
            printable(name, 40) for name in (found.first, found.second)
        )
        interval = interval_text(found.difference, scale, 4)
        rows.append([pair, title, value, interval, f"{found.p_value:.3g}"])
    return _aligned(rows, left=(0, 1, 3))


def _notes(report):
    notes = []
    if len(report.evaluations) > 1:
        notes.append(
            "actDCF and Cllr hold only for scores that are log-likelihood "
            "ratios"
        )
    if report.resampled:
        notes.append(
            f"95 % intervals: {report.draws} resamples over "
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
    if report.asv_rates:
        notes.append(
            f"t-DCF: ASV EER {100 * report.asv_rates.eer:.5f} % at threshold "
            f"{report.asv_rates.threshold!r}"
        )
        if report.asv_rates.eer > 0.5:
            notes.append(
                "!!! WARNING: ASV EER ABOVE 50 %, THE ASV SCORES LOOK NEGATED"
            )
    else:
        notes.append("min t-DCF not computed: it needs the ASV scores")
    return "\n".join(notes)


def _cell(estimate, scale, digits):
    if estimate is None:
        return "-"
    text = number_text(scale * estimate.value, digits)
    if estimate.low is None:
        return text
    low, high = scale * estimate.low, scale * estimate.high
    return f"{text} ({number_text(low, digits)}-{number_text(high, digits)})"


def interval_text(estimate, scale, digits=3):
    """An interval in print.

    Arguments
    ---------
    estimate : Estimate
    scale : float
        See ``METRICS``.
    digits : int
        After the point.

    Returns
    -------
    str
        Empty where there is none.

    Example
    -------
    >>> from speechbrain_bilevel.evaluation.results import Estimate
    >>> interval_text(Estimate(0.05, 0.04, 0.07), 100)
    '4.000 to 7.000'
    """
    if estimate.low is None:
        return ""
    low, high = scale * estimate.low, scale * estimate.high
    return f"{number_text(low, digits)} to {number_text(high, digits)}"


def number_text(value, digits):
    """A figure in print; Cllr of scores that are no ratios may be enormous.

    Arguments
    ---------
    value : float
    digits : int
        After the point.

    Returns
    -------
    str

    Example
    -------
    >>> number_text(0.5, 3), number_text(1e99, 3)
    ('0.500', '1e+99')
    """
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.6g}"


def _aligned(rows, left):
    """Rows of cells as lines; the given columns are flush left."""
    widths = [
        max(map(len, column)) for column in zip_longest(*rows, fillvalue="")
    ]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
            if width
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
