"""From a training's output to a folder to share: the best epoch, calibrated,
with figures that are those of its own scores."""

import re

import numpy as np
import pytest
import torch
import yaml
from speechbrain.utils.checkpoints import Checkpointer
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.dataio import BONAFIDE
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.config import (
    CONFIG,
    WEIGHTS,
    DetectorConfig,
    read_config,
)
from speechbrain_bilevel.inference.export import export as export_experiment
from speechbrain_bilevel.inference.pretrained import load
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
    config = DetectorConfig.of(
        tiny_network(),
        "logit_difference",
        method="Bi-level training: SOBA.",
        manifest_folder=f"{SECRET}/manifests",
        asv_scores=f"{SECRET}/asv.txt",
    )
    (folder / CONFIG).write_text(config.to_json())
    write_scores(folder / "dev_scores.txt", 1)
    write_scores(folder / "eval_scores.txt", 2)
    return folder, networks


def test_the_best_epoch_is_exported(experiment, tmp_path):
    folder, networks = experiment
    out = tmp_path / "out"
    exported, _ = export_experiment(folder, out)
    config, network = load(out / CONFIG, out / WEIGHTS)
    weights = network.state_dict()
    assert weights.keys() == networks[1].keys()
    for name, value in networks[1].items():
        assert torch.equal(weights[name], value), name
    assert config.calibration == exported.calibration
    assert config.num_samples == SAMPLES


def test_it_is_calibrated_on_dev_and_measured_on_eval(experiment, tmp_path):
    folder, _ = experiment
    config, report = export_experiment(folder, tmp_path / "out", license="mit")
    dev = read_cm_scores(folder / "dev_scores.txt")
    fusion = learn_fusion(dev[["score"]], dev.label == BONAFIDE)
    assert config.calibration == {
        "weight": fusion.weights[0],
        "bias": fusion.bias,
    }
    scores = read_cm_scores(folder / "eval_scores.txt")
    scores["score"] = fusion(scores[["score"]])
    expected = evaluate([scores], resample="utterances")
    metrics = expected.evaluations[0].metrics
    assert report.evaluations[0].metrics == metrics
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
    # As somebody else has it.
    export_experiment(folder, tmp_path / "first")
    export_experiment(
        tmp_path / "first",
        tmp_path / "out",
        name="a\n# <b>",
        corpus="`x`|y",
        eval_scores=folder / "eval_scores.txt",
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"^# a. ?\\# \\<b\\>$|^# a.\\# \\<b\\>$", card, re.M)
    assert r"| A0\<1\>\|x | 30 |" in card
    assert "\\`x\\`\\|y" in card and "Bi-level training: SOBA." in card
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert b"mallory" not in content, path
        assert str(folder).encode() not in content, path


def test_what_dev_cannot_teach(experiment, tmp_path, caplog):
    folder, _ = experiment
    dev = write_scores(folder / "dev_scores.txt", 1, sign=-1)
    config, _ = export_experiment(folder, tmp_path / "out")
    assert config.calibration is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not calibrated" in card.replace("\n", " ")
    with pytest.raises(InputError, match=r"dev_scores.txt: .*look negated"):
        export_experiment(folder, tmp_path / "out", dev_scores=dev)


def test_the_training_set_is_counted(experiment, tmp_path):
    folder, _ = experiment
    (folder / "manifests").mkdir()
    (folder / "manifests" / "train.csv").write_text(
        "ID,wav,speaker,attack,label\na,a.wav,s,-,bonafide\n"
        "b,b.wav,s,A02,spoof\nc,c.wav,s,A01,spoof\n"
    )
    config, _ = export_experiment(folder, tmp_path / "out", corpus="LA")
    assert config.training == {
        "method": "Bi-level training: SOBA.",
        "corpus": "LA",
        "attacks": "A01, A02",
        "num_bonafide": 1,
        "num_spoof": 2,
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "\nLA: 1 bona fide and 2 spoofed\nrecordings, attacks A01, A02.\n"
        in card
    )


def test_calibrating_a_folder_twice_is_calibrating_it_once(tmp_path):
    source = export(tmp_path / "source", tiny_network())
    scores = write_scores(tmp_path / "dev.txt", 1)
    once, _ = export_experiment(source, tmp_path / "once", dev_scores=scores)
    # What the calibrated detector would score.
    weight, bias = once.calibration["weight"], once.calibration["bias"]
    table = read_cm_scores(scores)
    scores.write_text(
        "\n".join(
            f"{row.utt} {row.attack} {row.label} {weight * row.score + bias!r}"
            for row in table.itertuples()
        )
    )
    again, _ = export_experiment(
        tmp_path / "once", tmp_path / "again", dev_scores=scores
    )
    for key, value in once.calibration.items():
        assert again.calibration[key] == pytest.approx(value, rel=1e-6)
    # Without dev scores, it stays as calibrated as it was.
    kept, _ = export_experiment(tmp_path / "again", tmp_path / "kept")
    assert kept.calibration == again.calibration


def test_what_is_no_experiment_is_refused(experiment, tmp_path):
    folder, _ = experiment
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(InputError, match=f"^{source}: config.json: unus"):
            export_experiment(source, tmp_path / "out")
    (tmp_path / "empty" / CONFIG).write_text((folder / CONFIG).read_text())
    with pytest.raises(InputError, match="nor checkpoints"):
        export_experiment(tmp_path / "empty", tmp_path / "out")
    (folder / CONFIG).write_text('{"network": [')
    with pytest.raises(InputError, match=r"config.json: unusable"):
        export_experiment(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_not_exported(experiment, tmp_path):
    folder, _ = experiment
    config = read_config(folder / CONFIG)
    config.sizes["gru_hidden_size"] = 5
    (folder / CONFIG).write_text(config.to_json())
    with pytest.raises(InputError, match=f"^{tmp_path / 'out'}: .*gru.weight"):
        export_experiment(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(run, experiment, tmp_path):
    folder, _ = experiment
    out = tmp_path / "out"
    code, text, err = run("export", folder, out, "--corpus", "LA")
    assert code == 0 and text.startswith(f"{out}: calibrated; ")
    assert "\nLA" in (out / "README.md").read_text()
    code, _, err = run("export", folder, out)
    assert code == 2 and f"{out}: exists; choose" in err
    code, _, err = run("export", folder, folder)
    assert code == 2 and "exists; choose" in err
    bad = tmp_path / "bad.txt"
    bad.write_text("a - bonafide nan\nb A01 spoof 1\n")
    code, _, err = run("export", folder, tmp_path / "o2", "--eval-scores", bad)
    assert code == 2 and "bad.txt" in err and not (tmp_path / "o2").exists()
