#!/usr/bin/env python3
"""How far do a few labelled clips take a detector, and from which start?

> python run.py --data_folder LA --sources FOLDER --output_folder OUT

Trains the small log-mel CNN of the recipe plainly and by meta-learning
(``starts.py``), each with the same number of backward passes, and adapts it to
8, 32 and 96 clips: of attacks that were held out from train and dev, on which
step sizes and numbers of steps are chosen; then, with several seeds, of pages
of eval, which each seed divides anew (``splits.py``). There, it is measured on
other recordings of the same pages, those of other speakers among them, and on
other pages. Writes table.md, results.json and adaptation.png.
FOLDER has sources_train.tsv, sources_dev.tsv and sources_eval.tsv. Runs that
are done are not made again: start the same command to go on.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from report import plot, table
from splits import HELD_OUT, draw, fold, read, split
from starts import STARTS, Clips, train
from tqdm import tqdm

from speechbrain_bilevel.evaluation.score_files import split_classes
from speechbrain_bilevel.inference import adaptation
from speechbrain_bilevel.inference.adaptation import STEPS, Learner, adapt
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.utils.files import write_atomically

COUNTS = 8, 32, 96
SCORE = "logit_difference"


def error_rate(network, trials):
    """EER in percent."""
    learner = learner_of(network, trials)
    return rate(learner.scores(network, np.arange(len(trials))), trials)


def rate(scores, trials):
    """EER in percent of scores of trials."""
    return 100 * eer(*split_classes(trials.assign(score=scores)))[0]


def learner_of(network, trials, seed=0):
    """What trains copies of a network on trials, or scores them."""
    is_bonafide = (trials.label == "bonafide").to_numpy()
    learner = Learner(network, SCORE, is_bonafide, seed)
    learner.read(trials.path, progress=False)
    return learner


def adapted_rates(network, few, tests, seed, steps=STEPS):
    """EERs on each of tests after each number of steps on a few clips."""
    learner, every = learner_of(network, few, seed), np.arange(len(few))
    readers = [learner_of(network, test) for test in tests]
    return {
        number: [
            rate(reader.scores(network, np.arange(len(test))), test)
            for reader, test in zip(readers, tests)
        ]
        for number, network in learner.train("all", every, steps)
    }


def groups_of(trials):
    """The tasks of meta-training: the pages of spoofed clips."""
    return trials.page.where(trials.label == "spoof", "-").to_numpy()


def prepared(job, sources):
    """The start of a job, and what it is adapted to and measured on."""
    corpora = {
        part: read(job["data"], Path(sources, f"sources_{part}.tsv"), part)
        for part in (("train", "dev") if job["fold"] else ("train", "eval"))
    }
    if job["fold"]:
        held_out = HELD_OUT[job["fold"] - 1]
        seen, pool, test = fold(corpora["train"], corpora["dev"], held_out, 0)
        tests = [test]
    else:
        seen = corpora["train"]
        pool, *tests = split(corpora["eval"], job["seed"])
    network = train(
        job["start"],
        job["settings"],
        Clips(seen),
        groups_of(seen),
        job["seed"],
        job["budget"],
    )
    return network, pool, tests


def run(job, sources, path):
    """Make a job, unless it was made: a start, adapted in all ways."""
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    network, pool, tests = prepared(job, sources)
    found = {"before": [error_rate(network, test) for test in tests]}
    for count in COUNTS:
        few, seed = draw(pool, count, job["seed"]), job["seed"]
        steps = job["steps"].get(str(count), STEPS)
        found[count] = adapted_rates(network, few, tests, seed, steps)
        if job["adapt"]:
            found[f"adapt {count}"] = by_command(network, few, tests, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path.parent, {path.name: json.dumps(found)})
    return json.loads(path.read_text())


def by_command(network, few, tests, seed):
    """EERs after what `speechbrain-bilevel adapt` does in two minutes on a
    core, and what it chose."""
    try:
        found = adapt(
            *(network, few, SCORE, few.recording),
            minutes=2,
            seed=seed,
            progress=False,
        )
    except adaptation.NoGainError:
        return {"choice": None}
    return {
        "choice": [found.method, found.steps],
        "rates": [error_rate(found.network, test) for test in tests],
    }


def run_all(plan, sources, jobs):
    """Make all jobs of {path: job}, some at a time; return their results."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        futures = {
            pool.submit(run, job, sources, path): path
            for path, job in plan.items()
        }
        done = concurrent.futures.as_completed(futures)
        return {
            futures[future]: future.result()
            for future in tqdm(done, "runs", len(futures))
        }


def choose(tried):
    """The settings, and the steps for each number of clips, of a start.

    ``tried`` has the results of each fold for each of the start's settings.
    """
    means = [
        {
            count: {
                steps: np.mean([f[count][steps][0] for f in folds])
                for steps in folds[0][count]
            }
            for count in map(str, COUNTS)
        }
        for folds in tried
    ]
    best = [np.mean([min(m[c].values()) for c in m]) for m in means]
    number = int(np.argmin(best))
    steps = {
        count: [int(min(each, key=each.get))]
        for count, each in means[number].items()
    }
    return number, steps, best[number]


def main():
    """Choose on the folds, then measure on eval."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--output_folder", type=Path, required=True)
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=list(STARTS)
    )
    parser.add_argument(
        "--budget", type=int, default=348, help="backward passes of 32 clips"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--command_seeds", type=int, default=3, help="those that `adapt` runs"
    )
    parser.add_argument("--jobs", type=int, default=2, help="a core each")
    args = parser.parse_args()
    output = args.output_folder
    common = {"data": args.data_folder, "budget": args.budget}
    plan = {
        output / "folds" / f"{name}_{number}_{which}.json": dict(
            **common,
            start=name,
            settings=settings,
            seed=1,
            fold=which,
            steps={},
            adapt=False,
        )
        for name in args.starts
        for number, settings in enumerate(STARTS[name].settings)
        for which in range(1, len(HELD_OUT) + 1)
    }
    found = run_all(plan, args.sources, args.jobs)
    chosen = {}
    for name in args.starts:
        tried = [
            [
                found[output / "folds" / f"{name}_{number}_{which}.json"]
                for which in range(1, len(HELD_OUT) + 1)
            ]
            for number in range(len(STARTS[name].settings))
        ]
        number, steps, on_folds = choose(tried)
        settings = STARTS[name].settings[number]
        chosen[name] = dict(settings=settings, steps=steps, on_folds=on_folds)
    write_atomically(output, {"chosen.json": json.dumps(chosen, indent=1)})
    plan = {
        output / "eval" / f"{name}_{seed}.json": dict(
            **common,
            start=name,
            settings=chosen[name]["settings"],
            seed=seed,
            fold=0,
            steps=chosen[name]["steps"],
            adapt=name == "plain" and seed <= args.command_seeds,
        )
        for seed in range(1, args.seeds + 1)
        for name in args.starts
    }
    found = run_all(plan, args.sources, args.jobs)
    results = {
        name: [
            found[output / "eval" / f"{name}_{seed}.json"]
            for seed in range(1, args.seeds + 1)
        ]
        for name in args.starts
    }
    text = table(results, chosen)
    plot(results, output / "adaptation.png")
    results = json.dumps({"chosen": chosen, "results": results}, indent=1)
    write_atomically(output, {"table.md": text, "results.json": results})
    print(text)


if __name__ == "__main__":
    main()
