"""Small networks of every class, and pretrained folders of them with ONNX."""

import torch
from tiny_detector import SIZES, tiny_network
from tiny_detector import export as export_weights

from speechbrain_bilevel.inference.export import export
from speechbrain_bilevel.lobes import build

SMALL = {
    "AASIST": {
        "num_samples": 4000,
        "sinc_channels": 9,
        "sinc_kernel_size": 33,
        "channels": [4, 6],
        "graph_size": 6,
        "stack_size": 4,
    },
    "CepstralGMM": {"num_samples": 1600, "num_components": 4},
    "LCNN": {"num_samples": 4000, "channels": [4, 6, 4, 4, 4], "lstm": True},
    "MelCNN": {"num_samples": 1600, "channels": [4, 8], "one_class": True},
    "RawGATST": {
        "num_samples": 1600,
        "sinc_channels": 9,
        "sinc_kernel_size": 33,
        "mask_limit": 3,
        "channels": [6, 8],
        "graph_size": 6,
        "joint_size": 4,
    },
    "RawNet2": {
        "num_samples": 1600,
        "sinc_channels": 6,
        "sinc_kernel_size": 33,
        "channels": [6, 8],
        "gru_hidden_size": 6,
        "classifier_size": 4,
    },
    "SSLAASIST": {
        "num_samples": 1600,
        "front_end": {
            "hidden_size": 12,
            "num_hidden_layers": 1,
            "intermediate_size": 8,
            "conv_dim": [4],
            "conv_kernel": [30],
            "conv_stride": [20],
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
        "projection_size": 12,
        "channels": [4],
        "attention": True,
    },
    "V2": SIZES,
}


def small_network(name):
    """A network that has seen some data, in evaluation mode."""
    if name == "V2":
        return tiny_network()
    torch.manual_seed(0)
    network = build(name, SMALL[name])
    for _ in range(10):
        network(0.1 * torch.randn(4, network.num_samples))
    return network.eval()


def export_onnx(folder, name, calibration=None, **options):
    """Write a pretrained folder with network.onnx; return the network."""
    network = small_network(name)
    weights = folder.with_name(f"{folder.name}_weights")
    export_weights(weights, network, calibration=calibration)
    export(weights, folder, onnx=True, **options)
    return network
