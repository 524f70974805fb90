"""Pretrained folders: config.json and model.safetensors, both of them data.

An untrusted folder is checked in this order, and refused at the first thing
that is wrong: config.json, key by key; the network it describes, built on the
meta device, where nothing takes memory; names, shapes and types of the weights,
by the header of model.safetensors; what a forward pass would take, on the meta
device too; the network itself, its weights, and a forward pass of silence.
"""

import contextlib
import functools
import itertools
import json
import os
import secrets
import shutil
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from speechbrain.utils.fetching import fetch
from speechbrain.utils.parameter_transfer import Pretrainer
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_bilevel.lobes import NETWORKS, arguments, build
from speechbrain_bilevel.nnet.losses import SCORES
from speechbrain_bilevel.utils.errors import InputError, printable

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: What is in a pretrained folder; the last two are for SpeechBrain's loaders.
FILES = ("README.md", CONFIG, WEIGHTS, "hyperparams.yaml", "custom.py")
#: What may be known of a training; paths are in the output folder of one only.
TRAINING = {
    "method": "",
    "corpus": "",
    "num_bonafide": 0,
    "num_spoof": 0,
    "attacks": "",
    "manifests": {"train": "", "dev": "", "eval": ""},
    "asv_scores": "",
}

# What an untrusted folder may take. For comparison: a forward pass of V2 is
# 5,300 operations, AASIST's largest tensor 63 MB, XLS-R's weights are 1.3 GB.
_MAX_CONFIG_CHARACTERS = 1 << 17
_MAX_HEADER_BYTES = 1 << 22
_MAX_NUMBER = 10_000_000
_MAX_ITEMS = 64
_MAX_PARTS = 20_000
_MAX_WEIGHT_BYTES = 1 << 33
_MAX_BUFFER_BYTES = 1 << 28
_MAX_TENSOR_BYTES = 1 << 30
_MAX_OPERATIONS = 50_000

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
{settings}
network: !apply:speechbrain_bilevel.lobes.build
    name: {name}
    sizes:
        {sizes}
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

from speechbrain_bilevel.inference.detector import (
    SpoofDetector as CustomInterface,
)

__all__ = ["CustomInterface"]
'''


# --------------------------------------------------------------------- config
@dataclass(frozen=True)
class DetectorConfig:
    """What config.json says: everything about a detector but its weights.

    Arguments
    ---------
    network : str
        Its name in ``lobes.NETWORKS``.
    sizes : dict
        Arguments of its constructor.
    score : str
        See ``nnet.losses.detection_score``.
    calibration : dict of str to float, optional
        See ``inference.detector.Decision``.
    training : dict
        Some of the keys of ``TRAINING``, for the card.

    Example
    -------
    >>> network = build("MelCNN", {"num_samples": 16000})
    >>> DetectorConfig.of(network, "logit_difference").num_samples
    16000
    """

    network: str
    sizes: dict
    score: str = SCORES[0]
    calibration: dict | None = None
    training: dict = field(default_factory=dict)

    @classmethod
    def of(cls, network, score, **training):
        """Describe a network of ``lobes``."""
        return cls(
            type(network).__name__, network.sizes, score, training=training
        )

    @property
    def num_samples(self):
        """The network's input length at 16 kHz."""
        return self.sizes["num_samples"]

    def to_json(self):
        """The text of config.json."""
        return json.dumps({**asdict(self), **_INTERFACE}, indent=4) + "\n"


def read_config(path):
    """Read an untrusted config.json.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    DetectorConfig
        What the file leaves out has its default.

    Raises
    ------
    InputError
        If it cannot be read, or a key is unknown, missing or out of range.

    Example
    -------
    >>> path = getfixture("tmp_path") / "config.json"
    >>> _ = path.write_text('{"network": "V2", "sizes": {"nhead": true}}')
    >>> read_config(path)
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.utils.errors.InputError: config.json: sizes: nhead is \
True; expected a whole number from 0 to 10000000
    """
    try:
        _refuse_special_file(path)
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG_CHARACTERS + 1)
        if len(text) > _MAX_CONFIG_CHARACTERS:
            raise InputError(f"longer than {_MAX_CONFIG_CHARACTERS} characters")
        return _checked_config(json.loads(text, object_pairs_hook=_unique))
    except InputError as error:
        raise InputError(f"{CONFIG}: {error}") from error
    # No UTF-8, no JSON, a number of too many digits, nested too deep.
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{CONFIG}: cannot be read as JSON ({_in_words(error)}); expected "
            "what speechbrain-bilevel export writes"
        ) from error


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise InputError("a key stands twice in an object")
    return dict(pairs)


def _checked_config(content):
    defaults = asdict(DetectorConfig("", {}))
    content = _object("", content, defaults | _INTERFACE)
    for key, choices in (
        ("network", list(NETWORKS)),
        ("score", SCORES),
        ("speechbrain_interface", list(_INTERFACE.values())),
    ):
        if content[key] not in choices:
            raise _unexpected("", key, content[key], " or ".join(choices))
    content.pop(*_INTERFACE)
    prototypes = {
        "sizes": arguments(NETWORKS[content["network"]]),
        "training": TRAINING,
        "calibration": {"weight": 0.0, "bias": 0.0},
    }
    if content["calibration"] is None:
        del prototypes["calibration"]
    for key, prototype in prototypes.items():
        content[key] = _checked("", key, content[key], prototype)
    if content["calibration"] and content["calibration"]["weight"] <= 0:
        raise InputError("calibration: expected a positive weight")
    return DetectorConfig(**content)


def _checked(where, name, value, prototype):
    """A value, refused unless it is of the kind of its default."""
    kind = type(prototype)
    if type(value) in (int, list):
        # JSON has no tuples, and some write 2.0 as 2.
        value = kind(value) if kind in (float, tuple) else value
    good = type(value) is kind
    if kind in (int, float):
        good = good and abs(value) <= _MAX_NUMBER
        good = good and (value >= 0 or kind is float)
    if kind is tuple:
        good = good and 1 <= len(value) <= _MAX_ITEMS
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
    """An object with the defaults of what is missing, and nothing else."""
    if not isinstance(content, dict):
        raise _unexpected(where, "it", content, _KINDS[dict])
    if unknown := sorted(set(content) - set(defaults)):
        raise _unexpected(where, "a key", unknown[0], ", ".join(defaults))
    return defaults | content


def _unexpected(where, name, value, expected):
    value = printable(str(value), 60)
    return InputError(f"{where}{name} is {value}; expected {expected}")


# -------------------------------------------------------------------- loading
def fetch_files(source, **fetching):
    """Fetch what is read of an untrusted source.

    Arguments
    ---------
    source : str or Path
        A folder, or "user/name" on the hub.
    **fetching
        See ``speechbrain.utils.fetching.fetch``.

    Returns
    -------
    config, weights : Path

    Raises
    ------
    InputError
        If one of them is missing, or cannot be had.
    """
    source = str(source)
    folder = Path(source)
    for name in (CONFIG, WEIGHTS):
        if folder.is_dir() and not os.path.lexists(folder / name):
            raise InputError(
                f"{source}: no {name} in it; expected a pretrained folder, as "
                "train.py writes into its output folder"
            )
    no_name = source.startswith((os.sep, ".")) or source.count(os.sep) != 1
    if no_name and not folder.is_dir() and "://" not in source:
        raise InputError(
            f"{source}: no such folder; expected a pretrained folder or the "
            "user/name of a hub repository"
        )
    with named_errors(source):
        return [fetch(name, source, **fetching) for name in (CONFIG, WEIGHTS)]


def load(source, config_path, weights_path):
    """Load an untrusted detector.

    Arguments
    ---------
    source : str or Path
        What messages call it.
    config_path, weights_path : str or Path
        Its config.json and model.safetensors.

    Returns
    -------
    config : DetectorConfig
    network : torch.nn.Module
        In evaluation mode.

    Raises
    ------
    InputError
        If anything is wrong with it; see the head of this module.
    """
    with named_errors(source):
        config = read_config(config_path)
        with _blame_sizes(config), _few_parts(), torch.device("meta"):
            plan = build(config.network, config.sizes).eval()
        _refuse_large(plan)
        _compare(plan.state_dict(), _read_header(weights_path))
        silence = torch.zeros(1, config.num_samples)
        with _blame_sizes(config):
            _refuse_long_pass(plan, silence)
        network = build(config.network, config.sizes).eval()
        load_weights(network, weights_path)
        with torch.no_grad():
            logits = network(silence)
        if logits.shape != (1, 2) or not logits.isfinite().all():
            raise InputError(
                f"{WEIGHTS}: of silence, the network makes "
                f"{logits.flatten()[:4].tolist()}; expected two finite numbers"
            )
        return config, network


@contextlib.contextmanager
def named_errors(source):
    """Turn any error into an ``InputError`` that names the source.

    Networks and the hub have errors of their own for bad input.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{source}: cannot be loaded ({_in_words(error)}); it is damaged, "
            "or neither a pretrained folder nor the user/name of a hub "
            "repository"
        ) from error


def _in_words(error):
    """An error that may quote anything, on one line that can be printed."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {printable(words, 400)}"


def _refuse_special_file(path):
    """A pipe would be read for ever, and so may be a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError("is no regular file; expected one, or a link to one")


@contextlib.contextmanager
def _blame_sizes(config):
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{CONFIG}: sizes: make no {config.network} that works "
            f"({_in_words(error)})"
        ) from error


def _too_large(what):
    return InputError(
        f"{CONFIG}: sizes: the network needs {what}; expected a smaller one"
    )


@contextlib.contextmanager
def _few_parts():
    """Refuse a network of too many parts while it is being built."""
    count = itertools.count(1)

    def register(*_):
        if next(count) > _MAX_PARTS:
            raise _too_large(f"more than {_MAX_PARTS} modules and parameters")

    hooks = [
        torch_module.register_module_module_registration_hook(register),
        torch_module.register_module_parameter_registration_hook(register),
        torch_module.register_module_buffer_registration_hook(register),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_large(plan):
    for what, tensors, most in (
        ("weights", plan.state_dict().values(), _MAX_WEIGHT_BYTES),
        ("tables", plan.buffers(), _MAX_BUFFER_BYTES),
    ):
        if sum(tensor.nbytes for tensor in tensors) > most:
            raise _too_large(f"{what} of more than {most >> 20} MB")


def _refuse_long_pass(plan, wavs):
    """Run a pass without memory, to find what one with memory would take."""
    for module in plan.to("meta").modules():
        if isinstance(module, torch.nn.RNNBase):
            # Step by step it would take a second.
            module.forward = functools.partial(_rnn_outputs, module)
    with torch.no_grad(), _Budget():
        plan(wavs.to("meta"))


def _rnn_outputs(rnn, x):
    return x.new_empty(*x.shape[:2], rnn.hidden_size), None


class _Budget(TorchDispatchMode):
    """Refuse what would take too much memory or time, on the meta device."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.operations += 1
        if self.operations > _MAX_OPERATIONS:
            raise _too_large(f"more than {_MAX_OPERATIONS} operations")
        for result in results if isinstance(results, tuple) else [results]:
            size = getattr(result, "nbytes", 0)
            if size > _MAX_TENSOR_BYTES:
                raise _too_large(f"a tensor of {size >> 20} MB")
        return results


# -------------------------------------------------------------------- weights
def load_weights(network, path):
    """Fill a network from model.safetensors.

    Arguments
    ---------
    network : torch.nn.Module
    path : str or Path

    Raises
    ------
    InputError
        If names, shapes or types are not those of the network, or a number is
        NaN or infinite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model.safetensors"
    >>> save_file({"weight": torch.ones(2, 1)}, path)
    >>> load_weights(torch.nn.Linear(1, 2), path)
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.utils.errors.InputError: model.safetensors: bias is \
missing; expected the weights of the network in config.json
    """
    state = network.state_dict()
    _compare(state, _read_header(path))
    with torch.no_grad(), safe_open(path, framework="pt") as file:
        for name, tensor in state.items():
            value = file.get_tensor(name)
            if not value.isfinite().all():
                raise InputError(f"{WEIGHTS}: {name} holds NaN or infinity")
            tensor.copy_(value)


def _read_header(path):
    """Shape and type of each tensor, by name; none of them is read."""
    try:
        _refuse_special_file(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise InputError(f"more than {_MAX_HEADER_BYTES} bytes of header")
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            found = [file.get_slice(name) for name in names]
            shapes = [tuple(part.get_shape()) for part in found]
            dtypes = [part.get_dtype() for part in found]
        return dict(zip(names, zip(shapes, dtypes)))
    except InputError as error:
        raise InputError(f"{WEIGHTS}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{WEIGHTS}: cannot be read ({_in_words(error)}); expected what "
            "safetensors writes"
        ) from error


def _compare(state, header):
    for name in [*state, *header]:
        if name not in header:
            problem = "is missing"
        elif name not in state:
            problem = "is one too many"
        else:
            shape, kind = header[name]
            expected = tuple(state[name].shape)
            if shape == expected and _DTYPES.get(kind) == state[name].dtype:
                continue
            problem = f"is {kind} {list(shape)}, not {state[name].dtype} "
            problem += f"{list(expected)}"
        raise InputError(
            f"{WEIGHTS}: {printable(name, 100)} {problem}; expected the "
            f"weights of the network in {CONFIG}"
        )


class SafetensorsPretrainer(Pretrainer):
    """Let SpeechBrain's loaders take a network's weights from
    model.safetensors instead of a .ckpt file."""

    def collect_files(self, default_source=None, **fetching):
        """Fetch it; see ``speechbrain.utils.fetching.fetch``."""
        path = fetch(WEIGHTS, default_source, self.collect_in, **fetching)
        self.paths = dict.fromkeys(self.loadables, path)
        return self.paths

    def load_collected(self):
        """Fill the networks."""
        for name, network in self.loadables.items():
            load_weights(network, self.paths[name])


# -------------------------------------------------------------------- writing
def write_folder(folder, config, state_dict, card):
    """Write a pretrained folder.

    It is written under another name, loaded as an untrusted one, and renamed:
    so it is whole and works, or is not there.

    Arguments
    ---------
    folder : str or Path
        One that exists is replaced if it is a pretrained folder.
    config : DetectorConfig
    state_dict : dict of str to torch.Tensor
        The network's weights.
    card : str
        The model card, for README.md.

    Raises
    ------
    InputError
        If the detector cannot be loaded, or the folder cannot be written, e.g.
        on a full disk. A folder that existed is then untouched.
    """
    folder = Path(folder)
    check_folder(folder)
    settings = {
        "num_samples": config.num_samples,
        "score": config.score,
        "calibration": config.calibration,
    }
    texts = {
        "README.md": card,
        CONFIG: config.to_json(),
        "custom.py": _CUSTOM,
        "hyperparams.yaml": _YAML.format(
            settings=_in_yaml(settings, flow=False),
            name=config.network,
            sizes=_in_yaml(config.sizes, flow=None).replace("\n", "\n        "),
        ),
    }
    weights = {name: value.cpu().clone() for name, value in state_dict.items()}
    unfinished = _temporary(folder)
    try:
        unfinished.mkdir(parents=True)
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        save_file(weights, unfinished / WEIGHTS)
        load(folder, unfinished / CONFIG, unfinished / WEIGHTS)
        _replace(folder, unfinished)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: the detector could not be written ({error}); expected "
            "a folder that is writable, and room on the disk"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _in_yaml(content, flow):
    text = yaml.safe_dump(content, default_flow_style=flow, sort_keys=False)
    return text.strip()


def _temporary(folder):
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")


def _replace(folder, unfinished):
    # A folder cannot be renamed onto one with files in it.
    earlier = _temporary(folder)
    if folder.exists():
        os.rename(folder, earlier)
    try:
        os.rename(unfinished, folder)
    except OSError:
        if earlier.exists():
            os.rename(earlier, folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def check_folder(folder):
    """Refuse to write a pretrained folder where something else is.

    Arguments
    ---------
    folder : str or Path

    Raises
    ------
    InputError
        If it exists and is neither empty nor a pretrained folder.

    Example
    -------
    >>> check_folder(getfixture("tmp_path"))
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: is no folder; expected a new name")
    # Python leaves its cache beside custom.py.
    names = set(os.listdir(folder)) - {"__pycache__"}
    for name in sorted(names ^ set(FILES)) if names else []:
        problem = f"has {name}" if name in names else f"has no {name}"
        raise InputError(
            f"{folder}: is no pretrained folder, it {problem} in it; expected "
            "a new name, so that nothing is lost"
        )
    if names:
        with named_errors(folder):
            read_config(folder / CONFIG)
