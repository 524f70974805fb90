#!/bin/bash
# torch.onnx.export(dynamo=True) writes a network as ONNX, to be given to others.
#
# The guess: the file holds the graph and the weights, and nothing of the machine
# that wrote it.
#
# What is so: each node has the stack of Python calls that it came from, with the
# complete paths of the source files and their lines of code, in the metadata of
# the node ("pkg.torch.onnx.stack_trace"). Whoever publishes the file publishes
# where on whose machine the network is, and lines of its source.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.11.0 onnx==1.23.2 onnxscript==0.7.2 numpy

mkdir -p home/somebody/secret_project
cat > home/somebody/secret_project/network.py <<'PYTHON'
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.linear(x))  # nobody else's business
PYTHON
cat > export.py <<'PYTHON'
import logging
import os
import sys

sys.path.insert(0, "home/somebody/secret_project")
logging.disable()
import onnx
import torch
from network import Network

torch.onnx.export(
    Network().eval(), (torch.zeros(2, 8),), "network.onnx",
    dynamo=True, external_data=False, verbose=False,
)
model = onnx.load("network.onnx")
keys = {p.key for node in model.graph.node for p in node.metadata_props}
print("stack trace in the metadata:", "pkg.torch.onnx.stack_trace" in keys)
content = open("network.onnx", "rb").read()
print("path of the source:", b"home/somebody/secret_project/network.py" in content)
print("line of the source:", b"torch.relu(self.linear(x))" in content)
PYTHON
env/bin/python export.py 2> errors.txt | tee found.txt || cat errors.txt
grep -v "^\[torch.onnx\]" found.txt | diff - <(cat <<'OUTPUT'
stack trace in the metadata: True
path of the source: True
line of the source: True
OUTPUT
)
echo "torch 2.11.0, onnxscript 0.7.2: as described"
