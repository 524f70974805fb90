"""network.onnx: written, equal to torch, run by each engine, and refused."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_onnx import SMALL, export_onnx, small_network

from speechbrain_bilevel import SpoofDetector
from speechbrain_bilevel.cli import main
from speechbrain_bilevel.inference import engines
from speechbrain_bilevel.inference.config import (
    CONFIG,
    ONNX,
    ONNX_INT8,
    DetectorConfig,
    read_config,
)
from speechbrain_bilevel.inference.engines import ENGINES, open_detector, start
from speechbrain_bilevel.inference.onnx_export import (
    TOLERANCE,
    read_clips,
    write_onnx,
)
from speechbrain_bilevel.inference.scoring import score_trials
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import sha256

OTHERS = [engine for engine in ENGINES if engine != "torch"]


def speech(path, seconds, seed=0, rate=16000):
    """Write noise with a rhythm, which every network can hear."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(path, 0.1 * noise * (1 + np.sin(9 * time)), rate)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A calibrated MelCNN with both ONNX files, and recordings."""
    place = tmp_path_factory.mktemp("engines")
    paths = [speech(place / f"{n}.flac", 0.4, n) for n in range(6)]
    calibration = {"weight": 0.5, "bias": 0.25}
    folder = place / "detector"
    export_onnx(folder, "MelCNN", calibration, int8=True, clips=paths)
    return folder


@pytest.fixture
def paths(folder):
    return sorted(map(str, folder.parent.glob("*.flac")))


# -------------------------------------------------------------- equal to torch
@pytest.mark.parametrize("name", SMALL)
def test_every_network_equals_torch_in_every_engine(name, tmp_path):
    network = small_network(name)
    config = DetectorConfig(name, network.sizes)
    clips = read_clips([], network.num_samples, 5)
    clips *= np.geomspace(0.01, 30, 5, dtype=np.float32)[:, None]
    facts, difference = write_onnx(network, config, tmp_path, clips)
    config = dataclasses.replace(config, onnx=facts)
    with torch.no_grad():
        expected = network(torch.from_numpy(clips)).numpy()
    # Log-likelihoods are far from 0.
    tolerance = TOLERANCE * max(1, np.abs(expected).max() / 100)
    assert difference < tolerance
    assert expected.std(axis=0).min() > 10 * tolerance
    for engine in OTHERS:
        run = start(engine, tmp_path / ONNX, config)
        for batch in (1, 2, 5):
            found = run(clips[:batch])
            np.testing.assert_allclose(found, expected[:batch], atol=tolerance)


def test_the_file_says_nothing_of_where_it_was_written(folder):
    model = onnx.load(folder / ONNX)
    (opset,) = model.opset_import
    assert (opset.domain, opset.version) == (
        "",
        read_config(folder / CONFIG).onnx["opset"],
    )
    content = (folder / ONNX).read_bytes()
    for word in (b".py", b"site-packages", str(folder.parent).encode()):
        assert word not in content


def test_what_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    network = small_network("MelCNN")
    config = DetectorConfig("MelCNN", network.sizes)
    clips = read_clips([], network.num_samples)
    forward = type(network).forward

    def changed(self, wavs):
        # In torch only.
        shift = 0 if torch.compiler.is_exporting() else 0.001
        return forward(self, wavs) + shift

    monkeypatch.setattr(type(network), "forward", changed)
    with pytest.raises(InputError, match=f"^{ONNX}: its logits differ from"):
        write_onnx(network, config, tmp_path, clips)


@pytest.mark.parametrize("score", ["logit_difference", "softmax"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_the_card_s_lines_of_onnxruntime(folder, tmp_path, score, calibrated):
    """They give the score of ``classify``, and need numpy only."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / CONFIG).read_text())
    content |= {"score": score}
    content |= {} if calibrated else {"calibration": None}
    (copy / CONFIG).write_text(json.dumps(content))
    from speechbrain_bilevel.inference.export import model_card

    card = model_card("it", read_config(copy / CONFIG))
    code = re.findall("```python\n(.*?)```", card, re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    assert not set(re.findall(r"import (\w+)", code)) - {"numpy", "onnxruntime"}
    path = speech(tmp_path / "a.wav", 0.06)
    code = code.replace("np.zeros(16000)", "np.load('wav.npy')")
    np.save(tmp_path / "wav.npy", soundfile.read(path)[0])
    shutil.copy(folder / ONNX, tmp_path / ONNX)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = open_detector(copy).score_file(path).score
    assert float(done.stdout) == pytest.approx(expected, abs=1e-3)


# -------------------------------------------------------------------- engines
@pytest.mark.parametrize("engine", OTHERS)
def test_recordings_by_each_engine(folder, paths, engine):
    ours = open_detector(folder)
    other = open_detector(folder, engine)
    full = SpoofDetector.from_hparams(folder, engine=engine)
    for path in paths[:2]:
        expected = ours.score_file(path)
        for detector in (other, full):
            verdict = detector.score_file(path)
            assert verdict.score == pytest.approx(expected.score, abs=1e-3)
            assert verdict.meaning == expected.meaning
            assert (
                detector.segments(path).segments
                == detector.segments(path, progress=False).segments
            )
            found, wanted = detector.segments(path), ours.segments(path)
            assert len(found.segments) == len(wanted.segments) == 7
            assert found.score == pytest.approx(wanted.score, abs=1e-3)
    log_posteriors, *_ = full.classify_file(paths[0])
    assert log_posteriors.shape == (1, 2)
    with pytest.raises(InputError, match="MelCNN in ONNX has no embeddings"):
        full.encode_batch(torch.zeros(1, 1600))
    with pytest.raises(InputError, match="adapted; use the engine torch"):
        full.adapt(None)
    with pytest.raises(InputError, match="MelCNN in ONNX takes windows of 0.1"):
        other.segments(paths[0], window=0.2)


def test_the_light_detector_is_spoof_detector(folder, paths):
    light, full = open_detector(folder), SpoofDetector.from_hparams(folder)
    for path in paths:
        assert light.score_file(path) == full.score_file(path)
        assert light.segments(path) == full.segments(path)


@pytest.mark.parametrize("engine", OTHERS)
def test_lists_by_each_engine(folder, paths, tmp_path, engine, capsys):
    trials = pd.DataFrame({"utt": [f"u{n}" for n in range(6)], "path": paths})
    trials = trials.assign(attack="-", label="bonafide")
    scores = {}
    for name in ("torch", engine):
        detector = SpoofDetector.from_hparams(folder, engine=name)
        path = tmp_path / f"{name}.txt"
        score_trials(detector, trials, path, batch_size=4)
        lines = [line.split() for line in path.read_text().splitlines()]
        scores[name] = [float(line[-1]) for line in lines]
    np.testing.assert_allclose(scores[engine], scores["torch"], atol=1e-3)
    assert scores[engine] != scores["torch"]
    # Neither takes the other's for its own.
    with pytest.raises(InputError, match="exists but holds scores of another"):
        score_trials(detector, trials, tmp_path / "torch.txt", batch_size=4)
    score_trials(detector, trials, tmp_path / f"{engine}.txt", batch_size=4)
    assert "0 scores made, 6 kept" in capsys.readouterr().err
    with pytest.raises(InputError, match="^MelCNN in ONNX: takes recordings"):
        score_trials(detector, trials, tmp_path / "a.txt", full_length=True)


def test_8_bits_are_another_network(folder, paths):
    exact = open_detector(folder, "openvino").score_file(paths[0]).score
    for engine in OTHERS:
        rough = open_detector(folder, engine, precision="int8")
        score = rough.score_file(paths[0]).score
        assert score != exact and score == pytest.approx(exact, abs=0.3)
    operators = {
        node.op_type for node in onnx.load(folder / ONNX_INT8).graph.node
    }
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_full_precision_is_the_default(folder, paths, monkeypatch):
    """OpenVINO would choose bf16 where the CPU has it."""
    import openvino

    asked = []
    compile_model = openvino.Core.compile_model

    def ask(self, model, device, options):
        asked.append(options["INFERENCE_PRECISION_HINT"])
        return compile_model(self, model, device, options)

    monkeypatch.setattr(openvino.Core, "compile_model", ask)
    open_detector(folder, "openvino").score_file(paths[0])
    assert set(asked) == {"f32"}


@pytest.mark.parametrize("engine", OTHERS)
def test_threads_are_those_of_the_environment(folder, paths, engine):
    code = (
        "import os, sys\n"
        "from speechbrain_bilevel.inference.engines import *\n"
        "detector = open_detector(sys.argv[1], sys.argv[2])\n"
        "detector.score_file(sys.argv[3])\n"
        "assert 'torch' not in sys.modules\n"
        "print(threads())\n"
    )
    for stated, expected in (("1", "1"), ("3,2", "3"), ("x", None)):
        done = subprocess.run(
            [sys.executable, "-c", code, folder, engine, paths[0]],
            env=dict(os.environ, OMP_NUM_THREADS=stated),
            capture_output=True,
            text=True,
            check=True,
        )
        if expected:
            assert done.stdout.strip() == expected
    assert engines.threads() == torch.get_num_threads()


def test_auto_is_the_fastest_that_is_there(folder, tmp_path, monkeypatch):
    assert open_detector(folder, "auto").engine == "openvino"
    assert open_detector(folder, "auto", precision="fp16").engine == "torch"
    monkeypatch.setattr(engines, "_has", lambda name: name == "onnxruntime")
    assert open_detector(folder, "auto").engine == "onnxruntime"
    monkeypatch.setattr(engines, "_has", lambda name: False)
    assert open_detector(folder, "auto").engine == "torch"
    with pytest.raises(InputError, match=r"pip install '\.\[openvino\]'"):
        open_detector(folder, "openvino")
    without = folder.with_name("detector_weights")
    assert open_detector(without, "auto").engine == "torch"


def test_wrong_use_is_told(folder):
    without = folder.with_name("detector_weights")
    for arguments, message in (
        (
            (without, "openvino"),
            "has no network.onnx, .* OUT --onnx",
        ),
        ((folder, "onnx"), "engine onnx: expected torch, onnxruntime, openv"),
        ((folder, "torch", None, "int8"), "precision int8: torch has fp32"),
        ((folder, "onnxruntime", None, "bf16"), "precision bf16: onnxruntime"),
        (
            (folder, "openvino", "cuda"),
            "device cuda: openvino runs",
        ),
        ((folder.parent / "none",), "no such folder"),
    ):
        with pytest.raises(InputError, match=message):
            open_detector(*arguments)


def test_the_commands_take_an_engine(folder, paths, tmp_path, capsys):
    command = ["classify", "--source", str(folder), paths[0], "--format", "csv"]
    found = []
    for engine in ENGINES:
        assert main([*command, "--engine", engine]) == 0
        found.append(
            float(capsys.readouterr().out.splitlines()[1].split(",")[2])
        )
    assert np.ptp(found) < 1e-3
    with pytest.raises(SystemExit) as end:
        main([*command, "--precision", "int8"])
    assert end.value.code == 2
    soundfile.write(tmp_path / "silence.wav", np.zeros(1600), 16000)
    (tmp_path / "list.txt").write_text("silence.wav bonafide\n")
    silence = "--clips", str(tmp_path / "list.txt")
    for options, message in (
        (["--int8"], "name a list of the training by --clips"),
        (["--onnx", *silence], "none of 1 recordings can be heard"),
        (silence, "--clips: has no use without --onnx"),
        (["--data-folder", "x"], "--data-folder: has no use without --clips"),
        (["--int8-scores", "x"], "--int8-scores: has no use without --int8"),
    ):
        with pytest.raises(SystemExit):
            main(["export", str(folder), str(tmp_path / "out"), *options])
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------- untrusted
def spoil(folder, tmp_path, change):
    """Copy a folder, change its network, and let config.json name it."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    model = onnx.load(copy / ONNX)
    change(model)
    onnx.save(model, copy / ONNX)
    content = json.loads((copy / CONFIG).read_text())
    content["onnx"]["sha256"] = sha256(copy / ONNX)
    (copy / CONFIG).write_text(json.dumps(content))
    return copy


def add(model, kind, inputs, output, **attributes):
    node = helper.make_node(kind, inputs, [output], **attributes)
    model.graph.node.append(node)


def grow(model):
    """Its logits take the detour of a gigabyte."""
    shape = numpy_helper.from_array(np.array([1, 2, 1 << 28]), "large")
    model.graph.initializer.append(shape)
    axes = numpy_helper.from_array(np.array([2]), "axes")
    model.graph.initializer.append(axes)
    add(model, "Unsqueeze", ["logits", "axes"], "thin")
    add(model, "Expand", ["thin", "large"], "thick")


def unknown(model):
    """A size that depends on what is heard."""
    add(model, "Cast", ["logits"], "numbers", to=TensorProto.INT64)
    flat = numpy_helper.from_array(np.array([-1]), "flat")
    model.graph.initializer.append(flat)
    add(model, "Reshape", ["numbers", "flat"], "sizes")
    add(model, "ConstantOfShape", ["sizes"], "zeros")


def stated(model):
    """The same, but the file states that it is small."""
    unknown(model)
    value = helper.make_tensor_value_info("zeros", TensorProto.FLOAT, [4])
    model.graph.output.append(value)


def many(model):
    """Its tensors are large together only."""
    shape = numpy_helper.from_array(np.array([1, 2, 1 << 24]), "large")
    axes = numpy_helper.from_array(np.array([2]), "axes")
    model.graph.initializer.extend([shape, axes])
    add(model, "Unsqueeze", ["logits", "axes"], "thin")
    for number in range(300):
        add(model, "Expand", ["thin", "large"], f"thick{number}")


def long(model):
    """Small tensors, but it takes hours."""
    side = numpy_helper.from_array(np.array([1, 4096, 4096]), "side")
    axes = numpy_helper.from_array(np.array([1]), "axes")
    model.graph.initializer.extend([side, axes])
    add(model, "ReduceSum", ["logits", "axes"], "sum")
    add(model, "Unsqueeze", ["sum", "axes"], "thin")
    add(model, "Expand", ["thin", "side"], "a0")
    for number in range(40):
        add(model, "MatMul", [f"a{number}", "a0"], f"a{number + 1}")


def by_batch(model):
    """A tensor grows with the square of the batch."""
    add(model, "Shape", ["logits"], "shape", end=1)
    one = numpy_helper.from_array(np.array([1]), "one")
    model.graph.initializer.append(one)
    add(model, "Unsqueeze", ["logits", "one"], "thin")
    two = numpy_helper.from_array(np.array([2]), "two")
    model.graph.initializer.append(two)
    add(model, "Concat", ["one", "shape", "two"], "square", axis=0)
    add(model, "Expand", ["thin", "square"], "thick")


def sparse(model):
    tensor = model.graph.sparse_initializer.add()
    tensor.dims.append(1 << 30)


def constant_elsewhere(model):
    tensor = numpy_helper.from_array(np.zeros(1, np.float32))
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "model.safetensors"
    add(model, "Constant", [], "constant", value=tensor)


def elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "other_file"


def loop(model):
    body = helper.make_graph([], "body", [], [])
    add(model, "Loop", ["", ""], "looped", body=body)


def of_others(model):
    add(model, "Relu", ["logits"], "more")
    model.graph.node[-1].domain = "com.example"


CHANGES = {
    "grow": (grow, "its Expand makes 4096 MB; expected at most 512 MB"),
    "unknown": (unknown, "its ConstantOfShape makes an unknown size"),
    "stated": (stated, "its ConstantOfShape makes an unknown size"),
    "many": (many, "all its tensors have .* expected at most 32768 MB"),
    "long": (long, "and it multiplies .* G numbers .* and 2048 G"),
    "by batch": (by_batch, "its Expand makes an unknown size"),
    "sparse": (sparse, "sparse tensors or graphs in it; expected none"),
    "constant elsewhere": (constant_elsewhere, "weights in other files"),
    "elsewhere": (elsewhere, "weights in other files; expected none"),
    "loop": (loop, "operator Loop; expected those of the networks"),
    "of others": (of_others, "operator Relu; expected those of the networks"),
    "no input": (
        lambda model: model.graph.ClearField("input"),
        "expected one input, of float32",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("engine", OTHERS)
def test_networks_that_might_do_harm(folder, tmp_path, case, engine):
    change, message = CHANGES[case]
    copy = spoil(folder, tmp_path, change)
    with pytest.raises(InputError, match=f"^{copy}: {ONNX}: .*{message}"):
        open_detector(copy, engine)


@pytest.mark.parametrize("engine", OTHERS)
def test_logits_of_another_batch_are_refused(folder, paths, tmp_path, engine):
    def first(model):
        """Returns the logits of the first clip only."""
        del model.graph.output[:]
        ends = zip(("begin", "end"), ([0], [1]))
        for name, value in ends:
            tensor = numpy_helper.from_array(np.array(value), name)
            model.graph.initializer.append(tensor)
        add(model, "Slice", ["logits", "begin", "end", "begin"], "one_clip")
        value = helper.make_tensor_value_info("one_clip", 1, [1, 2])
        model.graph.output.append(value)

    detector = open_detector(spoil(folder, tmp_path, first), engine)
    assert detector.score_file(paths[0]).score is not None
    with pytest.raises(InputError, match=r"outputs \(1, 2\); expected logits"):
        detector.classify_files(paths)


@pytest.mark.parametrize("engine", OTHERS)
def test_threads_do_not_mix_recordings_up(folder, paths, engine):
    detector = open_detector(folder, engine)
    expected = [detector.score_file(path).score for path in paths]
    assert len(set(expected)) == len(paths)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            verdicts = pool.map(detector.score_file, paths)
            assert [verdict.score for verdict in verdicts] == expected


def test_a_network_that_config_json_does_not_name(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / ONNX).read_bytes()
    (copy / ONNX).write_bytes(content[:-1] + b"x")
    for engine in OTHERS:
        with pytest.raises(InputError, match=r"is not the file whose SHA-256"):
            open_detector(copy, engine)
    (copy / ONNX).unlink()
    with pytest.raises(InputError, match="FileNotFoundError"):
        open_detector(copy, "onnxruntime")
    # torch does not read it.
    assert open_detector(copy).engine == "torch"
