"""Loading pretrained folders, from here or from the Hugging Face hub."""

import os
import re
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import SafeLoader
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.hub.allowed import checked_yaml
from speechbrain_bilevel.hub.weights import load_weights

FILES = ("hyperparams.yaml", "network.ckpt", "label_encoder.ckpt")


class _Loader(SafeLoader):
    """Constructs what HyperPyYAML adds to it, and no Python objects else."""


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
            f"{source}: cannot be loaded ({type(error).__name__}: {error}); "
            "it is damaged, or neither a pretrained folder nor the user/name "
            "of a hub repository"
        ) from error


def _check_source(source):
    folder = Path(source)
    if folder.is_dir():
        for name in FILES:
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
    hparams = load_hyperpyyaml(
        text, overrides, overrides_must_match, loader=_Loader
    )
    hparams["savedir"] = savedir
    paths = {
        name: fetch(f"{name}.ckpt", **where)
        for name in _loadables(hparams["pretrainer"])
    }
    if download_only:
        return None
    for name, loadable in hparams["pretrainer"].loadables.items():
        _load(loadable, paths[name], f"{name}.ckpt")
    return cls(modules=hparams["modules"], hparams=hparams, **kwargs)


def _loadables(pretrainer):
    """Names of what has a file of its own, none of which leads elsewhere."""
    for name in pretrainer.loadables:
        if not re.fullmatch(r"\w+", name):
            raise InputError(
                f"pretrainer: loadable {name!r}; expected a name of "
                "letters, digits and _, that of a file without its ending"
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
    if isinstance(loadable, CategoricalEncoder):
        loadable.load(path)
    elif isinstance(loadable, torch.nn.Module):
        try:
            loadable.load_state_dict(load_weights(path, name))
        except RuntimeError as error:
            raise InputError(
                f"{name} does not fit the network of the YAML ({error})"
            ) from error
    else:
        raise InputError(
            f"{name} would be loaded into a {type(loadable).__name__}; "
            "expected a network or a label encoder"
        )
