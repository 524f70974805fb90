#!/usr/bin/env python3
"""Does bi-level training help against attacks that training never saw?

> python run.py --data_folder /path/to/LA --output_folder OUT

Trains the small log-mel CNN of the recipe in many ways (``arms.py``), all
with the same number of backward passes. First each arm is tried on folds of
train and dev with attacks held out; the arm with a second level, or with copies
of bona fide clips as spoofs, that does best there is the one that is compared
with plain training. Only then every arm is trained on all attacks, with three
seeds, those to be compared with more, and eval is scored. Writes table.md,
results.json and unseen_attacks.png. Runs that are done are not made again:
start the same command to go on.
"""

import argparse
import concurrent.futures
import json
import sys
import threading
from pathlib import Path

import numpy as np
import yaml
from arms import ARMS
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from recorded_runs import recorded_run
from report import plot, table

from speechbrain_bilevel.augment.copy_synthesis import vocoder_names
from speechbrain_bilevel.dataio import NO_ATTACK
from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_asvspoof2019_protocol,
)
from speechbrain_bilevel.dataio.sampling import PairedBatchSampler, group_folds

YAMLS = {1: "train_mel_cnn", 2: "train_mel_cnn_bilevel"}
HELD_OUT = (("A01", "A02"), ("A03", "A04"), ("A05", "A06"))
BATCH = 32


# ---------------------------------------------------------------------- folds
def make_fold(corpus, folder, held_out):
    """Write a corpus whose eval set is half of dev's bona fide trials and dev's
    trials of the attacks that are held out; the audio is linked to."""
    protocols = {}
    for part in ("train", "dev"):
        path = asvspoof2019_protocol_path(corpus, part)
        lines = path.read_text().splitlines(True)
        protocols[part] = [x for x in lines if x.split()[3] not in held_out]
        unseen = [x for x in lines if x.split()[3] in held_out]
    bonafide = [x for x in protocols["dev"] if x.split()[3] == "-"]
    protocols["dev"] = [x for x in protocols["dev"] if x not in bonafide[::2]]
    protocols["eval"] = bonafide[::2] + unseen
    for part, lines in protocols.items():
        path = asvspoof2019_protocol_path(folder, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
        source = "train" if part == "train" else "dev"
        link = folder / f"ASVspoof2019_LA_{part}"
        if not link.exists():
            link.symlink_to((corpus / f"ASVspoof2019_LA_{source}").resolve())


# ----------------------------------------------------------------------- runs
def overrides(arm, corpus, attacks, seed, budget, copies_folder):
    """What an arm changes in its YAML; its epochs make the passes."""
    changed = dict(arm.overrides)
    if copies := yaml.safe_load(changed.get("copy_synthesis", "null")):
        names, bonafide = vocoder_names(copies), attacks.count(NO_ATTACK)
        each = int(changed.get("copies_per_clip", len(names)))
        attacks = attacks + (names * bonafide)[: each * bonafide]
        changed["copies_folder"] = json.dumps(str(copies_folder))
    if arm.levels == 1:
        steps = len(attacks) // arm.batch
    else:
        ends = changed.get("epoch_ends", "lower")
        folds = group_folds(attacks, 3, seed, leaky="leaky_folds" in changed)
        steps = len(PairedBatchSampler(folds, BATCH, BATCH, seed, ends))
    cost = steps * arm.passes * arm.batch / BATCH
    epochs = max(1, round(arm.budgets * budget / cost))
    size = str(len(set(attacks)))
    return {
        "data_folder": json.dumps(str(corpus)),
        "seed": seed,
        "number_of_epochs": epochs,
        "training_steps": epochs * steps,
        **{key: text.replace("SIZE", size) for key, text in changed.items()},
    }


def run(name, corpus, output, seed, budget, copies_folder):
    """Make a run, unless it is there, and return what it gave."""
    arm = ARMS[name]
    attacks = read_asvspoof2019_protocol(corpus, "train").attack.to_list()
    changed = overrides(arm, corpus, attacks, seed, budget, copies_folder)
    result = recorded_run(output, YAMLS[arm.levels], changed, threads=1)
    result["passes"] *= arm.batch / BATCH
    return result


def run_all(plan, jobs, *options):
    """Make all runs of {key: (arm, corpus, output, seed)}, some at a time."""
    stop = threading.Event()

    def guarded(arguments):
        if stop.is_set():
            return None
        try:
            return run(*arguments, *options)
        except BaseException:
            stop.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(guarded, plan[key]): key for key in plan}
        done = concurrent.futures.as_completed(futures)
        results = {
            futures[future]: future.result()
            for future in tqdm(done, "runs", len(futures))
        }
    return {key: results[key] for key in plan}


# ----------------------------------------------------------------------- main
def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument(
        "--budget", type=int, default=348, help="backward passes of 32 clips"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--final_seeds", type=int, default=5)
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time, a core each"
    )
    parser.add_argument(
        "--folds_only", action="store_true", help="choose, and leave eval alone"
    )
    args = parser.parse_args()
    if not any(ARMS[arm].chosen_from for arm in args.arms):
        parser.error("--arms: none that may be compared with plain training")
    return args


def main():
    """Try, choose, compare."""
    args = arguments()
    output = args.output_folder
    folds = {}
    for held_out in HELD_OUT:
        name = "without_" + "_".join(held_out)
        folds[name] = output / "corpora" / name
        make_fold(args.data_folder, folds[name], held_out)
    options = args.jobs, args.budget, (output / "copies").resolve()
    plain = [ARMS[arm].without for arm in args.arms]
    arms = [arm for arm in ARMS if arm in {"plain", *plain, *args.arms}]
    tried = run_all(
        {
            (arm, fold): (arm, corpus, output / fold / arm, 1)
            for fold, corpus in folds.items()
            for arm in arms
        },
        *options,
    )
    on_folds = {
        arm: [tried[arm, fold]["unseen"] for fold in folds] for arm in arms
    }
    candidates = [arm for arm in arms if ARMS[arm].chosen_from]
    best = min(candidates, key=lambda arm: np.mean(on_folds[arm]))
    (output / "chosen.yaml").write_text(
        yaml.safe_dump({"best": best, "unseen EER of the folds": on_folds})
    )
    print(f"best arm on the folds: {best}")
    if args.folds_only:
        return

    compared = ("plain", ARMS[best].without, best)
    seeds = {
        arm: args.final_seeds if arm in compared else args.seeds for arm in arms
    }
    final = run_all(
        {
            (arm, seed): (
                arm,
                args.data_folder,
                output / "all" / arm / str(seed),
                seed,
            )
            for seed in range(1, args.final_seeds + 1)
            for arm in arms
            if seed <= seeds[arm]
        },
        *options,
    )
    results = {
        arm: {
            "folds": on_folds[arm],
            "runs": [final[arm, i + 1] for i in range(seeds[arm])],
        }
        for arm in arms
    }
    (output / "results.json").write_text(json.dumps(results, indent=1))
    text = table(results, best)
    (output / "table.md").write_text(text)
    plot(results, best, output / "unseen_attacks.png")
    print(text)


if __name__ == "__main__":
    main()
