#!/usr/bin/env python3
"""Measure what a trial costs in memory, so that millions of them fit.

> python benchmarks/memory.py
> python benchmarks/memory.py --trials 10000000

Prints a table: bytes a trial at the peak and afterwards, as ordinary objects
and as they are held here, each in a process of its own. A training set that is
too large for SpeechBrain's ``from_csv`` is read by its ``from_arrow_dataset``,
from a table of Hugging Face's ``datasets`` that stays on the disk.
"""

import argparse
import json
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from measure import (
    apart,
    peak_memory,
    release_memory,
    resident,
    table,
    target,
)
from speechbrain.dataio.dataset import DynamicItemDataset
from tqdm import tqdm

from speechbrain_bilevel.dataio.prepare import COLUMNS
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.dataio.sampling import (
    PairedBatchSampler,
    group_folds,
)
from speechbrain_bilevel.inference.scoring import ResumableScoreFile

datasets.disable_progress_bars()


def names(trials):
    """Yield utt, speaker and attack of each trial."""
    for n in range(trials):
        attack = f"A{n % 19 + 1:02}" if n % 10 else "-"
        yield f"LA_E_{n:08}", f"LA_{n % 67:04}", attack


def label(attack):
    """The label of a trial."""
    return "bonafide" if attack == "-" else "spoof"


def write_protocol(path, trials):
    """Write a protocol as ASVspoof2019 has them."""
    with open(path, "w", encoding="utf-8") as file:
        for utt, speaker, attack in names(trials):
            file.write(f"{speaker} {utt} - {attack} {label(attack)}\n")


def write_manifest(path, trials):
    """Write a manifest as the recipe prepares it."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for utt, speaker, attack in names(trials):
            wav = f"$data_root/ASVspoof2019_LA_train/flac/{utt}.flac"
            cells = utt, "3.25", wav, speaker, attack, label(attack)
            file.write(",".join(cells) + "\n")


def protocol_objects(folder):
    """A tuple for each line of the protocol."""
    lines = protocol(folder).read_text().splitlines()
    return [tuple(line.split()) for line in lines]


def protocol(folder):
    """Where the protocol lies."""
    return folder / "ASVspoof2019.LA.cm.eval.trl.txt"


def training_set(folder):
    """A training set from an Arrow table, with its sampler and a clip read."""
    text = datasets.Features(dict.fromkeys(COLUMNS, datasets.Value("string")))
    rows = datasets.Dataset.from_csv(
        str(folder / "train.csv"),
        features=text,
        keep_default_na=False,
        cache_dir=str(folder / "arrow"),
    )
    clips = DynamicItemDataset.from_arrow_dataset(
        rows, output_keys=["ID", "wav"]
    )
    attacks = rows.data.column("attack").to_numpy()
    sampler = PairedBatchSampler(group_folds(attacks), 32, 32)
    assert clips[next(iter(sampler))[0]]["wav"].endswith(".flac")
    return clips, sampler


def half_scored(folder, trials):
    """Write half of the scores of a run that was then stopped."""
    scores = score_file(folder)
    scores.add(np.arange(trials // 2), [0.25] * (trials // 2))


def score_file(folder):
    """The scores of a run that may have been stopped before."""
    torch.manual_seed(0)
    trials = read_protocol(protocol(folder))
    network = torch.nn.Linear(1, 1)
    return ResumableScoreFile(folder / "scores.txt", trials, network, {})


# As ordinary objects, as they are held here, and the most bytes a trial that
# the latter may take.
HOLDERS = {
    "trials of a protocol": {
        "objects": protocol_objects,
        "here": lambda folder: read_protocol(protocol(folder)),
        "allowed": 128,
    },
    "clips of a training set": {
        "objects": lambda folder: DynamicItemDataset.from_csv(
            str(folder / "train.csv"), {"data_root": "/LA"}
        ),
        "here": training_set,
        "allowed": 128,
    },
    "trials and scores of a resumed run": {
        "objects": lambda folder: {
            row[1]: (row, 0.25) for row in protocol_objects(folder)
        },
        "here": score_file,
        "allowed": 128,
    },
}


def measure(name, how, folder):
    """Bytes at the peak, and those that stay."""
    hold, held = HOLDERS[name][how], []
    # What is imported or built once costs no trial anything.
    with tempfile.TemporaryDirectory() as small:
        write_all(Path(small), 1000)
        hold(Path(small))
    release_memory()
    # Without the pages of mapped files, which the system may drop.
    before = resident("RssAnon")
    peak = peak_memory(lambda: held.append(hold(Path(folder))))
    release_memory()
    return peak, resident("RssAnon") - before


def write_all(folder, trials):
    """Write the files that are read."""
    write_protocol(protocol(folder), trials)
    write_manifest(folder / "train.csv", trials)
    half_scored(folder, trials)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    trials = arguments.trials
    if arguments.row:
        print(json.dumps(measure(*arguments.row)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder), trials)
        for name in tqdm(HOLDERS, "rows"):
            objects, here = (
                apart(__file__, "--row", name, how, folder)
                for how in ("objects", "here")
            )
            cells = [f"{b / trials:.0f} B" for b in (*objects, *here)]
            verdict = target(
                here[1] / trials,
                HOLDERS[name]["allowed"],
                at_least=False,
                shape="{:.0f} B",
            )
            rows.append([name, *cells, *verdict[1:]])
    print(f"{trials:,} trials\n")
    heads = [
        "bytes a trial",
        "as objects, peak",
        "as objects, after",
        "here, peak",
        "here, after",
        "target, after",
        "",
    ]
    table(heads, rows)


if __name__ == "__main__":
    main()
