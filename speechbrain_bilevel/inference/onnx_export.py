"""Write a network as ONNX, with plain operators only, also of 8 bits."""

import contextlib
import copy
import dataclasses
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
import torchaudio
from tqdm import tqdm

from speechbrain_bilevel.dataio.audio import fit_length, hear
from speechbrain_bilevel.inference.config import ONNX, ONNX_INT8, naming
from speechbrain_bilevel.inference.engines import start
from speechbrain_bilevel.lobes.v2 import SincFilters
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import sha256

#: The version of ONNX's operators.
OPSET = 20
#: What logits of ONNX Runtime and of torch may differ by.
TOLERANCE = 1e-4
#: Clips to compare with, and to find the ranges of 8-bit numbers.
COMPARED, CALIBRATED = 8, 32
# Percent of the numbers that 8 bits have to represent; the largest are cut. Of
# 99.9 to 100, it changed AASIST's scores on MiniLA's dev the least.
_PERCENTILE = 99.999


class PowerSpectrogram(torch.nn.Module):
    """torchaudio's mel spectrogram by convolution, which all engines have.

    Example
    -------
    >>> mel = torchaudio.transforms.MelSpectrogram(16000, n_mels=40)
    >>> wavs = torch.randn(2, 1600)
    >>> torch.allclose(PowerSpectrogram(mel)(wavs), mel(wavs), rtol=1e-3)
    True
    """

    def __init__(self, mel):
        super().__init__()
        spectrogram = mel.spectrogram
        n_fft = self.n_fft = spectrogram.n_fft
        self.hop_length = spectrogram.hop_length
        window = torch.zeros(n_fft, dtype=torch.float64)
        start = (n_fft - spectrogram.win_length) // 2
        window[start : start + spectrogram.win_length] = spectrogram.window
        n_frequencies = n_fft // 2 + 1
        turns = torch.outer(torch.arange(n_frequencies), torch.arange(n_fft))
        angle = 2 * torch.pi / n_fft * (turns % n_fft).double()
        waves = torch.cat([angle.cos(), angle.sin()]) * window
        self.register_buffer("waves", waves.float().unsqueeze(1))
        self.register_buffer("bands", mel.mel_scale.fb.T.contiguous())

    def forward(self, wavs):
        """[batch, samples] -> [batch, bands, frames]"""
        margin = self.n_fft // 2
        wavs = torch.nn.functional.pad(
            wavs.unsqueeze(1), (margin, margin), mode="reflect"
        )
        parts = torch.nn.functional.conv1d(
            wavs, self.waves, stride=self.hop_length
        )
        real, imaginary = parts.chunk(2, dim=1)
        return self.bands @ (real.square() + imaginary.square())


class _FixedFilters(torch.nn.Module):
    """``SincFilters`` that are no longer computed."""

    def __init__(self, filters):
        super().__init__()
        self.register_buffer("filters", filters.first_half().detach().clone())

    def first_half(self):
        return self.filters


class _Gru(torch.nn.Module):
    """ONNX's operator for ``torch.nn.GRU`` of one layer, batch first."""

    def __init__(self, gru):
        super().__init__()
        self.hidden_size = size = gru.hidden_size

        def reorder(weight):
            # torch has reset, update, new; ONNX update, reset, new.
            reset, update, new = weight.detach().split(size)
            return torch.cat([update, reset, new])

        names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
        of_input, of_state, *biases = (reorder(getattr(gru, n)) for n in names)
        self.register_buffer("of_input", of_input.unsqueeze(0))
        self.register_buffer("of_state", of_state.unsqueeze(0))
        self.register_buffer("bias", torch.cat(biases).unsqueeze(0))

    def forward(self, x):
        x = x.transpose(0, 1)
        output = torch.onnx.ops.symbolic(
            "GRU",
            (x, self.of_input, self.of_state, self.bias),
            {"hidden_size": self.hidden_size, "linear_before_reset": 1},
            dtype=torch.float32,
            shape=(x.shape[0], 1, x.shape[1], self.hidden_size),
        )
        return output.squeeze(1).transpose(0, 1), None


class _Lstm(torch.nn.Module):
    """ONNX's operators for a bidirectional ``torch.nn.LSTM``, batch first."""

    def __init__(self, lstm):
        super().__init__()
        self.hidden_size, self.num_layers = lstm.hidden_size, lstm.num_layers

        def reorder(name):
            # torch has input, forget, new, output; ONNX input, output, forget,
            # new; and all of one direction before the other.
            found = []
            for each in name, f"{name}_reverse":
                gates = getattr(lstm, each).detach().split(lstm.hidden_size)
                found.append(torch.cat([gates[n] for n in (0, 3, 1, 2)]))
            return torch.stack(found)

        for n in range(lstm.num_layers):
            biases = reorder(f"bias_ih_l{n}"), reorder(f"bias_hh_l{n}")
            self.register_buffer(f"of_input{n}", reorder(f"weight_ih_l{n}"))
            self.register_buffer(f"of_state{n}", reorder(f"weight_hh_l{n}"))
            self.register_buffer(f"bias{n}", torch.cat(biases, dim=1))

    def forward(self, x):
        x = x.transpose(0, 1)
        for n in range(self.num_layers):
            names = f"of_input{n}", f"of_state{n}", f"bias{n}"
            output = torch.onnx.ops.symbolic(
                "LSTM",
                (x, *(getattr(self, name) for name in names)),
                {"hidden_size": self.hidden_size, "direction": "bidirectional"},
                dtype=torch.float32,
                shape=(x.shape[0], 2, x.shape[1], self.hidden_size),
            )
            x = output.transpose(1, 2).flatten(2)
        return x.transpose(0, 1), None


_PLAIN = {
    torchaudio.transforms.MelSpectrogram: PowerSpectrogram,
    SincFilters: _FixedFilters,
    torch.nn.GRU: _Gru,
    torch.nn.LSTM: _Lstm,
}


def plain(network):
    """Return a copy of a network in which all can be written as ONNX."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) in _PLAIN:
                setattr(module, name, _PLAIN[type(child)](child))
    return network


@contextlib.contextmanager
def _quiet():
    """Keep back what exporters say about themselves."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def write_onnx(network, config, folder, clips):
    """Write network.onnx into a folder, and compare it with torch.

    Arguments
    ---------
    network : torch.nn.Module
        One of ``lobes``.
    config : DetectorConfig
    folder : str or Path
    clips : numpy.ndarray
        [clips, num_samples] float32, to compare the logits of.

    Returns
    -------
    facts : dict
        For ``DetectorConfig.onnx``.
    difference : float
        The largest of a logit.

    Raises
    ------
    InputError
        If what writes or runs ONNX is not installed, the network cannot be
        written, or it differs by more than ``TOLERANCE``.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    path = Path(folder, ONNX)
    example = torch.zeros(2, config.num_samples)
    batch = torch.export.Dim("batch", min=1, max=4096)
    expected = "a network of at most 2 GB that torch can write as ONNX"
    with naming(config.network, expected), _quiet(), torch.no_grad():
        torch.onnx.export(
            plain(network),
            (example,),
            path,
            input_names=["wavs"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamic_shapes=({0: batch},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    _forget_sources(path)
    facts = {"opset": OPSET, "sha256": sha256(path), "int8_sha256": ""}
    described = dataclasses.replace(config, onnx=facts)
    run = start("onnxruntime", path, described)
    with torch.no_grad():
        expected = network(torch.from_numpy(clips)).numpy()
    difference = float(np.abs(run(clips) - expected).max())
    # Logits far from 0 have fewer digits behind the point.
    if not difference <= TOLERANCE * max(1, np.abs(expected).max()):
        raise InputError(
            f"{ONNX}: its logits differ from torch's by {difference:.1e}; "
            f"expected at most {TOLERANCE:.0e}"
        )
    return facts, difference


def _forget_sources(path):
    """Remove where in whose files the exporter found each node."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    values = *graph.input, *graph.output, *graph.value_info
    for part in (model, graph, *graph.node, *values, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def _require(*packages):
    if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
        raise InputError(
            f"ONNX needs {', '.join(missing)}; install it by pip install "
            "'.[onnx]' in the clone"
        )


def quantize(folder, config, paths):
    """Write network_int8.onnx beside network.onnx; return its SHA-256.

    Convolutions multiply 8-bit numbers, but the first ones, of one channel,
    stay as they are.

    Arguments
    ---------
    folder : str or Path
    config : DetectorConfig
    paths : list of str
        Recordings that tell the ranges of these numbers: those of the training,
        all classes, as it will hear them.

    Raises
    ------
    InputError
        If none of the recordings can be heard.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    clips = read_clips(paths, config.num_samples, CALIBRATED)

    class Clips(CalibrationDataReader):
        def __len__(self):
            return len(clips)

        def set_range(self, start_index, end_index):
            self.rest = iter(clips[start_index:end_index])
            bar.update(end_index - start_index)

        def get_next(self):
            clip = next(self.rest, None)
            return None if clip is None else {"wavs": clip[None]}

    source, target = Path(folder, ONNX), Path(folder, ONNX_INT8)
    prepared = target.with_suffix(".prepared")
    bar = tqdm(desc="Finding ranges", unit="clip", total=len(clips))
    with _quiet(), bar, contextlib.redirect_stdout(io.StringIO()):
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        channels = {w.name: w.dims[1] for w in graph.initializer if w.dims[1:]}
        first = [
            node.name
            for node in graph.node
            if node.op_type == "Conv" and channels.get(node.input[1]) == 1
        ]
        quantize_static(
            prepared,
            target,
            Clips(),
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=first,
            calibrate_method=CalibrationMethod.Percentile,
            # Without the last, all tensors of all clips are kept: 0.6 GB each.
            extra_options={
                "CalibPercentile": _PERCENTILE,
                "CalibStridedMinMax": 1,
            },
        )
    prepared.unlink()
    return sha256(target)


def read_clips(paths, num_samples, count=COMPARED):
    """Return the beginnings of some recordings, [count, num_samples] float32.

    They are spread over all; those that cannot be heard are passed over.
    Without paths, it is noise. Raise an ``InputError`` if none can be heard.
    """
    if not paths:
        noise = np.random.default_rng(0).standard_normal((count, num_samples))
        return (noise / 10).astype(np.float32)
    clips = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        with contextlib.suppress(InputError):
            clips.append(fit_length(hear(path, num_samples).wav, num_samples))
    if not clips:
        raise InputError(f"none of {len(paths)} recordings can be heard")
    return np.array(clips, np.float32)
