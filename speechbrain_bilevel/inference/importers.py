"""Make pretrained folders of weights published elsewhere."""

import functools
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from speechbrain_bilevel.inference.config import DetectorConfig, naming
from speechbrain_bilevel.inference.export import model_card
from speechbrain_bilevel.inference.pretrained import check_folder, write_folder
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.lobes.aasist import AASIST_L
from speechbrain_bilevel.lobes.lcnn import LCNN_2021
from speechbrain_bilevel.utils.errors import InputError, listed, printable

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
    r"encoder\.([0-5])\.0\.(conv1|bn2|conv2|conv_downsample)\.(.*)": lambda m: (
        f"encoder.{m[1]}.{_BLOCK[m[2]]}.{m[3]}"
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
_BLOCK = {
    "conv1": "conv1",
    "bn2": "norm",
    "conv2": "conv2",
    "conv_downsample": "shortcut",
}
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

# The same for SSL + AASIST: the back end has AASIST's names, the front end
# fairseq's. Of it, only masked pretraining needs what is dropped.
_SSL = "front_end.model"
_FAIRSEQ = r"ssl_model\.model\."
_SSL_LAYER = _FAIRSEQ + r"(encoder\.layers\.\d+)\."
_SSL_AASIST = _AASIST | {
    r"LL\.(.*)": lambda m: f"projection.{m[1]}",
    r"first_bn\.(.*)": lambda m: f"norm.{m[1]}",
    r"first_bn1\.(.*)": lambda m: f"encoder_norm.{m[1]}",
    r"attention\..*": lambda m: m[0],
    _FAIRSEQ + r"(quantizer|project_q|final_proj)\..*": lambda m: "",
    _FAIRSEQ + r"mask_emb": lambda m: f"{_SSL}.masked_spec_embed",
    _FAIRSEQ + r"(feature_extractor\.conv_layers\.\d)\.(0|2\.1)\.(\w+)": (
        lambda m: (
            f"{_SSL}.{m[1]}.{'conv' if m[2] == '0' else 'layer_norm'}.{m[3]}"
        )
    ),
    _FAIRSEQ + r"(post_extract_proj|layer_norm)\.(\w+)": lambda m: (
        f"{_SSL}.feature_projection."
        f"{m[1].replace('post_extract_proj', 'projection')}.{m[2]}"
    ),
    _FAIRSEQ + r"encoder\.pos_conv\.0\.(\w+)": lambda m: (
        f"{_SSL}.encoder.pos_conv_embed.conv.{m[1]}"
    ),
    _FAIRSEQ + r"(encoder\.layer_norm\.\w+)": lambda m: f"{_SSL}.{m[1]}",
    _SSL_LAYER + r"self_attn\.(\w+\.\w+)": lambda m: (
        f"{_SSL}.{m[1]}.attention.{m[2]}"
    ),
    _SSL_LAYER + r"(self_attn_|final_)(layer_norm\.\w+)": lambda m: (
        f"{_SSL}.{m[1]}.{m[2].replace('self_attn_', '')}{m[3]}"
    ),
    _SSL_LAYER + r"fc([12])\.(\w+)": lambda m: (
        f"{_SSL}.{m[1]}.feed_forward."
        f"{('intermediate', 'output')[int(m[2]) - 1]}_dense.{m[3]}"
    ),
}

# The same for RawGAT-ST, of whose residual blocks the first has its convolution
# under a name that is not used in the others.
_RAWGAT = {
    r"first_bn\.(.*)": lambda m: f"front_end.norm.{m[1]}",
    r"encoder([12])\.0\.0\.conv_1\.(.*)": lambda m: (
        f"{_VIEWS[m[1]]}_encoder.0.conv1.{m[2]}"
    ),
    r"encoder[12]\.[1-5]\.0\.(bn1|conv_1)\..*": lambda m: "",
    r"encoder([12])\.([0-5])\.0\.(conv1|bn2|conv2|conv_downsample)\.(.*)": (
        lambda m: f"{_VIEWS[m[1]]}_encoder.{m[2]}.{_BLOCK[m[3]]}.{m[4]}"
    ),
    r"GAT_layer([123])\.(\w+)(.*)": lambda m: (
        f"{_VIEWS[m[1]]}_graph.0.{_ATTENTION[m[2]]}{m[3]}"
    ),
    r"pool([123])\.proj\.(.*)": lambda m: (
        f"{_VIEWS[m[1]]}_graph.1.score.{m[2]}"
    ),
    r"proj([12])\.(.*)": lambda m: f"{_VIEWS[m[1]]}_projection.{m[2]}",
    r"proj\.(.*)": lambda m: f"node.{m[1]}",
    r"proj_node\.(.*)": lambda m: f"classifier.{m[1]}",
}
_VIEWS = {"1": "spectral", "2": "temporal", "3": "joint"}

# The same for RawNet2.
_RAWNET2 = {
    r"first_bn\.(.*)": lambda m: f"front_end.norm.{m[1]}",
    r"block([1-5])\.0\.bn1\.(.*)": lambda m: (
        f"encoder.{m[1]}.input_norm.{m[2]}"
    ),
    r"block([0-5])\.0\.(conv1|bn2|conv2|conv_downsample)\.(.*)": lambda m: (
        f"encoder.{m[1]}.{_BLOCK[m[2]]}.{m[3]}"
    ),
    r"fc_attention([0-5])\.0\.(.*)": lambda m: f"encoder.{m[1]}.scale.{m[2]}",
    r"bn_before_gru\.(.*)": lambda m: f"norm.{m[1]}",
    r"gru\.(\w+_l)(\d)": lambda m: f"grus.{m[2]}.{m[1]}0",
    r"fc([12])_gru\.(.*)": lambda m: f"classifier.{int(m[1]) - 1}.{m[2]}",
}

# The same for LFCC-LCNN, whose layers are numbered: in a sequence with those
# that have no tensors, and the LSTM layers from 0 each.
_LCNN = {
    r"(in|out)put_(mean|std)|m_frontend\..*": lambda m: "",
    r"m_transform\.0\.(\d+)\.(weight|bias)": lambda m: (
        f"encoder.{_LIGHT_CONVS[m[1]]}.conv.{m[2]}"
    ),
    r"m_transform\.0\.(\d+)\.(running_\w+|num_\w+)": lambda m: (
        f"encoder.{_LIGHT_NORMS[m[1]]}.norm.{m[2]}"
    ),
    r"m_before_pooling\.0\.([01])\.l_blstm\.(\w+_l)0(\w*)": lambda m: (
        f"lstm.{m[2]}{m[1]}{m[3]}"
    ),
    r"m_output_act\.0\.1\.(.*)": lambda m: f"embedding.0.{m[1]}",
    r"m_output_act\.0\.(3\.)?(.*)": lambda m: f"classifier.{m[2]}",
}
_LIGHT_CONVS = (0, 3, 6, 10, 13, 16, 19, 22, 25)
_LIGHT_CONVS = {str(n): layer for layer, n in enumerate(_LIGHT_CONVS)}
_LIGHT_NORMS = {"5": 1, "9": 2, "12": 3, "18": 5, "21": 6, "24": 7}


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


def ssl_aasist_state_dict(published):
    """Rename the published SSL + AASIST's state dict for ``lobes.ssl``.

    Weight norm of the positional convolution is resolved, as there.

    Example
    -------
    >>> ssl_aasist_state_dict({"ssl_model.model.encoder.layers.0.fc1.bias": 0})
    {'front_end.model.encoder.layers.0.feed_forward.intermediate_dense.bias': 0}
    """
    found = _renamed(published, _SSL_AASIST, "SSL + AASIST")
    name = f"{_SSL}.encoder.pos_conv_embed.conv.weight"
    if {f"{name}_g", f"{name}_v"} <= set(found):
        direction = found.pop(f"{name}_v").float()
        norm = direction.norm(dim=(0, 1), keepdim=True)
        found[name] = found.pop(f"{name}_g") * direction / norm
    return found


def rawgat_state_dict(published):
    """Rename the published RawGAT-ST's state dict for ``lobes.rawgat``.

    Example
    -------
    >>> rawgat_state_dict({"pool3.proj.bias": 0, "encoder2.5.0.bn2.bias": 1})
    {'joint_graph.1.score.bias': 0, 'temporal_encoder.5.norm.bias': 1}
    """
    return _renamed(published, _RAWGAT, "RawGAT-ST")


def rawnet2_state_dict(published, pre_activation=False):
    """Rename the published RawNet2's state dict for ``lobes.rawnet2``.

    With ``pre_activation``, keep the input norms of the residual blocks.

    Example
    -------
    >>> rawnet2_state_dict({"gru.bias_ih_l2": 0, "block1.0.bn1.bias": 1})
    {'grus.2.bias_ih_l0': 0}
    """
    found = _renamed(published, _RAWNET2, "RawNet2")
    return {
        name: tensor
        for name, tensor in found.items()
        if pre_activation or ".input_norm." not in name
    }


def lcnn_state_dict(published, num_bins=257):
    """Rename the published LFCC-LCNN's state dict for ``lobes.lcnn``.

    The difference of our two logits is the published one. The cepstra of the
    network must be of ``num_bins`` frequencies.

    Example
    -------
    >>> lcnn_state_dict({"m_output_act.0.bias": torch.tensor([3.0])})
    {'classifier.bias': tensor([-1.5000,  1.5000])}
    """
    found = _renamed(published, _LCNN, "LFCC-LCNN")
    bins = len(published.get("m_frontend.0.lfcc_fb", range(num_bins)))
    if bins != num_bins:
        raise InputError(
            f"cepstra are of {bins} frequencies; expected {num_bins}"
        )
    for name in "classifier.weight", "classifier.bias":
        if name in found:
            found[name] = torch.cat([-found[name], found[name]]) / 2
    return found


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
    #: See ``metrics.detection_score``.
    score: str
    #: For the card: whose weights, and what they were trained on.
    corpus: str


_CLOVA = (
    "published at https://github.com/clovaai/aasist under the MIT license, "
    "copyright NAVER Corp., trained on ASVspoof2019 LA"
)
_EURECOM = (
    "published at https://github.com/eurecom-asp/RawGAT-ST-antispoofing under "
    "the MIT license, copyright Audio Security and Privacy Group @ EURECOM, "
    "trained on ASVspoof2019 LA"
)
_NII = (
    "published at https://github.com/nii-yamagishilab/"
    "project-NN-Pytorch-scripts under the BSD 3-clause license, copyright "
    "Xin Wang, National Institute of Informatics, trained on ASVspoof2019 LA"
)
# XLS-R 300M, which its authors give waveforms as they are.
_XLS_R = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "do_normalize": False,
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
        AASIST_L,
        aasist_state_dict,
        "bonafide_logit",
        f"Weights of AASIST-L, {_CLOVA}",
    ),
    "lfcc-lcnn": Published(
        "LCNN",
        {},
        lcnn_state_dict,
        "logit_difference",
        f"Weights of LFCC-LCNN (fixed, sigmoid), {_NII}",
    ),
    "lfcc-lcnn-lstm": Published(
        "LCNN",
        {"lstm": True},
        lcnn_state_dict,
        "logit_difference",
        f"Weights of LFCC-LCNN (lstmsum, sigmoid), {_NII}",
    ),
    "lfcc-lcnn-2021": Published(
        "LCNN",
        LCNN_2021,
        functools.partial(lcnn_state_dict, num_bins=LCNN_2021["num_bins"]),
        "logit_difference",
        "Weights of ASVspoof 2021's LFCC-LCNN, published with "
        "https://github.com/asvspoof-challenge/2021, trained on ASVspoof2019 "
        "LA",
    ),
    "rawgat-st": Published(
        "RawGATST",
        {},
        rawgat_state_dict,
        "bonafide_logit",
        f"Weights of RawGAT-ST (mul), {_EURECOM}",
    ),
    "rawgat-st-add": Published(
        "RawGATST",
        {"fusion": "add"},
        rawgat_state_dict,
        "bonafide_logit",
        f"Weights of RawGAT-ST (add), {_EURECOM}",
    ),
    "rawgat-st-concat": Published(
        "RawGATST",
        {"fusion": "concat", "joint_size": 32},
        rawgat_state_dict,
        "bonafide_logit",
        f"Weights of RawGAT-ST (concat), {_EURECOM}",
    ),
    "rawnet2": Published(
        "RawNet2",
        {},
        rawnet2_state_dict,
        "logit_difference",
        "Weights of RawNet2, the baseline of ASVspoof 2021, linked at "
        "https://github.com/asvspoof-challenge/2021, trained on ASVspoof2019 "
        "LA",
    ),
    "ssl-aasist": Published(
        "SSLAASIST",
        {"front_end": _XLS_R, "attention": True, "temporal_ratio": 0.5},
        ssl_aasist_state_dict,
        "bonafide_logit",
        "Weights of SSL + AASIST, published at "
        "https://github.com/TakHemlata/SSL_Anti-spoofing under the MIT "
        "license, copyright Hemlata Tak, trained on ASVspoof2019 LA",
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


# Whatever wraps a state dict: keys of training's checkpoints, and prefixes of
# Lightning, DataParallel and torch.compile.
_KEYS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
# Types of the numbers, as of losses, that may lie beside it.
_NUMBERS = [np.float64, np.float32, np.int64]


def import_weights(name, weights, folder):
    """Write a pretrained folder of weights that were published elsewhere.

    Arguments
    ---------
    name : str
        A key of ``PUBLISHED``.
    weights : str or Path
        A state dict with the published names, by torch or safetensors; or the
        checkpoint of a training that has it.
    folder : str or Path
        The folder to write; see ``pretrained.write_folder``.

    Returns
    -------
    list of str
        What was taken off: keys of the checkpoint, and prefixes of the names.

    Raises
    ------
    InputError
        If the file cannot be loaded or is of another network, or the folder
        cannot be written.
    """
    check_folder(folder)
    with naming(weights, f"the published state dict of {name}"):
        state, unwrapped = _unwrapped(_read(Path(weights)))
        try:
            network, state = _fit(PUBLISHED[name], state)
        except InputError:
            for other in PUBLISHED:
                if _fits(PUBLISHED[other], state):
                    raise InputError(
                        f"these are the weights of {other}: give that name"
                    ) from None
            raise
    published = PUBLISHED[name]
    config = DetectorConfig.of(
        network, published.score, corpus=published.corpus
    )
    write_folder(folder, config, state, model_card(name, config))
    return unwrapped


def _read(path):
    if not path.is_file():
        raise InputError("is missing, or no regular file")
    with open(path, "rb") as file:
        # A safetensors file begins with the size of its header, in JSON.
        is_safetensors = file.read(9)[8:] == b"{"
    if is_safetensors or path.suffix == ".safetensors":
        return load_file(path)
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    numbers = [np.dtype, *(type(np.dtype(each)) for each in _NUMBERS)]
    numbers += [(scalar, name) for name in names]
    options = {"weights_only": True, "mmap": zipfile.is_zipfile(path)}
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", **options)
    except (pickle.UnpicklingError, EOFError, KeyError) as error:
        # torch's own message says how to run the code anyway.
        raise InputError(
            "is damaged, no file of torch or safetensors, or holds code or "
            "objects, of which nothing was run; whoever made it can save its "
            "state dict alone"
        ) from error


def _unwrapped(content):
    """Return the state dict within, and what was taken off."""
    unwrapped = []
    for key in _KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            unwrapped.append(f"['{key}']")
    if not isinstance(content, dict):
        raise InputError(f"is no state dict but a {type(content).__name__}")
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors or len(tensors) < len(content):
        others = [str(key) for key in content if key not in tensors]
        raise InputError(
            f"is no state dict: no tensors under {listed(others)}; expected "
            f"one, alone or under {' or '.join(map(repr, _KEYS))}"
        )
    while prefix := next(
        (p for p in _PREFIXES if all(name.startswith(p) for name in tensors)),
        None,
    ):
        tensors = {n.removeprefix(prefix): t for n, t in tensors.items()}
        unwrapped.append(f"'{prefix}'")
    return tensors, unwrapped


def _fit(published, state):
    """Return a network, on the meta device, and the state dict for it."""
    state = published.convert(state)
    with torch.device("meta"):
        network = build(published.network, published.sizes)
    expected = network.state_dict()
    for name in expected | state:
        found, needed = (
            list(tensors[name].shape) if name in tensors else "missing"
            for tensors in (state, expected)
        )
        if found != needed:
            raise InputError(
                f"{printable(name, 100)} is {printable(str(found), 100)}; "
                f"expected {needed}"
            )
    return network, {n: t.to(expected[n].dtype) for n, t in state.items()}


def _fits(published, state):
    try:
        return bool(_fit(published, state))
    except InputError:
        return False
