"""wav2vec 2.0 by its sizes alone: what a pretrained folder builds, whose own
weights are loaded afterwards, so that nothing is fetched."""

import torch
from torch.nn.functional import max_pool2d, selu
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from speechbrain_bilevel.lobes.aasist import GraphBackEnd
from speechbrain_bilevel.nnet.maps import POOL, ResidualBlock
from speechbrain_bilevel.utils.errors import InputError

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


class SSLAASIST(GraphBackEnd):
    """wav2vec 2.0, a linear projection, residual blocks and AASIST's graphs.

    As published but for the readout of the maps, which is AASIST's own, maxima
    of magnitudes, and for the norms that the residual blocks do without.

    A front end whose ``freeze`` is true gets no gradient and stays in
    evaluation mode. The weight norm of any front end is resolved into the
    weights, since torch's second derivatives of it are wrong; no layer is
    left out at random, and what only masked pretraining learns stays as it is,
    since DDP refuses parameters without a gradient.

    Arguments
    ---------
    front_end : torch.nn.Module
        SpeechBrain's ``Wav2Vec2`` or our ``UntrainedWav2Vec2``: [batch,
        samples] -> [batch, frames, features], with attributes ``model`` and
        ``freeze``.
    samples : int
        Input length in samples at 16 kHz of the training. The network takes
        any that leaves it a frame.
    features : int
        What the front end's features are projected to: the bands of the map,
        before pooling.
    channels : list of int
        Output channels of each residual block.
    **graphs
        See ``GraphBackEnd``.

    Raises
    ------
    InputError
        If the front end is of a kind that cannot be exported.

    Example
    -------
    >>> from speechbrain_bilevel.lobes.ssl import UntrainedWav2Vec2
    >>> front_end = UntrainedWav2Vec2(
    ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    ...     intermediate_size=8, conv_dim=[4, 4], conv_kernel=[10, 4],
    ...     conv_stride=[5, 4], num_conv_pos_embeddings=4,
    ...     num_conv_pos_embedding_groups=2,
    ... )
    >>> network = SSLAASIST(
    ...     front_end, samples=1600, features=12, channels=[4], graph=6, stack=4
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        front_end,
        samples=64600,
        features=128,
        channels=(32, 32, 64, 64, 64, 64),
        **graphs,
    ):
        config = front_end.model.config
        sizes_of(config)
        super().__init__(
            features // POOL,
            channels[-1],
            samples,
            _samples_of(POOL, config),
            **graphs,
        )
        config.layerdrop = 0.0
        _resolve_weight_norm(front_end)
        front_end.model.masked_spec_embed.requires_grad_(False)
        self.front_end = front_end
        self.projection = torch.nn.Linear(config.hidden_size, features)
        self.norm = torch.nn.BatchNorm2d(1)
        # A frame takes 20 ms, in AASIST's maps 0.2 ms at first: no pooling.
        self.encoder = torch.nn.Sequential(
            *(
                ResidualBlock(before, after, pool=1)
                for before, after in zip([1, *channels], channels)
            )
        )
        self.train(self.training)

    def train(self, mode=True):
        """As torch's, but a frozen front end remains in evaluation mode."""
        super().train(mode)
        if self.front_end.freeze:
            self.front_end.eval()
        return self

    def _maps(self, wavs):
        """[batch, samples] -> [batch, channels, bands, frames]"""
        features = self.projection(self.front_end(wavs)).transpose(1, 2)
        x = max_pool2d(features.unsqueeze(1), POOL)
        return self.encoder(selu(self.norm(x)))


def _samples_of(frames, config):
    """The fewest samples of which the convolutions make so many frames."""
    layers = zip(config.conv_kernel, config.conv_stride)
    for kernel, stride in reversed(list(layers)):
        frames = (frames - 1) * stride + kernel
    return frames


def _resolve_weight_norm(front_end):
    for module in list(front_end.modules()):
        for name, steps in getattr(module, "parametrizations", {}).items():
            if any(isinstance(step, _WeightNorm) for step in steps):
                parametrize.remove_parametrizations(module, name)
                break
