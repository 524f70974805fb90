"""The table and the plot of ``run.py``."""

import io
import sys
from pathlib import Path

import numpy as np
from scipy import stats
from starts import STARTS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from recorded_runs import interval

from speechbrain_bilevel.evaluation.plots import require_matplotlib, style

PLACES = (
    "other recordings of the same pages",
    "those of them by speakers who were not adapted to",
    "other pages",
)


def rates(runs, count, place):
    """EERs of the seeds, [seeds]; count 0 is before."""
    found = [
        next(iter(run[str(count)].values())) if count else run["before"]
        for run in runs
    ]
    return np.array([each[place] for each in found])


def counts_of(runs):
    """The numbers of clips, 0 included."""
    return [0, *(int(key) for key in runs[0] if key.isdigit())]


def _cell(values, before, plain):
    """EER, errors less than before in percent, and p against plain training."""
    text = "{:.1f} ± {:.1f}".format(*interval(values))
    if values is not before:
        change = 100 * (values.mean() / before.mean() - 1)
        text += f" ({change:+.0f} %)"
    if values is not plain:
        text += f", p = {stats.ttest_rel(values, plain).pvalue:.3f}"
    return text


def table(results, chosen):
    """All EERs in Markdown, and what was chosen."""
    counts, lines = counts_of(results["plain"]), []
    for place, title in enumerate(PLACES):
        heads = ["start", "unadapted", *(f"{n} clips" for n in counts[1:])]
        lines += [f"EER in % on {title}:", ""]
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for name, runs in results.items():
            cells, before = [STARTS[name].title], rates(runs, 0, place)
            for count in counts:
                values = rates(runs, count, place) if count else before
                plain = rates(results["plain"], count, place)
                same = name == "plain"
                cells.append(_cell(values, before, values if same else plain))
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    heads = "clips", "unadapted", "adapted", *("kept as it was", "worse")
    lines += ["`speechbrain-bilevel adapt`, from plain training:", ""]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for count in counts[1:]:
        lines.append(_by_command(results["plain"], count))
    lines += ["", "Chosen on the folds:", ""]
    lines += [
        f"- {STARTS[name].title}: {each['settings']}, steps {each['steps']}, "
        f"EER {each['on_folds']:.1f} %"
        for name, each in chosen.items()
    ]
    return "\n".join(lines) + "\n"


def _by_command(runs, count):
    """A row: what ``adapt`` makes of plain training, on the same pages."""
    before, after, kept, worse = [], [], 0, 0
    runs = [run for run in runs if f"adapt {count}" in run]
    for run in runs:
        found = run[f"adapt {count}"]
        before.append(run["before"][0])
        after.append(found["rates"][0] if found["choice"] else before[-1])
        kept += found["choice"] is None
        worse += after[-1] > before[-1]
    before, after = np.array(before), np.array(after)
    cells = count, f"{before.mean():.1f}", _cell(after, before, after)
    cells = *cells, f"{kept} of {len(runs)}", f"{worse} of {len(runs)}"
    return "| " + " | ".join(map(str, cells)) + " |"


def plot(results, path):
    """EER over the number of clips, with intervals, for each of the places."""
    require_matplotlib()
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(12, 4.8), layout="constrained")
        panels = figure.subplots(1, len(PLACES), sharey=True)
        for place, (axes, title) in enumerate(zip(panels, PLACES)):
            for number, (name, runs) in enumerate(results.items()):
                counts = counts_of(runs)
                values = [rates(runs, count, place) for count in counts]
                axes.errorbar(
                    np.arange(len(counts)) + 0.04 * number,
                    [each.mean() for each in values],
                    [interval(each)[1] for each in values],
                    label=STARTS[name].title,
                    capsize=2,
                )
            axes.set_xticks(range(len(counts)), counts)
            axes.set_title(title, fontsize="small")
            axes.set_xlabel("labelled clips")
        panels[0].set_ylabel("EER, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(*(handles, labels), loc="outside lower center", ncols=4)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150)
    path.write_bytes(file.getvalue())
