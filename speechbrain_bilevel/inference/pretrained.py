"""Pretrained folders: config.json and model.safetensors, both of them data.

An untrusted folder is checked in this order, and refused at the first fault:
config.json, key by key; the network that it describes, built on the meta
device, where nothing takes memory; names, shapes and types of the weights, in
the header of model.safetensors; the cost of a forward pass, on the meta device
too; the weights themselves, and a forward pass of silence.
"""

import contextlib
import itertools
import json
import os
import shutil
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from speechbrain.utils.fetching import fetch
from speechbrain.utils.parameter_transfer import Pretrainer
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_bilevel.lobes import NETWORKS, arguments, build
from speechbrain_bilevel.nnet.losses import SCORES
from speechbrain_bilevel.utils.errors import InputError, printable
from speechbrain_bilevel.utils.files import locked, replace_folder, temporary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: What is in a pretrained folder; the last two are for SpeechBrain's loaders.
FILES = ("README.md", CONFIG, WEIGHTS, "hyperparams.yaml", "custom.py")
#: The description of a system for the Arena; see ``inference.arena``.
META = "meta.yaml"
#: What a source should be, for messages.
EXPECTED = "a pretrained folder, or the user/name of a hub repository"
#: Facts about the training; the last two are in its output folder only.
TRAINING = {
    "method": "",
    "corpus": "",
    "num_bonafide": 0,
    "num_spoof": 0,
    "attacks": "",
    "manifest_folder": "",
    "asv_scores": "",
}

# Limits for an untrusted folder. For comparison: with XLS-R's 2 billion
# parameters, AASIST has tensors of 112 MB and needs 3,200 operations.
_MAX_CONFIG_CHARACTERS = 1 << 17
_MAX_HEADER_BYTES = 1 << 22
_MAX_NUMBER, _MAX_ITEMS = 10_000_000, 64
_MAX_FILE_BYTES, _MAX_TENSOR_BYTES = 10 << 30, 1 << 29
_MAX_OPERATIONS = 10_000
# Of a tensor, to read at once.
_PART_BYTES = 1 << 22

_KINDS = {
    bool: "true or false",
    int: f"a whole number from 0 to {_MAX_NUMBER}",
    float: f"a number from -{_MAX_NUMBER} to {_MAX_NUMBER}",
    str: "text",
    tuple: f"a list of 1 to {_MAX_ITEMS} whole numbers",
    dict: "an object",
}
_DTYPES = {"F32": torch.float32, "I64": torch.int64}
_INTERFACE = {"speechbrain_interface": "EncoderClassifier"}
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
pretrainer: !new:speechbrain_bilevel.inference.pretrained.SafetensorsPretrainer
    loadables:
        network: !ref <network>
"""
_CUSTOM = '''\
"""For SpeechBrain's foreign_class; needs speechbrain_bilevel."""

from speechbrain_bilevel import SpoofDetector as CustomInterface

__all__ = ["CustomInterface"]
'''


# --------------------------------------------------------------------- config
@dataclass(frozen=True)
class DetectorConfig:
    """The content of config.json: everything about a detector but its weights.

    Example
    -------
    >>> network = build("MelCNN", {"num_samples": 16000})
    >>> DetectorConfig.of(network, "logit_difference").num_samples
    16000
    """

    #: Its name in ``lobes.NETWORKS``, and the arguments of its constructor.
    network: str
    sizes: dict
    #: See ``inference.detector.Decision``.
    score: str = SCORES[0]
    calibration: dict | None = None
    #: Some of the keys of ``TRAINING``, for the card.
    training: dict = field(default_factory=dict)

    @classmethod
    def of(cls, network, score, **training):
        """Describe a network of ``lobes``; check it as if it were read."""
        name = type(network).__name__
        if name not in list(NETWORKS):
            raise _unexpected("", "network", name, " or ".join(NETWORKS))
        config = cls(name, network.sizes, score, training=training)
        _checked_config(json.loads(config.to_json()))
        with torch.random.fork_rng(devices=[]):
            _try_on_meta(config)
        return config

    @property
    def num_samples(self):
        """The network's input length at 16 kHz."""
        return self.sizes["num_samples"]

    @property
    def hparams(self):
        """The hyperparameters of a ``SpoofDetector``."""
        names = "num_samples", "score", "calibration"
        return {name: getattr(self, name) for name in names}

    def to_json(self):
        """The text of config.json."""
        return json.dumps({**asdict(self), **_INTERFACE}, indent=4) + "\n"


def read_config(path):
    """Read an untrusted config.json; missing keys get their defaults."""
    with naming(CONFIG, "what speechbrain-bilevel export writes"):
        _refuse_special_file(path)
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG_CHARACTERS + 1)
        if len(text) > _MAX_CONFIG_CHARACTERS:
            raise InputError(f"longer than {_MAX_CONFIG_CHARACTERS} characters")
        return _checked_config(json.loads(text, object_pairs_hook=_unique))


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise InputError("an object has a key twice")
    return dict(pairs)


def _checked_config(content):
    defaults = asdict(DetectorConfig("", {})) | _INTERFACE
    content = _object("", content, defaults)
    for key, choices in (
        ("network", tuple(NETWORKS)),
        ("score", SCORES),
        ("speechbrain_interface", tuple(_INTERFACE.values())),
    ):
        if content[key] not in choices:
            raise _unexpected("", key, content[key], " or ".join(choices))
    content.pop(*_INTERFACE)
    prototypes = {
        "sizes": arguments(NETWORKS[content["network"]]),
        "training": TRAINING,
    }
    if content["calibration"] is not None:
        prototypes["calibration"] = {"weight": 0.0, "bias": 0.0}
    for key, prototype in prototypes.items():
        content[key] = _checked("", key, content[key], prototype)
    if content["calibration"] and content["calibration"]["weight"] <= 0:
        raise InputError("calibration: expected a positive weight")
    return DetectorConfig(**content)


def _checked(where, name, value, prototype):
    """Return a value, refused unless it has the type of its default."""
    kind = type(prototype)
    # JSON has no tuples, and some programs write 2.0 as 2.
    if (type(value), kind) in ((int, float), (list, tuple)):
        value = kind(value)
    good = type(value) is kind
    if good and kind in (int, float):
        good = (0 if kind is int else -_MAX_NUMBER) <= value <= _MAX_NUMBER
    if good and kind is tuple:
        good = 1 <= len(value) <= _MAX_ITEMS
    if not good:
        raise _unexpected(where, name, value, _KINDS[kind])
    where = f"{where}{name}: "
    if kind is tuple:
        return [_checked(where, "one", item, prototype[0]) for item in value]
    if kind is dict:
        value = _object(where, value, prototype)
        return {
            key: _checked(where, key, value[key], default)
            for key, default in prototype.items()
        }
    return value


def _object(where, content, defaults):
    """Return an object with defaults for missing keys; refuse unknown ones."""
    if not isinstance(content, dict):
        raise _unexpected(where, "it", content, _KINDS[dict])
    if unknown := sorted(set(content) - set(defaults)):
        raise _unexpected(where, "a key", unknown[0], ", ".join(defaults))
    return defaults | content


def _unexpected(where, name, value, expected):
    value = printable(str(value), 60)
    return InputError(f"{where}{name} is {value}; expected {expected}")


# -------------------------------------------------------------------- loading
@contextlib.contextmanager
def naming(what, expected):
    """Turn any error into an ``InputError`` that begins with ``what``.

    json, safetensors, networks and the hub raise their own errors for bad
    input; for these, the message adds what was ``expected``.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:
        words = printable(" ".join(str(error).split()), 400)
        raise InputError(
            f"{what}: unusable ({type(error).__name__}: {words}); expected "
            f"{expected}"
        ) from error


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
    _try_on_meta(config, header)
    silence = torch.zeros(1, config.num_samples)
    network = build(config.network, config.sizes).eval()
    load_weights(network, weights_path)
    with torch.no_grad():
        logits = network(silence)
    if logits.shape != (1, 2) or not logits.isfinite().all():
        raise InputError(
            f"{WEIGHTS}: for silence, the network outputs "
            f"{logits.flatten()[:4].tolist()}; expected two finite numbers"
        )
    return config, network


def _try_on_meta(config, header=None):
    """Refuse sizes that the weights do not have, or the network refuses."""
    where, expected = f"{CONFIG}: sizes", f"those of a {config.network}"
    with naming(where, expected), _Budget(), torch.device("meta"):
        plan = build(config.network, config.sizes).eval()
    if header is not None:
        _compare(plan.state_dict(), header)
    with naming(where, expected), torch.no_grad(), _Budget():
        _shorten_recurrence(plan.to("meta"))
        plan(torch.zeros(1, config.num_samples, device="meta"))


def _refuse_special_file(path):
    # Reading a pipe or a device might never end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError("is no regular file; expected one, or a link to one")


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
            size = module.hidden_size
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
        _refuse_special_file(path)
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


class SafetensorsPretrainer(Pretrainer):
    """Lets SpeechBrain's loaders read weights from model.safetensors."""

    def collect_files(self, default_source=None, **fetching):
        """Fetch the file; see ``speechbrain.utils.fetching.fetch``."""
        path = fetch(WEIGHTS, default_source, self.collect_in, **fetching)
        self.paths = dict.fromkeys(self.loadables, path)
        return self.paths

    def load_collected(self):
        """Fill the networks."""
        for name, network in self.loadables.items():
            load_weights(network, self.paths[name])


# -------------------------------------------------------------------- writing
def write_folder(folder, config, state_dict, card, others=None):
    """Write a pretrained folder; ``card`` is the text of README.md.

    It is written under another name, loaded as an untrusted one, and renamed,
    so it is complete and works, or does not exist. An existing folder must be
    empty or a pretrained one; it is replaced if all of this succeeds.
    ``others`` has the texts of other files by their paths in it.
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
    for name in sorted(names ^ set(FILES)) if names else []:
        problem = f"has {name}" if name in names else f"has no {name}"
        raise InputError(
            f"{folder}: is no pretrained folder, it {problem} in it; expected "
            "a new name, so that nothing is lost"
        )
    if names:
        with naming(folder, EXPECTED):
            read_config(Path(folder, CONFIG))
