#!/bin/bash
# "with torch.device('meta')" builds networks without memory; pretrained folders are
# read that way here, and by transformers.
#
# The guess: what it does depends on torch only.
#
# What is so, with valid input: PyTorch lists the functions that follow a device at
# the first such context of a process, and never again. transformers replaces
# torch.linspace while from_pretrained builds a model. If that is the first context,
# the list holds the replacement, and torch.linspace makes tensors of the CPU in every
# later context, also of "cuda". A network that combines it with other tensors, such
# as a table of filters, then cannot be built, for the rest of the process. Nothing
# is said. A context that was entered before, or an explicit device, avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.11.0 transformers==5.24.0 numpy

cat > linspace.py <<'PYTHON'
import sys

import torch
import transformers


def devices(when):
    with torch.device("meta"):
        found = torch.linspace(0, 1, 3).device, torch.arange(3).device
    print(f"{when}: linspace {found[0]}, arange {found[1]}")


if "before" in sys.argv:
    devices("before")
config = transformers.Wav2Vec2Config(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=8)
transformers.Wav2Vec2Model(config).save_pretrained("model")
transformers.Wav2Vec2Model.from_pretrained("model")
devices("after")
PYTHON
{
    env/bin/python linspace.py before
    env/bin/python linspace.py
} 2> errors.txt | grep linspace | tee found.txt
diff found.txt - <<'OUTPUT'
before: linspace meta, arange meta
after: linspace meta, arange meta
after: linspace cpu, arange meta
OUTPUT
echo "torch 2.11.0, transformers 5.24.0: as described"
