"""Score recordings with anything that turns waveforms into logits.

Neither torch nor SpeechBrain is imported, which take longer than a recording.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from speechbrain_bilevel.dataio import LABELS, SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import (
    audible_part,
    channel_numbers,
    find_audio,
    fit_length,
    hear,
    open_audio,
    read_windows,
)
from speechbrain_bilevel.inference.verdicts import (
    LongVerdict,
    Segment,
    Verdict,
    lowest,
    nonfinite_score_message,
)
from speechbrain_bilevel.metrics.detection_score import SCORES, detection_score
from speechbrain_bilevel.utils.errors import InputError

#: In seconds: the usual frame of speech analysis, in less nothing can be heard.
#: Lists have no such limit, since every trial needs a score.
SHORTEST = 0.025


@dataclass(frozen=True)
class Decision:
    """Logits -> score, and the score above which a trial is bona fide.

    Arguments
    ---------
    score : str
        See ``metrics.detection_score``.
    calibration : dict of str to float, optional
        "weight" and "bias" that turn the score into a log-likelihood ratio
        (natural logarithm, bona fide to spoof); see ``metrics.calibration``.

    Example
    -------
    >>> decision = Decision(calibration={"weight": 0.5, "bias": -1.0})
    >>> decision([[-1.0, 3.0]])
    array([1.])
    """

    score: str = SCORES[0]
    calibration: dict | None = None

    @property
    def threshold(self):
        """The score above which a trial is classified as bona fide."""
        is_softmax = self.score == "softmax" and self.calibration is None
        return 0.5 if is_softmax else 0.0

    def __call__(self, logits):
        """[batch, 2] -> scores, [batch], double precision.

        Of an array an array, of a tensor a tensor.
        """
        score = detection_score(logits, self.score)
        if self.calibration is not None:
            weight, bias = self.calibration["weight"], self.calibration["bias"]
            score = weight * score + bias
        return score


class RecordingScorer:
    """Scores audio files of any format, rate, number of channels and length.

    A base class: ``SpoofDetector`` is one by torch and with SpeechBrain's
    interface, ``engines.Detector`` one without.

    Wherever there is an argument ``channels``, it is "mix", the mean of all;
    the number of one, from 1 on; or "each", all of them one by one, of which
    the lowest score decides.

    Attributes
    ----------
    num_samples : int
        Length at 16 kHz that the network was trained on.
    any_length : bool
        Whether it takes others.
    network_name : str
        For messages.
    decision : Decision
    """

    def score_batch(self, wavs):
        """Return the scores of waveforms, [batch, samples] float32: a list."""
        raise NotImplementedError

    def score_file(self, path, channels="mix"):
        """Score an audio file; return a ``Verdict``.

        It has ``score``, ``label`` and ``meaning``, which explains the score.
        """
        (verdict,) = self._score_files([path], channels)
        if verdict.error is not None:
            raise InputError(verdict.error)
        return verdict

    def classify_files(
        self, paths, batch_size=8, progress=True, channels="mix"
    ):
        """Score many audio files, in batches.

        Arguments
        ---------
        paths : str, Path or list of str or Path
            Files, folders and patterns; see ``dataio.audio.find_audio``.
        batch_size : int
            Files that the network sees at once.
        progress : bool
            Whether to show a progress bar, on a terminal.
        channels : str or int
            See the class.

        Returns
        -------
        list of Verdict
            In the order of the files. One that cannot be used has an ``error``
            and does not stop the others; so has a folder without audio files,
            or a pattern without matches.
        """
        return list(self.iterate_files(paths, batch_size, progress, channels))

    def iterate_files(self, paths, batch_size=8, progress=True, channels="mix"):
        """Yield the verdicts of ``classify_files`` one by one."""
        files = find_audio(paths)
        with _progress("file", progress, total=len(files)) as bar:
            for batch in _batches(iter(files), batch_size):
                yield from self._score_files(batch, channels)
                bar.update(len(batch))

    def _hear(self, path, channel=None):
        heard = hear(path, self.num_samples, channel=channel)
        _refuse_short(path, len(heard.wav))
        return heard

    def _score_files(self, paths, channels):
        if channels != "each":
            return self._score_channel(paths, channels)
        verdicts = []
        for path in paths:
            try:
                numbers = channel_numbers(path, channels)
            except InputError as error:
                verdicts.append(Verdict(str(path), error=str(error)))
                continue
            verdicts.append(
                lowest(self._score_channel([path], n)[0] for n in numbers)
            )
        return verdicts

    def _score_channel(self, paths, channel):
        """Return the verdict on one channel, or the mix, of each file."""
        heard, found = {}, {}
        for path in paths:
            try:
                (number,) = channel_numbers(path, channel)
                heard[path] = self._hear(path, number)
            except InputError as error:
                found[path] = Verdict(str(path), error=str(error))
        scores = self._score_wavs([part.wav for part in heard.values()])
        for (path, part), score in zip(heard.items(), scores):
            try:
                found[path] = self._verdict(
                    path,
                    score,
                    heard=len(part.wav) / SAMPLE_RATE,
                    notes=tuple(part.notes),
                    channel=None if channel == "mix" else channel,
                )
            except InputError as error:
                found[path] = Verdict(str(path), error=str(error))
        return [found[path] for path in paths]

    def _score_wavs(self, wavs, num_samples=None):
        """Return the scores of waveforms of different lengths."""
        size = num_samples or self.num_samples
        fitted = [fit_length(wav, size) for wav in wavs]
        return self.score_batch(np.stack(fitted)) if fitted else []

    def segments(
        self,
        path,
        window=None,
        step=None,
        batch_size=4,
        progress=True,
        channels="mix",
    ):
        """Score all of a recording of any length, by sliding windows.

        The file is read as a stream: an hour takes no more memory than a
        minute, except for 0.3 MB of segments.

        Arguments
        ---------
        path : str or Path
        window : float, optional
            Length of a window in seconds; by default that of
            ``hparams.num_samples``. Others need a network with ``any_length``.
        step : float, optional
            Seconds from a window's start to the next one's; by default half a
            window, at most a whole one.
        batch_size, progress, channels
            See ``classify_files``; a batch consists of windows.

        Returns
        -------
        LongVerdict
            The verdict on the recording and on each window, and the suspicious
            spans.
        """
        size, hop = self._window(window, step)
        verdicts = []
        for channel in channel_numbers(path, channels):
            try:
                with open_audio(path, channel) as audio:
                    windows = self._windows(
                        audio, size, hop, batch_size, progress
                    )
                    verdicts.append(self._long_verdict(audio, tuple(windows)))
            except InputError as error:
                verdicts.append(LongVerdict(str(path), error=str(error)))
        verdict = lowest(verdicts)
        if verdict.error is not None:
            raise InputError(verdict.error)
        return verdict

    def _long_verdict(self, audio, segments):
        heard = [part for part in segments if part.score is not None]
        if not heard or audio.cancelled:
            raise audio.silent()
        mean = math.fsum(part.score for part in heard) / len(heard)
        seconds = end = 0.0
        for part in heard:
            seconds += max(0.0, part.end - max(part.start, end))
            end = max(end, part.end)
        return self._verdict(
            audio.path,
            mean,
            LongVerdict,
            segments=segments,
            heard=seconds,
            notes=tuple(audio.notes),
            channel=audio.channel,
        )

    def iterate_segments(
        self, path, window=None, step=None, batch_size=4, progress=True
    ):
        """Yield the segments of ``segments`` one by one.

        Memory does not depend on the length of the file. The score of a window
        without sound is None.
        """
        size, hop = self._window(window, step)
        with open_audio(path) as audio:
            yield from self._windows(audio, size, hop, batch_size, progress)

    def _window(self, window, step):
        """Return the length of a window and its step, in samples."""
        size = own = self.num_samples
        if window is not None:
            size = window * SAMPLE_RATE
        least = SHORTEST * SAMPLE_RATE if self.any_length else own
        if not least <= size <= (math.inf if self.any_length else own):
            more = "or more" if self.any_length else "only"
            raise InputError(
                f"window {window}: {self.network_name} takes windows of "
                f"{least / SAMPLE_RATE} s {more}"
            )
        hop = size // 2 if step is None else step * SAMPLE_RATE
        if not 1 <= hop <= size:
            raise InputError(
                f"step {step}: expected more than 0, and at most a window's "
                f"{size / SAMPLE_RATE} seconds"
            )
        return round(size), round(hop)

    def _windows(self, audio, size, hop, batch_size, progress):
        windows = read_windows(audio, size, hop)
        with _progress("s", progress, unit_scale=True) as bar:
            for batch in _batches(windows, batch_size):
                if batch[0][0] == 0:
                    _refuse_short(audio.path, len(batch[0][1]))
                for segment in self._score_windows(audio.path, batch, size):
                    bar.update(max(0.0, segment.end - bar.n))
                    yield segment

    def _score_windows(self, path, batch, size):
        """Yield a segment for each (start, window) of a file."""
        parts = [audible_part(wav) for _, wav in batch]
        heard = [
            wav[slice(*part)] for (_, wav), part in zip(batch, parts) if part
        ]
        scores = iter(self._score_wavs(heard, size))
        for (start, wav), part in zip(batch, parts):
            score = next(scores) if part else None
            if part:
                _refuse_nonfinite(path, score)
            first, last = part or (0, len(wav))
            yield Segment(
                (start + first) / SAMPLE_RATE,
                (start + last) / SAMPLE_RATE,
                score,
            )

    def _verdict(self, path, score, kind=Verdict, **more):
        _refuse_nonfinite(path, score)
        threshold = self.decision.threshold
        calibrated = self.decision.calibration is not None
        label = LABELS[score > threshold]
        return kind(str(path), label, score, threshold, calibrated, **more)


def _progress(unit, shown, **kwargs):
    # None: show it on a terminal only.
    hidden = None if shown else True
    return tqdm(desc="Scoring", unit=unit, disable=hidden, **kwargs)


def _batches(iterator, size):
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _refuse_short(path, num_samples):
    if num_samples < SHORTEST * SAMPLE_RATE:
        raise InputError(
            f"{path}: lasts {1000 * num_samples / SAMPLE_RATE:.1f} ms; "
            f"expected at least {1000 * SHORTEST:.0f} ms, in which something "
            "can be heard"
        )


def _refuse_nonfinite(path, score):
    if not math.isfinite(score):
        raise InputError(nonfinite_score_message(path, score))
