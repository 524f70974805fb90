"""Sharpness-aware minimisation of one set of parameters."""

from speechbrain_bilevel.hypergradients.base import OneLevel
from speechbrain_bilevel.hypergradients.unrolled import lower_gradient
from speechbrain_bilevel.hypergradients.vectors import moved


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
