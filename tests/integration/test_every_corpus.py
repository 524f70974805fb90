"""From a corpus' folder to its figures: prepare, score and evaluate."""

import json

import numpy as np
import pytest
import soundfile
from protocol_texts import ASV5, DF2021, LA2019, LA2021, WILD, write
from tiny_detector import export, tiny_network

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
