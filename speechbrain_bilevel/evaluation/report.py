"""An evaluation as files: JSON, text, an HTML page that stands alone, PNGs."""

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
)
from speechbrain_bilevel.utils.errors import printable
from speechbrain_bilevel.utils.files import (
    check_target,
    refuse_overwriting,
    write_atomically,
)

_TEXTS = "metrics.json", "metrics.txt", "report.html"
# Of these, "tdcf.png" only where there is a t-DCF.
_PNGS = "det.png", "attacks.png", "tdcf.png", "scores.png"


def write_report(report, folder):
    """Write metrics.json, metrics.txt, report.html and a PNG of each figure.

    Arguments
    ---------
    report : Report
        See ``evaluation.evaluate``.
    folder : str or Path
        Created if it does not exist. Files of these names are replaced, all of
        them or none.

    Raises
    ------
    InputError
        If matplotlib is missing or the folder cannot be written.

    Example
    -------
    >>> write_report(report, "results")  # doctest: +SKIP
    """
    figures = plots.draw(report)
    metrics = json.dumps(as_dict(report), indent=2, allow_nan=False)
    contents = {
        "metrics.json": metrics + "\n",
        "metrics.txt": format_report(report) + "\n",
        "report.html": render(report, figures),
    }
    contents |= {f"{n}.png": plots.png(each) for n, each in figures.items()}
    write_atomically(folder, contents)
    # An earlier report may have had more figures.
    for name in set(_PNGS) - set(contents):
        Path(folder, name).unlink(missing_ok=True)


def check_report(folder, inputs):
    """Find out before long work whether its report can be written.

    Arguments
    ---------
    folder : str or Path
    inputs : list of str or Path
        Files that are read, so that none is overwritten; None is skipped.

    Raises
    ------
    InputError
        If matplotlib is missing or the report could not be written.

    Example
    -------
    >>> check_report(getfixture("tmp_path") / "report", ["scores.txt"])
    """
    plots.require_matplotlib()
    targets = [Path(folder, name) for name in (*_TEXTS, *_PNGS)]
    for target in targets:
        check_target(target)
    refuse_overwriting(targets, inputs)


def as_dict(report):
    """Convert an evaluation to plain dictionaries and lists, for JSON.

    Arguments
    ---------
    report : Report

    Returns
    -------
    dict
        Error rates are fractions; figures have a ``value`` and, with
        resampling, the ``low`` and ``high`` end of the interval.

    Example
    -------
    >>> from speechbrain_bilevel.evaluation.evaluate import Report
    >>> for key, value in as_dict(Report([], [], [], [])).items():
    ...     print(key, value)
    systems []
    comparisons []
    cautions []
    intervals None
    asv None
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
        "trials": {"bonafide": system.n_bonafide, "spoof": system.n_spoof},
        "metrics": {
            name: _estimate(estimate)
            for name, estimate in system.metrics.items()
        },
        "thresholds": system.thresholds,
        "attacks": {
            name: {"trials": attack.trials, "eer": _estimate(attack.eer)}
            for name, attack in system.attacks.items()
        },
        "warning": ". ".join(filter(None, system.warning)) or None,
    }


def _estimate(estimate):
    ends = asdict(estimate).items()
    return {end: value for end, value in ends if value is not None}


def render(report, figures):
    """Lay out an evaluation as an HTML page.

    It stands alone: no script, and no reference to anything outside.

    Arguments
    ---------
    report : Report
    figures : dict of str to matplotlib.figure.Figure
        See ``plots.draw``.

    Returns
    -------
    str
        An HTML5 document; equal reports give equal text.
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
        metrics=_metrics_of(report),
        attacks=_attacks_of(report),
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
        max_attacks=plots.MAX_ATTACKS,
        METRICS=METRICS,
    )


def _metrics_of(report):
    """Names of the metrics that at least one system has, in their order."""
    found = set().union(*(each.metrics for each in report.evaluations))
    return [metric for metric in METRICS if metric in found]


def _attacks_of(report):
    """For each attack its results by index of the system."""
    attacks = {}
    for i, system in enumerate(report.evaluations):
        for name, result in system.attacks.items():
            attacks.setdefault(name, {})[i] = result
    return dict(sorted(attacks.items()))


def _data_uri(figure):
    encoded = base64.b64encode(plots.svg(figure).encode()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


def _breakable(name, longest=None):
    """A name from a user, escaped, that may be broken at its punctuation."""
    escaped = str(escape(printable(name, longest)))
    return Markup(re.sub(r"([_./-])(?=\w)", r"\1<wbr>", escaped))


def _best(report, metric, estimates):
    """The lowest of several systems' figures, where it makes one the best."""
    values = [estimate.value for estimate in estimates]
    is_one_of_two_rates = metric in ("frr", "far")
    if is_one_of_two_rates or len(values) == 1 or len(report.groups) > 1:
        return None
    return min(values)


def _better(comparison):
    """The better system's name, or None where no difference was shown."""
    if comparison.p_value >= 0.05:
        return None
    is_lower = comparison.difference.value < 0
    return comparison.first if is_lower else comparison.second
