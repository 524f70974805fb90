"""Evaluates a score file and lays the result out as plain text tables."""

from dataclasses import dataclass
from typing import Optional

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import ASVRates, asv_rates, min_tdcf


@dataclass(frozen=True)
class AttackEER:
    """EER of one attack's trials against all bona fide trials.

    Arguments
    ---------
    attack : str
        Name of the attack.
    trials : int
        Number of its spoofed trials.
    eer : float
        Equal error rate as a fraction.
    """

    attack: str
    trials: int
    eer: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of one score file.

    Arguments
    ---------
    path : str
        Where the scores come from.
    n_bonafide : int
        Number of bona fide trials.
    n_spoof : int
        Number of spoofed trials.
    eer : float
        Pooled equal error rate as a fraction.
    eer_threshold : float
        Its threshold; trials with a score above it are accepted.
    eer_negated : float
        Pooled EER, as a fraction, of the same scores with the opposite sign.
    attacks : tuple of AttackEER
        One entry an attack, sorted by name.
    min_tdcf : float, optional
        Legacy 2019 minimum t-DCF, normalised; None without ASV scores.
    tdcf_threshold : float, optional
        Its threshold.
    asv : ASVRates, optional
        Error rates of the ASV system.
    """

    path: str
    n_bonafide: int
    n_spoof: int
    eer: float
    eer_threshold: float
    eer_negated: float
    attacks: tuple
    min_tdcf: Optional[float] = None
    tdcf_threshold: Optional[float] = None
    asv: Optional[ASVRates] = None


def evaluate(scores, asv=None):
    """Computes the pooled EER, the EER of every attack and the min t-DCF.

    Arguments
    ---------
    scores : CMScores
        Scores of the countermeasure; higher means "more bona fide". Their
        sign is never changed.
    asv : ASVScores, optional
        Scores of the ASV system; without them there is no t-DCF.

    Returns
    -------
    evaluation : Evaluation
        The figures, rates as fractions.

    Raises
    ------
    InputError
        If a class has no trial, a score is NaN or infinite, or the ASV scores
        leave the t-DCF undefined.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_bilevel.metrics.scores import CMScores
    >>> scores = CMScores(
    ...     utt=np.array(["a", "b", "c", "d"]),
    ...     attack=np.array(["-", "-", "A07", "A08"]),
    ...     is_bonafide=np.array([True, True, False, False]),
    ...     score=np.array([2.0, 3.0, 0.0, 2.5]),
    ... )
    >>> evaluation = evaluate(scores)
    >>> evaluation.eer, evaluation.attacks[0]
    (0.5, AttackEER(attack='A07', trials=1, eer=0.0))
    """
    bonafide, spoof = scores.bonafide, scores.spoof
    pooled, eer_threshold = eer(bonafide, spoof)
    spoof_attacks = scores.attack[~scores.is_bonafide]
    attacks = []
    for attack in sorted(set(spoof_attacks.tolist())):
        trials = spoof[spoof_attacks == attack]
        attacks.append(AttackEER(attack, len(trials), eer(bonafide, trials)[0]))
    tandem = {}
    if asv is not None:
        tandem = _tandem(bonafide, spoof, asv)
    return Evaluation(
        path=scores.path,
        n_bonafide=len(bonafide),
        n_spoof=len(spoof),
        eer=pooled,
        eer_threshold=eer_threshold,
        eer_negated=eer(-bonafide, -spoof)[0],
        attacks=tuple(attacks),
        **tandem,
    )


def format_report(evaluation):
    """The figures of one score file as a text to print.

    Arguments
    ---------
    evaluation : Evaluation
        The figures, see :func:`evaluate`.

    Returns
    -------
    report : str
        Pooled figures and a table of the attacks, the weakest point marked.
        An EER above 50 % is announced in capitals at the top.

    Example
    -------
    >>> attacks = (AttackEER("A07", 50, 0.02), AttackEER("A08", 40, 0.125))
    >>> print(
    ...     format_report(
    ...         Evaluation("s.txt", 10, 90, 0.075, 0.5, 0.925, attacks)
    ...     )
    ... )
    s.txt
    trials: 10 bona fide, 90 spoof
    EER 7.500000000 %        threshold 0.5
    min t-DCF not computed   needs the ASV scores
    <BLANKLINE>
    attack  trials    EER %
    A07         50    2.000
    A08         40   12.500  <- worst
    """
    pooled = f"EER {100 * evaluation.eer:.9f} %"
    tandem = "min t-DCF not computed"
    tandem_note = "needs the ASV scores"
    if evaluation.min_tdcf is not None:
        tandem = f"min t-DCF {evaluation.min_tdcf:.9f}"
        tandem_note = (
            f"threshold {evaluation.tdcf_threshold:.6g} (legacy 2019 form; "
            f"ASV EER {100 * evaluation.asv.eer:.5f} %)"
        )
    lines = [
        evaluation.path,
        *_warning(evaluation),
        f"trials: {evaluation.n_bonafide} bona fide, "
        f"{evaluation.n_spoof} spoof",
        f"{pooled:<25}threshold {evaluation.eer_threshold:.6g}",
        f"{tandem:<25}{tandem_note}",
        "",
    ]
    width = max(len("attack"), *(len(a.attack) for a in evaluation.attacks))
    worst = max(attack.eer for attack in evaluation.attacks)
    lines.append(f"{'attack':<{width}}  trials    EER %")
    for attack in evaluation.attacks:
        is_worst = attack.eer == worst > 0 and len(evaluation.attacks) > 1
        lines.append(
            f"{attack.attack:<{width}}  {attack.trials:>6}  "
            f"{_percent(attack.eer):>7}{'  <- worst' * is_worst}"
        )
    return "\n".join(lines)


def side_by_side(evaluations):
    """A table that compares systems, one column each.

    Arguments
    ---------
    evaluations : dict
        :class:`Evaluation` of every system by the name to print.

    Returns
    -------
    table : str
        Counts, pooled EER and min t-DCF, and the EER of every attack; ``-``
        where a system has no such figure.

    Example
    -------
    >>> def system(rate):
    ...     attacks = (AttackEER("A07", 90, rate),)
    ...     return Evaluation("s.txt", 10, 90, rate, 0.5, 1 - rate, attacks)
    >>> print(side_by_side({"plain": system(0.2), "bi-level": system(0.1)}))
                  plain  bi-level
    bona fide        10        10
    spoof            90        90
    EER %        20.000    10.000
    min t-DCF         -         -
    <BLANKLINE>
    EER % by attack
    A07          20.000    10.000
    """
    systems = list(evaluations.values())
    by_attack = [{a.attack: a.eer for a in s.attacks} for s in systems]
    attacks = sorted(set().union(*by_attack))
    rows = [
        ("", list(evaluations)),
        ("bona fide", [str(system.n_bonafide) for system in systems]),
        ("spoof", [str(system.n_spoof) for system in systems]),
        ("EER %", [_percent(system.eer) for system in systems]),
        ("min t-DCF", [_tdcf(system.min_tdcf) for system in systems]),
        ("", []),
        ("EER % by attack", []),
    ]
    for attack in attacks:
        rates = [_percent(rates.get(attack)) for rates in by_attack]
        rows.append((attack, rates))

    first = max(len("min t-DCF"), *map(len, attacks))
    widths = [max(8, len(name)) for name in evaluations]
    lines = []
    for label, cells in rows:
        cells = [f"  {cell:>{width}}" for cell, width in zip(cells, widths)]
        lines.append(f"{label:<{first}}{''.join(cells)}".rstrip())
    for name, system in evaluations.items():
        warning = _warning(system)
        if warning:
            lines += ["", name, *warning]
    return "\n".join(lines)


def _tandem(bonafide, spoof, asv):
    """The t-DCF part of an evaluation; names the ASV file if it is unusable."""
    try:
        rates = asv_rates(asv.target, asv.nontarget, asv.spoof)
        value, threshold = min_tdcf(bonafide, spoof, rates)
    except InputError as error:
        raise InputError(f"{asv.path}: {error}") from error
    return {"min_tdcf": value, "tdcf_threshold": threshold, "asv": rates}


def _warning(evaluation):
    """Lines that say aloud what an EER above 50 % most likely means."""
    if evaluation.eer <= 0.5:
        return []
    opposite = f"{100 * evaluation.eer_negated:.3f} %"
    if evaluation.eer_negated < 0.5:
        return [
            "!!! WARNING: EER ABOVE 50 %, THE SCORES LOOK NEGATED !!!",
            "    Expected: a higher score for bona fide than for spoof.",
            f"    With the opposite sign the EER would be {opposite}. Nothing "
            "was flipped:",
            "    if the sign is wrong, correct it in the score file.",
        ]
    return [
        "!!! WARNING: EER ABOVE 50 % WITH EITHER SIGN !!!",
        f"    With the opposite sign it would be {opposite}: too many trials "
        "share one score,",
        "    or there are too few trials.",
    ]


def _percent(rate):
    return "-" if rate is None else f"{100 * rate:.3f}"


def _tdcf(value):
    return "-" if value is None else f"{value:.4f}"
