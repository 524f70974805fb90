#!/usr/bin/env python3
"""Count what V2 and AASIST cannot do without: operations, and memory traffic.

> python benchmarks/bound.py

Prints a table, for a batch of 32 clips. Operations are those of matrix products
and convolutions. Of memory traffic, a forward pass has at least to read the
parameters; a training step to write and read what it keeps for its backward
pass, to read the parameters twice and write their gradients, and to read four
and write three tensors of their size in Adam's step. Both are also given as
seconds at the speed of a large matrix product and of adding large tensors.
"""

import functools

import torch
from measure import bandwidth, matrix_peak, table
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from speechbrain_bilevel.inference.importers import PUBLISHED
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.v2 import V2

NETWORKS = {
    "V2": V2,
    "AASIST": functools.partial(AASIST, **PUBLISHED["aasist"].sizes),
}
CLIPS = 32
# Of parameters, in a training step: two reads, a write, Adam's four and three.
PASSES = 10


def size(tensors):
    """Their bytes; what shares memory counts once."""
    storages = (t.untyped_storage() for t in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def forward(network, wavs):
    """Operations of the parts of a forward pass, and of all of it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(wavs)
    counts = {
        path.partition(".")[2]: sum(found.values())
        for path, found in counter.get_flop_counts().items()
    }
    parts = {name: counts.get(name, 0) for name, _ in network.named_children()}
    return parts, counter.get_total_flops()


def training(network, wavs):
    """Operations of both passes, and the bytes that are kept between them."""
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    labels = torch.arange(len(wavs)) % 2
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = cross_entropy(network.train()(wavs), labels)
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        between = size(
            t for t in kept if t.untyped_storage().data_ptr() not in own
        )
        kept.clear()
        loss.backward()
    return counter.get_total_flops(), between


def rows():
    """Yield name, operations and bytes; of a part, those of its parameters."""
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        network, wavs = make().eval(), 0.05 * torch.randn(CLIPS, 64600)
        parameters = size(network.parameters())
        parts, whole = forward(network, wavs)
        # Some networks do most of their work beside their children's calls.
        complete = sum(parts.values()) > 0.9 * whole
        for part, operations in parts.items():
            # Less than a hundredth is not worth a row.
            if complete and operations > whole / 100:
                held = size(getattr(network, part).parameters())
                yield f"{name}, forward, {part}", operations, held
        yield f"**{name}, forward**", whole, parameters
        operations, kept = training(network, wavs)
        traffic = 2 * kept + PASSES * parameters
        yield f"**{name}, training step**", operations, traffic


def main():
    """Print the table."""
    peak, speed = matrix_peak(), bandwidth()
    cells = [
        [
            name,
            f"{operations / CLIPS / 1e9:.2f} G",
            f"{operations / peak:.2f} s",
            f"{traffic / 1e9:.3f} GB",
            f"{traffic / speed:.3f} s",
        ]
        for name, operations, traffic in rows()
    ]
    print(
        f"{CLIPS} clips, {torch.get_num_threads()} threads, "
        f"{peak / 1e9:.0f} GFLOPS, {speed / 1e9:.0f} GB/s\n"
    )
    heads = "", "operations a clip", "of 32", "memory traffic", ""
    table(heads, cells)


if __name__ == "__main__":
    main()
