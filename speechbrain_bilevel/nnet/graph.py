"""Graph attention as in the published AASIST.

Every node is connected to every other. A graph is its nodes, [batch, nodes,
features].

Source of the design: https://arxiv.org/abs/2110.01200
"""

import torch


def score_weight(in_features):
    """Return a parameter that maps features of a pair of nodes to a score."""
    return torch.nn.Parameter(
        torch.nn.init.xavier_normal_(torch.empty(in_features, 1))
    )


def pair_products(x):
    """[batch, nodes, features] -> [batch, nodes, nodes, features]

    Example
    -------
    >>> pair_products(torch.tensor([[[2.0], [3.0]]])).squeeze()
    tensor([[4., 6.],
            [6., 9.]])
    """
    return x.unsqueeze(2) * x.unsqueeze(1)


class NodeUpdate(torch.nn.Module):
    """Project the attended nodes and the nodes themselves, and add both."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.neighbors = torch.nn.Linear(in_features, out_features)
        self.own = torch.nn.Linear(in_features, out_features)

    def forward(self, own, attention, neighbors):
        """[batch, n, in_features], [batch, n, m], [batch, m, in_features] ->
        [batch, n, out_features]"""
        return self.neighbors(attention @ neighbors) + self.own(own)


class NodeNorm(torch.nn.BatchNorm1d):
    """Batch normalization of every feature over clips and nodes, and SELU."""

    def forward(self, x):
        """Normalize ``x``, [batch, nodes, features]."""
        normalized = super().forward(x.flatten(0, 1))
        return torch.nn.functional.selu(normalized).view_as(x)


class GraphAttention(torch.nn.Module):
    """Attention among the nodes of one graph.

    Arguments
    ---------
    in_features, out_features : int
        Features of a node.
    temperature, dropout : float
        Divisor of the scores before the softmax; dropout probability of the
        input.

    Example
    -------
    >>> GraphAttention(6, 4)(torch.randn(2, 5, 6)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, in_features, out_features, temperature=1.0, dropout=0.0):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.pair = torch.nn.Linear(in_features, out_features)
        self.score = score_weight(out_features)
        self.temperature = temperature
        self.update = NodeUpdate(in_features, out_features)
        self.norm = NodeNorm(out_features)

    def forward(self, x):
        """[batch, nodes, in_features] -> [batch, nodes, out_features]"""
        x = self.dropout(x)
        scores = torch.tanh(self.pair(pair_products(x))) @ self.score
        attention = (scores.squeeze(3) / self.temperature).softmax(dim=2)
        return self.norm(self.update(x, attention, x))


class HeterogeneousGraphAttention(torch.nn.Module):
    """Attention among a temporal and a spectral graph, joined into one.

    The paper calls it HS-GAL. How a pair of nodes is scored depends on the two
    graphs that they are from. A stack node attends to all nodes; none attends
    to it.

    Arguments
    ---------
    in_features, out_features, temperature, dropout
        See ``GraphAttention``.

    Example
    -------
    >>> attention = HeterogeneousGraphAttention(6, 4)
    >>> temporal, spectral = torch.randn(2, 5, 6), torch.randn(2, 3, 6)
    >>> outputs = attention(temporal, spectral, stack=torch.randn(1, 1, 6))
    >>> [list(output.shape) for output in outputs]
    [[2, 5, 4], [2, 3, 4], [2, 1, 4]]
    """

    def __init__(self, in_features, out_features, temperature=1.0, dropout=0.0):
        super().__init__()
        self.temporal = torch.nn.Linear(in_features, in_features)
        self.spectral = torch.nn.Linear(in_features, in_features)
        self.dropout = torch.nn.Dropout(dropout)
        self.temperature = temperature
        self.pair = torch.nn.Linear(in_features, out_features)
        self.temporal_score = score_weight(out_features)
        self.cross_score = score_weight(out_features)
        self.spectral_score = score_weight(out_features)
        self.update = NodeUpdate(in_features, out_features)
        self.norm = NodeNorm(out_features)
        self.stack_pair = torch.nn.Linear(in_features, out_features)
        self.stack_score = score_weight(out_features)
        self.stack_update = NodeUpdate(in_features, out_features)

    def forward(self, temporal, spectral, stack):
        """Update the nodes of both graphs and the stack node.

        ``temporal`` and ``spectral`` are [batch, nodes, in_features], ``stack``
        is [batch, 1, in_features], or [1, 1, in_features] for all clips. Return
        all three, with ``out_features``.
        """
        sizes = [temporal.shape[1], spectral.shape[1]]
        x = torch.cat([self.temporal(temporal), self.spectral(spectral)], 1)
        x = self.dropout(x)
        scores = torch.tanh(self.stack_pair(x * stack)) @ self.stack_score
        stack = self.stack_update(
            stack, self._attention(scores.transpose(1, 2)), x
        )
        attention = self._attention(self._pair_scores(x, sizes))
        nodes = self.norm(self.update(x, attention, x))
        return *nodes.split(sizes, dim=1), stack

    def _pair_scores(self, x, sizes):
        """[batch, nodes, in_features] -> [batch, nodes, nodes]"""
        weights = torch.cat(
            [self.temporal_score, self.cross_score, self.spectral_score], 1
        )
        is_spectral = torch.arange(sum(sizes), device=x.device) >= sizes[0]
        # The number of spectral nodes in a pair selects the weight.
        n_spectral = is_spectral.long() + is_spectral.long().unsqueeze(1)
        features = torch.tanh(self.pair(pair_products(x)))
        return (features * weights.T[n_spectral]).sum(dim=3)

    def _attention(self, scores):
        return (scores / self.temperature).softmax(dim=2)


class GraphPool(torch.nn.Module):
    """Keep the nodes with the highest scores, in this order.

    Arguments
    ---------
    in_features : int
        Features of a node.
    ratio, dropout : float
        Share of the nodes to keep, rounded down but at least one; dropout
        probability of the nodes when scored.

    Example
    -------
    >>> GraphPool(in_features=4, ratio=0.5)(torch.randn(2, 7, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, in_features, ratio, dropout=0.0):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.score = torch.nn.Linear(in_features, 1)
        self.ratio = ratio

    def forward(self, x):
        """[batch, nodes, in_features] -> [batch, fewer nodes, in_features]"""
        scores = torch.sigmoid(self.score(self.dropout(x)))
        _, chosen = scores.topk(self.kept(x.shape[1]), dim=1)
        return (x * scores).gather(1, chosen.expand(-1, -1, x.shape[2]))

    def kept(self, nodes):
        """Return how many of a number of nodes are kept."""
        return max(int(nodes * self.ratio), 1)


class StackingBranch(torch.nn.Module):
    """Two layers of heterogeneous attention with pooling in between.

    Arguments
    ---------
    in_features, out_features : int
        Features of a node.
    ratio, pool_dropout : float
        See ``GraphPool``.
    temperature, dropout : float
        See ``GraphAttention``; dropout applies to the output as well.

    Example
    -------
    >>> branch = StackingBranch(6, 4, 0.5, 100.0, 0.2, 0.3)
    >>> outputs = branch(torch.randn(2, 8, 6), torch.randn(2, 4, 6))
    >>> [list(output.shape) for output in outputs]
    [[2, 4, 4], [2, 2, 4], [2, 1, 4]]
    """

    def __init__(
        self,
        in_features,
        out_features,
        ratio,
        temperature,
        dropout,
        pool_dropout,
    ):
        super().__init__()
        self.stack = torch.nn.Parameter(torch.randn(1, 1, in_features))
        self.layers = torch.nn.ModuleList(
            HeterogeneousGraphAttention(
                features, out_features, temperature, dropout
            )
            for features in (in_features, out_features)
        )
        self.temporal_pool = GraphPool(out_features, ratio, pool_dropout)
        self.spectral_pool = GraphPool(out_features, ratio, pool_dropout)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, temporal, spectral):
        """Return both graphs, with fewer nodes, and the stack node."""
        first, second = self.layers
        temporal, spectral, stack = first(temporal, spectral, self.stack)
        nodes = (
            self.temporal_pool(temporal),
            self.spectral_pool(spectral),
            stack,
        )
        return [
            self.dropout(old + new) for old, new in zip(nodes, second(*nodes))
        ]
