"""Losses of a two-class countermeasure.

Logits are [batch, 2], for spoof (0) and bona fide (1), as in ``dataio.LABELS``.
"""

import torch
from torch.nn.functional import cross_entropy, nll_loss, normalize, softplus


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
        "logits"; or "softmax" as in the published code, which applies softmax
        twice, so that the loss never falls below 0.3.

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
        self.alpha = alpha
        self.gamma = gamma
        self.loss_on = loss_on

    def forward(self, logits, labels, weights=None):
        """Return the mean loss of a batch, a scalar.

        Arguments
        ---------
        logits : torch.Tensor
            [batch, 2]
        labels : torch.Tensor
            [batch], 0 for spoof, 1 for bona fide.
        weights : torch.Tensor, optional
            [batch], the weight of each trial; 1 by default.
        """
        if self.loss_on == "softmax":
            logits = logits.softmax(dim=-1)
        entropy = cross_entropy(logits, labels, reduction="none")
        focus = (1 - torch.exp(-entropy)) ** self.gamma
        # Not copied to the device, for which it would wait.
        spoof, bonafide = (entropy.new_full((), a) for a in self.alpha)
        alpha = torch.where(labels.bool(), bonafide, spoof)
        losses = entropy + alpha * focus * entropy
        return (losses if weights is None else weights * losses).mean()


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
        """[batch, in_features] -> [batch, 2], minus and plus half the cosine

        Their difference, the score, is the cosine.
        """
        direction = normalize(self.direction, dim=0)
        cosine = normalize(embeddings, dim=-1) @ direction
        return torch.stack([-cosine / 2, cosine / 2], dim=-1)


class OneClassSoftmax(torch.nn.Module):
    """OC-Softmax: keep the cosine high for bona fide and low for spoof.

    Zhang et al., "One-class Learning Towards Synthetic Voice Spoofing
    Detection", 2021.

    Arguments
    ---------
    margins : list of float
        Cosine that spoofs should stay below, and that bona fide should exceed.
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
        """Return the mean loss of the logits of a ``OneClassHead``.

        See ``SpoofLoss.forward`` for the arguments.
        """
        spoof, bonafide = logits.unbind(dim=1)
        missed = self.margins.to(logits.device)[labels] - (bonafide - spoof)
        sign = 2 * labels - 1
        losses = softplus(self.scale * sign * missed)
        return (losses if weights is None else weights * losses).mean()


class NegativeLogLikelihood(torch.nn.Module):
    """Fit the model of each class to its own clips: generative training.

    For networks whose logits are log-likelihoods, as ``nnet.gmm``'s.

    Example
    -------
    >>> loss = NegativeLogLikelihood()
    >>> loss(torch.tensor([[-3.0, -9.0], [-9.0, -5.0]]), torch.tensor([0, 1]))
    tensor(4.)
    """

    def forward(self, logits, labels, weights=None):
        """Return the mean loss of a batch, a scalar.

        See ``SpoofLoss.forward`` for the arguments.
        """
        losses = nll_loss(logits, labels, reduction="none")
        return (losses if weights is None else weights * losses).mean()


class LossWeights(torch.nn.Module):
    """Learned weights of trials, or of groups of trials, in the lower loss.

        weight_i = sigmoid(logit_i) / mean_j sigmoid(logit_j)

    Initially all weights are 1, and their mean remains 1; over groups, it does
    not depend on their sizes. Otherwise the upper level could scale the lower
    loss, which is another learning rate, instead of choosing among trials. (A
    mean over the batch would make a trial's weight depend on the other trials.)
    With sigmoids of p on average, no weight exceeds 1 / p.

    Multiply the losses of trials in ``lower_objectives`` by the weights, and
    name the module in ``upper``. The upper loss does not depend on it directly,
    so use a hypergradient with an implicit part, e.g. ``OneStepUnrolled``.

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
        """Return the weights, 0 to ``size``, of trials or of their groups.

        ``indices`` are int64, [batch]; so is the shape of the weights.
        """
        weights = self.logits.sigmoid()
        return weights[indices] / weights.mean()
