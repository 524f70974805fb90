"""Folders of strangers are refused before anything of them is run."""

import contextlib
import functools
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from tiny_detector import SAMPLES, export, tiny_network

from speechbrain_bilevel.inference import limits
from speechbrain_bilevel.inference import pretrained as loading
from speechbrain_bilevel.inference.allowed import checked_yaml
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.weights import load_weights
from speechbrain_bilevel.utils.errors import InputError

HOSTILE = Path(__file__).resolve().parent.parent / "hostile"

#: YAMLs that run `touch executed`, or the like, when HyperPyYAML loads them:
#: the line that does it and what of it a message should quote.
EXECUTING = {
    "alias": (2, "'!apply:os.system'"),
    "apply": (2, "'!apply:os.system'"),
    "apply_builtin": (2, "'!apply:exec'"),
    "applyref": (2, "'!applyref:os.system'"),
    "callback": (5, "'!name:os.system'"),
    "callback_by_detour": (
        5,
        "'!name:torch.nn.modules.module.inspect.os.system'",
    ),
    "include": (2, "'!include:apply.yaml'"),
    "merge_key": (2, "!apply:os.system|tag:yaml.org,2002:merge"),
    "module": (2, "'!module:executes'"),
    "new": (2, "'!new:subprocess.Popen'"),
    "python_tag": (2, "'tag:yaml.org,2002:python/object/apply:os.system'"),
    # HyperPyYAML makes something else of it: no line of the file.
    "question_mark": (None, "'!module:executes'"),
    "reference_in_text": (4, "could be interpreted as references"),
    "tag_directive": (4, "'!apply:os.system'"),
    "tag_encoded": (2, "'!apply:os.system'"),
    "tag_verbatim": (2, "'!apply:os.system'"),
    "through_a_module": (2, "'!apply:speechbrain.core.os.system'"),
    "tuple": (2, "more than a tuple"),
    "tuple_by_reference": (3, "more than a reference"),
    "tuple_quoted": (2, "more than a tuple"),
    "tuple_tagged": (2, "more than a tuple"),
    "underscores": (2, "'!apply:os.system'"),
    "within": (4, "'!apply:os.system'"),
}
#: Those of which HyperPyYAML leaves out the quotes, and does so only in the
#: first YAML that it loads in a process.
UNQUOTED = ("reference_in_text", "tuple_by_reference", "tuple_quoted")
#: Those that do harm in other ways, or would if HyperPyYAML were to let them.
OTHERS = {
    "alias_bomb": (None, "this is too much"),
    "arithmetic": (3, r"'<x>\*\*<x>\*\*<x>' is more than a reference"),
    "attribute": (3, "'<x.forward.__globals__>' is more than a reference"),
    "compile": (2, "compile is for whoever runs the detector"),
    "copy": (3, "'!copy'"),
    "cycle": (2, "referring to, each other"),
    "deep": (2, "too many things within"),
    "deeper": (None, "is no YAML .*recursion"),
    "device": (2, "device is for whoever runs the detector"),
    "function_for_class": (2, "'!new:torch.nn.functional.relu'"),
    "hook_by_reference": (4, "'!name:speechbrain.*torch_recovery'"),
    "hooks": (4, "'!name:os.remove'"),
    "huge_in_tuple": (2, "'10000000000000' is too large"),
    "huge_number": (2, "'10_000_000_000_000' is too large"),
    "large": (None, "the network needs more than 2 GiB"),
    "large_by_arithmetic": (None, "the network needs more than 2 GiB"),
    "large_filled": (None, "the network needs more than 2 GiB"),
    "loading_hook": (3, "'!name:speechbrain.*torch_recovery'"),
    "many_layers": (None, "takes too long to be built"),
    "method": (2, "'!name:speechbrain.processing.features.Input"),
    "name": (2, "'!name:os.system'"),
    "on_a_key": (2, "'!apply:os.system'"),
    "parameter_dict": (2, "'!new:torch.nn.ParameterDict'"),
    "reference_bomb": (None, "this is too much"),
    "reference_cycle": (2, "referring to, each other"),
    "within_hooks": (5, "'!include:apply.yaml'"),
}
PICKLES = sorted(path.stem for path in HOSTILE.glob("*.pkl"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A pretrained folder that can be loaded."""
    folder = tmp_path_factory.mktemp("good") / "pretrained"
    return export(folder, tiny_network())


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A copy of it, to be spoilt, in an otherwise almost empty directory."""
    monkeypatch.chdir(tmp_path)
    # As in a script that is started here.
    monkeypatch.syspath_prepend(tmp_path)
    Path("executes.py").write_text("open('executed', 'w')\n")
    shutil.copy(HOSTILE / "apply.yaml", tmp_path)
    monkeypatch.delitem(sys.modules, "executes", raising=False)
    shutil.copytree(good, "pretrained")
    return Path("pretrained")


def refuse(folder, message):
    """The folder is refused with this, soon, and nothing of it is run."""
    start = time.monotonic()
    with pytest.raises(InputError, match=f"^{folder}: {message}"):
        SpoofDetector.from_hparams(folder)
    assert time.monotonic() - start < 10
    assert not Path("executed").exists()
    assert "executes" not in sys.modules


def executes(load, *args, **kwargs):
    """Whether something is run by loading, whatever comes of that."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(*args, **kwargs)
    sys.modules.pop("executes", None)
    # Some of them do not wait for it.
    for _ in range(100):
        if Path("executed").exists():
            return True
        time.sleep(0.02)
    return False


def test_every_hostile_yaml_has_a_test():
    names = {path.stem for path in HOSTILE.glob("*.yaml")}
    assert names == {*EXECUTING, *OTHERS}
    assert len(PICKLES) == 10


@pytest.mark.parametrize("name", [*EXECUTING, *OTHERS])
def test_hostile_yamls_are_refused(folder, name, monkeypatch):
    line, offender = (EXECUTING | OTHERS)[name]
    if name == "many_layers":
        monkeypatch.setattr(limits, "_MOST_CALLS", 300_000)
    shutil.copy(HOSTILE / f"{name}.yaml", folder / "hyperparams.yaml")
    place = "" if line is None else f", line {line}: "
    refuse(folder, f"hyperparams.yaml{place}.*({offender})")


@pytest.mark.parametrize("name", EXECUTING)
def test_hyperpyyaml_alone_runs_them(folder, name):
    text = (HOSTILE / f"{name}.yaml").read_text(encoding="utf-8")
    load = functools.partial(load_hyperpyyaml, text)
    if name in UNQUOTED:
        code = f"import hyperpyyaml; hyperpyyaml.load_hyperpyyaml({text!r})"
        load = functools.partial(
            subprocess.run, [sys.executable, "-c", code], capture_output=True
        )
    assert executes(load)


def zipped(content, compression=zipfile.ZIP_STORED, **more):
    """Weights as torch.save writes them, of this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("network/data.pkl", content)
        archive.writestr("network/byteorder", "little")
        archive.writestr("network/version", "3\n")
        for name, part in more.items():
            archive.writestr(f"network/data/{name.strip('_')}", part)
    return file.getvalue()


@pytest.mark.parametrize("wrap", [bytes, zipped], ids=["raw", "zipped"])
@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles_are_refused(folder, name, wrap):
    content = wrap((HOSTILE / f"{name}.pkl").read_bytes())
    (folder / "network.ckpt").write_bytes(content)
    refuse(folder, "network.ckpt: holds no weights .*Nothing in it was run")
    (folder / "label_encoder.ckpt").write_bytes(content)
    refuse(folder, "(network|label_encoder).ckpt: holds no (weights|labels)")
    unsafe = functools.partial(torch.load, weights_only=False)
    if wrap is bytes:
        unsafe = pickle.load
    with open(folder / "network.ckpt", "rb") as file:
        assert executes(unsafe, file)


def sized(kind, size):
    """A pickle, of what torch.load takes for safe, of that size."""
    size = size.to_bytes(6, "little")
    return b"\x80\x02c%s\n\x8a\x06%s\x85R." % (kind, size)


def tensor(shape, stride):
    """A pickle of one tensor, of a single number in the file."""
    shape, stride = (
        b"".join(b"J" + n.to_bytes(4, "little") for n in numbers)
        for numbers in (shape, stride)
    )
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuK\x01tQK\x00(%st(%st\x89ccollections\n"
        b"OrderedDict\n)RtRs." % (shape, stride)
    )


# Tuples of the one before, twice, to the 60th: a key that is hashed for ever.
HASHED_FOR_EVER = (
    b"\x80\x02}K\x01"
    + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60))
    + b"K\x01s."
)
FORGED = {
    "hashed for ever": (zipped(HASHED_FOR_EVER), "a tuple more than once"),
    "bytes": (
        zipped(sized(b"__builtin__\nbytearray", 1 << 40)),
        "__builtin__.bytearray",
    ),
    "tensor": (zipped(sized(b"torch\nTensor", 1 << 40)), "torch.Tensor"),
    "storage": (
        zipped(sized(b"torch.storage\nUntypedStorage", 1 << 40)),
        "torch.storage.UntypedStorage",
    ),
    "packed": (zipped(bytes(1 << 20), zipfile.ZIP_DEFLATED), "is packed"),
    "expanded": (
        zipped(tensor((1 << 20, 1 << 20), (0, 0)), _0=bytes(4)),
        "far more than the file",
    ),
    "beyond its file": (
        zipped(tensor((1 << 20,), (1,)), _0=bytes(4)),
        "holds no weights",
    ),
    "long": (zipped(b"\x80\x02" + b"N" * (1 << 23)), "its pickle has 83"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_weights_are_refused(folder, case):
    content, message = FORGED[case]
    (folder / "network.ckpt").write_bytes(content)
    refuse(folder, f"network.ckpt: .*{message}")


def test_torch_sees_no_other_archive_than_is_checked(tmp_path):
    one, two = (
        zipped(tensor((1,), (1,)), _0=struct.pack("<f", number))
        for number in (1, 2)
    )
    # Python takes the list of files at the end, torch the one that the last
    # 22 bytes point to.
    path = tmp_path / "network.ckpt"
    path.write_bytes(two[:-22] + one)
    assert torch.load(path)["w"].item() == 2
    assert load_weights(path)["w"].item() == 1


BAD_LABELS = {
    "nothing": b"",
    "no text": bytes(range(256)),
    "many": b"'x' => 0\n" * 20_000,
    "nested": b"(" * 50_000 + b" => 0\n",
    "a call": b"__import__('os').system('touch executed') => 0\n",
    "negated": b"-" * 90_000 + b"1 => 0\n",
    "long number": b"'spoof' => " + b"9" * 90_000 + b"\n",
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused(folder, case):
    (folder / "label_encoder.ckpt").write_bytes(BAD_LABELS[case])
    refuse(folder, "label_encoder.ckpt: holds no labels")


#: What is replaced in the folder's own YAML, by what, and the message.
CHANGES = {
    "a loadable elsewhere": (
        "    loadables:",
        "    loadables:\n        ../other: !ref <network>",
        "loadable '../other'; expected a name of letters",
    ),
    "a path": (
        "    loadables:",
        "    paths: {network: /other.ckpt}\n    loadables:",
        "has paths or conditions",
    ),
    "a condition": (
        "    loadables:",
        "    conditions: {network: False}\n    loadables:",
        "has paths or conditions",
    ),
    "no weights": (
        "        network: !ref <network>\n        label",
        "        label",
        "network is none of its loadables",
    ),
    "no number": ("\nsamples: 1600", "\nsamples: many", "samples: expected"),
    "negative": ("\nsamples: 1600", "\nsamples: -5", "samples: expected"),
    "too many": ("\nsamples: 1600", "\nsamples: 999999999", "samples: exp"),
    "no samples": ("\nsamples: 1600", "\nsamplez: 1600", "builds no det"),
    "no truth": ("d: False", "d: 'no'", "as_published: expected True"),
    "no module": (
        "    network: !ref <network>\n    # What",
        "    network: !ref <samples>\n    # What",
        "modules: expected keys with a module each",
    ),
    "no modules": (
        "modules:\n",
        "modules: 5\nothers:\n",
        "modules: expected keys with a module each",
    ),
    "other labels": (
        "!new:speechbrain.dataio.encoder.CategoricalEncoder",
        "!new:torch.nn.Identity",
        "label_encoder: expected a CategoricalEncoder",
    ),
    "calibrated backwards": (
        "calibration: null",
        "calibration: {weight: -1, bias: 0}",
        "builds no detector .*expected a positive weight",
    ),
    "calibrated by a list": (
        "calibration: null",
        "calibration: [1, 2]",
        "builds no detector",
    ),
    "what a terminal obeys": (
        "network: !new",
        'x: !new:torch.nn.Linear {"\\e[2J": 1}\nnetwork: !new',
        "builds no detector [^\x1b\n]*$",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_no_detector_is_refused(folder, case):
    before, after, message = CHANGES[case]
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    refuse(folder, f"hyperparams.yaml: .*{message}")


def test_a_refused_yaml_leaves_no_trace(folder):
    shutil.copy(HOSTILE / "large.yaml", folder / "hyperparams.yaml")
    before = sorted(os.listdir())
    refuse(folder, "hyperparams.yaml: ")
    assert sorted(os.listdir()) == before
    assert sys.getprofile() is None
    # Deep construction, which HyperPyYAML switches on, cannot do this.
    (itself,) = yaml.safe_load("&x [*x]")
    assert itself[0] is itself


def test_trust_code_runs_it(folder):
    with open(folder / "hyperparams.yaml", "a", encoding="utf-8") as file:
        file.write((HOSTILE / "apply.yaml").read_text())
    refuse(folder, "hyperparams.yaml, line .*'!apply:os.system'")
    detector = SpoofDetector.from_hparams(folder, trust_code=True)
    assert Path("executed").exists()
    assert detector.hparams.x == 0


HARMLESS = """\
nothing: null
small: 1e-9
smaller: -1.5e-10
count: 64600
on: True
yes_or_no: yes
text: "quoted, with: signs & [brackets]"
empty: {}
sizes: [1, 2.5, [3, 4]]
pair: (3, 4)
floats: (1e-3, -0.5)
one: (1,)
a: {b: {c: 7}}
seven: !ref <a[b][c]>
same: !ref <pair>
chain: !ref <seven>
activation: !name:torch.nn.LeakyReLU
leaky: !name:torch.nn.LeakyReLU
    negative_slope: 0.2
function: !name:torch.nn.functional.relu
mel: !new:torchaudio.transforms.MelSpectrogram
    sample_rate: 16000
    n_mels: 20
convolution: !new:torch.nn.Conv2d
    - 1
    - 2
    - (3, 5)
front_end: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
network: !new:speechbrain.nnet.containers.Sequential
    input_shape: [null, null, 20]
    linear: !name:speechbrain.nnet.linear.Linear {n_neurons: 4, bias: False}
    norm: !name:speechbrain.nnet.normalization.BatchNorm1d
    act: !new:torch.nn.ReLU
embedding: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <a[b][c]>
    channels: [8, 8, 24]
    kernel_sizes: [5, 3, 1]
    dilations: [1, 2, 1]
    attention_channels: 4
    lin_neurons: 3
modules: &modules
    network: !ref <network>
    embedding: !ref <embedding>
again: *modules
recurrent: !new:speechbrain.nnet.RNN.LiGRU
    hidden_size: 3
    input_shape: [2, 4, 5]
__internal: 5
"""


def comparable(value):
    """What can be compared of anything that a YAML builds."""
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(comparable(part) for part in value)
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, torch.nn.Module):
        numbers = {
            name: part.tolist() for name, part in value.state_dict().items()
        }
        return repr(value), numbers
    return value


def both(path):
    """What is built of a YAML with and without the checks."""
    load_plainly = functools.partial(load_hyperpyyaml, path.read_text())
    load = functools.partial(
        load_hyperpyyaml, checked_yaml(path), loader=loading._Loader
    )
    for build in (load, load_plainly):
        torch.manual_seed(0)
        yield build()


def test_harmless_yamls_give_what_hyperpyyaml_gives(tmp_path):
    path = tmp_path / "hyperparams.yaml"
    path.write_text(HARMLESS)
    ours, theirs = both(path)
    assert comparable(ours) == comparable(theirs)
    assert ours["modules"]["network"] is ours["network"]
    assert ours["pair"] == (3, 4) and ours["small"] == 1e-9
    assert ours["nothing"] is None and ours["chain"] == 7


def test_so_does_the_yaml_of_a_folder(folder):
    ours, theirs = both(folder / "hyperparams.yaml")
    for hparams in (ours, theirs):
        del hparams["pretrainer"], hparams["label_encoder"]
    assert comparable(ours) == comparable(theirs)
    assert ours["modules"]["embedding_model"].network is ours["network"]


def test_overrides_are_the_users_own(folder):
    detector = SpoofDetector.from_hparams(folder, overrides={"samples": 800})
    assert detector.hparams.samples == 800 < SAMPLES
