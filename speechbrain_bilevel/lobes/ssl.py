"""AASIST's back end on wav2vec 2.0, WavLM or Whisper; needs transformers."""

import torch
from torch.nn.functional import max_pool2d, selu

from speechbrain_bilevel.lobes import with_sizes
from speechbrain_bilevel.lobes.aasist import POOL, GraphBackEnd, ResidualBlock
from speechbrain_bilevel.lobes.ssl_front_end import SSLFrontEnd


@with_sizes
class SSLAASIST(GraphBackEnd):
    """A pretrained front end, a projection, residual blocks, AASIST's graphs.

    With ``attention``, as published (https://arxiv.org/abs/2202.12233), less
    the input norms of residual blocks, on which its output does not depend.
    Without, features are read out as in AASIST, by maxima of magnitudes.

    Arguments
    ---------
    front_end : torch.nn.Module or dict
        SpeechBrain's ``Wav2Vec2``, ``WavLM`` or ``Whisper``, which
        ``SSLFrontEnd`` takes over, or one of these, or its sizes.
    num_samples : int
        Input length in training, at 16 kHz. Others work if they give a frame.
    projection_size : int
        Size to which features are projected: the bands before pooling.
    channels : list of int
        Output channels of each residual block.
    attention : bool
        Read features out by means whose weights are learned.
    layers, num_trainable_layers
        See ``SSLFrontEnd.select``.
    **graphs
        See ``GraphBackEnd``.

    Raises
    ------
    InputError
        If ``SSLFrontEnd`` cannot represent the front end, or has no such
        layers.

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
        front_end: SSLFrontEnd,
        num_samples=64600,
        projection_size=128,
        channels=(32, 32, 64, 64, 64, 64),
        attention=False,
        layers=None,
        num_trainable_layers=0,
        **graphs,
    ):
        if isinstance(front_end, dict):
            front_end = SSLFrontEnd(**front_end)
        front_end = SSLFrontEnd.of(front_end)
        front_end.select(layers, num_trainable_layers)
        self.sizes["front_end"] = dict(front_end.sizes)
        super().__init__(
            projection_size // POOL,
            channels[-1],
            num_samples,
            front_end.min_samples(POOL),
            **graphs,
        )
        self.front_end = front_end
        hidden_size = front_end.sizes["hidden_size"]
        self.projection = torch.nn.Linear(hidden_size, projection_size)
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
        # What is frozen is told by the choice of layers.
        self.train()

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
