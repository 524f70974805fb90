"""What a detector says of recordings, and what that means."""

import math
from dataclasses import dataclass
from typing import Optional

from speechbrain_bilevel.nnet.losses import BONAFIDE, SPOOF

LABELS = {SPOOF: "spoof", BONAFIDE: "bonafide"}


@dataclass(frozen=True)
class Verdict:
    """A detector's verdict on a recording.

    Arguments
    ---------
    path : str
        The recording.
    label : str, optional
        "spoof" or "bonafide"; None if there is no verdict.
    score : float, optional
        Higher is more bona fide. If calibrated, the log-likelihood ratio
        (natural logarithm) of bona fide against spoof.
    border : float
        The score above which the label is "bonafide".
    calibrated : bool
        Whether the score is a log-likelihood ratio.
    error : str, optional
        Why there is no verdict.

    Example
    -------
    >>> verdict = Verdict("call.wav", "spoof", -2.3, calibrated=True)
    >>> print(verdict.meaning)
    this sound is 10 times as probable from spoof as from bona fide speech
    """

    path: str
    label: Optional[str] = None
    score: Optional[float] = None
    border: float = 0.0
    calibrated: bool = False
    error: Optional[str] = None

    @property
    def meaning(self):
        """The score in words."""
        if self.score is None:
            return f"no verdict: {self.error}"
        if not self.calibrated:
            return (
                f"above {self.border:g} is bona fide, and the farther from it "
                "the surer, but on no known scale: this detector is not "
                "calibrated"
            )
        classes = ["bona fide", "spoof"]
        if self.label == LABELS[SPOOF]:
            classes.reverse()
        first, second = classes
        return (
            f"this sound is {times(self.score)} times as probable from {first} "
            f"as from {second} speech"
        )


def times(score):
    """A log-likelihood ratio of either sign as a factor, in words.

    Arguments
    ---------
    score : float
        Natural logarithm.

    Returns
    -------
    str

    Example
    -------
    >>> times(-2.3), times(0.1), times(100.0)
    ('10', '1.1', 'more than a million')
    """
    factor = math.exp(min(abs(score), 20))
    if factor > 1e6:
        return "more than a million"
    return f"{factor:.1f}" if factor < 9.95 else f"{factor:,.0f}"


def no_number(path, score):
    """Why a score that is NaN or infinite is none.

    Arguments
    ---------
    path : str or Path
        The recording.
    score : float

    Returns
    -------
    str
        For an ``InputError``.

    Example
    -------
    >>> no_number("call.wav", math.inf)[:27]
    'call.wav: its score is inf;'
    """
    return (
        f"{path}: its score is {score}; are the network's weights damaged, or "
        "is its audio extremely loud?"
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording.

    Arguments
    ---------
    start, end : float
        In seconds.
    score : float, optional
        See ``Verdict``; of a span, its lowest; None where it is silent.
    """

    start: float
    end: float
    score: Optional[float]


@dataclass(frozen=True)
class LongVerdict(Verdict):
    """A verdict on a recording that was heard from its beginning to its end.

    Its score is the mean over the windows that are not silent, as fits a
    recording that is all bona fide or all spoofed; where parts of it may be,
    look at ``suspicious``.

    Arguments
    ---------
    segments : tuple of Segment
        Each window.

    Example
    -------
    >>> segments = Segment(0, 4, 1.0), Segment(2, 6, -3.0), Segment(4, 8, -2.0)
    >>> verdict = LongVerdict("call.wav", "spoof", -1.3, segments=segments)
    >>> verdict.suspicious
    [Segment(start=2, end=8, score=-3.0)]
    """

    segments: tuple = ()

    @property
    def suspicious(self):
        """The spans whose windows are taken for spoof; windows that touch are
        one span."""
        spans = []
        for segment in self.segments:
            if segment.score is None or segment.score > self.border:
                continue
            if spans and segment.start <= spans[-1].end:
                lowest = min(spans[-1].score, segment.score)
                spans[-1] = Segment(spans[-1].start, segment.end, lowest)
            else:
                spans.append(segment)
        return spans
