"""config.json of a pretrained folder: all about a detector but its weights.

Neither torch nor SpeechBrain is imported.
"""

import contextlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field

from speechbrain_bilevel.lobes import NETWORKS, arguments
from speechbrain_bilevel.metrics.detection_score import SCORES
from speechbrain_bilevel.utils.errors import InputError, printable

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: The network for ``engines``, and with convolutions of 8-bit numbers.
ONNX, ONNX_INT8 = "network.onnx", "network_int8.onnx"
#: The folder of what a Space needs besides; see ``inference.space``.
SPACE = "space"
#: What is in a pretrained folder; the last two are for SpeechBrain's loaders.
FILES = ("README.md", CONFIG, WEIGHTS, "hyperparams.yaml", "custom.py")
#: The description of a system for the Arena; see ``inference.arena``.
META = "meta.yaml"
#: What a source should be, for messages.
EXPECTED = "a pretrained folder, or the user/name of a hub repository"
#: Facts about the training; the last two are in its output folder only.
TRAINING = {
    "method": "",
    "adaptation": "",
    "corpus": "",
    "num_bonafide": 0,
    "num_spoof": 0,
    "attacks": "",
    "manifest_folder": "",
    "asv_scores": "",
}

# Limits for an untrusted file.
_MAX_CHARACTERS = 1 << 17
_MAX_NUMBER, _MAX_ITEMS = 10_000_000, 64

_KINDS = {
    bool: "true or false",
    int: f"a whole number from 0 to {_MAX_NUMBER}",
    float: f"a number from -{_MAX_NUMBER} to {_MAX_NUMBER}",
    str: "text",
    tuple: f"a list of 1 to {_MAX_ITEMS} whole numbers",
    dict: "an object",
    type(None): f"null, or a list of 1 to {_MAX_ITEMS} whole numbers",
}
_INTERFACE = {"speechbrain_interface": "EncoderClassifier"}
# What is known of the ONNX files.
_ONNX = {"opset": 0, "sha256": "", "int8_sha256": ""}


@dataclass(frozen=True)
class DetectorConfig:
    """The content of config.json: everything about a detector but its weights.

    Example
    -------
    >>> from speechbrain_bilevel.lobes import build
    >>> network = build("MelCNN", {"num_samples": 16000})
    >>> DetectorConfig.of(network, "logit_difference").num_samples
    16000
    """

    #: Its name in ``lobes.NETWORKS``, and the arguments of its constructor.
    network: str
    sizes: dict
    #: See ``inference.recordings.Decision``.
    score: str = SCORES[0]
    calibration: dict | None = None
    #: Some of the keys of ``TRAINING``, for the card.
    training: dict = field(default_factory=dict)
    #: The operator set and the SHA-256 of the ONNX files, if there are any.
    onnx: dict | None = None

    @classmethod
    def of(cls, network, score, **training):
        """Describe a network of ``lobes``; check it as if it were read."""
        name = type(network).__name__
        if name not in list(NETWORKS):
            raise _unexpected("", "network", name, " or ".join(NETWORKS))
        config = cls(name, network.sizes, score, training=training)
        _checked_config(json.loads(config.to_json()))
        from speechbrain_bilevel.inference.pretrained import try_sizes

        try_sizes(config)
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
        content = {**asdict(self), **_INTERFACE}
        if self.onnx is None:
            # Earlier versions read it, too.
            del content["onnx"]
        return json.dumps(content, indent=4) + "\n"


def read_config(path, check_sizes=True):
    """Read an untrusted config.json; missing keys get their defaults.

    Without ``check_sizes``, of a network's sizes only the length of its input
    is looked at, if there are ONNX files, and torch is not imported.
    """
    with naming(CONFIG, "what speechbrain-bilevel export writes"):
        refuse_special_file(path)
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
        if len(text) > _MAX_CHARACTERS:
            raise InputError(f"longer than {_MAX_CHARACTERS} characters")
        content = json.loads(text, object_pairs_hook=_unique)
        return _checked_config(content, check_sizes)


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise InputError("an object has a key twice")
    return dict(pairs)


def _checked_config(content, check_sizes=True):
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
    prototypes = {"training": TRAINING}
    if check_sizes:
        prototypes["sizes"] = arguments(NETWORKS[content["network"]])
    elif content["onnx"] is not None:
        sizes = _object("sizes: ", content["sizes"], content["sizes"])
        _checked("sizes: ", "num_samples", sizes.get("num_samples"), 1)
    if content["calibration"] is not None:
        prototypes["calibration"] = {"weight": 0.0, "bias": 0.0}
    if content["onnx"] is not None:
        prototypes["onnx"] = _ONNX
    for key, prototype in prototypes.items():
        content[key] = _checked("", key, content[key], prototype)
    if content["calibration"] and content["calibration"]["weight"] <= 0:
        raise InputError("calibration: expected a positive weight")
    return DetectorConfig(**content)


def _checked(where, name, value, prototype):
    """Return a value, refused unless it has the type of its default."""
    if prototype is None and isinstance(value, list):
        prototype = (0,)
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


def refuse_special_file(path):
    """Raise an ``InputError`` unless a path is a file, or a link to one."""
    # Reading a pipe or a device might never end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError("is no regular file; expected one, or a link to one")
