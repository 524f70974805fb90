"""The command: a line for each file, and exit code 2 if any was bad."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import constants
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.inference.detector import SpoofDetector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained folder."""
    return export(tmp_path_factory.mktemp("cli") / "pretrained", tiny_network())


@pytest.fixture
def audio(tmp_path):
    """Two recordings and two files that are none."""
    random = np.random.default_rng(0)
    for name in ("a.wav", "b c.flac"):
        wav = random.uniform(-0.5, 0.5, 16000)
        soundfile.write(tmp_path / name, wav, 16000)
    (tmp_path / "text.wav").write_text("hello\n" * 100)
    (tmp_path / "empty.wav").touch()
    return tmp_path


def expected_line(folder, path):
    """What is printed of a good file."""
    _, score, _, label = SpoofDetector.from_hparams(folder).classify_file(path)
    seconds = SAMPLES / 16000
    return f"{label[0]:8} {score.item():+10.4f} {seconds:6.1f} s  {path}\n"


NOTE = "above 0 is bona fide; not calibrated, so scores only rank recordings\n"


def test_a_line_for_each_file_in_order(run, folder, audio):
    paths = [audio / "b c.flac", audio / "a.wav"]
    code, out, err = run("classify", "--source", folder, *paths)
    assert code == 0 and err == NOTE
    assert out == "".join(expected_line(folder, path) for path in paths)
    pattern = r"(bonafide|spoof   )  {3,}[+-]\d+\.\d{4} +\d+\.\d s  /.*\.\w+"
    assert all(re.fullmatch(pattern, line) for line in out.splitlines())


def test_names_do_not_control_the_terminal(run, folder, audio):
    (audio / "a.wav").rename(audio / "a\x1b[2J.wav")
    code, out, _ = run("classify", "--source", folder, audio / "a\x1b[2J.wav")
    assert code == 0 and out.endswith("a\N{REPLACEMENT CHARACTER}[2J.wav\n")


def test_bad_files_do_not_stop_the_others(run, folder, audio):
    names = ["text.wav", "a.wav", "gone.wav", "empty.wav", "b c.flac"]
    paths = [audio / name for name in names]
    code, out, err = run("classify", "--source", folder, *paths)
    assert code == 2
    assert out == "".join(expected_line(folder, paths[n]) for n in (1, 4))
    *errors, summary, note = err.splitlines()
    assert len(errors) == 3
    for line, n in zip(errors, (0, 2, 3)):
        assert line.startswith(f"error: {paths[n]}: ")
    assert summary == "3 of 5 files have no verdict"
    assert note + "\n" == NOTE


def test_a_folder_is_scored_file_by_file(run, folder, audio):
    code, out, err = run("classify", "--source", folder, audio)
    assert code == 2
    good = [audio / "a.wav", audio / "b c.flac"]
    assert out == "".join(expected_line(folder, path) for path in good)
    assert "2 of 4 files have no verdict" in err
    # What the shell did not expand, as in quotes or on Windows.
    code, out, _ = run("classify", "--source", folder, audio / "b*.flac")
    assert code == 0 and out == expected_line(folder, good[1])


def test_json_and_csv(run, folder, audio):
    paths = [audio / "a.wav", audio / "gone.wav", audio / "b c.flac"]
    detector = SpoofDetector.from_hparams(folder)
    expected = [vars(v) for v in detector.classify_files(paths)]
    for verdict in expected:
        for name in ("threshold", "channel", "channels"):
            del verdict[name]
        verdict["notes"] = []
    command = "classify", "--source", folder, *paths, "--format"
    code, out, err = run(*command, "json")
    assert code == 2 and "1 of 3 files" in err
    assert json.loads(out) == expected
    code, out, _ = run(*command, "csv")
    assert code == 2
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row, verdict in zip(rows, expected):
        assert row["label"] == (verdict["label"] or "")
        assert row["error"] == (verdict["error"] or "")
        if verdict["score"] is not None:
            assert float(row["score"]) == verdict["score"]
            assert float(row["heard"]) == verdict["heard"] == SAMPLES / 16000
    code, out, _ = run(*command[:3], audio / "gone.wav", "--format", "json")
    assert code == 2 and len(json.loads(out)) == 1


def test_segments_and_their_plot(run, folder, audio, tmp_path):
    (audio / "sub").mkdir()
    shutil.copy(audio / "a.wav", audio / "sub" / "a.wav")
    paths = [audio / "a.wav", audio / "sub" / "a.wav", audio / "gone.wav"]
    plots = tmp_path / "plots"
    command = "classify", "--source", folder, *paths, "--segments"
    code, out, err = run(*command, "--plot", plots)
    assert code == 2 and "gone.wav: does not exist" in err
    verdict = SpoofDetector.from_hparams(folder).segments(paths[0])
    line = f"{verdict.score:+10.4f}    1.0 s  {paths[0]}\n"
    assert out.count(line) == 1
    spans = re.findall(r"^    spoof .* to [\d.]+ s$", out, re.MULTILINE)
    assert len(spans) == 2 * len(verdict.suspicious)
    # Files of one name do not overwrite each other's plots.
    assert len(list(plots.iterdir())) == 2
    for plot in plots.iterdir():
        assert plot.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(*command, "--format", "json")
    found = json.loads(out)[0]
    assert len(found["segments"]) == len(verdict.segments)
    assert len(found["suspicious"]) == len(verdict.suspicious)
    code, out, err = run(*command[:-1], "--plot", plots)
    assert code == 2 and "add --segments" in err


def test_a_calibrated_detector_says_what_its_scores_are(run, audio, tmp_path):
    calibration = {"weight": 1.0, "bias": 0.5}
    folder = export(tmp_path / "c", tiny_network(), calibration=calibration)
    code, _, err = run("classify", "--source", folder, audio / "a.wav")
    assert code == 0 and err.startswith("scores are log-likelihood ratios: ")


def test_precision_and_device_are_passed_on(run, folder, audio):
    command = "classify", "--source", folder, audio / "a.wav"
    code, out, _ = run(*command, "--device", "cpu", "--precision", "bf16")
    _, score, _, _ = SpoofDetector.from_hparams(folder).classify_file(
        audio / "a.wav"
    )
    assert code == 0
    found = float(out.split()[1])
    assert 0 < abs(found - score.item()) < 0.05
    code, _, err = run(*command, "--device", "cuda:300")
    assert code == 2 and "there is no GPU 300, counted from 0, of" in err
    code, _, err = run(*command, "--device", "abacus")
    assert code == 2 and "--device abacus: no device" in err


def test_a_bad_folder_is_one_message(run, audio):
    code, out, err = run("classify", "--source", audio, audio / "a.wav")
    assert code == 2 and out == ""
    assert re.fullmatch(f"error: {audio}: config.json: unusable .*\n", err)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--help"], ["classify", "score audio files"]),
        (["classify", "--help"], ["--source FOLDER", "PATH", "bona fide"]),
    ],
)
def test_help(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 0 and err == ""
    assert all(word in " ".join(out.split()) for word in words)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["detect"], "invalid choice: 'detect'"),
        (["classify", "a.wav"], "required: --source"),
        (["classify", "--source", "x"], "required: PATH"),
    ],
)
def test_wrong_use_ends_with_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert message in err


def test_the_installed_command_works_anywhere(folder, audio, monkeypatch):
    script = Path(sys.executable).with_name("speechbrain-bilevel")
    command = [script, "classify", "--source", os.path.relpath(folder, audio)]
    command += ["a.wav", "gone.wav", "b c.flac"]
    before = sorted(os.listdir(audio))
    result = subprocess.run(command, cwd=audio, capture_output=True, text=True)
    assert result.returncode == 2
    monkeypatch.chdir(audio)
    paths = [Path("a.wav"), Path("b c.flac")]
    assert result.stdout == "".join(expected_line(folder, p) for p in paths)
    expected = "error: gone.wav: does not exist; expected an audio file\n"
    expected += "1 of 3 files have no verdict\n" + NOTE
    assert result.stderr == expected
    assert sorted(os.listdir(audio)) == before


def test_a_repository_that_cannot_be_had_is_told(run, audio, monkeypatch):
    # As on a machine without a network.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, err = run(
        "classify", "--source", "results/gone", audio / "a.wav"
    )
    assert code == 2 and out == ""
    assert err.startswith("error: results/gone: no such folder here; the hub")


def test_help_and_parsing_import_nothing_slow():
    code = "import sys; from speechbrain_bilevel.cli import main\n"
    code += "try: main(['classify', '--help'])\n"
    code += "except SystemExit: pass\n"
    code += "print(*sorted({'torch', 'pandas', 'scipy'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == ""
