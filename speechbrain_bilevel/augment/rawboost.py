"""RawBoost: convolutive, impulsive and colored noise without recordings.

Source: Tak et al., "RawBoost: A Raw Data Boosting and Augmentation Method
applied to Automatic Speaker Verification Anti-Spoofing", ICASSP 2022.
"""

import torch
from torch.nn.functional import pad

CONVOLVE, IMPULSES, COLORED = "convolve", "add_impulses", "add_colored_noise"
SERIES = {
    1: (CONVOLVE,),
    2: (IMPULSES,),
    3: (COLORED,),
    4: (CONVOLVE, IMPULSES, COLORED),
    5: (CONVOLVE, IMPULSES),
}
PARALLEL = 8
EDGE = 1e-3  # Least distance of a notch from 0 Hz and half the rate, in Hz.


class RawBoost(torch.nn.Module):
    """Distort each waveform by random noise, as RawBoost does.

    As published, convolution and impulses scale waveforms that exceed a peak of
    1 down to it; colored noise does not. Random numbers are torch's. In
    evaluation mode nothing changes.

    Arguments
    ---------
    algorithm : int
        1: linear and non-linear convolution. 2: signal-dependent impulses.
        3: stationary colored noise. 4: 1, 2 and 3 in series. 5: 1 and 2 in
        series. 8: 1 and 2 in parallel, summed.
    sample_rate : int
        Rate of the waveforms, in Hz.
    orders : int
        Powers of the waveform that are filtered and summed (N_f).
    notches : int
        Notch filters in series for each power, and for colored noise.
    frequency_min, frequency_max, bandwidth_min, bandwidth_max : float
        Ranges of a notch's center and width, in Hz.
    taps_min, taps_max : int
        Range of a notch filter's length, in samples, from 2. An even length is
        raised by one; taps_max itself is not drawn.
    gain_min, gain_max : float
        Range of the filters' peak gain for the first power, in dB.
    bias_min, bias_max : float
        How far these two are lower for the higher powers, in dB.
    impulse_percent : float
        Maximum share of samples that impulses change, in percent (P).
    impulse_gain : float
        Largest impulse, as a multiple of the sample it is added to (g_sd).
    snr_min, snr_max : float
        Range of the signal-to-noise ratio of colored noise, in dB.

    Raises
    ------
    ValueError
        If the algorithm is unknown, or frequency_max above half the rate.

    Example
    -------
    >>> boost = RawBoost(algorithm=5)
    >>> waveforms = torch.randn(2, 16_000) / 10
    >>> boost(waveforms).shape
    torch.Size([2, 16000])
    >>> torch.equal(boost.eval()(waveforms), waveforms)
    True
    """

    def __init__(
        self,
        algorithm=5,
        sample_rate=16_000,
        orders=5,
        notches=5,
        frequency_min=20.0,
        frequency_max=8000.0,
        bandwidth_min=100.0,
        bandwidth_max=1000.0,
        taps_min=10,
        taps_max=100,
        gain_min=0.0,
        gain_max=0.0,
        bias_min=5.0,
        bias_max=20.0,
        impulse_percent=10.0,
        impulse_gain=2.0,
        snr_min=10.0,
        snr_max=40.0,
    ):
        super().__init__()
        if algorithm not in (*SERIES, PARALLEL):
            choices = ", ".join(map(str, (*SERIES, PARALLEL)))
            raise ValueError(
                f"algorithm is {algorithm!r}, but must be one of {choices}"
            )
        if frequency_max > sample_rate / 2:
            raise ValueError(
                f"frequency_max is {frequency_max} Hz, but must not exceed "
                f"half of the sample_rate, {sample_rate / 2} Hz"
            )
        self.algorithm = algorithm
        self.sample_rate = sample_rate
        self.orders = orders
        self.notches = notches
        self.frequency = frequency_min, frequency_max
        self.bandwidth = bandwidth_min, bandwidth_max
        self.taps = taps_min, taps_max
        self.gain = gain_min, gain_max
        self.higher_gain = gain_min - bias_min, gain_max - bias_max
        self.impulse_percent = impulse_percent
        self.impulse_gain = impulse_gain
        self.snr = snr_min, snr_max

    def forward(self, waveforms):
        """Distort waveforms, [batch, samples], in training mode.

        The result is in single precision and has no gradient.
        """
        if not self.training:
            return waveforms
        with torch.no_grad():
            return self._distort(waveforms.float())

    def _distort(self, waveforms):
        if self.algorithm == PARALLEL:
            convolved = self.convolve(waveforms)
            return limit_peak(convolved + self.add_impulses(waveforms))
        for stage in SERIES[self.algorithm]:
            waveforms = getattr(self, stage)(waveforms)
        return waveforms

    def convolve(self, waveforms):
        """Sum filtered powers of each waveform (LnL), algorithm 1."""
        powers = [waveforms]
        while len(powers) < self.orders:
            powers.append(powers[-1] * waveforms)
        shape = len(waveforms), self.orders
        filters = self._draw_filters(shape, waveforms)
        gains = draw(self.higher_gain, shape, waveforms)
        gains[:, :1] = draw(self.gain, (len(waveforms), 1), waveforms)
        filters *= 10 ** (gains / 20).unsqueeze(-1)
        filtered = filter_and_sum(torch.stack(powers, dim=1), filters)
        return limit_peak(filtered - filtered.mean(dim=-1, keepdim=True))

    def add_impulses(self, waveforms):
        """Add multiples of a few samples to themselves (ISD), algorithm 2."""
        batch, samples = waveforms.shape
        percent = draw((0.0, self.impulse_percent), (batch, 1), waveforms)
        most = int(samples * self.impulse_percent / 100)
        device = waveforms.device
        places = [torch.randperm(samples, device=device) for _ in range(batch)]
        places = torch.stack(places)[:, :most]
        factors = draw((-1.0, 1.0), (2, *places.shape), waveforms).prod(dim=0)
        counts = (samples * percent / 100).floor()
        factors *= torch.arange(places.shape[1], device=device) < counts
        impulses = self.impulse_gain * factors * waveforms.gather(1, places)
        return limit_peak(waveforms.scatter_add(1, places, impulses))

    def add_colored_noise(self, waveforms):
        """Add filtered white noise at a random ratio (SSI), algorithm 3."""
        noise = torch.randn_like(waveforms).unsqueeze(1)
        # The noise is scaled to the ratio, so a gain would cancel.
        filters = self._draw_filters((len(waveforms), 1), waveforms)
        noise = filter_and_sum(noise, filters)
        ratios = draw(self.snr, (len(waveforms), 1), waveforms)
        scale = waveforms.norm(dim=-1, keepdim=True) * 10 ** (-ratios / 20)
        return waveforms + noise * (scale / noise.norm(dim=-1, keepdim=True))

    def _draw_filters(self, shape, like):
        """Draw filters of several notches, of peak gain 1: [*shape, taps]."""
        shape = *shape, self.notches
        center = draw(self.frequency, shape, like)
        half = draw(self.bandwidth, shape, like) / 2
        taps = draw(self.taps, shape, like).floor()
        nyquist = self.sample_rate / 2
        low = (center - half).clamp(min=EDGE) / nyquist
        high = (center + half).clamp(max=nyquist - EDGE) / nyquist
        return cascade(notch(low, high, taps, longest=self.taps[1]))


def draw(limits, shape, like):
    """Draw uniform numbers between two limits, on the device of a tensor."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, device=like.device)


def limit_peak(waveforms):
    """Scale waveforms that exceed a peak of 1 down to it."""
    peaks = waveforms.abs().amax(dim=-1, keepdim=True)
    return waveforms / peaks.clamp(min=1)


def notch(low, high, taps, longest):
    """Design symmetric band-stop filters with a Hamming window.

    The edges, low and high, are fractions of half the sample rate. An even
    number of taps is raised by one. Each filter is padded to the longest and
    positive at 0 Hz; cascade() sets its gain.
    """
    reach = longest // 2
    time = torch.arange(-reach, reach + 1, device=low.device)
    low, high, half = (part.unsqueeze(-1) for part in (low, high, taps // 2))
    ideal = torch.sinc(time) + low * torch.sinc(low * time)
    ideal -= high * torch.sinc(high * time)
    window = 0.54 + 0.46 * torch.cos(torch.pi * time / half)
    filters = ideal * window * (time.abs() <= half)
    # Only the sign of the usual scaling to gain 1 at 0 Hz survives cascade().
    return filters * (1 - 2 * (filters.sum(dim=-1, keepdim=True) < 0).float())


def cascade(filters):
    """Join filters in series, [..., filters, taps], into one of peak gain 1."""
    length = filters.shape[-2] * (filters.shape[-1] - 1) + 1
    # A power of two, of at least the 512 frequencies of the published code.
    size = max(1024, 1 << (length - 1).bit_length())
    response = torch.fft.rfft(filters, size).prod(dim=-2)
    response = response / response.abs().amax(dim=-1, keepdim=True)
    return torch.fft.irfft(response, size)[..., :length]


def filter_and_sum(signals, filters):
    """Sum filtered signals: [batch, signals, samples] to [batch, samples].

    The filters, [batch, signals, taps], are symmetric and of odd length. As in
    the published code, the output is one sample early.
    """
    samples, taps = signals.shape[-1], filters.shape[-1]
    # Overlapping blocks stay in the cache, unlike one long transform.
    size = max(4096, 1 << (4 * taps).bit_length())
    step = size - taps + 1
    before = taps // 2 - 1
    after = -samples % step + taps - 1 - before
    blocks = pad(signals, (before, after)).unfold(2, size, step)
    spectra = torch.fft.rfft(blocks)
    spectra *= torch.fft.rfft(filters, size).unsqueeze(2)
    summed = torch.fft.irfft(spectra.sum(dim=1), size)
    return summed[..., taps - 1 :].flatten(1)[:, :samples]
