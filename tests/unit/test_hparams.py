"""YAMLs that include one another."""

from pathlib import Path

import pytest
import torch

from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.hparams import load_hparams

BASE = """\
output_folder: !ref <root>/run
root: results
lr: 0.1
net: !new:torch.nn.Linear
    in_features: 2
    out_features: !ref <size>
size: 3
sizes: [1, 2]
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write YAMLs by name and load the last one, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def load(overrides=None, **texts):
        for name, text in {"base": BASE, **texts}.items():
            Path(f"{name}.yaml").write_text(text)
        return load_hparams(Path(f"{[*texts][-1]}.yaml"), overrides)

    return load


def test_what_differs_is_merged_or_replaces(load):
    hparams = load(
        wide="--- !include:base.yaml\nnet: {in_features: 9}\nsizes: [7]\n",
        other="--- !include:wide.yaml\n"
        "lr: 0.2\nnet: !new:torch.nn.Identity\nmore: !ref <size>\n",
    )
    assert hparams["lr"] == 0.2 and hparams["sizes"] == [7]
    assert isinstance(hparams["net"], torch.nn.Identity)
    assert hparams["more"] == 3
    hparams = load(wide="--- !include:base.yaml\nnet: {in_features: 9}\n")
    assert hparams["net"].weight.shape == (3, 9)


def test_without_differences_it_is_the_base(load):
    assert load(same="--- !include:base.yaml\n")["size"] == 3


def test_overrides_reach_what_the_base_refers_to(load):
    hparams = load("{size: 5, root: there}", small="--- !include:base.yaml\n{}")
    assert hparams["net"].out_features == 5
    assert hparams["output_folder"] == "there/run"
    saved = Path("there/run/hyperparams.yaml")
    # What was trained can be read and built without the files it came from.
    assert "!include" not in saved.read_text()
    assert load_hparams(saved)["net"].out_features == 5


def test_a_reference_to_a_reference_further_down(load):
    text = "--- !include:base.yaml\nroot: !ref <first>\nfirst: !ref <second>\n"
    hparams = load(chain=text + "second: !ref <third>\nthird: end\n")
    assert hparams["output_folder"] == "end/run"


@pytest.mark.parametrize(
    "text, message",
    [
        ("--- !include:gone.yaml\n", "bad.yaml: .*gone.yaml"),
        ("--- !include:bad.yaml\n", "bad.yaml: includes itself"),
        ("a: !ref <output_folder>\noutput_folder: !ref <a>\n", "bad.yaml: "),
        ("output_folder: a\nb: !PLACEHOLDER\n", "bad.yaml: .*PLACEHOLDER"),
        ("output_folder: [", "bad.yaml: "),
        ("output_folder: a\nb: !new:torch.nn.Liner\n", "bad.yaml: .*Liner"),
        ("output_folder: a\nb: !new:torch.nn.Linear {c: 1}\n", "bad.yaml: "),
        ("b: 1\n", "bad.yaml: has no output_folder"),
        ("", "bad.yaml: expected keys with values"),
        ("- 1\n", "bad.yaml: expected keys with values"),
        (
            "--- !include:base.yaml\n- 1\n",
            "bad.yaml: expected keys with values",
        ),
    ],
)
def test_what_cannot_be_loaded_is_named(load, text, message):
    with pytest.raises(InputError, match=message):
        load(bad=text)


def test_unknown_keys_on_the_command_line(load):
    with pytest.raises(InputError, match="learning_rate"):
        load("learning_rate: 0.2", small="--- !include:base.yaml\n{}")


@pytest.mark.parametrize(
    "override, expected",
    [
        ("lr: abc", "a finite number"),
        ("lr: .nan", "a finite number"),
        ("lr: .inf", "a finite number"),
        ("lr: -1", "a finite number"),
        ("lr: true", "a finite number"),
        ("size: 1.5", "a whole number"),
        ("size: -1", "a whole number"),
        ("size: null", "a whole number"),
        ("size: [1]", "a whole number"),
        ("flag: maybe", "True or False"),
        ("flag: 1", "True or False"),
        ("seed: 4294967296", "a whole number from 0 to 4294967295"),
        ("batch_size: 0", "a whole number from 1"),
        ("keys: 3", "values of a, b"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, override, expected):
    yaml = tmp_path / "x.yaml"
    yaml.write_text(
        f"output_folder: {tmp_path}\nlr: 0.1\nsize: 3\nflag: False\nany: 1\n"
        "seed: 1\nbatch_size: 2\nkeys: {a: 1, b: x}\n"
    )
    key = override.split(":")[0]
    with pytest.raises(InputError, match=f"x.yaml: --{key} .*{expected}"):
        load_hparams(yaml, override)
    assert load_hparams(yaml, "lr: 1\nsize: 0\nflag: true")["flag"] is True
    assert load_hparams(yaml, "size: !ref <any>\nkeys: {a: 5}")["size"] == 1
    found = load_hparams(yaml, "keys: !new:torch.nn.Linear [1, 2]")
    assert found["keys"].out_features == 2


@pytest.mark.parametrize("name", ["hyperparams.yaml", "log.txt", "config.json"])
def test_files_of_something_else_are_kept(tmp_path, name):
    (tmp_path / "base.yaml").write_text(f"output_folder: {tmp_path}/out\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    load_hparams(tmp_path / "base.yaml")
    (tmp_path / "out" / "log.txt").write_text("of that run")
    load_hparams(tmp_path / "base.yaml")
    (tmp_path / "out" / "hyperparams.yaml").unlink()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(InputError, match=r"has a \w+\.\w+ in it that no earl"):
        load_hparams(tmp_path / "base.yaml")
    assert (tmp_path / "out" / name).read_text() == "mine"
