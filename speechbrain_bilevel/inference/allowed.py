"""YAMLs of strangers: what they build is checked before anything is built.

HyperPyYAML reads a YAML, resolves its references, writes it out and reads that
again, calling whatever Python names it gives. Both times the nodes are
compared with what a detector consists of: of the first reading, where their
lines are still known, and of the second, of which the objects are built.
"""

import inspect
import pydoc
import re

import torch
from ruamel.yaml import YAML, MappingNode, ScalarNode
from speechbrain.utils.run_opts import RunOptions

from speechbrain_bilevel.utils.errors import InputError, printable, shorten

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


#: But not these. The first sets any attribute, its class and methods too; the
#: others fill arrays of NumPy, whose size nothing limits.
EXCLUDED = (
    "torch.nn.modules.container.ParameterDict",
    "speechbrain.nnet.complex_networks",
    "speechbrain.nnet.quaternion_networks",
)


#: Where functions may come from that a module is to call.
FUNCTIONS = ("speechbrain_bilevel.nnet", "torch.nn.functional")


#: What else a pretrained folder of SpeechBrain needs.
OTHERS = (
    "!new:speechbrain.dataio.encoder.CategoricalEncoder",
    "!new:speechbrain.utils.parameter_transfer.Pretrainer",
)


_PRETRAINER = OTHERS[1]


# Given anything else to call, it would load any file.
_HOOK = "!name:speechbrain.utils.checkpoints.torch_recovery"


_LONGEST = 100_000


# With every alias and reference counted as what it stands for.
_MOST_NODES = 10_000


_DEEPEST = 30


_PLAIN = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}


_OF_TEXT = ("!ref", "!tuple", "!PLACEHOLDER")


_REFERENCE = re.compile(r"<\w+(\[\w+\])*>")


# HyperPyYAML parses what is in brackets as YAML, with all of its tags.
_TUPLE = re.compile(r"\([-+.\w\s,]*\)")


# 2 to the power of it would fill the memory.
_HUGE = re.compile(r"[-+]?\d[\w:]{10,}")


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
        The YAML, for HyperPyYAML to load with a loader that calls
        ``check_nodes``.

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
    text = read_yaml(path, called)
    try:
        # With the parser by which HyperPyYAML reads it.
        root = YAML().compose(text)
    # RecursionError, and what ruamel.yaml lets through: bad escapes in tags.
    except Exception as error:
        reason = printable(" ".join(str(error).split()), 300)
        raise InputError(f"{called}: is no YAML ({reason})") from error
    if not isinstance(root, MappingNode):
        raise InputError(f"{called}: no keys in it; expected a detector's YAML")
    for key, _ in root.value:
        if str(key.value) in RunOptions().as_dict():
            raise InputError(
                f"{called}, line {key.start_mark.line + 1}: {key.value} is for "
                "whoever runs the detector to choose; expected no such key. "
                "Take it out, and pass it in run_opts"
            )
    check_nodes(root, called)
    return text


def read_yaml(path, called=None):
    """Reads a YAML as text, if it is of a length that such a file can have.

    Arguments
    ---------
    path : str or Path
        The file.
    called : str, optional
        What messages call it; by default its path.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it cannot be read, or is too long.
    """
    called = called or path
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"{called}: is no YAML ({error})") from error
    except OSError as error:
        raise InputError(
            f"{called}: cannot be read ({error.strerror}); expected the YAML "
            "of a detector, or of its training"
        ) from error
    if len(text) > _LONGEST:
        raise InputError(
            f"{called}: longer than {_LONGEST} characters; expected the YAML "
            "of a detector, or of its training"
        )
    return text


def check_nodes(root, called=None):
    """Refuses nodes of which HyperPyYAML could build more than a network.

    Hooks of a pretrainer are taken out: they are not needed, see
    ``hub.loading``.

    Arguments
    ---------
    root : ruamel.yaml.MappingNode
        The whole document.
    called : str, optional
        The file whose lines they know; None if that is no file of the user's.

    Raises
    ------
    InputError
        If one is not allowed.
    """
    pending, n_nodes = [(root, 0)], 0
    while pending:
        (node, depth), n_nodes = pending.pop(), n_nodes + 1
        problem = _problem(node)
        if n_nodes > _MOST_NODES:
            problem = "with its aliases and references, this is too much"
        if depth > _DEEPEST:
            problem = "too many things within, or referring to, each other"
        if problem:
            line = f"{called}, line {node.start_mark.line + 1}: "
            raise InputError(
                f"{line if called else ''}{problem}. Nothing was run. Expected "
                "a network of modules in torch.nn, torchaudio, SpeechBrain and "
                "speechbrain_bilevel; if you trust its author to run any code "
                "on this machine, pass trust_code=True (--trust-code)"
            )
        pending += [(part, depth + 1) for part in _parts(node, root)]


def _parts(node, root):
    """What a node consists of, or refers to."""
    if node.tag == "!ref":
        return _targets(node, root)
    if isinstance(node, ScalarNode):
        return []
    if not isinstance(node, MappingNode):
        return node.value
    hooks = []
    if node.tag == _PRETRAINER:
        hooks = [pair for pair in node.value if pair[0].value == "custom_hooks"]
        node.value = [pair for pair in node.value if pair not in hooks]
    return [part for pair in node.value for part in pair] + [
        part for _, value in hooks for part in _parts_of_hooks(value)
    ]


def _parts_of_hooks(hooks):
    """What of a pretrainer's hooks remains to be checked."""
    if not isinstance(hooks, MappingNode):
        return [hooks]
    parts = []
    for _, hook in hooks.value:
        if hook.tag != _HOOK:
            parts.append(hook)
        elif isinstance(hook, MappingNode):
            parts += [part for pair in hook.value for part in pair]
    return parts


def _targets(reference, root):
    """What <key[part]> stands for; HyperPyYAML tells of one that is missing."""
    targets = [root]
    for name in re.findall(r"\w+", reference.value):
        targets = [
            value
            for target in targets
            if isinstance(target, MappingNode)
            for key, value in target.value
            if key.value == name
        ]
    return targets


def _problem(node):
    """Why a node is refused; None if it is fine."""
    if node.tag not in _PLAIN and not _is_allowed(node.tag):
        return f"{shorten(node.tag)} is not allowed in a detector"
    if not isinstance(node, ScalarNode):
        if node.tag in _OF_TEXT:
            return f"{node.tag} is of a text only"
        return None
    value = node.value
    if node.tag == "!ref":
        if not _REFERENCE.fullmatch(value):
            return (
                f"!ref {shorten(value)} is more than a reference to a key, "
                "<key> or <key[part]>"
            )
        return None
    # A reference to this text would have it interpreted.
    if re.search("<.*>", value, re.DOTALL):
        return f"{shorten(value)} could be interpreted as references"
    is_tuple = value.startswith("(") or node.tag == "!tuple"
    if is_tuple and not _TUPLE.fullmatch(value):
        return f"{shorten(value)} is more than a tuple of numbers"
    if is_tuple or node.tag == "tag:yaml.org,2002:int":
        for number in re.split(r"[(),\s]+", value):
            if _HUGE.fullmatch(number):
                return f"{shorten(number)} is too large a number"
    return None


def _is_allowed(tag):
    if tag in OTHERS or tag in _OF_TEXT:
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
        return _is_within(home, MODULES) and not _is_within(
            f"{home}.{found.__qualname__}", EXCLUDED
        )
    if inspect.isfunction(found) and "." not in found.__qualname__:
        return builder == "!name" and _is_within(home, FUNCTIONS)
    return False


def _is_within(name, modules):
    return any(
        name == module or name.startswith(module + ".") for module in modules
    )
