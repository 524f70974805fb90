#!/usr/bin/env python3
"""Shows the whole recipe on a synthetic corpus, in two minutes on two cores.

To run it:
> python demo.py FOLDER

A toy corpus is written, the small log-mel CNN is trained on it plainly and
bi-level, eval is scored by both, and two files are classified. A second run
with the same folder resumes where the first one stopped. Its numbers mean
nothing but that the software works: speech and attacks are synthetic, and the
attacks have a trace in common that makes the task easy; see LA/README.txt.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from toy_corpus import write_toy_corpus
from tqdm import tqdm

from speechbrain_bilevel import cli
from speechbrain_bilevel.dataio.protocols import asvspoof2019_protocol_path
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.utils.errors import exit_on_input_error

RECIPE = Path(__file__).resolve().parent
# Both trainings make so many steps, of 16 clips for each level.
STEPS = 192
# Name of the run -> its YAML and its epochs, of 12 and 8 steps on this corpus.
RUNS = {
    "plain": ("train_mel_cnn.yaml", 16),
    "bilevel": ("train_mel_cnn_bilevel.yaml", 24),
}


def train(folder, name):
    """Train and score one run; its output goes to a file."""
    yaml, epochs = RUNS[name]
    output = folder / name
    arguments = {
        "data_folder": folder / "LA",
        "output_folder": output,
        "manifest_folder": folder / "manifests",
        "batch_size": 16,
        "upper_batch_size": 16,
        "number_of_epochs": epochs,
        "training_steps": STEPS,
    }
    command = [sys.executable, RECIPE / "train.py", RECIPE / "hparams" / yaml]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    output.mkdir(exist_ok=True)
    # With one thread, neither the number of cores nor what else they do
    # changes the result or slows it down much.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    console = output / "console.txt"
    with (
        open(console, "wb") as file,
        tqdm(total=epochs, desc=name, unit="epoch", disable=None) as bar,
        subprocess.Popen(
            command, stdout=file, stderr=file, env=environment
        ) as process,
    ):
        while process.poll() is None:
            time.sleep(0.2)
            bar.update(epochs_done(output) - bar.n)
    if process.returncode:
        end = "\n".join(console.read_text(errors="replace").splitlines()[-15:])
        sys.exit(f"{end}\n\nthe {name} training failed; see {console}")


def epochs_done(output):
    """Count the epochs that a training has logged."""
    log = output / "train_log.txt"
    return log.read_text().count("epoch: ") if log.is_file() else 0


def evaluate(folder):
    """Print the report of both runs, and write it with its plots."""
    asv = folder / "LA" / "ASVspoof2019_LA_asv_scores"
    command = [
        "evaluate",
        *(folder / name / "eval_scores.txt" for name in RUNS),
    ]
    command += ["--protocol", asvspoof2019_protocol_path(folder / "LA", "eval")]
    command += ["--asv-scores"]
    command += [asv / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt"]
    command += ["--output", folder / "report"]
    cli.main([str(word) for word in command])


def classify(folder):
    """Classify the longest spoof and the longest bona fide clip of eval."""
    source = folder / "bilevel" / "pretrained"
    detector = SpoofDetector.from_hparams(str(source))
    trials = pd.read_csv(folder / "manifests" / "eval.csv")
    longest = trials.loc[trials.groupby("label").duration.idxmax()]
    print("truth         verdict   score  file")
    columns = longest.label, longest.attack, longest.wav
    for truth, attack, path in zip(*columns):
        path = path.replace("$data_root", str(folder / "LA"))
        verdict = detector.score_file(path)
        print(
            f"{truth:8} {attack:3}  {verdict.label:8}  {verdict.score:+5.1f}  "
            f"{path}"
        )
        print(f"  {verdict.meaning}")


def main(folder):
    """Run all stages; everything goes into a folder."""
    print("1/5  A synthetic corpus in the layout of ASVspoof2019 LA")
    write_toy_corpus(folder / "LA")
    print("2/5  Plain training: one level, all attacks")
    train(folder, "plain")
    print("3/5  Bi-level training: the encoder learns on held-out attacks")
    train(folder, "bilevel")
    print("4/5  Both on eval; of its attacks, training had only A16 and A19")
    print("     (toy data: the numbers say no more than that it works)\n")
    evaluate(folder)
    print("\n5/5  Two files of eval, classified by the bi-level detector\n")
    classify(folder)
    print(f"""
Where to find what
  {folder}/LA                 the corpus; README.txt says what it is
  {folder}/plain, bilevel     trainings: console.txt, log.txt, train_log.txt,
  {" " * len(str(folder))}                     eval_scores.txt, eval_report.txt
  {folder}/bilevel/pretrained the detector, for SpoofDetector.from_hparams
  {folder}/report/report.html tables and plots of both

Classify a recording of yours (all that this detector knows is toy data):
  speechbrain-bilevel classify --source {folder}/bilevel/pretrained FILE""")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    sys.stdout.reconfigure(line_buffering=True)
    with exit_on_input_error():
        main(parser.parse_args().folder)
