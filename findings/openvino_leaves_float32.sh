#!/bin/bash
# OpenVINO runs a network of float32 on a CPU.
#
# The guess: in float32, as the network is and as ONNX Runtime and PyTorch do,
# unless another precision is asked for.
#
# What is so: on a CPU that has bf16 (AVX512_BF16, AMX), it computes in bf16, with
# 8 bits of mantissa, and says so only in a property of the compiled model.
# INFERENCE_PRECISION_HINT "f32" switches that off. With AASIST it is twice as
# fast, and scores change by up to 0.13.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet openvino==2026.4.1 numpy==2.4.6

cat > precision.py <<'PYTHON'
import numpy as np
import openvino
from openvino import opset13 as ops

rng = np.random.default_rng(0)
x = ops.parameter([64, 512], np.float32)
weight = rng.standard_normal((512, 512)).astype(np.float32)
model = openvino.Model([ops.matmul(x, weight, False, False)], [x])
core = openvino.Core()
has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
data = rng.standard_normal((64, 512)).astype(np.float32)
exact = data.astype(np.float64) @ weight


def error(options):
    compiled = core.compile_model(model, "CPU", options)
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return chosen, np.abs(compiled(data)[0] - exact).max() / np.abs(exact).max()


print("this CPU has bf16:", has_bf16)
for name, options in (
    ("by default", {}),
    ("asked for f32", {"INFERENCE_PRECISION_HINT": "f32"}),
):
    chosen, relative = error(options)
    print(f"{name}: {chosen}, relative error {relative:.0e}")
    in_bf16 = has_bf16 and not options
    assert chosen == ("bf16" if in_bf16 else "f32")
    assert (relative > 1e-4) == in_bf16
PYTHON
env/bin/python precision.py
echo "openvino 2026.4.1: as described"
