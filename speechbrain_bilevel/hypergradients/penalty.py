"""Strategies that need first derivatives only.

g is optimal where its value is that of y*(x); the difference is a penalty.
"""

import torch

from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    StatefulHypergradient,
)
from speechbrain_bilevel.hypergradients.batch_loss import joint_mean
from speechbrain_bilevel.hypergradients.hvp import add_scaled, unflatten
from speechbrain_bilevel.utils.errors import InputError


class F2SA(StatefulHypergradient):
    """Fully first-order: compare y with a copy that is also trained on f.

    The copy z of the lower parameters is trained on g + f / penalty. Where it
    differs from y, which is trained on g, x has an influence:

        df/dx(x, z) + penalty (dg/dx(x, z) - dg/dx(x, y)).

    This is a forward difference with step 1 / penalty, to which its bias is
    proportional. Order 2 is the central difference between two copies, z and
    one trained on g - f / penalty; its bias decreases with the square.

    The copies use the lower level's ``opt_class``, learning rate and clipping.
    The network itself is y.

    Sources: Kwon et al., A fully first-order method for stochastic bilevel
    optimization, https://arxiv.org/abs/2301.10945; Chen et al., on F2SA-p,
    https://arxiv.org/abs/2509.02937

    Arguments
    ---------
    penalty : float
        Weight of g against f. A larger one means less bias and more noise.
    order : int
        1 or 2
    """

    def __init__(self, penalty, order=1):
        if order not in (1, 2):
            raise InputError(f"order: {order}; expected 1 or 2")
        self.penalty, self.order = penalty, order
        self.by_upper = []

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        self.copies, self.state = [], {}
        for sign in (1,) if self.order == 1 else (1, -1):
            copy, optimizers = step.copy_lower()
            self.copies.append((sign, copy, optimizers))
            for name, parameter in zip(step.params["lower"], copy):
                self.state[f"{name} {sign:+d}"] = parameter.data

    def recoverables(self):
        """See ``Hypergradient.recoverables``."""
        optimizers = {
            f"hypergradient_optimizer{sign:+d}_{number}": optimizer
            for sign, _, optimizers in self.copies
            for number, optimizer in enumerate(optimizers)
        }
        return super().recoverables() | optimizers

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        if self.order == 2:
            micro_batch.lower.backward()
            return
        by_lower, by_upper = micro_batch.lower.gradients("lower", "upper")
        self.by_upper.append([by_upper])
        step.accumulate_grad("lower", by_lower / step.accumulation)

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        lower, upper = step.lower, step.upper
        ends = []
        for sign, copy, optimizers in self.copies:
            g_lower, g_upper = lower.gradients("lower", "upper", at=copy)
            f_lower, f_upper = upper.gradients("lower", "upper", at=copy)
            ends.append((f_upper, g_upper))
            gradient = g_lower + sign / self.penalty * f_lower
            self._step_copy(step, copy, optimizers, gradient)
        if self.order == 1:
            ((direct, at_copy),) = ends
            (at_network,) = joint_mean(self.by_upper)
            self.by_upper = []
            self.terms = direct, self.penalty * (at_copy - at_network)
        else:
            (f_plus, g_plus), (f_minus, g_minus) = ends
            direct = (f_plus + f_minus) / 2
            self.terms = direct, self.penalty * (g_plus - g_minus) / 2

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        step.accumulate_hypergradient(*self.terms)

    def end_epoch(self, epoch):
        """See ``Hypergradient.end_epoch``."""
        self.by_upper = []

    def _step_copy(self, step, copy, optimizers, gradient):
        moves = step.moves()
        if not any(moves) or not gradient.isfinite().all():
            return
        for parameter, part, moved in zip(
            copy, unflatten(gradient, copy), moves
        ):
            parameter.grad = part if moved else None
        torch.nn.utils.clip_grad_norm_(copy, step.max_grad_norm)
        for optimizer, of_network in zip(optimizers, step.lower_optimizers):
            for group, its in zip(
                optimizer.param_groups, of_network.param_groups
            ):
                group["lr"] = its["lr"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class BOME(Hypergradient):
    """Both levels descend f, and g as far as a barrier requires.

    With y' from a few plain gradient steps on g that start at y, and the
    penalty q = g(x, y) - g(x, y'), y' held constant, both levels follow

        df + lambda dq,  lambda = max(eta - <df, dq> / ||dq||^2, 0),

    where df and dq are the gradients of f and q by x and y together. The lower
    level's gradient is thus not that of g alone.

    Source: Liu et al., BOME! Bilevel optimization made easy,
    https://arxiv.org/abs/2209.08709

    Arguments
    ---------
    step_size : float
        Size of the plain gradient steps.
    steps : int
        Number of these steps.
    eta : float
        How fast q must decrease.
    """

    def __init__(self, step_size, steps=1, eta=0.5):
        self.step_size, self.steps, self.eta = step_size, steps, eta
        self.by_both = []

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        self.by_both.append(micro_batch.lower.gradients("lower", "upper"))

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        lower = step.lower
        q_lower, g_upper = joint_mean(self.by_both)
        self.by_both = []
        f_lower, f_upper = step.upper.gradients("lower", "upper")
        point, gradient = step.lower_params, q_lower
        for number in range(self.steps):
            if number > 0:
                (gradient,) = lower.gradients("lower", at=point)
            point = add_scaled(point, gradient, -self.step_size)
        (at_point,) = lower.gradients("upper", at=point)
        q_upper = g_upper - at_point
        product = f_lower.dot(q_lower) + f_upper.dot(q_upper)
        square = q_lower.dot(q_lower) + q_upper.dot(q_upper)
        weight = torch.zeros_like(square)
        if square > 0:
            weight = (self.eta - product / square).clamp(min=0)
        step.accumulate_grad("lower", f_lower + weight * q_lower)
        self.terms = f_upper, weight * q_upper

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        step.accumulate_hypergradient(*self.terms)

    def end_epoch(self, epoch):
        """See ``Hypergradient.end_epoch``."""
        self.by_both = []
