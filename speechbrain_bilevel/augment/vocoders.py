"""Vocoders that need no weights: a waveform is taken apart, and made again.

What they keep of it, a spectrogram or pitch and envelope, is less than the
waveform; what they add are the traces of synthetic speech. Each of ``VOCODERS``
is a function, waveform to waveform: numpy, [time], at 16 kHz.

Sources: Perraudin et al., "A fast Griffin-Lim algorithm", WASPAA 2013; Morise
et al., "WORLD: a vocoder-based high-quality speech synthesis system for real-
time applications", IEICE Transactions E99-D, 2016.
"""

import functools
import zlib

import numpy as np
import torch
from torchaudio.functional import griffinlim, melscale_fbanks

from speechbrain_bilevel.dataio import SAMPLE_RATE


def griffin_lim(waveform, fft=1024, iterations=32, bands=None):
    """Keep the magnitudes of a spectrogram, and find phases that fit them.

    Arguments
    ---------
    waveform : numpy.ndarray
        At 16 kHz, [time].
    fft : int
        Samples of a frame; one starts every quarter of it.
    iterations : int
        More of them leave fewer artifacts.
    bands : int, optional
        Keep only a mel spectrogram of so many bands, of which the magnitudes
        are estimated by the pseudoinverse of the filters.

    Returns
    -------
    numpy.ndarray
        [time]

    Raises
    ------
    ValueError
        If the waveform is too short for a frame.

    Example
    -------
    >>> griffin_lim(np.random.rand(16000), bands=80).shape
    (16000,)
    """
    waveform = torch.as_tensor(waveform, dtype=torch.float32)
    if len(waveform) < fft:
        raise ValueError(f"{len(waveform)} samples, shorter than a frame")
    window = torch.hann_window(fft)
    frames = dict(n_fft=fft, hop_length=fft // 4, window=window)
    spectrum = torch.stft(waveform, **frames, return_complex=True).abs()
    if bands:
        to_mel = melscale_fbanks(
            *(fft // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE),
            norm="slaney",
            mel_scale="slaney",
        ).T
        spectrum = torch.linalg.pinv(to_mel) @ (to_mel @ spectrum)
    with torch.random.fork_rng(devices=[]):
        # The first phases: the same for a clip, others for another one.
        torch.manual_seed(zlib.crc32(waveform.numpy().tobytes()))
        return griffinlim(
            spectrum.clamp(min=0),
            **frames,
            win_length=fft,
            power=1.0,
            n_iter=iterations,
            momentum=0.99,
            length=len(waveform),
            rand_init=True,
        ).numpy()


def world(waveform, pitch="harvest", period=5.0, envelope_size=None):
    """Keep pitch, spectral envelope and aperiodicity (WORLD with D4C).

    Arguments
    ---------
    waveform : numpy.ndarray
        At 16 kHz, [time].
    pitch : str
        "harvest", or "dio", which StoneMask refines.
    period : float
        A frame starts every so many milliseconds.
    envelope_size : int, optional
        Code the envelope by so many numbers a frame, and aperiodicity by bands.

    Returns
    -------
    numpy.ndarray
        [time]; up to a frame longer or shorter.
    """
    import pyworld

    waveform = np.asarray(waveform, np.float64)
    f0, times = getattr(pyworld, pitch)(
        waveform, SAMPLE_RATE, frame_period=period
    )
    if pitch == "dio":
        f0 = pyworld.stonemask(waveform, f0, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(waveform, f0, times, SAMPLE_RATE)
    noise = pyworld.d4c(waveform, f0, times, SAMPLE_RATE)
    if envelope_size:
        fft = 2 * (envelope.shape[1] - 1)
        envelope = pyworld.decode_spectral_envelope(
            pyworld.code_spectral_envelope(
                envelope, SAMPLE_RATE, envelope_size
            ),
            SAMPLE_RATE,
            fft,
        )
        noise = pyworld.code_aperiodicity(noise, SAMPLE_RATE)
        noise = pyworld.decode_aperiodicity(noise, SAMPLE_RATE, fft)
    return pyworld.synthesize(f0, envelope, noise, SAMPLE_RATE, period)


#: The vocoders of each family, by the name of the attack that their copies are.
FAMILIES = {
    "griffin_lim": {
        "griffin_lim_8": functools.partial(griffin_lim, iterations=8),
        "griffin_lim_32": griffin_lim,
        "griffin_lim_100": functools.partial(griffin_lim, iterations=100),
        "griffin_lim_fft400": functools.partial(griffin_lim, fft=400),
        "griffin_lim_fft2048": functools.partial(griffin_lim, fft=2048),
    },
    "griffin_lim_mel": {
        "griffin_lim_mel40": functools.partial(griffin_lim, bands=40),
        "griffin_lim_mel80": functools.partial(griffin_lim, bands=80),
        "griffin_lim_mel128": functools.partial(griffin_lim, bands=128),
        "griffin_lim_mel80_fft800": functools.partial(
            griffin_lim, fft=800, bands=80
        ),
        "griffin_lim_mel80_fft2048": functools.partial(
            griffin_lim, fft=2048, bands=80
        ),
    },
    "world": {
        "world_harvest": world,
        "world_dio": functools.partial(world, pitch="dio"),
        "world_dio_10ms": functools.partial(world, pitch="dio", period=10.0),
        "world_coded24": functools.partial(
            world, pitch="dio", envelope_size=24
        ),
        "world_coded60": functools.partial(
            world, pitch="dio", envelope_size=60
        ),
    },
}
VOCODERS = {
    name: vocoder
    for family in FAMILIES.values()
    for name, vocoder in family.items()
}


def vocode(waveform, vocoder):
    """Return a copy of a waveform, [time], of the same length and level (RMS).

    ``vocoder`` is a name of ``VOCODERS``. Raise a ``ValueError`` if it cannot
    be made, as of silence or of a very short clip.

    Example
    -------
    >>> vocode(np.random.rand(8000), "griffin_lim_8").shape
    (8000,)
    """
    if not np.any(waveform):
        raise ValueError("nothing but silence")
    copy = np.asarray(VOCODERS[vocoder](waveform), np.float64)[: len(waveform)]
    copy = np.pad(copy, (0, len(waveform) - len(copy)))
    before, after = (np.sqrt(np.mean(np.square(x))) for x in (waveform, copy))
    # A step of 16 bits is 3e-5.
    if not (np.isfinite(after) and min(before, after) > 1e-6):
        raise ValueError("came out silent, or not as numbers")
    return copy * (before / after)
