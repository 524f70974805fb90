"""Pretrained folders: config.json and model.safetensors, both of them data.

An untrusted folder is checked in this order, and refused at the first fault:
config.json, key by key; the network that it describes, built on the meta
device, where nothing takes memory; names, shapes and types of the weights, in
the header of model.safetensors; the cost of a forward pass, on the meta device
too; the weights themselves, and a forward pass of silence. Published sizes need
no meta device, which takes as long to import as torch.
"""

import itertools
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.inference.config import (
    CONFIG,
    EXPECTED,
    FILES,
    META,
    ONNX,
    ONNX_INT8,
    SPACE,
    WEIGHTS,
    naming,
    read_config,
    refuse_special_file,
)
from speechbrain_bilevel.inference.engines import check_network
from speechbrain_bilevel.lobes import NETWORKS, arguments, build
from speechbrain_bilevel.lobes.aasist import AASIST_L
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import locked, replace_folder, temporary

# Limits for an untrusted folder. For comparison: with XLS-R's 2 billion
# parameters, AASIST has tensors of 112 MB and needs 3,200 operations.
_MAX_HEADER_BYTES = 1 << 22
_MAX_FILE_BYTES, _MAX_TENSOR_BYTES = 10 << 30, 1 << 29
_MAX_OPERATIONS = 10_000
# Of a tensor, to read at once.
_PART_BYTES = 1 << 22

_DTYPES = {"F32": torch.float32, "I64": torch.int64}
_YAML = """\
# For EncoderClassifier.from_hparams and foreign_class of SpeechBrain. It says
# what config.json says, which is all that SpoofDetector reads of this folder.
{}
network: !apply:speechbrain_bilevel.lobes.build
    name: {}
    sizes:
        {}
modules:
    network: !ref <network>
    compute_features: !new:torch.nn.Identity
    mean_var_norm: !new:speechbrain_bilevel.inference.detector.FitLength
        num_samples: !ref <num_samples>
    embedding_model: !new:speechbrain_bilevel.inference.detector.Embedding
        network: !ref <network>
    classifier: !new:speechbrain_bilevel.inference.detector.Classifier
        network: !ref <network>
        score: !ref <score>
        calibration: !ref <calibration>
label_encoder: !apply:speechbrain_bilevel.inference.detector.label_encoder
pretrainer: !new:speechbrain_bilevel.inference.detector.SafetensorsPretrainer
    loadables:
        network: !ref <network>
"""
_CUSTOM = '''\
"""For SpeechBrain's foreign_class; needs speechbrain_bilevel."""

from speechbrain_bilevel import SpoofDetector as CustomInterface

__all__ = ["CustomInterface"]
'''


# -------------------------------------------------------------------- loading
def load(config_path, weights_path):
    """Load an untrusted detector, checked as at the top of this module.

    Arguments
    ---------
    config_path, weights_path : str or Path

    Returns
    -------
    config : DetectorConfig
    network : torch.nn.Module
        In evaluation mode.

    Raises
    ------
    InputError
        If a file cannot be used or the two do not fit.
    """
    config, header = read_config(config_path), _read_header(weights_path)
    num_samples = config.num_samples
    if is_published(config):
        num_samples = min(num_samples, SAMPLE_RATE)
    else:
        try_sizes(config, header)
    network = build(config.network, config.sizes).eval()
    load_weights(network, weights_path)
    if not network.any_length:
        num_samples = config.num_samples
    silence = torch.zeros(1, num_samples)
    with torch.no_grad():
        logits = network(silence)
    if logits.shape != (1, 2) or not logits.isfinite().all():
        raise InputError(
            f"{WEIGHTS}: for silence, the network outputs "
            f"{logits.flatten()[:4].tolist()}; expected two finite numbers"
        )
    return config, network


def is_published(config):
    """Whether a network has published sizes, and takes no longer an input."""
    default = arguments(NETWORKS[config.network])
    published = [default]
    if config.network == "AASIST":
        published.append(default | AASIST_L)
    lists = [
        {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()}
        for sizes in published
    ]
    sizes = dict(default, **config.sizes)
    if sizes["num_samples"] <= default["num_samples"]:
        sizes["num_samples"] = default["num_samples"]
    return sizes in lists


def try_sizes(config, header=None):
    """Refuse sizes that the weights do not have, or the network refuses."""
    where, expected = f"{CONFIG}: sizes", f"those of a {config.network}"
    # Numbers at random that nobody sees.
    with (
        naming(where, expected),
        torch.random.fork_rng(devices=[]),
        _Budget(),
        torch.device("meta"),
    ):
        plan = build(config.network, config.sizes).eval()
    if header is not None:
        _compare(plan.state_dict(), header)
    with naming(where, expected), torch.no_grad(), _Budget():
        _shorten_recurrence(plan.to("meta"))
        plan(torch.zeros(1, config.num_samples, device="meta"))


class _Budget(TorchDispatchMode):
    """Refuses operations that take too much memory or time."""

    def __init__(self):
        super().__init__()
        self.count = itertools.count(1)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        several = results if isinstance(results, tuple) else (results,)
        size = max([0, *(getattr(each, "nbytes", 0) for each in several)])
        number = next(self.count)
        if size > _MAX_TENSOR_BYTES or number > _MAX_OPERATIONS:
            raise InputError(
                f"operation {number} of the network makes {size >> 20} MB; "
                f"expected at most {_MAX_OPERATIONS} operations, of "
                f"{_MAX_TENSOR_BYTES >> 20} MB each"
            )
        return results


def _shorten_recurrence(plan):
    """Replace recurrent networks, whose steps would take a second."""
    for module in plan.modules():
        if isinstance(module, torch.nn.RNNBase):
            size = module.hidden_size * (1 + module.bidirectional)
            module.forward = lambda x, size=size: (
                x.new_empty(*x.shape[:2], size),
                None,
            )


# -------------------------------------------------------------------- weights
def load_weights(network, path):
    """Fill a network from model.safetensors.

    Raise an ``InputError`` unless names, shapes and types are the network's and
    all numbers are finite.
    """
    state = network.state_dict()
    _compare(state, _read_header(path))
    for name, tensor in state.items():
        for part in _parts(tensor):
            # What was read stays in memory until the file is closed.
            with safe_open(path, framework="pt") as file:
                values = file.get_slice(name)[part]
                if not values.isfinite().all():
                    raise InputError(f"{WEIGHTS}: {name} holds NaN or infinity")
                tensor[part] = values


def _parts(tensor):
    """Return indices of the rows of a tensor, a few MB each."""
    if tensor.dim() == 0:
        return [...]
    rows = _PART_BYTES // max(1, tensor[:1].nbytes) + 1
    starts = range(0, len(tensor), rows)
    return [slice(start, start + rows) for start in starts]


def _read_header(path):
    """Return shape and type of each tensor, by name, without reading any."""
    with naming(WEIGHTS, "what safetensors writes"):
        refuse_special_file(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
        total = os.stat(path).st_size
        if size > _MAX_HEADER_BYTES or total > _MAX_FILE_BYTES:
            raise InputError(
                f"has {total} bytes and a header of {size}; expected at most "
                f"{_MAX_FILE_BYTES} and {_MAX_HEADER_BYTES}"
            )
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            parts = [file.get_slice(name) for name in names]
            shapes = [tuple(part.get_shape()) for part in parts]
            dtypes = [part.get_dtype() for part in parts]
            dtypes = [_DTYPES.get(dtype, dtype) for dtype in dtypes]
        return dict(zip(names, zip(shapes, dtypes)))


def _compare(state, header):
    expected = {n: (tuple(t.shape), t.dtype) for n, t in state.items()}
    for name in expected | header:
        found = header.get(name, "missing")
        if found != expected.get(name):
            instead = expected.get(name, "no such tensor")
            raise InputError(
                f"{WEIGHTS}: {printable(name, 100)} is {found}; expected "
                f"{instead}, as the network in {CONFIG} has it"
            )


# -------------------------------------------------------------------- writing
def write_folder(folder, config, state_dict, card, others=None, onnx=()):
    """Write a pretrained folder; ``card`` is the text of README.md.

    It is written under another name, loaded as an untrusted one, and renamed,
    so it is complete and works, or does not exist. An existing folder must be
    empty or a pretrained one; it is replaced if all of this succeeds.
    ``others`` has the texts of other files by their paths in it, ``onnx`` the
    paths of ONNX files that were written elsewhere.
    """
    folder = Path(folder)
    # JSON values are valid YAML.
    hparams, sizes = (
        [f"{name}: {json.dumps(value)}" for name, value in part.items()]
        for part in (config.hparams, config.sizes)
    )
    texts = {
        "README.md": card,
        CONFIG: config.to_json(),
        "custom.py": _CUSTOM,
        "hyperparams.yaml": _YAML.format(
            "\n".join(hparams), config.network, "\n        ".join(sizes)
        ),
        **(others or {}),
    }
    weights = _apart(state_dict)
    check_folder(folder)
    expected = "a writable folder, on a disk with room"
    with naming(folder, expected), locked(folder):
        new = temporary(folder)
        try:
            for name, text in texts.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            save_file(weights, new / WEIGHTS)
            for path in onnx:
                shutil.copyfile(path, new / path.name)
                check_network(new / path.name, config)
            load(new / CONFIG, new / WEIGHTS)
            replace_folder(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _apart(state_dict):
    """Copy what safetensors cannot store: tensors that share their memory."""
    found, places = {}, set()
    for name, value in state_dict.items():
        value = value.cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in places else value
        places.add(place)
    return found


def check_folder(folder):
    """Refuse a folder that is neither new, empty nor a pretrained one."""
    if Path(folder).name in ("", ".."):
        raise InputError(f"{folder}: expected the name of a new folder")
    if not os.path.lexists(folder):
        return
    if os.path.islink(folder) or not os.path.isdir(folder):
        raise InputError(f"{folder}: is no folder; expected a new name")
    # Python leaves its cache next to custom.py.
    names = set(os.listdir(folder)) - {"__pycache__"}
    if CONFIG in names:
        names -= {ONNX, ONNX_INT8, SPACE, META, ".eval_results"}
    for name in sorted(names ^ set(FILES)) if names else []:
        problem = f"has {name}" if name in names else f"has no {name}"
        raise InputError(
            f"{folder}: is no pretrained folder, it {problem} in it; expected "
            "a new name, so that nothing is lost"
        )
    if names:
        with naming(folder, EXPECTED):
            read_config(Path(folder, CONFIG))


def __getattr__(name):
    # The YAMLs of earlier versions have it here.
    if name == "SafetensorsPretrainer":
        from speechbrain_bilevel.inference import detector

        return detector.SafetensorsPretrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
