"""YAMLs of strangers: what they build is checked before anything is built.

HyperPyYAML calls whatever Python names a YAML gives, and reads what it
includes. Here the YAML is parsed without that, each node is compared with
what a detector consists of, and only what was checked is written out again for
HyperPyYAML to load.
"""

import inspect
import pydoc
import re

import torch
import yaml

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import shorten

#: Where modules (of torch.nn's kind) may come from: they compute, and neither
#: run code they are handed nor touch files.
MODULES = (
    "speechbrain_bilevel.augment",
    "speechbrain_bilevel.lobes",
    "speechbrain_bilevel.nnet",
    "speechbrain.lobes.features",
    "speechbrain.lobes.models.CRDNN",
    "speechbrain.lobes.models.ECAPA_TDNN",
    "speechbrain.lobes.models.ResNet",
    "speechbrain.lobes.models.VanillaNN",
    "speechbrain.lobes.models.Xvector",
    "speechbrain.nnet",
    "speechbrain.processing.features",
    "torch.nn.modules",
    "torchaudio.transforms",
)
#: Where functions may come from that a module is to call.
FUNCTIONS = ("speechbrain_bilevel.nnet", "torch.nn.functional")
#: What else a pretrained folder of SpeechBrain needs.
OTHERS = (
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
    "!name:speechbrain.utils.checkpoints.torch_recovery",
)

_LONGEST = 100_000
# With every alias counted as what it stands for.
_MOST_NODES = 10_000
_PLAIN = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}
_REFERENCE = re.compile(r"<\w+(\[\w+\])*>")
# HyperPyYAML parses what is in brackets as YAML, with all of its tags.
_TUPLE = re.compile(r"\([-+.\w\s,]*\)")


def checked_yaml(path, called=None):
    """Reads the YAML of a pretrained folder and refuses it if it could do more
    than build a network.

    Arguments
    ---------
    path : str or Path
        The file.
    called : str, optional
        What messages call it; by default its path.

    Returns
    -------
    str
        The YAML, of which HyperPyYAML builds exactly what was checked.

    Raises
    ------
    InputError
        If it cannot be read or is no YAML, or a line builds or refers to
        something that is not allowed.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text("layer: !new:torch.nn.Linear [2, 3]\\n")
    >>> checked_yaml(path)
    'layer: !new:torch.nn.Linear [2, 3]\\n'
    """
    called = called or path
    root = _parse(path, called)
    pending, n_nodes = [root], 0
    while pending:
        node, n_nodes = pending.pop(), n_nodes + 1
        problem = _problem(node)
        if n_nodes > _MOST_NODES:
            problem = "its aliases stand for too much"
        if problem:
            raise InputError(
                f"{called}, line {node.start_mark.line + 1}: {problem}. Nothing "
                "was run. Expected a network of modules in torch.nn, "
                "torchaudio, SpeechBrain and speechbrain_bilevel; if you trust "
                "its author to run any code on this machine, pass "
                "trust_code=True (--trust-code)"
            )
        if isinstance(node, yaml.MappingNode):
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return yaml.serialize(root)


def _parse(path, called):
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise InputError(
                f"{called}: longer than {_LONGEST} characters; expected the YAML "
                "of a detector"
            )
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{called}: is no YAML ({error})") from error
    except OSError as error:
        raise InputError(
            f"{called}: cannot be read ({error.strerror})"
        ) from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{called}: no keys in it; expected a detector's YAML")
    return root


def _problem(node):
    """Why a node is refused; None if it is fine."""
    if node.tag not in _PLAIN and not _is_allowed(node.tag):
        return f"{shorten(node.tag)} is not allowed in a detector"
    if not isinstance(node, yaml.ScalarNode):
        return None
    if node.tag == "!ref":
        if not _REFERENCE.fullmatch(node.value):
            return (
                f"!ref {shorten(node.value)} is more than a reference to a key, "
                "<key> or <key[part]>"
            )
    # A reference to this text would have it interpreted.
    elif re.search("<.*>", node.value, re.DOTALL):
        return f"{shorten(node.value)} could be interpreted as references"
    if node.value.startswith("(") and not _TUPLE.fullmatch(node.value):
        return f"{shorten(node.value)} is more than a tuple of numbers"
    return None


def _is_allowed(tag):
    if tag in OTHERS or tag in ("!ref", "!PLACEHOLDER"):
        return True
    builder, _, name = tag.partition(":")
    if builder not in ("!new", "!name"):
        return False
    if not _is_within(name, (*MODULES, *FUNCTIONS, "torch.nn")):
        return False
    try:
        # Imports nothing but the modules above.
        found = pydoc.locate(name)
    except Exception:
        return False
    # Under whatever name it is imported there, this is where it is defined.
    home = getattr(found, "__module__", None) or ""
    if inspect.isclass(found) and issubclass(found, torch.nn.Module):
        return _is_within(home, MODULES)
    if inspect.isfunction(found) and "." not in found.__qualname__:
        return builder == "!name" and _is_within(home, FUNCTIONS)
    return False


def _is_within(name, modules):
    return any(
        name == module or name.startswith(module + ".") for module in modules
    )
