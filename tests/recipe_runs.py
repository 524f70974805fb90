"""Runs of the recipe on a toy corpus, with networks of few parameters."""

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

import torch
import train

RECIPE = Path(train.__file__).resolve().parent
OVERRIDES = {
    "num_samples": 4000,
    "batch_size": 8,
    "number_of_epochs": 2,
    "training_steps": 12,
    "num_workers": 0,
}
NETWORKS = {
    "lfcc_gmm": "{num_components: 4}",
    "cqcc_gmm": "{num_components: 4}",
    "v2": "{sinc_channels: 8, patch_size: 4, token_sizes: [12, 6], "
    "encoder_channels: [4, 8], num_layers: 1, d_ffn: 16, gru_hidden_size: 4, "
    "classifier_size: 4}",
    "aasist": "{sinc_channels: 9, sinc_kernel_size: 17, channels: [2, 3], "
    "graph_size: 3, stack_size: 2}",
    "lfcc_lcnn": "{channels: [2, 3, 2, 2, 2], embedding_size: 4}",
    "mel_cnn": "{n_mels: 16, channels: [2, 3], embedding_size: 4}",
    "rawnet2": "{sinc_channels: 4, sinc_kernel_size: 17, channels: [3, 4], "
    "gru_hidden_size: 4, gru_layers: 1, classifier_size: 4}",
    "rawgat_st": "{sinc_channels: 9, sinc_kernel_size: 17, mask_limit: 3, "
    "channels: [2, 3], graph_size: 3, joint_size: 2, nodes: 4}",
    "ssl_aasist": "{projection_size: 12, channels: [2, 3], graph_size: 3, "
    "stack_size: 2}",
    "whisper_aasist": "{projection_size: 12, channels: [2, 3], graph_size: 3, "
    "stack_size: 2}",
}


def arguments(yaml, corpus, output, *flags, **overrides):
    """The command line of a run."""
    kinds = [kind for kind in NETWORKS if f"train_{kind}" in str(yaml)]
    overrides = {
        **OVERRIDES,
        "network": NETWORKS[kinds[0] if kinds else "v2"],
        "data_folder": corpus,
        "output_folder": output,
        **overrides,
    }
    overrides.setdefault("train_samples", overrides["num_samples"])
    overrides.setdefault("upper_batch_size", overrides["batch_size"])
    words = [str(RECIPE / "hparams" / f"{yaml}.yaml"), "--device", "cpu"]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    return words + [str(flag) for flag in flags]


def run(yaml, corpus, output, *flags, **overrides):
    """A run within this process, which may raise."""
    words = arguments(yaml, corpus, output, *flags, **overrides)
    with _restored(), mock.patch.object(sys, "argv", ["train.py", *words]):
        train.main()


def command(yaml, corpus, output, *flags, launcher=(), **overrides):
    """The command of a run in a process of its own."""
    words = arguments(yaml, corpus, output, *flags, **overrides)
    return [*(launcher or [sys.executable]), str(RECIPE / "train.py"), *words]


def last_epoch_state(output, name):
    """A file of the newest checkpoint, as torch loads it."""
    checkpoints = sorted(Path(output, "save").glob("CKPT*"))
    return torch.load(checkpoints[-1] / f"{name}.ckpt", weights_only=True)


def final_weights(output):
    """The weights of the newest checkpoint."""
    return last_epoch_state(output, "network")


@contextlib.contextmanager
def _restored():
    """Undoes what a run leaves in its process."""
    hook, environment = sys.excepthook, dict(os.environ)
    try:
        yield
    finally:
        sys.excepthook = hook
        os.environ.clear()
        os.environ.update(environment)
