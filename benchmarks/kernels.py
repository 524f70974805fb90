#!/usr/bin/env python3
"""What V2's hand-written CPU code buys beside what torch has for the same.

> python benchmarks/kernels.py
> python benchmarks/kernels.py --batch-size 16

Prints a table: seconds of a batch without gradients, with, and with gradients
of gradients, and the memory of the last two at most. A row has one part by
torch's own means, in a process of its own: the sinc branch by checkpoints of
one clip each, dropout, or the norm without derivatives of its own.
"""

import argparse
import functools
import json
import statistics
from pathlib import Path

import torch
from measure import KEEP, apart, peak_memory, table, timed
from torch.nn.functional import cross_entropy, dropout
from torch.utils.checkpoint import checkpoint

from speechbrain_bilevel.lobes import v2
from speechbrain_bilevel.nnet import normalization, sinc, transformer

ROWS = {
    "ours": "as it is",
    "sinc": "the sinc branch by checkpoints",
    "norm": "the norm by plain operations",
    "dropout": "torch's dropout",
}


def patches_by_checkpoints(wavs, filters, norm, patches, pool_size):
    """``sinc_patches`` by plain operations, computed again backward."""
    tensors = filters.first_half(), norm.gamma, norm.beta
    tensors += patches.weight, patches.bias, norm.eps, pool_size
    run = sinc._whole_batch
    if torch.is_grad_enabled():
        run = functools.partial(checkpoint, run, use_reentrant=False)
    return torch.cat([run(wav, *tensors) for wav in wavs.split(1)])


def replace(part):
    """Have a part of V2 computed by torch's own means."""
    if part == "sinc":
        v2.sinc_patches = patches_by_checkpoints
    if part == "norm":
        normalization.UnbiasedLayerNorm.forward = lambda self, x: (
            normalization.layer_norm(x, self.gamma, self.beta, self.eps)
        )
    if part == "dropout":
        transformer.Dropout.forward = lambda self, x: dropout(
            x, self.p, self.training
        )


def measure(part, batch_size, device, rounds):
    """Print the figures of a row as JSON."""
    replace(part)
    torch.manual_seed(0)
    network = v2.V2().to(device)
    wavs = 0.05 * torch.randn(batch_size, network.num_samples, device=device)
    labels = torch.arange(batch_size, device=device) % 2
    parameters = list(network.parameters())

    @torch.no_grad()
    def forward():
        network.eval()(wavs)
        network.train()

    def gradients(create_graph=False):
        loss = cross_entropy(network(wavs), labels)
        return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    # cuDNN's GRU cannot be differentiated twice.
    @torch.backends.cudnn.flags(enabled=False)
    def twice():
        norm = sum(g.square().sum() for g in gradients(create_graph=True))
        torch.autograd.grad(norm, parameters)

    found = []
    for function in (forward, gradients, twice):
        function()
        seconds = [timed(function) for _ in range(rounds)]
        found.append([statistics.median(seconds), peak_memory(function)])
    print(json.dumps(found))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = arguments.batch_size, arguments.device, arguments.rounds
    if arguments.part:
        measure(arguments.part, *settings)
        return
    rows = []
    for part, name in ROWS.items():
        options = ["--part", part]
        for key, value in zip(("batch-size", "device", "rounds"), settings):
            options += [f"--{key}", value]
        (forward, _), once, twice = apart(Path(__file__), *options, **KEEP)
        row = [
            name,
            f"{forward:.2f} s",
            f"{once[0]:.2f} s",
            f"{twice[0]:.2f} s",
        ]
        rows.append([*row, *(f"{m / 1e9:.2f} GB" for _, m in (once, twice))])
    print(f"{arguments.batch_size} clips, {torch.get_num_threads()} threads\n")
    heads = "", "forward", "gradients", "of gradients", "memory", "of these"
    table(heads, rows)


if __name__ == "__main__":
    main()
