"""Strategies that differentiate the steps of the lower level."""

from collections import deque

import torch

from speechbrain_bilevel.hypergradients.base import Hypergradient
from speechbrain_bilevel.hypergradients.differentiable_optim import (
    LowerStep,
    undifferentiable,
)
from speechbrain_bilevel.hypergradients.hvp import flat
from speechbrain_bilevel.utils.distributed import average
from speechbrain_bilevel.utils.errors import InputError


class TruncatedUnrolled(Hypergradient):
    """Differentiates through the last K steps of the lower level.

    With y_0 held fixed and y_{k+1} = S(y_k, dg/dy(x, y_k)), S the lower
    optimizer's step with clipping and all of its state, the hypergradient is
    d f(x, y_K(x)) / dx, computed backward from step to step.

    x must not change between these steps, so K is at most
    ``lower_steps * upper_every``.

    Source: Shaban et al., Truncated back-propagation for bilevel optimization,
    https://arxiv.org/abs/1810.10667

    Arguments
    ---------
    steps : int
        K.
    products : str
        How second derivatives are computed: "reverse", "forward" or
        "difference"; see ``hypergradients/products.py``.
    """

    def __init__(self, steps, products="reverse"):
        self.steps, self.products = steps, products
        self.recorded = deque(maxlen=steps)
        self.point = None

    def problems(self, brain):
        """See ``Hypergradient.problems``."""
        found = []
        reason = undifferentiable(brain.optimizers_dict["lower"])
        if reason:
            found.append(f"opt_class: {reason}")
        if self.steps < 1:
            found.append(f"steps: {self.steps}; expected 1 or more")
        if self.steps > brain.lower_steps * brain.upper_every:
            found.append(
                f"steps: {self.steps} lower steps cannot be differentiated "
                f"where lower_steps * upper_every = {brain.lower_steps} * "
                f"{brain.upper_every} are made; raise one of these"
            )
        return found

    def lower_gradient(self, brain, part):
        """See ``Hypergradient.lower_gradient``."""
        if self.point is None:
            # The optimizer writes into the network's own tensors.
            self.point = copied(brain)
        return part.lower.backward_for(self.products, self.point)

    def before_lower_step(self, brain):
        """See ``Hypergradient.before_lower_step``."""
        point, self.point = self.point, None
        gradient = lower_gradient(brain)
        # A step that will be left out does not depend on anything.
        if brain.is_active("lower") and gradient.isfinite().all():
            loss = brain.mean_loss("lower")
            self.recorded.append(LowerStep(brain, loss, gradient, point))

    def upper_gradient(self, brain):
        """See ``Hypergradient.upper_gradient``."""
        loss = brain.mean_loss("upper")
        vector, direct = loss.gradients("lower", "upper")
        implicit, states = torch.zeros_like(direct), None
        options = {"method": self.products}
        while len(self.recorded) > 1:
            step = self.recorded.pop()
            by_gradient, vector, states = step.pull_back(vector, states)
            by_upper, by_lower = step.loss.products(
                by_gradient, "upper", "lower", at=step.point, **options
            )
            implicit, vector = implicit + by_upper, vector + by_lower
        if self.recorded:
            step = self.recorded.pop()
            by_gradient = step.by_gradient(vector, states)
            (by_upper,) = step.loss.products(
                by_gradient, "upper", at=step.point, **options
            )
            implicit = implicit + by_upper
        brain.deposit_upper(direct, implicit)

    def end_epoch(self, brain, epoch):
        """See ``Hypergradient.end_epoch``."""
        self.recorded.clear()
        self.point = None


class OneStepUnrolled(TruncatedUnrolled):
    """Differentiates through one step of the lower level.

    With y' = S(y, dg/dy(x, y)), S the lower optimizer's step,

        d f(x, y') / dx = df/dx + d2g/dxdy (dS/dgradient)^T df/dy(x, y').

    Evaluated at the step that was made, this is T1-T2; at a step ahead, which
    costs one more lower gradient and is not kept, it is DARTS.

    Sources: Luketina et al. (T1-T2), https://arxiv.org/abs/1511.06727;
    Liu et al. (DARTS), https://arxiv.org/abs/1806.09055

    Arguments
    ---------
    evaluate : str
        "at_step" or "ahead"
    products : str
        "reverse", "forward" or "difference"; see
        ``hypergradients/products.py``.
    """

    def __init__(self, evaluate="at_step", products="reverse"):
        super().__init__(1, products)
        if evaluate not in ("at_step", "ahead"):
            raise InputError(
                f'evaluate: "{evaluate}"; expected "at_step" or "ahead"'
            )
        self.ahead = evaluate == "ahead"

    def lower_gradient(self, brain, part):
        """See ``Hypergradient.lower_gradient``."""
        if self.ahead:
            return part.lower.backward()
        return super().lower_gradient(brain, part)

    def before_lower_step(self, brain):
        """See ``Hypergradient.before_lower_step``."""
        if not self.ahead:
            super().before_lower_step(brain)

    def upper_gradient(self, brain):
        """See ``Hypergradient.upper_gradient``."""
        if not self.ahead:
            super().upper_gradient(brain)
            return
        lower, upper = brain.mean_loss("lower"), brain.mean_loss("upper")
        if not brain.is_active("lower"):
            (direct,) = upper.gradients("upper")
            brain.deposit_upper(direct, torch.zeros_like(direct))
            return
        keep = self.products == "reverse" and len(brain.parts) == 1
        (gradient,) = lower.gradients("lower", keep_graph=keep)
        step = LowerStep(brain, lower, gradient, copied(brain))
        vector, direct = upper.gradients("lower", "upper", at=step.result())
        (implicit,) = lower.products(
            step.by_gradient(vector), "upper", method=self.products
        )
        brain.deposit_upper(direct, implicit)


class SAMA(TruncatedUnrolled):
    """Implicit differentiation with the identity for the Hessian's part, the
    lower optimizer's preconditioning, and a central difference:

        df/dx + d2g/dxdy (dS/dgradient)^T df/dy,

    like one unrolled step, but at the lower level's newest parameters.

    Source: Choe et al., Making scalable meta learning practical,
    https://arxiv.org/abs/2310.05674

    Arguments
    ---------
    radius : float
        Length of the difference to either side.
    """

    def __init__(self, radius=0.01):
        super().__init__(1, "difference")
        self.radius = radius

    def upper_gradient(self, brain):
        """See ``Hypergradient.upper_gradient``."""
        loss = brain.mean_loss("upper")
        vector, direct = loss.gradients("lower", "upper")
        implicit = torch.zeros_like(direct)
        if self.recorded:
            step = self.recorded.pop()
            (implicit,) = step.loss.products(
                step.by_gradient(vector),
                "upper",
                method="difference",
                radius=self.radius,
            )
        brain.deposit_upper(direct, implicit)


def copied(brain):
    """Copies of the lower parameters."""
    return [p.detach().clone() for p in brain.levels["lower"].values()]


def lower_gradient(brain):
    """The lower gradient of the whole step: the parameters' ``.grad``, averaged
    over processes and without the scale of AMP."""
    parameters = list(brain.levels["lower"].values())
    vector = flat([p.grad for p in parameters], parameters)
    return average([vector / brain.scaler.get_scale()])[0]
