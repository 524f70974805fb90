"""Weights published elsewhere -> pretrained folders."""

import os
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import torch

from speechbrain_bilevel.inference.export import model_card
from speechbrain_bilevel.inference.pretrained import (
    DetectorConfig,
    check_folder,
    write_folder,
)
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.errors import InputError, printable

# Published name of a tensor of V2 -> ours. Tables that ours builds itself, and
# the second name that the published network gives its convolutions, map to "".
_LAYER = r"transformer\.encoder\.layers\.(\d+)\."
_V2_NAMES = {
    r"posEncode\.pe|FeatureEncoder\.conv\d\..*": lambda m: "",
    r"Sinc_conv\.(.*)": lambda m: f"sinc_branch.sinc.{m[1]}",
    r"lnorm1\.(.*)": lambda m: f"sinc_branch.norm.{m[1]}",
    r"patchEmbed\.proj\.(.*)": lambda m: f"sinc_branch.patches.{m[1]}",
    r"EmbedReduce\.(linear|lin_ln)(\d)\.(.*)": lambda m: (
        f"sinc_branch.to_tokens.{2 * int(m[2]) - 2 + (m[1] == 'lin_ln')}.{m[3]}"
    ),
    r"FeatureEncoder\.mel_transform\.(.*)": lambda m: f"mel_encoder.mel.{m[1]}",
    r"FeatureEncoder\.encode(\d)\.(\d)\.(.*)": lambda m: (
        f"mel_encoder.convs.{3 * int(m[1]) - 3 + int(m[2])}.{m[3]}"
    ),
    _LAYER + r"self_attn\.linears\.([0-3])\.(\w+)": lambda m: (
        f"transformer.{m[1]}.attention."
        f"{('query', 'key', 'value', 'output')[int(m[2])]}.{m[3]}"
    ),
    _LAYER + r"feed_forward\.w_([12])\.(\w+)": lambda m: (
        f"transformer.{m[1]}.feed_forward.{3 * int(m[2]) - 3}.{m[3]}"
    ),
    _LAYER + r"sublayer\.([01])\.norm\.(\w+)": lambda m: (
        f"transformer.{m[1]}."
        f"{('attention', 'feed_forward')[int(m[2])]}_norm.{m[3]}"
    ),
    r"gru\.(.*)": lambda m: f"gru.{m[1]}",
    r"mlp\.(.*)": lambda m: f"classifier.{m[1]}",
}

# The same for AASIST: tensors, modules, and what is in a module. It does not
# use the norms of the inputs of its residual blocks.
_AASIST_TENSORS = {
    "pos_S": "positions",
    "master1": "branches.0.stack",
    "master2": "branches.1.stack",
}
_AASIST_MODULES = {
    "first_bn": "front_end.norm",
    **{f"encoder.{block}.0": f"encoder.{block}" for block in range(6)},
    "GAT_layer_S": "spectral_graph.0",
    "GAT_layer_T": "temporal_graph.0",
    "pool_S": "spectral_graph.1",
    "pool_T": "temporal_graph.1",
    "HtrgGAT_layer_ST11": "branches.0.layers.0",
    "HtrgGAT_layer_ST12": "branches.0.layers.1",
    "HtrgGAT_layer_ST21": "branches.1.layers.0",
    "HtrgGAT_layer_ST22": "branches.1.layers.1",
    "pool_hS1": "branches.0.spectral_pool",
    "pool_hT1": "branches.0.temporal_pool",
    "pool_hS2": "branches.1.spectral_pool",
    "pool_hT2": "branches.1.temporal_pool",
    "out_layer": "classifier.1",
}
_AASIST_PARTS = {
    None: "",
    "bn1": None,
    "bn2": "norm",
    "bn": "norm",
    "conv1": "conv1",
    "conv2": "conv2",
    "conv_downsample": "shortcut",
    "proj": "score",
    "att_proj": "pair",
    "att_projM": "stack_pair",
    "att_weight": "score",
    "att_weight11": "temporal_score",
    "att_weight12": "cross_score",
    "att_weight22": "spectral_score",
    "att_weightM": "stack_score",
    "proj_type1": "temporal",
    "proj_type2": "spectral",
    "proj_with_att": "update.neighbors",
    "proj_without_att": "update.own",
    "proj_with_attM": "stack_update.neighbors",
    "proj_without_attM": "stack_update.own",
}
_AASIST_NAME = re.compile(
    r"(encoder\.\d\.0|\w+)(?:\.(\w+))??"
    r"(?:\.(weight|bias|running_mean|running_var|num_batches_tracked))?"
)


def v2_state_dict(published):
    """Rename the state dict of the published V2 for ``lobes.v2.V2``.

    Arguments
    ---------
    published : dict of str to torch.Tensor
        Of https://github.com/menglu-lml/ASV_Deepfake_with_bilevel.

    Returns
    -------
    dict of str to torch.Tensor

    Raises
    ------
    InputError
        If a name is not one of the published network's.

    Example
    -------
    >>> v2_state_dict({"mlp.1.bias": 0, "posEncode.pe": 1})
    {'classifier.1.bias': 0}
    """
    return _renamed(published, _v2_name)


def aasist_state_dict(published):
    """Rename the state dict of the published AASIST or AASIST-L for
    ``lobes.aasist.AASIST``; see ``v2_state_dict``.

    Example
    -------
    >>> aasist_state_dict({"master1": 0, "pool_S.proj.bias": 1})
    {'branches.0.stack': 0, 'spectral_graph.1.score.bias': 1}
    """
    return _renamed(published, _aasist_name)


def _renamed(published, rename):
    names = {name: rename(name) for name in published}
    return {ours: published[name] for name, ours in names.items() if ours}


def _v2_name(name):
    for pattern, rename in _V2_NAMES.items():
        if match := re.fullmatch(pattern, name):
            return rename(match)
    raise _unknown(name, "V2", "Sinc_conv.low_hz_", "mlp.1.weight")


def _aasist_name(name):
    if name in _AASIST_TENSORS:
        return _AASIST_TENSORS[name]
    if match := _AASIST_NAME.fullmatch(name):
        module, part, kind = match.groups()
        if module in _AASIST_MODULES and part in _AASIST_PARTS:
            if _AASIST_PARTS[part] is None:
                return ""
            ours = _AASIST_MODULES[module], _AASIST_PARTS[part], kind
            return ".".join(filter(None, ours))
    raise _unknown(
        name, "AASIST", "encoder.0.0.conv1.weight", "GAT_layer_S.att_weight"
    )


def _unknown(name, network, *examples):
    return InputError(
        f"'{printable(name, 100)}' is no tensor of the published {network}; "
        f"its state dict has names like '{examples[0]}' and '{examples[1]}'"
    )


class Published(NamedTuple):
    """A network whose weights others published.

    Arguments
    ---------
    network : str
        Its name in ``lobes.NETWORKS``.
    sizes : dict
        Where they are not the default.
    convert : callable
        Published state dict -> ours.
    score : str
        See ``nnet.losses.detection_score``.
    corpus : str
        For the card: whose weights, and what they were trained on.
    """

    network: str
    sizes: dict
    convert: Callable[[dict], dict]
    score: str
    corpus: str


_CLOVA = (
    "published at https://github.com/clovaai/aasist under the MIT license, "
    "copyright NAVER Corp., trained on ASVspoof2019 LA"
)
_AASIST_L = {
    "channels": [32, 32, 24, 24, 24, 24],
    "graph_size": 24,
    "spectral_ratio": 0.4,
    "temporal_ratio": 0.5,
    "stack_ratio": 0.7,
}
PUBLISHED = {
    "aasist": Published(
        "AASIST",
        {},
        aasist_state_dict,
        "bonafide_logit",
        f"Weights of AASIST, {_CLOVA}",
    ),
    "aasist-l": Published(
        "AASIST",
        _AASIST_L,
        aasist_state_dict,
        "bonafide_logit",
        f"Weights of AASIST-L, {_CLOVA}",
    ),
    "v2": Published(
        "V2",
        {},
        v2_state_dict,
        "softmax",
        "Weights of V2, published at "
        "https://github.com/menglu-lml/ASV_Deepfake_with_bilevel, trained on "
        "ASVspoof2019 LA",
    ),
}


def import_weights(name, weights, folder):
    """Write a pretrained folder of weights that were published elsewhere.

    Arguments
    ---------
    name : str
        A key of ``PUBLISHED``.
    weights : str or Path
        The published file: a state dict.
    folder : str or Path
        Where to write; see ``pretrained.write_folder``.

    Raises
    ------
    InputError
        If the file cannot be loaded or is of another network, or the folder
        cannot be written.
    """
    published = PUBLISHED[name]
    check_folder(folder)
    state_dict = _read_weights(weights)
    network = build(published.network, published.sizes)
    try:
        network.load_state_dict(published.convert(state_dict))
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    except RuntimeError as error:
        raise InputError(
            f"{weights}: is not of the published {name} ({error})"
        ) from error
    config = DetectorConfig.of(
        network, published.score, corpus=published.corpus
    )
    card = model_card(name, config)
    write_folder(folder, config, network.state_dict(), card)


def _read_weights(path):
    problem = "is missing, or no regular file"
    if os.path.isfile(path):
        try:
            weights = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),
            )
            if isinstance(weights, dict) and all(
                isinstance(name, str) and isinstance(value, torch.Tensor)
                for name, value in weights.items()
            ):
                return weights
            problem = f"holds a {type(weights).__name__} of something else"
        # Whatever can go wrong in a damaged or forged file.
        except Exception as error:
            # In further lines, torch says how to run the code all the same.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            problem = f"cannot be loaded ({printable(reason, 300)})"
    raise InputError(
        f"{path}: {problem}; expected a state dict, as torch.save writes it"
    )
