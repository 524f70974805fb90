"""How figures look: colours, letters, axes of error rates, thinned curves.

Needs matplotlib, which is an extra of the package. Nothing here touches
pyplot, its figures or a display, and a user's own matplotlib settings change
nothing.
"""

import contextlib
import io
import warnings

import numpy as np
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from scipy.special import logit, ndtr, ndtri

from speechbrain_bilevel.metrics.eer import det_curve
from speechbrain_bilevel.metrics.tdcf import tdcf_coefficients, tdcf_curve
from speechbrain_bilevel.utils.errors import InputError, printable

try:
    import matplotlib.style
    from matplotlib.figure import Figure
except ImportError as error:
    raise InputError(
        "figures and the HTML report need matplotlib, which is not installed: "
        "pip install 'speechbrain_bilevel[plots]'"
    ) from error


# Okabe and Ito's colours, which colour-blind readers can tell apart; wine red
# in the place of their yellow, which is too faint on white.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#882255",
)


DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


MARKERS = "os^DvPX"


INK = "#333333"


# Narrow, so that the letters stay readable on a phone.
WIDTH = 4.6


STYLE = {
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
    # A "$" in the name of a file or an attack is a dollar, no formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "speechbrain_bilevel",
}


RATE_TICKS = np.array(
    [1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4]
    + [0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999]
)


# A curve is drawn to 1/1000 of an axis: one pixel of a printed figure.
CELLS = 1000


def colour(index):
    """The colour of the system with this index, the same in all figures.

    Arguments
    ---------
    index : int
        Position of the system in the report.

    Returns
    -------
    colour : str
        ``#RRGGBB``.

    Example
    -------
    >>> colour(0)
    '#0072B2'
    """
    return COLOURS[index % len(COLOURS)]


@contextlib.contextmanager
def style():
    """Meanwhile figures look as they should, whatever the user's settings."""
    with (
        matplotlib.style.context(["default", STYLE]),
        warnings.catch_warnings(),
    ):
        # The browser has the letters that matplotlib's font may lack.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def new_figure(height, systems=(), **subplots):
    """A figure with room below its panels for a line of legend a system."""
    figure = Figure((WIDTH, height + 0.19 * len(systems)), layout="constrained")
    return figure, figure.subplots(**subplots)


def add_legend(figure, handles, labels, **options):
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        alignment="left",
        handlelength=2.6,
        labelspacing=0.3,
        **options,
    )


def draw_curve(axes, index, points, marked):
    """The curve of a system; its mark, which may lie on the edge."""
    look = {
        "color": colour(index),
        "linestyle": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
    }
    axes.plot(*points, **look)
    (mark,) = axes.plot(
        *marked,
        **look,
        marker=MARKERS[index % len(MARKERS)],
        markersize=7,
        markeredgecolor="white",
        clip_on=False,
        zorder=3,
    )
    return mark


def rate_limits(systems):
    """Rates from below the best EER to above the worst one."""
    rates = [system.metrics["eer"].value for system in systems]
    finest = 1 / max(system.scores.score.size for system in systems)
    finest = np.clip(finest, RATE_TICKS[0], 0.5)
    ends = np.clip([min(rates), max(rates)], finest, 1 - finest)
    low, high = ndtr(ndtri(ends) + [-1, 1])
    first = max(np.searchsorted(RATE_TICKS, low, side="right") - 1, 0)
    last = min(np.searchsorted(RATE_TICKS, high), len(RATE_TICKS) - 1)
    return RATE_TICKS[first], RATE_TICKS[last]


def make_probit(axis, set_scale, set_limits, limits):
    """Makes an axis one of error rates, labelled in per cent."""
    set_scale("function", functions=(ndtri, ndtr))
    set_limits(*limits)
    ticks = RATE_TICKS[(limits[0] <= RATE_TICKS) & (RATE_TICKS <= limits[1])]
    set_ticks(axis, ticks, 100 * ticks, apart=0.085)
    axis.grid(True)


def set_ticks(axis, places, values, apart):
    """Ticks, named by their values, where there is room for the name."""
    transform = axis.get_transform().transform
    low, high = transform(axis.get_view_interval())
    shown, last = {}, np.inf
    for place, value in zip(places[::-1], values[::-1]):
        part = (transform(place) - low) / (high - low)
        if last - part > apart:
            shown[place] = np.format_float_positional(value, 6, trim="-")
            last = part
    axis.set_ticks(list(shown), list(shown.values()))


def within(rates, limits):
    """Rates cut off just outside of the picture, where 0 and 1 are infinite."""
    margin = 0.02 * np.ptp(ndtri(limits)) * np.array([-1, 1])
    return np.clip(rates, *ndtr(ndtri(limits) + margin))


def part_of_axis(rates, limits):
    """Where rates lie on a probit axis, 0 to 1."""
    low, high = ndtri(limits)
    return (ndtri(rates) - low) / (high - low)


def same_picture(x, y, marked):
    """Which points of a curve, in parts of the axes, are enough to draw it."""
    moves = np.any(np.diff(np.round(CELLS * np.stack([x, y]))) != 0, axis=0)
    kept = np.zeros(len(x), dtype=bool)
    kept[[0, marked, -1]] = True
    kept[1:] |= moves
    kept[:-1] |= moves
    return kept


SPOOF_COLOUR = "#A6A6A6"


FEWEST_BINS, MOST_BINS = 12, 60


SOFTMAX_TICKS = np.array(
    [1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5]
    + [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
)


LOGIT_TICKS = logit(SOFTMAX_TICKS)


# Nearer to 0 or 1, a softmax in single precision has no digits left.
LOGIT_END = 16


def draw_scores(systems):
    """Histograms of the scores of both classes, a panel for each system.

    Arguments
    ---------
    systems : list of Evaluation

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = new_figure(
        0.5 + 1.75 * len(systems), nrows=len(systems), squeeze=False
    )
    for index, (axes, system) in enumerate(zip(panels[:, 0], systems)):
        _histograms(axes, system, colour(index))
    bonafide = tuple(Patch(facecolor=colour(i)) for i in range(len(systems)))
    spoof = Patch(facecolor=SPOOF_COLOUR)
    threshold = panels[0, 0].get_lines()[0]
    add_legend(
        figure,
        [bonafide, spoof, threshold],
        ["bona fide", "spoof", "EER threshold"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        ncols=3,
    )
    return figure


def _histograms(axes, system, bonafide_colour):
    """Both classes of one system; the bars of a class sum to 1."""
    scores = system.scores
    values = [scores.spoof, scores.bonafide, system.thresholds["eer"]]
    is_softmax = 0 <= scores.score.min() and scores.score.max() <= 1
    if is_softmax:
        tiny = np.finfo(float).eps
        values = [logit(np.clip(each, tiny, 1 - tiny)) for each in values]
    *classes, threshold = values
    low, high = _robust_range(classes, LOGIT_END if is_softmax else np.inf)
    # Few trials in many bins would show nothing but their number.
    bins = 2 * np.sqrt(min(map(len, classes)))
    bins = int(np.clip(bins, FEWEST_BINS, MOST_BINS))
    edges = np.linspace(low, high, bins + 1)
    looks = (SPOOF_COLOUR, 1), (bonafide_colour, 0.6)
    for each, (face, alpha) in zip(classes, looks):
        # The end bars hold what lies beyond, so that no trial is lost.
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
        inside = (low < LOGIT_TICKS) & (LOGIT_TICKS < high)
        places, values = LOGIT_TICKS[inside], SOFTMAX_TICKS[inside]
        set_ticks(axes.xaxis, places, values, apart=0.15)


def _robust_range(classes, end):
    """From the lowest to the highest scores but for the last 0.5 %."""
    ends = []
    for each in map(np.sort, classes):
        # At least one trial at either end, which may be far from all others.
        left_out = max(len(each) // 200, int(len(each) > 10))
        ends += [each[left_out], each[-1 - left_out]]
    low, high = np.clip([min(ends), max(ends)], -end, end)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


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
    >>> from speechbrain_bilevel.evaluation.evaluate import evaluate
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
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
