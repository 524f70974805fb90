"""A tiny V2 and the pretrained folder it makes, for the tests."""

import torch

from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.export import model_card
from speechbrain_bilevel.inference.pretrained import write_folder
from speechbrain_bilevel.lobes.v2 import V2

SAMPLES = 1600
SIZES = {
    "num_samples": SAMPLES,
    "sinc_channels": 8,
    "patch_size": 4,
    "token_sizes": [12, 6],
    "encoder_channels": [4, 8],
    "num_layers": 1,
    "nhead": 2,
    "d_ffn": 16,
    "gru_hidden_size": 4,
}


def tiny_network(**sizes):
    """A tiny V2 that has seen some data, ready to be used."""
    torch.manual_seed(0)
    network = V2(**SIZES | sizes)
    for _ in range(3):
        network(torch.randn(4, network.num_samples))
    return network.eval()


def export(folder, network, score="logit_difference", calibration=None):
    """Write a pretrained folder."""
    config = DetectorConfig(
        type(network).__name__, network.sizes, score, calibration
    )
    write_folder(
        folder, config, network.state_dict(), model_card(folder.name, config)
    )
    return folder
