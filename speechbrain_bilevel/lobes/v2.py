"""V2: a countermeasure on two views of the waveform, sinc filters and mel.

Source of the design and of the full sizes:
https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
"""

import warnings

import torch
import torchaudio
from speechbrain.nnet.CNN import SincConv

from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
from speechbrain_bilevel.nnet.sinc import sinc_patches
from speechbrain_bilevel.nnet.transformer import (
    SinusoidalPositions,
    TransformerBlock,
)

SAMPLE_RATE = 16000
# Clips whose tokens a processor's cache holds.
FEW = 4


class SincFilters(SincConv):
    """SpeechBrain's sinc convolution with the published filter spacing.

    The lowest band starts at 30 Hz of the mel grid, and the fixed tables are
    buffers, so that they follow ``.to`` and ``.double``.

    Arguments
    ---------
    filters : int
        Number of filters.
    kernel_size : int
        Length of a filter in samples; odd.

    Example
    -------
    >>> SincFilters(4, 81).first_half().shape
    torch.Size([4, 41])
    """

    def __init__(self, filters, kernel_size):
        super().__init__(filters, kernel_size, in_channels=1, padding="valid")
        for name in ("n_", "window_"):
            table = self.__dict__.pop(name)
            self.register_buffer(name, table, persistent=False)
        highest = SAMPLE_RATE / 2 - (self.min_low_hz + self.min_band_hz)
        mel = torch.linspace(
            self._to_mel(30.0), self._to_mel(highest), filters + 1
        )
        edges = self._to_hz(mel).unsqueeze(1)
        self.low_hz_.data = edges[:-1].clone()
        self.band_hz_.data = edges.diff(dim=0)

    def first_half(self):
        """The filters, which are symmetric, up to their middle: [filters,
        kernel_size // 2 + 1]"""
        self.device = self.low_hz_.device
        middle = self.kernel_size // 2
        return self._get_sinc_filters()[:, 0, : middle + 1]


class SincBranch(torch.nn.Module):
    """Waveform -> sinc filters -> patches -> tokens.

    Arguments
    ---------
    samples : int
        Length of the input in samples.
    filters, kernel_size, pool, patch : int
        Number and length of the filters, max-pooling factor, side of the
        square patches of the [filters, frames] map.
    embed : int
        Size of a token.
    token_sizes : list of int
        The patch axis is mapped to each of these in turn; the last one is the
        number of tokens.

    Example
    -------
    >>> branch = SincBranch(800, 8, 81, 3, 4, embed=16, token_sizes=[12, 6])
    >>> branch(torch.randn(2, 800)).shape
    torch.Size([2, 6, 16])
    """

    def __init__(
        self, samples, filters, kernel_size, pool, patch, embed, token_sizes
    ):
        super().__init__()
        frames = (samples - kernel_size + 1) // pool
        patches = (filters // patch) * (frames // patch)
        if patches == 0:
            raise ValueError(
                f"no {patch} x {patch} patch fits into {filters} sinc filters "
                f"x {frames} frames: raise samples or filters, or lower patch"
            )
        self.pool = pool
        self.sinc = SincFilters(filters, kernel_size)
        self.norm = UnbiasedLayerNorm([filters, frames])
        self.patches = torch.nn.Conv2d(1, embed, patch, stride=patch)
        sizes = [patches, *token_sizes]
        layers = []
        for before, after in zip(sizes, sizes[1:]):
            layers += [
                torch.nn.Linear(before, after),
                torch.nn.LayerNorm(after),
            ]
        self.to_tokens = torch.nn.Sequential(*layers)

    def forward(self, wavs):
        """[batch, samples] -> [batch, tokens, embed]"""
        x = sinc_patches(wavs, self.sinc, self.norm, self.patches, self.pool)
        return self.to_tokens(x).transpose(1, 2)


class MelEncoder(torch.nn.Module):
    """Waveform -> mel power spectrogram -> strided convolutions -> tokens.

    The upper level of the published bi-level problem.

    Arguments
    ---------
    channels : list of int
        Output channels of each convolution; the last one is the token size.

    Example
    -------
    >>> MelEncoder([4, 8])(torch.randn(2, 1600)).shape
    torch.Size([2, 96, 8])
    """

    def __init__(self, channels):
        super().__init__()
        with warnings.catch_warnings():
            # 128 bands are more than 201 frequencies fill; so is it published.
            warnings.filterwarnings("ignore", "At least one mel filterbank")
            self.mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE)
        layers = []
        for before, after in zip([1, *channels], channels):
            conv = torch.nn.Conv2d(before, after, 3, stride=2, padding=1)
            torch.nn.init.kaiming_uniform_(conv.weight, a=0.1)
            torch.nn.init.zeros_(conv.bias)
            layers += [
                conv,
                torch.nn.BatchNorm2d(after),
                torch.nn.LeakyReLU(0.2),
            ]
        self.convs = torch.nn.Sequential(*layers)
        self.num_convs = len(channels)

    def num_tokens(self, samples):
        """Number of tokens for an input of ``samples`` samples."""
        bands, frames = self.mel.n_mels, samples // self.mel.hop_length + 1
        for _ in range(self.num_convs):
            bands, frames = (bands + 1) // 2, (frames + 1) // 2
        return bands * frames

    def forward(self, wavs):
        """[batch, samples] -> [batch, tokens, channels[-1]]"""
        # Powers span more than half precision holds.
        with torch.autocast(wavs.device.type, enabled=False):
            mel = self.mel(wavs)
        return self.convs(mel.unsqueeze(1)).flatten(2).transpose(1, 2)


class V2(torch.nn.Module):
    """The published network; 17,499,730 parameters with the default sizes.

    Without gradients, a CPU takes a few clips at a time up to the GRU; all that
    differs is the time.

    Arguments
    ---------
    samples : int
        Input length in samples at 16 kHz. The network takes no other.
    sinc_filters, sinc_kernel, pool, patch : int
        See ``SincBranch``.
    token_sizes : list of int
        See ``SincBranch``.
    encoder_channels : list of int
        See ``MelEncoder``; the last one is the token size of both branches.
    blocks, heads, hidden : int
        Number of transformer blocks, their heads and feed-forward size.
    gru : int
        Channels of the GRU.
    classifier : int
        Hidden size of the classifier.
    dropout : float
        Dropout probability, everywhere.
    classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> network = V2(
    ...     samples=1600, sinc_filters=8, patch=4, token_sizes=[12, 6],
    ...     encoder_channels=[4, 8], blocks=1, heads=2, hidden=16, gru=4,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        samples=64600,
        sinc_filters=128,
        sinc_kernel=81,
        pool=3,
        patch=24,
        token_sizes=(1024, 256, 128),
        encoder_channels=(64, 128, 256, 256),
        blocks=6,
        heads=4,
        hidden=1024,
        gru=512,
        classifier=256,
        dropout=0.1,
        classes=2,
    ):
        super().__init__()
        embed = encoder_channels[-1]
        self.samples = samples
        self.sinc_branch = SincBranch(
            samples, sinc_filters, sinc_kernel, pool, patch, embed, token_sizes
        )
        self.mel_encoder = MelEncoder(encoder_channels)
        tokens = token_sizes[-1] + self.mel_encoder.num_tokens(samples)
        self.positions = SinusoidalPositions(tokens, embed, dropout)
        self.transformer = torch.nn.Sequential(
            *(
                TransformerBlock(embed, heads, hidden, dropout)
                for _ in range(blocks)
            )
        )
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_uniform_(parameter)
        self.gru = torch.nn.GRU(embed, gru, batch_first=True)
        self.classifier = torch.nn.Sequential(
            torch.nn.LayerNorm(tokens),
            torch.nn.Linear(tokens, classifier),
            torch.nn.Linear(classifier, classes),
        )

    def embed(self, wavs):
        """One number a token: the mean over the GRU's channels.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, tokens]
        """
        if wavs.shape[1] != self.samples:
            raise ValueError(
                f"V2 was built for {self.samples} samples, got "
                f"{wavs.shape[1]}: cut or tile with dataio.audio.fit_length"
            )
        if self.training or torch.is_grad_enabled() or not wavs.is_cpu:
            x = self._tokens(wavs)
        else:
            x = torch.cat([self._tokens(few) for few in wavs.split(FEW)])
        x, _ = self.gru(x)
        return x.mean(dim=2)

    def _tokens(self, wavs):
        """[batch, samples] -> [batch, tokens, embed]"""
        branches = [self.sinc_branch(wavs), self.mel_encoder(wavs)]
        return self.transformer(self.positions(torch.cat(branches, dim=1)))

    def forward(self, wavs):
        """Logits of the classes.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, classes]
        """
        return self.classifier(self.embed(wavs))
