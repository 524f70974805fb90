"""Learning where bona fide speech lies, with spoofs anywhere else.

Source: Zhang et al., "One-class learning towards synthetic voice spoofing
detection", 2021, https://arxiv.org/abs/2010.13995
"""

import torch
from torch.nn.functional import normalize, softplus

from speechbrain_bilevel.nnet.losses import BONAFIDE, SPOOF


class OneClassHead(torch.nn.Module):
    """The cosine between an embedding and the direction of bona fide speech.

    Arguments
    ---------
    size : int
        Of the embedding.

    Example
    -------
    >>> OneClassHead(8)(torch.randn(3, 8)).shape
    torch.Size([3, 2])
    """

    def __init__(self, size):
        super().__init__()
        self.direction = torch.nn.Parameter(torch.randn(size))

    def forward(self, embeddings):
        """[batch, size] -> [batch, 2], minus half and plus half the cosine, so
        that their difference, the score, is the cosine."""
        direction = normalize(self.direction, dim=0)
        cosine = normalize(embeddings, dim=-1) @ direction
        return torch.stack([-cosine / 2, cosine / 2], dim=-1)


class OneClassSoftmax(torch.nn.Module):
    """Bona fide speech shall have a cosine above one margin, spoofs below
    another.

    Arguments
    ---------
    margins : list of float
        Cosine that spoofs are to stay under, and bona fide to exceed.
    scale : float
        How sharp the margins are.

    Example
    -------
    >>> loss = OneClassSoftmax()
    >>> far = torch.tensor([[0.5, -0.5]])
    >>> bool(loss(far, torch.tensor([0])) < 1e-6 < loss(far, torch.tensor([1])))
    True
    """

    def __init__(self, margins=(0.2, 0.9), scale=20.0):
        super().__init__()
        self.register_buffer("margins", torch.tensor(margins), persistent=False)
        self.scale = scale

    def forward(self, logits, labels, weights=None):
        """The mean loss of a batch.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, 2], of a ``OneClassHead``.
        labels : torch.Tensor
            [batch], 0 for spoof, 1 for bona fide.
        weights : torch.Tensor, optional
            [batch], how much each trial counts; 1 by default.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        cosine = logits[:, BONAFIDE] - logits[:, SPOOF]
        missed = self.margins.to(logits.device)[labels] - cosine
        sign = 2 * labels - 1
        losses = softplus(self.scale * sign * missed)
        return (losses if weights is None else weights * losses).mean()
