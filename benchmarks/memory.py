#!/usr/bin/env python3
"""Measures what a trial costs in memory, so that millions of them fit.

> python benchmarks/memory.py
> python benchmarks/memory.py --trials 10000000

Prints a table: bytes a trial at the peak and afterwards, as ordinary objects
and as this package holds them, each in a process of its own.
"""

import argparse
import gc
import itertools
import json
import tempfile
from pathlib import Path

import torch
from measure import apart, peak_memory, resident, table, target
from speechbrain.dataio.dataset import DynamicItemDataset
from tqdm import tqdm

from speechbrain_bilevel.dataio.manifest_dataset import ManifestDataset
from speechbrain_bilevel.dataio.prepare import COLUMNS
from speechbrain_bilevel.dataio.protocols import Trial
from speechbrain_bilevel.dataio.trial_table import TrialTable
from speechbrain_bilevel.dataio.views import View
from speechbrain_bilevel.inference.scoring import ScoreFile


def names(trials):
    """The utt, attack and label of each trial, made as they are asked for."""
    return View(
        range(trials),
        lambda n: (f"LA_E_{n:08}", f"A{n % 19:02}", "spoof"),
    )


def made_up(trials):
    """Yields trials as a protocol of ASVspoof names them."""
    for number, (utt, attack, label) in enumerate(names(trials)):
        path = f"/data/LA/ASVspoof2019_LA_eval/flac/{utt}.flac"
        speaker = f"LA_{number % 67:04}"
        yield Trial(utt, path, speaker, attack, label, "eval")


def write_manifest(path, trials):
    """A manifest as the recipe prepares it."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for utt, attack, label in names(trials):
            wav = f"$data_root/ASVspoof2019_LA_train/flac/{utt}.flac"
            file.write(f"{utt},3.25,{wav},LA_0001,{attack},{label}\n")


def half_scored(path, trials):
    """A score file that goes on where a run was stopped."""
    rows, network = names(trials), torch.nn.Linear(1, 1)
    scores = ScoreFile(path, rows, network)
    half = [utt for utt, _, _ in itertools.islice(rows, trials // 2)]
    scores.add(half, [0.25] * len(half))


# As ordinary objects, as this package holds them, and the most bytes a trial
# that the latter may take.
HOLDERS = {
    "trials of a protocol": {
        "objects": lambda folder, trials: list(made_up(trials)),
        "here": lambda folder, trials: TrialTable(made_up(trials)),
        "allowed": 128,
    },
    "clips of a training set": {
        "objects": lambda folder, trials: DynamicItemDataset.from_csv(
            str(folder / "train.csv"), {"data_root": "/LA"}
        ),
        "here": lambda folder, trials: ManifestDataset.from_csv(
            str(folder / "train.csv"), {"data_root": "/LA"}
        ),
        "allowed": 64,
    },
    "scores of a resumed run": {
        "objects": lambda folder, trials: {
            utt: 0.25 for utt, _, _ in names(trials)
        },
        "here": lambda folder, trials: ScoreFile(
            folder / "scores.txt", names(trials), torch.nn.Linear(1, 1)
        ),
        "allowed": 64,
    },
}


def measure(name, how, folder, trials):
    """Bytes at the peak, and those that stay."""
    torch.manual_seed(0)
    held = []
    # What is imported or built once costs no trial anything.
    list(made_up(1))
    before = resident("VmRSS")
    hold = HOLDERS[name][how]
    peak = peak_memory(lambda: held.append(hold(Path(folder), trials)))
    gc.collect()
    return peak, resident("VmRSS") - before


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    trials = arguments.trials
    if arguments.row:
        print(json.dumps(measure(*arguments.row, trials)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder) / "train.csv", trials)
        torch.manual_seed(0)
        half_scored(Path(folder) / "scores.txt", trials)
        for name in tqdm(HOLDERS, "rows"):
            words = [[name, how, folder] for how in ("objects", "here")]
            objects, here = (
                apart(__file__, "--row", *row, "--trials", trials)
                for row in words
            )
            cells = [f"{b / trials:.0f} B" for b in (*objects, here[1])]
            allowed = HOLDERS[name]["allowed"]
            verdict = target(
                here[0] / trials, allowed, at_least=False, shape="{:.0f} B"
            )
            rows.append([name, *cells, *verdict])
    print(f"{trials:,} trials\n")
    heads = [
        "bytes a trial",
        "as objects, peak",
        "as objects, after",
        "here, after",
        "here, peak",
        "target",
        "",
    ]
    table(heads, rows)


if __name__ == "__main__":
    main()
