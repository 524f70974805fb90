"""Pre-norm transformer blocks as in the published V2."""

import math

import torch

from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout`` that uses 16 random bits per element on a CPU.

    There, torch's own takes longer than the attention to which it is applied,
    and stores its mask as floats. The probability is rounded to a multiple of
    2 ** -16, and the elements kept are scaled accordingly.

    Example
    -------
    >>> out = Dropout(0.25)(torch.ones(100, 100))
    >>> out.unique()
    tensor([0.0000, 1.3333])
    >>> 0.2 < (out == 0).float().mean() < 0.3
    tensor(True)
    """

    def __init__(self, p=0.5):
        super().__init__(p)

    def forward(self, x):
        """In training, zero some elements of ``x`` and scale the others."""
        dropped = round(self.p * 2**16)
        ours = x.is_cpu and not torch.compiler.is_compiling()
        if not ours or not self.training or dropped in (0, 2**16):
            return super().forward(x)
        size = x.numel()
        numbers = torch.empty(-(-size // 4), dtype=torch.int64)
        # All 64 bits; without bounds, the highest bit would be 0.
        numbers.random_(-(2**63), None)
        numbers = numbers.view(torch.int16)[:size].view(x.shape)
        kept = numbers >= dropped - 2**15
        return torch.where(kept, x, 0).mul_(2**16 / (2**16 - dropped))


class SinusoidalPositions(torch.nn.Module):
    """Add sinusoidal positions to a sequence, then apply dropout.

    Arguments
    ---------
    length, d_model : int
        Number of tokens and size of a token, which is even.
    dropout : float
        Dropout probability.

    Example
    -------
    >>> SinusoidalPositions(length=7, d_model=4)(torch.zeros(2, 7, 4)).shape
    torch.Size([2, 7, 4])
    """

    def __init__(self, length, d_model, dropout=0.0):
        super().__init__()
        position = torch.arange(length).unsqueeze(1)
        frequency = torch.exp(
            torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model)
        )
        table = torch.zeros(length, d_model)
        table[:, 0::2] = torch.sin(position * frequency)
        table[:, 1::2] = torch.cos(position * frequency)
        self.register_buffer("table", table, persistent=False)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Add the positions to ``x``, [batch, tokens, d_model]."""
        return self.dropout(x + self.table)


class SelfAttention(torch.nn.Module):
    """Multi-head self-attention in which no query sees the first token.

    It uses no fused kernels, because they lack the double backward that
    second-order hypergradients need.

    Arguments
    ---------
    d_model, nhead : int
        Size of a token, and the number of heads, which divides it.
    dropout : float
        Dropout probability of the attention weights.

    Example
    -------
    >>> attention = SelfAttention(d_model=8, nhead=2)
    >>> x = torch.randn(1, 5, 8)
    >>> changed = x.clone()
    >>> changed[:, 0] += 1
    >>> torch.equal(attention(x)[:, 1:], attention(changed)[:, 1:])
    True
    """

    def __init__(self, d_model, nhead, dropout=0.0):
        super().__init__()
        self.nhead = nhead
        self.query = torch.nn.Linear(d_model, d_model)
        self.key = torch.nn.Linear(d_model, d_model)
        self.value = torch.nn.Linear(d_model, d_model)
        self.output = torch.nn.Linear(d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Attend within ``x``, [batch, tokens, d_model]; keeps its shape."""
        # Leaving out the first key is the same as masking it.
        seen = x[:, 1:]
        query, key, value = (
            self._split(self.query(x)),
            self._split(self.key(seen)),
            self._split(self.value(seen)),
        )
        # Dividing the queries is cheaper than dividing the weights.
        weights = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)
        context = self.dropout(weights.softmax(dim=-1)) @ value
        return self.output(context.transpose(1, 2).flatten(2))

    def _split(self, x):
        """[batch, tokens, d_model] -> [batch, nhead, tokens, features]"""
        return x.unflatten(2, (self.nhead, -1)).transpose(1, 2)


class TransformerBlock(torch.nn.Module):
    """Attention and feed-forward, each after a norm and added to its input.

    Arguments
    ---------
    d_model, nhead, d_ffn : int
        Size of a token, number of heads, size of the feed-forward layer.
    dropout : float
        Dropout probability, in all four places.

    Example
    -------
    >>> block = TransformerBlock(d_model=8, nhead=2, d_ffn=16)
    >>> block(torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, d_model, nhead, d_ffn, dropout=0.0):
        super().__init__()
        self.attention_norm = UnbiasedLayerNorm(d_model)
        self.attention = SelfAttention(d_model, nhead, dropout)
        self.feed_forward_norm = UnbiasedLayerNorm(d_model)
        self.feed_forward = torch.nn.Sequential(
            torch.nn.Linear(d_model, d_ffn),
            torch.nn.ReLU(inplace=True),
            Dropout(dropout),
            torch.nn.Linear(d_ffn, d_model),
        )
        self.dropout = Dropout(dropout)

    def forward(self, x):
        """Transform ``x``, [batch, tokens, d_model]; keeps its shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
