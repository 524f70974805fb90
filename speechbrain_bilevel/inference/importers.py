"""Make pretrained folders of weights published elsewhere."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import torch

from speechbrain_bilevel.inference.export import model_card
from speechbrain_bilevel.inference.pretrained import (
    DetectorConfig,
    check_folder,
    naming,
    write_folder,
)
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.errors import InputError, printable

# Published names of V2 -> ours; the first match counts. "" drops a tensor:
# tables that our network computes, and the second name of convolutions.
_LAYER = r"transformer\.encoder\.layers\.(\d+)\."
_V2 = {
    r"posEncode\.pe|FeatureEncoder\.conv\d\..*": lambda m: "",
    r"Sinc_conv\.(.*)": lambda m: f"sinc_branch.sinc.{m[1]}",
    r"lnorm1\.(.*)": lambda m: f"sinc_branch.norm.{m[1]}",
    r"patchEmbed\.proj\.(.*)": lambda m: f"sinc_branch.patches.{m[1]}",
    r"EmbedReduce\.linear(\d)\.(.*)": lambda m: (
        f"sinc_branch.to_tokens.{2 * int(m[1]) - 2}.{m[2]}"
    ),
    r"EmbedReduce\.lin_ln(\d)\.(.*)": lambda m: (
        f"sinc_branch.to_tokens.{2 * int(m[1]) - 1}.{m[2]}"
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

# The same for AASIST; its modules and their contents are below. It does not
# use the input norms of its residual blocks, "bn1".
_AASIST = {
    r"pos_S": lambda m: "positions",
    r"master([12])": lambda m: f"branches.{int(m[1]) - 1}.stack",
    r"first_bn\.(.*)": lambda m: f"front_end.norm.{m[1]}",
    r"out_layer\.(.*)": lambda m: f"classifier.1.{m[1]}",
    r"encoder\.\d\.0\.bn1\..*": lambda m: "",
    r"encoder\.([0-5])\.0\.(conv[12]\..*)": lambda m: f"encoder.{m[1]}.{m[2]}",
    r"encoder\.([0-5])\.0\.(bn2|conv_downsample)\.(.*)": lambda m: (
        f"encoder.{m[1]}.{'norm' if m[2] == 'bn2' else 'shortcut'}.{m[3]}"
    ),
    r"GAT_layer_([ST])\.(\w+)(.*)": lambda m: (
        f"{_GRAPHS[m[1]]}_graph.0.{_ATTENTION[m[2]]}{m[3]}"
    ),
    r"HtrgGAT_layer_ST([12])([12])\.(\w+)(.*)": lambda m: (
        f"branches.{int(m[1]) - 1}.layers.{int(m[2]) - 1}."
        f"{_ATTENTION[m[3]]}{m[4]}"
    ),
    r"pool_([ST])\.proj\.(.*)": lambda m: (
        f"{_GRAPHS[m[1]]}_graph.1.score.{m[2]}"
    ),
    r"pool_h([ST])([12])\.proj\.(.*)": lambda m: (
        f"branches.{int(m[2]) - 1}.{_GRAPHS[m[1]]}_pool.score.{m[3]}"
    ),
}
_GRAPHS = {"S": "spectral", "T": "temporal"}
_ATTENTION = {
    "bn": "norm",
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


def v2_state_dict(published):
    """Rename the state dict of the published V2 for ``lobes.v2.V2``."""
    return _renamed(published, _V2, "V2")


def aasist_state_dict(published):
    """Rename the published AASIST's or AASIST-L's state dict for ours.

    Example
    -------
    >>> aasist_state_dict({"master1": 0, "pool_S.proj.bias": 1})
    {'branches.0.stack': 0, 'spectral_graph.1.score.bias': 1}
    """
    return _renamed(published, _AASIST, "AASIST")


def _renamed(published, names, network):
    found = {}
    for name, tensor in published.items():
        matches = (re.fullmatch(pattern, name) for pattern in names)
        pairs = zip(matches, names.values())
        try:
            ours = next(rename(match) for match, rename in pairs if match)
        except (StopIteration, KeyError) as error:
            raise InputError(
                f"'{printable(name, 100)}' is no tensor of the published "
                f"{network}; expected the state dict of that network"
            ) from error
        if ours:
            found[ours] = tensor
    return found


class Published(NamedTuple):
    """A network whose weights others published."""

    #: Its name in ``lobes.NETWORKS``.
    network: str
    #: Its sizes that differ from the defaults.
    sizes: dict
    #: Published state dict -> ours.
    convert: Callable[[dict], dict]
    #: See ``nnet.losses.detection_score``.
    score: str
    #: For the card: whose weights, and what they were trained on.
    corpus: str


_CLOVA = (
    "published at https://github.com/clovaai/aasist under the MIT license, "
    "copyright NAVER Corp., trained on ASVspoof2019 LA"
)
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
        {
            "channels": [32, 32, 24, 24, 24, 24],
            "graph_size": 24,
            "spectral_ratio": 0.4,
            "temporal_ratio": 0.5,
            "stack_ratio": 0.7,
        },
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
        The folder to write; see ``pretrained.write_folder``.

    Raises
    ------
    InputError
        If the file cannot be loaded or is of another network, or the folder
        cannot be written.
    """
    published = PUBLISHED[name]
    check_folder(folder)
    with naming(weights, f"the published state dict of {name}"):
        if not os.path.isfile(weights):
            raise InputError("is missing, or no regular file")
        options = {"weights_only": True, "mmap": zipfile.is_zipfile(weights)}
        try:
            state_dict = torch.load(weights, map_location="cpu", **options)
        except pickle.UnpicklingError as error:
            # torch's own message says how to run the code anyway.
            raise InputError(
                "is damaged, or holds code, of which nothing was run"
            ) from error
        network = build(published.network, published.sizes)
        network.load_state_dict(published.convert(state_dict))
    config = DetectorConfig.of(
        network, published.score, corpus=published.corpus
    )
    write_folder(folder, config, network.state_dict(), model_card(name, config))
