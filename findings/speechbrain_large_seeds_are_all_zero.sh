#!/bin/bash
# A recipe of SpeechBrain begins with `__set_seed: !apply:...seed_everything`.
# PyTorch takes seeds of up to 64 bits, so one made of date and time is usual.
#
# The guess: two different seeds give two different experiments; a seed that
# cannot be used is refused, or cut to fewer bits.
#
# What is so: from 2**32 on, which numpy's limit is, every seed becomes 0. It is
# said at the level INFO only, which most programs do not show, so runs with
# "ten different seeds" of that kind are one run ten times.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet speechbrain==1.1.2 torch==2.11.0 torchaudio==2.11.0

cat > seeds.py <<'PYTHON'
import torch
from speechbrain.utils.seed import seed_everything

for seed in 0, 2**32 - 1, 2**32, 20260101090000, 20260102170000:
    found = seed_everything(seed)
    print(f"{seed:>14} -> {found:>10} {torch.rand(1).item():.4f}")
PYTHON
env/bin/python seeds.py 2> warnings.txt | tee found.txt || cat warnings.txt
diff found.txt - <<'OUTPUT'
             0 ->          0 0.4963
    4294967295 -> 4294967295 0.9938
    4294967296 ->          0 0.4963
20260101090000 ->          0 0.4963
20260102170000 ->          0 0.4963
OUTPUT
! grep -q "not in bounds" warnings.txt
echo "SpeechBrain 1.1.2: as described"
