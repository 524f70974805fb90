"""Strategies that differentiate the lower level's optimality condition.

Where dg/dy(x, y*(x)) = 0, with H = d2g/dy2 and J = d2g/dxdy at (x, y*),

    d f(x, y*(x)) / dx = df/dx - J w   with   H w = df/dy.
"""

import torch

from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    StatefulHypergradient,
)


class ImplicitDifferentiation(Hypergradient):
    """Solves for w in each step, from scratch.

    The lower level's newest parameters stand for y*(x).
    """

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        lower = step.lower
        vector, direct = step.upper.gradients("lower", "upper")

        def hessian(direction):
            # Exact products share the graph of one gradient.
            return lower.products(
                direction, "lower", mode=self.hvp_mode, keep_graph=True
            )[0]

        solution = self.solve(hessian, vector)
        (implicit,) = lower.products(solution, "upper", mode=self.hvp_mode)
        step.accumulate_hypergradient(direct, -implicit)

    def solve(self, hessian, vector):
        """Return an approximate solution w of ``hessian(w) = vector``.

        All are flat vectors.
        """
        raise NotImplementedError


class NeumannAID(ImplicitDifferentiation):
    """w = eta * sum of (I - eta H)^i df/dy over i = 0 ... terms - 1.

    Converges for 0 < eta < 2 / the largest eigenvalue of H.

    Source: Lorraine et al., Optimizing millions of hyperparameters by implicit
    differentiation, https://arxiv.org/abs/1911.02590

    Arguments
    ---------
    terms : int
        Length of the sum; takes one Hessian product less.
    step_size : float
        eta
    hvp_mode : str
        "reverse", "forward" or "difference"; see ``hypergradients/hvp.py``.
    """

    def __init__(self, terms, step_size, hvp_mode="reverse"):
        self.terms, self.step_size = terms, step_size
        self.hvp_mode = hvp_mode

    def solve(self, hessian, vector):
        """See ``ImplicitDifferentiation.solve``."""
        term = total = vector
        for _ in range(self.terms - 1):
            term = term - self.step_size * hessian(term)
            total = total + term
        return self.step_size * total


class CGAID(ImplicitDifferentiation, StatefulHypergradient):
    """Conjugate gradients on (H + damping I) w = df/dy.

    They stop, with the solution so far, at a direction of negative curvature,
    which a network's lower level may have.

    Sources: Pedregosa, https://arxiv.org/abs/1602.02355; Rajeswaran et al.,
    https://arxiv.org/abs/1909.04630

    Arguments
    ---------
    iterations : int
        Maximum number of Hessian products; one more with a warm start.
    damping : float
        Added to the diagonal of H.
    warm_start : bool
        Whether to start from the last step's solution.
    hvp_mode : str
        See ``NeumannAID``.
    """

    def __init__(
        self, iterations, damping=0.0, warm_start=False, hvp_mode="reverse"
    ):
        self.iterations, self.damping = iterations, damping
        self.warm_start, self.hvp_mode = warm_start, hvp_mode

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        self.state = {"solution": zeros(step)} if self.warm_start else {}

    def solve(self, hessian, vector):
        """See ``ImplicitDifferentiation.solve``."""

        def damped(direction):
            return hessian(direction) + self.damping * direction

        solution, residual = torch.zeros_like(vector), vector
        if self.warm_start:
            solution = self.state["solution"].clone()
            residual = vector - damped(solution)
        direction, square = residual, residual.dot(residual)
        enough = torch.finfo(vector.dtype).eps ** 2 * vector.dot(vector)
        for _ in range(self.iterations):
            if square <= enough:
                break
            image = damped(direction)
            curvature = direction.dot(image)
            if not curvature > 0:
                break
            step = square / curvature
            solution = solution + step * direction
            residual = residual - step * image
            last, square = square, residual.dot(residual)
            direction = residual + square / last * direction
        if self.warm_start and solution.isfinite().all():
            self.state["solution"].copy_(solution)
        return solution


class SOBA(StatefulHypergradient):
    """Moves w along with x and y, one gradient step at a time:

        w <- w - rho ((H + damping I) w - df/dy)

    and uses df/dx - J w with the previous w. All is taken at the same (x, y),
    so the lower gradient and both products share one forward pass.

    Source: Dagreou et al., A framework for bilevel optimization that enables
    stochastic and global variance reduction algorithms,
    https://arxiv.org/abs/2201.13409

    Arguments
    ---------
    step_size : float
        rho; stable below 2 / the largest eigenvalue of H.
    damping : float
        Added to the diagonal of H; keeps w bounded if H is not positive.
    hvp_mode : str
        See ``NeumannAID``.
    """

    def __init__(self, step_size, damping=0.0, hvp_mode="reverse"):
        self.step_size, self.damping = step_size, damping
        self.hvp_mode = hvp_mode

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        self.state = {"solution": zeros(step)}

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        micro_batch.lower.backward(self.hvp_mode)

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        solution = self.state["solution"]
        image, cross = step.lower.products(
            solution, "lower", "upper", mode=self.hvp_mode
        )
        vector, direct = step.upper.gradients("lower", "upper")
        self.terms = direct, -cross
        image = image + self.damping * solution
        change = self.step_size * (vector - image)
        if change.isfinite().all():
            solution += change

    def upper_gradient(self, step):
        """See ``Hypergradient.upper_gradient``."""
        step.accumulate_hypergradient(*self.terms)


def zeros(step):
    """Return a flat zero vector of the size of the lower level."""
    return torch.cat(
        [torch.zeros_like(p).flatten() for p in step.lower_params]
    ).detach()
