"""Strategies that differentiate the lower level's optimality condition.

Where dg/dy(x, y*(x)) = 0, with H = d2g/dy2 and J = d2g/dxdy at (x, y*),

    d f(x, y*(x)) / dx = df/dx - J w   with   H w = df/dy.
"""

import torch

from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    StatefulHypergradient,
)
from speechbrain_bilevel.hypergradients.hvp import flat


class ImplicitDifferentiation(Hypergradient):
    """Solves for w anew in each step, at the lower level's newest parameters,
    which stand for y*(x)."""

    def upper_gradient(self, brain):
        """See ``Hypergradient.upper_gradient``."""
        lower, upper = brain.mean_loss("lower"), brain.mean_loss("upper")
        vector, direct = upper.gradients("lower", "upper")

        # Exact products share the graph of one gradient.
        options = {"method": self.products}
        if self.products == "reverse":
            options["keep_graph"] = True

        def hessian(direction):
            return lower.products(direction, "lower", **options)[0]

        solution = self.solve(hessian, vector)
        (implicit,) = lower.products(solution, "upper", method=self.products)
        brain.deposit_upper(direct, -implicit)

    def solve(self, hessian, vector):
        """An approximate solution of ``hessian(w) = vector``.

        Arguments
        ---------
        hessian : callable
            Takes and returns a flat vector.
        vector : torch.Tensor

        Returns
        -------
        torch.Tensor
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
        Length of the sum; one Hessian product less.
    step_size : float
        eta
    products : str
        "reverse", "forward" or "difference"; see
        ``hypergradients/products.py``.
    """

    def __init__(self, terms, step_size, products="reverse"):
        self.terms, self.step_size = terms, step_size
        self.products = products

    def solve(self, hessian, vector):
        """See ``ImplicitDifferentiation.solve``."""
        term = total = vector
        for _ in range(self.terms - 1):
            term = term - self.step_size * hessian(term)
            total = total + term
        return self.step_size * total


class CGAID(ImplicitDifferentiation, StatefulHypergradient):
    """Conjugate gradients on (H + damping I) w = df/dy.

    Stops before a direction of negative curvature, which a network's lower
    level may have, with what was reached so far.

    Sources: Pedregosa, https://arxiv.org/abs/1602.02355; Rajeswaran et al.,
    https://arxiv.org/abs/1909.04630

    Arguments
    ---------
    iterations : int
        At most so many Hessian products, one more with a warm start.
    damping : float
        Added to the diagonal of H.
    warm_start : bool
        Whether to start at the last step's solution.
    products : str
        "reverse", "forward" or "difference"; see
        ``hypergradients/products.py``.
    """

    def __init__(
        self, iterations, damping=0.0, warm_start=False, products="reverse"
    ):
        self.iterations, self.damping = iterations, damping
        self.warm_start, self.products = warm_start, products

    def setup(self, brain):
        """See ``Hypergradient.setup``."""
        if self.warm_start:
            self.state = {"solution": zeros(brain)}
            super().setup(brain)

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

    and takes df/dx - J w with the w from before; everything at the same (x, y),
    so that the lower gradient and both products share one forward pass.

    Source: Dagreou et al., A framework for bilevel optimization that enables
    stochastic and global variance reduction algorithms,
    https://arxiv.org/abs/2201.13409

    Arguments
    ---------
    step_size : float
        rho; stable below 2 / the largest eigenvalue of H.
    damping : float
        Added to the diagonal of H; keeps w bounded where H is not positive.
    products : str
        "reverse", "forward" or "difference"; see
        ``hypergradients/products.py``.
    """

    def __init__(self, step_size, damping=0.0, products="reverse"):
        self.step_size, self.damping = step_size, damping
        self.products = products

    def setup(self, brain):
        """See ``Hypergradient.setup``."""
        self.state = {"solution": zeros(brain)}
        super().setup(brain)

    def lower_gradient(self, brain, part):
        """See ``Hypergradient.lower_gradient``."""
        del brain
        return part.lower.backward_for(self.products)

    def before_lower_step(self, brain):
        """See ``Hypergradient.before_lower_step``."""
        solution = self.state["solution"]
        image, cross = brain.mean_loss("lower").products(
            solution, "lower", "upper", method=self.products
        )
        vector, direct = brain.mean_loss("upper").gradients("lower", "upper")
        self.parts = direct, -cross
        image = image + self.damping * solution
        change = self.step_size * (vector - image)
        if change.isfinite().all():
            solution += change

    def upper_gradient(self, brain):
        """See ``Hypergradient.upper_gradient``."""
        brain.deposit_upper(*self.parts)


def zeros(brain):
    """A zero vector of the size of the lower level."""
    parameters = list(brain.levels["lower"].values())
    return flat([None] * len(parameters), parameters)
