"""The recipe with spoofs that copy synthesis makes of its own clips."""

import json

import pandas as pd
import pytest
from recipe_runs import run

VOCODERS = ["griffin_lim_8", "griffin_lim_mel40"]


@pytest.mark.parametrize("yaml", ["train_mel_cnn", "train_mel_cnn_bilevel"])
def test_training_with_copies(yaml, corpus, tmp_path):
    options = {
        "copy_synthesis": f"[{', '.join(VOCODERS)}]",
        "copies_folder": tmp_path / "copies",
        "manifest_folder": tmp_path / "manifests",
        "class_balanced": True,
        "number_of_epochs": 1,
    }
    run(yaml, corpus, tmp_path / "first", **options)
    prepared = pd.read_csv(tmp_path / "manifests" / "train.csv")
    used = pd.read_csv(tmp_path / "first" / "train_with_copies.csv")
    added = used.attack[len(prepared) :].value_counts().to_dict()
    assert added == dict.fromkeys(VOCODERS, (prepared.attack == "-").sum())
    assert set(pd.read_csv(tmp_path / "manifests" / "eval.csv").attack) <= {
        "-",
        *(f"A{number:02}" for number in range(1, 20)),
    }
    config = json.loads(
        (tmp_path / "first" / "pretrained" / "config.json").read_text()
    )
    assert ", ".join(VOCODERS) in config["training"]["method"]
    card = (tmp_path / "first" / "pretrained" / "README.md").read_text()
    assert "copy synthesis by griffin" in " ".join(card.split())

    files = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "copies").rglob("*.flac")
    }
    # Another run uses them, also where the manifests are a user's own.
    run(yaml, corpus, tmp_path / "second", skip_prep=True, **options)
    assert files == {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "copies").rglob("*.flac")
    }
    again = pd.read_csv(tmp_path / "second" / "train_with_copies.csv")
    assert again.equals(used)
