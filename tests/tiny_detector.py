"""A tiny V2 and the pretrained folder it makes, for the tests."""

from dataclasses import replace

import torch
from speechbrain.dataio.encoder import CategoricalEncoder

from speechbrain_bilevel.inference.card import model_card
from speechbrain_bilevel.inference.folder import parts_of, write_folder
from speechbrain_bilevel.lobes.v2 import V2

SAMPLES = 1600
SIZES = {
    "samples": SAMPLES,
    "sinc_filters": 8,
    "patch": 4,
    "token_sizes": [12, 6],
    "encoder_channels": [4, 8],
    "blocks": 1,
    "heads": 2,
    "hidden": 16,
    "gru": 4,
}


def training_yaml(**sizes):
    """What a training leaves, with more in it than the network."""
    sizes = SIZES | sizes
    text = "seed: 1\nnetwork: !new:speechbrain_bilevel.lobes.v2.V2\n"
    text += "".join(f"    {key}: {value}\n" for key, value in sizes.items())
    return text + f"lr: 0.1\nsamples: {sizes['samples']}\n"


def tiny_network(**sizes):
    """A tiny V2 that has seen some data, ready to be used."""
    torch.manual_seed(0)
    network = V2(**SIZES | sizes)
    for _ in range(3):
        network(torch.randn(4, network.samples))
    return network.eval()


def label_encoder(*labels):
    """An encoder of these labels, in this order."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(labels)
    return encoder


def export(folder, network, as_published=False, calibration=None, sizes={}):
    """Writes a pretrained folder, as the recipe does."""
    yaml = folder.parent / "training.yaml"
    text = training_yaml(**sizes)
    yaml.write_text(text + f"as_published: {as_published}\n")
    parts = parts_of(yaml, network.state_dict())
    parts = replace(parts, calibration=calibration)
    write_folder(folder, parts, model_card(folder.name, parts))
    return folder
