"""The command: a line for each file, and exit code 2 if any was bad."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import constants
from tiny_detector import export, tiny_network

from speechbrain_bilevel.dataio import toy
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.inference import SpoofDetector


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
    return f"{label[0]:8} {score.item():+10.4f}  {path}\n"


def test_a_line_for_each_file_in_order(run, folder, audio):
    paths = [audio / "b c.flac", audio / "a.wav"]
    code, out, err = run("classify", "--source", folder, *paths)
    assert code == 0 and err == ""
    assert out == "".join(expected_line(folder, path) for path in paths)
    pattern = r"(bonafide|spoof   )  {3,}[+-]\d+\.\d{4}  /.*\.(flac|wav)"
    assert all(re.fullmatch(pattern, line) for line in out.splitlines())


def test_bad_files_do_not_stop_the_others(run, folder, audio):
    names = ["text.wav", "a.wav", "gone.wav", "empty.wav", "b c.flac"]
    paths = [audio / name for name in names]
    code, out, err = run("classify", "--source", folder, *paths)
    assert code == 2
    assert out == "".join(expected_line(folder, paths[n]) for n in (1, 4))
    errors = err.splitlines()
    assert len(errors) == 3
    for line, n in zip(errors, (0, 2, 3)):
        assert line.startswith(f"error: {paths[n]}: ")


def test_a_bad_folder_is_one_message(run, audio):
    code, out, err = run("classify", "--source", audio, audio / "a.wav")
    assert code == 2 and out == ""
    assert re.fullmatch(f"error: {audio}: no hyperparams.yaml .*\n", err)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--help"], ["classify", "toy", "judge audio files"]),
        (["classify", "--help"], ["--source FOLDER", "FILE", "bona fide"]),
        (["toy", "--help"], ["FOLDER", "synthetic", "mean nothing"]),
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
        (["judge"], "invalid choice: 'judge'"),
        (["classify", "a.wav"], "required: --source"),
        (["classify", "--source", "x"], "required: FILE"),
        (["toy"], "required: FOLDER"),
    ],
)
def test_wrong_use_ends_with_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert message in err


def test_toy_writes_where_it_is_told(run, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(toy, "write_toy_corpus", folders.append)
    assert run("toy", tmp_path / "LA") == (0, "", "")
    assert folders == [str(tmp_path / "LA")]


def test_toy_tells_what_is_wrong(run, tmp_path, monkeypatch):
    def refuse(folder):
        raise InputError(f"{folder}: is not empty")

    monkeypatch.setattr(toy, "write_toy_corpus", refuse)
    assert run("toy", "LA") == (2, "", "error: LA: is not empty\n")


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
    assert result.stderr == expected
    assert sorted(os.listdir(audio)) == before


def test_a_repository_that_cannot_be_had_is_told(run, audio, monkeypatch):
    # As on a machine without a network.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, err = run(
        "classify", "--source", "results/gone", audio / "a.wav"
    )
    assert code == 2 and out == ""
    assert err.startswith("error: results/gone: cannot be loaded (")
