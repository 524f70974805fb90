"""What an untrusted folder can do: be refused, in one sentence, soon, within
bounded memory, and without anything of it being run."""

import json
import os
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from peak_memory import peak, reset_peak
from safetensors.torch import load_file, save_file
from tiny_detector import SIZES, export, tiny_network

from speechbrain_bilevel.inference.config import CONFIG, WEIGHTS
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.pretrained import load_weights
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.errors import InputError

SECONDS, MEGABYTES = 20, 700


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A pretrained folder that can be loaded."""
    folder = tmp_path_factory.mktemp("good") / "pretrained"
    export(folder, tiny_network())
    SpoofDetector.from_hparams(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A copy of it, to be spoilt, in an otherwise empty directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, "pretrained")
    return Path("pretrained")


def refuse(folder, message):
    """The folder is refused with this."""
    before = sorted(Path.cwd().rglob("*"))
    reset_peak()
    start, memory = time.monotonic(), peak()
    with pytest.raises(InputError, match=f"^{folder}: {message}") as error:
        SpoofDetector.from_hparams(folder)
    assert time.monotonic() - start < SECONDS
    assert peak() - memory < MEGABYTES
    text = str(error.value)
    assert len(text) < 700 and all(c.isprintable() for c in text)
    assert sorted(Path.cwd().rglob("*")) == before


def change(folder, *keys, **values):
    """Changes what config.json says below some keys."""
    path = folder / CONFIG
    content = json.loads(path.read_text())
    part = content
    for key in keys:
        part = part[key]
    part |= values
    path.write_text(json.dumps(content))


def replace_text(folder, before, after):
    text = (folder / CONFIG).read_text()
    assert before in text
    (folder / CONFIG).write_text(text.replace(before, after, 1))


#: What config.json becomes, and the message.
BAD_CONFIGS = {
    "no JSON": ("{", "unusable .*JSONDecodeError"),
    "no object": ("[1, 2]", r"it is \[1, 2\]; expected an object"),
    "no network": ("{}", "network is "),
    "not UTF-8": (b"\xff\xfe", "unusable .*UnicodeDecodeError"),
    "long": (" " * 200_000 + "{}", "longer than 131072 characters"),
    "nested arrays": ("[" * 100_000, "unusable .*RecursionError"),
    "nested objects": ('{"a":' * 20_000, "unusable .*RecursionError"),
    "digits": ('{"network": ' + "9" * 10_000 + "}", "unusable .*digits"),
    "twice": (
        '{"network": "V2", "network": "AASIST"}',
        ".*has a key twice",
    ),
    "unknown": ('{"network": "V2", "x": 1}', "a key is x; expected"),
    "no name": ('{"network": {"a": 1}}', "network is .*; expected AASIST or"),
    "elsewhere": ('{"network": "../../x"}', "network is .*; expected AASIST"),
    "a module": ('{"network": "os"}', "network is os; expected AASIST or"),
    "terminal": (
        '{"network": "\\u001b[2J\\ud800"}',
        "network is ..2J.; expected AASIST",
    ),
    "other sizes": (
        '{"network": "V2", "sizes": {"hidden": 3}}',
        "sizes: a key is hidden; expected num_samples, ",
    ),
    "no sizes": ('{"network": "V2", "sizes": [3]}', r"sizes is \[3\]"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs(folder, case):
    content, message = BAD_CONFIGS[case]
    content = content if isinstance(content, bytes) else content.encode()
    (folder / CONFIG).write_bytes(content)
    refuse(folder, f"{CONFIG}: {message}")


@pytest.mark.parametrize(
    "value", [True, 1.5, "2", None, -1, 10**9, [2], {"a": 1}]
)
def test_what_is_no_size(folder, value):
    change(folder, "sizes", nhead=value)
    refuse(folder, rf"{CONFIG}: sizes: nhead is .*; expected a whole number")


@pytest.mark.parametrize("value", [3, [], [1.5], [[1]], [True], [1] * 65])
def test_what_is_no_list_of_sizes(folder, value):
    change(folder, "sizes", token_sizes=value)
    refuse(folder, f"{CONFIG}: sizes: token_sizes.* is .*; expected a ")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e8", '"0"'])
def test_what_is_no_fraction(folder, text):
    replace_text(folder, '"dropout": 0.1', f'"dropout": {text}')
    refuse(folder, f"{CONFIG}: sizes: dropout is .*; expected a number")


@pytest.mark.parametrize(
    "calibration",
    [
        {},
        3,
        [1, 2],
        {"weight": -1, "bias": 0},
        {"weight": 1, "bias": "0"},
        {"weight": 1, "bias": float("nan")},
        {"weight": 1, "slope": 0},
    ],
)
def test_bad_calibrations(folder, calibration):
    change(folder, calibration=calibration)
    refuse(folder, f"{CONFIG}: calibration")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"score": "as_published"}, "score is as_published; expected logit_d"),
        ({"score": ["softmax"]}, "score is "),
        ({"speechbrain_interface": "x"}, "speechbrain_interface is x; expect"),
        ({"training": {"attacks": ["A01"]}}, "training: attacks is .* text"),
        ({"training": {"num_spoof": -1}}, "training: num_spoof is -1"),
        ({"training": {"__class__": "x"}}, "training: a key is __class__"),
    ],
)
def test_other_keys(folder, values, message):
    change(folder, **values)
    refuse(folder, f"{CONFIG}: {message}")


#: Sizes that are far too large, and what refuses them.
HUGE = {
    "layers": (
        {"num_layers": 10_000_000},
        "operation 10001 of the network makes 0 MB; expected",
    ),
    "weights": ({"d_ffn": 10_000_000}, "expected .*, as the network in"),
    "more weights": (
        {"d_ffn": 10_000_000, "encoder_channels": [4, 10_000]},
        "operation .* makes [0-9]{4,} MB; expected",
    ),
    "tables": (
        {"sinc_channels": 10_000_000, "sinc_kernel_size": 41},
        "operation .* makes [0-9]{4,} MB; expected",
    ),
    "samples": ({"num_samples": 10_000_000}, "expected .*, as the network"),
    "a patch of nothing": ({"patch_size": 0}, "ZeroDivisionError"),
    "no patch": ({"patch_size": 9}, "no 9 x 9 patch fits"),
    "heads": ({"nhead": 3}, "expected those of a V2"),
    "no classes": ({"num_classes": 0}, "expected .*, as the network in"),
    "dropout": ({"dropout": 2.0}, "dropout probability has to be between"),
}


@pytest.mark.parametrize("case", HUGE)
def test_sizes_that_lie(folder, case):
    sizes, message = HUGE[case]
    change(folder, "sizes", **sizes)
    refuse(folder, f".*{message}")


def disguise(folder, name, sizes):
    """A small folder whose weights fit its sizes, which are anything."""
    with torch.device("meta"):
        network = build(name, sizes)
    weights = {
        key: torch.zeros(value.shape, dtype=value.dtype)
        for key, value in network.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS)
    content = {"network": name, "sizes": network.sizes}
    (folder / CONFIG).write_text(json.dumps(content))


#: Small networks that compute much.
LONG_PASSES = {
    "attention": (
        "V2",
        {"num_samples": 9_000_000, "encoder_channels": [1]}
        | {"sinc_channels": 1, "patch_size": 1, "token_sizes": [1]}
        | {"nhead": 1, "sinc_kernel_size": 3, "pool_size": 1_000_000}
        | {"gru_hidden_size": 1, "classifier_size": 1},
    ),
    "graphs": (
        "AASIST",
        {"num_samples": 2_000_000, "sinc_channels": 3, "channels": [1]}
        | {"graph_size": 1, "stack_size": 1},
    ),
    "filters": (
        "AASIST",
        {"sinc_channels": 2_000_000, "sinc_kernel_size": 1, "channels": [1]},
    ),
    "channels": (
        "MelCNN",
        {"channels": [1_000_000, 1], "num_samples": 160_000},
    ),
}


def test_loading_takes_little_more_memory_than_the_weights(tmp_path):
    network = build("V2", SIZES | {"gru_hidden_size": 3500})
    path = tmp_path / WEIGHTS
    save_file(network.state_dict(), path)
    size = path.stat().st_size / (1 << 20)
    reset_peak()
    memory = peak()
    load_weights(network, path)
    assert size > 100
    assert peak() - memory < 0.2 * size + 16


@pytest.mark.parametrize("case", LONG_PASSES)
def test_small_networks_that_take_all_memory(folder, case):
    disguise(folder, *LONG_PASSES[case])
    refuse(
        folder, f"{CONFIG}: sizes: operation .* makes [0-9]{{4,}} MB; expected"
    )


def test_a_file_without_end(folder):
    """It takes no room on the disk."""
    os.truncate(folder / WEIGHTS, 1 << 40)
    refuse(folder, f"{WEIGHTS}: has 1099511627776 bytes and .*; expected at")


def test_another_network(folder):
    (folder / CONFIG).write_text('{"network": "AASIST"}')
    refuse(folder, f"{WEIGHTS}: positions is missing; expected")


def spoil(folder, **tensors):
    """Changes tensors; None takes one away."""
    weights = load_file(folder / WEIGHTS) | tensors
    weights = {k: v for k, v in weights.items() if v is not None}
    save_file(weights, folder / WEIGHTS)


def test_tensors_that_do_not_fit(folder):
    name = "classifier.1.weight"
    weight = load_file(folder / WEIGHTS)[name]
    for tensor, message in (
        (None, "is missing"),
        (weight.T.contiguous(), r"is \(\(\d+, 256\), torch.float32\)"),
        (weight.double(), r"is \(\(256, \d+\), 'F64'\)"),
        (weight.half(), r"is \(\(256, \d+\), 'F16'\)"),
        (weight.flatten(), r"is \(\(\d+,\), torch.float32\)"),
        (torch.full_like(weight, torch.nan), "holds NaN or infinity"),
        (torch.full_like(weight, torch.inf), "holds NaN or infinity"),
    ):
        spoil(folder, **{name: tensor})
        refuse(folder, f"{WEIGHTS}: {name} {message}")
    spoil(folder, **{name: weight, "../x\x1b": weight.clone()})
    refuse(folder, rf"{WEIGHTS}: \.\./x. is .*; expected no such tensor")


def test_weights_that_overflow(folder):
    weights = load_file(folder / WEIGHTS)
    for name in ("classifier.1.weight", "classifier.2.weight"):
        weights[name] = torch.full_like(weights[name], 3e38)
    save_file(weights, folder / WEIGHTS)
    refuse(
        folder, f"{WEIGHTS}: for silence, the network outputs .*; expected two"
    )


def header(text, size=None):
    """The beginning of a safetensors file."""
    text = json.dumps(text).encode() if isinstance(text, dict) else text
    return struct.pack("<Q", len(text) if size is None else size) + text


def entry(shape, begin, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


BAD_FILES = {
    "empty": (b"", "unusable .*header"),
    "text": (b"hello\n" * 99, "has 594 bytes and a header of [0-9]+; expected"),
    "a long header": (
        header(b"", 1 << 40),
        "has 8 bytes and a header of 1099511627776",
    ),
    "no header": (header(b"", 1000), "unusable .*header"),
    "no JSON": (header(b"{"), "unusable .*header"),
    "nested": (header(b"[" * 100_000), "unusable .*header"),
    "beyond the end": (header({"w": entry([4], 0, 16)}), "unusable .*header"),
    "overlapping": (
        header({"w": entry([1], 0, 4), "v": entry([1], 0, 4)}) + bytes(4),
        "unusable .*header",
    ),
    "huge": (
        header({"w": entry([1 << 31, 1 << 31], 0, 4)}) + bytes(4),
        "unusable .*header",
    ),
    "backwards": (header({"w": entry([1], 8, 4)}), "unusable .*header"),
    "a pickle": (
        b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.",
        "has 26 bytes and a header of ",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(folder, case):
    content, message = BAD_FILES[case]
    (folder / WEIGHTS).write_bytes(content)
    refuse(folder, f"{WEIGHTS}: {message}")


def test_a_file_that_was_cut(folder):
    os.truncate(folder / WEIGHTS, os.path.getsize(folder / WEIGHTS) - 1)
    refuse(folder, f"{WEIGHTS}: unusable .*expected what safetensors writes")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_is_no_file(folder, name):
    path = folder / name
    for make, message in (
        (os.mkfifo, "is no regular file"),
        (lambda p: os.symlink("/dev/zero", p), "is no regular file"),
        (os.mkdir, "is no regular file"),
        (lambda p: os.symlink("gone", p), "unusable .*FileNotFoundError"),
        (lambda p: os.symlink(name, p), "unusable .*OSError"),
        (lambda p: None, "unusable .*FileNotFoundError"),
    ):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)
        refuse(folder, f"{name}: {message}")


def test_a_link_to_a_file_is_followed(folder):
    """As in the cache of the hub."""
    for name in (CONFIG, WEIGHTS):
        os.rename(folder / name, name)
        os.symlink(Path(name).resolve(), folder / name)
    SpoofDetector.from_hparams(folder)


def test_only_trusted_code_is_run(folder):
    for name in ("hyperparams.yaml", "custom.py"):
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("x: !apply:os.mkdir [executed]\n")
    SpoofDetector.from_hparams(folder)
    assert not Path("executed").exists()
    SpoofDetector.from_hparams(folder, trust_code=True)
    assert Path("executed").exists()
