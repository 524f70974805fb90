#!/usr/bin/env python3
"""Shows the whole recipe on a synthetic corpus, in a few minutes on two cores.

To run it:
> python demo.py FOLDER

A toy corpus is written, the small V2 is trained on it plainly and bi-level,
eval is scored by both, and two files are classified. A second run with the same
folder goes on where the first one stopped. No number of it means anything but
that the software works: speech and attacks are synthetic and few.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from asvspoof2019_prepare import prepare_asvspoof2019

from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_asvspoof2019_protocol,
)
from toy_corpus import write_toy_corpus
from speechbrain_bilevel.utils.errors import exit_on_input_error

RECIPE = Path(__file__).resolve().parent
# Both trainings make as many steps, of 16 clips for each level.
STEPS = 96
# Name of the run -> its YAML and its epochs, of 12 and 8 steps on this corpus.
RUNS = {
    "plain": ("train_v2_small", 8),
    "bilevel": ("train_v2_small_bilevel", 12),
}


def train(folder, name):
    """Trains and scores one run, with its progress on the screen."""
    yaml, epochs = RUNS[name]
    heading(f"{name} training ({yaml}.yaml)")
    arguments = {
        "data_folder": folder / "LA",
        "output_folder": folder / name,
        "manifest_folder": folder / "manifests",
        "batch_size": 16,
        "number_of_epochs": epochs,
        "training_steps": STEPS,
    }
    if name == "bilevel":
        arguments["upper_batch_size"] = 16
    command = [sys.executable, RECIPE / "train.py"]
    command.append(RECIPE / "hparams" / f"{yaml}.yaml")
    for key, value in arguments.items():
        command += [f"--{key}", str(value)]
    if subprocess.run(command).returncode:
        sys.exit(f"the {name} training failed; its output is above")


def classify(folder, trials):
    """Judges one bona fide and one spoof file with the bi-level detector."""
    heading("Two files, judged by the bi-level detector")
    print("(a minute's training on 192 clips: expect it to be wrong often)")
    for label in ("bonafide", "spoof"):
        trial = next(trial for trial in trials if trial.label == label)
        print(f"{label} in truth:", flush=True)
        detector = "--source", folder / "bilevel" / "pretrained"
        run_command("classify", *detector, folder / "LA" / trial.path)


def evaluation(folder):
    """What the command for the report of both runs takes."""
    protocol = asvspoof2019_protocol_path(folder / "LA", "eval")
    asv = folder / "LA" / "ASVspoof2019_LA_asv_scores"
    return (
        *(folder / name / "eval_scores.txt" for name in RUNS),
        "--protocol",
        protocol,
        "--asv-scores",
        asv / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt",
        "--output",
        folder / "report",
    )


def run_command(*words):
    """Runs ``speechbrain-bilevel``."""
    program = sys.executable, "-m", "speechbrain_bilevel.cli"
    subprocess.run([*program, *map(str, words)], check=True)


def heading(text):
    """Announces the next part."""
    print(f"\n=== {text}", flush=True)


def main(folder):
    """Runs all parts.

    Arguments
    ---------
    folder : Path
        Everything is written here.
    """
    heading("A synthetic corpus in the layout of ASVspoof2019 LA")
    folder.mkdir(parents=True, exist_ok=True)
    write_toy_corpus(folder / "LA")
    prepare_asvspoof2019(folder / "LA", folder / "manifests")
    for name in RUNS:
        train(folder, name)

    heading("Eval, side by side (synthetic data: the numbers mean nothing)")
    run_command("evaluate", *evaluation(folder))
    classify(folder, read_asvspoof2019_protocol(folder / "LA", "eval"))

    heading("Where everything lies")
    print(f"corpus      {folder / 'LA'}")
    for name in RUNS:
        print(f"{name:10}  {folder / name}/")
    print(
        "  in each:  train_log.txt, {dev,eval}_scores.txt, eval_report.txt, save/"
    )
    print("            pretrained/ for SpoofDetector.from_hparams")
    print(f"plots       {folder / 'report' / 'report.html'}")
    print(
        "\nJudge a recording of yours:\n"
        f"  .venv/bin/speechbrain-bilevel classify --source "
        f"{folder / 'bilevel' / 'pretrained'} FILE"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    with exit_on_input_error():
        main(parser.parse_args().folder)
