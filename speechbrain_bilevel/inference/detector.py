"""``SpoofDetector``: a trained countermeasure that scores audio files."""

import itertools
import math

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig, LocalStrategy
from torch.nn.functional import logsigmoid
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
from speechbrain_bilevel.inference import pretrained
from speechbrain_bilevel.inference.hub import fetch_files
from speechbrain_bilevel.inference.verdicts import (
    LongVerdict,
    Segment,
    Verdict,
    lowest,
    nonfinite_score_message,
)
from speechbrain_bilevel.nnet.losses import SCORES, detection_score
from speechbrain_bilevel.utils.errors import InputError

#: In seconds: the usual frame of speech analysis, in less nothing can be heard.
#: Lists have no such limit, since every trial needs a score.
SHORTEST = 0.025


class FitLength(torch.nn.Module):
    """Cut or repeat waveforms to the length that a network takes.

    Example
    -------
    >>> FitLength(3)(torch.tensor([[5, 6, 0, 0]]), torch.tensor([0.5]))
    tensor([[5, 6, 5]])
    """

    def __init__(self, num_samples):
        super().__init__()
        self.num_samples = num_samples

    def forward(self, wavs, wav_lens):
        """[batch, time], relative lengths, [batch] -> [batch, num_samples]"""
        lengths = (wav_lens.cpu() * wavs.shape[1]).round().int().clamp(min=1)
        pairs = zip(wavs, lengths)
        fitted = [fit_length(wav[:n], self.num_samples) for wav, n in pairs]
        return torch.stack(fitted)


class Decision(torch.nn.Module):
    """Logits -> log posteriors and score.

    Arguments
    ---------
    score : str
        See ``nnet.losses.detection_score``.
    calibration : dict of str to float, optional
        "weight" and "bias" that turn the score into a log-likelihood ratio
        (natural logarithm, bona fide to spoof); see ``metrics.calibration``.

    Example
    -------
    >>> decision = Decision(calibration={"weight": 0.5, "bias": -1.0})
    >>> decision(torch.tensor([[-1.0, 3.0]]))[1]
    tensor([1.], dtype=torch.float64)
    """

    def __init__(self, score=SCORES[0], calibration=None):
        super().__init__()
        self.score = score
        self.calibration = calibration

    @property
    def threshold(self):
        """The score above which a trial is classified as bona fide."""
        is_softmax = self.score == "softmax" and self.calibration is None
        return 0.5 if is_softmax else 0.0

    def forward(self, logits):
        """[batch, 2] -> log posteriors, [batch, 2], and scores, [batch]

        If calibrated, the posteriors are for equal priors of the classes; those
        of an uncalibrated bonafide_logit are its sigmoid.
        Scores are in double precision.
        """
        score = detection_score(logits, self.score)
        if self.calibration is not None:
            weight, bias = self.calibration["weight"], self.calibration["bias"]
            score = weight * score + bias
        elif self.score != "bonafide_logit":
            return logits.float().log_softmax(dim=-1), score
        both = torch.stack([-score, score], dim=-1)
        return logsigmoid(both).float(), score


class Embedding(torch.nn.Module):
    """A network's embedding, as ``EncoderClassifier`` calls it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, wavs, wav_lens=None):
        """[batch, num_samples] -> [batch, embedding]"""
        return self.network.embed(wavs)


class Classifier(torch.nn.Module):
    """A network's log posteriors, as ``EncoderClassifier`` calls them."""

    def __init__(self, network, score=SCORES[0], calibration=None):
        super().__init__()
        self.network = network
        self.decision = Decision(score, calibration)

    def forward(self, embedding):
        """[batch, embedding] -> log posteriors, [batch, 2]"""
        return self.decision(self.network.classifier(embedding))[0]


def label_encoder():
    """Return SpeechBrain's encoder for the two labels."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(LABELS)
    encoder.expect_len(len(LABELS))
    return encoder


class SpoofDetector(EncoderClassifier):
    """A trained countermeasure, with SpeechBrain's EncoderClassifier interface.

    A score above ``decision.threshold`` is bona fide, one below it spoof. The
    score of a calibrated detector is the log-likelihood ratio, natural
    logarithm: at +2.3, the recording is ten times as probable from bona fide as
    from spoofed speech, for speech and attacks like those of the calibration.
    Otherwise it is what ``hparams.score`` says, see
    ``nnet.losses.detection_score``, and only ranks recordings.

    The network sees ``hparams.num_samples`` samples at 16 kHz: the beginning of
    a longer recording, from its first sound on (``segments`` scores all of it),
    and a shorter one repeated. Files may have any usual format, any rate,
    number of channels and length; ``dataio.audio.hear`` says which raise an
    ``InputError``. So does one that is too short for any speech.

    Wherever there is an argument ``channels``, it is "mix", the mean of all;
    the number of one, from 1 on; or "each", all of them one by one, of which
    the lowest score decides.

    Arguments
    ---------
    modules : dict of str to torch.nn.Module
        "network": one of ``lobes``, or one with the same attributes.
    hparams : dict
        "num_samples" and "score", optionally "calibration"; see ``Decision``.
    run_opts, freeze_params
        See ``speechbrain.inference.interfaces.Pretrained``.

    Example
    -------
    >>> from speechbrain_bilevel.lobes import build
    >>> detector = SpoofDetector(
    ...     {"network": build("MelCNN", {"num_samples": 1600})},
    ...     {"num_samples": 1600, "score": "logit_difference"},
    ... )
    >>> _, score, _, label = detector.classify_batch(torch.randn(3, 16000))
    >>> score.shape, len(label)
    (torch.Size([3]), 3)
    """

    MODULES_NEEDED = ("network",)
    HPARAMS_NEEDED = ("num_samples", "score")

    def __init__(self, modules, hparams, run_opts=None, freeze_params=True):
        hparams = {"calibration": None} | hparams
        hparams["label_encoder"] = label_encoder()
        super().__init__(modules, hparams, run_opts, freeze_params)
        self.decision = Decision(self.hparams.score, self.hparams.calibration)

    @classmethod
    def from_hparams(
        cls,
        source,
        hparams_file="hyperparams.yaml",
        overrides=None,
        overrides_must_match=True,
        savedir=None,
        download_only=False,
        local_strategy=LocalStrategy.SYMLINK,
        fetch_config=None,
        trust_code=False,
        **kwargs,
    ):
        """Load a pretrained folder, or a repository of the Hugging Face hub.

        Only config.json and model.safetensors are read. Both are data: no code
        of the source is run.

        Arguments
        ---------
        source : str or Path
            A folder written by ``train.py`` or ``speechbrain-bilevel export``,
            or "user/name".
        hparams_file, overrides, overrides_must_match
            For the YAML, which is loaded with ``trust_code`` only.
        savedir, download_only, local_strategy, fetch_config
            See ``speechbrain.inference.interfaces.pretrained_from_hparams``.
            By default ``huggingface_hub``'s token is used, if there is one. If
            the hub cannot be reached, the files in its cache are used.
        trust_code : bool
            Load like SpeechBrain, and run any code in the source's YAML. Only
            for networks outside of ``lobes``, by authors whom you would let use
            your machine.
        **kwargs
            ``run_opts`` and ``freeze_params``.

        Raises
        ------
        InputError
            If the source is missing, incomplete or damaged, or its weights do
            not fit the network that it describes.
        """
        fetching = {
            "savedir": savedir,
            "local_strategy": local_strategy,
            "fetch_config": fetch_config or FetchConfig(token=None),
        }
        with pretrained.naming(source, pretrained.EXPECTED):
            if trust_code:
                return super().from_hparams(
                    str(source),
                    hparams_file,
                    overrides=overrides or {},
                    overrides_must_match=overrides_must_match,
                    download_only=download_only,
                    **fetching,
                    **kwargs,
                )
            if overrides or hparams_file != "hyperparams.yaml":
                raise InputError(
                    "hparams_file and overrides are for its YAML, which is "
                    "loaded with trust_code=True only; leave them out"
                )
            paths = fetch_files(source, **fetching)
            if download_only:
                return None
            config, network = pretrained.load(*paths)
            hparams = {**config.hparams, "savedir": savedir}
            return cls({"network": network}, hparams, **kwargs)

    @property
    def settings(self):
        """A dict of all that scores depend on besides the network."""
        return {
            "num_samples": self.hparams.num_samples,
            "score": self.hparams.score,
            "calibration": self.hparams.calibration,
            "precision": self.precision,
        }

    # --------------------------------------------------------------- waveforms
    def classify_batch(self, wavs, wav_lens=None, num_samples=None):
        """Score a batch of waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, time] or [time], 16 kHz.
        wav_lens : torch.Tensor
            [batch], relative to the longest; all 1 by default.
        num_samples : int, optional
            Length to which waveforms are cut or repeated; by default
            ``hparams.num_samples``. Others need a network with ``any_length``.

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
        wavs = self._fit(wavs, wav_lens, num_samples)
        with self.inference_ctx:
            logits = self.mods.network(wavs)
        log_posteriors, score = self.decision(logits)
        index = (score > self.decision.threshold).long()
        label = self.hparams.label_encoder.decode_torch(index)
        return log_posteriors, score, index, label

    def encode_batch(self, wavs, wav_lens=None, normalize=False):
        """Return the network's embedding of each waveform, [batch, embedding].

        See ``classify_batch``; ``normalize`` has no effect.
        """
        wavs = self._fit(wavs, wav_lens)
        with self.inference_ctx:
            return self.mods.network.embed(wavs)

    def _fit(self, wavs, wav_lens=None, num_samples=None):
        wavs = wavs.to(self.device).float()
        wavs = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        lengths = torch.ones(len(wavs)) if wav_lens is None else wav_lens
        fit = FitLength(num_samples or self.hparams.num_samples)
        return fit(wavs, lengths)

    # -------------------------------------------------------------- recordings
    def load_audio(self, path):
        """Read the part of a file that the network sees: [time], 16 kHz."""
        return self._hear(path).wav.to(self.device)

    def _hear(self, path, channel=None):
        heard = hear(path, self.hparams.num_samples, channel=channel)
        _refuse_short(path, len(heard.wav))
        return heard

    @torch.no_grad()
    def classify_file(self, path):
        """Score an audio file; return ``classify_batch``'s results for it."""
        return self.classify_batch(self.load_audio(path))

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

    @torch.no_grad()
    def _score_wavs(self, wavs, num_samples=None):
        """Return the scores of waveforms of different lengths."""
        if not wavs:
            return []
        wavs = torch.cat([self._fit(wav, None, num_samples) for wav in wavs])
        return self.classify_batch(wavs, None, num_samples)[1].tolist()

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
        size = own = self.hparams.num_samples
        if window is not None:
            size = window * SAMPLE_RATE
        network = self.mods.network
        any_length = getattr(network, "any_length", False)
        least = SHORTEST * SAMPLE_RATE if any_length else own
        if not least <= size <= (math.inf if any_length else own):
            more = "or more" if any_length else "only"
            raise InputError(
                f"window {window}: {type(network).__name__} takes windows of "
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
            torch.from_numpy(wav[slice(*part)])
            for (_, wav), part in zip(batch, parts)
            if part
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
