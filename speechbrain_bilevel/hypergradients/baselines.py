"""Strategies without an upper level, for comparison."""

from speechbrain_bilevel.hypergradients.base import Hypergradient
from speechbrain_bilevel.hypergradients.hvp import add_scaled


class OneLevel(Hypergradient):
    """All parameters are lower ones; ``opt_class`` makes the only optimizer.

    ``upper`` and ``upper_opt_class`` are not used.
    """

    has_upper_level = False

    def upper_gradient(self, step):
        """Do nothing."""


class MLDG(OneLevel):
    """First-order MLDG (meta-learning for domain generalization).

    All parameters y follow the gradient of g on the lower batches, and that of
    f on the upper batches after a plain step on g:

        dg/dy(y) + weight df/dy(y'),   y' = y - step_size dg/dy(y).

    Source: Li et al., Learning to generalize: meta-learning for domain
    generalization, https://arxiv.org/abs/1710.03463

    Arguments
    ---------
    step_size : float
        Size of the plain step.
    weight : float
        Weight of f.
    """

    def __init__(self, step_size, weight=1.0):
        self.step_size, self.weight = step_size, weight

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        gradient = step.lower_gradient()
        there = add_scaled(step.lower_params, gradient, -self.step_size)
        (vector,) = step.upper.gradients("lower", at=there)
        step.accumulate_grad("lower", self.weight * vector)


class SAM(OneLevel):
    """Sharpness-aware minimization; upper batches are not used.

    All parameters y follow the gradient of the lower loss g where it is highest
    nearby:

        dg/dy(y + radius v),   v = dg/dy(y) / |dg/dy(y)|.

    Source: Foret et al., Sharpness-aware minimization for efficiently improving
    generalization, https://arxiv.org/abs/2010.01412

    Arguments
    ---------
    radius : float
        Distance at which the loss is taken.
    """

    def __init__(self, radius=0.05):
        self.radius = radius

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        gradient = step.lower_gradient()
        direction = gradient / gradient.norm().clamp(min=1e-12)
        there = add_scaled(step.lower_params, direction, self.radius)
        (vector,) = step.lower.gradients("lower", at=there)
        step.accumulate_grad("lower", vector - gradient)
