"""Figures of an evaluation, for reports and papers.

matplotlib is an extra of the package, so it is imported where a figure is
drawn. Drawing uses neither pyplot nor a display, and ignores the user's
matplotlib settings.
"""

import contextlib
import io
import warnings

import numpy as np
from scipy.special import logit, ndtr, ndtri

from speechbrain_bilevel.evaluation.format import format_estimate
from speechbrain_bilevel.evaluation.score_files import split_classes
from speechbrain_bilevel.metrics.eer import det_curve
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients, tdcf_curve
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import MARK

# Okabe and Ito's colors, which color-blind readers can distinguish; wine red
# instead of their yellow, which is too faint on white.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#882255",
)
INK = "#333333"
SPOOF_COLOR = "#A6A6A6"
#: The figure of attacks shows the worst ones if there are more.
MAX_ATTACKS = 60

_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX"
# Inches; narrow, so that text stays readable on a phone.
_WIDTH = 4.6
_STYLE = {
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.titlesize": 9.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    # A "$" in the name of a file or an attack starts no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "speechbrain_bilevel",
}
# 1, 2 and 5 of each decade, but 40 % for 50 %.
_LOW_RATES = np.outer([1e-4, 0.001, 0.01, 0.1], [1, 2, 5]).ravel()[:-1]
_RATE_TICKS = np.array([*_LOW_RATES, 0.4, 0.6, *1 - _LOW_RATES[::-1]])
_TAILS = 10.0 ** np.arange(-6, 0)
_SOFTMAX_TICKS = np.array([*_TAILS, 0.5, *1 - _TAILS[::-1]])
# Closer to 0 or 1, a softmax in single precision has no digits left.
_LOGIT_END = 16
_MIN_BINS, _MAX_BINS = 12, 60
# A curve is drawn to 1/1000 of an axis: one pixel of a printed figure.
_CELLS = 1000


def draw(report):
    """Draw the figures of a report.

    Arguments
    ---------
    report : Report
        See ``evaluation.evaluate``.

    Returns
    -------
    dict of str to matplotlib.figure.Figure
        "det": detection error trade-off curves on probit axes; "attacks": EER
        of each attack; "tdcf": revised t-DCF against the share of bona fide
        trials rejected, if the report has it; "scores": histograms. A system
        has the same color in all of them.

    Raises
    ------
    InputError
        If matplotlib is missing.

    Example
    -------
    >>> import pandas as pd
    >>> from speechbrain_bilevel.evaluation.evaluate import evaluate
    >>> scores = pd.DataFrame({
    ...     "utt": ["b1", "b2", "s1", "s2"],
    ...     "label": ["bonafide", "bonafide", "spoof", "spoof"],
    ...     "attack": ["-", "-", "A07", "A07"],
    ...     "score": [1.0, 3.0, 0.0, 2.0],
    ... })
    >>> list(draw(evaluate([scores])))
    ['det', 'attacks', 'scores']
    """
    systems = report.evaluations
    with style():
        figures = {"det": _draw_det(systems), "attacks": _draw_attacks(systems)}
        if report.asv_rates is not None:
            figures["tdcf"] = _draw_tdcf(systems, report.asv_rates)
        figures["scores"] = _draw_scores(systems)
        for figure in figures.values():
            # Make the ticks while the style applies.
            figure.draw_without_rendering()
    return figures


def png(figure):
    """Return a figure as PNG bytes, at 300 dots per inch."""
    file = io.BytesIO()
    with style():
        metadata = {"Software": MARK}
        figure.savefig(file, format="png", dpi=300, metadata=metadata)
    return file.getvalue()


def svg(figure):
    """Return a figure as SVG text, in which letters are text, not outlines."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def color(index):
    """Return the color of a system by its position in the report."""
    return COLORS[index % len(COLORS)]


def require_matplotlib():
    """Raise an ``InputError`` that says what to install if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "figures and the HTML report need matplotlib, which is not "
            "installed: pip install '.[plots]' in the clone"
        ) from error


@contextlib.contextmanager
def style():
    """Draw in this package's style, whatever the user's settings."""
    require_matplotlib()
    import matplotlib.style

    with (
        matplotlib.style.context(["default", _STYLE]),
        warnings.catch_warnings(),
    ):
        # The browser has the characters that matplotlib's font may lack.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


# ---------------------------------------------------------------- the figures
def _draw_det(systems):
    figure, axes = _new_figure(4.6, systems)
    limits = _rate_limits(systems)
    marks = []
    for index, system in enumerate(systems):
        frr, far, _ = det_curve(*split_classes(system.scores))
        closest = np.argmin(np.abs(frr - far))
        frr, far = _clip(frr, limits), _clip(far, limits)
        kept = _thin(
            _share_of_axis(far, limits), _share_of_axis(frr, limits), closest
        )
        point = np.clip([system.metrics["eer"].value] * 2, *limits)
        marks.append(_draw_curve(axes, index, (far[kept], frr[kept]), point))
    axes.plot(limits, limits, color="#9A9A9A", linewidth=0.8, zorder=1)
    _make_probit(axes.xaxis, axes.set_xscale, axes.set_xlim, limits)
    _make_probit(axes.yaxis, axes.set_yscale, axes.set_ylim, limits)
    axes.set_xlabel("False acceptance of spoofed trials, %")
    axes.set_ylabel("False rejection of bona fide trials, %")
    axes.set_box_aspect(1)
    _add_legend(figure, marks, _labels(systems, "eer"), title="EER, %")
    return figure


def _draw_tdcf(systems, rates):
    figure, axes = _new_figure(3.3, systems)
    limits = min(_rate_limits(systems)[0], 0.001), 0.8
    top = 1.15
    marks = []
    for index, system in enumerate(systems):
        bonafide, spoof = split_classes(system.scores)
        cost, _ = tdcf_curve(bonafide, spoof, rates, form="revised")
        frr, _, _ = det_curve(bonafide, spoof)
        lowest = np.argmin(cost)
        point = np.clip(frr[[lowest]], *limits), cost[[lowest]]
        frr, shown = _clip(frr, limits), np.minimum(cost, top + 0.05)
        kept = _thin(_share_of_axis(frr, limits), shown / top, lowest)
        marks.append(_draw_curve(axes, index, (frr[kept], shown[kept]), point))
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
    _make_probit(axes.xaxis, axes.set_xscale, axes.set_xlim, limits)
    axes.set_ylim(0, top)
    axes.set_xlabel("Bona fide trials rejected by the countermeasure, %")
    axes.set_ylabel("Normalized t-DCF, revised 2021")
    labels = _labels(systems, "min_tdcf_revised")
    _add_legend(figure, marks, labels, title="Minimum")
    return figure


def _draw_attacks(systems):
    attacks = _worst_attacks(systems)
    thickness = max(0.065, 0.34 / (len(systems) + 1))
    row = thickness * len(systems) + 0.12
    figure, axes = _new_figure(0.7 + row * len(attacks), systems)
    handles = []
    for index, system in enumerate(systems):
        shown = [attack for attack in attacks if attack in system.attacks]
        rates = [system.attacks[attack].metrics["eer"] for attack in shown]
        middle = (index - (len(systems) - 1) / 2) * thickness / row
        places = np.array([attacks.index(attack) for attack in shown]) + middle
        bars = axes.barh(
            places,
            [100 * rate.value for rate in rates],
            height=thickness / row,
            color=color(index),
        )
        handles.append(bars)
        for place, rate in zip(places, rates):
            if rate.low is not None:
                ends = [100 * rate.low, 100 * rate.high]
                axes.plot(ends, [place, place], color=INK, linewidth=1)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.set_yticks(range(len(attacks)), [printable(a, 18) for a in attacks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, min(max(axes.get_xlim()[1], 0.1), 100))
    axes.grid(True, axis="x")
    axes.set_xlabel("EER, %")
    _add_legend(figure, handles, [printable(each.name, 44) for each in systems])
    return figure


def _worst_attacks(systems):
    """Return all attacks by name; of too many, those with the highest EER."""
    highest = {}
    for system in systems:
        for name, result in system.attacks.items():
            rate = result.metrics["eer"].value
            highest[name] = max(highest.get(name, 0), rate)
    return sorted(sorted(highest, key=highest.get, reverse=True)[:MAX_ATTACKS])


def _draw_scores(systems):
    """Draw histograms of both classes, a panel for each system."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    figure, panels = _new_figure(
        0.5 + 1.75 * len(systems), nrows=len(systems), squeeze=False
    )
    for index, (axes, system) in enumerate(zip(panels[:, 0], systems)):
        _draw_histograms(axes, system, color(index))
    bonafide = tuple(Patch(facecolor=color(i)) for i in range(len(systems)))
    spoof = Patch(facecolor=SPOOF_COLOR)
    threshold = panels[0, 0].get_lines()[0]
    _add_legend(
        figure,
        [bonafide, spoof, threshold],
        ["bona fide", "spoof", "EER threshold"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        ncols=3,
    )
    return figure


def _draw_histograms(axes, system, bonafide_color):
    """Draw both classes of one system; the bars of a class sum to 100 %."""
    bonafide, spoof = split_classes(system.scores)
    values = [spoof, bonafide, system.thresholds["eer"]]
    is_softmax = all(x.min() >= 0 and x.max() <= 1 for x in values[:2])
    if is_softmax:
        tiny = np.finfo(float).eps
        values = [logit(np.clip(each, tiny, 1 - tiny)) for each in values]
    *classes, threshold = values
    low, high = _robust_range(classes, _LOGIT_END if is_softmax else np.inf)
    # Few trials in many bins would show no distribution.
    bins = 2 * np.sqrt(min(map(len, classes)))
    edges = np.linspace(low, high, int(np.clip(bins, _MIN_BINS, _MAX_BINS)) + 1)
    looks = (SPOOF_COLOR, 1), (bonafide_color, 0.6)
    for each, (face, alpha) in zip(classes, looks):
        # The end bars include all scores beyond, so that no trial is lost.
        counts, _ = np.histogram(np.clip(each, low, high), edges)
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=True, color=face, alpha=alpha)
    axes.axvline(np.clip(threshold, low, high), color=INK, linestyle="--")
    axes.set_xlim(low, high)
    axes.set_title(printable(system.name, 44), loc="left")
    label = "Score, on a logit axis" if is_softmax else "Score"
    if min(map(np.min, classes)) < low or max(map(np.max, classes)) > high:
        label += " (end bars: all scores beyond)"
    axes.set_xlabel(label)
    axes.set_ylabel("% of the class")
    if is_softmax:
        places = logit(_SOFTMAX_TICKS)
        inside = (low < places) & (places < high)
        _set_ticks(axes.xaxis, places[inside], _SOFTMAX_TICKS[inside], 0.15)


def _robust_range(classes, end):
    """Return the range of the scores without the last 0.5 % at each end."""
    ends = []
    for each in map(np.sort, classes):
        # Leave out at least one trial at each end, which may be an outlier.
        left_out = max(len(each) // 200, int(len(each) > 10))
        ends += [each[left_out], each[-1 - left_out]]
    low, high = np.clip([min(ends), max(ends)], -end, end)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


# ------------------------------------------------------------- parts of figures
def _new_figure(height, systems=(), **subplots):
    """Return a figure with room below for a line of legend per system."""
    from matplotlib.figure import Figure

    size = _WIDTH, height + 0.19 * len(systems)
    figure = Figure(size, layout="constrained")
    return figure, figure.subplots(**subplots)


def _add_legend(figure, handles, labels, **options):
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        alignment="left",
        handlelength=2.6,
        labelspacing=0.3,
        **options,
    )


def _labels(systems, metric):
    """Return the names of systems with their figures, for a legend."""
    labels = []
    for system in systems:
        text = format_estimate(metric, system.metrics[metric])
        labels.append(f"{printable(system.name, 50 - len(text))}: {text}")
    return labels


def _draw_curve(axes, index, points, marked):
    """Draw the curve of a system; return its mark, which may be on the edge."""
    look = {
        "color": color(index),
        "linestyle": _DASHES[(index + index // len(COLORS)) % len(_DASHES)],
    }
    axes.plot(*points, **look)
    (mark,) = axes.plot(
        *marked,
        **look,
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=7,
        markeredgecolor="white",
        clip_on=False,
        zorder=3,
    )
    return mark


def _rate_limits(systems):
    """Return rates from below the best EER to above the worst one."""
    rates = [system.metrics["eer"].value for system in systems]
    finest = 1 / max(len(system.scores) for system in systems)
    finest = np.clip(finest, _RATE_TICKS[0], 0.5)
    ends = np.clip([min(rates), max(rates)], finest, 1 - finest)
    low, high = ndtr(ndtri(ends) + np.array([-1, 1]))
    first = max(np.searchsorted(_RATE_TICKS, low, side="right") - 1, 0)
    last = min(np.searchsorted(_RATE_TICKS, high), len(_RATE_TICKS) - 1)
    return _RATE_TICKS[first], _RATE_TICKS[last]


def _make_probit(axis, set_scale, set_limits, limits):
    """Make an axis one of error rates, labeled in percent."""
    set_scale("function", functions=(ndtri, ndtr))
    set_limits(*limits)
    first, last = np.searchsorted(_RATE_TICKS, limits)
    ticks = _RATE_TICKS[first : last + 1]
    _set_ticks(axis, ticks, 100 * ticks, apart=0.085)
    axis.grid(True)


def _set_ticks(axis, places, values, apart):
    """Set ticks, labeled by their values where there is room."""
    transform = axis.get_transform().transform
    low, high = transform(axis.get_view_interval())
    shown, last = {}, np.inf
    for place, value in zip(places[::-1], values[::-1]):
        share = (transform(place) - low) / (high - low)
        if last - share > apart:
            shown[place] = np.format_float_positional(value, 6, trim="-")
            last = share
    axis.set_ticks(list(shown), list(shown.values()))


def _clip(rates, limits):
    """Clip rates just outside of the limits; 0 and 1 would be infinite."""
    margin = 0.02 * np.ptp(ndtri(limits)) * np.array([-1, 1])
    return np.clip(rates, *ndtr(ndtri(limits) + margin))


def _share_of_axis(rates, limits):
    """Return where rates lie on a probit axis, from 0 to 1."""
    low, high = ndtri(limits)
    return (ndtri(rates) - low) / (high - low)


def _thin(x, y, marked):
    """Return which points, in shares of the axes, suffice to draw a curve."""
    moves = np.any(np.diff(np.round(_CELLS * np.stack([x, y]))) != 0, axis=0)
    kept = np.zeros(len(x), dtype=bool)
    kept[[0, marked, -1]] = True
    kept[1:] |= moves
    kept[:-1] |= moves
    return kept
