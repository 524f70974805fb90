"""Evaluates one or more systems from their scores, with intervals."""

from itertools import combinations

import numpy as np

from speechbrain_bilevel.evaluation.bootstrap import (
    FEWEST,
    attack_trials,
    difference_interval,
    interval,
    n_speakers,
    p_value,
    resampled_figures,
    same_trials,
)
from speechbrain_bilevel.evaluation.results import (
    AttackResult,
    Comparison,
    Evaluation,
    Report,
)
from speechbrain_bilevel.evaluation.score_files import refuse_other_keys
from speechbrain_bilevel.metrics.asvspoof5 import act_dcf, cllr, min_dcf
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import (
    act_tdcf,
    asv_rates,
    min_tdcf,
    tdcf_coefficients,
)
from speechbrain_bilevel.utils.errors import InputError, listed

#: More cannot be told apart in a table, and each of them costs time.
MOST_ATTACKS = 1000


#: With fewer, intervals over speakers are too narrow.
FEW_SPEAKERS = 20


def evaluate(
    systems,
    asv=None,
    resample=None,
    draws=1000,
    seed=0,
    names=None,
    threshold=None,
):
    """All figures of one or more systems, side by side.

    With resampling, systems with the same trials are compared two by two, on
    the same resamples; the p-values are not corrected for their number. See
    ``metrics.confidence``.

    Arguments
    ---------
    systems : list of CMScores
        Scores of each system; higher means "more bona fide". Their sign is
        never changed.
    asv : ASVScores, optional
        Scores of the ASV system; without them there is no t-DCF.
    resample : str, optional
        "speakers" or "utterances", see ``metrics.bootstrap``; None for no
        intervals.
    draws : int
        Number of resamples.
    seed : int
        Equal seeds give equal intervals.
    names : list of str, optional
        What to call the systems; their paths by default.
    threshold : float, optional
        Take the error rates and the t-DCF here too: the actual ones of a
        threshold that was fixed on other data.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If a class has no trial, a score is NaN or infinite, the ASV scores
        leave the t-DCF undefined, the resampling is over speakers and they
        are not known or too few, two systems have the same trials but other
        keys, or there are more than ``MOST_ATTACKS`` attacks.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_bilevel.evaluation.score_files import CMScores
    >>> scores = CMScores(
    ...     utt=np.array(["a", "b", "c", "d"]),
    ...     attack=np.array(["-", "-", "A07", "A08"]),
    ...     is_bonafide=np.array([True, True, False, False]),
    ...     score=np.array([2.0, 3.0, 0.0, 2.5]),
    ... )
    >>> evaluation = evaluate([scores]).evaluations[0]
    >>> evaluation.metrics["eer"].value, evaluation.attacks["A07"].eer.value
    (0.5, 0.0)
    """
    names = names or [scores.path for scores in systems]
    for scores in systems:
        _refuse_many_attacks(scores)
    groups = same_trials(systems)
    for first, *others in groups:
        for other in others:
            refuse_other_keys(systems[first], systems[other])
    rates = None if asv is None else _usable_rates(asv)
    resampled = [{} for _ in systems]
    if resample is not None:
        resampled = resampled_figures(
            systems, rates, resample, draws, seed, threshold
        )
    evaluations = [
        _evaluation(name, scores, rates, threshold, figures)
        for name, scores, figures in zip(names, systems, resampled)
    ]
    return Report(
        evaluations=evaluations,
        groups=groups,
        comparisons=_comparisons(evaluations, groups, resampled),
        cautions=_cautions(evaluations, resample),
        resampled=resample,
        draws=draws if resample else 0,
        seed=seed,
        asv=asv,
        asv_rates=rates,
    )


def _refuse_many_attacks(scores):
    """Each costs time and memory in proportion to the bona fide trials."""
    attacks = set(scores.attack[~scores.is_bonafide])
    if len(attacks) > MOST_ATTACKS:
        raise InputError(
            f"{scores.path}: attacks: {listed(sorted(attacks))}; at most "
            f"{MOST_ATTACKS} can be told apart. Expected the name of the attack "
            "in this column; is it that of a file or a speaker?"
        )


def _usable_rates(asv):
    """The ASV system's rates, which may leave the t-DCF undefined."""
    try:
        rates = asv_rates(asv.target, asv.nontarget, asv.spoof)
        tdcf_coefficients(rates)
    except InputError as error:
        raise InputError(f"{asv.path}: {error}") from error
    return rates


def _evaluation(name, scores, rates, threshold, resampled):
    """The figures themselves, by the reference functions."""
    bonafide, spoof = scores.bonafide, scores.spoof
    values, thresholds = {}, {}
    values["eer"], thresholds["eer"] = eer(bonafide, spoof)
    if rates is not None:
        for form in "legacy", "revised":
            values[f"min_tdcf_{form}"], thresholds["min_tdcf"] = min_tdcf(
                bonafide, spoof, rates, form=form
            )
    values["min_dcf"], thresholds["min_dcf"] = min_dcf(bonafide, spoof)
    values["act_dcf"] = act_dcf(bonafide, spoof)
    values["cllr"] = cllr(bonafide, spoof)
    if threshold is not None:
        thresholds["given"] = threshold
        values["frr"] = float(np.mean(bonafide <= threshold))
        values["far"] = float(np.mean(spoof > threshold))
    if threshold is not None and rates is not None:
        for form in "legacy", "revised":
            values[f"act_tdcf_{form}"] = act_tdcf(
                bonafide, spoof, rates, threshold, form=form
            )
    if len(bonafide) < FEWEST:
        resampled = {}
    attacks = {}
    for attack, trials in attack_trials(scores).items():
        rate, _ = eer(bonafide, spoof[trials])
        figures = resampled.get(("eer", attack))
        if len(trials) < FEWEST:
            figures = None
        attacks[attack] = AttackResult(len(trials), interval(rate, figures))
    if len(spoof) < FEWEST:
        resampled = {}
    return Evaluation(
        name=name,
        scores=scores,
        metrics={
            metric: interval(value, resampled.get(metric))
            for metric, value in values.items()
        },
        thresholds=thresholds,
        attacks=attacks,
        eer_negated=eer(-bonafide, -spoof)[0],
    )


def _comparisons(evaluations, groups, resampled):
    """Every two systems with the same trials, by EER and by a cost."""
    comparisons = []
    for i, j in (pair for group in groups for pair in combinations(group, 2)):
        first, second = evaluations[i], evaluations[j]
        if not resampled[i] or _is_small(first):
            continue
        has_tdcf = "min_tdcf_legacy" in first.metrics
        for metric in "eer", "min_tdcf_legacy" if has_tdcf else "min_dcf":
            differences = resampled[i][metric] - resampled[j][metric]
            values = (each.metrics[metric].value for each in (first, second))
            comparisons.append(
                Comparison(
                    first.name,
                    second.name,
                    metric,
                    difference_interval(*values, differences),
                    p_value(differences),
                )
            )
    return comparisons


def _is_small(system):
    return min(system.n_bonafide, system.n_spoof) < FEWEST


def _cautions(evaluations, resample):
    """What a reader of the intervals has to know."""
    cautions = []
    for system in evaluations if resample else []:
        speakers = n_speakers(system.scores)
        if _is_small(system):
            cautions.append(
                f"{system.name}: no intervals and no tests with fewer than "
                f"{FEWEST} trials of a class"
            )
        elif resample == "speakers" and speakers < FEW_SPEAKERS:
            cautions.append(
                f"{system.name}: a class has {speakers} speakers only; the "
                "intervals are too narrow and the p-values too small"
            )
        elif resample == "utterances" and speakers > 0:
            cautions.append(
                f"{system.name}: trials of one speaker resemble one another; "
                "taken as independent, they give intervals that are too narrow "
                "and p-values that are too small"
            )
    return cautions
