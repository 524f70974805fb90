"""``SpoofDetector``: is this recording bona fide or spoof?"""

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.hub.loading import load_pretrained
from speechbrain_bilevel.nnet.detection import Decision, Windows
from speechbrain_bilevel.nnet.losses import BONAFIDE, SPOOF
from speechbrain_bilevel.recordings import RecordingsMixin


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
