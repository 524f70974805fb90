"""Losses and scores of a two-class countermeasure.

Logits are [batch, 2], of spoof (0) and bona fide (1), as in ``dataio.LABELS``.
"""

import torch
from torch.nn.functional import cross_entropy, normalize, softplus

#: What a score can be; see ``detection_score``.
SCORES = ("logit_difference", "softmax", "bonafide_logit")


class SpoofLoss(torch.nn.Module):
    """Cross entropy plus focal loss, as published with V2.

    Focal loss: Lin et al., "Focal Loss for Dense Object Detection", 2017.

    Arguments
    ---------
    alpha : list of float
        Focal weight of spoof and of bona fide.
    gamma : float
        Focal exponent.
    loss_on : str
        "logits", or "softmax" as in the published code: a softmax twice, whose
        loss never falls below 0.3.

    Example
    -------
    >>> loss = SpoofLoss()
    >>> right = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    >>> bool(loss(right, torch.tensor([0, 1])) < 1e-6)
    True
    """

    def __init__(self, alpha=(0.25, 0.75), gamma=2.0, loss_on="logits"):
        super().__init__()
        if loss_on not in ("logits", "softmax"):
            raise ValueError(f"loss_on {loss_on!r}: expected logits or softmax")
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.gamma = gamma
        self.loss_on = loss_on

    def forward(self, logits, labels, weights=None):
        """The mean loss of a batch.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, 2]
        labels : torch.Tensor
            [batch], 0 for spoof, 1 for bona fide.
        weights : torch.Tensor, optional
            [batch], how much each trial counts; 1 by default.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        if self.loss_on == "softmax":
            logits = logits.softmax(dim=-1)
        entropy = cross_entropy(logits, labels, reduction="none")
        focus = (1 - torch.exp(-entropy)) ** self.gamma
        alpha = self.alpha.to(logits.device)[labels]
        losses = entropy + alpha * focus * entropy
        return (losses if weights is None else weights * losses).mean()


def detection_score(logits, kind="logit_difference"):
    """The score of each trial: higher is more bona fide.

    Arguments
    ---------
    logits : torch.Tensor
        [batch, 2]
    kind : str
        "logit_difference": that of bona fide minus that of spoof. "softmax":
        the softmax output of bona fide, as published with V2; it ranks trials
        alike, but saturates into ties near 1. "bonafide_logit": that of bona
        fide alone, as published with AASIST; it ranks trials otherwise.

    Returns
    -------
    torch.Tensor
        [batch], double precision.

    Example
    -------
    >>> detection_score(torch.tensor([[-1.0, 2.0]]))
    tensor([3.], dtype=torch.float64)
    """
    spoof, bonafide = logits.double().unbind(dim=1)
    if kind == "logit_difference":
        return bonafide - spoof
    if kind == "softmax":
        return logits.double().softmax(dim=1)[:, 1]
    if kind == "bonafide_logit":
        return bonafide
    raise ValueError(f"score: {kind!r}; expected one of {', '.join(SCORES)}")


class OneClassHead(torch.nn.Module):
    """The cosine between an embedding and the direction of bona fide speech.

    Arguments
    ---------
    in_features : int
        Size of the embedding.

    Example
    -------
    >>> OneClassHead(8)(torch.randn(3, 8)).shape
    torch.Size([3, 2])
    """

    def __init__(self, in_features):
        super().__init__()
        self.direction = torch.nn.Parameter(torch.randn(in_features))

    def forward(self, embeddings):
        """[batch, in_features] -> [batch, 2], minus half and plus half the
        cosine, so that their difference, the score, is the cosine."""
        direction = normalize(self.direction, dim=0)
        cosine = normalize(embeddings, dim=-1) @ direction
        return torch.stack([-cosine / 2, cosine / 2], dim=-1)


class OneClassSoftmax(torch.nn.Module):
    """OC-Softmax: cosine above ``margins[1]`` for bona fide, below
    ``margins[0]`` for spoof.

    Zhang et al., "One-class Learning Towards Synthetic Voice Spoofing
    Detection", 2021.

    Arguments
    ---------
    margins : list of float
        Cosine that spoofs should stay below, and bona fide exceed.
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
        labels, weights : torch.Tensor
            As of ``SpoofLoss``.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        spoof, bonafide = logits.unbind(dim=1)
        missed = self.margins.to(logits.device)[labels] - (bonafide - spoof)
        sign = 2 * labels - 1
        losses = softplus(self.scale * sign * missed)
        return (losses if weights is None else weights * losses).mean()


class LossWeights(torch.nn.Module):
    """Learned weights of trials, or of groups of trials, in the lower loss.

        weight_i = sigmoid(logit_i) / mean_j sigmoid(logit_j)

    All weights together keep the mean 1, and begin there. Otherwise the upper
    level could scale the whole lower loss, which is another learning rate,
    instead of choosing among the trials. The mean over a batch would fix the
    scale too, but a trial's weight would then depend on which others are drawn
    with it. Where groups differ in size, the mean 1 is that over groups. As
    long as the sigmoids are p on average, no weight exceeds 1 / p.

    Weight the losses of trials with it in ``lower_objectives``, and name the
    module in ``upper``. The upper loss does not depend on it directly, so it
    needs a hypergradient with an implicit part, e.g. ``OneStepUnrolled``.

    Source: Ren et al., Learning to reweight examples for robust deep learning,
    https://arxiv.org/abs/1803.09050; Shaban et al., Truncated back-propagation
    for bilevel optimization, https://arxiv.org/abs/1810.10667 (data
    hyper-cleaning).

    Arguments
    ---------
    size : int
        Number of trials or groups.

    Example
    -------
    >>> weights = LossWeights(3)
    >>> weights(torch.tensor([0, 2]))
    tensor([1., 1.], grad_fn=<DivBackward0>)
    >>> losses = torch.tensor([0.5, 1.5])
    >>> loss = (weights(torch.tensor([0, 2])) * losses).mean()
    >>> loss.backward()
    >>> weights.logits.grad
    tensor([-0.0417, -0.1667,  0.2083])
    """

    def __init__(self, size):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(size))

    def forward(self, indices):
        """The weights of a batch.

        Arguments
        ---------
        indices : torch.Tensor
            [batch], int64; the trials, or the group of each.

        Returns
        -------
        torch.Tensor
            [batch], from 0 to ``size``.
        """
        weights = self.logits.sigmoid()
        return weights[indices] / weights.mean()
