"""The figure of the scores of both classes."""

import numpy as np
from scipy.special import logit

# First, for it says what to install where matplotlib is missing.
from speechbrain_bilevel.metrics.plot_style import (  # isort: skip
    INK,
    add_legend,
    colour,
    new_figure,
    set_ticks,
)
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch

from speechbrain_bilevel.text import printable

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
