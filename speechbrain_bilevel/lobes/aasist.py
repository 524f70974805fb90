"""AASIST: a countermeasure on a spectral and a temporal graph of the waveform.

Source of the design, https://arxiv.org/abs/2110.01200, and of weights of both
sizes: https://github.com/clovaai/aasist
"""

import torch

from speechbrain_bilevel.nnet.graph import (
    GraphAttention,
    GraphPool,
    StackingBranch,
)
from speechbrain_bilevel.nnet.maps import POOL, ResidualBlock, SincFrontEnd


class GraphBackEnd(torch.nn.Module):
    """From maps to logits: what AASIST has in common with networks that make
    their maps otherwise. These have a method ``_maps``, [batch, samples] ->
    [batch, channels, bands, frames].

    Arguments
    ---------
    bands, channels : int
        Of the maps.
    samples, min_samples : int
        Input length of the training, and the shortest that leaves a frame.
    graph, stack : int
        Features of a node in the graph of one view and where both meet.
    spectral_keep, temporal_keep, stack_keep : float
        The part of the nodes that pooling keeps of each view and where both
        meet.
    temperature, stack_temperature : float
        Of the attention in one view and where both meet.
    graph_dropout, pool_dropout, dropout : float
        Dropout probability of nodes, of what pooling scores, and of the
        embedding at the classifier.
    classes : int
        Number of outputs: 0 is spoof, 1 is bona fide.

    Example
    -------
    >>> network = GraphBackEnd(bands=4, channels=6, graph=6, stack=4)
    >>> network.read(torch.randn(2, 6, 4, 9)).shape
    torch.Size([2, 20])
    """

    #: Whole recordings can be scored; see ``scoring.score_trials``.
    any_length = True

    def __init__(
        self,
        bands,
        channels,
        samples=64600,
        min_samples=1,
        graph=64,
        stack=32,
        spectral_keep=0.5,
        temporal_keep=0.7,
        stack_keep=0.5,
        temperature=2.0,
        stack_temperature=100.0,
        graph_dropout=0.2,
        pool_dropout=0.3,
        dropout=0.5,
        classes=2,
    ):
        super().__init__()
        self.samples = samples
        self.min_samples = min_samples
        self.positions = torch.nn.Parameter(torch.randn(1, bands, channels))
        self.spectral_graph, self.temporal_graph = (
            torch.nn.Sequential(
                GraphAttention(channels, graph, temperature, graph_dropout),
                GraphPool(graph, keep, pool_dropout),
            )
            for keep in (spectral_keep, temporal_keep)
        )
        self.branches = torch.nn.ModuleList(
            StackingBranch(
                graph,
                stack,
                stack_keep,
                stack_temperature,
                graph_dropout,
                pool_dropout,
            )
            for _ in range(2)
        )
        self.classifier = torch.nn.Sequential(
            torch.nn.Dropout(dropout), torch.nn.Linear(5 * stack, classes)
        )

    def embed(self, wavs):
        """Maxima and means of both graphs, and the stack node.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, 5 * stack]

        Raises
        ------
        ValueError
            If the waveforms are too short.
        """
        if wavs.shape[1] < self.min_samples:
            raise ValueError(
                f"{type(self).__name__} needs {self.min_samples} samples at "
                f"least, got {wavs.shape[1]}: tile with "
                "dataio.audio.fit_length"
            )
        return self.read(self._maps(wavs))

    def read(self, maps):
        """[batch, channels, bands, frames] -> [batch, 5 * stack]"""
        magnitude = maps.abs()
        spectral = magnitude.amax(dim=3).transpose(1, 2) + self.positions
        temporal = magnitude.amax(dim=2).transpose(1, 2)
        nodes = self.temporal_graph(temporal), self.spectral_graph(spectral)
        temporal, spectral, stack = map(
            torch.maximum, *(branch(*nodes) for branch in self.branches)
        )
        readout = [
            pooled
            for nodes in (temporal, spectral)
            for pooled in (nodes.abs().amax(dim=1), nodes.mean(dim=1))
        ]
        return torch.cat([*readout, stack.squeeze(1)], dim=1)

    def forward(self, wavs):
        """Logits of the classes.

        Arguments
        ---------
        wavs : torch.Tensor
            [batch, samples], 16 kHz.

        Returns
        -------
        torch.Tensor
            [batch, classes]
        """
        return self.classifier(self.embed(wavs))


class AASIST(GraphBackEnd):
    """The published network; AASIST with the default sizes.

    AASIST-L has ``channels=[32, 32, 24, 24, 24, 24]``, ``graph=24``,
    ``spectral_keep=0.4``, ``temporal_keep=0.5`` and ``stack_keep=0.7``. Of
    the published 297,866 and 85,306 parameters, ours lacks the 512 and 272 that
    the output does not depend on.

    Without gradients, a CPU takes clip by clip; all that differs is the time.

    Arguments
    ---------
    samples : int
        Input length in samples at 16 kHz of the training. The network takes
        any that leaves it a frame.
    sinc_filters, sinc_kernel : int
        See ``sinc_filters``.
    channels : list of int
        Output channels of each residual block.
    **graphs
        See ``GraphBackEnd``, whose defaults are AASIST's.

    Example
    -------
    >>> network = AASIST(
    ...     samples=1600, sinc_filters=9, sinc_kernel=33, channels=[4, 4],
    ...     graph=6, stack=4,
    ... )
    >>> network(torch.randn(2, 1600)).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        samples=64600,
        sinc_filters=70,
        sinc_kernel=129,
        channels=(32, 32, 64, 64, 64, 64),
        **graphs,
    ):
        super().__init__(
            sinc_filters // POOL,
            channels[-1],
            samples,
            sinc_kernel - 1 + POOL ** (1 + len(channels)),
            **graphs,
        )
        self.front_end = SincFrontEnd(sinc_filters, sinc_kernel)
        self.encoder = torch.nn.ModuleList(
            ResidualBlock(before, after)
            for before, after in zip([1, *channels], channels)
        )

    def _maps(self, wavs):
        """[batch, samples] -> [batch, channels, bands, frames]"""
        if self.training or torch.is_grad_enabled() or not wavs.is_cpu:
            return self._encode(wavs, ResidualBlock.forward)
        return torch.cat(
            [
                self._encode(wav, ResidualBlock.in_windows)
                for wav in wavs.split(1)
            ]
        )

    def _encode(self, wavs, apply):
        x = self.front_end(wavs)
        for block in self.encoder:
            x = apply(block, x)
        return x
