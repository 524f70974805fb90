"""Attacks of the toy corpus: a vocoder, a voice conversion, joined units.

They have the ids of ASVspoof2019 LA, so that protocols, folds over attacks and
tables by attack work as on that corpus, but they are not its attacks. Each is
one of three functions with settings of its own. All of them blur the phases:
a trace in common, on purpose, from which a small network that is trained for a
minute can recognize attacks that it has not seen.
"""

from functools import partial

import numpy as np
from scipy import fft, ndimage

from speechbrain_bilevel.dataio import SAMPLE_RATE
from toy_corpus.speech import SIZE, istft, pulse_train, stft, unit_power

PHASE_BLUR = 1.2  # rad, the most that a phase is moved by
_FADE = 32  # samples, between two units


def vocode(samples, rng, voice, quefrencies=30, frames=1):
    """Filter pulses of constant pitch and noise with smoothed envelopes.

    [samples] -> [samples]. ``voice`` is the level of the pulses; that of the
    noise is what is missing to 1. An envelope has ``quefrencies`` cepstral
    coefficients and is the mean of that of ``frames`` frames.
    """
    pulses = pulse_train(np.full(len(samples), rng.uniform(90, 220)))
    noise = rng.standard_normal(len(samples))
    source = unit_power(stft(voice * pulses + (1 - voice) * noise))
    envelope = log_envelope(stft(samples), quefrencies)
    envelope = ndimage.uniform_filter1d(envelope, frames, axis=1)
    return blur(source * np.exp(envelope), len(samples), rng)


def convert(samples, rng, stretch=1.0, frames=1):
    """Change the envelopes as for another vocal tract.

    [samples] -> [samples]. The envelopes' frequencies are multiplied or divided
    by ``stretch``; an envelope is the mean of that of ``frames`` frames.
    """
    spectrum = stft(samples)
    old = log_envelope(spectrum, 30)
    source = np.arange(len(old)) * stretch ** rng.choice([-1, 1])
    rows = np.minimum(source.round().astype(int), len(old) - 1)
    new = ndimage.uniform_filter1d(old[rows], frames, axis=1)
    return blur(spectrum * np.exp(new - old), len(samples), rng)


def join_units(samples, rng, shortest, longest):
    """Join units taken from slightly wrong places at wrong speeds.

    [samples] -> [samples]. A unit lasts ``shortest`` to ``longest`` seconds.
    """
    joined = np.zeros(len(samples) + round(longest * SAMPLE_RATE) + _FADE)
    start = 0
    while start < len(samples):
        length = round(rng.uniform(shortest, longest) * SAMPLE_RATE)
        time = np.arange(length + _FADE)
        place = start + rng.uniform(-320, 320) + time * rng.uniform(0.92, 1.08)
        unit = np.interp(place, np.arange(len(samples)), samples)
        ramp = np.clip((time + 0.5) / _FADE, 0, 1)
        joined[start : start + len(unit)] += unit * ramp * ramp[::-1]
        start += length
    return blur(stft(joined[: len(samples)]), len(samples), rng)


def blur(spectrum, length, rng):
    """Signal of a spectrum whose phases are moved at random, [length]."""
    phases = rng.uniform(-PHASE_BLUR, PHASE_BLUR, spectrum.shape)
    return istft(spectrum * np.exp(1j * phases), length)


def log_envelope(spectrum, quefrencies):
    """Logarithm of the magnitudes, without fine structure, [257, frames]."""
    cepstrum = fft.irfft(np.log(np.abs(spectrum) + 1e-6), axis=0)
    cepstrum[quefrencies : SIZE - quefrencies + 1] = 0
    return fft.rfft(cepstrum, axis=0).real


ATTACKS = {
    "A01": partial(vocode, voice=1.0),
    "A02": partial(vocode, voice=0.7, frames=5),
    "A03": partial(vocode, voice=0.0, quefrencies=20),
    "A04": partial(join_units, shortest=0.04, longest=0.1),
    "A05": partial(convert, stretch=1.3),
    "A06": partial(convert, frames=9),
    # From here on in eval only, where A16 is A04 again, and A19 is A06.
    "A07": partial(vocode, voice=0.8),
    "A08": partial(vocode, voice=0.5, frames=3),
    "A09": partial(vocode, voice=0.9, quefrencies=15),
    "A10": partial(vocode, voice=1.0, quefrencies=50, frames=7),
    "A11": partial(vocode, voice=0.0, quefrencies=40),
    "A12": partial(join_units, shortest=0.03, longest=0.05),
    "A13": partial(join_units, shortest=0.1, longest=0.3),
    "A14": partial(convert, stretch=1.2),
    "A15": partial(convert, stretch=1.15, frames=5),
    "A16": partial(join_units, shortest=0.04, longest=0.1),
    "A17": partial(convert, frames=5),
    "A18": partial(convert, stretch=1.1, frames=3),
    "A19": partial(convert, frames=9),
}
