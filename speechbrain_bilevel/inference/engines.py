"""Run a finished detector by torch, ONNX Runtime or OpenVINO.

Neither SpeechBrain nor, for the last two, torch is imported. An untrusted
network.onnx is checked before either of them reads it: it has to be the file
that config.json names, with plain operators only, no data elsewhere, and a
bounded size of every tensor.
"""

import functools
import importlib.util
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np

from speechbrain_bilevel.inference.config import (
    CONFIG,
    EXPECTED,
    ONNX,
    ONNX_INT8,
    WEIGHTS,
    naming,
    read_config,
    refuse_special_file,
)
from speechbrain_bilevel.inference.recordings import Decision, RecordingScorer
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import sha256

#: What can run a network, and at which precisions. "auto" is the first of
#: ``FASTEST`` that is installed, if there is a network for it.
ENGINES = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
FASTEST = ("openvino", "onnxruntime")

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
# Limits for an untrusted network; see ``pretrained``.
_MAX_FILE_BYTES, _MAX_TENSOR_BYTES, _MAX_NODES = 2 << 30, 1 << 29, 20_000
# Of all tensors together, and of all products. For comparison: AASIST has 1.5
# GB and multiplies 10 G numbers.
_MAX_BYTES, _MAX_PRODUCTS = 32 << 30, 1 << 41
# Attributes of other kinds hold graphs and sparse tensors.
_KINDS = ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")
# What networks of ``lobes`` are made of, and what 8-bit numbers need.
_OPERATORS = """
    Abs Add And BatchNormalization Cast Clip Concat Constant ConstantOfShape
    Conv CumSum DequantizeLinear Div Elu Equal Erf Exp Expand Flatten GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GroupNormalization
    Identity InstanceNormalization IsNaN LayerNormalization LeakyRelu Less Log
    LSTM MatMul Max MaxPool Min Mul Neg Not Pad Pow QuantizeLinear Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare
    Relu Reshape Selu Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt
    Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where
"""
_OPERATORS = frozenset(_OPERATORS.split())


# ------------------------------------------------------------------- detectors
class Detector(RecordingScorer):
    """A detector for recordings, without SpeechBrain's interface.

    Arguments
    ---------
    config : DetectorConfig
    run : callable
        [batch, samples] float32 -> logits, [batch, 2], arrays.
    engine : str
        What runs it, for messages.
    any_length : bool
        Whether ``run`` takes other lengths than ``config.num_samples``.
    """

    def __init__(self, config, run, engine, any_length=False):
        self.run, self.engine, self.any_length = run, engine, any_length
        self.num_samples = config.num_samples
        self.network_name = network_name(config, engine)
        self.decision = Decision(config.score, config.calibration)

    def score_batch(self, wavs):
        """Return the scores of waveforms, [batch, samples] float32: a list."""
        return self.decision(self.run(wavs)).tolist()


def network_name(config, engine):
    """What a network is called in messages."""
    return config.network if engine == "torch" else f"{config.network} in ONNX"


def open_detector(source, engine="torch", device=None, precision="fp32"):
    """Open a pretrained folder, or a repository of the hub, for recordings.

    Arguments
    ---------
    source : str or Path
        See ``SpoofDetector.from_hparams``.
    engine : str
        A key of ``ENGINES``, or "auto".
    device : str, optional
        For torch: by default the GPU if there is one.
    precision : str
        One of the engine's in ``ENGINES``.

    Returns
    -------
    Detector

    Raises
    ------
    InputError
        If the source is missing or damaged, or the engine is not installed or
        has no network in it.
    """
    with naming(source, EXPECTED):
        get = _getter(source, engine)
        engine, config, path = choose(engine, get, device, precision)
        if engine != "torch":
            run = start(engine, path, config, precision)
            return Detector(config, run, engine)
        from speechbrain_bilevel.inference.pretrained import load

        config, network = load(get(CONFIG), path)
        run = _run_torch(network, device, precision)
        return Detector(config, run, engine, network.any_length)


def _getter(source, engine):
    """Return a function of a name: the path of this file of a source."""
    if os.path.isdir(source):
        return functools.partial(Path, source)
    # It imports SpeechBrain.
    from speechbrain_bilevel.inference.hub import fetch_files

    names = (CONFIG, WEIGHTS) if engine == "torch" else (CONFIG,)
    found = dict(zip(names, fetch_files(source, names)))

    def get(name):
        if name not in found:
            (found[name],) = fetch_files(source, (name,))
        return found[name]

    return get


def choose(engine, get, device=None, precision="fp32"):
    """Return the name of the engine, the config, and the path of the network.

    ``get`` returns the path of a file by its name; see ``open_detector`` for
    the rest.
    """
    config = read_config(get(CONFIG), check_sizes=False)
    on_cpu = str(device or "cpu") == "cpu"
    if engine == "auto":
        engine = "torch"
        if config.onnx and on_cpu and precision != "fp16":
            able = [e for e in FASTEST if precision in ENGINES[e] and _has(e)]
            engine = next(iter(able), "torch")
    if engine not in ENGINES:
        names = ", ".join(ENGINES)
        raise InputError(f"engine {engine}: expected {names} or auto")
    if precision not in ENGINES[engine]:
        known = ", ".join(ENGINES[engine])
        raise InputError(f"precision {precision}: {engine} has {known}")
    if engine == "torch":
        return engine, config, get(WEIGHTS)
    if not on_cpu:
        raise InputError(
            f"device {device}: {engine} runs networks on the CPU here; leave "
            "the device out, or choose the engine torch"
        )
    if not _has(engine):
        raise InputError(
            f"engine {engine}: is not installed; install it by pip install "
            f"'.[{_EXTRAS[engine]}]' in the clone"
        )
    name = ONNX_INT8 if precision == "int8" else ONNX
    if not (config.onnx or {}).get(_digest_of(name)):
        option = "--int8 --clips TRIALS" if name == ONNX_INT8 else "--onnx"
        raise InputError(
            f"has no {name}, which {engine} runs; write a folder with one: "
            f"speechbrain-bilevel export THIS OUT {option}"
        )
    return engine, config, get(name)


def _digest_of(name):
    return "int8_sha256" if name == ONNX_INT8 else "sha256"


def _has(engine):
    # What reads an untrusted network is needed, too.
    return all(map(importlib.util.find_spec, (engine, "onnx")))


# --------------------------------------------------------------------- engines
def start(engine, path, config, precision="fp32"):
    """Start an engine other than torch with an untrusted network.

    Return what turns waveforms, [batch, samples] float32, into logits, [batch,
    2], both of them arrays. Raise an ``InputError`` if the network is not what
    the ``config`` says, or refused.
    """
    name = Path(path).name
    with naming(name, "what speechbrain-bilevel export wrote"):
        check_network(path, config)
        if engine == "onnxruntime":
            run = _run_onnxruntime(path)
        else:
            run = _run_openvino(path, precision)

    def checked(wavs):
        expected = f"logits of {len(wavs)} clips, [{len(wavs)}, 2]"
        with naming(name, expected):
            logits = run(wavs)
            if logits.shape != (len(wavs), 2):
                raise InputError(f"outputs {logits.shape}; expected {expected}")
        return logits

    logits = checked(np.zeros((1, config.num_samples), np.float32))
    if not np.isfinite(logits).all():
        raise InputError(
            f"{name}: for silence, it outputs {logits.ravel().tolist()}; "
            "expected two finite numbers"
        )
    return checked


def threads():
    """Return the number of threads to compute with: torch's, if it is used."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    stated = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    available = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    return int(stated) if stated.isdecimal() and int(stated) else available


def _run_torch(network, device, precision):
    import torch

    from speechbrain_bilevel.utils.distributed import local_device
    from speechbrain_bilevel.utils.precision import without_tf32

    device = local_device(device)
    # As SpeechBrain does; a GRU whose weights need gradients is computed by
    # another kernel, also where none are asked for.
    network.to(device).requires_grad_(False)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    kind = device.split(":")[0]

    def run(wavs):
        half = torch.autocast(kind, dtype, enabled=dtype is not None)
        with torch.inference_mode(), half, without_tf32():
            # A copy, in memory as aligned as torch's own: else the last bits
            # would depend on where the array lies.
            logits = network(torch.tensor(wavs, device=device))
        return logits.double().cpu().numpy()

    return run


def _run_onnxruntime(path):
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    (name,) = (each.name for each in session.get_inputs())
    return lambda wavs: session.run(None, {name: wavs})[0]


def _run_openvino(path, precision):
    import openvino

    core = openvino.Core()
    if precision == "bf16":
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            raise InputError("precision bf16: this CPU has no bf16; leave it")
    model = core.read_model(str(path))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads(),
        # Several processes would be bound to the same cores.
        "ENABLE_CPU_PINNING": False,
        # Left to itself, OpenVINO computes in bf16 where the CPU can.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }

    # A request holds the output of one call at a time.
    lock = threading.Lock()

    # Compiled for a size of the batch, it is faster.
    @functools.lru_cache(4)
    def compiled(shape):
        model.reshape(list(shape))
        return core.compile_model(model, "CPU", options).create_infer_request()

    def run(wavs):
        with lock:
            return compiled(wavs.shape).infer({0: wavs})[0].copy()

    return run


# ----------------------------------------------------------------- untrusted
def check_network(path, config):
    """Refuse a network.onnx that is not the config's, or might do harm.

    Arguments
    ---------
    path : str or Path
    config : DetectorConfig

    Raises
    ------
    InputError
        If it is not the file that config.json names, has data elsewhere,
        operators that networks of ``lobes`` do not need, or tensors too large.
    """
    import onnx

    path = Path(path)
    refuse_special_file(path)
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise InputError(f"has more than {_MAX_FILE_BYTES >> 30} GiB")
    if sha256(path) != (config.onnx or {}).get(_digest_of(path.name)):
        raise InputError(
            f"is not the file whose SHA-256 is in {CONFIG}; export or download "
            "the folder again"
        )
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if len(graph.node) > _MAX_NODES:
        raise InputError(f"{len(graph.node)} nodes; expected {_MAX_NODES}")
    if model.functions:
        raise InputError("functions of its own; expected none")
    for node in graph.node:
        if node.domain or node.op_type not in _OPERATORS:
            raise InputError(
                f"operator {printable(node.op_type, 60)}; expected those of "
                "the networks in speechbrain_bilevel"
            )
    attributes = [a for node in graph.node for a in node.attribute]
    tensors = [*graph.initializer, *(a.t for a in attributes)]
    if any(t.data_location or t.external_data for t in tensors):
        raise InputError("weights in other files; expected none")
    kinds = onnx.AttributeProto.AttributeType
    known = {kinds.Value(name) for name in _KINDS}
    if graph.sparse_initializer or {a.type for a in attributes} - known:
        raise InputError("sparse tensors or graphs in it; expected none")
    sizes = [_sizes(onnx, model, batch, config.num_samples) for batch in (1, 2)]
    _check_cost(graph, *sizes)


def _sizes(onnx, model, batch, num_samples):
    """Return the shape of every value, for a batch of clips, by its name."""
    graph = model.graph
    if [value.type.tensor_type.elem_type for value in graph.input] != [1]:
        raise InputError("expected one input, of float32")
    # What the file says of shapes is not believed.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.ClearField("shape")
    for size in (batch, num_samples):
        graph.input[0].type.tensor_type.shape.dim.add().dim_value = size
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    values = *inferred.value_info, *inferred.input, *inferred.output
    found = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in values
        if v.type.tensor_type.HasField("shape")
    }
    return found | {t.name: list(t.dims) for t in inferred.initializer}


def _check_cost(graph, shapes, of_two):
    """Refuse a network that takes too much for a clip, or more than twice as
    much for two."""
    total = work = 0
    for node in graph.node:
        for name in filter(None, node.output):
            # A size of 0 is one that is not known.
            sizes = shapes.get(name, [0])
            size, two = math.prod(sizes), math.prod(of_two.get(name, [0]))
            total += 8 * size
            if not all(sizes) or not size <= two <= 2 * size:
                what = "an unknown size"
            elif 8 * size > _MAX_TENSOR_BYTES:
                what = f"{8 * size >> 20} MB"
            else:
                continue
            raise InputError(
                f"its {node.op_type} makes {what}; expected at most "
                f"{_MAX_TENSOR_BYTES >> 20} MB, and twice as much for two clips"
            )
        work += _products(node, shapes)
    if total > _MAX_BYTES or work > _MAX_PRODUCTS:
        raise InputError(
            f"all its tensors have {total >> 20} MB, and it multiplies "
            f"{work >> 30} G numbers for a clip; expected at most "
            f"{_MAX_BYTES >> 20} MB and {_MAX_PRODUCTS >> 30} G"
        )


def _products(node, shapes):
    """Return about how many numbers a node multiplies, or compares."""
    size = math.prod(shapes[node.output[0]])
    first, *others = (shapes.get(name, [1]) for name in node.input if name)
    if node.op_type == "Conv":
        return size * math.prod(others[0][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return size * max(first)
    if node.op_type in ("GRU", "LSTM"):
        return math.prod(first[:2]) * sum(map(math.prod, others[:2]))
    if node.op_type == "MaxPool":
        kernel = (a.ints for a in node.attribute if a.name == "kernel_shape")
        return size * math.prod(next(kernel))
    return size
