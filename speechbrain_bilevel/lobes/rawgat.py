"""RawGAT-ST: a countermeasure on a spectral and a temporal graph, then on both.

Source of the design: https://arxiv.org/abs/2107.12710; of the weights:
https://github.com/eurecom-asp/RawGAT-ST-antispoofing
"""

import torch

from speechbrain_bilevel.lobes import check_samples, with_sizes
from speechbrain_bilevel.lobes.aasist import POOL, ResidualBlock
from speechbrain_bilevel.nnet.graph import GraphAttention, GraphPool
from speechbrain_bilevel.nnet.sinc import SincFrontEnd, in_parts

#: How the graphs of both views become one, from [batch, graph_size, nodes].
FUSIONS = {
    "mul": torch.mul,
    "add": torch.add,
    "concat": lambda *views: torch.cat(views, dim=1),
}


def _encoder(channels):
    sizes = zip([1, *channels], channels)
    blocks = [ResidualBlock(*pair) for pair in sizes]
    # As published, the only channel of the input is added to all.
    blocks[0].shortcut = torch.nn.Identity()
    return torch.nn.Sequential(*blocks)


@with_sizes
class RawGATST(torch.nn.Module):
    """The published network, by default the paper's best, "mul".

    "concat" is published with a ``joint_size`` of 32. Of the 440,810 parameters
    of "mul", 5,056 are missing here, because the output does not depend on
    them.

    Without gradients, a CPU computes clips one by one; the result is the same.

    Arguments
    ---------
    num_samples : int
        Input length at 16 kHz; the only one that works.
    sinc_channels, sinc_kernel_size : int
        Number and length of the sinc filters.
    mask_limit : int
        In training, a random number of adjacent filters below this one is
        silent in a batch.
    channels : list of int
        Output channels of each residual block, in the encoders of both views.
    graph_size, joint_size : int
        Features of a node in the graph of one view, and in the joint graph.
    nodes : int
        Nodes to which the graphs of both views are mapped, to be fused.
    fusion : str
        A key of ``FUSIONS``.
    spectral_ratio, temporal_ratio, joint_ratio : float
        Share of the nodes that pooling keeps in each view, and in the joint
        graph.
    graph_dropout, pool_dropout : float
        Dropout probability of nodes, and of nodes scored by pooling.
    num_classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> network = RawGATST(
    ...     num_samples=1600, sinc_channels=9, sinc_kernel_size=33,
    ...     mask_limit=2, channels=[4, 4], graph_size=6, joint_size=4,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    any_length = False

    def __init__(
        self,
        num_samples=64600,
        sinc_channels=70,
        sinc_kernel_size=129,
        mask_limit=14,
        channels=(32, 32, 64, 64, 64, 64),
        graph_size=32,
        joint_size=16,
        nodes=12,
        fusion="mul",
        spectral_ratio=0.64,
        temporal_ratio=0.81,
        joint_ratio=0.64,
        graph_dropout=0.2,
        pool_dropout=0.3,
        num_classes=2,
    ):
        super().__init__()
        self.num_samples = num_samples
        bands = sinc_channels // POOL
        frames = num_samples - sinc_kernel_size + 1
        frames //= POOL ** (1 + len(channels))
        if frames < 1:
            raise ValueError(
                f"num_samples: {num_samples} give no frame: raise it, or use "
                "fewer channels"
            )
        if fusion not in FUSIONS:
            raise ValueError(
                f"fusion: {fusion!r}; expected {' or '.join(FUSIONS)}"
            )
        self.fusion = fusion
        self.front_end = SincFrontEnd(
            sinc_channels, sinc_kernel_size, POOL, mask_limit
        )
        self.spectral_encoder = _encoder(channels)
        self.temporal_encoder = _encoder(channels)

        def graph(size, out_size, ratio):
            return torch.nn.Sequential(
                GraphAttention(size, out_size, dropout=graph_dropout),
                GraphPool(out_size, ratio, pool_dropout),
            )

        self.spectral_graph = graph(channels[-1], graph_size, spectral_ratio)
        self.temporal_graph = graph(channels[-1], graph_size, temporal_ratio)
        fused = 2 * graph_size if fusion == "concat" else graph_size
        self.joint_graph = graph(fused, joint_size, joint_ratio)
        kept = [self.spectral_graph[1].kept(bands)]
        kept += [self.temporal_graph[1].kept(frames)]
        self.spectral_projection, self.temporal_projection = (
            torch.nn.Linear(count, nodes) for count in kept
        )
        self.node = torch.nn.Linear(joint_size, 1)
        self.classifier = torch.nn.Linear(
            self.joint_graph[1].kept(nodes), num_classes
        )

    def extract_features(self, wavs):
        """[batch, num_samples] -> [batch, 2 * channels[-1], bands, frames]

        What the spectral encoder makes of a clip, and the temporal one.
        """
        check_samples(self, wavs)
        parts = wavs.split(1) if in_parts(self, wavs) else [wavs]
        return torch.cat([self._maps(part) for part in parts])

    def _maps(self, wavs):
        x = self.front_end(wavs)
        encoders = self.spectral_encoder, self.temporal_encoder
        return torch.cat([encoder(x) for encoder in encoders], dim=1)

    def readout(self, features):
        """[batch, 2 * channels[-1], bands, frames] -> [batch, joint nodes]"""
        magnitude, half = features.abs(), features.shape[1] // 2
        spectral = magnitude[:, :half].amax(dim=3)
        temporal = magnitude[:, half:].amax(dim=2)
        spectral = self.spectral_graph(spectral.transpose(1, 2))
        temporal = self.temporal_graph(temporal.transpose(1, 2))
        fused = FUSIONS[self.fusion](
            self.spectral_projection(spectral.transpose(1, 2)),
            self.temporal_projection(temporal.transpose(1, 2)),
        )
        return self.node(self.joint_graph(fused.transpose(1, 2))).squeeze(2)

    def embed(self, wavs):
        """[batch, num_samples] -> [batch, joint nodes], a number of each"""
        return self.readout(self.extract_features(wavs))

    def forward(self, wavs):
        """[batch, num_samples] -> logits, [batch, num_classes]"""
        return self.classifier(self.embed(wavs))
