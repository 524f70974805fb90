"""How figures look: colours, letters, axes of error rates, thinned curves.

Needs matplotlib, which is an extra of the package. Nothing here touches
pyplot, its figures or a display, and a user's own matplotlib settings change
nothing.
"""

import contextlib
import warnings

import numpy as np
from scipy.special import ndtr, ndtri

from speechbrain_bilevel.errors import InputError

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
