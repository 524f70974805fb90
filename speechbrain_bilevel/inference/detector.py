"""From waveforms to what a network takes, and from its logits to a verdict."""

import itertools
import math

import torch
from speechbrain.inference.classifiers import EncoderClassifier
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from speechbrain_bilevel.dataio.audio import (
    SAMPLE_RATE,
    find_audio,
    fit_length,
    read_window,
    read_windows,
    silent_throughout,
)
from speechbrain_bilevel.inference.pretrained import load_pretrained
from speechbrain_bilevel.inference.verdicts import (
    LABELS,
    LongVerdict,
    Segment,
    Verdict,
    no_number,
)
from speechbrain_bilevel.nnet.losses import BONAFIDE, SPOOF, detection_score
from speechbrain_bilevel.utils.errors import InputError


class Windows(torch.nn.Module):
    """Brings waveforms to the one length that a network takes.

    Arguments
    ---------
    samples : int
        That length; longer waveforms are cut, shorter ones repeated.

    Example
    -------
    >>> windows = Windows(3)
    >>> windows(torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([1, 0.5]))
    tensor([[1, 2, 3],
            [5, 6, 5]])
    """

    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, wavs, wav_lens):
        """Cuts or repeats.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, time]
        wav_lens : torch.Tensor
            [batch], relative to the longest.

        Returns
        -------
        torch.Tensor
            [batch, samples]
        """
        lengths = (wav_lens.cpu() * wavs.shape[1]).round().int().clamp(min=1)
        return torch.stack(
            [
                fit_length(wav[:length], self.samples)
                for wav, length in zip(wavs, lengths)
            ]
        )


class Decision(torch.nn.Module):
    """Logits -> score and log posteriors.

    Arguments
    ---------
    as_published, bonafide_logit : bool
        See ``nnet.losses.detection_score``.
    calibration : dict of str to float, optional
        "weight" and "bias" that make a log-likelihood ratio (natural
        logarithm, of bona fide against spoof) of the score; see
        ``metrics.calibration``.

    Example
    -------
    >>> decide = Decision(calibration={"weight": 0.5, "bias": -1.0})
    >>> log_posteriors, score = decide(torch.tensor([[-1.0, 3.0]]))
    >>> score, decide.border
    (tensor([1.], dtype=torch.float64), 0.0)
    >>> log_posteriors.exp()
    tensor([[0.2689, 0.7311]])
    """

    def __init__(
        self, as_published=False, calibration=None, bonafide_logit=False
    ):
        super().__init__()
        if calibration is not None:
            calibration = _checked(calibration)
        self.as_published = as_published
        self.bonafide_logit = bonafide_logit
        self.calibration = calibration

    @property
    def border(self):
        """The score above which a trial is taken for bona fide."""
        return 0.5 if self.as_published and self.calibration is None else 0.0

    def forward(self, logits):
        """Decides.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, 2], of spoof and bona fide.

        Returns
        -------
        log_posteriors : torch.Tensor
            [batch, 2], single precision; if calibrated, of classes that are
            equally frequent.
        score : torch.Tensor
            [batch], double precision; higher is more bona fide.
        """
        score = detection_score(logits, self.as_published, self.bonafide_logit)
        if self.calibration is not None:
            weight, bias = self.calibration["weight"], self.calibration["bias"]
            score = weight * score + bias
        elif not self.bonafide_logit:
            return logits.float().log_softmax(dim=-1), score
        both = torch.stack([-score, score], dim=-1)
        return logsigmoid(both).float(), score


def _checked(calibration):
    """The two numbers, refused if they would turn the order of the scores."""
    values = {name: calibration.get(name) for name in ("weight", "bias")}
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            break
        if not math.isfinite(value):
            break
    else:
        if values["weight"] > 0 and set(calibration) == set(values):
            return values
    raise ValueError(
        "calibration: expected a positive weight and a bias, both finite"
    )


class Embedding(torch.nn.Module):
    """A network's embedding, as ``EncoderClassifier`` calls it.

    Arguments
    ---------
    network : torch.nn.Module
        With a method ``embed``.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, windows, wav_lens=None):
        """[batch, samples] -> [batch, embedding]; lengths are 1 by now."""
        return self.network.embed(windows)


class Classifier(torch.nn.Module):
    """A network's log posteriors, as ``EncoderClassifier`` calls it.

    Arguments
    ---------
    network : torch.nn.Module
        With a module ``classifier``, embedding -> logits.
    as_published, calibration, bonafide_logit
        See ``Decision``.
    """

    def __init__(
        self,
        network,
        as_published=False,
        calibration=None,
        bonafide_logit=False,
    ):
        super().__init__()
        self.network = network
        self.decision = Decision(as_published, calibration, bonafide_logit)

    def forward(self, embedding):
        """[batch, embedding] -> log posteriors, [batch, 2]"""
        return self.decision(self.network.classifier(embedding))[0]


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


class SpoofDetector(RecordingsMixin, EncoderClassifier):
    """A trained countermeasure, with SpeechBrain's EncoderClassifier interface.

    For files, many files and long ones: see ``recordings.RecordingsMixin``.

    A score above 0 is bona fide, below 0 spoof. Of a calibrated detector
    (``hparams.calibration``) it is the log-likelihood ratio, natural
    logarithm: at +2.3 what was heard is ten times as probable from bona fide
    as from spoofed speech, given speech and attacks like those it was
    calibrated on. Else it is the difference of the network's logits, on no
    known scale, or what ``hparams.bonafide_logit`` or ``as_published`` say:
    the logit of bona fide alone, or its softmax output, of which 0.5 is the
    border.

    The network sees ``hparams.samples`` samples at 16 kHz: of a longer
    recording the beginning, unless ``segments`` is asked; a shorter one is
    repeated.

    Arguments
    ---------
    See ``speechbrain.inference.interfaces.Pretrained``.

    Example
    -------
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> from speechbrain_bilevel.lobes.v2 import V2
    >>> network = V2(
    ...     samples=1600, sinc_filters=8, patch=4, token_sizes=[12, 6],
    ...     encoder_channels=[4, 8], blocks=1, heads=2, hidden=16, gru=4,
    ... )
    >>> encoder = CategoricalEncoder()
    >>> encoder.update_from_iterable(["spoof", "bonafide"])
    >>> detector = SpoofDetector(
    ...     {"network": network},
    ...     {"label_encoder": encoder, "samples": 1600, "as_published": False},
    ... )
    >>> log_posteriors, score, index, label = detector.classify_batch(
    ...     torch.randn(3, 16000)
    ... )
    >>> log_posteriors.shape, score.shape, len(label)
    (torch.Size([3, 2]), torch.Size([3]), 3)
    """

    MODULES_NEEDED = ["network"]
    HPARAMS_NEEDED = ["label_encoder", "samples", "as_published"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        labels = self.hparams.label_encoder.lab2ind
        if labels != {"spoof": SPOOF, "bonafide": BONAFIDE}:
            raise InputError(
                f"label_encoder: has {labels}; expected spoof as {SPOOF} and "
                f"bonafide as {BONAFIDE}"
            )
        self.hparams.label_encoder.expect_len(2)
        self.windows = Windows(self.hparams.samples)
        self.decision = Decision(
            self.hparams.as_published,
            getattr(self.hparams, "calibration", None),
            getattr(self.hparams, "bonafide_logit", False),
        )

    @classmethod
    def from_hparams(cls, source, *args, trust_code=False, **kwargs):
        """Loads a pretrained folder, or a repository of the Hugging Face hub.

        A YAML builds objects, and could run any code. Unless ``trust_code``,
        only what belongs in a detector is built (see ``hub.allowed``), and
        weights are loaded without pickled code.

        Arguments
        ---------
        source : str or Path
            A folder that ``train.py`` or ``speechbrain-bilevel export`` wrote,
            or "user/name".
        *args
        **kwargs
            See ``speechbrain.inference.interfaces.Pretrained.from_hparams``.
            The token of ``huggingface_hub`` is used where there is one.
        trust_code : bool
            Load as SpeechBrain does, and run whatever the YAML says: for
            folders whose author you would let use your machine.

        Returns
        -------
        SpoofDetector

        Raises
        ------
        InputError
            If the folder is missing, incomplete or damaged, its weights are of
            another network, its YAML builds what is not allowed, or the hub
            does not have the repository.
        """
        load = super().from_hparams if trust_code else None
        return load_pretrained(cls, load, source, *args, **kwargs)

    def encode_batch(self, wavs, wav_lens=None, normalize=False):
        """The network's embedding of each waveform.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, time] or [time], 16 kHz.
        wav_lens : torch.Tensor
            [batch], relative to the longest; all 1 by default.
        normalize : bool
            SpeechBrain's argument; there is nothing to normalise with here.

        Returns
        -------
        torch.Tensor
            [batch, embedding]
        """
        with self.inference_ctx:
            return self.mods.network.embed(self._windows(wavs, wav_lens))

    def classify_batch(self, wavs, wav_lens=None):
        """Judges a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, time] or [time], 16 kHz.
        wav_lens : torch.Tensor
            [batch], relative to the longest; all 1 by default.

        Returns
        -------
        log_posteriors : torch.Tensor
            [batch, 2], of spoof and bona fide.
        score : torch.Tensor
            [batch], higher is more bona fide; see the class.
        index : torch.Tensor
            [batch], 0 for spoof, 1 for bona fide.
        text_lab : list of str
            "spoof" or "bonafide" for each.
        """
        with self.inference_ctx:
            logits = self.mods.network(self._windows(wavs, wav_lens))
        log_posteriors, score = self.decision(logits)
        index = (score > self.decision.border).long()
        label = self.hparams.label_encoder.decode_torch(index)
        return log_posteriors, score, index, label

    def _windows(self, wavs, wav_lens=None):
        wavs = wavs.to(self.device).float()
        wavs = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        return self.windows(wavs, wav_lens)
