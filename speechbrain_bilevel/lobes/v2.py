"""V2: a countermeasure on two views of the waveform, sinc filters and mel.

Source of the design and of the full sizes:
https://github.com/menglu-lml/ASV_Deepfake_with_bilevel
"""

import itertools
import warnings

import torch
import torchaudio
from speechbrain.nnet.CNN import SincConv

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.lobes import check_samples, with_sizes
from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
from speechbrain_bilevel.nnet.sinc import in_parts, sinc_patches
from speechbrain_bilevel.nnet.transformer import (
    SinusoidalPositions,
    TransformerBlock,
)
from speechbrain_bilevel.utils.precision import full_precision

# Clips whose tokens fit into a processor's cache.
_CPU_CHUNK = 4


class SincFilters(SincConv):
    """SpeechBrain's sinc convolution with the published filter spacing.

    The lowest band starts at 30 Hz of the mel grid, and the fixed tables are
    buffers, so that they follow ``.to`` and ``.double``.

    Example
    -------
    >>> SincFilters(4, 81).first_half().shape
    torch.Size([4, 41])
    """

    def __init__(self, out_channels, kernel_size):
        super().__init__(
            out_channels, kernel_size, in_channels=1, padding="valid"
        )
        for name in ("n_", "window_"):
            table = self.__dict__.pop(name)
            self.register_buffer(name, table, persistent=False)
        highest = SAMPLE_RATE / 2 - (self.min_low_hz + self.min_band_hz)
        # transformers may have kept linspace from following a device context.
        mel = torch.linspace(
            *(self._to_mel(30.0), self._to_mel(highest), out_channels + 1),
            device=self.low_hz_.device,
        )
        edges = self._to_hz(mel).unsqueeze(1)
        self.low_hz_.data = edges[:-1].clone()
        self.band_hz_.data = edges.diff(dim=0)

    def first_half(self):
        """Return the first half of the symmetric filters, including the middle.

        [out_channels, kernel_size // 2 + 1]. SpeechBrain multiplies cutoffs and
        times as matrices, which autocast and, on a GPU, TF32 do with three
        digits: the phase of a high filter would be off, by up to a radian.
        """
        low = self.min_low_hz + self.low_hz_.abs()
        high = low + self.min_band_hz + self.band_hz_.abs()
        high = high.clamp(self.min_low_hz, self.sample_rate / 2)
        band = 2 * (high - low)
        left = (high * self.n_).sin() - (low * self.n_).sin()
        left = left / (self.n_ / 2) * self.window_
        return torch.cat([left, band], dim=1) / band


class SincBranch(torch.nn.Module):
    """Waveform -> sinc filters -> patches -> tokens; see ``V2``.

    Example
    -------
    >>> branch = SincBranch(800, 8, 81, 3, 4, [12, 6], d_model=16)
    >>> branch(torch.randn(2, 800)).shape
    torch.Size([2, 6, 16])
    """

    def __init__(
        self, num_samples, channels, kernel_size, pool, patch, sizes, d_model
    ):
        super().__init__()
        frames = (num_samples - kernel_size + 1) // pool
        patches = (channels // patch) * (frames // patch)
        if patches <= 0:
            raise ValueError(
                f"no {patch} x {patch} patch fits into {channels} sinc filters "
                f"x {frames} frames: raise num_samples or sinc_channels, or "
                "lower patch_size"
            )
        self.pool_size = pool
        self.sinc = SincFilters(channels, kernel_size)
        self.norm = UnbiasedLayerNorm([channels, frames])
        self.patches = torch.nn.Conv2d(1, d_model, patch, stride=patch)
        layers = []
        for before, after in itertools.pairwise([patches, *sizes]):
            layers += [
                torch.nn.Linear(before, after),
                torch.nn.LayerNorm(after),
            ]
        self.to_tokens = torch.nn.Sequential(*layers)

    def forward(self, wavs):
        """[batch, num_samples] -> [batch, tokens, d_model]"""
        layers = self.sinc, self.norm, self.patches
        patches = sinc_patches(wavs, *layers, self.pool_size)
        return self.to_tokens(patches).transpose(1, 2)


class MelEncoder(torch.nn.Module):
    """Waveform -> mel power spectrogram -> strided convolutions -> tokens.

    This is the upper level of the published bi-level problem.

    Example
    -------
    >>> MelEncoder([4, 8])(torch.randn(2, 1600)).shape
    torch.Size([2, 96, 8])
    """

    def __init__(self, channels):
        super().__init__()
        # torchaudio reads values of its table; the meta device has none.
        with warnings.catch_warnings(), torch.device("cpu"):
            # As published, some of the 128 bands hold none of 201 frequencies.
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

    def num_tokens(self, num_samples):
        """Return the number of tokens for an input of ``num_samples``."""
        bands, frames = self.mel.n_mels, num_samples // self.mel.hop_length + 1
        for _ in range(self.num_convs):
            bands, frames = (bands + 1) // 2, (frames + 1) // 2
        return bands * frames

    def forward(self, wavs):
        """[batch, num_samples] -> [batch, tokens, channels[-1]]"""
        with full_precision(wavs):
            mel = self.mel(wavs)
        return self.convs(mel.unsqueeze(1)).flatten(2).transpose(1, 2)


@with_sizes
class V2(torch.nn.Module):
    """The published network; 17,499,730 parameters with the default sizes.

    Without gradients, a CPU computes a few clips at a time up to the GRU; the
    result is the same.

    Arguments
    ---------
    num_samples : int
        Input length at 16 kHz; the only one that works.
    sinc_channels, sinc_kernel_size : int
        Number and length of the sinc filters.
    pool_size : int
        Max-pooling factor of the filtered waveform.
    patch_size : int
        Side of the square patches of the [sinc_channels, frames] map.
    token_sizes : list of int
        Sizes to which the axis of patches is mapped in turn; the last one is
        the number of tokens.
    encoder_channels : list of int
        Output channels of each convolution of the mel branch; the last one is
        the token size of both branches.
    num_layers, nhead, d_ffn : int
        Number of transformer blocks, their heads and feed-forward size.
    gru_hidden_size, classifier_size : int
        Channels of the GRU, hidden size of the classifier.
    dropout : float
        Dropout probability, everywhere.
    num_classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> network = V2(
    ...     num_samples=1600, sinc_channels=8, patch_size=4,
    ...     token_sizes=[12, 6], encoder_channels=[4, 8], num_layers=1, nhead=2,
    ...     d_ffn=16, gru_hidden_size=4,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    any_length = False

    def __init__(
        self,
        num_samples=64600,
        sinc_channels=128,
        sinc_kernel_size=81,
        pool_size=3,
        patch_size=24,
        token_sizes=(1024, 256, 128),
        encoder_channels=(64, 128, 256, 256),
        num_layers=6,
        nhead=4,
        d_ffn=1024,
        gru_hidden_size=512,
        classifier_size=256,
        dropout=0.1,
        num_classes=2,
    ):
        super().__init__()
        d_model = encoder_channels[-1]
        self.num_samples = num_samples
        self.sinc_branch = SincBranch(
            num_samples,
            sinc_channels,
            sinc_kernel_size,
            pool_size,
            patch_size,
            token_sizes,
            d_model,
        )
        self.mel_encoder = MelEncoder(encoder_channels)
        tokens = token_sizes[-1] + self.mel_encoder.num_tokens(num_samples)
        self.positions = SinusoidalPositions(tokens, d_model, dropout)
        sizes = d_model, nhead, d_ffn
        blocks = [TransformerBlock(*sizes, dropout) for _ in range(num_layers)]
        self.transformer = torch.nn.Sequential(*blocks)
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                torch.nn.init.xavier_uniform_(parameter)
        self.gru = torch.nn.GRU(d_model, gru_hidden_size, batch_first=True)
        self.classifier = torch.nn.Sequential(
            torch.nn.LayerNorm(tokens),
            torch.nn.Linear(tokens, classifier_size),
            torch.nn.Linear(classifier_size, num_classes),
        )

    def extract_features(self, wavs):
        """[batch, num_samples] -> [batch, tokens, d_model]"""
        check_samples(self, wavs)
        parts = wavs.split(_CPU_CHUNK) if in_parts(self, wavs) else [wavs]
        return torch.cat([self._tokens(part) for part in parts])

    def readout(self, features):
        """[batch, tokens, d_model] -> [batch, tokens], means of GRU channels"""
        outputs, _ = self.gru(features)
        return outputs.mean(dim=2)

    def embed(self, wavs):
        """[batch, num_samples] -> [batch, tokens]"""
        return self.readout(self.extract_features(wavs))

    def _tokens(self, wavs):
        """[batch, num_samples] -> [batch, tokens, d_model]"""
        branches = [self.sinc_branch(wavs), self.mel_encoder(wavs)]
        return self.transformer(self.positions(torch.cat(branches, dim=1)))

    def forward(self, wavs):
        """[batch, num_samples] -> logits, [batch, num_classes]"""
        return self.classifier(self.embed(wavs))
