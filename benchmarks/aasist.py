#!/usr/bin/env python3
"""Time AASIST and AASIST-L without gradients against a plain transcription.

> python benchmarks/aasist.py
> python benchmarks/aasist.py --rounds 31 --batch-sizes 1 8 32

Prints a table. The yardstick is ``plain_aasist.py`` on the same noise of 4 s,
with the same parameters; logits are compared before, and both are timed in
turns. The bound is what the matrix products and convolutions would take at the
speed of a large matrix product.
"""

import argparse
import functools
import statistics

import torch
from measure import in_turns, matrix_peak, operations, ratio, table, target
from plain_aasist import PlainAASIST

from speechbrain_bilevel.inference.importers import PUBLISHED
from speechbrain_bilevel.lobes.aasist import AASIST

SIZES = {name: PUBLISHED[name.lower()].sizes for name in ("AASIST", "AASIST-L")}


def calls(sizes, batch_size):
    """The yardstick's forward pass and ours, on the same batch."""
    torch.manual_seed(0)
    plain, ours = PlainAASIST(**sizes).eval(), AASIST(**sizes).eval()
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
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    peak, rows = matrix_peak(), []
    for name, sizes in SIZES.items():
        for batch_size in arguments.batch_sizes:
            both = calls(sizes, batch_size)
            seconds = in_turns(both, arguments.rounds)
            medians = [statistics.median(seconds[n]) for n in both]
            bound = operations(both["ours"]) / peak
            faster = ratio(seconds["plain"], seconds["ours"])
            row = [f"{name}, forward, batch of {batch_size}"]
            row += [f"{s:.2f} s" for s in (*medians, bound)]
            rows.append([*row, *target(faster, 2.0)])

    print(f"{torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOPS\n")
    heads = "", "plain", "ours", "bound", "ratio", "target", ""
    table(heads, rows)


if __name__ == "__main__":
    main()
