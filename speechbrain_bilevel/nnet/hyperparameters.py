"""Hyperparameters of a lower loss, as modules that the upper level learns."""

import torch


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
