"""AASIST's back end on a self-supervised front end.

Source of the design: Tak et al., "Automatic speaker verification spoofing and
deepfake detection using wav2vec 2.0 and data augmentation", 2022,
https://arxiv.org/abs/2202.12233
"""

import torch
from torch.nn.functional import max_pool2d, selu
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm

from speechbrain_bilevel.lobes.aasist import GraphBackEnd
from speechbrain_bilevel.lobes.wav2vec2 import sizes_of
from speechbrain_bilevel.nnet.maps import POOL, ResidualBlock


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
    >>> from speechbrain_bilevel.lobes.wav2vec2 import UntrainedWav2Vec2
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
