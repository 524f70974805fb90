"""The figure of a verdict: the waveform, and the score over time."""

import os

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from speechbrain_bilevel.dataio.audio import SAMPLE_RATE, read_blocks
from speechbrain_bilevel.evaluation.plots import COLOURS, INK, png, style
from speechbrain_bilevel.utils.errors import printable

# As many as the figure has dots.
_COLUMNS = 1800


_WAVE, _SPOOF = COLOURS[0], COLOURS[1]


def draw_verdict(verdict):
    """Draws a recording with its score over time.

    The recording is read as a stream, so that it may be of any length.

    Arguments
    ---------
    verdict : LongVerdict
        Its path still leads to the recording.

    Returns
    -------
    bytes
        A PNG; spans that are taken for spoof are shaded.

    Raises
    ------
    InputError
        If the recording cannot be read any more, or matplotlib is missing.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_bilevel.inference.verdicts import LongVerdict, Segment
    >>> path = getfixture("tmpdir") / "a.wav"
    >>> soundfile.write(path, np.random.rand(32000), 16000)
    >>> segments = Segment(0, 1, 1.0), Segment(1, 2, -1.0)
    >>> verdict = LongVerdict(str(path), "spoof", 0.0, segments=segments)
    >>> draw_verdict(verdict)[1:4]
    b'PNG'
    """
    end = verdict.segments[-1].end
    with style():
        figure = Figure((7.2, 3.6), layout="constrained")
        wave, scores = figure.subplots(2, sharex=True, height_ratios=(1, 1.25))
        _draw_wave(wave, verdict.path, end)
        _draw_scores(scores, verdict)
        for axes in (wave, scores):
            for span in verdict.suspicious:
                axes.axvspan(
                    span.start, span.end, color=_SPOOF, alpha=0.13, linewidth=0
                )
        wave.set_title(_title(verdict), loc="left", color=INK)
        scores.set_xlim(0, end)
        scores.set_xlabel("time" if end >= 60 else "time in seconds")
        if end >= 60:
            scores.xaxis.set_major_formatter(FuncFormatter(_clock))
    return png(figure)


def _title(verdict):
    name = printable(os.path.basename(verdict.path), 50)
    return f"{name}: {verdict.label}, {verdict.score:+.2f} on average"


def _draw_wave(axes, path, end):
    """The lowest and highest sample of each column."""
    per_column = end * SAMPLE_RATE / _COLUMNS
    low, high = np.zeros((2, _COLUMNS + 1), dtype=np.float32)
    position = 0
    for block in read_blocks(path):
        column = ((position + np.arange(len(block))) / per_column).astype(int)
        column = np.minimum(column, _COLUMNS)
        np.minimum.at(low, column, block)
        np.maximum.at(high, column, block)
        position += len(block)
    times = (np.arange(_COLUMNS) + 0.5) * end / _COLUMNS
    axes.fill_between(
        times, low[:-1], high[:-1], color=_WAVE, linewidth=0.3, step="mid"
    )
    highest = max(np.abs([low, high]).max(), 1e-6)
    axes.set_ylim(-1.05 * highest, 1.05 * highest)
    axes.set_ylabel("waveform")
    axes.tick_params(labelleft=False, left=False)


def _draw_scores(axes, verdict):
    """The score of each window at its middle; silent ones leave a gap."""
    times = [(part.start + part.end) / 2 for part in verdict.segments]
    scores = [
        np.nan if part.score is None else part.score
        for part in verdict.segments
    ]
    few = len(times) <= 60
    axes.axhline(verdict.border, color=INK, linewidth=0.8, linestyle="--")
    look = {"marker": "o", "markersize": 4} if few else {"linewidth": 0.8}
    axes.plot(times, scores, color=INK, **look)
    found = [score for score in scores if np.isfinite(score)]
    reach = max(abs(score - verdict.border) for score in [*found, 1.0])
    axes.set_ylim(verdict.border - 1.15 * reach, verdict.border + 1.15 * reach)
    unit = "log-likelihood ratio" if verdict.calibrated else "score"
    axes.set_ylabel(f"{unit}\nspoof ← → bona fide")
    axes.grid(True, axis="y")


def _clock(seconds, _=None):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
