"""Runs the Speech Anti-Spoofing Arena's own harness on a toy corpus.

Its package goes into an environment of its own, which sees this one; see
README.md.

> python run.py --output_folder OUT
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

DATASET = "SpeechAntiSpoofingBenchmarks/Toy"
RECIPE = Path(__file__).resolve().parents[2] / "recipes/ASVspoof2019/LA"
EVAL = """\
name: Toy
tasks:
  - {id: antispoofing_eval, split: test, metrics: [eer_percent]}
"""
CARD = """\
---
license: mit
language: [en]
pretty_name: Toy
task_categories: [audio-classification]
size_categories: [n<1K]
configs: [{config_name: default}]
tags: [arena-ready]
arxiv: []
---
"""
# A check of their side, on what both sides wrote; in their environment.
CHECK = """\
import hashlib, json, sys
from pathlib import Path

import yaml
from speech_spoof_bench import hf_fetch, labels, reproduce, submission, submit
from speech_spoof_bench.metrics import get_metric

dataset, scores, meta, result, out = map(Path, sys.argv[1:6])
keys = labels.load_labels_file(labels.emit_labels(dataset))
lines = [line.split() for line in scores.read_text().splitlines()]
rate = get_metric("eer_percent").fn({u: float(s) for u, s in lines}, keys).value
found = yaml.safe_load(result.read_text())
found["dataset"] = {"id": sys.argv[6], "revision": "0" * 40, "split": "test"}
found["scores"] = {
    "eer_percent": float(sys.argv[7]), "n_trials": len(lines), "n_skipped": 0
}
sha256 = hashlib.sha256(scores.read_bytes()).hexdigest()
url = f"https://huggingface.co/user/name/resolve/{'0' * 40}/"
payload = submit.build_submission_payload(
    result_yaml=found, meta=submit.load_meta(meta), scores_sha256=sha256,
    scores_url=f"{url}.eval_results/{sys.argv[6]}/scores.txt",
    hf_username="user", contact="user@example.org", submitted_at="2026-01-01",
)
text = yaml.safe_dump(payload)
submission.parse_submission(text)
out.write_text(text)
hf_fetch.download = lambda url: (scores, sha256)
code = reproduce.run_scoring(out, label_stream=lambda *_: keys, tolerance=1e-9)
print("EER", repr(rate))
sys.exit(code)
"""


def main():
    """Make the corpus and the detector, run both sides, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_folder", required=True, type=Path)
    parser.add_argument(
        "--harness",
        default="speech-spoof-bench==0.3.*",
        help="what to install: a requirement, or a checkout of its repository",
    )
    args = parser.parse_args()
    out = args.output_folder.resolve()
    out.mkdir(parents=True)

    python = environment(out / "env", args.harness)
    dataset, detector = out / "Toy", out / "detector"
    run(sys.executable, "-m", "toy_corpus", out / "LA", cwd=RECIPE)
    write_parquet(out / "LA", dataset)
    write_detector(detector)
    harness = python.with_name("speech-spoof-bench")
    run(harness, "validate-dataset", dataset, "--skip-submissions")

    os.environ["SPOOF_DETECTOR"] = str(detector)
    module = "speechbrain_bilevel.inference.arena:Detector"
    command = "run", "--model-module", module, "--datasets", dataset
    run(harness, *command, "--output-dir", out / "results")
    ours = out / "scores.txt"
    command = Path(sys.executable).with_name("speechbrain-bilevel")
    run(command, "score", dataset, ours, "--source", detector)
    lines = [line.split() for line in ours.read_text().splitlines()]
    expected = [f"{utt} {float(score):.6f}" for utt, *_, score in lines]
    theirs = (out / "results/Toy/scores.txt").read_text().splitlines()
    assert theirs == expected
    print(f"{len(theirs)} scores of the harness are those of `score`")

    arena = f"--arena={DATASET}={ours}"
    said = run(command, "export", detector, out / "submission", arena)
    rate = said.split("eer_percent ")[1].split(",")[0]
    exported = out / "submission"
    said = run(
        *(python, "-c", CHECK, dataset),
        exported / f".eval_results/{DATASET}/scores.txt",
        *(exported / "meta.yaml", out / "results/Toy/result.yaml"),
        *(out / "submission.yaml", DATASET, rate),
    )
    difference = abs(float(said.split("EER ")[1]) - float(rate))
    assert difference < 1e-9
    print(f"EER {rate} %, theirs differs by {difference:.1g}")


def run(*command, cwd=None):
    """Run a command, print and return its output."""
    print("$", *(str(part).split("\n")[0] for part in command), flush=True)
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    done.check_returncode()
    return done.stdout


def environment(folder, harness):
    """Install their package where this environment's packages are seen too."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    outer = Path(own, "outer.pth")
    root = Path(__file__).resolve().parents[2]
    outer.write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")
    # From 4 on, datasets decodes by torchcodec only, which wants a newer torch.
    wanted = harness, "datasets<4", "librosa"
    run(python, "-m", "pip", "install", "--quiet", *wanted)
    return python


def write_parquet(corpus, folder):
    """Write the eval trials as a data set of the Arena."""
    from datasets import Audio, ClassLabel, Dataset, Features, Value

    from speechbrain_bilevel.dataio.prepare import find_trials

    names = ["bonafide", "spoof"]
    rows = [
        {
            "path": trial.path,
            "audio": {"bytes": (corpus / trial.path).read_bytes(), "path": ""},
            "label": names.index(trial.label),
            "notes": json.dumps({"utterance_id": trial.utt}),
        }
        for trial in find_trials(corpus).itertuples()
    ]
    plain = {
        "path": Value("string"),
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "label": Value("int64"),
        "notes": Value("string"),
    }
    audio = {"audio": Audio(sampling_rate=16000)}
    features = Features(plain | audio | {"label": ClassLabel(names=names)})
    found = Dataset.from_list(rows, Features(plain)).cast(features)
    (folder / "data").mkdir(parents=True)
    found.to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    (folder / "eval.yaml").write_text(EVAL)
    (folder / "README.md").write_text(CARD)


def write_detector(folder):
    """Write an untrained network as a pretrained folder."""
    import torch

    from speechbrain_bilevel.inference.config import DetectorConfig
    from speechbrain_bilevel.inference.export import model_card
    from speechbrain_bilevel.inference.pretrained import write_folder
    from speechbrain_bilevel.lobes import build

    torch.manual_seed(0)
    network = build("MelCNN", {"num_samples": 32000})
    config = DetectorConfig.of(network, "logit_difference")
    card = model_card("untrained", config)
    write_folder(folder, config, network.state_dict(), card)


if __name__ == "__main__":
    main()
