"""A detector goes to the hub and comes back, over HTTP, by the real client."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hub_stand_in import HubStandIn
from tiny_detector import export, tiny_network

from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.pretrained import FILES

NAME = "someone/detector"
COMMAND = Path(sys.executable).with_name("speechbrain-bilevel")
# Three doors to a repository; each returns the log posteriors of a file.
LOAD = """
import json, sys
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.interfaces import foreign_class
from speechbrain_bilevel import SpoofDetector

name, audio = sys.argv[1:]
doors = (
    SpoofDetector.from_hparams,
    EncoderClassifier.from_hparams,
    foreign_class,
)
found = [load(name).classify_file(audio)[0].tolist() for load in doors]
print(json.dumps(found))
"""


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub


def test_there_and_back(hub, tmp_path):
    def shell(*words):
        done = subprocess.run(
            [str(word) for word in words],
            env=hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder, audio = tmp_path / "tiny", tmp_path / "a.wav"
    export(folder, tiny_network(), calibration={"weight": 2.0, "bias": 0.5})
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "secret.pyc").write_text("PASSWORD=1")
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(audio, wav, 16000, subtype="FLOAT")

    url = shell(COMMAND, "push", folder, NAME)
    assert url.strip() == f"{hub.endpoint}/{NAME}"
    assert set(hub.files) == set(FILES)
    for name in set(FILES) - {"README.md"}:
        assert hub.files[name] == (folder / name).read_bytes()
    card = hub.files["README.md"].decode()
    assert f'from_hparams("{NAME}")' in card and "USER/NAME" not in card

    expected = SpoofDetector.from_hparams(folder).classify_file(audio)
    loaded = shell(sys.executable, "-c", LOAD, NAME, audio)
    for found in json.loads(loaded.splitlines()[-1]):
        np.testing.assert_allclose(found, expected[0], atol=1e-6)
    line = f"{expected[3][0]:8} {expected[1].item():+10.4f}    0.1 s  {audio}\n"
    assert shell(COMMAND, "classify", "--source", NAME, audio) == line
