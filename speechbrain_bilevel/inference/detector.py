"""``SpoofDetector``: a trained countermeasure that scores audio files."""

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch
from speechbrain.utils.parameter_transfer import Pretrainer
from torch.nn.functional import logsigmoid

from speechbrain_bilevel.dataio import LABELS
from speechbrain_bilevel.dataio.audio import fit_length
from speechbrain_bilevel.inference.config import (
    EXPECTED,
    WEIGHTS,
    naming,
)
from speechbrain_bilevel.inference.engines import choose, network_name, start
from speechbrain_bilevel.inference.hub import fetch_files
from speechbrain_bilevel.inference.pretrained import load, load_weights
from speechbrain_bilevel.inference.recordings import Decision, RecordingScorer
from speechbrain_bilevel.metrics.detection_score import SCORES
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.precision import without_tf32


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
        return decide(self.decision, self.network.classifier(embedding))[0]


def decide(decision, logits):
    """Return log posteriors, [batch, 2], and scores, [batch], of logits.

    If calibrated, the posteriors are for equal priors of the classes; those of
    an uncalibrated bonafide_logit are its sigmoid.
    """
    score = decision(logits)
    if decision.calibration is None and decision.score != "bonafide_logit":
        return logits.float().log_softmax(dim=-1), score
    both = torch.stack([-score, score], dim=-1)
    return logsigmoid(both).float(), score


def label_encoder():
    """Return SpeechBrain's encoder for the two labels."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(LABELS)
    encoder.expect_len(len(LABELS))
    return encoder


class EngineNetwork(torch.nn.Module):
    """A network that another engine than torch runs; see ``engines``.

    Arguments
    ---------
    engine, precision : str
        See ``engines.ENGINES``.
    path : str or Path
        network.onnx, or network_int8.onnx.
    config : DetectorConfig
    """

    any_length = False

    def __init__(self, engine, path, config, precision="fp32"):
        super().__init__()
        # Scores of another engine are not taken for those of this one.
        self.engine, self.precision = engine, precision
        self.digests = tuple(config.onnx.values())
        self.name = network_name(config, engine)
        self._run = start(engine, path, config, precision)

    def forward(self, wavs):
        """[batch, num_samples] -> logits, [batch, 2]"""
        return torch.from_numpy(self._run(wavs.cpu().numpy()))

    def embed(self, wavs):
        """Raise an ``InputError``."""
        raise InputError(f"{self.name} has no embeddings; use the engine torch")


class SafetensorsPretrainer(Pretrainer):
    """Lets SpeechBrain's loaders read weights from model.safetensors."""

    def collect_files(self, default_source=None, **fetching):
        """Fetch the file; see ``speechbrain.utils.fetching.fetch``."""
        path = fetch(WEIGHTS, default_source, self.collect_in, **fetching)
        self.paths = dict.fromkeys(self.loadables, path)
        return self.paths

    def load_collected(self):
        """Fill the networks."""
        for name, network in self.loadables.items():
            load_weights(network, self.paths[name])


class SpoofDetector(RecordingScorer, EncoderClassifier):
    """A trained countermeasure, with SpeechBrain's EncoderClassifier interface.

    A score above ``decision.threshold`` is bona fide, one below it spoof. The
    score of a calibrated detector is the log-likelihood ratio, natural
    logarithm: at +2.3, the recording is ten times as probable from bona fide as
    from spoofed speech, for speech and attacks like those of the calibration.
    Otherwise it is what ``hparams.score`` says, see
    ``metrics.detection_score``, and only ranks recordings.

    The network sees ``hparams.num_samples`` samples at 16 kHz: the beginning of
    a longer recording, from its first sound on (``segments`` scores all of it),
    and a shorter one repeated. Files may have any usual format, any rate,
    number of channels and length; ``dataio.audio.hear`` says which raise an
    ``InputError``. So does one that is too short for any speech.

    ``RecordingScorer`` says what ``channels`` are.

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
        engine="torch",
        **kwargs,
    ):
        """Load a pretrained folder, or a repository of the Hugging Face hub.

        Only config.json and model.safetensors or network.onnx are read. They
        are data: no code of the source is run.

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
        engine : str
            What runs the network, a key of ``engines.ENGINES`` or "auto". With
            another one than torch, ``run_opts`` may ask for its precisions, and
            there are no embeddings.
        **kwargs
            ``run_opts`` and ``freeze_params``.

        Raises
        ------
        InputError
            If the source is missing, incomplete or damaged, its weights do not
            fit the network that it describes, or it has none for the engine.
        """
        fetching = {
            "savedir": savedir,
            "local_strategy": local_strategy,
            "fetch_config": fetch_config or FetchConfig(token=None),
        }
        with naming(source, EXPECTED):
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
            run_opts = dict(kwargs.pop("run_opts", None) or {})
            if engine != "torch":
                engine, config, path = choose(
                    engine,
                    lambda name: fetch_files(source, (name,), **fetching)[0],
                    run_opts.get("device"),
                    run_opts.get("precision", "fp32"),
                )
            if engine == "torch":
                paths = fetch_files(source, **fetching)
                if download_only:
                    return None
                config, network = load(*paths)
            elif download_only:
                return None
            else:
                precision = run_opts.pop("precision", "fp32")
                network = EngineNetwork(engine, path, config, precision)
                run_opts["device"] = "cpu"
            hparams = {**config.hparams, "savedir": savedir}
            return cls({"network": network}, hparams, run_opts, **kwargs)

    def adapt(self, trials, recordings=None, **options):
        """Return a detector that a few labelled recordings have adapted.

        See ``inference.adaptation.adapt`` for the arguments, and for the
        ``NoGainError`` where adapting does not help.
        """
        from speechbrain_bilevel.inference.adaptation import adapt

        network = self.mods.network
        if isinstance(network, EngineNetwork):
            raise InputError(
                f"{self.network_name}: cannot be adapted; use the engine torch"
            )
        score = self.hparams.score
        found = adapt(network, trials, score, recordings, **options)
        hparams = {"num_samples": self.num_samples, "score": score}
        hparams["calibration"] = found.calibration
        run_opts = {"device": self.device, "precision": self.precision}
        return type(self)({"network": found.network}, hparams, run_opts)

    @property
    def num_samples(self):
        """The length that the network sees, in samples at 16 kHz."""
        return self.hparams.num_samples

    @property
    def any_length(self):
        """Whether the network takes other lengths, too."""
        return getattr(self.mods.network, "any_length", False)

    @property
    def network_name(self):
        """What the network is called."""
        network = self.mods.network
        return getattr(network, "name", type(network).__name__)

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
        with self.inference_ctx, without_tf32():
            logits = self.mods.network(wavs)
        log_posteriors, score = decide(self.decision, logits)
        index = (score > self.decision.threshold).long()
        label = self.hparams.label_encoder.decode_torch(index)
        return log_posteriors, score, index, label

    def encode_batch(self, wavs, wav_lens=None, normalize=False):
        """Return the network's embedding of each waveform, [batch, embedding].

        See ``classify_batch``; ``normalize`` has no effect.
        """
        wavs = self._fit(wavs, wav_lens)
        with self.inference_ctx, without_tf32():
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
        return torch.from_numpy(self._hear(path).wav).to(self.device)

    @torch.no_grad()
    def classify_file(self, path):
        """Score an audio file; return ``classify_batch``'s results for it."""
        return self.classify_batch(self.load_audio(path))

    @torch.no_grad()
    def score_batch(self, wavs):
        """Return the scores of waveforms, an array [batch, samples]: a list."""
        wavs = torch.from_numpy(wavs)
        return self.classify_batch(wavs, None, wavs.shape[1])[1].tolist()
