"""What an evaluation finds: figures, intervals, comparisons."""

from dataclasses import dataclass
from typing import Optional

from speechbrain_bilevel.evaluation.score_files import ASVScores, CMScores
from speechbrain_bilevel.metrics.tdcf import ASVRates


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Arguments
    ---------
    value : float
        The figure; error rates are fractions.
    low : float, optional
        Lower end of the 95 % interval; None without resampling.
    high : float, optional
        Its upper end.
    """

    value: float
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass(frozen=True)
class AttackResult:
    """One attack's trials against all bona fide trials.

    Arguments
    ---------
    trials : int
        Number of its spoofed trials.
    eer : Estimate
        Equal error rate.
    """

    trials: int
    eer: Estimate


@dataclass(frozen=True)
class Evaluation:
    """All figures of one system.

    Arguments
    ---------
    name : str
        What tables and plots call the system.
    scores : CMScores
        Its scores.
    metrics : dict of str to Estimate
        Pooled figures by name, in the order to show them; the names are those
        of ``METRICS``. Only those that could be computed.
    thresholds : dict of str to float
        Where "eer", "min_tdcf" (of both forms) and "min_dcf" are reached, and
        the "given" one, if any; trials with a score above it are accepted.
    attacks : dict of str to AttackResult
        By name of the attack, sorted.
    eer_negated : float
        Pooled EER of the same scores with the opposite sign.
    """

    name: str
    scores: CMScores
    metrics: dict
    thresholds: dict
    attacks: dict
    eer_negated: float

    @property
    def n_bonafide(self):
        """Number of bona fide trials."""
        return len(self.scores.bonafide)

    @property
    def n_spoof(self):
        """Number of spoofed trials."""
        return len(self.scores.spoof)


@dataclass(frozen=True)
class Comparison:
    """A paired test of two systems on the same trials.

    Arguments
    ---------
    first : str
        Name of a system.
    second : str
        Name of another.
    metric : str
        A name of ``METRICS``.
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
        A system each, of different names.
    groups : list of list of int
        Which of them have the same trials.
    comparisons : list of Comparison
        Of two systems with the same trials each.
    cautions : list of str
        What a reader of the intervals has to know.
    resampled : str, optional
        "speakers" or "utterances": what the intervals are over; None if there
        are none.
    draws : int
        How often.
    seed : int
        Of the draws.
    asv : ASVScores, optional
        Of the speaker verification system, for the t-DCF.
    asv_rates : ASVRates, optional
        Its error rates.
    """

    evaluations: list
    groups: list
    comparisons: list
    cautions: list
    resampled: Optional[str] = None
    draws: int = 0
    seed: int = 0
    asv: Optional[ASVScores] = None
    asv_rates: Optional[ASVRates] = None


#: Pooled figures by name: the title, and by what to multiply for showing.
METRICS = {
    "eer": ("EER %", 100),
    "min_tdcf_legacy": ("min t-DCF, legacy 2019", 1),
    "min_tdcf_revised": ("min t-DCF, revised 2021", 1),
    "min_dcf": ("minDCF, ASVspoof 5", 1),
    "act_dcf": ("actDCF, ASVspoof 5", 1),
    "cllr": ("Cllr, bits", 1),
    "frr": ("FRR %, at the given threshold", 100),
    "far": ("FAR %, at the given threshold", 100),
    "act_tdcf_legacy": ("t-DCF, legacy 2019, at it", 1),
    "act_tdcf_revised": ("t-DCF, revised 2021, at it", 1),
}
