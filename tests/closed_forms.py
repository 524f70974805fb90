"""Bi-level problems with known hypergradients, in double precision.

The batches are ignored by the quadratic one, and are the data of the ridge
regression.
"""

import speechbrain as sb
import torch

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio.batch import LevelBatch


class Vector(torch.nn.Module):
    """A vector of parameters."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(values.clone())

    def forward(self):
        return self.values


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Quadratic(BilevelMixin, sb.Brain):
    """g = y'Ay/2 - y'Bx and f = |y - c|^2/2 + rho |x|^2/2, y and x of
    size n.

    y*(x) = A^-1 B x; the eigenvalues of A are between 1 and 3.
    """

    n, rho = 100, 0.5
    _basis = torch.linalg.qr(random(n, n, seed=1))[0]
    A = _basis @ torch.diag(torch.linspace(1, 3, n).double()) @ _basis.T
    B = random(n, n, seed=2) / n**0.5
    c = random(n, seed=3)

    def compute_forward(self, batch, stage):
        return self.modules.y(), self.modules.x()

    def lower_objectives(self, predictions, batch, stage):
        y, x = predictions
        return y @ self.A @ y / 2 - y @ self.B @ x

    def upper_objectives(self, predictions, batch, stage):
        y, x = predictions
        return ((y - self.c) ** 2).sum() / 2 + self.rho * (x**2).sum() / 2

    compute_objectives = upper_objectives

    @classmethod
    def y_star(cls, x):
        return torch.linalg.solve(cls.A, cls.B @ x)

    @classmethod
    def hypergradient_at(cls, x, y):
        """With y in the place of y*(x)."""
        return cls.rho * x + cls.B.T @ torch.linalg.solve(cls.A, y - cls.c)

    @classmethod
    def solution(cls):
        """The x where the hypergradient at y*(x) is zero."""
        response = torch.linalg.solve(cls.A, cls.B)
        left = cls.rho * torch.eye(cls.n, dtype=torch.float64)
        return torch.linalg.solve(
            left + response.T @ response, response.T @ cls.c
        )


class Ridge(BilevelMixin, sb.Brain):
    """Ridge regression with one learned log penalty per weight; f is the error
    on held-out trials. A batch is a tensor [trials, 5], the target last."""

    def compute_forward(self, batch, stage):
        return batch[:, :4] @ self.modules.y() - batch[:, 4]

    def compute_objectives(self, predictions, batch, stage):
        return (predictions**2).mean()

    def lower_objectives(self, predictions, batch, stage):
        penalty = (self.modules.x().exp() * self.modules.y() ** 2).sum()
        return (predictions**2).mean() + penalty

    @staticmethod
    def batch(trials=40, seed=4):
        data = random(2 * trials, 5, seed=seed)
        data[:, 4] += data[:, 0] - data[:, 1]
        return LevelBatch(data[:trials], data[trials:])

    @staticmethod
    def y_star(x, trials):
        inputs, targets = trials[:, :4], trials[:, 4]
        left = inputs.T @ inputs / len(trials) + torch.diag(x.exp())
        return torch.linalg.solve(left, inputs.T @ targets / len(trials))

    @classmethod
    def hypergradient(cls, x, batch):
        """By automatic differentiation of the closed solution."""
        x = x.clone().requires_grad_()
        y = cls.y_star(x, batch.lower)
        errors = batch.upper[:, :4] @ y - batch.upper[:, 4]
        return torch.autograd.grad((errors**2).mean(), x)[0]


def solver(cls, strategy, y, x, opt_class=None, checkpointer=None, **hparams):
    """A Brain with y and x as its levels."""
    plain = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    run_opts = {"device": "cpu", "max_grad_norm": 1e9, "noprogressbar": True}
    run_opts |= hparams.pop("run_opts", {})
    return cls(
        modules={"y": Vector(y), "x": Vector(x)},
        opt_class=opt_class or plain,
        hparams={
            "hypergradient": strategy,
            "upper": ["x"],
            "upper_opt_class": plain,
            **hparams,
        },
        run_opts=run_opts,
        checkpointer=checkpointer,
    )


def start(brain):
    """Makes a Brain ready for ``fit_batch``."""
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.nonfinite_count = 0
    return brain


def upper_gradient(brain, batch):
    """The hypergradient of one ``fit_batch``, None where there is no upper
    step; the upper level stays."""
    found = []
    apply_gradients = brain.apply_gradients

    def capture(level):
        if level == "upper":
            for parameter in brain.bilevel_step.params["upper"].values():
                found.append(parameter.grad.clone())
                parameter.grad = None
        apply_gradients(level)

    brain.apply_gradients = capture
    brain.step += 1
    brain.fit_batch(batch)
    brain.apply_gradients = apply_gradients
    if found:
        return torch.cat([gradient.flatten() for gradient in found])
    return None


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()
