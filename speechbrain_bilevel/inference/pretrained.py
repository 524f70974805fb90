"""Loading pretrained folders, from here or from the Hugging Face hub."""

import os
import re
from pathlib import Path

import ruamel.yaml
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch
from speechbrain.utils.parameter_transfer import Pretrainer

from speechbrain_bilevel.dataio.audio import SAMPLE_RATE
from speechbrain_bilevel.inference.allowed import check_nodes, checked_yaml
from speechbrain_bilevel.inference.limits import FewBytes, few_calls
from speechbrain_bilevel.inference.weights import load_weights
from speechbrain_bilevel.utils.errors import InputError, printable

# Of what is in a pretrained folder, what it cannot be loaded without.
_NEEDED = ("hyperparams.yaml", "network.ckpt", "label_encoder.ckpt")


# Ten minutes, of each recording of a batch.
_MOST_SAMPLES = 600 * SAMPLE_RATE


_LARGEST_ENCODER = 100_000


class _Loader(ruamel.yaml.SafeLoader):
    """Constructs what HyperPyYAML adds to it, and no Python objects else."""

    def construct_document(self, node):
        """Constructs what is allowed, within limits."""
        # HyperPyYAML has written the YAML anew since it was checked, and may
        # have left out quotes.
        check_nodes(node)
        with few_calls(), FewBytes():
            return super().construct_document(node)


def load_pretrained(cls, load, source, *args, **kwargs):
    """Loads a pretrained folder or repository.

    Arguments
    ---------
    cls : type
        A subclass of ``speechbrain.inference.interfaces.Pretrained``.
    load : callable, optional
        What loads a source that is trusted, SpeechBrain's own
        ``cls.from_hparams``. None loads one that is not: see ``hub.allowed``.
    source : str or Path
        The folder, or "user/name".
    *args
    **kwargs
        See ``speechbrain.inference.interfaces.Pretrained.from_hparams``.

    Returns
    -------
    object
        A ``cls``.

    Raises
    ------
    InputError
        If the source is missing, incomplete, damaged, or not allowed.
    """
    source = str(source)
    _check_source(source)
    # Private repositories of the user's own, as anywhere with the hub.
    kwargs.setdefault("fetch_config", FetchConfig(token=None))
    try:
        if load is not None:
            return load(source, *args, **kwargs)
        return _load_checked(cls, source, *args, **kwargs)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    # Networks and the hub have errors of their own for bad input.
    except Exception as error:
        raise InputError(
            f"{source}: cannot be loaded ({_in_words(error)}); it is damaged, "
            "or neither a pretrained folder nor the user/name of a hub "
            "repository"
        ) from error


def _in_words(error):
    """An error that may quote anything, on one line that can be printed."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {printable(words, 1000)}"


def _check_source(source):
    folder = Path(source)
    if folder.is_dir():
        for name in _NEEDED:
            if not (folder / name).is_file():
                raise InputError(
                    f"{source}: no {name} in it; expected a pretrained "
                    "folder, as train.py writes into its output folder"
                )
    elif (
        folder.is_absolute()
        or source.startswith(".")
        or (source.count(os.sep) != 1 and "://" not in source)
    ):
        raise InputError(
            f"{source}: no such folder; expected a pretrained folder or "
            "the user/name of a hub repository"
        )


def _load_checked(
    cls,
    source,
    hparams_file="hyperparams.yaml",
    overrides=None,
    overrides_must_match=True,
    savedir=None,
    download_only=False,
    local_strategy=LocalStrategy.SYMLINK,
    fetch_config=FetchConfig(),
    **kwargs,
):
    """What SpeechBrain's ``pretrained_from_hparams`` does, but checked."""
    where = {
        "source": source,
        "savedir": savedir,
        "local_strategy": local_strategy,
        "fetch_config": fetch_config,
    }
    text = checked_yaml(fetch(hparams_file, **where), called=hparams_file)
    try:
        hparams = load_hyperpyyaml(
            text, overrides, overrides_must_match, loader=_Loader
        )
        _check_parts(hparams)
        names = _loadables(hparams["pretrainer"])
    except InputError as error:
        raise InputError(f"{hparams_file}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{hparams_file}: builds no detector ({_in_words(error)}); ask "
            "its author for one that does"
        ) from error
    finally:
        # HyperPyYAML changes them for all, and leaves it so when it fails.
        for parser in (yaml, ruamel.yaml):
            constructor = parser.constructor.BaseConstructor
            constructor.construct_object.__defaults__ = (False,)
    hparams["savedir"] = savedir
    paths = {name: fetch(f"{name}.ckpt", **where) for name in names}
    if download_only:
        return None
    for name, loadable in hparams["pretrainer"].loadables.items():
        _load(loadable, paths[name], f"{name}.ckpt")
    return cls(modules=hparams["modules"], hparams=hparams, **kwargs)


def _check_parts(hparams):
    """Whether the parts of a detector are what they should be."""
    samples, modules = hparams["samples"], hparams["modules"]
    if type(samples) is not int or not 0 < samples <= _MOST_SAMPLES:
        raise InputError(
            f"samples: expected a whole number from 1 to {_MOST_SAMPLES}, the "
            "length of what the network hears"
        )
    if type(hparams["as_published"]) is not bool:
        raise InputError("as_published: expected True or False")
    if not isinstance(modules, dict) or not all(
        isinstance(module, torch.nn.Module) for module in modules.values()
    ):
        raise InputError("modules: expected keys with a module each")
    for key, kind in (
        ("label_encoder", CategoricalEncoder),
        ("pretrainer", Pretrainer),
    ):
        if type(hparams[key]) is not kind:
            raise InputError(f"{key}: expected a {kind.__name__}")


def _loadables(pretrainer):
    """Names of what has a file of its own, none of which leads elsewhere."""
    for name in pretrainer.loadables:
        if not re.fullmatch(r"\w+", name):
            raise InputError(
                f"pretrainer: loadable {name!r}; expected a name of "
                "letters, digits and _, that of a file without its ending"
            )
    for name in ("network", "label_encoder"):
        if name not in pretrainer.loadables:
            raise InputError(
                f"pretrainer: {name} is none of its loadables; expected it to "
                f"be loaded of {name}.ckpt"
            )
    if pretrainer.paths or pretrainer.conditions:
        raise InputError(
            "pretrainer: has paths or conditions; expected files "
            "that lie beside the YAML. If you trust its author, pass "
            "trust_code=True"
        )
    return list(pretrainer.loadables)


def _load(loadable, path, name):
    """By what kind of thing it is, never by a hook that the YAML gives."""
    if not Path(path).is_file():
        raise InputError(f"{name}: is no file; expected one beside the YAML")
    if isinstance(loadable, CategoricalEncoder):
        _load_labels(loadable, path, name)
    elif isinstance(loadable, torch.nn.Module):
        try:
            loadable.load_state_dict(load_weights(path, name))
        except RuntimeError as error:
            raise InputError(
                f"{name} does not fit the network of the YAML "
                f"({_in_words(error)})"
            ) from error
    else:
        raise InputError(
            f"{name} would be loaded into a {type(loadable).__name__}; "
            "expected a network or a label encoder"
        )


def _load_labels(encoder, path, name):
    """Labels are Python literals, which are not run; but anything may fail."""
    try:
        size = os.path.getsize(path)
        if size > _LARGEST_ENCODER:
            raise ValueError(f"{size} bytes are too many")
        encoder.load(path)
    except Exception as error:
        raise InputError(
            f"{name}: holds no labels ({_in_words(error)}); expected what "
            "SpeechBrain's CategoricalEncoder saves, with spoof as 0 and "
            "bonafide as 1"
        ) from error
