#!/bin/bash
# Copies of parametrized layers.
#
# The guess: a deep copy of a layer with torch.nn.utils.parametrize is independent of
# it, so that the parametrization can be merged into the copy's weight, e.g. to
# save a network with LoRA while training goes on.
#
# What is so: parametrizing makes a class of its own for the layer, and copies
# share it. remove_parametrizations on the copy takes the property `weight` off
# that class: the original has no weight from then on, though is_parametrized
# still says that it has a parametrization.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/out"
import copy

import torch
from torch.nn.utils import parametrize


class Double(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


layer = torch.nn.Linear(2, 2)
parametrize.register_parametrization(layer, "weight", Double())
twin = copy.deepcopy(layer)
parametrize.remove_parametrizations(twin, "weight")
print("the copy has a weight:", hasattr(twin, "weight"))
print("the original has a weight:", hasattr(layer, "weight"))
print("is_parametrized(original):", parametrize.is_parametrized(layer))
PYTHON
cat > "$folder/expected" <<'TEXT'
the copy has a weight: True
the original has a weight: False
is_parametrized(original): True
TEXT
diff "$folder/expected" "$folder/out"
echo "as described"
