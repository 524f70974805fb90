"""A pretrained folder: what is in it, and who can load it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.interfaces import foreign_class
from tiny_detector import SAMPLES, export, tiny_network
from tiny_onnx import SMALL

from speechbrain_bilevel.inference.config import (
    FILES,
    DetectorConfig,
    read_config,
)
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.pretrained import (
    check_folder,
    try_sizes,
    write_folder,
)
from speechbrain_bilevel.lobes import NETWORKS, build
from speechbrain_bilevel.utils.errors import InputError

CALIBRATION = {"weight": 1e-05, "bias": -2.5}


@pytest.fixture(
    scope="module",
    params=[
        ("logit_difference", None),
        ("softmax", None),
        ("bonafide_logit", CALIBRATION),
    ],
    ids=["plain", "softmax", "calibrated"],
)
def folder(request, tmp_path_factory):
    """A pretrained folder of each kind."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    return export(folder, tiny_network(), *request.param)


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
    for classify in (
        lambda detector: detector.classify_batch(wavs, wav_lens),
        lambda detector: detector.classify_file(str(audio)),
    ):
        found, expected = classify(theirs), classify(ours)
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
        assert torch.equal(found[2], expected[2])
        assert found[3] == expected[3]
    torch.testing.assert_close(
        theirs.encode_batch(wavs, wav_lens), ours.encode_batch(wavs, wav_lens)
    )


def test_foreign_class_and_trusted_code_give_the_same(folder, audio):
    expected = SpoofDetector.from_hparams(folder).score_file(audio)
    for found in (
        foreign_class(str(folder)),
        SpoofDetector.from_hparams(folder, trust_code=True),
    ):
        assert isinstance(found, SpoofDetector)
        assert found.score_file(audio) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back(tmp_path, name):
    torch.manual_seed(0)
    network = build(name, SMALL[name]).eval().requires_grad_(False)
    config = DetectorConfig.of(network, "logit_difference")
    write_folder(tmp_path / "it", config, network.state_dict(), "# It\n")
    assert read_config(tmp_path / "it" / "config.json").sizes == network.sizes
    wavs = torch.randn(2, network.num_samples)
    for trust_code in (False, True):
        detector = SpoofDetector.from_hparams(
            tmp_path / "it", trust_code=trust_code
        )
        assert torch.equal(detector.mods.network(wavs), network(wavs))
        assert detector.mods.network.sizes == network.sizes


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_tried_where_linspace_stays_on_the_cpu(monkeypatch, name):
    """As in every context of a device after transformers' from_pretrained, if
    that was the first; see findings/transformers_moves_linspace_off_meta.sh."""
    module = torch.utils._device
    following = module._device_constructors() - {torch.linspace}
    monkeypatch.setattr(module, "_device_constructors", lambda: following)
    with torch.device("meta"):
        assert not torch.linspace(0, 1, 3).is_meta
    network = build(name, SMALL[name])
    config = DetectorConfig.of(network, "logit_difference")
    try_sizes(config)


@pytest.mark.parametrize("name", [".", "..", "made/.."])
def test_a_folder_needs_a_name(name):
    with pytest.raises(InputError, match="expected the name of a new folder"):
        check_folder(name)


def test_sizes_are_all_arguments_of_a_network():
    """With their defaults, also those behind ``**graphs``."""
    for name in NETWORKS:
        network = build(name, SMALL[name])
        assert json.loads(json.dumps(network.sizes)) == network.sizes
        given = {k: v for k, v in SMALL[name].items() if k != "front_end"}
        assert {k: network.sizes[k] for k in given} == given
    assert build("AASIST", {"stack_ratio": 0.25}).sizes["stack_ratio"] == 0.25
    assert build("AASIST", {}).sizes["temporal_ratio"] == 0.7


def test_networks_are_imported_when_they_are_asked_for():
    code = "import sys; from speechbrain_bilevel.lobes import NETWORKS\n"
    code += "print('torch' in sys.modules); NETWORKS['AASIST']\n"
    code += "print('torch' in sys.modules, 'transformers' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr


def test_other_networks_cannot_be_described():
    with pytest.raises(InputError, match="network is Linear; expected AASIST"):
        DetectorConfig.of(torch.nn.Linear(1, 2), "softmax")


def test_what_the_hub_reads_of_it(folder):
    assert set(FILES) <= {path.name for path in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config["speechbrain_interface"] == "EncoderClassifier"
    header = (folder / "README.md").read_text().split("---\n")[1]
    header = yaml.safe_load(header)
    assert header["library_name"] == "speechbrain"
    assert header["pipeline_tag"] == "audio-classification"
    assert "model-index" not in header and "license" not in header
