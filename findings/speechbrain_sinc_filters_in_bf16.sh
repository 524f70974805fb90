#!/bin/bash
# SpeechBrain's SincConv learns the cutoffs of its filters, which are computed anew
# in each step. With `--precision bf16`, so under autocast, the convolution has
# bfloat16.
#
# The guess: its filters are still computed in float32, being sines of float32
# parameters; the result is as coarse as a convolution in bfloat16 is.
#
# What is so: the phases, cutoff frequencies by times, are a matrix product, which
# autocast does in bfloat16, with less than three digits. Filters and output are
# some 15 times as far off as a convolution in bfloat16 alone makes the output, the
# worst filter by a tenth of its norm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet speechbrain==1.1.2 torch==2.11.0 torchaudio==2.11.0

cat > filters.py <<'PYTHON'
import torch
from speechbrain.nnet.CNN import SincConv
from torch.nn.functional import conv1d

torch.manual_seed(0)
layer = SincConv(64, 81, in_channels=1, padding="valid").eval()
speech = torch.randn(2, 16000, 1)


def error(found, expected):
    return (found.float() - expected).norm() / expected.norm()


with torch.no_grad():
    expected = layer(speech)
    filters = layer._get_sinc_filters()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(speech)
        coarse = layer._get_sinc_filters()
        alone = conv1d(speech.transpose(1, 2), filters).transpose(1, 2)
print(f"dtype of the output: {found.dtype}")
worst = max(map(error, coarse, filters))
print(f"filters by autocast: {error(coarse, filters):.2f}, the worst {worst:.1f}")
print(f"output by autocast: {error(found, expected):.2f}")
print(f"output with filters of float32: {error(alone, expected):.3f}")
PYTHON
env/bin/python filters.py 2> warnings.txt | tee found.txt || cat warnings.txt
diff found.txt - <<'OUTPUT'
dtype of the output: torch.bfloat16
filters by autocast: 0.05, the worst 0.1
output by autocast: 0.05
output with filters of float32: 0.003
OUTPUT
echo "SpeechBrain 1.1.2, torch 2.11.0: as described"
