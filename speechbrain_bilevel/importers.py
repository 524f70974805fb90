"""State dicts of networks published elsewhere -> state dicts of ours."""

import re

from speechbrain_bilevel.errors import InputError

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
    renamed = {name: _v2_name(name) for name in published}
    return {
        ours: published[name]
        for name, ours in renamed.items()
        if ours is not None
    }


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
