"""Losses and scores of a two-class countermeasure: 0 spoof, 1 bona fide."""

import torch
from torch.nn.functional import cross_entropy, normalize, softplus

SPOOF, BONAFIDE = 0, 1


class SpoofLoss(torch.nn.Module):
    """Cross entropy plus focal loss, as published with V2.

    Focal loss: Lin et al., "Focal Loss for Dense Object Detection", 2017.

    Arguments
    ---------
    alpha : list of float
        Focal weight of spoof and of bona fide.
    gamma : float
        Focal exponent.
    as_published : bool
        Apply the loss to the softmax of the logits, as the published code does
        (a softmax twice). The sound form applies it to the logits.

    Example
    -------
    >>> loss = SpoofLoss()
    >>> right = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    >>> bool(loss(right, torch.tensor([0, 1])) < 1e-6)
    True
    """

    def __init__(self, alpha=(0.25, 0.75), gamma=2.0, as_published=False):
        super().__init__()
        self.register_buffer("alpha", torch.tensor(alpha), persistent=False)
        self.gamma = gamma
        self.as_published = as_published

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
        if self.as_published:
            logits = logits.softmax(dim=-1)
        entropy = cross_entropy(logits, labels, reduction="none")
        focus = (1 - torch.exp(-entropy)) ** self.gamma
        alpha = self.alpha.to(logits.device)[labels]
        losses = entropy + alpha * focus * entropy
        return (losses if weights is None else weights * losses).mean()


def detection_score(logits, as_published=False, bonafide_logit=False):
    """The score of each trial: higher is more bona fide.

    Arguments
    ---------
    logits : torch.Tensor
        [batch, 2]
    as_published : bool
        The softmax output of bona fide, which saturates into ties near 1.
        Otherwise the difference of the logits, which ranks the same trials
        without ties.
    bonafide_logit : bool
        The logit of bona fide alone, as AASIST's published code scores; it
        ranks trials otherwise than the difference does.

    Returns
    -------
    torch.Tensor
        [batch], double precision.

    Example
    -------
    >>> detection_score(torch.tensor([[-1.0, 2.0]]))
    tensor([3.], dtype=torch.float64)
    """
    logits = logits.double()
    if bonafide_logit:
        return logits[:, BONAFIDE]
    if as_published:
        return logits.softmax(dim=-1)[:, BONAFIDE]
    return logits[:, BONAFIDE] - logits[:, SPOOF]


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


class LossWeights(torch.nn.Module):
    """Learned weights of trials, or of groups of trials (attacks, domains), in
    the lower loss.

    A weight is the sigmoid of its logit, divided by the mean of all sigmoids:

        weight_i = sigmoid(logit_i) / mean_j sigmoid(logit_j).

    All weights together thus keep the mean 1, and begin there. Without it the
    upper level could scale the whole lower loss, which is another learning
    rate (or, where there is a penalty, less of a penalty), instead of choosing
    among the trials. Dividing by the mean over a batch would fix the scale as
    well, but there a trial's weight would depend on which others were drawn
    with it; over all weights it does not, and the mean lower loss of batches
    drawn at random is that of the whole set. Where groups differ in size, the
    mean 1 is that over groups, not over trials. The sigmoid bounds what one
    trial can take: as long as the sigmoids are p on average, no weight exceeds
    1 / p.

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
