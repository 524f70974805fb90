"""A pretrained folder: what is in it, and who can load it."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.interfaces import foreign_class
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.folder import FILES, parts_of, read_folder
from speechbrain_bilevel.utils.errors import InputError

CALIBRATION = {"weight": 1e-05, "bias": -2.5}


@pytest.fixture(
    scope="module",
    params=[(False, None), (True, None), (False, CALIBRATION)],
    ids=["plain", "as published", "calibrated"],
)
def folder(request, tmp_path_factory):
    """A pretrained folder of each kind."""
    as_published, calibration = request.param
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    return export(folder, tiny_network(), as_published, calibration)


@pytest.fixture
def audio(tmp_path):
    """A recording, longer than what the network sees."""
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * SAMPLES)
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    return tmp_path / "a.wav"


def test_speechbrain_loads_it_as_its_own(folder, audio):
    ours = SpoofDetector.from_hparams(folder)
    theirs = EncoderClassifier.from_hparams(str(folder))
    assert set(EncoderClassifier.MODULES_NEEDED) <= set(theirs.mods)
    wavs = torch.randn(4, 2 * SAMPLES)
    wav_lens = torch.tensor([1.0, 0.5, 0.3, 0.1])
    for judge in (
        lambda detector: detector.classify_batch(wavs, wav_lens),
        lambda detector: detector.classify_file(str(audio)),
    ):
        found, expected = judge(theirs), judge(ours)
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
        assert torch.equal(found[2], expected[2])
        assert found[3] == expected[3]
    torch.testing.assert_close(
        theirs.encode_batch(wavs, wav_lens), ours.encode_batch(wavs, wav_lens)
    )


def test_foreign_class_gives_a_detector(folder, audio):
    found = foreign_class(str(folder))
    assert isinstance(found, SpoofDetector)
    expected = SpoofDetector.from_hparams(folder).score_file(audio)
    assert found.score_file(audio) == expected


def test_trusted_code_gives_the_same(folder, audio):
    found = SpoofDetector.from_hparams(folder, trust_code=True)
    expected = SpoofDetector.from_hparams(folder).score_file(audio)
    assert found.score_file(audio) == expected


def test_it_is_read_back_as_it_was_written(folder):
    parts = read_folder(folder)
    network = tiny_network().state_dict()
    assert parts.weights.keys() == network.keys()
    assert all(torch.equal(parts.weights[k], network[k]) for k in network)
    assert parts.samples == SAMPLES
    assert parts.network == parts_of(folder / FILES[3], {}).network
    assert parts.calibration in (None, CALIBRATION)


def test_what_the_hub_reads_of_it(folder):
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config == {"speechbrain_interface": "EncoderClassifier"}
    header = (folder / "README.md").read_text().split("---\n")[1]
    header = yaml.safe_load(header)
    assert header["library_name"] == "speechbrain"
    assert header["pipeline_tag"] == "audio-classification"
    assert "model-index" not in header and "license" not in header


@pytest.mark.parametrize(
    "line, message",
    [
        ("samples: many", "samples, as_published or calibration: .*"),
        ("samples: 0.5", "samples, as_published or calibration: .*"),
        ("calibration: {weight: -1, bias: 0}", "expected a positive weight"),
        ("calibration: {weight: .nan, bias: 0}", "expected a positive weight"),
        ("calibration: 3", "samples, as_published or calibration: .*"),
        ("as_published:", "as_published is None"),
        ("as_published: 1", "as_published is 1"),
        ("bonafide_logit: maybe", "bonafide_logit is maybe"),
    ],
)
def test_nonsense_is_refused_by_name(tmp_path, line, message):
    values = {"samples": "samples: 3", "as_published": "as_published: False"}
    values[line.split(":")[0]] = line
    path = tmp_path / "hyperparams.yaml"
    path.write_text("\n".join([*values.values(), "network: !new:a.B {}"]))
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        parts_of(path, {})


@pytest.mark.parametrize("key", ["network", "samples", "as_published"])
def test_a_missing_key_is_named(tmp_path, key):
    lines = ["network: !new:a.B {}", "samples: 3", "as_published: False"]
    path = tmp_path / "hyperparams.yaml"
    path.write_text("\n".join(x for x in lines if not x.startswith(key)))
    with pytest.raises(InputError, match=f"^{path}: no key {key}; expected"):
        parts_of(path, {})
