"""A small countermeasure on the log-mel spectrogram, for a few CPU cores."""

import torch
import torchaudio

from speechbrain_bilevel.nnet.losses import OneClassHead

SAMPLE_RATE = 16000


class LogMelEncoder(torch.nn.Module):
    """Waveform -> log-mel spectrogram -> strided convolutions.

    Each band's mean over time is taken off, and with it the recording channel.

    Arguments
    ---------
    bands : int
        Mel bands.
    channels : list of int
        Output channels of each convolution; each halves bands and frames.

    Example
    -------
    >>> LogMelEncoder(bands=16, channels=[4, 8])(torch.randn(2, 1600)).shape
    torch.Size([2, 8, 4, 3])
    """

    def __init__(self, bands, channels):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, n_mels=bands
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
        # Powers span more than half precision holds.
        with torch.autocast(wavs.device.type, enabled=False):
            log_mel = (self.mel(wavs) + 1e-6).log()
            log_mel = log_mel - log_mel.mean(dim=-1, keepdim=True)
        # Convolutions of few channels are faster with the channels last.
        maps = log_mel.unsqueeze(1)
        return self.convs(maps.contiguous(memory_format=torch.channels_last))


class MelCNN(torch.nn.Module):
    """Convolutions on the log-mel spectrogram, pooled over time to mean and
    standard deviation; 101,730 parameters with the default sizes.

    Arguments
    ---------
    samples : int
        Input length in samples at 16 kHz of the training. The network takes
        any above half of the spectrogram's window, 256.
    bands : int
        Mel bands.
    channels : list of int
        See ``LogMelEncoder``.
    hidden : int
        Size of the embedding.
    dropout : float
        Dropout probability before both layers of the classifier.
    one_class : bool
        End with a ``OneClassHead``, for ``OneClassSoftmax``; otherwise with a
        linear layer.

    Example
    -------
    >>> MelCNN(samples=1600)(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    #: Whole recordings can be scored; see ``scoring.score_trials``.
    any_length = True

    def __init__(
        self,
        samples=32000,
        bands=80,
        channels=(16, 32, 64, 64),
        hidden=64,
        dropout=0.2,
        one_class=False,
    ):
        super().__init__()
        self.samples = samples
        self.mel_encoder = LogMelEncoder(bands, channels)
        rows = -(-bands // 2 ** len(channels))
        self.embedding = torch.nn.Sequential(
            torch.nn.Dropout(dropout),
            torch.nn.Linear(2 * channels[-1] * rows, hidden),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Dropout(dropout),
        )
        last = OneClassHead(hidden) if one_class else torch.nn.Linear(hidden, 2)
        self.classifier = last

    def embed(self, wavs):
        """The clips' embeddings.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, hidden]
        """
        maps = self.mel_encoder(wavs).flatten(1, 2)
        # The root of zero, in a band without sound, has no derivative.
        deviation = (maps.var(dim=-1, correction=0) + 1e-8).sqrt()
        return self.embedding(torch.cat([maps.mean(dim=-1), deviation], dim=-1))

    def forward(self, wavs):
        """Logits of the classes.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, 2]; 0 is spoof, 1 is bona fide.
        """
        return self.classifier(self.embed(wavs))
