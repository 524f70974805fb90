"""V2: a countermeasure on two views of the waveform, sinc filters and mel.

Source of the design and of the full sizes:
https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
"""

import warnings

import torch
import torchaudio
from speechbrain.nnet.CNN import SincConv

from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
from speechbrain_bilevel.nnet.transformer import (
    SinusoidalPositions,
    TransformerBlock,
)

SAMPLE_RATE = 16000


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
    >>> SincFilters(4, 81)(torch.randn(2, 400)).shape
    torch.Size([2, 4, 320])
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

    def forward(self, wavs):
        """Filters ``wavs``, [batch, samples] -> [batch, filters, frames]."""
        # SpeechBrain's own channels-last input costs a copy of the output.
        self.device = wavs.device
        return torch.nn.functional.conv1d(
            wavs.unsqueeze(1), self._get_sinc_filters()
        )


def max_pool_magnitude(x, size):
    """Max-pooling of |x|, differentiated at the chosen samples only.

    Arguments
    ---------
    x : torch.Tensor
        [batch, filters, samples]
    size : int
        Length and stride of the windows.

    Returns
    -------
    torch.Tensor
        [batch, filters, samples // size]

    Example
    -------
    >>> max_pool_magnitude(torch.tensor([[[1.0, -3.0, 2.0, 0.5, 9.0]]]), 2)
    tensor([[[3., 2.]]])
    """
    with torch.no_grad():
        _, chosen = torch.nn.functional.max_pool1d(
            x.abs(), size, return_indices=True
        )
    return x.gather(-1, chosen).abs()


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
        self.activation = torch.nn.LeakyReLU(0.2)
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
        # In half precision the phase of a high sinc filter is off by a radian.
        with torch.autocast(wavs.device.type, enabled=False):
            pooled = max_pool_magnitude(self.sinc(wavs), self.pool)
            x = self.activation(self.norm(pooled))
        return self.to_tokens(self._embed(x)).transpose(1, 2)

    def _embed(self, x):
        """The convolution, whose patches do not overlap, as one matrix product:
        [batch, filters, frames] -> [batch, embed, patches]"""
        side = self.patches.kernel_size[0]
        rows, columns = (size // side for size in x.shape[1:])
        x = x[:, : rows * side, : columns * side]
        x = x.unflatten(1, (rows, side)).unflatten(3, (columns, side))
        x = x.transpose(2, 3).flatten(3).flatten(1, 2)
        weight = self.patches.weight.flatten(1)
        x = torch.nn.functional.linear(x, weight, self.patches.bias)
        return x.transpose(1, 2)


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
        branches = [self.sinc_branch(wavs), self.mel_encoder(wavs)]
        x = self.positions(torch.cat(branches, dim=1))
        x, _ = self.gru(self.transformer(x))
        return x.mean(dim=2)

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
