"""AASIST: a countermeasure on a spectral and a temporal graph of the waveform.

Source of the design: https://arxiv.org/abs/2110.01200; of the weights of both
sizes: https://github.com/clovaai/aasist
"""

import torch
from torch.nn.functional import max_pool2d, selu

from speechbrain_bilevel.lobes import check_samples, with_sizes
from speechbrain_bilevel.nnet.graph import (
    GraphAttention,
    GraphPool,
    StackingBranch,
)
from speechbrain_bilevel.nnet.sinc import SincFrontEnd, in_parts

#: Factor of every pooling, over filters and over frames.
POOL = 3
#: The sizes of AASIST-L that are not AASIST's.
AASIST_L = {
    "channels": [32, 32, 24, 24, 24, 24],
    "graph_size": 24,
    "spectral_ratio": 0.4,
    "temporal_ratio": 0.5,
    "stack_ratio": 0.7,
}
#: Frames that a CPU computes at once, a multiple of ``POOL``; features of 32
#: channels then take 11 MB.
WINDOW = 3600


class ResidualBlock(torch.nn.Module):
    """Two convolutions added to their input, then pooling over time.

    The published block also normalizes its input, but does not use the result.
    Without gradients, a CPU computes windows one by one, which stay in its
    cache.

    Example
    -------
    >>> ResidualBlock(1, 4)(torch.randn(2, 1, 23, 31)).shape
    torch.Size([2, 4, 23, 10])
    """

    def __init__(self, in_channels, out_channels, pool_size=POOL):
        super().__init__()
        channels = in_channels, out_channels
        self.pool_size = pool_size
        self.conv1 = torch.nn.Conv2d(*channels, (2, 3), padding=1)
        self.norm = torch.nn.BatchNorm2d(out_channels)
        self.conv2 = torch.nn.Conv2d(
            out_channels, out_channels, (2, 3), padding=(0, 1)
        )
        self.shortcut = torch.nn.Identity()
        if in_channels != out_channels:
            self.shortcut = torch.nn.Conv2d(*channels, (1, 3), padding=(0, 1))

    def forward(self, x):
        """[batch, channels, bands, frames] -> the same, with fewer frames"""
        if not in_parts(self, x):
            return self._convolve(x)
        pool = self.pool_size
        window, outputs = WINDOW // pool, []
        for start in range(0, x.shape[3] - pool + 1, window * pool):
            # Both convolutions together see two frames to each side.
            margin = min(start, 2 * pool)
            end = start + (window + 2) * pool
            out = self._convolve(x[..., start - margin : end])
            outputs.append(out[..., margin // pool :][..., :window])
        return torch.cat(outputs, dim=3)

    def _convolve(self, x):
        out = self.conv2(selu(self.norm(self.conv1(x)), inplace=True))
        out += self.shortcut(x)
        return max_pool2d(out, (1, self.pool_size))


class GraphBackEnd(torch.nn.Module):
    """Features -> logits: the part of AASIST that networks share.

    They differ in ``extract_features``, [batch, samples] -> [batch, channels,
    bands, frames], and may differ in ``nodes``.

    Arguments
    ---------
    bands, channels : int
        Shape of the features.
    num_samples, min_samples : int
        Input length in training, and the shortest that gives a frame.
    graph_size, stack_size : int
        Features of a node in the graph of one view, and in the joint graphs.
    spectral_ratio, temporal_ratio, stack_ratio : float
        Share of the nodes that pooling keeps in each view, and in the joint
        graphs.
    temperature, stack_temperature : float
        Temperature of the attention in one view, and in the joint graphs.
    graph_dropout, pool_dropout, dropout : float
        Dropout probability of nodes, of nodes scored by pooling, and of the
        embedding at the classifier.
    num_classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> back_end = GraphBackEnd(4, 6, 400, 1, graph_size=6, stack_size=4)
    >>> back_end.readout(torch.randn(2, 6, 4, 9)).shape
    torch.Size([2, 20])
    """

    any_length = True

    def __init__(
        self,
        bands,
        channels,
        num_samples,
        min_samples,
        *,
        graph_size=64,
        stack_size=32,
        spectral_ratio=0.5,
        temporal_ratio=0.7,
        stack_ratio=0.5,
        temperature=2.0,
        stack_temperature=100.0,
        graph_dropout=0.2,
        pool_dropout=0.3,
        dropout=0.5,
        num_classes=2,
    ):
        super().__init__()
        self.num_samples = num_samples
        self.min_samples = min_samples
        self.positions = torch.nn.Parameter(torch.randn(1, bands, channels))
        sizes, stacked = (channels, graph_size), (graph_size, stack_size)
        dropouts = graph_dropout, pool_dropout
        self.spectral_graph, self.temporal_graph = (
            torch.nn.Sequential(
                GraphAttention(*sizes, temperature, graph_dropout),
                GraphPool(graph_size, ratio, pool_dropout),
            )
            for ratio in (spectral_ratio, temporal_ratio)
        )
        self.branches = torch.nn.ModuleList(
            StackingBranch(*stacked, stack_ratio, stack_temperature, *dropouts)
            for _ in range(2)
        )
        self.classifier = torch.nn.Sequential(
            torch.nn.Dropout(dropout),
            torch.nn.Linear(5 * stack_size, num_classes),
        )

    def embed(self, wavs):
        """[batch, samples] -> [batch, 5 * stack_size]

        Maxima and means of both graphs, and the stack node.
        """
        check_samples(self, wavs)
        return self.readout(self.extract_features(wavs))

    def readout(self, features):
        """[batch, channels, bands, frames] -> [batch, 5 * stack_size]"""
        temporal, spectral = (x.transpose(1, 2) for x in self.nodes(features))
        spectral = spectral + self.positions
        nodes = self.temporal_graph(temporal), self.spectral_graph(spectral)
        temporal, spectral, stack = map(
            torch.maximum, *(branch(*nodes) for branch in self.branches)
        )
        pooled = [
            values
            for nodes in (temporal, spectral)
            for values in (nodes.abs().amax(dim=1), nodes.mean(dim=1))
        ]
        return torch.cat([*pooled, stack.squeeze(1)], dim=1)

    def nodes(self, features):
        """Reduce the features to those of each frame, and of each band."""
        magnitude = features.abs()
        return magnitude.amax(dim=2), magnitude.amax(dim=3)

    def forward(self, wavs):
        """[batch, samples] -> logits, [batch, num_classes]"""
        return self.classifier(self.embed(wavs))


@with_sizes
class AASIST(GraphBackEnd):
    """The published network; AASIST with the default sizes.

    AASIST-L has the sizes ``AASIST_L``. Of the published 297,866 and 85,306
    parameters, 512 and 272 are missing here, because the output does not depend
    on them.

    Without gradients, a CPU computes clips one by one; the result is the same.

    Arguments
    ---------
    num_samples : int
        Input length in training, at 16 kHz. Others work if they give a frame.
    sinc_channels, sinc_kernel_size : int
        Number and length of the sinc filters.
    channels : list of int
        Output channels of each residual block.
    **graphs
        See ``GraphBackEnd``, whose defaults are AASIST's.

    Example
    -------
    >>> network = AASIST(
    ...     num_samples=1600, sinc_channels=9, sinc_kernel_size=33,
    ...     channels=[4, 4], graph_size=6, stack_size=4,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        num_samples=64600,
        sinc_channels=70,
        sinc_kernel_size=129,
        channels=(32, 32, 64, 64, 64, 64),
        **graphs,
    ):
        super().__init__(
            sinc_channels // POOL,
            channels[-1],
            num_samples,
            sinc_kernel_size - 1 + POOL ** (1 + len(channels)),
            **graphs,
        )
        self.front_end = SincFrontEnd(sinc_channels, sinc_kernel_size, POOL)
        sizes = zip([1, *channels], channels)
        blocks = [ResidualBlock(*pair) for pair in sizes]
        self.encoder = torch.nn.Sequential(*blocks)

    def extract_features(self, wavs):
        """[batch, samples] -> [batch, channels, bands, frames]"""
        if not in_parts(self, wavs):
            return self.encoder(self.front_end(wavs))
        clips = wavs.split(1)
        return torch.cat([self.encoder(self.front_end(clip)) for clip in clips])
