"""An evaluation as files: figures for programs, a page and plots for people."""

import json
from dataclasses import asdict
from pathlib import Path

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.files import (
    check_target,
    refuse_overwriting,
    write_atomically,
)
from speechbrain_bilevel.metrics.tables import format_report, warning

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
    from speechbrain_bilevel.metrics import html, plots

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
    from speechbrain_bilevel.metrics import plot_style  # noqa: F401

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
    >>> from speechbrain_bilevel.metrics.results import Report
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
