"""Verdicts on recordings: a file, many files, files of hours."""

import itertools
import math

import torch
from tqdm import tqdm

from speechbrain_bilevel.dataio.audio import (
    SAMPLE_RATE,
    read_window,
    silent_throughout,
)
from speechbrain_bilevel.dataio.audio_paths import find_audio
from speechbrain_bilevel.dataio.windows import read_windows
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.nnet.losses import BONAFIDE, SPOOF
from speechbrain_bilevel.verdicts import (
    LABELS,
    LongVerdict,
    Segment,
    Verdict,
    no_number,
)

#: Seconds; the usual length of a frame of speech analysis. Scoring a corpus
#: takes what is shorter too, since each trial needs a score there.
SHORTEST = 0.025


class RecordingsMixin:
    """What a detector does with audio files, for ``SpoofDetector``.

    It needs its ``classify_batch``, ``decision``, ``hparams.samples``, and
    ``_windows``, which brings waveforms to the network's length.
    """

    @torch.no_grad()
    def classify_file(self, path):
        """Judges an audio file of any format, rate, channel count and length.

        Arguments
        ---------
        path : str or Path
            Any local file that soundfile reads.

        Returns
        -------
        tuple
            As ``classify_batch``, for a batch of one.

        Raises
        ------
        InputError
            If the file cannot be judged; see ``dataio.audio.read_audio``.
        """
        return self.classify_batch(self.load_audio(path))

    def score_file(self, path):
        """Judges an audio file by one number, and tells what it means.

        Arguments
        ---------
        path : str or Path
            Any local file that soundfile reads.

        Returns
        -------
        Verdict
            ``score``, ``label``, and ``meaning`` in words.

        Raises
        ------
        InputError
            If the file cannot be judged.
        """
        _, score, _, _ = self.classify_file(path)
        return self._verdict(path, score.item())

    def classify_files(self, paths, batch_size=8, progress=True):
        """Judges many audio files, by batches.

        Arguments
        ---------
        paths : str, Path or list of str or Path
            Files, folders (of which all audio files are taken, those in
            folders within them too) and patterns such as ``calls/*.wav``.
        batch_size : int
            Files that the network sees at once.
        progress : bool
            Whether to show a progress bar, on a terminal.

        Returns
        -------
        list of Verdict
            In the order of the files. One that cannot be judged has an
            ``error`` and stops no other; so has a folder without audio files,
            and a pattern that matches nothing.
        """
        return list(self.iterate_files(paths, batch_size, progress))

    def iterate_files(self, paths, batch_size=8, progress=True):
        """As ``classify_files``, but yields each verdict as soon as it is there.

        Yields
        ------
        Verdict
        """
        files = find_audio(paths)
        # None: only where it is a terminal that shows it.
        hidden = None if progress else True
        with tqdm(
            desc="Judging", total=len(files), unit="file", disable=hidden
        ) as bar:
            for first in range(0, len(files), batch_size):
                batch = files[first : first + batch_size]
                yield from self._judge_batch(batch)
                bar.update(len(batch))

    def _judge_batch(self, paths):
        """The verdict on each file."""
        wavs, found = {}, {}
        for path in paths:
            try:
                wavs[path] = self.load_audio(path)
            except InputError as error:
                found[path] = Verdict(path, error=str(error))
        for path, score in zip(wavs, self._scores(wavs.values())):
            try:
                found[path] = self._verdict(path, score)
            except InputError as error:
                found[path] = Verdict(path, error=str(error))
        return [found[path] for path in paths]

    @torch.no_grad()
    def _scores(self, wavs):
        """The score of each of some waveforms of different lengths."""
        if not wavs:
            return []
        windows = [self._windows(wav)[0] for wav in wavs]
        return self.classify_batch(torch.stack(windows))[1].tolist()

    def segments(self, path, overlap=0.5, batch_size=4, progress=True):
        """Judges a recording of any length, all of it, by windows.

        The file is read as a stream, so an hour takes no more memory than a
        minute, but for 0.3 MB of segments.

        Arguments
        ---------
        path : str or Path
            Any local file that soundfile reads.
        overlap : float
            Which part of a window, of ``hparams.samples`` samples, it shares
            with the next: from 0 to less than 1.
        batch_size : int
            Windows that the network sees at once.
        progress : bool
            Whether to show a progress bar, on a terminal.

        Returns
        -------
        LongVerdict
            The verdict on the whole, on each window, and the suspicious spans.

        Raises
        ------
        InputError
            If the file cannot be read to its end, or is silent throughout.
        """
        segments = tuple(
            self.iterate_segments(path, overlap, batch_size, progress)
        )
        scores = [part.score for part in segments if part.score is not None]
        if not scores:
            raise silent_throughout(path)
        return self._verdict(
            path, math.fsum(scores) / len(scores), LongVerdict, segments
        )

    def iterate_segments(self, path, overlap=0.5, batch_size=4, progress=True):
        """As ``segments``, but yields each window's score as soon as it is
        there, in memory that does not depend on the length of the file.

        Yields
        ------
        Segment
            Its score is None where the window is digital silence.
        """
        if not 0 <= overlap < 1:
            raise InputError(f"overlap {overlap}: expected 0 to less than 1")
        samples = self.hparams.samples
        hop = max(1, round(samples * (1 - overlap)))
        # None: only where it is a terminal that shows it.
        hidden = None if progress else True
        with tqdm(
            desc="Listening", unit="s", unit_scale=True, disable=hidden
        ) as bar:
            windows = read_windows(path, samples, hop)
            while batch := list(itertools.islice(windows, batch_size)):
                for segment in self._judge_windows(path, batch):
                    bar.update(segment.end - bar.n)
                    yield segment

    def _judge_windows(self, path, batch):
        """A segment for each of some windows of a file."""
        if batch[0][0] == 0:
            _refuse_short(path, len(batch[0][1]))
        heard = [torch.from_numpy(wav) for _, wav in batch if wav.any()]
        scores = iter(self._scores(heard))
        for start, wav in batch:
            end = (start + len(wav)) / SAMPLE_RATE
            score = None
            if wav.any():
                score = next(scores)
                _refuse_infinite(path, score)
            yield Segment(start / SAMPLE_RATE, end, score)

    def _verdict(self, path, score, kind=Verdict, *segments):
        _refuse_infinite(path, score)
        index = BONAFIDE if score > self.decision.border else SPOOF
        return kind(
            str(path),
            LABELS[index],
            score,
            self.decision.border,
            self.decision.calibration is not None,
            None,
            *segments,
        )

    def load_audio(self, path):
        """Reads what the network sees of a file.

        Arguments
        ---------
        path : str or Path

        Returns
        -------
        torch.Tensor
            [time], 16 kHz.

        Raises
        ------
        InputError
            If it cannot be read, is too short to hold any speech, or the
            network would see silence only.
        """
        wav = read_window(path, self.hparams.samples)
        _refuse_short(path, len(wav))
        return wav.to(self.device)


def _refuse_short(path, n_samples):
    if n_samples < SHORTEST * SAMPLE_RATE:
        raise InputError(
            f"{path}: lasts {1000 * n_samples / SAMPLE_RATE:.1f} ms; expected "
            f"at least {1000 * SHORTEST:.0f} ms, in which something can be heard"
        )


def _refuse_infinite(path, score):
    if not math.isfinite(score):
        raise InputError(no_number(path, score))
