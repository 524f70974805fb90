#!/bin/bash
# A network can be built on torch's meta device, where tensors have shapes and no
# memory, to compare it with a file of weights before anything is allocated.
#
# The guess: torchaudio's features, modules with buffers, can be built there, too.
#
# What is so, with valid input: Spectrogram and LFCC can, MelSpectrogram and MFCC
# cannot: the check for empty mel filters reads a value of the filters that were
# just made. So a network with mel features has to make its filters later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.11.0 torchaudio==2.11.0

cat > features.py <<'PYTHON'
import torch
from torchaudio import functional, transforms

FEATURES = {
    "Spectrogram": lambda: transforms.Spectrogram(),
    "LFCC": lambda: transforms.LFCC(16000),
    "linear_fbanks": lambda: functional.linear_fbanks(201, 0.0, 8000.0, 20, 16000),
    "MelSpectrogram": lambda: transforms.MelSpectrogram(16000, n_mels=40),
    "MFCC": lambda: transforms.MFCC(16000),
}
for name, make in FEATURES.items():
    try:
        with torch.device("meta"):
            make()
        print(f"{name}: built")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
PYTHON
env/bin/python features.py | tee found.txt
diff found.txt - <<'OUTPUT'
Spectrogram: built
LFCC: built
linear_fbanks: built
MelSpectrogram: RuntimeError: Tensor.item() cannot be called on meta tensors
MFCC: RuntimeError: Tensor.item() cannot be called on meta tensors
OUTPUT
echo "torchaudio 2.11.0: as described"
