#!/bin/bash
# The sample rate of an Ogg Opus file, by soundfile.
#
# The guess: Opus is decoded at 48 kHz, the only rate that its stream has.
#
# What is so: libsndfile decodes at the "input sample rate" of the header, which
# RFC 7845 calls metadata only: the rate of the original, 0 if not known. The
# same packets with another value there are other samples: with 8000, and with 0,
# all above 4 kHz is gone. FFmpeg decodes at 48 kHz in each case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 soundfile==0.14.0 av==18.1.0

cat > rates.py <<'PYTHON'
import struct

import av
import numpy as np
import soundfile

time = np.arange(48000) / 48000
tones = 0.2 * np.sin(2 * np.pi * 500 * time)
tones += 0.2 * np.sin(2 * np.pi * 6000 * time)
soundfile.write("a.opus", tones, 48000, format="OGG", subtype="OPUS")
content = bytearray(open("a.opus", "rb").read())


def checksum(page):
    remainder = 0
    for byte in page:
        remainder ^= byte << 24
        for _ in range(8):
            carry = 0x04C11DB7 if remainder >> 31 else 0
            remainder = (remainder << 1 & 0xFFFFFFFF) ^ carry
    return remainder


def with_rate(rate):
    """Write the file with another rate in its first page."""
    place = content.index(b"OpusHead") + 12
    content[place : place + 4] = struct.pack("<I", rate)
    content[22:26] = bytes(4)
    length = 27 + content[26] + sum(content[27 : 27 + content[26]])
    content[22:26] = struct.pack("<I", checksum(content[:length]))
    open("other.opus", "wb").write(content)


def level(wav, rate, frequency):
    spectrum = np.abs(np.fft.rfft(wav[:rate]))
    return "there" if frequency < rate / 2 and spectrum[
        frequency
    ] > rate / 40 else "gone"


print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
print("av", av.__version__)
for rate in (48000, 8000, 0):
    with_rate(rate)
    wav, found = soundfile.read("other.opus")
    with av.open("other.opus") as file:
        frames = [f.to_ndarray()[0] for f in file.decode(audio=0)]
        of_av = file.streams.audio[0].rate
    print(
        f"header {rate}: soundfile {found} Hz, 6 kHz {level(wav, found, 6000)};"
        f" av {of_av} Hz,"
        f" 6 kHz {level(np.concatenate(frames), of_av, 6000)}"
    )
PYTHON
env/bin/python rates.py | tee found.txt
diff found.txt - <<'OUTPUT'
soundfile 0.14.0 1.2.2
av 18.1.0
header 48000: soundfile 48000 Hz, 6 kHz there; av 48000 Hz, 6 kHz there
header 8000: soundfile 8000 Hz, 6 kHz gone; av 48000 Hz, 6 kHz there
header 0: soundfile 8000 Hz, 6 kHz gone; av 48000 Hz, 6 kHz there
OUTPUT
echo "as described"
