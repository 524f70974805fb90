"""State dicts of networks published elsewhere -> state dicts of ours."""

import re
from typing import NamedTuple

import yaml

from speechbrain_bilevel.inference.card import model_card
from speechbrain_bilevel.inference.folder import (
    Parts,
    check_folder,
    write_folder,
)
from speechbrain_bilevel.inference.weights import load_weights
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.v2 import V2
from speechbrain_bilevel.utils.errors import InputError

# Published name of a V2 tensor -> ours. Tables that ours builds itself, and
# the second name that the published network gives its convolutions, map to
# None.
_V2_NAMES = [
    (r"posEncode\.pe|FeatureEncoder\.conv\d\..*", None),
    (r"Sinc_conv\.(.*)", r"sinc_branch.sinc.\1"),
    (r"lnorm1\.(.*)", r"sinc_branch.norm.\1"),
    (r"patchEmbed\.proj\.(.*)", r"sinc_branch.patches.\1"),
    (r"FeatureEncoder\.mel_transform\.(.*)", r"mel_encoder.mel.\1"),
    (r"gru\.(.*)", r"gru.\1"),
    (r"mlp\.(.*)", r"classifier.\1"),
]


_V2_TOKEN_LAYER = re.compile(r"EmbedReduce\.(linear|lin_ln)(\d)\.(.*)")


_V2_CONV_LAYER = re.compile(r"FeatureEncoder\.encode(\d)\.(\d)\.(.*)")


_V2_BLOCK = re.compile(r"transformer\.encoder\.layers\.(\d+)\.(.*)")


_V2_BLOCK_NAMES = {
    "self_attn.linears.0": "attention.query",
    "self_attn.linears.1": "attention.key",
    "self_attn.linears.2": "attention.value",
    "self_attn.linears.3": "attention.output",
    "feed_forward.w_1": "feed_forward.0",
    "feed_forward.w_2": "feed_forward.3",
    "sublayer.0.norm": "attention_norm",
    "sublayer.1.norm": "feed_forward_norm",
}


# The same for AASIST, tensor by tensor, module by module, and within these. It
# does not use the norms of the inputs of its residual blocks: None.
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
    "proj_with_att": "update.neighbours",
    "proj_without_att": "update.own",
    "proj_with_attM": "stack_update.neighbours",
    "proj_without_attM": "stack_update.own",
}


_AASIST_NAME = re.compile(
    r"(encoder\.\d\.0|\w+)(?:\.(\w+))??"
    r"(?:\.(weight|bias|running_mean|running_var|num_batches_tracked))?"
)


def v2_state_dict(published):
    """Renames the state dict of the published V2 for ``lobes.v2.V2``.

    Arguments
    ---------
    published : dict of str to torch.Tensor
        ``torch.load(..., weights_only=True)`` of the published checkpoint
        (https://github.com/menglu-lml/ASV_Deepfake_with_bilevel).

    Returns
    -------
    dict of str to torch.Tensor
        For ``V2.load_state_dict``.

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
    """Renames the state dict of the published AASIST or AASIST-L for
    ``lobes.aasist.AASIST``.

    Arguments
    ---------
    published : dict of str to torch.Tensor
        ``torch.load(..., weights_only=True, map_location="cpu")`` of the
        published checkpoint (https://github.com/clovaai/aasist).

    Returns
    -------
    dict of str to torch.Tensor
        For ``AASIST.load_state_dict``.

    Raises
    ------
    InputError
        If a name is not one of the published network's.

    Example
    -------
    >>> aasist_state_dict({"master1": 0, "pool_S.proj.bias": 1})
    {'branches.0.stack': 0, 'spectral_graph.1.score.bias': 1}
    """
    return _renamed(published, _aasist_name)


def _renamed(published, rename):
    """What ``rename`` has a name for, under that name."""
    names = {name: rename(name) for name in published}
    return {
        ours: published[name]
        for name, ours in names.items()
        if ours is not None
    }


def _aasist_name(name):
    if name in _AASIST_TENSORS:
        return _AASIST_TENSORS[name]
    if match := _AASIST_NAME.fullmatch(name):
        module, part, kind = match.groups()
        if module in _AASIST_MODULES and part in _AASIST_PARTS:
            if _AASIST_PARTS[part] is None:
                return None
            ours = _AASIST_MODULES[module], _AASIST_PARTS[part], kind
            return ".".join(filter(None, ours))
    raise InputError(
        f"'{name}' is no tensor of the published AASIST; its state dict has "
        "names like 'encoder.0.0.conv1.weight' and 'GAT_layer_S.att_weight'"
    )


def _v2_name(name):
    if match := _V2_BLOCK.fullmatch(name):
        part, _, kind = match[2].rpartition(".")
        if part in _V2_BLOCK_NAMES:
            return f"transformer.{match[1]}.{_V2_BLOCK_NAMES[part]}.{kind}"
    if match := _V2_TOKEN_LAYER.fullmatch(name):
        layer = 2 * (int(match[2]) - 1) + (match[1] == "lin_ln")
        return f"sinc_branch.to_tokens.{layer}.{match[3]}"
    if match := _V2_CONV_LAYER.fullmatch(name):
        layer = 3 * (int(match[1]) - 1) + int(match[2])
        return f"mel_encoder.convs.{layer}.{match[3]}"
    for pattern, ours in _V2_NAMES:
        if match := re.fullmatch(pattern, name):
            return ours and match.expand(ours)
    raise InputError(
        f"'{name}' is no tensor of the published V2; its state dict has names "
        "like 'Sinc_conv.low_hz_' and 'FeatureEncoder.encode1.0.weight'"
    )


class Published(NamedTuple):
    """A network of which others published weights."""

    #: The class of ours.
    network: type
    #: Its sizes, where they are not the default.
    sizes: dict
    #: Published state dict -> ours.
    convert: callable
    #: How it scores, see ``nnet.losses.detection_score``.
    score: dict
    #: For the card.
    origin: str


PUBLISHED = {
    "aasist": Published(
        AASIST,
        {},
        aasist_state_dict,
        {"as_published": False, "bonafide_logit": True},
        "Weights of AASIST, published at https://github.com/clovaai/aasist "
        "under the MIT licence, copyright NAVER Corp., trained on ASVspoof2019 LA",
    ),
    "aasist-l": Published(
        AASIST,
        {
            "channels": [32, 32, 24, 24, 24, 24],
            "graph": 24,
            "spectral_keep": 0.4,
            "temporal_keep": 0.5,
            "stack_keep": 0.7,
        },
        aasist_state_dict,
        {"as_published": False, "bonafide_logit": True},
        "Weights of AASIST-L, published at https://github.com/clovaai/aasist "
        "under the MIT licence, copyright NAVER Corp., trained on ASVspoof2019 LA",
    ),
    "v2": Published(
        V2,
        {},
        v2_state_dict,
        {"as_published": True},
        "Weights of V2, published at "
        "https://github.com/menglu-lml/ASV_Deepfake_with_bilevel, trained on "
        "ASVspoof2019 LA",
    ),
}


def import_weights(name, weights, folder):
    """Writes a pretrained folder of weights that were published elsewhere.

    Arguments
    ---------
    name : str
        Of the network, a key of ``PUBLISHED``.
    weights : str or Path
        The published file: a state dict.
    folder : str or Path
        Where to write; see ``hub.folder.write_folder``.

    Raises
    ------
    InputError
        If the file cannot be loaded safely or is of another network, or the
        folder cannot be written.
    """
    published = PUBLISHED[name]
    check_folder(folder)
    state_dict = load_weights(weights)
    try:
        ours = published.convert(state_dict)
        network = published.network(**published.sizes)
        network.load_state_dict(ours)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    except RuntimeError as error:
        raise InputError(
            f"{weights}: is not of the published {name} ({error})"
        ) from error
    sizes = {"samples": network.samples, **published.sizes}
    entry = yaml.safe_dump(sizes, default_flow_style=None, sort_keys=False)
    lines = "".join(f"    {line}\n" for line in entry.splitlines())
    parts = Parts(
        f"network: !new:{_full_name(published.network)}\n{lines}",
        network.state_dict(),
        network.samples,
        **published.score,
    )
    write_folder(folder, parts, model_card(name, parts, published.origin))


def _full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"
