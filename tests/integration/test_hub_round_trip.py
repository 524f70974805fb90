"""A detector goes to the hub and comes back, and a data set is read there, over
HTTP, by the real client."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hub_stand_in import HubStandIn
from parquet_sets import CARD, row, write
from tiny_detector import export, tiny_network
from tiny_onnx import export_onnx

from speechbrain_bilevel.inference.config import FILES, ONNX
from speechbrain_bilevel.inference.detector import SpoofDetector

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

# Run the command of each line, and print its exit code, output and errors.
SEVERAL = """
import contextlib, io, json, sys
from speechbrain_bilevel import cli

for line in sys.stdin:
    out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(json.loads(line)) or 0
        except SystemExit as end:
            code = end.code
    texts = []
    for file in out, err:
        file.flush()
        texts.append(file.buffer.getvalue().decode())
    print(json.dumps([code, *texts]), flush=True)
"""

# Run a Space's app.py as the hub does, and print its page's configuration. It
# has to find the package beside it, and to need no torch.
SERVE = """
import runpy, sys, urllib.request
import gradio

launch = gradio.Blocks.launch

def launched(self, **options):
    _, address, _ = launch(
        self, prevent_thread_lock=True, quiet=True, **options
    )
    print(urllib.request.urlopen(f"{address}config").read().decode())

gradio.Blocks.launch = launched
sys.path.insert(0, "")
runpy.run_path("app.py", run_name="__main__")
import speechbrain_bilevel
assert speechbrain_bilevel.__file__.startswith("PACKAGE")
assert not {"torch", "speechbrain"} & set(sys.modules)
"""


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
def shell(hub, tmp_path):
    """Run a command that uses the hub, and return its output."""

    def shell(*words, code=0):
        done = subprocess.run(
            [str(word) for word in words],
            env=hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return shell


@pytest.fixture
def several(hub, tmp_path):
    """Run commands that use the hub, all in one process: it starts slowly."""
    with subprocess.Popen(
        [sys.executable, "-c", SEVERAL],
        env=hub.environment(tmp_path / "home"),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(*words):
            print(json.dumps([str(word) for word in words]), file=process.stdin)
            process.stdin.flush()
            code, output, errors = json.loads(process.stdout.readline())
            assert code == 0, errors
            return output

        yield run
        process.stdin.close()


def test_there_and_back(hub, shell, several, tmp_path):
    folder, audio = tmp_path / "tiny", tmp_path / "a.wav"
    export(folder, tiny_network(), calibration={"weight": 2.0, "bias": 0.5})
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "secret.pyc").write_text("PASSWORD=1")
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(audio, wav, 16000, subtype="FLOAT")

    url = several("push", folder, NAME)
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
    assert several("classify", "--source", NAME, audio) == line


def test_onnx_and_a_space(hub, several, tmp_path):
    """A folder with network.onnx goes there and back, and serves a page."""
    folder, audio = tmp_path / "detector", tmp_path / "a.wav"
    export_onnx(folder, "MelCNN", space=True)
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(audio, wav, 16000, subtype="FLOAT")
    several("push", folder, NAME)
    assert set(hub.files) == {*FILES, ONNX}
    assert hub.files[ONNX] == (folder / ONNX).read_bytes()
    engine = "--engine", "onnxruntime"
    here = several("classify", "--source", folder, audio, *engine)
    there = several("classify", "--source", NAME, audio, *engine)
    assert here == there

    hub.files.clear()
    several("push", folder, NAME, "--space")
    assert {"README.md", "app.py", "requirements.txt", ONNX} < set(hub.files)
    assert "model.safetensors" not in hub.files
    assert b"sdk: gradio\n" in hub.files["README.md"]
    assert hub.kinds[-1] == "space"
    served = tmp_path / "served"
    for name, content in hub.files.items():
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        (served / name).write_bytes(content)
    code = SERVE.replace("PACKAGE", str(served / "speechbrain_bilevel"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=served,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Bona fide or spoof?" in done.stdout


def test_a_data_set_is_read_on_the_hub(hub, shell, several, tmp_path):
    rows = [row(n, n % 2, utterance_id=f"u{n}") for n in range(40)]
    file = write(tmp_path / "test-0.parquet", rows, None, row_group_size=10)
    (tmp_path / "README.md").write_text(CARD.format("a", "bonafide", "spoof"))
    hub.files["data/test-0.parquet"] = file.read_bytes()
    hub.files["README.md"] = (tmp_path / "README.md").read_bytes()
    detector = export(tmp_path / "tiny", tiny_network())
    source, place = ("--source", detector), "hf://datasets/someone/set"

    several("score", file, "here.txt", *source)
    several("score", place, "there.txt", *source)
    expected = (tmp_path / "here.txt").read_text()
    assert len(expected.splitlines()) == 40
    assert (tmp_path / "there.txt").read_text() == expected
    # Each range once, and nothing is kept.
    assert hub.sent < 1.1 * file.stat().st_size
    assert not list((tmp_path / "home").rglob("*.parquet"))

    several("prepare", f"{place}@main/data", "there.csv")
    listed = (tmp_path / "there.csv").read_text().splitlines()[40]
    assert listed.split(",")[2] == f"{place}@main/data/test-0.parquet#39"
    workers = "--num-workers", 2
    several("score", "there.csv", "listed.txt", *source, *workers)
    assert (tmp_path / "listed.txt").read_text() == expected

    hub.files["data/test-0.parquet"] = file.read_bytes()[:-9]
    errors = shell(COMMAND, "score", place, "x.txt", *source, code=2)
    assert f"error: {place}/data/test-0.parquet: cannot be read (" in errors
    del hub.files["data/test-0.parquet"]
    errors = shell(COMMAND, "score", place, "x.txt", *source, code=2)
    assert f"error: {place}: no parquet with audio" in errors
