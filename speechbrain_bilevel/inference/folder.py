"""Pretrained folders: what a trained detector is passed on as."""

import json
import operator
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
import yaml
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_bilevel.inference.allowed import read_yaml
from speechbrain_bilevel.inference.detector import Decision
from speechbrain_bilevel.inference.front_end import without_source
from speechbrain_bilevel.inference.weights import load_weights
from speechbrain_bilevel.utils.errors import InputError, printable

#: What is in a pretrained folder.
FILES = (
    "README.md",
    "config.json",
    "custom.py",
    "hyperparams.yaml",
    "label_encoder.ckpt",
    "network.ckpt",
)


_YAML = """\
# A pretrained spoofing countermeasure. To use it:
#   from speechbrain_bilevel.inference.detector import SpoofDetector
#   SpoofDetector.from_hparams("THIS FOLDER").score_file("call.wav")

# Input: the first `samples` samples at 16 kHz, repeated when there are fewer.
samples: {samples}
# Whether the network's score is the softmax output, as published, or the
# difference of the logits.
as_published: {as_published}
# Whether it is the logit of bona fide alone instead, as AASIST is published.
bonafide_logit: {bonafide_logit}
# Score -> log-likelihood ratio of bona fide against spoof, learned on dev.
calibration: {calibration}

{network}
modules:
    network: !ref <network>
    # What SpeechBrain's EncoderClassifier calls its parts.
    compute_features: !new:torch.nn.Identity
    mean_var_norm: !new:speechbrain_bilevel.inference.detector.Windows
        samples: !ref <samples>
    embedding_model: !new:speechbrain_bilevel.inference.detector.Embedding
        network: !ref <network>
    classifier: !new:speechbrain_bilevel.inference.detector.Classifier
        network: !ref <network>
        as_published: !ref <as_published>
        calibration: !ref <calibration>
        bonafide_logit: !ref <bonafide_logit>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        network: !ref <network>
        label_encoder: !ref <label_encoder>
    # By default, weights of another network would be passed over in silence.
    custom_hooks:
        network: !name:speechbrain.utils.checkpoints.torch_recovery
            end_of_epoch: True
"""


_CUSTOM = '''\
"""For SpeechBrain's foreign_class; needs speechbrain_bilevel."""

from speechbrain_bilevel.inference.detector import (
    SpoofDetector as CustomInterface,
)

__all__ = ["CustomInterface"]
'''


# The hub shows how to load the repository by this.
_CONFIG = {"speechbrain_interface": "EncoderClassifier"}


@dataclass(frozen=True)
class Parts:
    """What a detector consists of.

    Arguments
    ---------
    network : str
        The entry ``network`` of a YAML: how it is built.
    weights : dict of str to torch.Tensor
        Its state dict.
    samples : int
        Its input length at 16 kHz.
    as_published, bonafide_logit : bool
        See ``nnet.losses.detection_score``.
    calibration : dict of str to float, optional
        See ``nnet.detection.Decision``.
    """

    network: str
    weights: dict
    samples: int
    as_published: bool
    calibration: Optional[dict] = None
    bonafide_logit: bool = False


def write_folder(folder, parts, card):
    """Writes a pretrained folder.

    It is written under another name and renamed, so it is whole or not there.

    Arguments
    ---------
    folder : str or Path
        The folder. One that exists is replaced; one with other files in it is
        refused.
    parts : Parts
        The detector.
    card : str
        The model card, for README.md.

    Raises
    ------
    InputError
        If it cannot be written, e.g. on a full disk. A folder that existed is
        untouched.
    """
    folder = Path(folder)
    check_folder(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    texts = {
        "README.md": card,
        "config.json": json.dumps(_CONFIG, indent=4) + "\n",
        "custom.py": _CUSTOM,
        "hyperparams.yaml": _YAML.format(
            samples=parts.samples,
            as_published=parts.as_published,
            bonafide_logit=parts.bonafide_logit,
            calibration=_in_yaml(parts.calibration),
            network=parts.network,
        ),
    }
    labels = CategoricalEncoder()
    labels.update_from_iterable(["spoof", "bonafide"])
    weights = {name: value.cpu() for name, value in parts.weights.items()}
    try:
        unfinished.mkdir(parents=True)
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        labels.save(unfinished / "label_encoder.ckpt")
        torch.save(weights, unfinished / "network.ckpt")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InputError(
            f"{folder}: the detector could not be written ({error}); see to "
            "it and start again"
        ) from error


def _in_yaml(calibration):
    if calibration is None:
        return "null"
    return yaml.safe_dump(calibration, default_flow_style=True).strip()


def check_folder(folder):
    """Refuses to write a pretrained folder where something else is.

    Arguments
    ---------
    folder : str or Path

    Raises
    ------
    InputError
        If it is no folder, or has other files in it.

    Example
    -------
    >>> check_folder(getfixture("tmp_path"))
    """
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"{folder}: is there, and no folder; expected a new name"
        )
    others = set()
    if folder.exists():
        # Python leaves its cache beside custom.py.
        ours = {*FILES, "__pycache__"}
        others = {path.name for path in folder.iterdir()} - ours
    if others:
        raise InputError(
            f"{folder}: has {min(others)} in it, which is of no pretrained "
            "folder; expected a new name, so that nothing is lost"
        )


def read_folder(folder):
    """Reads a pretrained folder; nothing is built of it.

    Arguments
    ---------
    folder : str or Path
        As ``write_folder`` writes it.

    Returns
    -------
    Parts

    Raises
    ------
    InputError
        If the folder is missing, incomplete or damaged.
    """
    yaml_file = Path(folder) / "hyperparams.yaml"
    weights = load_weights(Path(folder) / "network.ckpt")
    return parts_of(yaml_file, weights)


def parts_of(yaml_file, weights):
    """A detector, of a training's YAML or a pretrained folder's.

    Arguments
    ---------
    yaml_file : str or Path
        Has the keys ``network``, ``samples``, ``as_published`` and perhaps
        ``calibration`` and ``bonafide_logit``.
    weights : dict of str to torch.Tensor
        The network's.

    Returns
    -------
    Parts

    Raises
    ------
    InputError
        If the file or a key is missing, or a value is not usable.
    """
    entries = yaml_entries(yaml_file)
    for key in ("network", "samples", "as_published"):
        if key not in entries:
            raise InputError(
                f"{yaml_file}: no key {key}; expected the YAML of a detector or "
                "of its training, with network, samples and as_published"
            )
    try:
        values = yaml.safe_load(
            _subset(
                entries,
                ("samples", "as_published", "calibration", "bonafide_logit"),
            )
        )
        for key in ("as_published", "bonafide_logit"):
            if not isinstance(values.get(key, False), bool):
                raise ValueError(f"{key} is {printable(str(values[key]), 60)}")
        Decision(calibration=values.get("calibration"))
        operator.index(values["samples"])
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{yaml_file}: samples, as_published or calibration: {error}; "
            "expected a whole number, True or False (also of bonafide_logit), "
            "and null or a weight and a bias"
        ) from error
    entries["network"] = without_source(
        entries["network"], Path(yaml_file).parent
    )
    return Parts(_subset(entries, ["network"]), weights, **values)


def _subset(entries, keys):
    """Some entries as YAML again, with their tags."""
    pairs = [
        (yaml.ScalarNode("tag:yaml.org,2002:str", key), entries[key])
        for key in keys
        if key in entries
    ]
    root = yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)
    return yaml.serialize(root, indent=4)


def yaml_entries(path):
    """The top-level entries of a YAML, with their tags, nothing of it built.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    dict of str to yaml.Node

    Raises
    ------
    InputError
        If it cannot be read, or is no YAML with keys.
    """
    try:
        root = yaml.compose(read_yaml(path), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: is no YAML ({error})") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: no keys in it; expected a detector's YAML")
    return {key.value: value for key, value in root.value}
