"""Meta-learning of one set of parameters across two sets of batches."""

from speechbrain_bilevel.hypergradients.base import OneLevel
from speechbrain_bilevel.hypergradients.hvp import moved
from speechbrain_bilevel.hypergradients.unrolled import lower_gradient


class MLDG(OneLevel):
    """First-order MLDG: all parameters y learn g on the lower batches and, as
    they would be after a plain step on g, f on the upper ones:

        dg/dy(y) + weight df/dy(y'),   y' = y - step_size dg/dy(y).

    There is no upper level: ``upper`` and ``upper_opt_class`` are not used, and
    the only optimizer is that of ``opt_class``.

    Source: Li et al., Learning to generalize: meta-learning for domain
    generalization, https://arxiv.org/abs/1710.03463

    Arguments
    ---------
    step_size : float
        Of the plain step.
    weight : float
        How much f counts.
    """

    def __init__(self, step_size, weight=1.0):
        self.step_size, self.weight = step_size, weight

    def before_lower_step(self, brain):
        """See ``Hypergradient.before_lower_step``."""
        point = list(brain.levels["lower"].values())
        there = moved(point, lower_gradient(brain), -self.step_size)
        (vector,) = brain.mean_loss("upper").gradients("lower", at=there)
        brain.deposit("lower", self.weight * vector)


class SAM(OneLevel):
    """All parameters y learn the lower loss g where it is worst nearby:

        dg/dy(y + radius v),   v = dg/dy(y) / |dg/dy(y)|.

    There is no upper level: ``upper``, ``upper_opt_class`` and the upper batches
    are not used. It is here to be compared with, at two gradients a step.

    Source: Foret et al., Sharpness-aware minimization for efficiently improving
    generalization, https://arxiv.org/abs/2010.01412

    Arguments
    ---------
    radius : float
        How far off the loss is taken.
    """

    def __init__(self, radius=0.05):
        self.radius = radius

    def before_lower_step(self, brain):
        """See ``Hypergradient.before_lower_step``."""
        point = list(brain.levels["lower"].values())
        here = lower_gradient(brain)
        step = self.radius / here.norm().clamp(min=1e-12)
        there = moved(point, here, step)
        (vector,) = brain.mean_loss("lower").gradients("lower", at=there)
        brain.deposit("lower", vector - here)
