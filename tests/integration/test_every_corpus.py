"""From a corpus' folder to its figures: prepare, score and evaluate."""

import json

import numpy as np
import pytest
import soundfile
import torch
from parquet_sets import ARENA
from parquet_sets import write as write_parquet
from protocol_texts import ASV5, DF2021, LA2019, LA2021, WILD, write
from recipe_runs import final_weights
from recipe_runs import run as train
from tiny_detector import export, tiny_network

from speechbrain_bilevel.dataio.prepare import find_trials
from speechbrain_bilevel.dataio.protocols import read_protocol

OWN = "path,label,speaker\ncalls/1.wav,real,Ann\ncalls/2.wav,fake,\n"
CORPORA = {
    "ASVspoof2019 LA": (
        "ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt",
        LA2019,
        "A01",
    ),
    "ASVspoof2021 LA": ("keys/LA/CM/trial_metadata.txt", LA2021, "A07"),
    "ASVspoof2021 DF": (
        "keys/DF/CM/trial_metadata.txt",
        DF2021,
        "neural_vocoder_nonautoregressive",
    ),
    "ASVspoof5": (
        "ASVspoof5.eval.track_1.tsv",
        ASV5.replace("D_", "E_"),
        "A14",
    ),
    "In-the-Wild": ("meta.csv", WILD, "spoof"),
    "list": ("mine.csv", OWN, "spoof"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A detector's folder."""
    return export(tmp_path_factory.mktemp("source") / "tiny", tiny_network())


@pytest.mark.parametrize("name", CORPORA)
def test_from_the_folder_to_the_figures(run, tmp_path, source, name):
    place, content, attack = CORPORA[name]
    protocol = write(tmp_path / "corpus" / place, content)
    folder = protocol if name == "list" else tmp_path / "corpus"
    rng = np.random.default_rng(0)
    trials = read_protocol(protocol)
    for path in trials.path[trials.partition == "eval"]:
        audio = tmp_path / "corpus" / path
        audio.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio, rng.normal(0, 0.1, 1600), 16000)

    manifest, scores = tmp_path / "manifest.csv", tmp_path / "scores.txt"
    code, out, err = run("prepare", folder, manifest)
    assert code == 0, err
    assert out.startswith(f"{name}: 1 bona fide, 1 spoof, 1 attack, ")
    code, _, err = run("score", manifest, scores, "--source", source)
    assert code == 0, err
    # The manifest and the corpus' own protocol say the same about the trials.
    figures = []
    for known in (manifest, protocol):
        report = tmp_path / "report"
        options = "--resamples", 0, "--output", report
        code, _, err = run("evaluate", scores, "--protocol", known, *options)
        assert code == 0, err
        figures.append(json.loads((report / "metrics.json").read_text()))
    assert figures[0] == figures[1]
    (system,) = figures[0]["systems"]
    assert system["trials"] == {"bonafide": 1, "spoof": 1}
    assert list(system["attacks"]) == [attack]


def test_the_recipe_trains_on_parquet(run, tmp_path, corpus):
    for split, partition in (
        ("train", "train"),
        ("val", "dev"),
        ("test", "eval"),
    ):
        rows = [
            {
                "audio": {"bytes": (corpus / trial.path).read_bytes()},
                "label": ARENA.index(trial.label),
                "notes": json.dumps(
                    {"utterance_id": trial.utt, "attack_id": trial.attack}
                ),
            }
            for trial in find_trials(corpus, partition).itertuples()
        ]
        data = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(data, rows, row_group_size=10)
        manifest = tmp_path / "manifests" / f"{partition}.csv"
        words = "prepare", tmp_path / "set", manifest, "--partition", partition
        assert run(*words)[0] == 0
    own = {"manifest_folder": tmp_path / "manifests", "skip_prep": True}
    train("train_mel_cnn", tmp_path / "none", tmp_path / "parquet", **own)
    train("train_mel_cnn", corpus, tmp_path / "files")
    expected = final_weights(tmp_path / "files")
    for name, weights in final_weights(tmp_path / "parquet").items():
        assert torch.equal(weights, expected[name]), name
    scores = [tmp_path / n / "eval_scores.txt" for n in ("parquet", "files")]
    assert scores[0].read_text() == scores[1].read_text()
