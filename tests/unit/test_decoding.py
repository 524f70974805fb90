"""Audio as phones, messengers and recorders make it: all of it is heard, or
what was not is told."""

import fractions
import os
import struct

import av
import numpy as np
import pytest
import soundfile

from speechbrain_bilevel.dataio.audio import find_audio, hear, open_audio
from speechbrain_bilevel.dataio.decoding import open_source
from speechbrain_bilevel.dataio.prepare import check_audio
from speechbrain_bilevel.utils.errors import InputError

RATE = 16000
SECONDS = 3.3


def speech(seconds=SECONDS, rate=RATE, seed=0):
    """Tones that change ten times a second, each another one."""
    time = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    pitch = random.uniform(200, 1500, len(time) // (rate // 10) + 1)
    pitch = np.repeat(pitch, rate // 10)[: len(time)]
    return 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)


def encode(
    path, wav, codec, rate=RATE, format=None, options=(), film=None, pictures=1
):
    """Write a file with FFmpeg; with ``film``, a codec, pictures in it too, one
    a second."""
    with av.open(
        str(path), "w", format=format, options=dict(options)
    ) as output:
        picture = add_picture(output, film) if film else None
        stream = output.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "mono", 64000
        if film:
            for second in range(pictures):
                frame = av.VideoFrame(32, 32, "yuv420p")
                frame.pts = second
                output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, stream.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(
            wav.astype(np.float32)[None], "fltp", "mono"
        )
        frame.sample_rate, frame.pts = rate, 0
        frame.time_base = fractions.Fraction(1, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return path


def add_picture(output, codec):
    """Add a stream of small pictures."""
    picture = output.add_stream(codec, rate=1)
    picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
    return picture


def decoded(path):
    """All of a file, mono at its own rate, and the notes on it."""
    with open_audio(path) as audio:
        wav = np.concatenate(list(audio.unresampled()))
        return wav, audio.source.rate, audio.notes


CONTAINERS = {
    "memo.m4a": ("aac", RATE),
    "phone.3gp": ("aac", RATE),
    "camera.mp4": ("aac", RATE),
    "clip.mov": ("aac", RATE),
    "stream.aac": ("aac", RATE),
    "browser.webm": ("libopus", 48000),
    "note.opus": ("libopus", 48000),
    "film.mkv": ("ac3", 48000),
    "old.wma": ("wmav2", RATE),
    "apple.m4a": ("alac", RATE),
    "apple.caf": ("alac", RATE),
    "a.mp3": ("libmp3lame", RATE),
    "a.mpeg": ("libmp3lame", RATE),
    "a.spx": ("libspeex", RATE),
    "a.ac3": ("ac3", 48000),
    "a.tta": ("tta", RATE),
    "mp3_in.wav": ("libmp3lame", RATE),
    "a.aiff": ("pcm_s16be", RATE),
    "a.au": ("pcm_s16be", RATE),
    "a.w64": ("pcm_s16le", RATE),
}
FORMATS = {"3gp": "mp4", "spx": "ogg", "mpeg": "mp3"}


def has(codec):
    """Whether this FFmpeg can encode it."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path, name):
    codec, rate = CONTAINERS[name]
    if not has(codec):
        pytest.skip(f"this FFmpeg has no {codec}")
    wav = speech(rate=rate)
    ending = name.rpartition(".")[2]
    if ending == "caf":
        # FFmpeg takes what fills up its last block off twice.
        wav = wav[: len(wav) // 4096 * 4096]
    path = encode(
        tmp_path / name,
        wav,
        codec,
        rate,
        FORMATS.get(ending),
        film="mpeg4" if ending in ("mp4", "mov") else None,
    )
    found, found_rate, notes = decoded(path)
    assert found_rate == rate and notes == []
    # Formats that do not say how long they are keep what a codec adds.
    assert -0.005 * rate <= len(found) - len(wav) <= 0.13 * rate
    # Where the codec delays, as in raw AAC, the best of all shifts.
    spectra = np.stack([np.fft.rfft(x, 2 * len(wav)) for x in (wav, found)])
    product = np.fft.irfft(spectra[0].conj() * spectra[1])
    norms = np.linalg.norm(wav) * np.linalg.norm(found)
    assert product.max() / norms > 0.9
    # The door of the folder, and that of the manifest.
    assert find_audio(tmp_path) == [str(path)]
    seconds, faults = check_audio(path, any_format=True)
    assert faults == [] and seconds == len(found) / rate


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("ending", ["mp3", "opus", "ogg"])
def test_joined_files_are_heard_to_the_end(tmp_path, ending):
    rate = 48000 if ending == "opus" else RATE
    lengths, parts = [], []
    for seed, seconds in enumerate((3.3, 2.1)):
        part = tmp_path / f"{seed}.{ending}"
        wav = speech(seconds, rate, seed)
        if ending == "ogg":
            soundfile.write(part, wav, rate)
        else:
            codec = "libmp3lame" if ending == "mp3" else "libopus"
            encode(part, wav, codec, rate)
        lengths.append(soundfile.info(part).duration)
        parts.append(part)
    found, rate, notes = decoded(joined(tmp_path / f"all.{ending}", *parts))
    assert len(found) / rate == pytest.approx(sum(lengths), abs=0.15)
    if ending == "mp3":
        assert "more than its header states, 3." in notes[-1]


def test_parts_of_other_rates_and_channels_are_joined_as_the_first(tmp_path):
    parts = [tmp_path / "0.mp3", tmp_path / "1.mp3"]
    soundfile.write(parts[0], speech(2), RATE)
    stereo = np.stack([speech(3, 44100)] * 2, axis=1)
    soundfile.write(parts[1], stereo, 44100)
    found, rate, _ = decoded(joined(tmp_path / "all.mp3", *parts))
    assert rate == RATE and len(found) / rate == pytest.approx(5, abs=0.15)


def test_an_mp3_without_a_header_is_heard_to_the_end(tmp_path):
    # A quiet beginning has a low rate, by which its length is estimated.
    wav = np.concatenate([np.zeros(RATE), speech(9)])
    path = encode(
        tmp_path / "vbr.mp3",
        wav,
        "libmp3lame",
        options={"write_xing": "0", "q": "4"}.items(),
    )
    found, _, notes = decoded(path)
    assert notes == [] and len(found) == pytest.approx(10 * RATE, abs=2500)
    seconds, faults = check_audio(path, any_format=True)
    assert (seconds, faults) == (len(found) / RATE, [])


def with_sizes(path, riff, data):
    """A WAV whose header states other sizes than it has."""
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", riff)
    content[40:44] = struct.pack("<I", data)
    path.write_bytes(content)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_whose_header_was_never_finished(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(), RATE)
    whole = soundfile.read(path, dtype="float32")[0]
    with_sizes(path, min(size + 36, 0xFFFFFFFF), size)
    found, _, notes = decoded(path)
    np.testing.assert_array_equal(found, whole)
    assert notes == [] and check_audio(path, True) == (SECONDS, [])


@pytest.mark.parametrize(
    "name, subtype",
    [
        ("a.wav", "PCM_16"),
        ("a.flac", "PCM_16"),
        ("a.mp3", "MPEG_LAYER_III"),
        ("a.aiff", "PCM_16"),
        ("a.au", "PCM_16"),
        ("a.w64", "PCM_16"),
    ],
)
def test_what_is_missing_at_the_end_is_told(tmp_path, name, subtype):
    path = tmp_path / name
    soundfile.write(path, speech(), RATE, subtype=subtype)
    os.truncate(path, path.stat().st_size * 2 // 3)
    found, _, (note,) = decoded(path)
    seconds = len(found) / RATE
    assert 1.9 < seconds < 2.6
    assert note.startswith(f"is truncated: holds {seconds:.2f} s, its header")
    assert check_audio(path, any_format=True)[1] == [("truncated", note)]


def test_what_is_damaged_in_between_is_left_out_and_told(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, speech(9), RATE)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    found, _, notes = decoded(path)
    assert 7 * RATE < len(found) < 9 * RATE
    assert any(note.startswith("is truncated: holds ") for note in notes)
    # What comes behind it is heard.
    np.testing.assert_allclose(found[-RATE:], speech(9)[-RATE:], atol=1e-4)


@pytest.mark.parametrize("rate", [0, 8000, 16000, 44100])
def test_opus_is_decoded_at_48_khz_whatever_its_header_says(tmp_path, rate):
    path = encode(
        tmp_path / "a.opus", speech(rate=48000), "libopus", rate=48000
    )
    before, _, _ = decoded(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"OpusHead") + 12
    content[place : place + 4] = struct.pack("<I", rate)
    page = content[: 27 + content[26] + sum(content[27 : 27 + content[26]])]
    content[22:26] = struct.pack("<I", checksum(page))
    path.write_bytes(content)
    found, found_rate, _ = decoded(path)
    assert found_rate == 48000
    np.testing.assert_array_equal(found, before)


def checksum(page):
    """Ogg's checksum of a page."""
    page[22:26] = bytes(4)
    remainder = 0
    for byte in page:
        remainder ^= byte << 24
        for _ in range(8):
            carry = 0x04C11DB7 if remainder >> 31 else 0
            remainder = (remainder << 1 & 0xFFFFFFFF) ^ carry
    return remainder


@pytest.mark.parametrize("samples", [16000, 16160, 16400])
def test_gsm_ends_where_its_header_says(tmp_path, samples):
    path = tmp_path / "a.wav"
    wav = speech(3, 8000)[:samples]
    soundfile.write(path, wav, 8000, subtype="GSM610")
    # soundfile writes whole blocks; the fact chunk is what was recorded.
    content = bytearray(path.read_bytes())
    place = content.index(b"fact") + 8
    content[place : place + 4] = struct.pack("<I", samples)
    path.write_bytes(content)
    found, rate, notes = decoded(path)
    assert rate == 8000 and notes == [] and len(found) == samples
    assert check_audio(path, any_format=True) == (samples / 8000, [])


def test_formats_that_cannot_seek_are_prepared(tmp_path):
    path = tmp_path / "a.au"
    soundfile.write(path, speech(2, 8000), 8000, subtype="G721_32")
    seconds, faults = check_audio(path, any_format=True)
    assert faults == [] and seconds == pytest.approx(2, abs=0.02)


def test_a_format_that_only_libsndfile_knows(tmp_path):
    path = tmp_path / "a.mat"
    soundfile.write(path, speech(2), RATE, format="MAT5", subtype="FLOAT")
    found, rate, notes = decoded(path)
    assert (len(found), rate, notes) == (2 * RATE, RATE, [])


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.wav\n"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile a.wav\n"),
        ("page.html", b"<html><body>" + b"speech " * 500),
        ("zeros.dat", bytes(9999)),
        ("noise.dat", np.random.default_rng(0).bytes(99999)),
    ],
)
def test_what_is_no_recording_is_not_taken_for_one(tmp_path, name, content):
    """Lists of other files above all: only the file itself is read."""
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError), open_source(tmp_path / name):
        pass
    assert find_audio(tmp_path) == [str(tmp_path / "a.wav")]


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no file, but a device"):
        hear(tmp_path / "pipe", 64600)


def test_a_film_without_sound(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = add_picture(output, "mpeg4")
        output.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        output.mux(stream.encode(None))
    with pytest.raises(InputError, match="a.mp4: holds no audio"):
        hear(path, 64600)


def test_the_padding_of_a_block_at_8_khz_is_left_out(tmp_path):
    wav = speech(4.1, 8000)
    path = encode(tmp_path / "call.m4a", wav, "aac", 8000)
    found, _, notes = decoded(path)
    assert len(found) == len(wav) and notes == []
    assert check_audio(path, any_format=True) == (4.1, [])


@pytest.mark.parametrize("ending", ["webm", "mkv", "wmv"])
def test_a_picture_may_last_longer_than_the_sound(tmp_path, ending):
    codec, rate, film = "libopus", 48000, "libvpx"
    if ending == "wmv":
        codec, rate, film = "wmav2", RATE, "wmv2"
    path = tmp_path / f"long.{ending}"
    encode(path, speech(3, rate), codec, rate, film=film, pictures=9)
    found, rate, notes = decoded(path)
    assert len(found) / rate == pytest.approx(3, abs=0.15) and notes == []


@pytest.mark.parametrize("stated", [0.25, 1.0])
def test_what_follows_the_stated_end_is_told(tmp_path, stated):
    path, other = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(path, speech(), RATE)
    soundfile.write(other, speech(5), RATE)
    if stated < 1:
        size = int(stated * 2 * RATE * SECONDS) & ~1
        with_sizes(path, size + 36, size)
    else:
        joined(path, path, other)
    found, _, (note,) = decoded(path)
    assert len(found) == pytest.approx(stated * SECONDS * RATE, abs=1)
    assert note.endswith(" which were not heard") and note.startswith("has ")
    assert check_audio(path, True)[1] == [("damaged", note)]


@pytest.mark.parametrize("size", [1, -1])
def test_a_size_that_is_off_by_a_byte_is_no_matter(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(), RATE)
    data = 2 * round(SECONDS * RATE)
    with_sizes(path, data + 36, data + size)
    assert check_audio(path, any_format=True)[1] == []


@pytest.mark.parametrize("name", ["a.snd", "a.au", "a.vox", "a.gsm", "a.al"])
def test_text_is_no_audio_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text("the quick brown fox, label, spoof\n" * 400)
    with pytest.raises(InputError):
        hear(tmp_path / name, 64600)


@pytest.mark.parametrize("tail", ["dither", "offset", "click"])
def test_silence_is_found_whatever_its_length(tmp_path, tail):
    """Its last block may be short."""
    count = 2**18 + 200
    wav = np.full(count, 0.1 if tail == "offset" else 0.0)
    if tail == "dither":
        wav = np.random.default_rng(0).triangular(-1, 0, 1, count) / 2**15
    if tail == "click":
        wav[-50:-40] = 0.5
    path = tmp_path / "a.wav"
    soundfile.write(path, wav, RATE)
    (fault,) = check_audio(path, any_format=True)[1]
    assert fault[0] == "silent"


def test_channels_that_cancel_each_other_for_a_while(tmp_path):
    wav, path = speech(12), tmp_path / "a.wav"
    other = np.where(np.arange(len(wav)) < 5 * RATE, -wav, wav)
    soundfile.write(path, np.stack([wav, other], axis=1), RATE)
    assert check_audio(path, any_format=True) == (12, [])
    heard = hear(path, 64600)
    assert heard.start == pytest.approx(5, abs=0.03)
    assert heard.notes[0].startswith("its channels differ (2)")
    # An offset is no sound, and no difference.
    offset = np.stack([wav + 0.15, wav - 0.15], axis=1)
    soundfile.write(path, offset, RATE)
    assert hear(path, 64600).notes == []


def test_clicks_are_no_speech_at_any_door(tmp_path):
    wav = np.zeros(80000)
    wav[::1050] = 0.5
    path = tmp_path / "a.wav"
    soundfile.write(path, wav, RATE)
    assert check_audio(path, any_format=True)[1][0][0] == "silent"
    with pytest.raises(InputError, match="nothing to hear"):
        hear(path, 32000)


# ------------------------------------------------------------ folders and names
def test_folders_are_searched_by_content_and_through_links(tmp_path, caplog):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    soundfile.write(outside / "a.wav", speech(), RATE)
    # Nothing in this name says what it is.
    (inside / "0a7f").write_bytes((outside / "a.wav").read_bytes())
    (inside / "notes.txt").write_text("not audio")
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    found = [str(inside / "0a7f"), str(inside / "link" / "a.wav")]
    assert find_audio(inside) == found
    assert "not audio, and not heard: " in caplog.text
    assert "notes.txt" in caplog.text


def test_a_name_that_is_no_utf_8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    os.rename(tmp_path / "a.wav", name)
    (path,) = find_audio(tmp_path)
    assert os.fsencode(path) == name
    assert len(hear(path, 64600).wav) == round(SECONDS * RATE)
    os.rename(name, name + b".dat")
    assert len(hear(path + ".dat", 64600).wav) == round(SECONDS * RATE)
