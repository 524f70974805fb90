"""Evaluate one or more systems from their scores, with intervals."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from speechbrain_bilevel.dataio import NO_ATTACK, SPOOF
from speechbrain_bilevel.evaluation.bootstrap import (
    MIN_FOR_INTERVAL,
    Estimate,
    count_speakers,
    interval,
    p_value,
    resample_figures,
    subsets,
)
from speechbrain_bilevel.evaluation.format import eer_warning, format_number
from speechbrain_bilevel.evaluation.score_files import (
    ASVScores,
    check_same_labels,
    split_classes,
)
from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
from speechbrain_bilevel.metrics.eer import eer, interpolated_eer
from speechbrain_bilevel.metrics.tdcf import (
    ASVRates,
    act_tdcf,
    asv_rates,
    min_tdcf,
    tdcf_coefficients,
)
from speechbrain_bilevel.utils.errors import InputError, listed

#: More attacks, or values of another column, are of no use in a table, and each
#: of them costs time.
MAX_VALUES = 1000
#: Two conventions of the EER that differ by more, a fraction, are announced.
EER_TOLERANCE = 0.001
#: With fewer, intervals over speakers are too narrow.
FEW_SPEAKERS = 20


@dataclass(frozen=True)
class Subset:
    """Figures of the trials of one attack, or of one value of a column.

    Arguments
    ---------
    n_bonafide, n_spoof : int
        An attack is set against all bona fide trials.
    metrics : dict of str to Estimate
        By the names of ``format.METRICS``: "eer", and except for an attack the
        minimum costs; empty if there are no trials of a class.
    """

    n_bonafide: int
    n_spoof: int
    metrics: dict


@dataclass(frozen=True)
class Evaluation:
    """All figures of one system.

    Arguments
    ---------
    name : str
        Name of the system in tables and plots.
    scores : pandas.DataFrame
        See ``evaluation.score_files``.
    metrics : dict of str to Estimate
        Pooled figures, by the names of ``format.METRICS``; only those that
        could be computed.
    thresholds : dict of str to float
        Thresholds of "eer", "min_tdcf" (of both forms) and "min_dcf", and the
        "given" one, if any; trials with a score above are accepted.
    by : dict of str to dict of str to Subset
        For "attack" and each other column its values, sorted.
    eer_negated : float
        Pooled EER of the same scores with the opposite sign.
    eer_interpolated : float
        Pooled EER with ties grouped, see ``metrics.eer.interpolated_eer``.
    n_tied : int
        Number of trials that share their score with one of the other class.
    """

    name: str
    scores: pd.DataFrame
    metrics: dict
    thresholds: dict
    by: dict
    eer_negated: float
    eer_interpolated: float
    n_tied: int

    @property
    def attacks(self):
        """The ``Subset`` of each attack, by name."""
        return self.by["attack"]

    @property
    def warning(self):
        """Title and text of what an EER above 50 % means, otherwise empty."""
        rate = self.metrics["eer"].value
        return eer_warning(self.name, rate, self.eer_negated)

    @property
    def path(self):
        """The score file."""
        return self.scores.attrs.get("path", "scores")

    @property
    def n_bonafide(self):
        """Number of bona fide trials."""
        return len(self.scores) - self.n_spoof

    @property
    def n_spoof(self):
        """Number of spoofed trials."""
        return int((self.scores.label == SPOOF).sum())


@dataclass(frozen=True)
class Comparison:
    """A paired test of two systems on the same trials.

    Arguments
    ---------
    first, second : str
        Names of the systems.
    metric : str
        A name of ``format.METRICS``.
    difference : Estimate
        The first's figure minus the second's; below 0, the first is better.
    p_value : float
        Two-sided, of "there is no difference".
    """

    first: str
    second: str
    metric: str
    difference: Estimate
    p_value: float


@dataclass(frozen=True)
class Report:
    """An evaluation of one or more systems, side by side.

    Arguments
    ---------
    evaluations : list of Evaluation
        With different names.
    groups : list of list of int
        Indices of the systems, grouped by equal trials.
    comparisons : list of Comparison
    cautions : list of str
        What readers of the figures must know.
    resampled : str, optional
        "speakers" or "utterances"; None without intervals.
    n_resamples, seed : int
    asv : ASVScores, optional
    asv_rates : ASVRates, optional
    """

    evaluations: list
    groups: list
    comparisons: list
    cautions: list
    resampled: str | None = None
    n_resamples: int = 0
    seed: int = 0
    asv: ASVScores | None = None
    asv_rates: ASVRates | None = None


def evaluate(
    systems,
    asv=None,
    resample=None,
    n_resamples=1000,
    seed=0,
    names=None,
    threshold=None,
    by=(),
):
    """Compute all figures of one or more systems.

    Arguments
    ---------
    systems : list of pandas.DataFrame
        From ``score_files.read_cm_scores``. The sign of scores is never
        changed.
    asv : ASVScores, optional
        For the t-DCF.
    resample : str, optional
        "speakers" or "utterances", see ``bootstrap.resample``; None for no
        intervals. Systems with the same trials get the same resamples and are
        compared in pairs; p-values are not corrected for the number of pairs.
    n_resamples, seed : int
    names : list of str, optional
        Names of the systems; by default their files.
    threshold : float, optional
        A threshold that was fixed on other data: adds the actual error rates
        and t-DCF.
    by : iterable of str
        Columns of the scores, such as "codec": adds the figures of the bona
        fide and spoofed trials of each value.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If the scores of a class cannot be used, the t-DCF is undefined,
        speakers are to be resampled and unknown or too few, two systems have
        the same trials with different labels, there is no such column, or it
        has more than ``MAX_VALUES`` values, as may the attacks.

    Example
    -------
    >>> scores = pd.DataFrame({
    ...     "utt": ["a", "b", "c", "d"],
    ...     "label": ["bonafide", "bonafide", "spoof", "spoof"],
    ...     "attack": ["-", "-", "A07", "A08"],
    ...     "score": [2.0, 3.0, 0.0, 2.5],
    ... })
    >>> (evaluation,) = evaluate([scores]).evaluations
    >>> evaluation.metrics["eer"].value
    0.5
    >>> evaluation.attacks["A07"].metrics["eer"].value
    0.0
    """
    by = list(dict.fromkeys(by))
    for scores in systems:
        _check_columns(scores, by)
    rates = None if asv is None else _usable_rates(asv)
    # Sorted, systems with the same trials have them at the same positions.
    ordered = [s.sort_values("utt", ignore_index=True) for s in systems]
    groups = _group_by_trials(ordered)
    resampled = [{} for _ in systems]
    for group in groups if resample else ():
        found = resample_figures(
            [ordered[i] for i in group],
            *(resample, n_resamples, seed, rates, threshold, by),
        )
        for i, figures in zip(group, found):
            resampled[i] = figures
    names = names or [each.attrs.get("path", "scores") for each in systems]
    evaluations = [
        _evaluate_system(name, scores, rates, threshold, by, resample, figures)
        for name, scores, figures in zip(names, systems, resampled)
    ]
    return Report(
        evaluations=evaluations,
        groups=groups,
        comparisons=_compare(evaluations, groups, resampled),
        cautions=[
            *_cautions_of_figures(evaluations, asv),
            *_cautions_of_intervals(evaluations, resample),
        ],
        resampled=resample,
        n_resamples=n_resamples if resample else 0,
        seed=seed,
        asv=asv,
        asv_rates=rates,
    )


def _check_columns(scores, by):
    """Refuse columns that the scores lack, or with too many values."""
    path = scores.attrs.get("path", "scores")
    known = sorted({*scores.columns} - {"utt", "score", "label", "attack"})
    for column in by:
        if column not in known:
            raise InputError(
                f"{path}: cannot be evaluated by {column}. Expected one of the "
                f"columns {', '.join(known) or '(there are none)'}; by attack "
                "it always is"
            )
    for column in ("attack", *by):
        values = sorted({*scores[column].unique()} - {NO_ATTACK})
        if len(values) > MAX_VALUES:
            raise InputError(
                f"{path}: values of {column}: {listed(values)}; at most "
                f"{MAX_VALUES} can be told apart. Expected a column of which "
                "many trials share a value; is it the name of a file?"
            )


def _usable_rates(asv):
    """Return the ASV system's rates, if they leave the t-DCF defined."""
    try:
        rates = asv_rates(asv.target, asv.nontarget, asv.spoof)
        tdcf_coefficients(rates)
    except InputError as error:
        raise InputError(f"{asv.path}: {error}") from error
    return rates


def _group_by_trials(systems):
    """Return indices of the systems, grouped by equal trials."""
    groups = []
    for i, scores in enumerate(systems):
        for group in groups:
            first = systems[group[0]]
            if scores.utt.equals(first.utt):
                check_same_labels(first, scores)
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _evaluate_system(name, scores, rates, threshold, by, resample, resampled):
    """Compute the figures themselves with the reference functions."""
    bonafide, spoof = split_classes(scores)
    values, thresholds = _best_figures(bonafide, spoof, rates)
    values["act_dcf"] = act_dcf(bonafide, spoof)
    values["cllr"] = cllr(bonafide, spoof)
    if threshold is not None:
        thresholds["given"] = threshold
        values["frr"] = float(np.mean(bonafide <= threshold))
        values["far"] = float(np.mean(spoof > threshold))
        for form in _forms(rates):
            values[f"act_tdcf_{form}"] = act_tdcf(
                bonafide, spoof, rates, threshold, form=form
            )
    if _is_small(bonafide, spoof):
        resampled = {}
    return Evaluation(
        name=name,
        scores=scores,
        metrics={
            metric: interval(value, resampled.get(metric))
            for metric, value in values.items()
        },
        thresholds=thresholds,
        by=_evaluate_subsets(scores, rates, by, resample, resampled),
        eer_negated=eer(-bonafide, -spoof)[0],
        eer_interpolated=interpolated_eer(bonafide, spoof)[0],
        n_tied=int(
            np.isin(bonafide, spoof).sum() + np.isin(spoof, bonafide).sum()
        ),
    )


def _forms(rates):
    """Return the forms of the t-DCF that can be computed."""
    return () if rates is None else ("legacy", "revised")


def _best_figures(bonafide, spoof, rates):
    """Return EER and minimum costs, and their thresholds."""
    values, thresholds = {}, {}
    values["eer"], thresholds["eer"] = eer(bonafide, spoof)
    for form in _forms(rates):
        values[f"min_tdcf_{form}"], thresholds["min_tdcf"] = min_tdcf(
            bonafide, spoof, rates, form=form
        )
    values["min_dcf"], thresholds["min_dcf"] = min_dcf(bonafide, spoof)
    return values, thresholds


def _evaluate_subsets(scores, rates, by, resample, resampled):
    """Return the ``Subset`` of each value of each column."""
    found = {column: {} for column in ("attack", *by)}
    for (column, value), trials in subsets(scores, by).items():
        part = scores.iloc[trials]
        bonafide, spoof = split_classes(part)
        values = {}
        if column == "attack":
            values["eer"], _ = eer(bonafide, spoof)
        elif len(bonafide) and len(spoof):
            values, _ = _best_figures(bonafide, spoof, rates)
        is_small = _is_small(bonafide, spoof)
        if resample == "speakers":
            # One speaker's trials are drawn all together, or not at all.
            is_small |= count_speakers(part) < MIN_FOR_INTERVAL
        figures = {} if is_small else resampled
        metrics = {
            metric: interval(each, figures.get((metric, column, value)))
            for metric, each in values.items()
        }
        found[column][value] = Subset(len(bonafide), len(spoof), metrics)
    return found


def _is_small(*classes):
    return min(map(len, classes)) < MIN_FOR_INTERVAL


def _compare(evaluations, groups, resampled):
    """Compare every two systems with the same trials, by EER and by a cost."""
    comparisons = []
    for group in groups:
        for i, j in itertools.combinations(group, 2):
            first, second = evaluations[i], evaluations[j]
            if not resampled[i] or _is_small(*split_classes(first.scores)):
                continue
            has_tdcf = "min_tdcf_legacy" in first.metrics
            for metric in "eer", "min_tdcf_legacy" if has_tdcf else "min_dcf":
                differences = resampled[i][metric] - resampled[j][metric]
                difference = interval(
                    first.metrics[metric].value - second.metrics[metric].value,
                    differences,
                    correct_bias=False,
                )
                comparisons.append(
                    Comparison(
                        *(first.name, second.name, metric, difference),
                        p_value=p_value(differences),
                    )
                )
    return comparisons


def _cautions_of_figures(evaluations, asv):
    """Return what readers of EERs and t-DCFs must know."""
    cautions = []
    for system in evaluations:
        rates = system.metrics["eer"].value, system.eer_interpolated
        if system.n_tied and abs(rates[0] - rates[1]) > EER_TOLERANCE:
            official, grouped = (format_number("eer", rate) for rate in rates)
            cautions.append(
                f"{system.name}: {system.n_tied} trials share their score with "
                f"one of the other class, so the EER is {official} % as in "
                f"ASVspoof but {grouped} % with ties grouped; give scores with "
                "more digits"
            )
        attacks = system.attacks.keys() - {SPOOF}
        of_asv = asv.attacks - {SPOOF, NO_ATTACK} if asv else set()
        if attacks and of_asv and not attacks & of_asv:
            cautions.append(
                f"{system.name}: its attacks, {listed(sorted(attacks))}, are "
                f"not those of {asv.path}, {listed(sorted(of_asv))}; the t-DCF "
                "mixes two corpora: give the ASV scores of these trials"
            )
    return cautions


def _cautions_of_intervals(evaluations, resample):
    """Return what readers of the intervals must know."""
    cautions = []
    for system in evaluations if resample else ():
        n_speakers = count_speakers(system.scores)
        if _is_small(*split_classes(system.scores)):
            cautions.append(
                f"{system.name}: no intervals and no tests with fewer than "
                f"{MIN_FOR_INTERVAL} trials of a class"
            )
        elif resample == "speakers" and n_speakers < FEW_SPEAKERS:
            cautions.append(
                f"{system.name}: a class has {n_speakers} speakers only; the "
                "intervals are too narrow and the p-values too small"
            )
        elif resample == "utterances" and n_speakers > 0:
            cautions.append(
                f"{system.name}: trials of one speaker resemble one another; "
                "taken as independent, they give intervals that are too narrow "
                "and p-values that are too small"
            )
    return cautions
