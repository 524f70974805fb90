#!/bin/bash
# spafe computes LFCC and CQCC, features of spoofing countermeasures.
#
# The guess: pre_emph_coeff is the coefficient of the pre-emphasis, and
# resampling_ratio that of the resampling from a logarithmic to a linear scale of
# frequencies, which distinguishes CQCC from a cosine transform of a log spectrum.
#
# What is so, with valid input: lfcc ignores pre_emph_coeff, it is always 0.97. cqcc
# resamples over time: twice the ratio gives twice the frames, and the frequencies
# stay as they are. So its CQCC are not those of the paper that it names (Todisco et
# al., 2017), whatever the arguments.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet spafe==0.3.3 numpy==2.4.6 scipy==1.17.1

cat > cepstra.py <<'PYTHON'
import numpy as np
from spafe.features.cqcc import cqcc
from spafe.features.lfcc import lfcc

noise = 0.1 * np.random.default_rng(0).standard_normal(8000)
usual = lfcc(noise, pre_emph_coeff=0.97)
other = lfcc(noise, pre_emph_coeff=0.5)
without = lfcc(noise, pre_emph=False)
print("coefficient 0.5 is 0.97:", np.array_equal(usual, other))
print("no pre-emphasis is 0.97:", np.array_equal(usual, without))
for ratio in (1.0, 2.0):
    print(f"ratio {ratio}:", cqcc(noise, resampling_ratio=ratio).shape)
PYTHON
env/bin/python cepstra.py | tee found.txt
diff found.txt - <<'OUTPUT'
coefficient 0.5 is 0.97: True
no pre-emphasis is 0.97: False
ratio 1.0: (48, 13)
ratio 2.0: (96, 13)
OUTPUT
echo "spafe 0.3.3: as described"
