"""The table and the plot of ``run.py``."""

import numpy as np
import scipy.stats
from arms import ARMS
from matplotlib.figure import Figure
from recorded_runs import interval, spread

from speechbrain_bilevel.evaluation.plots import COLORS, INK


def of(results, arm, name, seeds=None):
    """A figure of an arm's runs, one a seed."""
    return np.array([run[name] for run in results[arm]["runs"]])[:seeds]


def difference(results, arm, other="plain"):
    """The paired comparison with another arm on the seeds that both have: mean
    difference of the EER on unseen attacks, half of its interval, p of the
    paired t-test."""
    runs = min(len(results[name]["runs"]) for name in (arm, other))
    ours, theirs = (of(results, name, "unseen", runs) for name in (arm, other))
    mean, half = interval(ours - theirs)
    return mean, half, scipy.stats.ttest_rel(ours, theirs).pvalue


def comparisons(results, best):
    """A line for each plain arm that the best bi-level one is compared with."""
    lines = []
    for other in dict.fromkeys(("plain", ARMS[best].without)):
        change, half, p = difference(results, best, other)
        base = of(results, other, "unseen").mean()
        runs = len(results[other]["runs"])
        lines.append(
            f"{ARMS[best].description} - {ARMS[other].description}: "
            f"{change:+.1f} ± {half:.1f} points "
            f"({100 * change / base:+.0f} %), p = {p:.3f}, {runs} seeds"
        )
    return lines


def table(results, best):
    """The tables, as Markdown."""
    lines = [
        "| arm | seeds | unseen EER % | against plain | p | known EER % "
        "| folds, unseen EER % | steps | passes | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in results:
        row = [
            f"**{ARMS[arm].description}**"
            if arm == best
            else ARMS[arm].description,
            len(results[arm]["runs"]),
            spread(of(results, arm, "unseen")),
        ]
        if arm == "plain":
            row += ["", ""]
        else:
            change, half, p = difference(results, arm)
            row += [f"{change:+.1f} ± {half:.1f}", f"{p:.3f}"]
        row += [
            spread(of(results, arm, "known")),
            f"{np.mean(results[arm]['folds']):.1f}",
            *(f"{of(results, arm, x).mean():.0f}" for x in ("steps", "passes")),
            f"{np.median(of(results, arm, 'seconds')):.0f}",
        ]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += ["", *comparisons(results, best), "", *per_attack(results, best)]
    return "\n".join(lines) + "\n"


def per_attack(results, best):
    """A table of the attacks of eval: plain training and the best arm."""
    runs = results["plain"]["runs"]
    attacks = [name for name in runs[0] if name.startswith("A")]
    lines = [f"| attack | plain, EER % | {ARMS[best].description}, EER % |"]
    lines.append("|---|---|---|")
    for attack in attacks:
        cells = [spread(of(results, arm, attack)) for arm in ("plain", best)]
        lines.append(f"| {attack} | {cells[0]} | {cells[1]} |")
    return lines


def plot(results, best, path):
    """A row for each arm: every seed, their mean and its interval."""
    figure = Figure(figsize=(7, 0.32 * len(results) + 1), layout="constrained")
    axes = figure.subplots()
    order = sorted(results, key=lambda arm: -of(results, arm, "unseen").mean())
    plain = of(results, "plain", "unseen").mean()
    axes.axvline(plain, color=INK, linewidth=0.8, linestyle=":")
    for row, arm in enumerate(order):
        values = of(results, arm, "unseen")
        mean, half = interval(values)
        color = COLORS[1 if arm == best else 2 if arm == "plain" else 0]
        axes.errorbar(
            mean, row, xerr=half, fmt="o", color=color, capsize=3, markersize=6
        )
        axes.plot(values, [row] * len(values), "|", color=color, markersize=9)
    axes.set_yticks(
        range(len(order)), [ARMS[arm].description for arm in order], fontsize=9
    )
    axes.set_xlabel("EER on unseen attacks, %")
    axes.set_title("mean and 95 % interval; each | is a seed", fontsize=9)
    figure.savefig(path, dpi=150)
