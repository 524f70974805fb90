#!/bin/bash
# A small number is added to a power before its logarithm, so that silence has a
# finite one.
#
# The guess: torch.onnx.export writes that addition, whatever the number.
#
# What is so, with valid input: onnxscript's optimizer, which the export runs by
# default, takes a constant of up to 1e-8 for zero, and leaves the addition out. For
# silence, the network that is exported outputs -inf where torch's is finite, and a
# cosine transform behind it NaN. Nothing is said. Dividing by the number, adding 1,
# and adding the number's logarithm behind is the same, and is kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.11.0 onnx==1.23.2 onnxscript==0.7.2 \
    onnxruntime==1.32.0 numpy

cat > small.py <<'PYTHON'
import math

import onnxruntime
import torch


class Added(torch.nn.Module):
    def __init__(self, small):
        super().__init__()
        self.small = small

    def forward(self, power):
        return (power + self.small).log()


class Divided(Added):
    def forward(self, power):
        return (power / self.small + 1).log() + math.log(self.small)


silence = torch.zeros(1)
for small in (1e-7, 1e-8, 1e-10):
    for network in (Added(small), Divided(small)):
        torch.onnx.export(
            network,
            (torch.ones(1),),
            "network.onnx",
            input_names=["power"],
            external_data=False,
            verbose=False,
            dynamo=True,
        )
        session = onnxruntime.InferenceSession("network.onnx")
        (found,) = session.run(None, {"power": silence.numpy()})
        name = type(network).__name__
        print(f"{small:g} {name}: {network(silence)[0]:.3f} {found[0]:.3f}")
PYTHON
env/bin/python small.py 2> errors.txt | grep -E "^1e-" | tee found.txt
diff found.txt - <<'OUTPUT'
1e-07 Added: -16.118 -16.118
1e-07 Divided: -16.118 -16.118
1e-08 Added: -18.421 -inf
1e-08 Divided: -18.421 -18.421
1e-10 Added: -23.026 -inf
1e-10 Divided: -23.026 -23.026
OUTPUT
echo "torch 2.11.0, onnxscript 0.7.2: as described"
