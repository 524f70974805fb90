"""Cepstra of ASVspoof's baselines: LFCC and CQCC, each with its deltas.

Sources: Sahidullah et al., "A comparison of features for synthetic speech
detection", 2015; Todisco et al., "Constant Q cepstral coefficients", 2017; and
the MATLAB code of the baselines, of which
https://github.com/asvspoof-challenge/2021 has a later version.
"""

import math

import numpy as np
import torch
from torch.nn.functional import conv1d, pad
from torchaudio.functional import create_dct

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.utils.precision import full_precision

_PREEMPHASIS = 0.97


def precise(tensor):
    """Return a tensor in double precision, if the device has it.

    SpeechBrain switches TF32 on, in which products have three digits: too few
    where large numbers differ little.
    """
    return tensor if tensor.is_mps else tensor.double()


def log_above(power, floor):
    """Return the natural logarithm of ``power + floor``.

    A small number that is added may be lost when a network is exported.

    Example
    -------
    >>> log_above(torch.tensor([0.0, 1.0]), math.exp(-20))
    tensor([-20.,   0.])
    """
    return (power / floor + 1).log() + math.log(floor)


def with_deltas(cepstra, reach, scale=1.0):
    """Append the slopes over time, and their slopes.

    Arguments
    ---------
    cepstra : torch.Tensor
        [batch, frames, size]; the first and the last frame are repeated.
    reach : int
        A slope is fitted to 2 * reach + 1 frames, as in HTK.
    scale : float
        Factor on the slopes.

    Returns
    -------
    torch.Tensor
        [batch, frames, 3 * size]

    Example
    -------
    >>> with_deltas(torch.arange(5.0).view(1, 5, 1), reach=1)[0, 2]
    tensor([2., 1., 0.])
    """
    found = [cepstra]
    for _ in range(2):
        x = pad(found[-1].mT, (reach, reach), mode="replicate").mT
        size = cepstra.shape[1]
        found.append(
            sum(
                n * (x[:, reach + n :][:, :size] - x[:, reach - n :][:, :size])
                for n in range(1, reach + 1)
            )
            * (scale / (2 * sum(n * n for n in range(1, reach + 1))))
        )
    return torch.cat(found, dim=-1)


class LFCC(torch.nn.Module):
    """Linear-frequency cepstral coefficients; by default those of B02.

    B02 is the LFCC-GMM of ASVspoof 2019. The LFCC-LCNN of ASVspoof 2021 has
    ``n_fft=1024, num_bins=256, centered=True, energy=True, floor=2**-23``.

    Arguments
    ---------
    frame_length, hop_length : int
        Samples of a frame, and from one to the next.
    n_fft : int
    num_bins : int
        Frequencies of the spectrum, from 0 Hz, over which the filters are
        spread; all ``n_fft // 2 + 1`` by default.
    num_filters : int
        Triangular filters of equal width.
    num_coefficients : int
        Cepstral coefficients, with the 0th.
    centered : bool
        Frames as ``torch.stft`` makes them: centered on multiples of the hop,
        with zeros beyond the ends and a periodic window. Otherwise the first
        frame begins with the first sample, only the last is filled with zeros,
        and the window is symmetric.
    energy : bool
        Replace the 0th coefficient with the logarithm of the frame's power.
    floor : float
        Added to a power before its logarithm; samples are between -1 and 1.

    Example
    -------
    >>> LFCC()(torch.randn(2, 16000)).shape
    torch.Size([2, 99, 60])
    """

    def __init__(
        self,
        frame_length=320,
        hop_length=160,
        n_fft=512,
        num_bins=None,
        num_filters=20,
        num_coefficients=20,
        centered=False,
        energy=False,
        floor=2.0**-52,
    ):
        super().__init__()
        self.frame_length = frame_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.centered = centered
        self.floor = floor
        window = torch.hamming_window(
            frame_length, periodic=centered, dtype=torch.float64
        )
        bins = torch.arange(num_bins or n_fft // 2 + 1, dtype=torch.float64)
        width = (len(bins) - 1) / (num_filters + 1)
        centers = width * torch.arange(1, num_filters + 1)
        filters = 1 - (bins.unsqueeze(1) - centers).abs() / width
        filters = filters.clamp_min(0)
        # torchaudio reads values of its table; the meta device has none.
        with torch.device("cpu"):
            dct = create_dct(num_coefficients, num_filters, norm="ortho")
        if energy:
            # One more filter, of which the transform makes the 0th coefficient.
            filters = pad(filters, (0, 1), value=1 / n_fft)
            dct = pad(dct, (0, 0, 0, 1))
            dct[:, 0], dct[-1, 0] = 0, 1
        turns = torch.outer(bins, torch.arange(frame_length)) / n_fft
        waves = torch.polar(window.expand_as(turns), 2 * torch.pi * turns)
        tables = {
            "window": window,
            "waves": torch.cat([waves.real, waves.imag]).unsqueeze(1),
            "filters": filters,
            "dct": dct,
        }
        for name, table in tables.items():
            table = table.to(torch.get_default_dtype())
            self.register_buffer(name, table, persistent=False)

    def forward(self, wavs):
        """[batch, samples] -> [batch, frames, 3 * num_coefficients]"""
        with full_precision(wavs):
            power = precise(self.power_spectra(wavs))
            bands = power @ self.filters.to(power.dtype)
            cepstra = log_above(bands, self.floor) @ self.dct.to(power.dtype)
            cepstra = (cepstra / math.log(10)).to(wavs.dtype)
            # A slope is the difference of both neighbors, not half of it.
            return with_deltas(cepstra, reach=1, scale=2.0)

    def power_spectra(self, wavs):
        """[batch, samples] -> [batch, frames, num_bins], after pre-emphasis"""
        first, rest = wavs[:, :1], wavs[:, 1:]
        wavs = torch.cat([first, rest - _PREEMPHASIS * wavs[:, :-1]], dim=1)
        samples, hop = wavs.shape[1], self.hop_length
        # torch.stft centers the window among the samples of the FFT.
        margin = (self.n_fft - self.frame_length) // 2
        if self.centered:
            before = after = self.n_fft // 2
        else:
            before = margin
            overlap = self.frame_length - hop
            last = max(0, -(-(samples - overlap) // hop) - 1) * hop
            after = last + self.n_fft - before - samples
        wavs = pad(wavs, (before, after))
        if torch.compiler.is_exporting():
            # Not all engines have a Fourier transform.
            heard = wavs[:, margin : wavs.shape[1] - margin].unsqueeze(1)
            waves = self.waves.to(wavs.dtype)
            real, imaginary = conv1d(heard, waves, stride=hop).chunk(2, dim=1)
        else:
            spectra = torch.stft(
                wavs,
                self.n_fft,
                hop,
                self.frame_length,
                self.window.to(wavs.dtype),
                center=False,
                return_complex=True,
            )
            spectra = torch.view_as_real(spectra[:, : len(self.filters)])
            real, imaginary = spectra.unbind(dim=-1)
        return (real.square() + imaginary.square()).mT


class CQCC(torch.nn.Module):
    """Constant-Q cepstral coefficients; by default those of B01.

    B01 is the CQCC-GMM of ASVspoof 2019. A clip's spectrum is cut into bands by
    Hann windows on a logarithmic scale, and the inverse transforms of the bands
    are sampled at one rate, as in Schoerkhuber et al., "A Matlab toolbox for
    efficient perfect reconstruction time-frequency transforms with
    log-frequency resolution", 2014. A cubic spline through the log powers is
    resampled to a linear scale for the cosine transform.

    Arguments
    ---------
    num_octaves : int
        Octaves below 8 kHz.
    bins_per_octave : int
        Bands of an octave.
    resampling : int
        Samples of the linear scale in the lowest octave.
    num_coefficients : int
        Cepstral coefficients, with the 0th.

    Example
    -------
    >>> CQCC(bins_per_octave=12)(torch.randn(2, 8000)).shape
    torch.Size([2, 425, 90])
    """

    def __init__(
        self,
        num_octaves=9,
        bins_per_octave=96,
        resampling=16,
        num_coefficients=30,
    ):
        super().__init__()
        # Both take a while, and only this class needs them.
        from scipy.fft import dct
        from scipy.interpolate import CubicSpline

        nyquist = SAMPLE_RATE / 2
        lowest = nyquist / 2**num_octaves
        steps = np.arange(num_octaves * bins_per_octave + 1)
        centers = lowest * 2 ** (steps / bins_per_octave)
        spread = 2 ** (1 / bins_per_octave) - 2 ** (-1 / bins_per_octave)
        # Low bands are wider than constant-Q ones: as wide as auditory filters.
        widths = spread * (centers + 228.7)
        inside = centers + widths / 2 <= nyquist
        self.centers, self.widths = centers[inside], widths[inside]
        # Spline and cosine transform are one matrix.
        spline = CubicSpline(self.centers, np.eye(inside.sum()))
        size = (self.centers[-1] - lowest) / (lowest / resampling)
        linear = lowest + lowest / resampling * np.arange(int(size) + 1)
        matrix = dct(spline(linear), norm="ortho", axis=0)[:num_coefficients]
        matrix = torch.from_numpy(matrix.T.copy())
        matrix = matrix.to(torch.get_default_dtype())
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, wavs):
        """[batch, samples] -> [batch, frames, 3 * num_coefficients]

        A second has 117 frames by default.
        """
        with full_precision(wavs):
            indices, windows = self.windows(wavs)
            spectra = torch.fft.fft(wavs) * (2 / wavs.shape[1])
            # One by one, a clip's bands stay in a CPU's cache.
            cepstra = torch.stack(
                [self.cepstra(x[indices] * windows) for x in spectra]
            )
            return with_deltas(cepstra, reach=3)

    def windows(self, wavs):
        """Return where the bands lie in the spectrum and their windows.

        Both are [bands, frames]; waveforms are [batch, samples].
        """
        samples = wavs.shape[1]
        positions = np.floor(self.centers * samples / SAMPLE_RATE)
        sizes = np.floor(self.widths * samples / SAMPLE_RATE + 0.5)
        sizes = np.maximum(sizes, 4)[:, None]
        frames = int(sizes.max())
        offsets = np.arange(frames) - frames // 2
        windows = 0.5 + 0.5 * np.cos(2 * np.pi * offsets / sizes)
        windows[abs(offsets) >= sizes / 2] = 0
        indices = (positions[:, None] + offsets) % samples
        return (
            torch.from_numpy(indices.astype(np.int64)).to(wavs.device),
            torch.from_numpy(windows).to(wavs.dtype).to(wavs.device),
        )

    def cepstra(self, bands):
        """Spectra of bands, [bands, frames] -> [frames, num_coefficients]"""
        bands = torch.view_as_real(torch.fft.ifft(bands, norm="forward"))
        power = precise(bands.square().sum(dim=-1).mT)
        cepstra = log_above(power, 2.0**-52) @ self.matrix.to(power.dtype)
        return cepstra.to(self.matrix.dtype)
