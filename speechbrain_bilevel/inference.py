"""``SpoofDetector``: is this recording bona fide or spoof?"""

import os
from pathlib import Path

import torch
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_bilevel.dataio.audio import fit_length, read_window
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.nnet.losses import (
    BONAFIDE,
    SPOOF,
    detection_score,
)

_FILES = ("hyperparams.yaml", "network.ckpt", "label_encoder.ckpt")


class SpoofDetector(EncoderClassifier):
    """A trained countermeasure, with SpeechBrain's EncoderClassifier interface.

    The score of a recording is the difference of its logits: positive is bona
    fide, negative is spoof, and the farther from 0 the surer. It is not a
    calibrated probability. A network trained ``as_published`` scores with the
    softmax output of bona fide instead; there, 0.5 is the border.

    The network sees the beginning of a recording only (``hparams.samples``
    samples at 16 kHz); a shorter one is repeated.

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

    @classmethod
    def from_hparams(cls, source, *args, **kwargs):
        """Loads a pretrained folder, or a repository of the Hugging Face hub.

        Arguments
        ---------
        source : str or Path
            A folder that ``train.py`` or ``hub.export_detector`` wrote, or
            "user/name".
        *args
        **kwargs
            See ``speechbrain.inference.interfaces.Pretrained.from_hparams``.

        Returns
        -------
        SpoofDetector

        Raises
        ------
        InputError
            If the folder is missing, incomplete or damaged, or its weights
            are of another network, or the hub does not have the repository.
        """
        source = str(source)
        folder = Path(source)
        if folder.is_dir():
            for name in _FILES:
                if not (folder / name).is_file():
                    raise InputError(
                        f"{source}: no {name} in it; expected a pretrained "
                        "folder, as train.py writes into its output folder"
                    )
        elif (
            folder.is_absolute()
            or source.startswith(".")
            or (source.count(os.sep) != 1 and "://" not in source)
        ):
            raise InputError(
                f"{source}: no such folder; expected a pretrained folder or "
                "the user/name of a hub repository"
            )
        try:
            return super().from_hparams(source, *args, **kwargs)
        except RuntimeError as error:
            raise InputError(
                f"{source}: network.ckpt does not fit the network of "
                f"hyperparams.yaml ({error})"
            ) from error
        # YAML, pickle and the hub have errors of their own for bad input.
        except Exception as error:
            raise InputError(
                f"{source}: cannot be loaded ({type(error).__name__}: "
                f"{error}); it is damaged, or neither a pretrained folder nor "
                "the user/name of a hub repository"
            ) from error

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
        log_posteriors = logits.float().log_softmax(dim=-1)
        score = detection_score(logits, self.hparams.as_published)
        # Not of the posteriors, whose rounding makes ties of close logits.
        index = logits.argmax(dim=-1)
        label = self.hparams.label_encoder.decode_torch(index)
        return log_posteriors, score, index, label

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
            If it cannot be read, or the network would see silence only.
        """
        return read_window(path, self.hparams.samples).to(self.device)

    def _windows(self, wavs, wav_lens):
        wavs = wavs.to(self.device).float()
        wavs = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        lengths = (wav_lens.cpu() * wavs.shape[1]).round().int().clamp(min=1)
        return torch.stack(
            [
                fit_length(wav[:length], self.hparams.samples)
                for wav, length in zip(wavs, lengths)
            ]
        )
