"""A hypergradient strategy of one's own: T1-T2 for a plain SGD step.

A YAML chooses it like any other, ``hypergradient:
!new:own_strategy.OneSGDStep`` (the file has to be importable), and the
``BilevelMixin`` of any Brain calls it. All that it may use is described in
``hypergradients.base.Step``.
"""

from speechbrain_bilevel.hypergradients import Hypergradient


class OneSGDStep(Hypergradient):
    """Differentiates through the lower step that was made,

        d f(x, y') / dx = df/dx - lr d2g/dxdy df/dy(x, y'),

    if that step is y' = y - lr dg/dy(x, y), without momentum or clipping.
    """

    hvp_mode = "difference"

    def before_lower_step(self, step):
        """Keep the lower loss, and y as it is before the step."""
        self.loss = step.lower
        self.point = [p.detach().clone() for p in step.lower_params]

    def upper_gradient(self, step):
        """Accumulate both terms of the upper gradient."""
        by_lower, direct = step.upper.gradients("lower", "upper")
        (cross,) = self.loss.products(
            by_lower, "upper", at=self.point, mode=self.hvp_mode
        )
        (optimizer,) = step.lower_optimizers
        lr = optimizer.param_groups[0]["lr"]
        step.accumulate_hypergradient(direct, -lr * cross)
