"""From a training's output to a folder to share: the best epoch, calibrated,
with figures that are those of its own scores."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from speechbrain.utils.checkpoints import Checkpointer
from tiny_detector import SAMPLES, export, tiny_network, training_yaml

from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.export import export as export_experiment
from speechbrain_bilevel.inference.folder import read_folder
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.utils.errors import InputError

SECRET = "/home/mallory/LA"


def write_scores(path, seed, sign=1):
    """Made-up scores of 40 bona fide trials and 30 of each of two attacks."""
    random = np.random.default_rng(seed)
    lines = []
    for attack, key, n_trials, mean in (
        ("-", "bonafide", 40, 1.0),
        ("A0<1>|x", "spoof", 30, -1.0),
        ("A02", "spoof", 30, -2.0),
    ):
        scores = sign * random.normal(mean, 1.5, n_trials)
        lines += [
            f"{key}_{attack}_{n} {attack} {key} {score!r}"
            for n, score in enumerate(scores.tolist())
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def experiment(tmp_path):
    """What a training leaves behind, with three checkpoints."""
    folder = tmp_path / "run"
    networks = {}
    for number, eer in enumerate((30.0, 12.5, 20.0)):
        network = tiny_network()
        with torch.no_grad():
            network.classifier[2].bias += number
        checkpointer = Checkpointer(folder / "save", {"network": network})
        checkpointer.save_checkpoint(meta={"EER": eer}, name=f"n{number}")
        networks[number] = network.state_dict()
    (folder / "hyperparams.yaml").write_text(
        f"data_folder: {SECRET}\n{training_yaml()}as_published: False\n"
        f"manifest_folder: {SECRET}/manifests\n"
        "hypergradient: !new:speechbrain_bilevel.hypergradients.SOBA {}\n"
    )
    write_scores(folder / "dev_scores.txt", 1)
    write_scores(folder / "eval_scores.txt", 2)
    return folder, networks


def test_the_best_epoch_is_exported(experiment, tmp_path):
    folder, networks = experiment
    parts = export_experiment(folder, tmp_path / "out")
    written = read_folder(tmp_path / "out")
    assert all(
        torch.equal(networks[1][name], value)
        for name, value in written.weights.items()
    )
    assert written.weights.keys() == networks[1].keys()
    assert written.calibration == parts.calibration
    assert written.samples == SAMPLES


def test_it_is_calibrated_on_dev_and_measured_on_eval(experiment, tmp_path):
    folder, _ = experiment
    parts = export_experiment(folder, tmp_path / "out", licence="mit")
    dev = read_cm_scores(folder / "dev_scores.txt")
    fusion = learn_fusion(dev.score[:, None], dev.is_bonafide)
    assert parts.calibration == {
        "weight": fusion.weights[0],
        "bias": fusion.bias,
    }
    scores = read_cm_scores(folder / "eval_scores.txt")
    scores = replace(scores, score=fusion(scores.score[:, None]))
    report = evaluate([scores], resample="utterances")
    metrics = report.evaluations[0].metrics
    card = (tmp_path / "out" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "mit"
    (result,) = header["model-index"][0]["results"]
    found = {m["type"]: m["value"] for m in result["metrics"]}
    assert found["eer"] == pytest.approx(100 * metrics["eer"].value)
    assert found["cllr"] == pytest.approx(metrics["cllr"].value)
    eer = [100 * getattr(metrics["eer"], k) for k in ("value", "low", "high")]
    assert "| EER % | {:.4f} ({:.4f} to {:.4f}) |".format(*eer) in body
    assert "40 bona fide and 60 spoofed trials of dev" in body
    assert "log-likelihood ratio" in body and "SOBA" in body


def test_the_card_tells_no_secrets_and_obeys_no_names(experiment, tmp_path):
    folder, _ = experiment
    export_experiment(folder, tmp_path / "out", name="a\n# <b>", corpus="`x`|y")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "mallory" not in card and str(folder) not in card
    assert re.search(r"^# a. ?\\# \\<b\\>$|^# a.\\# \\<b\\>$", card, re.M)
    assert r"| A0\<1\>\|x | 30 |" in card
    yaml_text = (tmp_path / "out" / "hyperparams.yaml").read_text()
    assert "mallory" not in yaml_text


def test_what_dev_cannot_teach(experiment, tmp_path, caplog):
    folder, _ = experiment
    dev = write_scores(folder / "dev_scores.txt", 1, sign=-1)
    parts = export_experiment(folder, tmp_path / "out")
    assert parts.calibration is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not calibrated" in card.replace("\n", " ")
    with pytest.raises(InputError, match="dev_scores.txt: .*look negated"):
        export_experiment(folder, tmp_path / "out", dev_scores=dev)


def test_calibrating_a_folder_twice_is_calibrating_it_once(tmp_path):
    source = export(tmp_path / "source", tiny_network())
    scores = write_scores(tmp_path / "dev.txt", 1)
    once = export_experiment(source, tmp_path / "once", dev_scores=scores)
    # What the calibrated detector would score.
    values = read_cm_scores(scores)
    lines = [
        f"{utt} {attack} {'bonafide' if real else 'spoof'} "
        f"{once.calibration['weight'] * score + once.calibration['bias']!r}"
        for utt, attack, real, score in zip(
            values.utt,
            values.attack,
            values.is_bonafide,
            values.score.tolist(),
        )
    ]
    scores.write_text("\n".join(lines))
    again = export_experiment(
        tmp_path / "once", tmp_path / "again", dev_scores=scores
    )
    for key, value in once.calibration.items():
        assert again.calibration[key] == pytest.approx(value, rel=1e-6)
    # Without dev scores, it stays as calibrated as it was.
    kept = export_experiment(tmp_path / "again", tmp_path / "kept")
    assert kept.calibration == again.calibration


def test_what_is_no_experiment_is_refused(experiment, tmp_path):
    folder, _ = experiment
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(InputError, match=f"^{source}: neither a network"):
            export_experiment(source, tmp_path / "out")
    (folder / "hyperparams.yaml").write_text("samples: [")
    with pytest.raises(InputError, match="hyperparams.yaml: is no YAML"):
        export_experiment(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(run, experiment, tmp_path):
    folder, _ = experiment
    out = tmp_path / "out"
    code, text, err = run("export", folder, out, "--corpus", "LA")
    assert code == 0 and text.startswith(f"{out}: calibrated; ")
    assert "\nLA" in (out / "README.md").read_text()
    code, _, err = run("export", folder, out)
    assert code == 2 and f"{out}: is there already" in err
    code, _, err = run("export", folder, folder)
    assert code == 2 and "is there already" in err
    bad = tmp_path / "bad.txt"
    bad.write_text("a - bonafide nan\nb A01 spoof 1\n")
    code, _, err = run("export", folder, tmp_path / "o2", "--eval-scores", bad)
    assert code == 2 and "bad.txt" in err and not (tmp_path / "o2").exists()
