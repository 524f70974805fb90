#!/usr/bin/env python3
"""How far does `speechbrain-bilevel adapt` take a finished detector?

> python published.py --source DETECTOR --data_folder LA --sources FOLDER

Adapts it to clips of eval, and measures it on the same parts of eval as
``run.py`` does, and on dev: what it forgets.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from report import PLACES
from run import COUNTS, learner_of, rate
from splits import draw, read, split

from speechbrain_bilevel.inference.adaptation import (
    METHODS,
    NoGainError,
    adapt,
)
from speechbrain_bilevel.inference.config import CONFIG, WEIGHTS
from speechbrain_bilevel.inference.pretrained import load


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    config, network = load(args.source / CONFIG, args.source / WEIGHTS)
    parts = [
        read(args.data_folder, args.sources / f"sources_{part}.tsv", part)
        for part in ("dev", "eval")
    ]
    trials = pd.concat(parts, ignore_index=True)
    reader, every = learner_of(network, trials), np.arange(len(trials))
    own = reader.scores(network, every)
    dev, trials = trials[: len(parts[0])], trials[len(parts[0]) :]
    heads = "clips", "seed", "chosen", "minutes", *PLACES, "dev"
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|", flush=True)
    for seed in args.seeds:
        pool, *tests = split(trials, seed)
        tests.append(dev)
        before = [rate(own[test.index], test) for test in tests]
        cells = [f"{each:.1f}" for each in before]
        print(f"| 0 | {seed} | - | - | " + " | ".join(cells) + " |", flush=True)
        for count in args.counts:
            few, start = draw(pool, count, seed), time.perf_counter()
            chosen, rates = "kept as it was", before
            try:
                found = adapt(
                    *(network, few, config.score, few.recording),
                    methods=args.methods,
                    minutes=args.minutes,
                    seed=seed,
                )
            except NoGainError:
                found = None
            minutes = (time.perf_counter() - start) / 60
            if found is not None:
                chosen = f"{found.method}, {found.steps} steps"
                scores = reader.scores(found.network, every)
                rates = [rate(scores[test.index], test) for test in tests]
            cells = [f"{each:.1f}" for each in rates]
            row = count, seed, chosen, f"{minutes:.1f}", *cells
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
