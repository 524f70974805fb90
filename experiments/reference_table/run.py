#!/usr/bin/env python3
"""The reference systems side by side: every network, trained plainly.

> python run.py --data_folder /path/to/LA --output_folder OUT

Trains each with the recipe, with the same number of backward passes of 32
clips, and prints a table: error rates on eval, parameters, CPU time of all
cores, memory, clips a second, and what was published on LA's eval. Runs that
are done are not made again: start the same command to go on. ``--systems``
names some.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from recorded_runs import recorded_run, spread
from systems import SYSTEMS
from tqdm import tqdm

from speechbrain_bilevel import SpoofDetector
from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.utils.files import write_atomically

BATCH, ROUNDS = 32, 7
HEADS = (
    "network",
    "parameters",
    "seeds",
    "unseen attacks, EER %",
    "known attacks, EER %",
    "training, CPU min",
    "memory",
    "clips/s",
    "published on LA eval, EER % / min t-DCF",
)


def run(name, corpus, output, seed, passes):
    """Make a run, unless it is there, and return what it gave."""
    n_clips = len(read_asvspoof2019_protocol(corpus, "train"))
    epochs = max(1, passes // (n_clips // BATCH))
    overrides = {
        "data_folder": json.dumps(str(corpus)),
        "seed": seed,
        "batch_size": BATCH,
        "number_of_epochs": epochs,
        "training_steps": epochs * (n_clips // BATCH),
        "num_workers": 0,
        "test_loader_kwargs": f"{{batch_size: {BATCH}}}",
        **SYSTEMS[name].overrides,
    }
    return recorded_run(output, SYSTEMS[name].yaml, overrides)


@torch.no_grad()
def clips_per_second(folder):
    """How fast a detector scores batches of 8, with torch, on all cores."""
    network = SpoofDetector.from_hparams(folder).mods.network
    wavs, seconds = 0.05 * torch.randn(8, network.num_samples), []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        network(wavs)
        seconds.append(time.perf_counter() - start)
    return len(wavs) / statistics.median(seconds[1:])


def row(name, runs, speed):
    """A line of the table."""
    system = SYSTEMS[name]
    minutes = statistics.median(run["training_seconds"] for run in runs) / 60
    published = system.published
    if system.source:
        published += f" ([source]({system.source}))"
    return [
        system.description,
        f"{runs[0]['parameters']:,}",
        len(runs),
        *(spread([run[k] for run in runs]) for k in ("unseen", "known")),
        f"{minutes:.1f}",
        f"{max(run['memory'] for run in runs) / 1e9:.1f} GB",
        f"{speed:.1f}",
        published,
    ]


def main():
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS)
    )
    parser.add_argument(
        "--passes", type=int, default=348, help="backward passes of 32 clips"
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    found = {name: [] for name in args.systems}
    plan = [(s, n) for s in range(1, args.seeds + 1) for n in args.systems]
    for seed, name in tqdm(plan, unit="run"):
        output = args.output_folder / name / str(seed)
        found[name].append(
            run(name, args.data_folder, output, seed, args.passes)
        )
    rows = [HEADS, ["---"] * len(HEADS)]
    for name, runs in found.items():
        detector = args.output_folder / name / "1" / "pretrained"
        rows.append(row(name, runs, clips_per_second(detector)))
    text = "".join("| " + " | ".join(map(str, r)) + " |\n" for r in rows)
    write_atomically(args.output_folder, {"table.md": text})
    print(text)


if __name__ == "__main__":
    main()
