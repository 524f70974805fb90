"""Waveform -> maps over bands and frames, as the published AASIST makes them.

Source of the design: https://arxiv.org/abs/2110.01200
"""

import torch
from torch.nn.functional import conv1d, max_pool1d, max_pool2d, selu

SAMPLE_RATE = 16000
# Of every pooling, over filters and over frames.
POOL = 3
# Frames, a multiple of POOL: maps of 32 channels take 11 MB.
WINDOW = 3600


def sinc_filters(filters, kernel_size):
    """Band-pass filters side by side on the mel scale, from 0 Hz to 8 kHz.

    Arguments
    ---------
    filters : int
        Number of filters.
    kernel_size : int
        Length of a filter in samples; odd.

    Returns
    -------
    torch.Tensor
        [filters, kernel_size]

    Example
    -------
    >>> bands = sinc_filters(2, 1025)
    >>> response = torch.fft.rfft(bands, n=1600).abs()  # 10 Hz a step
    >>> (response > 0.5).sum(dim=1) * 10
    tensor([1770, 6240])
    """
    nyquist = torch.tensor(SAMPLE_RATE / 2, dtype=torch.float64)
    highest = 2595 * torch.log10(1 + nyquist / 700)
    mel = torch.linspace(0, 1, filters + 1, dtype=torch.float64) * highest
    edges = 700 * (10 ** (mel / 2595) - 1) / nyquist
    time = torch.arange(kernel_size) - kernel_size // 2
    low_pass = edges.unsqueeze(1) * torch.sinc(edges.unsqueeze(1) * time)
    window = torch.hamming_window(
        kernel_size, periodic=False, dtype=torch.float64
    )
    return (low_pass.diff(dim=0) * window).to(torch.get_default_dtype())


class SincFrontEnd(torch.nn.Module):
    """Waveform -> fixed sinc filters -> a map of pooled magnitudes.

    Arguments
    ---------
    filters, kernel_size : int
        See ``sinc_filters``.

    Example
    -------
    >>> SincFrontEnd(7, 81)(torch.randn(2, 400)).shape
    torch.Size([2, 1, 2, 106])
    """

    def __init__(self, filters, kernel_size):
        super().__init__()
        self.bands = filters // POOL
        self.register_buffer(
            "filters",
            sinc_filters(filters, kernel_size).unsqueeze(1),
            persistent=False,
        )
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, wavs):
        """[batch, samples] -> [batch, 1, filters // 3, frames], the channel in
        the last place of memory"""
        # In half precision the phase of a high sinc filter is off by a radian.
        with torch.autocast(wavs.device.type, enabled=False):
            x = conv1d(wavs.unsqueeze(1), self.filters)
            x = x[:, : self.bands * POOL].unflatten(1, (self.bands, POOL))
            x = max_pool1d(x.abs().amax(dim=2), POOL)
            x = selu(self.norm(x.unsqueeze(1)))
        # Convolutions keep that layout, in which pooling takes a tenth.
        return x.squeeze(1).unsqueeze(3).movedim(3, 1)


class ResidualBlock(torch.nn.Module):
    """Two convolutions added to their input, then pooling over time.

    The published block also normalises its input, but uses it as it was; ours
    leaves that out.

    Arguments
    ---------
    before, after : int
        Channels of the input and of the output.
    pool : int
        Frames that become one; AASIST's ``in_windows`` counts on the default.

    Example
    -------
    >>> ResidualBlock(1, 4)(torch.randn(2, 1, 23, 31)).shape
    torch.Size([2, 4, 23, 10])
    """

    def __init__(self, before, after, pool=POOL):
        super().__init__()
        self.pool = pool
        self.conv1 = torch.nn.Conv2d(before, after, (2, 3), padding=1)
        self.norm = torch.nn.BatchNorm2d(after)
        self.conv2 = torch.nn.Conv2d(after, after, (2, 3), padding=(0, 1))
        self.shortcut = (
            torch.nn.Identity()
            if before == after
            else torch.nn.Conv2d(before, after, (1, 3), padding=(0, 1))
        )

    def forward(self, x):
        """[batch, before, bands, frames] -> [batch, after, bands,
        frames // pool]"""
        out = self.conv2(selu(self.norm(self.conv1(x)), inplace=True))
        out += self.shortcut(x)
        return max_pool2d(out, (1, self.pool))

    def in_windows(self, x):
        """``forward``, window after window, so that what it keeps in between
        stays in the processor's cache."""
        outputs = []
        for start in range(0, x.shape[3] - POOL + 1, WINDOW):
            # Both convolutions see one frame to each side.
            margin = min(start, POOL)
            end = start + WINDOW + POOL
            out = self(x[..., start - margin : end])[..., margin // POOL :]
            outputs.append(out[..., : WINDOW // POOL])
        return torch.cat(outputs, dim=3)
