"""Losses and scores of a two-class countermeasure: 0 spoof, 1 bona fide."""

import torch
from torch.nn.functional import cross_entropy

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
