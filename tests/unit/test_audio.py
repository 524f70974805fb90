"""Audio files of any kind -> what a network sees; bad ones are refused."""

import math
import os
import struct
import tracemalloc

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from speechbrain_bilevel.dataio.audio import (
    fit_length,
    hear,
    open_audio,
    read_audio,
    speech_bounds,
)
from speechbrain_bilevel.utils.errors import InputError

RATES = [8000, 11025, 16000, 16001, 44100, 48000, 192000]


def noise(*shape):
    """Reproducible noise in -0.5..0.5."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape)


def save(path, wav, rate=16000, subtype="FLOAT", **kwargs):
    """Writes a file, by default one that keeps every sample as it is."""
    soundfile.write(path, wav, rate, subtype=subtype, **kwargs)
    return path


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_pitch_level_and_time(tmp_path, rate):
    def tone(rate, seconds):
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate)

    path = save(tmp_path / "tone.wav", tone(rate, 2), rate)
    wav = read_audio(path, num_samples=16000)
    assert wav.shape == (16000,) and wav.dtype == torch.float32
    # The filter knows nothing of what came before the file.
    inner = slice(200, None)
    np.testing.assert_allclose(wav[inner], tone(16000, 1)[inner], atol=2e-3)


@pytest.mark.parametrize("rate", RATES)
def test_reading_a_part_equals_cutting_the_whole(tmp_path, rate):
    whole = noise(rate * 2).astype(np.float32)
    path = save(tmp_path / "noise.wav", whole, rate)
    if rate != 16000:
        divisor = math.gcd(rate, 16000)
        whole = scipy.signal.resample_poly(
            whole, 16000 // divisor, rate // divisor
        )
    # Up to the very last sample: the resampler saw what follows it.
    np.testing.assert_array_equal(read_audio(path, 8000), whole[:8000])


def test_frequencies_above_8_khz_do_not_fold_back(tmp_path):
    time = np.arange(48000) / 48000
    path = save(tmp_path / "a.wav", np.sin(2 * np.pi * 11000 * time), 48000)
    wav = read_audio(path, 16000)[200:-200]
    assert wav.abs().max() < 0.01


# Eight channels are read in more than one block.
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_channels_are_averaged(tmp_path, channels):
    wav = noise(70000, channels)
    path = save(tmp_path / "many.wav", wav)
    expected = wav.mean(axis=1)[:64600]
    np.testing.assert_allclose(read_audio(path, 64600), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name, subtype, tolerance",
    [
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "ULAW", 0.02),
        ("a.flac", "PCM_16", 1e-4),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats(tmp_path, name, subtype, tolerance):
    if name[2:].upper() not in soundfile.available_formats():
        pytest.skip(f"this libsndfile does not know {name[2:]}")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(20000) / 16000)
    path = save(tmp_path / name, tone, subtype=subtype)
    wav = read_audio(path, num_samples=64600)
    assert wav.shape == (20000,)
    error = np.abs(wav.numpy() - tone)[500:-500]
    assert error.max() < tolerance


def test_an_mp3_has_no_seams(tmp_path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile does not know MP3")
    # This silence is longer than what is read at once.
    wav = np.concatenate([np.zeros((131152, 2)), noise(16000, 2)])
    path = save(tmp_path / "a.mp3", wav, subtype="MPEG_LAYER_III")
    # Of another decoder.
    at_once = soundfile.read(path)[0].mean(axis=1)
    with open_audio(path) as audio:
        blocks = np.concatenate(list(audio.blocks()))
    np.testing.assert_allclose(blocks, at_once, atol=1e-4)


@pytest.mark.parametrize(
    "frames, rate, expected",
    [
        (15999, 16000, 15999),
        (16000, 16000, 16000),
        (16001, 16000, 16000),
        (7999, 8000, 15998),
        (48003, 48000, 16000),
        (80, 16000, 80),
        (240, 48000, 80),
        (1, 16000, 1),
        (1, 192000, 1),
    ],
)
def test_length_is_the_file_s_up_to_samples(tmp_path, frames, rate, expected):
    path = save(tmp_path / "a.wav", noise(frames), rate)
    assert len(read_audio(path, num_samples=16000)) == expected


def test_a_long_file_costs_the_memory_of_its_beginning(tmp_path):
    path = save(tmp_path / "a.wav", noise(40000, 64), 8000, "PCM_U8")
    # Half an hour of 64 channels: the header promises it, and beyond the
    # noise a hole in the file holds it.
    data = 1800 * 8000 * 64
    with open(path, "r+b") as file:
        header = bytearray(file.read(44))
        struct.pack_into("<I", header, 4, 36 + data)
        struct.pack_into("<I", header, 40, data)
        file.seek(0)
        file.write(header)
        file.truncate(44 + data)
    assert soundfile.info(path).duration == 1800
    tracemalloc.start()
    wav = read_audio(path, num_samples=64600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wav) == 64600
    # Decoded, its beginning has 8 MB, the whole of it 3.7 GB.
    assert peak < 5e6


def test_a_flac_cut_behind_what_is_needed_is_read(tmp_path):
    wav = noise(64600)
    path = save(tmp_path / "a.flac", wav, subtype="PCM_16")
    os.truncate(path, path.stat().st_size // 2)
    np.testing.assert_allclose(read_audio(path, 16000), wav[:16000], atol=1e-4)


def with_rate(path, rate):
    """A WAV whose header states another rate."""
    save(path, noise(16000), subtype="PCM_16")
    with open(path, "r+b") as file:
        file.seek(24)
        file.write(struct.pack("<I", rate))


def halved(path, subtype):
    """A file that ends before what is needed."""
    save(path, noise(64600), subtype=subtype)
    os.truncate(path, path.stat().st_size // 2)


BAD = {
    "folder": ("a", os.mkdir, "is a folder; expected an audio file"),
    "missing": ("a", lambda path: None, "does not exist; expected an audio"),
    "text": (
        "a.wav",
        lambda path: path.write_text("hello\n" * 100),
        "cannot be read as audio .*such as FLAC, WAV, M4A, OGG or MP3",
    ),
    "no header": (
        "a.RAW",
        lambda path: path.write_bytes(b"hello" * 100),
        "raw samples state neither rate nor channels; expected a format",
    ),
    "0 bytes": ("a.flac", lambda path: path.touch(), "no audio can be decoded"),
    "0 frames": (
        "a.wav",
        lambda path: save(path, noise(0)),
        "no audio can be decoded; is it empty, truncated",
    ),
    "silence": (
        "a.wav",
        lambda path: save(path, np.zeros(24000)),
        "nothing to hear: no sound above -80 dB for 0.1 s",
    ),
    "rate of 0": (
        "a.wav",
        lambda path: with_rate(path, 0),
        "cannot be read as audio",
    ),
    "rate of 999": (
        "a.wav",
        lambda path: with_rate(path, 999),
        "a sample rate of 999 Hz; expected 1000 to 400000 Hz",
    ),
    "rate of 2 GHz": (
        "a.wav",
        lambda path: with_rate(path, 2**31 - 1),
        "a sample rate of 2147483647 Hz; expected 1000 to 400000 Hz",
    ),
}
for value in (np.nan, np.inf, -np.inf):
    BAD[f"{value}"] = (
        "a.wav",
        lambda path, value=value: save(path, np.append(noise(9), value)),
        "holds NaN or infinite samples",
    )


@pytest.mark.parametrize("name, make, message", BAD.values(), ids=BAD)
def test_bad_files_are_refused_by_name(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=message) as error:
        read_audio(path, num_samples=64600)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("silence", [0.4, 0.6, 3.3, 20.0])
def test_a_silent_beginning_is_skipped(tmp_path, rate, silence):
    """More than half of what was asked for, here half a second."""
    wav = np.append(np.zeros(round(silence * rate)), noise(2 * rate))
    heard = hear(save(tmp_path / "late.wav", wav, rate), 16000)
    assert len(heard.wav) == 16000
    if silence < 0.5:
        assert heard.start == 0 and not heard.notes
        assert not heard.wav[: round(silence * 16000) - 100].any()
        return
    # To within a frame of 25 ms.
    assert silence - 0.03 < heard.start <= silence
    assert heard.notes == [
        f"is heard from {heard.start:.1f} s on, silent before"
    ]
    assert heard.wav[480:].std() > 0.1


def test_silence_behind_the_sound_is_cut(tmp_path):
    wav = np.concatenate([noise(16000), np.zeros(16000 * 9)])
    heard = hear(save(tmp_path / "a.wav", wav), 64600)
    assert len(heard.wav) == 16000 and heard.start == 0


@pytest.mark.parametrize("level", [1.01e-4, 0.99e-4])
def test_the_border_of_silence_is_at_minus_80_db(tmp_path, level):
    random = np.random.default_rng(0).choice([-level, level], 32000)
    path = save(tmp_path / "a.wav", random + 0.25)
    if level > 1e-4:
        assert len(read_audio(path, 64600)) == 32000
        return
    with pytest.raises(InputError, match="nothing to hear"):
        read_audio(path, 64600)


def test_a_click_is_no_sound(tmp_path):
    wav = np.zeros(160000)
    wav[8000:8100] = 0.9
    with pytest.raises(InputError, match="nothing to hear"):
        read_audio(save(tmp_path / "click.wav", wav), 64600)
    wav[100000:120000] = noise(20000)
    heard = hear(save(tmp_path / "a.wav", wav), 64600)
    assert 6.2 < heard.start <= 6.25 and len(heard.wav) < 21000


@pytest.mark.parametrize("peak", [9.9, 10.1, 32768.0])
def test_levels_out_of_range_are_refused(tmp_path, peak):
    path = save(tmp_path / "a.wav", np.append(noise(1000), -peak))
    if peak < 10:
        assert len(read_audio(path, 64600)) == 1001
        return
    with pytest.raises(InputError, match=f"samples reach {peak:g}; expected"):
        read_audio(path, 64600)


@pytest.mark.parametrize(
    "name, subtype", [("a.mp3", "MPEG_LAYER_III"), ("a.flac", "PCM_16")]
)
def test_a_truncated_file_is_heard_and_told(tmp_path, name, subtype):
    save(tmp_path / name, noise(64600), subtype=subtype)
    whole = read_audio(tmp_path / name, 64600)
    halved(tmp_path / name, subtype)
    heard = hear(tmp_path / name, 64600)
    assert 25000 < len(heard.wav) < 40000
    kept = len(heard.wav) - 1200
    np.testing.assert_array_equal(heard.wav[:kept], whole[:kept])
    (note,) = heard.notes
    assert note.startswith("is truncated: holds ") and " its header s" in note


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_audio(tmp_path / ("a" * 300), num_samples=64600)


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 8, 9])
def test_fit_length_repeats_or_cuts(samples):
    wav = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = [1.0 + i % 4 for i in range(samples)]
    assert fit_length(wav, samples).tolist() == expected


def late(rate, *channels):
    """Noise between two stretches of silence."""
    before, behind = int(0.31 * rate), int(0.52 * rate)
    return np.concatenate(
        [
            np.zeros((before, *channels)),
            noise(rate, *channels),
            np.zeros((behind, *channels)),
        ]
    )


# Eight channels are read in more than one block.
@pytest.mark.parametrize("channels", [(), (2,), (8,)])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("samples", [4000, 64600])
def test_a_trimmed_read_is_of_the_part_that_is_kept(
    tmp_path, rate, channels, samples
):
    wav = late(rate, *channels)
    path = save(tmp_path / "a.wav", wav, rate)
    whole = read_audio(path, 64600)
    start, stop = speech_bounds([whole.numpy()], 16000)
    assert 0 < start < stop < len(whole)
    trimmed = read_audio(path, samples, trim_silence=True)
    expected = whole[start:stop][:samples]
    torch.testing.assert_close(trimmed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name, subtype",
    [("a.flac", "PCM_16"), ("a.ogg", "VORBIS"), ("a.mp3", "MPEG_LAYER_III")],
)
def test_formats_are_trimmed_where_they_should_be(tmp_path, name, subtype):
    if name[2:].upper() not in soundfile.available_formats():
        pytest.skip(f"this libsndfile does not know {name[2:]}")
    path = save(tmp_path / name, late(16000), subtype=subtype)
    whole = read_audio(path, 64600)
    start, stop = speech_bounds([whole.numpy()], 16000)
    trimmed = read_audio(path, 64600, trim_silence=True)
    assert len(trimmed) == stop - start < len(whole)
    np.testing.assert_allclose(trimmed, whole[start:stop], atol=1e-6)


def test_without_silence_trimming_changes_nothing(tmp_path):
    for samples in (1, 399, 400, 5000):
        path = save(tmp_path / "a.wav", noise(samples))
        trimmed = read_audio(path, 64600, trim_silence=True)
        assert torch.equal(trimmed, read_audio(path, 64600))


@pytest.mark.parametrize("name, make, message", BAD.values(), ids=BAD)
def test_bad_files_are_refused_when_trimmed(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(InputError, match=message):
        read_audio(tmp_path / name, num_samples=64600, trim_silence=True)


def test_a_fault_behind_what_is_needed_is_found_when_trimming(tmp_path):
    # Otherwise a part of the file would decide what is silent.
    path = save(tmp_path / "a.wav", np.append(noise(64600), np.nan))
    assert len(read_audio(path, 16000)) == 16000
    with pytest.raises(InputError, match="holds NaN"):
        read_audio(path, 16000, trim_silence=True)


def test_trimming_a_long_file_takes_little_memory(tmp_path):
    path = tmp_path / "a.wav"
    minute = noise(60 * 8000)
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
        for level in [0] + 18 * [1] + [0]:
            file.write(level * minute)
    tracemalloc.start()
    wav = read_audio(path, num_samples=64600, trim_silence=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wav) == 64600 and wav[:160].any()
    # Decoded, it has 38 MB.
    assert peak < 12e6


def test_a_flac_without_its_length_is_read(tmp_path):
    # As a program writes it that does not know yet how much will come.
    silence = np.zeros(8000)
    wav = np.concatenate([silence, noise(16000), silence])
    path = save(tmp_path / "stream.flac", wav, subtype="PCM_16")
    expected = read_audio(path, 50000), read_audio(path, 50000, True)
    with open(path, "r+b") as file:
        file.seek(21)
        # The number of samples: the last 36 bits of the 8 bytes before here.
        (byte,) = file.read(1)
        file.seek(21)
        file.write(bytes([byte & 0xF0, 0, 0, 0, 0]))
    assert soundfile.info(path).frames > 2**36
    assert len(expected[0]) == 32000 and len(expected[1]) < 17000
    assert torch.equal(read_audio(path, 50000), expected[0])
    assert torch.equal(read_audio(path, 50000, True), expected[1])


def test_channels_that_cancel_out_are_told(tmp_path):
    left = noise(1600)
    path = save(tmp_path / "a.wav", np.stack([left, -left], axis=1))
    with pytest.raises(InputError, match="its channels cancel each other"):
        read_audio(path, 1000)
