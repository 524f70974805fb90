"""Load a HyperPyYAML file that may include another one and change entries."""

import io
import math
import sys
from pathlib import Path

import speechbrain
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import if_main_process

from speechbrain_bilevel.utils.distributed import local_device
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import MARK, is_marked, write_atomically

_SAVED, _MARK = "hyperparams.yaml", f"# Saved by {MARK}"
# What a recipe writes to its output folder, with a copy of itself.
_WRITTEN = (
    *(_SAVED, "config.json", "env.log", "log.txt", "train_log.txt"),
    *("eval_report.txt", "dev_scores.txt", "eval_scores.txt"),
)


def parse_arguments(words):
    """Parse a recipe's command line; see ``speechbrain.parse_arguments``.

    Raise an ``InputError`` for a device that does not exist.
    """
    path, run_opts, overrides = speechbrain.parse_arguments(words)
    local_device(run_opts.device)
    return path, run_opts, overrides


def load_hparams(path, overrides=None, save_folder_key="output_folder"):
    """Load hyperparameters, and save them with all references resolved.

    A file whose root is ``!include:base.yaml`` has the entries of that file and
    its own: a mapping without a tag is merged into the base's entry, anything
    else replaces it. So an ablation consists of the lines that differ.

    Arguments
    ---------
    path : str or Path
        The YAML; includes are relative to its folder.
    overrides : str or dict, optional
        See ``hyperpyyaml.load_hyperpyyaml``.
    save_folder_key : str
        The entry with the folder in which to save ``hyperparams.yaml``. Any
        other results in it must be those of an earlier run.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a file cannot be read or includes itself, a ``!PLACEHOLDER`` has no
        value, a key, a class or an argument of it is unknown, an override is
        another kind of number than the entry, or out of range, or the folder
        holds files of something else.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text(
    ...     f"output_folder: {folder}\\nlr: 0.1\\n"
    ...     "net: !new:torch.nn.Linear {in_features: 2, out_features: 1}\\n"
    ... )
    >>> _ = (folder / "wide.yaml").write_text(
    ...     "--- !include:base.yaml\\nnet: {in_features: 9}\\n"
    ... )
    >>> load_hparams(folder / "wide.yaml", "lr: 0.2")["net"]
    Linear(in_features=9, out_features=1, bias=True)
    """
    try:
        tree = _read(Path(path))
        _check_overrides(path, tree, _as_dict(overrides))
        text = _as_text(tree)
        text = resolve_references(text, overrides, True).read()
        # Each call of HyperPyYAML 1.2.3 leaves references to a later entry
        # that is itself a reference.
        for _ in range(text.count("!ref <")):
            text = resolve_references(text).read()
        hparams = load_hyperpyyaml(text)
    except InputError:
        raise
    except (
        AttributeError,
        ImportError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        YAMLError,
    ) as error:
        # An unknown class or argument, a !PLACEHOLDER without a value, ...
        raise InputError(f"{path}: {error}") from error
    except RecursionError:
        raise InputError(f"{path}: includes itself") from None
    if save_folder_key not in hparams:
        raise InputError(f"{path}: has no {save_folder_key}")
    if if_main_process():
        folder = Path(hparams[save_folder_key])
        _refuse_other_files(folder)
        write_atomically(folder, {_SAVED: f"{_MARK}, from {path}\n{text}"})
    return hparams


def _refuse_other_files(folder):
    """Refuse to replace files, unless they are those of an earlier run."""
    saved = folder / _SAVED
    if saved.is_file() and is_marked(saved, _MARK.encode()):
        return
    for name in (*_WRITTEN, Path(sys.argv[0]).name):
        if (folder / name).is_file():
            raise InputError(
                f"output_folder {folder}: has a {name} in it that no earlier "
                "run wrote; expected a new or an empty folder, so that nothing "
                "is lost"
            )


def _as_dict(overrides):
    if isinstance(overrides, str):
        overrides = YAML().load(overrides)
    return overrides or {}


def _check_overrides(path, tree, overrides):
    """Refuse what cannot stand for a number, or for keys, of the file."""
    for key, value in overrides.items():
        usual, tag = tree.get(key), getattr(value, "tag", None)
        if tag is not None and tag.value:
            continue
        if isinstance(usual, dict):
            if isinstance(value, dict):
                _check_overrides(path, usual, value)
            elif not usual.tag.value:
                names = ", ".join(usual)
                raise InputError(
                    f"{path}: --{key} {value}: expected values of {names}"
                )
        if not isinstance(usual, (bool, int, float)):
            continue
        least, most = 0, math.inf
        kinds, expected = (int, float), "a finite number of at least 0"
        if isinstance(usual, bool):
            kinds, expected = bool, "True or False"
        elif isinstance(usual, int):
            # SpeechBrain replaces a larger seed by 0.
            least, most = int(key.endswith("batch_size")), 1 << 32
            expected = f"a whole number from {least} to {most - 1}"
            kinds = int
        is_bool = isinstance(value, bool)
        least = -math.inf if usual < 0 else least
        if (
            not isinstance(value, kinds)
            or is_bool != isinstance(usual, bool)
            or not least <= value < most
        ):
            raise InputError(f"{path}: --{key} {value}: expected {expected}")


def _read(path):
    tree = YAML().load(path)
    if not isinstance(tree, (dict, TaggedScalar)):
        raise InputError(f"{path}: expected keys with values")
    tag = tree.tag.value or ""
    if not tag.startswith("!include:"):
        return tree
    base = _read(path.parent / tag.removeprefix("!include:"))
    # Without keys of its own, the file is a scalar.
    _merge(base, tree if isinstance(tree, dict) else {})
    return base


def _merge(base, changes):
    for key, value in changes.items():
        plain = isinstance(value, dict) and not value.tag.value
        if plain and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _as_text(tree):
    stream = io.StringIO()
    YAML().dump(tree, stream)
    return stream.getvalue()
