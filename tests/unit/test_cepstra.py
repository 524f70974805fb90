"""LFCC and CQCC against other code and against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.interpolate import make_interp_spline

from speechbrain_bilevel.nnet.cepstra import CQCC, LFCC, with_deltas

# Other code's cepstra of white noise, in double precision:
# wav: np.random.default_rng(0).standard_normal(8000) / 10
# lfcc_2021: of 16 of its frames, by class LFCC in sandbox/util_frontend.py of
#   https://github.com/asvspoof-challenge/2021, LA/Baseline-LFCC-LCNN, with its
#   sizes (LFCC(320, 160, 1024, 16000, 20, with_energy=True, max_freq=0.5))
# constant_q: magnitudes of every 50th band by cqt.py of the same,
#   LA/Baseline-CQCC-GMM/python, with the bandwidth that its cqcc.py asks for
STORED = np.load(Path(__file__).parents[1] / "data" / "cepstra.npz")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise(samples=8000, batch=1):
    random = np.random.default_rng(0).standard_normal((batch, samples))
    return torch.from_numpy(random / 10)


def lfcc_by_definition(wav):
    """B02 as its MATLAB code says, a frame and a filter at a time."""
    emphasized = wav - 0.97 * np.concatenate([[0], wav[:-1]])
    frequencies, found = np.linspace(0, 8000, 257), []
    edges = np.linspace(0, 8000, 22)
    for start in range(0, len(wav) - 160, 160):
        frame = np.zeros(320)
        heard = emphasized[start : start + 320]
        frame[: len(heard)] = heard
        power = abs(np.fft.rfft(frame * np.hamming(320), 512)) ** 2
        bands = [
            power @ np.interp(frequencies, edges[i : i + 3], [0, 1, 0], 0, 0)
            for i in range(20)
        ]
        found.append(dct(np.log10(bands + np.finfo(float).eps), norm="ortho"))
    return np.array(found)


@pytest.mark.parametrize("samples", [320, 480, 481, 8000])
def test_lfcc_is_that_of_the_challenge(samples):
    wavs = noise(samples, batch=2)
    found = LFCC()(wavs).numpy()
    for wav, cepstra in zip(wavs.numpy(), found):
        expected = lfcc_by_definition(wav)
        np.testing.assert_allclose(cepstra[:, :20], expected, atol=1e-11)
        # A slope is the difference of the neighbors, the ends are repeated.
        for first in (0, 20):
            x = np.pad(cepstra[:, first : first + 20], ((1, 1), (0, 0)), "edge")
            slopes = cepstra[:, first + 20 : first + 40]
            np.testing.assert_allclose(slopes, x[2:] - x[:-2], atol=1e-11)


def test_lfcc_is_that_of_the_lcnn_of_2021():
    lfcc = LFCC(
        n_fft=1024, num_bins=256, centered=True, energy=True, floor=2.0**-23
    )
    found = lfcc(noise())[0].numpy()
    np.testing.assert_allclose(found[:16], STORED["lfcc_2021"], atol=1e-9)


def test_single_precision_is_enough():
    wavs = noise()
    for front_end, scale in ((LFCC(), 1), (CQCC(), 100)):
        expected = front_end(wavs)
        found = front_end.float()(wavs.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), expected, atol=scale * 1e-5, rtol=0
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(front_end(wavs.float()), found)


@pytest.mark.parametrize("front_end", [LFCC, CQCC])
def test_silence_gradients_and_short_clips(front_end):
    front_end = front_end()
    silence = torch.zeros(2, 4000, requires_grad=True)
    cepstra = front_end(silence)
    cepstra.sum().backward()
    assert cepstra.isfinite().all() and silence.grad.isfinite().all()
    assert front_end(noise(100)).isfinite().all()


def test_bands_are_those_of_the_constant_q_toolbox():
    wavs, front_end = noise(), CQCC()
    indices, windows = front_end.windows(wavs)
    spectrum = torch.fft.fft(wavs[0]) * (2 / wavs.shape[1])
    found = torch.fft.ifft(spectrum[indices] * windows, norm="forward").abs()
    assert len(found) == 863
    np.testing.assert_allclose(
        found[::50].numpy(), STORED["constant_q"], rtol=1e-10, atol=1e-15
    )


def test_cqcc_of_bands_by_definition():
    """Spline, cosine transform and slopes, one after another."""
    front_end = CQCC()
    rng = np.random.default_rng(1)
    bands = rng.standard_normal((863, 40, 2)) @ [1, 1j]
    power = abs(np.fft.ifft(bands, norm="forward")) ** 2
    spline = make_interp_spline(
        15.625 * 2 ** (np.arange(863) / 96), np.log(power + 2.0**-52), k=3
    )
    last = 15.625 * 2 ** (862 / 96)
    linear = np.arange(15.625, last, 15.625 / 16)
    expected = dct(spline(linear), norm="ortho", axis=0)[:30].T
    found = front_end.cepstra(torch.from_numpy(bands)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_tone_is_in_its_band():
    """With its amplitude, in every frame."""
    time = torch.arange(16000) / 16000
    wavs = 0.3 * torch.sin(2 * torch.pi * 1000 * time)[None]
    front_end = CQCC()
    indices, windows = front_end.windows(wavs)
    spectrum = torch.fft.fft(wavs[0]) * (2 / wavs.shape[1])
    found = torch.fft.ifft(spectrum[indices] * windows, norm="forward").abs()
    assert int(found.mean(dim=1).argmax()) == 6 * 96
    torch.testing.assert_close(found[6 * 96], torch.full((117,), 0.3))


def test_slopes_are_a_fitted_line():
    line = 2.0 * torch.arange(20.0)[None, :, None] + 5
    slopes, second = with_deltas(line, reach=3)[0, 6:-6, 1:].unbind(dim=1)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 2.0))
    torch.testing.assert_close(second, torch.zeros_like(second))
