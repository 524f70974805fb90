#!/bin/bash
# Dropout inside torch.func's transforms, with the same seed.
#
# The guess: torch.func.grad and vjp do not randomize anything, so a function
# draws the same dropout mask inside of them as outside.
#
# What is so: only if the input is contiguous. For a transposed one, as in
# torch.nn.TransformerEncoderLayer(batch_first=True), the mask's numbers are laid
# out in the order of memory outside, and in the order of the axes inside: another
# mask, and so another loss. Gradients by torch.autograd and derivatives by
# torch.func of "the same" step are then of two different functions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet numpy torch==2.11.0

cat > masks.py <<'PYTHON'
import torch


def kept(x):
    torch.manual_seed(0)
    return torch.nn.functional.dropout(x, 0.5, training=True) > 0


def inside(x):
    masks = []

    def function(x):
        mask = kept(x)
        masks.append(mask.float().sum(0))
        return x.sum()

    torch.func.grad(function)(x)
    (sums,) = masks
    return [int(s) for s in sums]


print("torch", torch.__version__.partition("+")[0])
for name, x in {
    "contiguous": torch.ones(6, 4),
    "transposed": torch.ones(4, 6).transpose(0, 1),
}.items():
    outside = [int(s) for s in kept(x).float().sum(0)]
    print(f"{name}: the same inside of torch.func.grad: {outside == inside(x)}")
PYTHON
env/bin/python masks.py | tee found.txt
diff found.txt - <<'OUTPUT'
torch 2.11.0
contiguous: the same inside of torch.func.grad: True
transposed: the same inside of torch.func.grad: False
OUTPUT
echo "as described"
