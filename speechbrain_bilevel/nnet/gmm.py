"""Gaussian mixtures, and their training by expectation-maximization (EM)."""

import math

import torch

from speechbrain_bilevel.nnet.cepstra import precise
from speechbrain_bilevel.utils.distributed import world_size
from speechbrain_bilevel.utils.precision import full_precision

# Of a component, so that its logarithm is finite.
_MIN_WEIGHT = 1e-10


class GaussianMixtures(torch.nn.Module):
    """A mixture of Gaussians with diagonal covariance for each class.

    The first batch in training initializes them, as in VLFeat: the means are
    frames at random, the same ones for all classes, and the variances those of
    all its frames. Train them by ``EM``: the weights of components are
    normalized by its steps only.

    Arguments
    ---------
    num_classes, num_components : int
    size : int
        Features of a frame.

    Example
    -------
    >>> mixtures = GaussianMixtures(2, num_components=8, size=3)
    >>> mixtures(torch.randn(4, 9, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, num_classes, num_components, size):
        super().__init__()
        #: Of each component: log weight, mean, and log variances.
        self.components = torch.nn.Parameter(
            torch.empty(num_classes, num_components, 1 + 2 * size)
        )
        self.register_buffer("initialized", torch.tensor(0))
        self._fill(torch.randn(num_components, size), torch.zeros(size))

    def _fill(self, means, log_variances):
        with torch.no_grad():
            weight, mean, log_variance = _parts(self.components)
            weight.fill_(-math.log(len(means)))
            mean.copy_(means)
            log_variance.copy_(log_variances)

    def initialize(self, frames, variance_floor=1e-6):
        """Begin with components at some of the frames, [frames, size]."""
        frames = frames.detach()
        chosen = torch.randperm(len(frames), device=frames.device)
        number = torch.arange(self.components.shape[1], device=frames.device)
        variances = frames.var(dim=0, correction=0).clamp_min(variance_floor)
        self._fill(frames[chosen[number % len(frames)]], variances.log())
        self.initialized.fill_(1)
        if world_size() > 1:
            torch.distributed.broadcast(self.components.data, src=0)

    def forward(self, frames):
        """Return the mean log-likelihood of a frame, in nats.

        [batch, frames, size] -> [batch, num_classes]
        """
        if self.training and not self.initialized:
            self.initialize(frames.flatten(0, 1))
        with full_precision(frames):
            # The square of a feature is large next to its variance.
            frames, components = precise(frames), precise(self.components)
            # One by one, clips stay in a CPU's cache.
            alone = frames.is_cpu and not torch.compiler.is_compiling()
            clips = frames.split(1) if alone else [frames]
            found = [_log_likelihoods(x, components) for x in clips]
            return torch.cat(found).mean(dim=1).to(self.components.dtype)


def _parts(components):
    """Split the last axis: log weight, mean, and log variances."""
    size = components.shape[-1] // 2
    return components.split([1, size, size], dim=-1)


def _log_likelihoods(frames, components):
    """Frames, [batch, frames, size] -> [batch, frames, num_classes]"""
    log_weight, mean, log_variance = _parts(components)
    precision = (-log_variance).exp()
    linear = mean * precision
    constant = (log_variance + mean * linear + math.log(2 * math.pi)).sum(-1)
    constant = log_weight.squeeze(-1) - 0.5 * constant
    # The exponents of all components are one matrix product.
    factors = torch.cat([linear, -0.5 * precision], dim=-1).flatten(0, 1)
    terms = torch.cat([frames, frames.square()], dim=-1) @ factors.mT
    terms = (terms + constant.flatten()).unflatten(-1, constant.shape)
    if torch.compiler.is_exporting():
        # By operators that an exported network may have.
        highest = terms.amax(dim=-1, keepdim=True)
        return (terms - highest).exp().sum(-1).log() + highest.squeeze(-1)
    return terms.logsumexp(dim=-1)


class EM(torch.optim.Optimizer):
    """Expectation-maximization for ``GaussianMixtures``, one batch at a time.

    The loss has to be the negative log-likelihood of each clip's class
    (``nnet.losses.NegativeLogLikelihood``): its gradient holds the sums over
    frames, weighted by the responsibilities, that a step of EM is made of. What
    earlier batches said is in the components themselves, and is mixed with what
    this batch says, as in stepwise EM: Cappe and Moulines, "Online EM algorithm
    for latent data models", 2009. A step size of 1, with gradients accumulated
    over the whole training set, is EM itself.

    Arguments
    ---------
    params : iterable of torch.nn.Parameter
        The ``components`` of ``GaussianMixtures``.
    lr : float
        Step size, the share of this batch, above 0 and at most 1.
    variance_floor : float
        Smallest variance.

    Example
    -------
    >>> mixtures = GaussianMixtures(1, num_components=1, size=1)
    >>> frames = torch.tensor([[[1.0], [2.0], [6.0]]])
    >>> loss = -mixtures(frames).mean()
    >>> loss.backward()
    >>> EM(mixtures.parameters()).step()
    >>> round(mixtures.components[0, 0, 1].item(), 4)
    3.0
    """

    def __init__(self, params, lr=1.0, variance_floor=1e-6):
        if not 0 < lr <= 1:
            raise ValueError(f"lr: {lr}; a step size is above 0, at most 1")
        super().__init__(params, {"lr": lr, "variance_floor": variance_floor})

    @torch.no_grad()
    def step(self, closure=None):
        """Make a step; ``closure``, if any, computes the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for components in group["params"]:
                if components.grad is not None:
                    self._step(components, group["lr"], group["variance_floor"])
        return loss

    def _step(self, components, lr, variance_floor):
        log_weight, mean, log_variance = _parts(components)
        weight, variance = log_weight.exp(), log_variance.exp()
        # Sums of responsibilities, and of these times the distance from the
        # mean and its square.
        count, first, second = _parts(-components.grad)
        first = first * variance
        second = (2 * second + count) * variance
        # A class is seen as often as it is in the batch. Of what is known, the
        # batch is ``share``: none, if it has no clip of the class.
        seen = count.sum(dim=1, keepdim=True)
        state = self.state[components]
        known = state.get("seen", seen)
        known = torch.where(known > 0, known, seen)
        state["seen"] = (1 - lr) * known + lr * seen
        is_seen = seen > 0
        scale = torch.where(is_seen, lr / state["seen"], 0)
        share = seen * scale
        new_weight = (1 - share) * weight + scale * count
        new_weight = new_weight.clamp_min(_MIN_WEIGHT)
        shift = scale * first / new_weight
        second = (1 - share) * weight * variance + scale * second
        new_variance = second / new_weight - shift.square()
        new_variance = new_variance.clamp_min(variance_floor)
        log_weight.copy_(torch.where(is_seen, new_weight.log(), log_weight))
        mean.add_(shift)
        log_variance.copy_(
            torch.where(is_seen, new_variance.log(), log_variance)
        )
