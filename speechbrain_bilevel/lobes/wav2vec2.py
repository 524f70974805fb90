"""wav2vec 2.0 by its sizes alone: what a pretrained folder builds, whose own
weights are loaded afterwards, so that nothing is fetched."""

import torch

from speechbrain_bilevel.errors import InputError

try:
    from transformers import Wav2Vec2Config, Wav2Vec2Model
except ImportError:
    Wav2Vec2Config = Wav2Vec2Model = None

#: Names of transformers' Wav2Vec2Config for what the weights' shapes and the
#: computation depend on.
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "do_stable_layer_norm",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)
# What else would change the computation, and is the same in all of wav2vec
# 2.0 and XLS-R.
_FIXED = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
}


class UntrainedWav2Vec2(torch.nn.Module):
    """Computes what SpeechBrain's ``Wav2Vec2`` does, by tensors of the same
    names, but begins with random weights and needs no source.

    Arguments
    ---------
    do_normalize : bool
        Bring each waveform to mean 0 and variance 1.
    freeze : bool
        Get no gradient.
    **sizes
        Of ``SIZES``, by default those of wav2vec 2.0 base.

    Raises
    ------
    InputError
        If transformers is not installed, or a size is none of ``SIZES``.

    Example
    -------
    >>> front_end = UntrainedWav2Vec2(
    ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=8, conv_dim=[4, 4], conv_kernel=[10, 4],
    ...     conv_stride=[5, 4], num_conv_pos_embeddings=4,
    ...     num_conv_pos_embedding_groups=2,
    ... )
    >>> front_end(torch.randn(2, 400)).shape
    torch.Size([2, 19, 8])
    """

    def __init__(self, do_normalize=True, freeze=False, **sizes):
        super().__init__()
        if Wav2Vec2Model is None:
            raise InputError(
                "wav2vec 2.0 needs transformers; install it by pip install "
                "'speechbrain_bilevel[ssl]'"
            )
        # Others could have transformers fetch and run code.
        unknown = set(sizes) - set(SIZES)
        if unknown:
            raise InputError(
                f"front_end: {min(unknown)} is no size; expected some of "
                f"{', '.join(SIZES)}"
            )
        config = Wav2Vec2Config(apply_spec_augment=False, **sizes)
        config.num_feat_extract_layers = len(config.conv_dim)
        self.model = Wav2Vec2Model(config)
        self.do_normalize = do_normalize
        self.freeze = freeze
        if freeze:
            self.eval()
            self.requires_grad_(False)

    def forward(self, wavs):
        """[batch, samples] -> [batch, frames, hidden_size]"""
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.freeze
        ):
            if self.do_normalize:
                wavs = torch.nn.functional.layer_norm(wavs, wavs.shape[1:])
            return self.model(wavs).last_hidden_state


def sizes_of(config):
    """What ``UntrainedWav2Vec2`` needs to know of a front end.

    Arguments
    ---------
    config : transformers.PretrainedConfig

    Returns
    -------
    dict of str to object
        Numbers, names and lists of numbers.

    Raises
    ------
    InputError
        If it is of another kind of network.

    Example
    -------
    >>> from transformers import Wav2Vec2Config
    >>> sizes_of(Wav2Vec2Config())["hidden_size"]
    768
    """
    for name, expected in _FIXED.items():
        value = getattr(config, name, None)
        if value != expected:
            raise InputError(
                f"front_end: {name} is {value!r}; expected {expected!r}, as of "
                "wav2vec 2.0 and XLS-R. Others cannot be exported"
            )
    values = {name: getattr(config, name) for name in SIZES}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
