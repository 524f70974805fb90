"""A small countermeasure on the log-mel spectrogram, for a few CPU cores."""

import torch
import torchaudio

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.lobes import with_sizes
from speechbrain_bilevel.nnet.losses import OneClassHead
from speechbrain_bilevel.utils.precision import full_precision

_N_FFT = 512


class LogMelEncoder(torch.nn.Module):
    """Waveform -> log-mel spectrogram -> strided convolutions.

    The mean over time of each band is subtracted, and with it the effect of the
    recording channel.

    Example
    -------
    >>> LogMelEncoder(n_mels=16, channels=[4, 8])(torch.randn(2, 1600)).shape
    torch.Size([2, 8, 4, 3])
    """

    def __init__(self, n_mels, channels):
        super().__init__()
        if n_mels > _N_FFT // 2:
            raise ValueError(
                f"n_mels: {n_mels}; the spectrogram has {_N_FFT // 2} "
                "frequencies"
            )
        # torchaudio reads values of its table; the meta device has none.
        with torch.device("cpu"):
            self.mel = torchaudio.transforms.MelSpectrogram(
                SAMPLE_RATE, _N_FFT, 400, hop_length=160, n_mels=n_mels
            )
        layers = []
        for before, after in zip([1, *channels], channels):
            layers += [
                torch.nn.Conv2d(before, after, 3, stride=2, padding=1),
                torch.nn.BatchNorm2d(after),
                torch.nn.LeakyReLU(0.2),
            ]
        self.convs = torch.nn.Sequential(*layers)

    def forward(self, wavs):
        """[batch, samples] -> [batch, channels[-1], bands, frames]"""
        with full_precision(wavs):
            log_mel = (self.mel(wavs) + 1e-6).log()
            log_mel = log_mel - log_mel.mean(dim=-1, keepdim=True)
        # Convolutions of few channels are faster with the channels last.
        maps = log_mel.unsqueeze(1)
        return self.convs(maps.contiguous(memory_format=torch.channels_last))


@with_sizes
class MelCNN(torch.nn.Module):
    """Convolutions on the log-mel spectrogram, pooled to mean and deviation.

    101,730 parameters with the default sizes.

    Arguments
    ---------
    num_samples : int
        Input length in training, at 16 kHz. Others work above 256, half of the
        spectrogram's window.
    n_mels : int
        Mel bands.
    channels : list of int
        Output channels of each convolution; each halves bands and frames.
    embedding_size : int
    dropout : float
        Dropout probability before both layers of the classifier.
    one_class : bool
        End with a ``OneClassHead``, for ``OneClassSoftmax``, instead of a
        linear layer.

    Example
    -------
    >>> MelCNN(num_samples=1600)(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    any_length = True

    def __init__(
        self,
        num_samples=32000,
        n_mels=80,
        channels=(16, 32, 64, 64),
        embedding_size=64,
        dropout=0.2,
        one_class=False,
    ):
        super().__init__()
        if num_samples <= _N_FFT // 2:
            raise ValueError(
                f"num_samples: {num_samples}; a frame of the spectrogram needs "
                f"more than {_N_FFT // 2}"
            )
        self.num_samples = num_samples
        self.mel_encoder = LogMelEncoder(n_mels, channels)
        bands = -(-n_mels // 2 ** len(channels))
        self.embedding = torch.nn.Sequential(
            torch.nn.Dropout(dropout),
            torch.nn.Linear(2 * channels[-1] * bands, embedding_size),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Dropout(dropout),
        )
        self.classifier = (
            OneClassHead(embedding_size)
            if one_class
            else torch.nn.Linear(embedding_size, 2)
        )

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, 2 * channels[-1] * bands]"""
        maps = self.mel_encoder(wavs).flatten(1, 2)
        # The root of zero, in a band without sound, has no derivative.
        deviation = (maps.var(dim=-1, correction=0) + 1e-8).sqrt()
        return torch.cat([maps.mean(dim=-1), deviation], dim=-1)

    def readout(self, features):
        """[batch, 2 * channels[-1] * bands] -> [batch, embedding_size]"""
        return self.embedding(features)

    def embed(self, wavs):
        """[batch, samples] -> [batch, embedding_size]"""
        return self.readout(self.extract_features(wavs))

    def forward(self, wavs):
        """[batch, samples] -> logits, [batch, 2]"""
        return self.classifier(self.embed(wavs))
