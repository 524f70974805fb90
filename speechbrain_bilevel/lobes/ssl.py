"""AASIST's back end on wav2vec 2.0 or XLS-R; needs transformers."""

import torch
from torch.nn.functional import max_pool2d, selu
from torch.nn.utils import parametrize

from speechbrain_bilevel.lobes import arguments, with_sizes
from speechbrain_bilevel.lobes.aasist import POOL, GraphBackEnd, ResidualBlock
from speechbrain_bilevel.utils.errors import InputError

# Other entries that change the computation; the same in all models of wav2vec
# 2.0 and XLS-R.
_FIXED_CONFIG = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
    "apply_spec_augment": False,
}
# Options of SpeechBrain's Wav2Vec2 that change it too.
_FIXED_OPTIONS = {"output_norm": False, "output_all_hiddens": False}


@with_sizes
class UntrainedWav2Vec2(torch.nn.Module):
    """SpeechBrain's ``Wav2Vec2`` with random weights and without a source.

    It computes the same by tensors of the same names. A detector has its own
    weights, so it need not fetch any.

    Arguments
    ---------
    hidden_size, ..., num_conv_pos_embedding_groups
        See transformers' ``Wav2Vec2Config``; the defaults are wav2vec 2.0 base.
    do_normalize : bool
        Normalize each waveform to mean 0 and variance 1.
    freeze : bool
        Compute no gradient.

    Example
    -------
    >>> front_end = UntrainedWav2Vec2(hidden_size=48, num_hidden_layers=1)
    >>> front_end(torch.randn(2, 800)).shape
    torch.Size([2, 2, 48])
    """

    def __init__(
        self,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        conv_dim=(512,) * 7,
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_stride=(5, 2, 2, 2, 2, 2, 2),
        conv_bias=False,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        do_normalize=True,
        freeze=False,
    ):
        super().__init__()
        try:
            from transformers import Wav2Vec2Config, Wav2Vec2Model
        except ImportError as error:
            raise InputError(
                "wav2vec 2.0 needs transformers; install it by pip install "
                "'.[ssl]' in the clone"
            ) from error
        sizes = dict(self.sizes, apply_spec_augment=False)
        self.do_normalize = sizes.pop("do_normalize")
        self.freeze = sizes.pop("freeze")
        config = Wav2Vec2Config(**sizes)
        config.num_feat_extract_layers = len(config.conv_dim)
        self.model = Wav2Vec2Model(config)
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


@with_sizes
class SSLAASIST(GraphBackEnd):
    """wav2vec 2.0, a linear projection, residual blocks and AASIST's graphs.

    With ``attention``, as published (https://arxiv.org/abs/2202.12233), less
    the input norms of residual blocks, on which its output does not depend.
    Without, features are read out as in AASIST, by maxima of magnitudes.

    A front end with ``freeze`` gets no gradient and stays in evaluation mode.
    Weight norm of the front end is resolved into the weights, since torch's
    second derivatives of it are wrong. No layer is dropped at random.
    Parameters of masked pretraining are not trained, since DDP refuses
    parameters without a gradient.

    Arguments
    ---------
    front_end : torch.nn.Module or dict
        SpeechBrain's ``Wav2Vec2``, an ``UntrainedWav2Vec2``, or the sizes of
        the latter.
    num_samples : int
        Input length in training, at 16 kHz. Others work if they give a frame.
    projection_size : int
        Size to which features are projected: the bands before pooling.
    channels : list of int
        Output channels of each residual block.
    attention : bool
        Read features out by means whose weights are learned.
    **graphs
        See ``GraphBackEnd``.

    Raises
    ------
    InputError
        If ``UntrainedWav2Vec2`` cannot represent the front end.

    Example
    -------
    >>> front_end = {
    ...     "hidden_size": 12, "num_hidden_layers": 1, "intermediate_size": 8,
    ...     "conv_dim": [4], "conv_kernel": [10], "conv_stride": [5],
    ...     "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    ... }
    >>> network = SSLAASIST(front_end, projection_size=12, channels=[4])
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        front_end: UntrainedWav2Vec2,
        num_samples=64600,
        projection_size=128,
        channels=(32, 32, 64, 64, 64, 64),
        attention=False,
        **graphs,
    ):
        if isinstance(front_end, dict):
            front_end = UntrainedWav2Vec2(**front_end)
        self.sizes["front_end"] = dict(_sizes_of(front_end))
        config = front_end.model.config
        super().__init__(
            projection_size // POOL,
            channels[-1],
            num_samples,
            _min_samples(POOL, config),
            **graphs,
        )
        config.layerdrop = 0.0
        _resolve_weight_norm(front_end)
        front_end.model.masked_spec_embed.requires_grad_(False)
        self.front_end = front_end
        self.projection = torch.nn.Linear(config.hidden_size, projection_size)
        self.norm = torch.nn.BatchNorm2d(1)
        # No pooling: a frame lasts 20 ms, in AASIST's first features 0.2 ms.
        sizes = zip([1, *channels], channels)
        blocks = [ResidualBlock(*pair, pool_size=1) for pair in sizes]
        self.encoder = torch.nn.Sequential(*blocks)
        self.attention = None
        if attention:
            size = channels[-1]
            self.encoder_norm = torch.nn.BatchNorm2d(size)
            self.attention = torch.nn.Sequential(
                torch.nn.Conv2d(size, 2 * size, 1),
                torch.nn.SELU(),
                torch.nn.BatchNorm2d(2 * size),
                torch.nn.Conv2d(2 * size, size, 1),
            )
        self.train(self.training)

    def train(self, mode=True):
        """Set the mode, but keep a frozen front end in evaluation mode."""
        super().train(mode)
        if self.front_end.freeze:
            self.front_end.eval()
        return self

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, channels, bands, frames]"""
        features = self.projection(self.front_end(wavs)).transpose(1, 2)
        x = max_pool2d(features.unsqueeze(1), POOL)
        return self.encoder(selu(self.norm(x)))

    def nodes(self, features):
        """Reduce the features to those of each frame, and of each band."""
        if self.attention is None:
            return super().nodes(features)
        features = selu(self.encoder_norm(features))
        weights = self.attention(features)
        return [(features * weights.softmax(d)).sum(d) for d in (2, 3)]


def _sizes_of(front_end):
    """Return the sizes of an ``UntrainedWav2Vec2`` that computes the same."""
    if isinstance(front_end, UntrainedWav2Vec2):
        return front_end.sizes
    config = front_end.model.config
    for owner, fixed in ((config, _FIXED_CONFIG), (front_end, _FIXED_OPTIONS)):
        for name, expected in fixed.items():
            value = getattr(owner, name, expected)
            if value != expected:
                raise InputError(
                    f"front_end: {name} is {value!r}; expected {expected!r}, "
                    "as of wav2vec 2.0 and XLS-R: a detector with another "
                    "front end could not be exported"
                )
    found = {"do_normalize": front_end.normalize_wav}
    found["freeze"] = front_end.freeze
    for name in arguments(UntrainedWav2Vec2):
        if name not in found:
            value = getattr(config, name)
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _min_samples(frames, config):
    """Return the fewest samples that the convolutions turn into ``frames``."""
    layers = zip(config.conv_kernel, config.conv_stride)
    for kernel, stride in reversed(list(layers)):
        frames = (frames - 1) * stride + kernel
    return frames


def _resolve_weight_norm(front_end):
    for module in list(front_end.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
