#!/usr/bin/env python3
"""The reference systems side by side: every network, trained plainly.

> python run.py --data_folder /path/to/LA --output_folder OUT

Trains each with the recipe, with the same number of backward passes of 32
clips, and prints a table: error rates on eval, parameters, time, memory,
clips a second, and what was published on ASVspoof2019 LA. Runs that are done
are not made again: start the same command to go on. ``--systems`` names some.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from systems import SYSTEMS
from tqdm import tqdm

from speechbrain_bilevel import SpoofDetector
from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.utils.files import write_atomically

HERE = Path(__file__).resolve().parent
HPARAMS = HERE.parents[1] / "recipes/ASVspoof2019/LA/hparams"
BATCH, ROUNDS = 32, 7
#: Attacks of eval that training has seen.
KNOWN = ("A16", "A19")
HEADS = (
    "network",
    "parameters",
    "seeds",
    "unseen attacks, EER %",
    "known attacks, EER %",
    "training",
    "memory",
    "clips/s",
    "published on LA eval, EER % / min t-DCF",
)


def run(name, corpus, output, seed, passes):
    """Make a run, unless it is there, and return what it gave."""
    system, done = SYSTEMS[name], output / "run.json"
    n_clips = len(read_asvspoof2019_protocol(corpus, "train"))
    epochs = max(1, passes // (n_clips // BATCH))
    overrides = {
        "data_folder": corpus,
        "output_folder": output,
        "seed": seed,
        "batch_size": BATCH,
        "number_of_epochs": epochs,
        "training_steps": epochs * (n_clips // BATCH),
        "num_workers": 0,
        "test_loader_kwargs": f"{{batch_size: {BATCH}}}",
        **system.overrides,
    }
    words = [str(HPARAMS / f"{system.yaml}.yaml"), "--noprogressbar"]
    words += ["--device", "cpu"]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    settings = output / "command.txt"
    if not done.exists():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        write_atomically(output, {settings.name: "\n".join(words)})
        with open(output / "out.txt", "w") as out:
            code = subprocess.run(
                [sys.executable, HERE / "train_one.py", *words],
                stdout=out,
                stderr=subprocess.STDOUT,
            ).returncode
        if code:
            raise SystemExit(f"{output / 'out.txt'}: {name} failed")
    elif settings.read_text() != "\n".join(words):
        raise SystemExit(
            f"{output}: made with other settings; choose another "
            "--output_folder"
        )
    return json.loads(done.read_text()) | error_rates(
        output / "eval_scores.txt"
    )


def error_rates(path):
    """EER in percent, of unseen and of known attacks."""
    scores = read_cm_scores(path)
    bonafide = scores.score[scores.label == "bonafide"]
    spoof = scores[scores.label == "spoof"]
    known = spoof.attack.isin(KNOWN)
    sets = {"unseen": spoof.score[~known], "known": spoof.score[known]}
    return {
        name: 100 * eer(bonafide, of)[0] if len(of) else float("nan")
        for name, of in sets.items()
    }


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


def interval(values):
    """Mean ± half of the 95 % interval of Student's t over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return f"{np.mean(values):.1f} ± {half:.1f}"


def row(name, runs, speed):
    """A line of the table."""
    system = SYSTEMS[name]
    minutes = statistics.median(run["seconds"] for run in runs) / 60
    published = system.published
    if system.source:
        published += f" ([source]({system.source}))"
    return [
        system.description,
        f"{runs[0]['parameters']:,}",
        len(runs),
        *(interval([run[k] for run in runs]) for k in ("unseen", "known")),
        f"{minutes:.1f} min",
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
