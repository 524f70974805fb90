"""What a command imports, which is most of the time that it takes to start."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_detector import export
from tiny_onnx import export_onnx

from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.lobes.aasist import AASIST_L

CODE = """
import sys
from speechbrain_bilevel.cli import main
code = main(sys.argv[1:]) or main([*sys.argv[1:], "--segments"])
heavy = "torch", "torchaudio", "speechbrain", "pandas", "scipy", "sympy"
print("imported", *(name for name in heavy if name in sys.modules))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "detector"
    export_onnx(folder, "AASIST")
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(folder.parent / "a.flac", wav, 16000)
    return folder


def imported(*words):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_without_torch(folder, engine):
    audio = folder.parent / "a.flac"
    words = "classify", "--source", folder, audio, "--engine", engine
    assert imported(*words) == []


def test_with_torch_only(folder, tmp_path):
    """SpeechBrain, and for published sizes the meta device, would take as long
    again."""
    audio = folder.parent / "a.flac"
    found = imported("classify", "--source", folder, audio)
    assert "torch" in found and "speechbrain" not in found
    export(tmp_path / "l", build("AASIST", AASIST_L).eval())
    found = imported("classify", "--source", tmp_path / "l", audio)
    assert found == ["torch"]
