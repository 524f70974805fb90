"""Figures of an evaluation: DET curves, scores, t-DCF, EER of each attack."""

import io

import numpy as np

from speechbrain_bilevel.metrics.eer import det_curve
from speechbrain_bilevel.metrics.histograms import draw_scores
from speechbrain_bilevel.metrics.plot_style import (
    INK,
    add_legend,
    colour,
    draw_curve,
    make_probit,
    new_figure,
    part_of_axis,
    rate_limits,
    same_picture,
    style,
    within,
)
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients, tdcf_curve
from speechbrain_bilevel.text import printable

# The figure of attacks holds so many.
MOST_ATTACKS = 60


def draw(report):
    """Draws the figures of a report.

    Arguments
    ---------
    report : Report
        One or more systems; each has the same colour in all figures.

    Returns
    -------
    figures : dict of str to matplotlib.figure.Figure
        "det": detection error trade-off curves on probit axes, in fractions;
        "attacks": EER of each attack, in per cent; "tdcf": revised t-DCF
        against the share of bona fide trials rejected, only where the report
        has it; "scores": histograms of each system's scores, every class
        summing to 1. All are 4.6 inches wide.

    Example
    -------
    >>> from speechbrain_bilevel.metrics.evaluation import evaluate
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> attack = np.array(["-", "-", "A07", "A07"])
    >>> score = np.array([1.0, 3.0, 0.0, 2.0])
    >>> report = evaluate([CMScores(attack, attack, attack == "-", score)])
    >>> list(draw(report))
    ['det', 'attacks', 'scores']
    """
    systems = report.evaluations
    with style():
        figures = {"det": _det(systems), "attacks": _attacks(systems)}
        if all("min_tdcf_revised" in each.metrics for each in systems):
            figures["tdcf"] = _tdcf(systems, report.asv_rates)
        figures["scores"] = draw_scores(systems)
        for figure in figures.values():
            # Ticks are made here, while the style holds.
            figure.draw_without_rendering()
    return figures


def png(figure):
    """A figure as a PNG for papers, 300 dots an inch.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        One of :func:`draw`.

    Returns
    -------
    bytes

    Example
    -------
    >>> from matplotlib.figure import Figure
    >>> png(Figure())[1:4]
    b'PNG'
    """
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=300)
    return file.getvalue()


def svg(figure):
    """A figure as SVG text, the same for the same figure.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        One of :func:`draw`.

    Returns
    -------
    text : str
        An XML document; its letters are text, not outlines.

    Example
    -------
    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> _ = figure.text(0, 0, "a < b")
    >>> "a &lt; b</text>" in svg(figure)
    True
    """
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _labels(systems, metric, scale, digits):
    """The names of systems and their figures, for a legend."""
    labels = []
    for system in systems:
        estimate = system.metrics[metric]
        unit = " %" if scale == 100 else ""
        text = f"{scale * estimate.value:.{digits}f}{unit}"
        if estimate.low is not None:
            low, high = scale * estimate.low, scale * estimate.high
            text += f" ({low:.{digits}f} to {high:.{digits}f})"
        labels.append(f"{printable(system.name, 50 - len(text))}: {text}")
    return labels


def _det(systems):
    figure, axes = new_figure(4.6, systems)
    limits = rate_limits(systems)
    marks = []
    for index, system in enumerate(systems):
        frr, far, _ = det_curve(system.scores.bonafide, system.scores.spoof)
        closest = np.argmin(np.abs(frr - far))
        frr, far = within(frr, limits), within(far, limits)
        kept = same_picture(
            part_of_axis(far, limits), part_of_axis(frr, limits), closest
        )
        point = np.clip([system.metrics["eer"].value] * 2, *limits)
        marks.append(draw_curve(axes, index, (far[kept], frr[kept]), point))
    axes.plot(limits, limits, color="#9A9A9A", linewidth=0.8, zorder=1)
    make_probit(axes.xaxis, axes.set_xscale, axes.set_xlim, limits)
    make_probit(axes.yaxis, axes.set_yscale, axes.set_ylim, limits)
    axes.set_xlabel("False acceptance of spoofed trials, %")
    axes.set_ylabel("False rejection of bona fide trials, %")
    axes.set_box_aspect(1)
    add_legend(figure, marks, _labels(systems, "eer", 100, 2), title="EER")
    return figure


def _tdcf(systems, rates):
    figure, axes = new_figure(3.3, systems)
    limits = min(rate_limits(systems)[0], 0.001), 0.8
    top = 1.15
    marks = []
    for index, system in enumerate(systems):
        bonafide, spoof = system.scores.bonafide, system.scores.spoof
        cost, _ = tdcf_curve(bonafide, spoof, rates, form="revised")
        frr, _, _ = det_curve(bonafide, spoof)
        lowest = np.argmin(cost)
        point = np.clip(frr[[lowest]], *limits), cost[[lowest]]
        frr, shown = within(frr, limits), np.minimum(cost, top + 0.05)
        kept = same_picture(part_of_axis(frr, limits), shown / top, lowest)
        marks.append(draw_curve(axes, index, (frr[kept], shown[kept]), point))
    perfect = tdcf_coefficients(rates, form="revised")[0]
    for level, text in ((1, "1 = useless"), (perfect, "perfect")):
        axes.axhline(level, color=INK, linewidth=0.8, zorder=1)
        axes.annotate(
            text,
            (1, level),
            (0, 2),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
    make_probit(axes.xaxis, axes.set_xscale, axes.set_xlim, limits)
    axes.set_ylim(0, top)
    axes.set_xlabel("Bona fide trials rejected by the countermeasure, %")
    axes.set_ylabel("Normalised t-DCF, revised 2021")
    labels = _labels(systems, "min_tdcf_revised", 1, 4)
    add_legend(figure, marks, labels, title="Minimum")
    return figure


def _attacks(systems):
    attacks = _worst_attacks(systems)
    thickness = max(0.065, 0.34 / (len(systems) + 1))
    row = thickness * len(systems) + 0.12
    figure, axes = new_figure(0.7 + row * len(attacks), systems)
    handles = []
    for index, system in enumerate(systems):
        shown = [attack for attack in attacks if attack in system.attacks]
        rows = [attacks.index(attack) for attack in shown]
        rates = [system.attacks[attack].eer for attack in shown]
        middle = (index - (len(systems) - 1) / 2) * thickness / row
        bars = axes.barh(
            np.array(rows) + middle,
            [100 * rate.value for rate in rates],
            height=thickness / row,
            color=colour(index),
        )
        handles.append(bars)
        _intervals(axes, bars, rates)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.set_yticks(range(len(attacks)), [printable(a, 18) for a in attacks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, min(max(axes.get_xlim()[1], 0.1), 100))
    axes.grid(True, axis="x")
    axes.set_xlabel("EER, %")
    add_legend(figure, handles, [printable(each.name, 44) for each in systems])
    return figure


def _worst_attacks(systems):
    """All attacks by name; of very many, those with the highest EER."""
    highest = {}
    for system in systems:
        for name, result in system.attacks.items():
            highest[name] = max(highest.get(name, 0), result.eer.value)
    worst = sorted(highest, key=highest.get, reverse=True)[:MOST_ATTACKS]
    return sorted(worst)


def _intervals(axes, bars, rates):
    """The 95 % intervals of bars, where there are any."""
    for bar, rate in zip(bars, rates):
        if rate.low is not None:
            axes.plot(
                [100 * rate.low, 100 * rate.high],
                [bar.get_y() + bar.get_height() / 2] * 2,
                color=INK,
                linewidth=1,
            )
