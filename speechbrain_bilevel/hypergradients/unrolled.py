"""Strategies that differentiate the steps of the lower level."""

from collections import deque

import torch

from speechbrain_bilevel.hypergradients.base import Hypergradient
from speechbrain_bilevel.hypergradients.differentiable_optim import (
    LowerStep,
    why_not_differentiable,
)
from speechbrain_bilevel.utils.errors import InputError


class TruncatedUnrolled(Hypergradient):
    """Differentiates through the last K steps of the lower level.

    With y_0 fixed and y_{k+1} = S(y_k, dg/dy(x, y_k)), where S is the lower
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
    hvp_mode : str
        How second derivatives are computed: "forward", which needs about twice
        the memory of plain training, "reverse", faster with several times the
        memory, or "difference"; see ``hypergradients/hvp.py``.
    """

    differentiates_step = True

    def __init__(self, steps, hvp_mode="forward"):
        self.steps, self.hvp_mode = steps, hvp_mode
        self.recorded = deque(maxlen=steps)
        self.point = None

    def unsupported(self, step):
        """See ``Hypergradient.unsupported``."""
        found = []
        for name, optimizer in step.named_optimizers.items():
            reason = why_not_differentiable(optimizer)
            if reason:
                found.append(f"{name}: {reason}")
        if self.steps < 1:
            found.append(f"steps: {self.steps}; expected 1 or more")
        if self.steps > step.lower_steps:
            found.append(
                f"steps: {self.steps} lower steps cannot be differentiated "
                f"where lower_steps * upper_every = {step.lower_steps} are "
                "made; raise one of these"
            )
        return found

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        if self.point is None:
            # The optimizer writes into the network's own tensors.
            self.point = clone_parameters(step)
        micro_batch.lower.backward(self.hvp_mode, self.point)

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        point, self.point = self.point, None
        gradient = step.lower_gradient()
        # A step that will be skipped depends on nothing.
        if step.active_optimizers and gradient.isfinite().all():
            self.recorded.append(LowerStep(step, gradient, point))

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        vector, direct = step.upper.gradients("lower", "upper")
        implicit, by_state = torch.zeros_like(direct), None
        while len(self.recorded) > 1:
            last = self.recorded.pop()
            by_gradient, vector, by_state = last.vjp(vector, by_state)
            by_upper, by_lower = last.loss.products(
                by_gradient, "upper", "lower", at=last.point, mode=self.hvp_mode
            )
            implicit, vector = implicit + by_upper, vector + by_lower
        if self.recorded:
            first = self.recorded.pop()
            (by_upper,) = first.loss.products(
                first.vjp_wrt_gradient(vector, by_state),
                "upper",
                at=first.point,
                mode=self.hvp_mode,
            )
            implicit = implicit + by_upper
        step.accumulate_hypergradient(direct, implicit)

    def end_epoch(self, epoch):
        """See ``Hypergradient.end_epoch``."""
        self.recorded.clear()
        self.point = None


class OneStepUnrolled(TruncatedUnrolled):
    """Differentiates through one step of the lower level.

    With y' = S(y, dg/dy(x, y)), S the lower optimizer's step,

        d f(x, y') / dx = df/dx + d2g/dxdy (dS/dgradient)^T df/dy(x, y').

    For the step that was made, this is T1-T2; for a step ahead, which costs one
    more lower gradient and is discarded, it is DARTS.

    Sources: Luketina et al. (T1-T2), https://arxiv.org/abs/1511.06727;
    Liu et al. (DARTS), https://arxiv.org/abs/1806.09055

    Arguments
    ---------
    evaluate : str
        "at_step" or "ahead"
    hvp_mode : str
        See ``TruncatedUnrolled``.
    """

    def __init__(self, evaluate="at_step", hvp_mode="forward"):
        super().__init__(1, hvp_mode)
        if evaluate not in ("at_step", "ahead"):
            raise InputError(
                f'evaluate: "{evaluate}"; expected "at_step" or "ahead"'
            )
        self.ahead = evaluate == "ahead"

    def repeats(self, step):
        """See ``Hypergradient.repeats``."""
        keeps_graph = self.hvp_mode == "reverse" and step.accumulation == 1
        return self.ahead or not keeps_graph

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        if self.ahead:
            micro_batch.lower.backward()
        else:
            super().lower_gradient(step, micro_batch)

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        if not self.ahead:
            super().before_lower_step(step)

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        if not self.ahead:
            super().upper_gradient(step)
            return
        if not step.active_optimizers:
            (direct,) = step.upper.gradients("upper")
            step.accumulate_hypergradient(direct, torch.zeros_like(direct))
            return
        keep = self.hvp_mode == "reverse" and step.accumulation == 1
        (gradient,) = step.lower.gradients("lower", keep_graph=keep)
        ahead = LowerStep(step, gradient, clone_parameters(step))
        vector, direct = step.upper.gradients(
            "lower", "upper", at=ahead.result()
        )
        (implicit,) = step.lower.products(
            ahead.vjp_wrt_gradient(vector), "upper", mode=self.hvp_mode
        )
        step.accumulate_hypergradient(direct, implicit)


class SAMA(TruncatedUnrolled):
    """Implicit differentiation with the identity instead of the Hessian.

    With the lower optimizer's preconditioning and a central difference, it is

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

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        vector, direct = step.upper.gradients("lower", "upper")
        implicit = torch.zeros_like(direct)
        if self.recorded:
            last = self.recorded.pop()
            (implicit,) = last.loss.products(
                last.vjp_wrt_gradient(vector),
                "upper",
                mode="difference",
                radius=self.radius,
            )
        step.accumulate_hypergradient(direct, implicit)


def clone_parameters(step):
    """Return copies of the lower parameters."""
    return [p.detach().clone() for p in step.lower_params]
