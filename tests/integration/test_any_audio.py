"""Whatever stands under the name of an audio file, by the command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_detector import export, tiny_network

TESTS = Path(__file__).parents[1]
# Scores two files, in both ways, and prints after each the peak of memory so
# far, in MiB.
MEASURED = """
import sys
from peak_memory import peak
from speechbrain_bilevel.cli import main
folder, *paths = sys.argv[1:]
for path in paths:
    for options in [], ["--segments"]:
        assert not main(["classify", "--source", folder, path, *options])
        print(f"peak {peak():.0f}", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector that sees 4 s, and is quick."""
    sizes = {
        "num_samples": 64600,
        "sinc_channels": 4,
        "encoder_channels": [4, 4, 4, 8],
    }
    folder = tmp_path_factory.mktemp("any") / "tiny"
    return export(folder, tiny_network(**sizes))


def noise(*shape):
    """Reproducible noise."""
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape)


def truncated(path):
    """A FLAC that ends within the first second."""
    soundfile.write(path, noise(64600), 16000)
    os.truncate(path, path.stat().st_size // 8)


BAD = {
    "directory.wav": (os.mkdir, "is a folder; expected an audio file"),
    "text.wav": (
        lambda path: path.write_text("hello\n" * 99),
        "cannot be read",
    ),
    "zero_bytes.wav": (lambda path: path.touch(), "no audio can be decoded"),
    "zeros.wav": (
        lambda path: soundfile.write(path, np.zeros(32000), 16000),
        "nothing to hear: no sound above -80 dB for 0.1 s",
    ),
    "nan.wav": (
        lambda path: soundfile.write(
            path, np.append(noise(9999), np.nan), 16000, "FLOAT"
        ),
        "holds NaN or infinite samples",
    ),
    "5_ms.wav": (
        lambda path: soundfile.write(path, noise(80), 16000),
        "lasts 5.0 ms; expected at least 25 ms",
    ),
}
GOOD = {
    "8_channels.wav": lambda path: soundfile.write(
        path, noise(64000, 8), 16000
    ),
    "192_kHz.wav": lambda path: soundfile.write(path, noise(400000), 192000),
}


@pytest.mark.parametrize("options", [(), ("--segments",)])
def test_each_gets_a_verdict_or_a_reason(
    run, folder, tmp_path, monkeypatch, options
):
    for name, (make, _) in BAD.items():
        make(tmp_path / name)
    for name, make in GOOD.items():
        make(tmp_path / name)
    names = [*BAD, *GOOD]
    monkeypatch.chdir(tmp_path)
    code, output, errors = run("classify", "--source", folder, *options, *names)
    assert code == 2
    errors = errors.splitlines()
    for error, (name, (_, message)) in zip(errors, BAD.items()):
        assert error.startswith(f"error: {name}: ") and message in error
    note, summary, _ = errors[len(BAD) :]
    assert note.startswith("note: 8_channels.wav: its channels differ (8)")
    assert summary == f"{len(BAD)} of {len(names)} files have no verdict"
    assert [
        line.rsplit("  ", 1)[1]
        for line in output.splitlines()
        if not line.startswith(" ")
    ] == list(GOOD)


def test_twenty_minutes_take_no_more_memory_than_one(folder, tmp_path):
    minute = (2000 * noise(60 * 8000)).astype(np.int16)
    paths = []
    for minutes in (1, 20):
        paths.append(tmp_path / f"{minutes}.wav")
        with soundfile.SoundFile(paths[-1], "w", 8000, 1, "ULAW") as file:
            for _ in range(minutes):
                file.write(minute)
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, folder, *paths],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert result.returncode == 0, result.stderr
    peaks = [int(each) for each in re.findall(r"peak (\d+)", result.stderr)]
    # Decoded at 16 kHz, twenty minutes have 73 MiB.
    assert len(peaks) == 4 and peaks[-1] - peaks[1] < 25
