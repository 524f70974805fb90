#!/usr/bin/env python3
"""Time networks without gradients against plain transcriptions.

> python benchmarks/reference.py
> python benchmarks/reference.py --networks AASIST AASIST-L --rounds 31

Prints a table. The yardsticks are in ``plain_aasist.py``,
``plain_reference.py`` and ``plain_lcnn.py``, on the same noise, as long as the
network is made for (4 s, LFCC-LCNN 7.5 s), with the same parameters; logits are
compared before, and both are timed in turns. The bound is what the matrix
products and convolutions would take at the speed of a large matrix product; our
filters of RawNet2 take fewer.
"""

import argparse
import functools
import statistics

import torch
from measure import in_turns, matrix_peak, operations, ratio, table, target
from plain_aasist import PlainAASIST
from plain_lcnn import PlainLCNN
from plain_reference import PlainRawGATST, PlainRawNet2

from speechbrain_bilevel.inference.importers import PUBLISHED
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.lcnn import LCNN, LCNN_2021
from speechbrain_bilevel.lobes.rawgat import RawGATST
from speechbrain_bilevel.lobes.rawnet2 import RawNet2

#: Yardstick, ours, their sizes and the ratio that is aimed at, by network.
NETWORKS = {
    "AASIST": (PlainAASIST, AASIST, PUBLISHED["aasist"].sizes, 2.0),
    "AASIST-L": (PlainAASIST, AASIST, PUBLISHED["aasist-l"].sizes, 2.0),
    "RawNet2": (PlainRawNet2, RawNet2, {}, 1.5),
    "RawGAT-ST": (PlainRawGATST, RawGATST, {}, 1.5),
    "LFCC-LCNN": (PlainLCNN, LCNN, {}, 1.5),
    "LFCC-LCNN of 2021": (PlainLCNN, LCNN, LCNN_2021, 1.5),
}


def calls(name, batch_size):
    """The yardstick's forward pass and ours, on the same batch."""
    torch.manual_seed(0)
    *networks, sizes, _ = NETWORKS[name]
    plain, ours = (network(**sizes).eval() for network in networks)
    ours.load_state_dict(plain.state_dict())
    wavs = 0.05 * torch.randn(batch_size, plain.num_samples)
    torch.testing.assert_close(plain(wavs), ours(wavs))
    return {
        "plain": functools.partial(plain, wavs),
        "ours": functools.partial(ours, wavs),
    }


@torch.no_grad()
def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    peak, rows = matrix_peak(), []
    for name in arguments.networks:
        for batch_size in arguments.batch_sizes:
            both = calls(name, batch_size)
            seconds = in_turns(both, arguments.rounds)
            medians = [statistics.median(seconds[n]) for n in both]
            bound = operations(both["ours"]) / peak
            faster = ratio(seconds["plain"], seconds["ours"])
            row = [f"{name}, forward, batch of {batch_size}"]
            row += [f"{s:.2f} s" for s in (*medians, bound)]
            rows.append([*row, *target(faster, NETWORKS[name][-1])])

    print(f"{torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOPS\n")
    heads = "", "plain", "ours", "bound", "ratio", "target", ""
    table(heads, rows)


if __name__ == "__main__":
    main()
