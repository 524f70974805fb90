#!/bin/bash
# ALAC, a lossless codec, written to CAF and read back by FFmpeg (PyAV).
#
# The guess: what was written is read back, sample for sample.
#
# What is so: the last block of ALAC holds fewer samples than the others, and the
# CAF header says how many its packets would have too many. Reading takes that
# number off the decoded block, which is short already: up to 4,095 samples, a
# quarter of a second at 16 kHz, are lost. In M4A nothing is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet numpy==2.4.6 av==18.1.0

cat > lossless.py <<'PYTHON'
from fractions import Fraction

import av
import numpy as np

RATE = 16000
print("av", av.__version__)
for name in ("a.caf", "a.m4a"):
    for samples in (10 * 4096, 10 * 4096 + 4000):
        with av.open(name, "w") as output:
            stream = output.add_stream("alac", rate=RATE, layout="mono")
            wav = np.arange(samples, dtype=np.int16)[None]
            for start in range(0, samples, 4096):
                frame = av.AudioFrame.from_ndarray(
                    wav[:, start : start + 4096], "s16p", "mono"
                )
                frame.sample_rate, frame.pts = RATE, start
                frame.time_base = Fraction(1, RATE)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        with av.open(name) as file:
            found = [f.to_ndarray()[0] for f in file.decode(audio=0)]
        found = np.concatenate(found) >> 16  # decoded as 32 bits
        same = np.array_equal(found, wav[0, : len(found)])
        print(f"{name}: {len(found)} of {samples} samples, the same: {same}")
PYTHON
env/bin/python lossless.py | tee found.txt
diff found.txt - <<'OUTPUT'
av 18.1.0
a.caf: 40960 of 40960 samples, the same: True
a.caf: 44864 of 44960 samples, the same: True
a.m4a: 40960 of 40960 samples, the same: True
a.m4a: 44960 of 44960 samples, the same: True
OUTPUT
echo "as described"
