#!/usr/bin/env python3
"""Try to lose or spoil something: kills, full disks, two at once, bad input.

> python run.py WORK

All commands run on a toy corpus in the folder WORK. A table of what was tried
and what held is printed, and each failure with what is needed to repeat it; the
exit code is 1 if anything failed. About an hour; --quick takes a minute.
"""

import argparse
import gc
import itertools
import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
RECIPE = HERE.parents[1] / "recipes" / "ASVspoof2019" / "LA"
sys.path[:0] = [str(HERE), str(RECIPE)]

# Before the first fork, so that no process has to import them.
import matplotlib.pyplot  # noqa: F401
import numpy as np
import torch
import torch._dynamo
import train
from bad_inputs import bad_inputs
from speechbrain.utils.seed import seed_everything
from toy_corpus import write_toy_corpus
from trials import Command, Process, Table, Trials, digest, refusal

from speechbrain_bilevel import cli
from speechbrain_bilevel.dataio.protocols import (
    read_asvspoof2019_protocol,
)
from speechbrain_bilevel.evaluation.score_files import (
    write_cm_scores,
)
from speechbrain_bilevel.inference import (  # noqa: F401
    arena,
    export,
    hub,
    importers,
    scoring,
)
from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.pretrained import write_folder
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.distributed import (
    closing_process_group,
)
from speechbrain_bilevel.utils.errors import exit_on_input_error

TRAINING = {
    "network": "{n_mels: 16, channels: [2, 3], embedding_size: 4}",
    "num_samples": 4000,
    "train_samples": 4000,
    "batch_size": 8,
    "upper_batch_size": 8,
    "number_of_epochs": 2,
    "training_steps": 12,
    "num_workers": 0,
}


def shell(*words):
    """A call of `speechbrain-bilevel`."""
    return lambda: cli.main([str(word) for word in words])


def training(corpus, *flags, yaml=None):
    """A call of `python train.py` that writes to the folder out."""
    words = [yaml]
    if yaml is None:
        words = [RECIPE / "hparams" / "train_mel_cnn_bilevel.yaml"]
        words += ["--device", "cpu", "--noprogressbar"]
        options = {"data_folder": corpus, "output_folder": "out"}
        for key, value in (TRAINING | options).items():
            words += [f"--{key}", value]

    def call():
        warnings.simplefilter("ignore")
        sys.argv = ["train.py", *(str(word) for word in (*words, *flags))]
        with exit_on_input_error(), closing_process_group():
            train.main()

    return call


def make_inputs(work):
    """Write a corpus, a detector and score files; return their paths."""
    corpus, detector = work / "LA", work / "detector"
    write_toy_corpus(corpus, clips_per_attack=2, bonafide=16)
    if not detector.exists():
        seed_everything(0, verbose=False)
        network = build("MelCNN", {"num_samples": 4000, "n_mels": 16})
        config = DetectorConfig.of(network, "logit_difference")
        write_folder(detector, config, network.state_dict(), "A card.\n")
    paths = {"corpus": corpus, "detector": detector}
    for partition in ("dev", "eval"):
        paths[partition] = work / f"{partition}.txt"
        trials = read_asvspoof2019_protocol(corpus, partition)
        noise = np.random.default_rng(0).normal(size=len(trials))
        trials["score"] = noise + 2 * (trials.label == "bonafide")
        write_cm_scores(paths[partition], trials)
    paths["experiment"] = work / "experiment"
    paths["experiment"].mkdir(exist_ok=True)
    finish(training(corpus), paths["experiment"])
    paths["report"] = work / "earlier_report"
    words = "evaluate", paths["dev"], "--resamples", 10, "--output", "report"
    paths["report"].mkdir(exist_ok=True)
    finish(shell(*words), paths["report"])
    paths["clip"] = sorted(corpus.rglob("*.flac"))[0]
    return paths


def finish(call, folder):
    """Run a call that has to succeed."""
    code, text = Process(call, folder).wait()
    if code:
        raise SystemExit(f"exit code {code}: {text}")


def commands(paths):
    """All that writes files."""
    corpus, detector = paths["corpus"], paths["detector"]
    dev, eval_ = paths["dev"], paths["eval"]
    source = "--source", detector
    report = ["metrics.json", "metrics.txt", "report.html"]
    report += [f"{name}.png" for name in ("det", "attacks", "scores")]
    folder = ["README.md", "config.json", "model.safetensors"]
    folder += ["hyperparams.yaml", "custom.py"]
    run = ["dev_scores.txt", "eval_scores.txt", "eval_report.txt"]
    run += ["train_log.txt", *(f"pretrained/{name}" for name in folder)]
    run += [f"manifests/{name}.csv" for name in ("train", "dev", "eval")]
    run = [f"out/{name}" for name in run]
    yield Command(
        "prepare",
        shell("prepare", corpus, "m.csv", "--partition", "dev"),
        ["m.csv"],
    )
    yield Command(
        "calibrate",
        shell("calibrate", eval_, "--learn", dev, "--output", "c.txt"),
        ["c.txt"],
    )
    yield Command(
        "fuse",
        shell("fuse", dev, dev, "--weights", 1, 2, "--output", "f.txt"),
        ["f.txt"],
    )
    evaluate = "evaluate", eval_, "--resamples", 10, "--output", "report"
    yield Command(
        "evaluate",
        shell(*evaluate),
        [f"report/{name}" for name in report],
    )
    yield Command(
        "evaluate again",
        shell(*evaluate),
        [f"report/{name}" for name in report],
        given=paths["report"],
        may_lose=True,
    )
    yield Command(
        "export",
        shell("export", paths["experiment"] / "out", "detector"),
        [f"detector/{name}" for name in folder],
    )
    words = "score", corpus, "s.txt", *source, "--partition", "dev"
    yield Command(
        "score", shell(*words, "--batch-size", 4), ["s.txt", "s.txt.json"]
    )
    clip = paths["clip"]
    words = "classify", clip, *source, "--segments", "--plot", "plots"
    yield Command("classify", shell(*words), [f"plots/{clip.name}.png"])
    yield Command(
        "train",
        training(corpus, "--ckpt_interval_steps", 2),
        run,
        logs=["out/train_log.txt"],
    )
    yield Command(
        "train again", training(corpus), run, given=paths["experiment"]
    )


def try_bad_inputs(paths, work, table, step):
    """Each must be refused, with nothing written and nothing changed."""
    cases = bad_inputs(paths, shell, training)
    for command, what, prepare, call in itertools.islice(cases, 0, None, step):
        folder = work / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if prepare is not None:
            prepare(folder)
        before = digest(folder)
        code, text = Process(call, folder).wait()
        problem = refusal(code, text)
        if problem is None and digest(folder) != before:
            changed = digest(folder).items() ^ before.items()
            names = {name for name, _ in changed}
            if command != "train" or not all("/out" in n for n in names):
                problem = f"changed {sorted(names)}"
        table.add("bad input", f"{command}: {what}", problem)


def main():
    """Run all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of commands, and bad")
    args = parser.parse_args()
    work, table = args.work.resolve(), Table()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    # Else each process that is forked would copy what it collects.
    gc.freeze()
    paths = make_inputs(work)
    inputs = digest(paths["corpus"]), digest(paths["detector"])
    only = args.only and args.only.split(",")
    for command in commands(paths):
        if only and command.name not in only:
            continue
        trials = Trials(command, work, table, args.seed)
        print(f"{command.name}: {trials.steps} writes, {trials.seconds:.1f} s")
        is_long = trials.seconds > 1
        if args.quick:
            trials.kill_at_steps(1 if is_long else 3)
            trials.kill_at_random(1)
            continue
        trials.kill_at_steps(60 if is_long else 1000)
        trials.kill_at_random(24 if is_long else 18)
        # Semaphores are files of 32 bytes.
        trials.fill_disk([40, 100, 1000, 5000, 20_000, 100_000])
        trials.fill_output()
        trials.run_twice_at_once(4)
    if not only or "bad" in only:
        try_bad_inputs(paths, work, table, 8 if args.quick else 1)
    if inputs != (digest(paths["corpus"]), digest(paths["detector"])):
        table.add("inputs", "the corpus or the detector", "was changed")
    print(f"\n{table.lines()}")
    for failure in table.failures:
        print(failure)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
