#!/bin/bash
# onnxruntime.quantization.quantize_static finds the ranges of 8-bit numbers from
# recordings that it reads one by one. CalibStridedMinMax is documented for the
# method MinMax: with how many of them at once minima and maxima are computed.
#
# The guess: a histogram (the methods Percentile and Entropy) is filled clip by
# clip, so that the memory depends on one of them; and CalibStridedMinMax has no
# effect on these methods.
#
# What is so: every tensor of every clip is kept until the last one was read, so
# that the memory grows with their number: 19 GB for 32 clips of 4 s and AASIST.
# CalibStridedMinMax bounds it for histograms, too, and the ranges are the same,
# if the reader has __len__ and set_range.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

cat > calibrate.py <<'PYTHON'
import contextlib
import io
import resource
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    quantize_static,
)

count, strided = int(sys.argv[1]), sys.argv[2] == "strided"
weight = np.random.default_rng(0).standard_normal((16, 1, 9)).astype("float32")
shape = [1, 1, 1_000_000]
graph = helper.make_graph(
    [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[9])],
    "one convolution",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    [numpy_helper.from_array(weight, "w")],
)
opset = [helper.make_opsetid("", 20)]
onnx.save(helper.make_model(graph, opset_imports=opset), "network.onnx")


class Clips(CalibrationDataReader):
    numbers = iter(range(count))

    def __len__(self):
        return count

    def set_range(self, start_index, end_index):
        self.numbers = iter(range(start_index, end_index))

    def get_next(self):
        number = next(self.numbers, None)
        if number is None:
            return None
        clip = np.random.default_rng(number).standard_normal(shape)
        return {"x": clip.astype("float32")}


with contextlib.redirect_stdout(io.StringIO()):
    quantize_static(
        "network.onnx",
        "int8.onnx",
        Clips(),
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"CalibStridedMinMax": 1} if strided else {},
    )
scales = [
    numpy_helper.to_array(tensor).tobytes().hex()
    for tensor in onnx.load("int8.onnx").graph.initializer
    if tensor.name.endswith("_scale")
]
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(kilobytes // 1024, *sorted(scales))
PYTHON
measure() { env/bin/python calibrate.py "$@" 2> errors.txt || cat errors.txt >&2; }
read -r few _ <<< "$(measure 4 whole)"
read -r many ranges <<< "$(measure 24 whole)"
read -r bounded ranges_bounded <<< "$(measure 24 strided)"
echo "MB at most: 4 clips $few, 24 clips $many, 24 clips one by one $bounded"
# A clip's tensors have 68 MB.
((many - few > 1000)) && ((bounded - few < 200))
test "$ranges" = "$ranges_bounded" && echo "the same ranges"
echo "onnxruntime 1.32.0: as described"
