"""Pretrained folders: what a trained detector is passed on as."""

import os
import shutil
from pathlib import Path

import torch
import yaml

from speechbrain_bilevel.errors import InputError

_HEADER = """\
# A pretrained spoofing countermeasure. To use it:
#   from speechbrain_bilevel.inference import SpoofDetector
#   SpoofDetector.from_hparams("THIS FOLDER").classify_file("call.wav")

# Input: the first `samples` samples at 16 kHz, repeated when there are fewer.
samples: {samples}
# Whether the score is the softmax output, as published, or the difference of
# the logits.
as_published: {as_published}

{network}
modules:
    network: !ref <network>

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


def export_detector(
    folder, network, label_encoder, hyperparams_file, samples, as_published
):
    """Writes a folder for ``SpoofDetector.from_hparams``.

    It is written under another name and renamed, so it is whole or not there.

    Arguments
    ---------
    folder : str or Path
        The folder; one that exists is replaced.
    network : torch.nn.Module
        With the weights to keep.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        Of the indices 0 and 1.
    hyperparams_file : str or Path
        The training's resolved YAML, which says under ``network`` how to build
        the network.
    samples : int
        Input length of the network at 16 kHz.
    as_published : bool
        See ``nnet.losses.detection_score``.

    Raises
    ------
    InputError
        If it cannot be written, e.g. on a full disk. A folder that existed is
        untouched.
    """
    folder = Path(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    hyperparams = _HEADER.format(
        samples=samples,
        as_published=as_published,
        network=_entry(hyperparams_file, "network"),
    )
    weights = {k: v.cpu() for k, v in network.state_dict().items()}
    try:
        unfinished.mkdir(parents=True)
        yaml_file = unfinished / "hyperparams.yaml"
        yaml_file.write_text(hyperparams, encoding="utf-8")
        torch.save(weights, unfinished / "network.ckpt")
        label_encoder.save(unfinished / "label_encoder.ckpt")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InputError(
            f"{folder}: the detector could not be written ({error}); see to "
            "it and start again"
        ) from error


def _entry(path, key):
    """The text of one top-level entry of a YAML, with its tags."""
    with open(path, encoding="utf-8") as file:
        root = yaml.compose(file, Loader=yaml.SafeLoader)
    root.value = [pair for pair in root.value if pair[0].value == key]
    return yaml.serialize(root, indent=4)
