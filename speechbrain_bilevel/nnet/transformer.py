"""Pre-norm transformer blocks as the published V2 uses them."""

import math

import torch

from speechbrain_bilevel.nnet.dropout import Dropout
from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm


class SinusoidalPositions(torch.nn.Module):
    """Adds sinusoidal positions to a sequence, then applies dropout.

    Arguments
    ---------
    tokens : int
        Length of the sequence.
    size : int
        Size of a token; even.
    dropout : float
        Dropout probability.

    Example
    -------
    >>> SinusoidalPositions(tokens=7, size=4)(torch.zeros(2, 7, 4)).shape
    torch.Size([2, 7, 4])
    """

    def __init__(self, tokens, size, dropout=0.0):
        super().__init__()
        position = torch.arange(tokens).unsqueeze(1)
        frequency = torch.exp(
            torch.arange(0, size, 2) * (-math.log(10000.0) / size)
        )
        table = torch.zeros(tokens, size)
        table[:, 0::2] = torch.sin(position * frequency)
        table[:, 1::2] = torch.cos(position * frequency)
        self.register_buffer("table", table, persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Adds the positions to ``x``, [batch, tokens, size]."""
        return self.dropout(x + self.table)


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention in which no query sees the first token.

    Written out rather than fused: the fused kernels have no double backward,
    which second-order hypergradients need.

    Arguments
    ---------
    size : int
        Size of a token.
    heads : int
        Number of heads; divides ``size``.
    dropout : float
        Dropout probability of the attention weights.

    Example
    -------
    >>> attention = SelfAttention(size=8, heads=2)
    >>> x = torch.randn(1, 5, 8)
    >>> changed = x.clone()
    >>> changed[:, 0] += 1
    >>> torch.equal(attention(x)[:, 1:], attention(changed)[:, 1:])
    True
    """

    def __init__(self, size, heads, dropout=0.0):
        super().__init__()
        self.heads = heads
        self.query = torch.nn.Linear(size, size)
        self.key = torch.nn.Linear(size, size)
        self.value = torch.nn.Linear(size, size)
        self.output = torch.nn.Linear(size, size)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Attends within ``x``, [batch, tokens, size], of which it has the
        shape."""
        # Masking the first key is leaving it out.
        seen = x[:, 1:]
        query, key, value = (
            self._split(self.query(x)),
            self._split(self.key(seen)),
            self._split(self.value(seen)),
        )
        # There are fewer queries than weights to be divided.
        weights = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)
        context = self.dropout(weights.softmax(dim=-1)) @ value
        return self.output(context.transpose(1, 2).flatten(2))

    def _split(self, x):
        """[batch, tokens, size] -> [batch, heads, tokens, size / heads]"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class TransformerBlock(torch.nn.Module):
    """Attention and feed-forward, each after a norm and added to its input.

    Arguments
    ---------
    size : int
        Size of a token.
    heads : int
        Number of attention heads.
    hidden : int
        Size of the feed-forward layer.
    dropout : float
        Dropout probability, of all four places.

    Example
    -------
    >>> block = TransformerBlock(size=8, heads=2, hidden=16)
    >>> block(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, size, heads, hidden, dropout=0.0):
        super().__init__()
        self.attention_norm = UnbiasedLayerNorm(size)
        self.attention = SelfAttention(size, heads, dropout)
        self.feed_forward_norm = UnbiasedLayerNorm(size)
        self.feed_forward = torch.nn.Sequential(
            torch.nn.Linear(size, hidden),
            torch.nn.ReLU(inplace=True),
            Dropout(dropout),
            torch.nn.Linear(hidden, size),
        )
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Transforms ``x``, [batch, tokens, size], of which it has the
        shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
