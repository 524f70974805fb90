"""Write an evaluation as JSON, text, a standalone HTML page and PNG figures."""

import base64
import json
import re
from dataclasses import asdict
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from speechbrain_bilevel.evaluation import plots
from speechbrain_bilevel.evaluation.format import (
    METRICS,
    format_interval,
    format_number,
    format_p,
    format_report,
    metrics_of,
    values_of,
    worst_eer,
)
from speechbrain_bilevel.utils.errors import printable
from speechbrain_bilevel.utils.files import (
    MARK,
    check_target,
    is_marked,
    write_atomically,
)

_MARK = MARK.encode()
_TEXTS = "metrics.json", "metrics.txt", "report.html"
# "tdcf.png" only if there is a t-DCF.
_PNGS = "det.png", "attacks.png", "tdcf.png", "scores.png"


def write_report(report, folder):
    """Write metrics.json, metrics.txt, report.html and a PNG of each figure.

    ``folder`` is created if it does not exist; an earlier report in it is
    replaced, see ``check_report``. Raise an ``InputError`` if matplotlib is
    missing or the folder cannot be written.
    """
    figures = plots.draw(report)
    metrics = json.dumps(as_dict(report), indent=2, allow_nan=False)
    contents = {
        "metrics.json": metrics + "\n",
        "metrics.txt": format_report(report) + "\n",
        "report.html": render(report, figures),
    }
    contents |= {f"{n}.png": plots.png(each) for n, each in figures.items()}
    check_report(folder)
    # By the first, the others are known as a report's.
    write_atomically(folder, contents, remove=(*_PNGS, *reversed(_TEXTS)))


def check_report(folder):
    """Check, before long work, that ``write_report`` can write to ``folder``.

    Raise an ``InputError`` if it could not, or would replace a file that it did
    not write.
    """
    plots.require_matplotlib()
    is_ours = _has_report(folder)
    for name in (*_TEXTS, *_PNGS):
        # A text has no mark of its own.
        path = Path(folder, name)
        check_target(path, b"" if name == "metrics.txt" and is_ours else _MARK)


def _has_report(folder):
    path = Path(folder, "metrics.json")
    return path.is_file() and is_marked(path, _MARK)


def as_dict(report):
    """Convert a ``Report`` to plain dictionaries and lists, for JSON.

    Error rates are fractions. A figure has a ``value`` and, with resampling,
    the ``low`` and ``high`` end of its interval.
    """
    intervals = asv = None
    if report.resampled:
        intervals = {
            "level": 0.95,
            "resampled": report.resampled,
            "n_resamples": report.n_resamples,
            "seed": report.seed,
        }
    if report.asv_rates:
        asv = {"scores": report.asv.path, **asdict(report.asv_rates)}
    return {
        "made_by": MARK,
        "systems": [_system(system) for system in report.evaluations],
        "comparisons": [
            {**asdict(found), "difference": _estimate(found.difference)}
            for found in report.comparisons
        ],
        "cautions": report.cautions,
        "intervals": intervals,
        "asv": asv,
    }


def _system(system):
    return {
        "name": system.name,
        "scores": system.path,
        "read_as": system.scores.attrs.get("read_as"),
        "trials": _trials(system),
        "metrics": _metrics(system),
        "eer_interpolated": system.eer_interpolated,
        "tied_trials": system.n_tied,
        "thresholds": system.thresholds,
        "attacks": {
            name: {"trials": attack.n_spoof, **_metrics(attack)}
            for name, attack in system.attacks.items()
        },
        "by": {
            column: {
                value: {"trials": _trials(subset), "metrics": _metrics(subset)}
                for value, subset in subsets.items()
            }
            for column, subsets in system.by.items()
            if column != "attack"
        },
        "warning": ". ".join(filter(None, system.warning)) or None,
    }


def _trials(subset):
    return {"bonafide": subset.n_bonafide, "spoof": subset.n_spoof}


def _metrics(subset):
    return {name: _estimate(each) for name, each in subset.metrics.items()}


def _estimate(estimate):
    ends = asdict(estimate).items()
    return {end: value for end, value in ends if value is not None}


def render(report, figures):
    """Render a ``Report`` as an HTML5 document; equal reports give equal text.

    ``figures`` are those of ``plots.draw``. The page has no script and does not
    refer to anything outside.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = Path(__file__).with_name("report.html.jinja")
    return environment.from_string(template.read_text("utf-8")).render(
        report=report,
        systems=report.evaluations,
        metrics=metrics_of(report.evaluations),
        columns={
            column: values_of(report.evaluations, column)
            for column in report.evaluations[0].by
        },
        figures={name: _data_uri(each) for name, each in figures.items()},
        index={each.name: i for i, each in enumerate(report.evaluations)},
        best=lambda metric, estimates: _best(report, metric, estimates),
        better=_better,
        breakable=_breakable,
        color=plots.color,
        interval=format_interval,
        number=format_number,
        p_value=format_p,
        printable=printable,
        counts=_counts,
        metrics_of=metrics_of,
        worst={
            column: [
                worst_eer(each.by[column].values())
                for each in report.evaluations
            ]
            for column in report.evaluations[0].by
        },
        max_attacks=plots.MAX_ATTACKS,
        METRICS=METRICS,
    )


def _counts(column, subsets):
    """Return the number of trials of a value; systems may differ in it."""
    counts = [f"{each.n_spoof:,} trials" for each in subsets]
    if column != "attack":
        counts = [f"{each.n_bonafide:,} + {each.n_spoof:,}" for each in subsets]
    return " or ".join(dict.fromkeys(counts))


def _data_uri(figure):
    encoded = base64.b64encode(plots.svg(figure).encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


def _breakable(name, longest=None):
    """Escape a name from a user; it may be broken at its punctuation."""
    escaped = str(escape(printable(name, longest)))
    return Markup(re.sub(r"([_./-])(?=\w)", r"\1<wbr>", escaped))


def _best(report, metric, estimates):
    """Return the lowest of several figures if it makes one system the best."""
    values = [estimate.value for estimate in estimates]
    is_one_of_two_rates = metric in ("frr", "far")
    if is_one_of_two_rates or len(values) == 1 or len(report.groups) > 1:
        return None
    return min(values)


def _better(comparison):
    """Return the name of the better system, None if no difference was shown."""
    if comparison.p_value >= 0.05:
        return None
    is_lower = comparison.difference.value < 0
    return comparison.first if is_lower else comparison.second
