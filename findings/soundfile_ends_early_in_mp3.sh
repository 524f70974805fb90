#!/bin/bash
# The length of a variable-rate MP3 without a Xing header, by soundfile.
#
# The guess: soundfile.read returns all that a file holds, or raises an error.
#
# What is so: libsndfile asks mpg123 for the length, which estimates it from the
# rate of the first frames when no header states it, and reads no further than
# that. Where a recording begins louder than it goes on, its end is missing, and
# nothing says so. FFmpeg, which decodes packet by packet, has all of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 soundfile==0.14.0 av==18.1.0

cat > lengths.py <<'PYTHON'
import av
import numpy as np
import soundfile

RATE = 16000
random = np.random.default_rng(0)
loud = random.uniform(-0.5, 0.5, 3 * RATE)
wav = np.concatenate([loud, 0.001 * np.sin(np.arange(9 * RATE) / 20)])

options = {"write_xing": "0"}
with av.open("vbr.mp3", "w", options=options) as output:
    stream = output.add_stream("libmp3lame", rate=RATE, layout="mono")
    stream.codec_context.flags |= 2  # constant quality, a variable rate
    stream.codec_context.global_quality = 4 * 118
    frame = av.AudioFrame.from_ndarray(
        wav.astype(np.float32)[None], "fltp", "mono"
    )
    frame.sample_rate = RATE
    output.mux(stream.encode(frame))
    output.mux(stream.encode(None))

print("soundfile", soundfile.__version__, soundfile.__libsndfile_version__)
print("av", av.__version__)
print(f"written: {len(wav) / RATE:.0f} s")
print(f"soundfile: {len(soundfile.read('vbr.mp3')[0]) / RATE:.0f} s")
with av.open("vbr.mp3") as file:
    samples = sum(frame.samples for frame in file.decode(audio=0))
print(f"av: {samples / RATE:.0f} s")
PYTHON
env/bin/python lengths.py | tee found.txt
diff found.txt - <<'OUTPUT'
soundfile 0.14.0 1.2.2
av 18.1.0
written: 12 s
soundfile: 2 s
av: 12 s
OUTPUT
echo "as described"
