"""Graph attention as the published AASIST uses it.

Every node is joined to every other. A graph is its nodes, [batch, nodes,
features].

Source of the design: https://arxiv.org/abs/2110.01200
"""

import torch


def score_weight(size):
    """What turns ``size`` features of a pair of nodes into a score."""
    return torch.nn.Parameter(
        torch.nn.init.xavier_normal_(torch.empty(size, 1))
    )


def pair_products(x):
    """The product of every node with every node.

    Arguments
    ---------
    x : torch.Tensor
        [batch, nodes, size]

    Returns
    -------
    torch.Tensor
        [batch, nodes, nodes, size]

    Example
    -------
    >>> pair_products(torch.tensor([[[2.0], [3.0]]])).squeeze()
    tensor([[4., 6.],
            [6., 9.]])
    """
    return x.unsqueeze(2) * x.unsqueeze(1)


class NodeUpdate(torch.nn.Module):
    """What nodes attend to and what they are, projected and added.

    Arguments
    ---------
    before, after : int
        Features of a node at the input and at the output.

    Example
    -------
    >>> update = NodeUpdate(4, 2)
    >>> nodes, attention = torch.randn(1, 5, 4), torch.full((1, 5, 5), 0.2)
    >>> update(nodes, attention, nodes).shape
    torch.Size([1, 5, 2])
    """

    def __init__(self, before, after):
        super().__init__()
        self.neighbours = torch.nn.Linear(before, after)
        self.own = torch.nn.Linear(before, after)

    def forward(self, own, attention, neighbours):
        """[batch, n, before], [batch, n, m], [batch, m, before] ->
        [batch, n, after]"""
        return self.neighbours(attention @ neighbours) + self.own(own)


class NodeNorm(torch.nn.BatchNorm1d):
    """Batch normalisation of every feature over clips and nodes, and SELU."""

    def forward(self, x):
        """[batch, nodes, size] -> [batch, nodes, size]"""
        normalised = super().forward(x.flatten(0, 1))
        return torch.nn.functional.selu(normalised).view_as(x)


class GraphAttention(torch.nn.Module):
    """Attention among the nodes of one graph.

    Arguments
    ---------
    before, after : int
        Features of a node at the input and at the output.
    temperature : float
        Divides the scores before the softmax.
    dropout : float
        Dropout probability of the input.

    Example
    -------
    >>> GraphAttention(before=6, after=4)(torch.randn(2, 5, 6)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, before, after, temperature=1.0, dropout=0.0):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.pair = torch.nn.Linear(before, after)
        self.score = score_weight(after)
        self.temperature = temperature
        self.update = NodeUpdate(before, after)
        self.norm = NodeNorm(after)

    def forward(self, x):
        """[batch, nodes, before] -> [batch, nodes, after]"""
        x = self.dropout(x)
        scores = torch.tanh(self.pair(pair_products(x))) @ self.score
        attention = (scores.squeeze(3) / self.temperature).softmax(dim=2)
        return self.norm(self.update(x, attention, x))


class StackingAttention(torch.nn.Module):
    """Attention among a temporal and a spectral graph, joined into one.

    How a pair of nodes is scored depends on the graphs that they come from. A
    stack node attends to all of them; none attends to it.

    Arguments
    ---------
    before, after : int
        Features of a node at the input and at the output.
    temperature : float
        Divides the scores before the softmax.
    dropout : float
        Dropout probability of the nodes at the input.

    Example
    -------
    >>> attention = StackingAttention(before=6, after=4)
    >>> temporal, spectral = torch.randn(2, 5, 6), torch.randn(2, 3, 6)
    >>> outputs = attention(temporal, spectral, stack=torch.randn(1, 1, 6))
    >>> [list(output.shape) for output in outputs]
    [[2, 5, 4], [2, 3, 4], [2, 1, 4]]
    """

    def __init__(self, before, after, temperature=1.0, dropout=0.0):
        super().__init__()
        self.temporal = torch.nn.Linear(before, before)
        self.spectral = torch.nn.Linear(before, before)
        self.dropout = torch.nn.Dropout(dropout)
        self.temperature = temperature
        self.pair = torch.nn.Linear(before, after)
        self.temporal_score = score_weight(after)
        self.cross_score = score_weight(after)
        self.spectral_score = score_weight(after)
        self.update = NodeUpdate(before, after)
        self.norm = NodeNorm(after)
        self.stack_pair = torch.nn.Linear(before, after)
        self.stack_score = score_weight(after)
        self.stack_update = NodeUpdate(before, after)

    def forward(self, temporal, spectral, stack):
        """Updates the nodes of both graphs and the stack node.

        Arguments
        ---------
        temporal, spectral : torch.Tensor
            [batch, nodes, before]; their numbers of nodes may differ.
        stack : torch.Tensor
            [batch, 1, before], or [1, 1, before] for all clips.

        Returns
        -------
        temporal, spectral, stack : torch.Tensor
            [batch, nodes, after], the last [batch, 1, after].
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
        """[batch, nodes, before] -> [batch, nodes, nodes]"""
        weights = torch.cat(
            [self.temporal_score, self.cross_score, self.spectral_score], 1
        )
        is_spectral = torch.arange(sum(sizes), device=x.device) >= sizes[0]
        # Of a pair, how many are spectral says which weight.
        n_spectral = is_spectral.long() + is_spectral.long().unsqueeze(1)
        features = torch.tanh(self.pair(pair_products(x)))
        return (features * weights.T[n_spectral]).sum(dim=3)

    def _attention(self, scores):
        return (scores / self.temperature).softmax(dim=2)


class GraphPool(torch.nn.Module):
    """Keeps the nodes of the highest scores, in the order of these.

    Arguments
    ---------
    size : int
        Features of a node.
    keep : float
        The part of the nodes that is kept, rounded down to one at least.
    dropout : float
        Dropout probability of what is scored.

    Example
    -------
    >>> GraphPool(size=4, keep=0.5)(torch.randn(2, 7, 4)).shape
    torch.Size([2, 3, 4])
    """

    def __init__(self, size, keep, dropout=0.0):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.score = torch.nn.Linear(size, 1)
        self.keep = keep

    def forward(self, x):
        """[batch, nodes, size] -> [batch, fewer nodes, size]"""
        scores = torch.sigmoid(self.score(self.dropout(x)))
        kept = max(int(x.shape[1] * self.keep), 1)
        _, chosen = scores.topk(kept, dim=1)
        return (x * scores).gather(1, chosen.expand(-1, -1, x.shape[2]))


class StackingBranch(torch.nn.Module):
    """Two layers of stacking attention with pooling in between.

    Arguments
    ---------
    before, after : int
        Features of a node at the input and at the output.
    keep : float
        See ``GraphPool``.
    temperature, dropout : float
        See ``StackingAttention``; the output is dropped out as well.
    pool_dropout : float
        See ``GraphPool``.

    Example
    -------
    >>> branch = StackingBranch(6, 4, 0.5, 100.0, 0.2, 0.3)
    >>> outputs = branch(torch.randn(2, 8, 6), torch.randn(2, 4, 6))
    >>> [list(output.shape) for output in outputs]
    [[2, 4, 4], [2, 2, 4], [2, 1, 4]]
    """

    def __init__(self, before, after, keep, temperature, dropout, pool_dropout):
        super().__init__()
        self.stack = torch.nn.Parameter(torch.randn(1, 1, before))
        self.layers = torch.nn.ModuleList(
            StackingAttention(size, after, temperature, dropout)
            for size in (before, after)
        )
        self.temporal_pool = GraphPool(after, keep, pool_dropout)
        self.spectral_pool = GraphPool(after, keep, pool_dropout)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, temporal, spectral):
        """The graphs -> both, smaller, and the stack node."""
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
