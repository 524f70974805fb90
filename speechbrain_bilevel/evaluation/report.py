"""An evaluation as one HTML file that stands alone, figures included."""

import functools
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import jinja2
from markupsafe import Markup, escape

from speechbrain_bilevel.evaluation import plots
from speechbrain_bilevel.evaluation.plots import colour
from speechbrain_bilevel.evaluation.results import METRICS
from speechbrain_bilevel.evaluation.text import format_report, warning
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import (
    check_target,
    refuse_overwriting,
    write_atomically,
)

#: What each of ``METRICS`` says, and where it comes from.
DEFINITIONS = {
    "eer": "Equal error rate: the mean of the false rejection rate (bona fide "
    "trials turned away) and the false acceptance rate (spoofed trials let "
    "in) at the threshold where the two are closest, not interpolated; as in "
    "the official ASVspoof evaluations.",
    "min_tdcf_legacy": "Lowest tandem detection cost of the countermeasure "
    "and the speaker verification system behind it, over all thresholds, "
    "normalised so that a useless countermeasure has 1. Kinnunen et al., "
    "Odyssey 2018; evaluation plan of ASVspoof 2019.",
    "min_tdcf_revised": "The same, with the errors that the speaker "
    "verification system makes by itself in the cost, so that a perfect "
    "countermeasure has more than 0. Kinnunen et al., IEEE/ACM Transactions "
    "on Audio, Speech, and Language Processing 28, 2020; evaluation plan of "
    "ASVspoof 2021.",
    "min_dcf": "Lowest detection cost over all thresholds, with spoofed "
    "trials at a prior of 5 % and ten times as expensive to let in as bona "
    "fide trials to turn away; accepting every trial costs 1. Wang et al., "
    "ASVspoof 5 workshop, 2024.",
    "act_dcf": "The same cost at the one threshold that is right if scores "
    "are log-likelihood ratios, -ln 1.9; far above the minimum, the scores "
    "are not calibrated. Wang et al., ASVspoof 5 workshop, 2024.",
    "cllr": "Cost of log-likelihood ratios over all priors, in bits: 0 is "
    "perfect, 1 tells nothing, more misleads, or the scores are no "
    "log-likelihood ratios. Brümmer and du Preez, Computer Speech & Language "
    "20, 2006.",
    "frr": "False rejection rate: share of bona fide trials that the given "
    "threshold turns away. No system is best in this alone.",
    "far": "False acceptance rate: share of spoofed trials that the given "
    "threshold lets in. No system is best in this alone.",
    "act_tdcf_legacy": "The legacy cost in tandem at the given threshold "
    "instead of the best one. Kinnunen et al., Odyssey 2018.",
    "act_tdcf_revised": "The revised cost in tandem at the given threshold "
    "instead of the best one. Kinnunen et al., IEEE/ACM Transactions on "
    "Audio, Speech, and Language Processing 28, 2020.",
}


FIGURES = {
    "det": (
        "Detection error trade-off",
        "Each point of a curve is a threshold: how many spoofed trials it "
        "lets in, and how many bona fide trials it turns away. The nearer to "
        "the lower left corner the better; the mark on the diagonal is the "
        "EER.",
    ),
    "attacks": (
        "EER of each attack",
        "The trials of one attack against all bona fide trials; shorter is "
        "better. Thin lines, where there are any, are 95 % intervals. Of more "
        f"than {plots.MOST_ATTACKS} attacks, these are the worst.",
    ),
    "tdcf": (
        "Cost in tandem with speaker verification",
        "Normalised t-DCF (revised 2021) at every threshold, from lenient on "
        "the left to strict on the right; the mark is the minimum, the lower "
        "the better. At 1 the countermeasure is useless; a perfect one would "
        "reach the lower line, the errors of the speaker verification system "
        "alone.",
    ),
    "scores": (
        "Scores",
        "How the scores of the two classes spread; the bars of each add up to "
        "100 %. Trials right of the threshold are accepted, so grey right of "
        "it and colour left of it are the errors.",
    ),
}


def render(report, figures):
    """Lays an evaluation out as one HTML file.

    The file stands alone: figures are inline SVG, and there is no script and
    no reference to anything outside. Names that users gave are escaped. Equal
    reports give equal text.

    Arguments
    ---------
    report : Report
        One or more systems.
    figures : dict of str to matplotlib.figure.Figure
        See ``metrics.plots.draw``.

    Returns
    -------
    page : str
        An HTML5 document, to be written as UTF-8.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_bilevel.evaluation.evaluate import evaluate
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
    >>> attack = np.array(["-", "-", "A07", "A07"])
    >>> score = np.array([1.0, 3.0, 0.0, 2.0])
    >>> scores = CMScores(attack, attack, attack == "-", score)
    >>> report = evaluate([scores], names=["<mine>"])
    >>> page = render(report, plots.draw(report))
    >>> page.splitlines()[0], "&lt;mine&gt;" in page, "<mine>" in page
    ('<!DOCTYPE html>', True, False)
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
        figures=_figures_of(figures),
        best=functools.partial(_best, report),
        colour=colour,
        printable=printable,
        index={each.name: i for i, each in enumerate(report.evaluations)},
        interval=_interval,
        name=_name,
        number=_number,
        p_value=_p_value,
        percent=_percent,
        better=_better,
        METRICS=METRICS,
        DEFINITIONS=DEFINITIONS,
    )


def _name(text, longest=None):
    """A name from a user, escaped, that may be broken at its punctuation."""
    escaped = str(escape(printable(text, longest)))
    return Markup(re.sub(r"([_./-])(?=\w)", r"\1<wbr>", escaped))


def _metrics_of(report):
    """Names of the metrics that at least one system has, in their order."""
    found = set().union(*(each.metrics for each in report.evaluations))
    return [metric for metric in METRICS if metric in found]


def _attacks_of(report):
    """For each attack its results by index of the system."""
    systems = list(enumerate(report.evaluations))
    names = sorted(set().union(*(each.attacks for _, each in systems)))
    return {
        name: {i: s.attacks[name] for i, s in systems if name in s.attacks}
        for name in names
    }


def _figures_of(figures):
    """Name, title, caption and inline SVG of each figure."""
    return [
        (name, *FIGURES[name], _inline(plots.svg(figure), name))
        for name, figure in figures.items()
    ]


def _inline(svg, name):
    """An SVG document as a part of an HTML page.

    Several figures share the page, so their ids get the figure's name. An
    HTML parser knows the namespaces by itself; without them and the metadata,
    no address is left in the file.
    """
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = dict(element.items())
        element.attrib.clear()
        for key, value in attributes.items():
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key in ("href", "clip-path"):
                value = value.replace("#", f"#{name}-")
            element.set(key, value)
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.set("role", "img")
    root.set("aria-label", f"{FIGURES[name][0]}; the tables have the numbers")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _number(metric, value):
    """A figure in print: per cent to 0.01, others to 0.0001."""
    scale = METRICS[metric][1]
    if abs(scale * value) >= 1e6:
        return f"{scale * value:.4g}"
    return f"{scale * value:.{2 if scale == 100 else 4}f}"


def _percent(rate):
    return _number("eer", rate)


def _interval(metric, estimate):
    """The 95 % interval in print; nothing where there is none."""
    low, high = estimate.low, estimate.high
    if low is None or math.isnan(low):
        return ""
    return f"{_number(metric, low)} to {_number(metric, high)}"


def _best(report, metric, estimates):
    """The lowest of several systems' figures, where it makes one the best."""
    values = [estimate.value for estimate in estimates]
    is_rate_of_two = metric in ("frr", "far")
    if is_rate_of_two or len(values) == 1 or len(report.groups) > 1:
        return None
    return min(values)


def _p_value(p_value):
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _better(comparison):
    """The better system's name, or None where no difference was shown."""
    if comparison.p_value >= 0.05:
        return None
    is_lower = comparison.difference.value < 0
    return comparison.first if is_lower else comparison.second


#: What is written; "tdcf.png" only where there is a t-DCF.
FILES = ("metrics.json", "metrics.txt", "report.html") + tuple(
    f"{figure}.png" for figure in ("det", "attacks", "tdcf", "scores")
)


def write_report(report, folder):
    """Writes metrics.json, metrics.txt, report.html and a PNG for each plot.

    Arguments
    ---------
    report : Report
        See ``metrics.evaluation.evaluate``.
    folder : str or Path
        Made if it does not exist. Files of these names are replaced, all of
        them or none.

    Raises
    ------
    InputError
        If matplotlib is missing or the folder cannot be written.

    Example
    -------
    >>> write_report(report, "results")  # doctest: +SKIP
    """
    # Here, for matplotlib is needed by no other part of the package.
    from speechbrain_bilevel.evaluation import plots
    from speechbrain_bilevel.evaluation import report as html

    figures = plots.draw(report)
    contents = {
        "metrics.json": json.dumps(as_dict(report), indent=2, allow_nan=False)
        + "\n",
        "metrics.txt": format_report(report) + "\n",
        "report.html": html.render(report, figures),
    }
    for name, figure in figures.items():
        contents[f"{name}.png"] = plots.png(figure)
    try:
        write_atomically(folder, contents)
        # An earlier report may have had more figures.
        for name in set(FILES) - set(contents):
            Path(folder, name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: the report cannot be written ({error.strerror}); "
            "expected a folder with room for it"
        ) from error


def check_report(folder, inputs):
    """Finds out before long work whether its report can be written.

    Arguments
    ---------
    folder : str or Path
        Where it is to go.
    inputs : list of str or Path
        Files that are read, so that none is overwritten; None is passed over.

    Raises
    ------
    InputError
        If it could not be written.

    Example
    -------
    >>> check_report(getfixture("tmp_path") / "report", ["scores.txt"])
    """
    # Says what to install where matplotlib is missing.

    targets = [Path(folder, name) for name in FILES]
    for target in targets:
        check_target(target)
    refuse_overwriting(targets, inputs)


def as_dict(report):
    """An evaluation as plain dictionaries and lists, for JSON.

    Arguments
    ---------
    report : Report

    Returns
    -------
    dict
        ``systems``, a list with ``name``, ``scores`` (the file), ``trials``,
        ``metrics``, ``thresholds``, ``attacks`` and ``warning`` of each; then
        ``comparisons``, ``cautions``, ``intervals`` and ``asv``. Error rates are fractions;
        figures have a ``value`` and, with resampling, the ``low`` and ``high``
        end of the interval.

    Example
    -------
    >>> from speechbrain_bilevel.evaluation.results import Report
    >>> for key, value in as_dict(Report([], [], [], [])).items():
    ...     print(key, value)
    systems []
    comparisons []
    cautions []
    intervals None
    asv None
    """
    intervals = None
    if report.resampled:
        intervals = {
            "level": 0.95,
            "resampled": report.resampled,
            "draws": report.draws,
            "seed": report.seed,
        }
    asv = None
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
        "scores": system.scores.path,
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
        "warning": warning(system) or None,
    }


def _estimate(estimate):
    ends = asdict(estimate).items()
    return {end: value for end, value in ends if value is not None}
