"""A detector's verdicts on recordings, in numbers, words and a figure."""

import dataclasses
import math
import os
from dataclasses import dataclass

import numpy as np

from speechbrain_bilevel.dataio import BONAFIDE, SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import open_audio
from speechbrain_bilevel.utils.errors import printable

#: The columns of a table of verdicts.
FIELDS = ("path", "label", "score", "calibrated", "heard", "error", "notes")
# Columns of the drawn waveform, as many as the figure has dots.
_COLUMNS = 1800


@dataclass(frozen=True)
class Verdict:
    """A detector's verdict on a recording.

    Arguments
    ---------
    path : str
    label : str, optional
        "spoof" or "bonafide"; None if there is no verdict.
    score : float, optional
        Higher is more bona fide. If calibrated, the log-likelihood ratio
        (natural logarithm) of bona fide to spoof.
    threshold : float
        The score above which the label is "bonafide".
    calibrated : bool
    heard : float
        Seconds of the recording that the network saw.
    notes : tuple of str
        What a listener should know, e.g. that the file is truncated.
    channel : int, optional
        The one that was heard, from 1 on; None: the mean of all.
    channels : tuple of Verdict
        Those on all channels, if they were heard one by one; the lowest score
        decides.
    error : str, optional
        Why there is no verdict.

    Example
    -------
    >>> verdict = Verdict("call.wav", "spoof", -2.3, calibrated=True)
    >>> print(verdict.meaning)
    this sound is 10 times as probable from spoof as from bona fide speech
    """

    path: str
    label: str | None = None
    score: float | None = None
    threshold: float = 0.0
    calibrated: bool = False
    heard: float = 0.0
    notes: tuple = ()
    channel: int | None = None
    channels: tuple = ()
    error: str | None = None

    @property
    def row(self):
        """A dict of the values of ``FIELDS``, for a table."""
        values = {name: getattr(self, name) for name in FIELDS}
        return values | {"notes": "; ".join(self.notes)}

    @property
    def meaning(self):
        """The score in words."""
        if self.score is None:
            return f"no verdict: {self.error}"
        if not self.calibrated:
            return (
                f"above {self.threshold:g} is bona fide; how far above or "
                "below has no known scale, since this detector is not "
                "calibrated"
            )
        first, second = "bona fide", "spoof"
        if self.label != BONAFIDE:
            first, second = second, first
        return (
            f"this sound is {likelihood_ratio_text(self.score)} times as "
            f"probable from {first} as from {second} speech"
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording, in seconds, and its score, as in ``Verdict``.

    A span has its lowest score; a part without sound has None.
    """

    start: float
    end: float
    score: float | None


@dataclass(frozen=True)
class LongVerdict(Verdict):
    """A verdict on a recording that was scored from beginning to end.

    Its score is the mean over the windows (``segments``) that hold a sound.
    That suits a recording that is all bona fide or all spoofed; if only parts
    may be spoofed, use ``suspicious``.

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
        """Spans whose windows are classified as spoof, touching ones joined."""
        spans = []
        for segment in self.segments:
            if segment.score is None or segment.score > self.threshold:
                continue
            if spans and segment.start <= spans[-1].end:
                lowest = min(spans[-1].score, segment.score)
                spans[-1] = Segment(spans[-1].start, segment.end, lowest)
            else:
                spans.append(segment)
        return spans


def lowest(verdicts):
    """Return the verdict on a recording, from those on its channels.

    It is the one with the lowest score, if there is one with a score.
    """
    verdicts = tuple(verdicts)
    scored = [verdict for verdict in verdicts if verdict.error is None]
    if not scored or len(verdicts) == 1:
        return verdicts[0]
    decisive = min(scored, key=lambda verdict: verdict.score)
    notes = tuple(
        f"channel {number}: " + note.removeprefix(f"{verdict.path}: ")
        for number, verdict in enumerate(verdicts, 1)
        for note in (*verdict.notes, verdict.error)
        if note
    )
    return dataclasses.replace(decisive, channels=verdicts, notes=notes)


def likelihood_ratio_text(score):
    """Format a log-likelihood ratio (natural logarithm, any sign) as a factor.

    Example
    -------
    >>> [likelihood_ratio_text(score) for score in (-2.3, 0.1, 100.0)]
    ['10', '1.1', 'more than a million']
    """
    factor = math.exp(min(abs(score), 20))
    if factor > 1e6:
        return "more than a million"
    return f"{factor:.1f}" if factor < 9.95 else f"{factor:,.0f}"


def nonfinite_score_message(path, score):
    """Explain why a score that is NaN or infinite gives no verdict."""
    return (
        f"{path}: its score is {score}; are the network's weights damaged, or "
        "is its audio extremely loud?"
    )


def draw_verdict(verdict):
    """Draw the recording of a ``LongVerdict`` and its score over time, as PNG.

    The recording is read as a stream, so it may have any length. Suspicious
    spans are shaded.
    """
    from speechbrain_bilevel.evaluation.plots import COLORS, INK, png, style

    end = verdict.segments[-1].end
    with style():
        from matplotlib.figure import Figure

        figure = Figure((7.2, 3.6), layout="constrained")
        wave, scores = figure.subplots(2, sharex=True, height_ratios=(1, 1.25))
        _draw_wave(wave, verdict, end, COLORS[0])
        _draw_scores(scores, verdict, INK)
        for axes in (wave, scores):
            for span in verdict.suspicious:
                axes.axvspan(
                    span.start, span.end, color=COLORS[1], alpha=0.13, lw=0
                )
        name = printable(os.path.basename(verdict.path), 50)
        title = f"{name}: {verdict.label}, {verdict.score:+.2f} on average"
        wave.set_title(title, loc="left", color=INK)
        scores.set_xlim(0, end)
        scores.set_xlabel("time" if end >= 60 else "time in seconds")
        if end >= 60:
            scores.xaxis.set_major_formatter(_clock)
    return png(figure)


def _draw_wave(axes, verdict, end, color):
    """Draw the lowest and highest sample of each column."""
    per_column = end * SAMPLE_RATE / _COLUMNS
    low, high = np.zeros((2, _COLUMNS + 1), dtype=np.float32)
    position = 0
    with open_audio(verdict.path, verdict.channel) as audio:
        for block in audio.blocks():
            column = (position + np.arange(len(block))) / per_column
            column = np.minimum(column.astype(int), _COLUMNS)
            np.minimum.at(low, column, block)
            np.maximum.at(high, column, block)
            position += len(block)
    times = (np.arange(_COLUMNS) + 0.5) * end / _COLUMNS
    axes.fill_between(
        times, low[:-1], high[:-1], color=color, linewidth=0.3, step="mid"
    )
    highest = max(np.abs([low, high]).max(), 1e-6)
    axes.set_ylim(-1.05 * highest, 1.05 * highest)
    axes.set_ylabel("waveform")
    axes.tick_params(labelleft=False, left=False)


def _draw_scores(axes, verdict, color):
    """Draw the score of each window at its middle; silence leaves a gap."""
    windows, threshold = verdict.segments, verdict.threshold
    times = [(window.start + window.end) / 2 for window in windows]
    scores = np.array([window.score for window in windows], dtype=float)
    look = {"linewidth": 0.8}
    if len(times) <= 60:
        look = {"marker": "o", "markersize": 4}
    axes.axhline(threshold, color=color, linewidth=0.8, linestyle="--")
    axes.plot(times, scores, color=color, **look)
    reach = max(np.nanmax(np.abs(scores - threshold)), 1.0)
    axes.set_ylim(threshold - 1.15 * reach, threshold + 1.15 * reach)
    unit = "log-likelihood ratio" if verdict.calibrated else "score"
    axes.set_ylabel(f"{unit}\nspoof ← → bona fide")
    axes.grid(True, axis="y")


def _clock(seconds, _=None):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
