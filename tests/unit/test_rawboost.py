"""RawBoost against closed forms, SciPy's filters and its own parts."""

import pytest
import torch
from scipy.signal import firwin, lfilter

from speechbrain_bilevel.augment.rawboost import (
    RawBoost,
    cascade,
    filter_and_sum,
    notch,
)

ALGORITHMS = [1, 2, 3, 4, 5, 8]
SAMPLES = 8000


def noise(batch=4, peak=0.2, seed=7):
    """White noise that stays below a peak."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(batch, SAMPLES, generator=generator)
    return peak * (2 * uniform - 1)


def boosted(waveforms, algorithm, seed=0, **arguments):
    """What RawBoost makes of the waveforms, with a seed unless it is None."""
    if seed is not None:
        torch.manual_seed(seed)
    return RawBoost(algorithm, **arguments)(waveforms)


def decibels(signal, other):
    """Ratio of the energy of each signal to that of the other, in dB."""
    energies = signal.double().pow(2).sum(-1) / other.double().pow(2).sum(-1)
    return 10 * energies.log10()


@pytest.mark.parametrize("ratio", [0.0, 20.0, 40.0])
def test_colored_noise_has_the_ratio_asked_for(ratio):
    clean = noise()
    noisy = boosted(clean, 3, snr_min=ratio, snr_max=ratio)
    found = decibels(clean, noisy - clean)
    torch.testing.assert_close(
        found, torch.full_like(found, ratio), atol=1e-3, rtol=0
    )


def test_colored_noise_draws_its_ratio_from_the_interval():
    clean = noise(batch=64)
    found = decibels(clean, boosted(clean, 3) - clean)
    assert found.min() > 10 - 1e-3 and found.max() < 40 + 1e-3
    assert found.min() < 15 and found.max() > 35


def test_colored_noise_is_not_white():
    clean = noise(batch=1)
    arguments = {"notches": 1, "bandwidth_min": 2000, "bandwidth_max": 2000}
    arguments |= {"frequency_min": 3000, "frequency_max": 3000}
    added = boosted(clean, 3, taps_min=99, taps_max=99, **arguments) - clean
    power = torch.fft.rfft(added)[0].abs().pow(2)
    # Half a hertz a bin: 2 Hz, so 2.5 to 3.5 kHz lie within the notch.
    assert power[1250:1750].mean() < 1e-3 * power[2500:].mean()


def test_impulses_change_few_samples_by_bounded_factors():
    clean = noise(batch=64, peak=0.3)
    factors = boosted(clean, 2) / clean - 1
    changed = (factors.abs() > 1e-6).double().mean(dim=-1)
    assert changed.max() <= 0.1 and changed.max() > 0.08
    assert changed.min() < 0.02 and 0.04 < changed.mean() < 0.06
    assert factors.abs().max() <= 2 + 1e-4 and factors.abs().max() > 1.8
    assert factors.min() < -1.5


@pytest.mark.parametrize("algorithm", [1, 2, 8])
def test_what_exceeds_a_peak_of_one_is_scaled_to_it(algorithm):
    quiet, loud = noise(peak=0.01), noise(peak=50.0)
    assert boosted(quiet, algorithm).abs().max() < 0.1
    peaks = boosted(loud, algorithm).abs().amax(dim=-1)
    torch.testing.assert_close(peaks, torch.ones(4))


def test_the_first_power_alone_is_a_linear_filter():
    one, other = noise(seed=1), noise(seed=2)
    parts = [boosted(part, 1, orders=1) for part in (one, other)]
    whole = boosted(one + other, 1, orders=1)
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=0)
    parts = [boosted(part, 1) for part in (one, other)]
    assert (sum(parts) - boosted(one + other, 1)).abs().max() > 1e-4


def test_higher_powers_are_lower_by_the_bias():
    def even(bias):
        signs = (noise(), -noise())
        bias = {"bias_min": bias, "bias_max": bias}
        return sum(boosted(part, 1, **bias) for part in signs)

    torch.testing.assert_close(
        decibels(even(5.0), even(25.0)),
        torch.full((4,), 20.0, dtype=torch.float64),
        atol=0.01,
        rtol=0,
    )


def test_convolution_leaves_no_offset():
    found = boosted(noise() + 0.1, 1)
    assert found.mean(dim=-1).abs().max() < 1e-6


def test_notches_are_positive_at_zero_hertz():
    low, high = torch.full((400,), 1e-7), torch.linspace(0.01, 0.1, 400)
    filters = notch(low, high, torch.full((400,), 99.0), longest=99)
    assert (filters.sum(dim=-1) > 0).all()


@pytest.mark.parametrize("taps", [10, 11, 42, 99])
@pytest.mark.parametrize("band", [(0.001, 300.0), (900.0, 1700.0)])
def test_notch_is_the_window_design_of_scipy(taps, band):
    low, high = (torch.tensor(edge / 8000) for edge in band)
    found = notch(low, high, torch.tensor(float(taps)), longest=100)
    odd = taps + 1 - taps % 2
    expected = firwin(odd, band, window="hamming", fs=16_000)
    edge = (len(found) - odd) // 2
    assert not found[:edge].any() and not found[len(found) - edge :].any()
    found = found[edge : edge + odd].double()
    torch.testing.assert_close(
        found / found.sum(), torch.tensor(expected), atol=2e-4, rtol=1e-3
    )


def test_filters_in_series_are_deep_in_their_bands_and_peak_at_one():
    low, high = torch.tensor([0.125, 0.5]), torch.tensor([0.25, 0.625])
    filters = cascade(notch(low, high, torch.full((2,), 99.0), longest=99))
    gains = torch.fft.rfft(filters, 1024).abs()
    inside = torch.cat([gains[80:112], gains[272:304]])
    outside = torch.cat([gains[:48], gains[144:240], gains[336:]])
    assert inside.max() < 0.1 and outside.min() > 0.9
    torch.testing.assert_close(gains.max(), torch.tensor(1.0))


def test_filtering_is_that_of_scipy_one_sample_early():
    signals, filters = torch.randn(2, 3, 500), torch.randn(2, 3, 31)
    padded = torch.nn.functional.pad(signals, (0, 16))
    expected = sum(
        torch.stack(
            [
                torch.from_numpy(lfilter(taps, [1.0], clip))[16:]
                for taps, clip in zip(filters[:, i].numpy(), padded[:, i])
            ]
        )
        for i in range(3)
    )
    found = filter_and_sum(signals, filters)
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("algorithm, parts", [(4, (1, 2, 3)), (5, (1, 2))])
def test_a_series_is_its_parts_with_the_same_draws(algorithm, parts):
    expected = boosted(noise(), parts[0])
    for part in parts[1:]:
        expected = boosted(expected, part, seed=None)
    assert torch.equal(boosted(noise(), algorithm), expected)


def test_parallel_is_the_sum_of_its_parts():
    total = boosted(noise(), 1) + boosted(noise(), 2, seed=None)
    torch.testing.assert_close(boosted(noise(), 8), total)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_clip_is_drawn_anew_and_again_by_a_seed(algorithm):
    waveforms = noise(batch=1).expand(2, -1)
    first = boosted(waveforms, algorithm)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, boosted(waveforms, algorithm, seed=None))
    assert torch.equal(first, boosted(waveforms, algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_evaluation_changes_and_draws_nothing(algorithm):
    waveforms, state = noise(), torch.get_rng_state()
    assert RawBoost(algorithm).eval()(waveforms) is waveforms
    assert torch.equal(waveforms, noise())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_silence_stays_silent(algorithm):
    waveforms = torch.stack([torch.zeros(SAMPLES), noise(batch=1)[0]])
    found = boosted(waveforms, algorithm)
    assert not found[0].any() and found[1].any() and found.isfinite().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("samples", [1, 9, 64_600])
def test_any_length_comes_out_single_without_gradient(algorithm, samples):
    waveforms = torch.randn(2, samples).double().requires_grad_()
    found = boosted(waveforms, algorithm)
    assert found.shape == waveforms.shape and found.dtype == torch.float32
    assert found.isfinite().all() and not found.requires_grad
    assert waveforms.std() > 0.1


@pytest.mark.parametrize("algorithm", [0, 6, 9, "5", None])
def test_an_unknown_algorithm_is_refused(algorithm):
    with pytest.raises(ValueError, match="one of 1, 2, 3, 4, 5, 8"):
        RawBoost(algorithm)


def test_notches_above_half_the_rate_are_refused():
    with pytest.raises(ValueError, match="frequency_max is 8000.0 Hz"):
        RawBoost(sample_rate=8000)
