"""RawNet2: a countermeasure on sinc filters, with residual blocks and a GRU.

Source of the design: https://arxiv.org/abs/2011.01108; of the default sizes,
the baseline of ASVspoof 2021:
https://github.com/asvspoof-challenge/2021/tree/main/LA/Baseline-RawNet2
"""

import torch
from torch.nn.functional import conv1d, leaky_relu, max_pool1d, pad, selu

from speechbrain_bilevel.lobes import check_samples, with_sizes
from speechbrain_bilevel.nnet.sinc import in_parts, sinc_filters
from speechbrain_bilevel.utils.precision import full_precision

#: Factor of every pooling over frames.
POOL = 3
#: Slope of the leaky ReLUs.
SLOPE = 0.3
#: The sizes of the paper's network that are not the baseline's.
PAPER = {
    "sinc_channels": 128,
    "sinc_kernel_size": 129,
    "unused_filters": 2,
    "channels": [128, 128, 512, 512, 512, 512],
    "pre_activation": True,
}


def pooled_magnitudes(wavs, filters, pool_size):
    """Filter, and keep the largest magnitude of each frame.

    Filters of a thousand samples are applied by FFT, in overlapping windows;
    by convolution where a compiler or an exporter sees it.

    Arguments
    ---------
    wavs : torch.Tensor
        [batch, samples]
    filters : torch.Tensor
        [filters, an odd number of samples], symmetric.
    pool_size : int
        Samples of a frame.

    Returns
    -------
    torch.Tensor
        [batch, filters, frames]

    Example
    -------
    >>> wavs, filters = torch.randn(2, 1000), sinc_filters(4, 33)
    >>> found = pooled_magnitudes(wavs, filters, 3)
    >>> magnitudes = conv1d(wavs.unsqueeze(1), filters.unsqueeze(1)).abs()
    >>> torch.allclose(found, max_pool1d(magnitudes, 3), atol=1e-6)
    True
    """
    if torch.compiler.is_compiling():
        x = conv1d(wavs.unsqueeze(1), filters.unsqueeze(1))
        return max_pool1d(x.abs(), pool_size)
    # The beginning of a window, of one sample less than a filter, is not valid;
    # the rest is that many whole frames.
    margin = filters.shape[1] - 1
    frames = (wavs.shape[1] - margin) // pool_size
    step = pool_size * margin
    size = step + margin
    missing = -(-frames // margin) * step + margin - wavs.shape[1]
    windows = pad(wavs, (0, max(0, missing))).unfold(1, size, step)
    response = torch.fft.rfft(filters, size).unsqueeze(1)
    x = torch.fft.rfft(windows).unsqueeze(1) * response
    x = torch.fft.irfft(x, size)[..., margin:]
    x = max_pool1d(x.abs().flatten(1, 2), pool_size)
    return x.unflatten(1, (len(filters), -1)).flatten(2)[..., :frames]


class PooledSincFilters(torch.nn.Module):
    """Waveform -> fixed sinc filters -> normalized magnitudes of frames.

    Arguments
    ---------
    out_channels, kernel_size : int
        See ``nnet.sinc.sinc_filters``.
    unused_filters : int
        Filters above ``out_channels`` on the way to 8 kHz, which are left out.

    Example
    -------
    >>> PooledSincFilters(7, 81)(torch.randn(2, 400)).shape
    torch.Size([2, 7, 106])
    """

    def __init__(self, out_channels, kernel_size, unused_filters=0):
        super().__init__()
        filters = sinc_filters(out_channels + unused_filters, kernel_size)
        filters = filters[:out_channels].clone()
        self.register_buffer("filters", filters, persistent=False)
        self.norm = torch.nn.BatchNorm1d(out_channels)

    def forward(self, wavs):
        """[batch, samples] -> [batch, out_channels, frames]"""
        by_clip = wavs.is_cpu and not torch.compiler.is_compiling()
        with full_precision(wavs):
            # What is filtered is much larger than a clip.
            parts = wavs.split(1) if by_clip else [wavs]
            parts = [pooled_magnitudes(x, self.filters, POOL) for x in parts]
            return selu(self.norm(torch.cat(parts)))


class ScaledResidualBlock(torch.nn.Module):
    """Two convolutions added to their input, pooled, and scaled by channel.

    A channel's factor, which is added as well, depends on the means of all
    channels; the paper calls it filter-wise feature map scaling.

    Arguments
    ---------
    in_channels, out_channels : int
    pre_activation : bool
        Whether the first convolution sees the normalized input.

    Example
    -------
    >>> ScaledResidualBlock(2, 4)(torch.randn(2, 2, 31)).shape
    torch.Size([2, 4, 10])
    """

    def __init__(self, in_channels, out_channels, pre_activation=False):
        super().__init__()
        self.input_norm = (
            torch.nn.BatchNorm1d(in_channels) if pre_activation else None
        )
        self.conv1 = torch.nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(out_channels)
        self.conv2 = torch.nn.Conv1d(out_channels, out_channels, 3, padding=1)
        self.shortcut = torch.nn.Identity()
        if in_channels != out_channels:
            self.shortcut = torch.nn.Conv1d(in_channels, out_channels, 1)
        self.scale = torch.nn.Linear(out_channels, out_channels)

    def forward(self, x):
        """[batch, channels, frames] -> the same, with fewer frames"""
        out = x
        if self.input_norm is not None:
            out = leaky_relu(self.input_norm(x), SLOPE, inplace=True)
        out = leaky_relu(self.norm(self.conv1(out)), SLOPE, inplace=True)
        out = self.conv2(out)
        out += self.shortcut(x)
        out = max_pool1d(out, POOL)
        scale = torch.sigmoid(self.scale(out.mean(dim=2))).unsqueeze(2)
        return torch.addcmul(scale, out, scale)


@with_sizes
class RawNet2(torch.nn.Module):
    """The baseline of ASVspoof 2021; with the sizes ``PAPER``, the paper's.

    The published baseline normalizes the input of its residual blocks, but does
    not use the result: of its 17,621,410 parameters, 848 are missing here. It
    ends with a log-softmax, which is left to the loss.

    Without gradients, a CPU computes clips one by one up to the GRU; the result
    is the same.

    Arguments
    ---------
    num_samples : int
        Input length in training, at 16 kHz. Others work if they give a frame.
    sinc_channels, sinc_kernel_size : int
        Number and length of the sinc filters.
    unused_filters : int
        See ``PooledSincFilters``.
    channels : list of int
        Output channels of each residual block.
    pre_activation : bool
        Whether all residual blocks but the first normalize their input.
    gru_hidden_size, gru_layers : int
        Channels of each GRU, and their number.
    classifier_size : int
        Hidden size of the classifier, which has no activation.
    num_classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> network = RawNet2(
    ...     num_samples=1600, sinc_channels=4, sinc_kernel_size=33,
    ...     channels=[4, 6], gru_hidden_size=5, classifier_size=3,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    any_length = True

    def __init__(
        self,
        num_samples=64600,
        sinc_channels=20,
        sinc_kernel_size=1025,
        unused_filters=0,
        channels=(20, 20, 128, 128, 128, 128),
        pre_activation=False,
        gru_hidden_size=1024,
        gru_layers=3,
        classifier_size=1024,
        num_classes=2,
    ):
        super().__init__()
        self.num_samples = num_samples
        self.min_samples = sinc_kernel_size - 1 + POOL ** (1 + len(channels))
        self.front_end = PooledSincFilters(
            sinc_channels, sinc_kernel_size, unused_filters
        )
        sizes = zip([sinc_channels, *channels], channels)
        self.encoder = torch.nn.Sequential(
            *(
                ScaledResidualBlock(*pair, pre_activation and number > 0)
                for number, pair in enumerate(sizes)
            )
        )
        self.norm = torch.nn.BatchNorm1d(channels[-1])
        # One layer each, for ONNX.
        sizes = [channels[-1]] + [gru_hidden_size] * (gru_layers - 1)
        self.grus = torch.nn.ModuleList(
            torch.nn.GRU(size, gru_hidden_size, batch_first=True)
            for size in sizes
        )
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(gru_hidden_size, classifier_size),
            torch.nn.Linear(classifier_size, num_classes),
        )

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, channels, frames]"""
        check_samples(self, wavs)
        parts = wavs.split(1) if in_parts(self, wavs) else [wavs]
        return torch.cat([self.encoder(self.front_end(x)) for x in parts])

    def readout(self, features):
        """[batch, channels, frames] -> [batch, gru_hidden_size], the last"""
        x = selu(self.norm(features)).transpose(1, 2)
        for gru in self.grus:
            x, _ = gru(x)
        return x[:, -1]

    def embed(self, wavs):
        """[batch, samples] -> [batch, gru_hidden_size]"""
        return self.readout(self.extract_features(wavs))

    def forward(self, wavs):
        """[batch, samples] -> logits, [batch, num_classes]"""
        return self.classifier(self.embed(wavs))
