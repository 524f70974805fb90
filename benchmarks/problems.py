"""The problems that ``hypergradients.py`` races on, with the hypergradients
that they should have."""

import contextlib
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.func import functional_call

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients.partition import Partition
from speechbrain_bilevel.utils.hparams import load_hparams

HPARAMS = Path(__file__).parents[1] / "hparams"
UNROLLED = 3  # lower steps
REFERENCES = {
    "exact": "the hypergradient at the lower level's solution, closed form",
    "step": "d f(x, y'(x)) / dx, y' from the last lower step",
    "ahead": "the same, y' from one more lower step",
    "steps": f"the same, y' from the last {UNROLLED} lower steps",
    "unit": "the same, y' from one lower step of size 1",
}


class Problem:
    """A network in two levels, ``upper`` and the rest, with a fixed batch
    (inputs, labels) and an optimizer class for each.

    In a held problem, for measuring errors, all is float64 and x stays where
    it is. ``repeats`` steps are timed at once; the hypergradient is taken at
    step ``settle``, so that strategies with a memory have settled.
    """

    def __init__(self, network, upper, loss, batch, opt_class, upper_opt_class):
        self.network, self.loss, self.batch = network.train(), loss, batch
        self.lower, self.upper = Partition([upper]).split(network)
        self.upper_name = f"network.{upper}"
        self.opt_class, self.upper_opt_class = opt_class, upper_opt_class
        self.lower_lr = opt_class(network.parameters()).defaults["lr"]

    def evaluate(self, level, values=None, twice=False, network=None):
        """A level's loss, at other values of some parameters if given; without
        cuDNN where it is to be differentiated twice."""
        inputs, labels = getattr(self.batch, level)
        network = network or self.network
        cudnn = torch.backends.cudnn.flags(enabled=False)
        with cudnn if twice else contextlib.nullcontext():
            if values is None:
                return self.loss(network(inputs), labels)
            predictions = functional_call(network, values, (inputs,))
            return self.loss(predictions, labels)


class Quadratic(torch.nn.Module):
    """g = y'Ay / 2 - y'Bx and f = (|y - c|^2 + rho |x|^2) / 2, from y*(x)."""

    def __init__(self, size=100, rho=0.01):
        super().__init__()
        shape = 3, size, size
        generator = torch.Generator().manual_seed(0)
        a, b, cx = torch.randn(shape, generator=generator, dtype=torch.float64)
        rotation, _ = torch.linalg.qr(a)
        spectrum = torch.linspace(1, 4, size, dtype=torch.float64)
        self.register_buffer("a", rotation * spectrum @ rotation.T)
        self.register_buffer("b", b / size**0.5)
        self.register_buffer("c", cx[0].clone())
        self.rho = rho
        solution = torch.linalg.solve(self.a, self.b @ cx[1])
        self.x = torch.nn.Parameter(cx[1].clone())
        self.y = torch.nn.Parameter(solution)

    def forward(self, level):
        """The loss of "lower" or "upper"."""
        x, y = self.x, self.y
        if level == "lower":
            return y @ (self.a @ y) / 2 - y @ (self.b @ x)
        return ((y - self.c) ** 2).sum() / 2 + self.rho * (x @ x) / 2


class QuadraticProblem(Problem):
    """See ``Quadratic``; gradient descent on both levels."""

    repeats, settle, step_size, damping = 100, 300, 0.25, 0.0

    def __init__(self, device, held=False):
        # Plain steps run away along x, where g has no minimum: slowly.
        lower, upper = (0.25, 0.0) if held else (1e-4, 1e-4)
        super().__init__(
            Quadratic().to(device, torch.float64 if held else torch.float32),
            "x",
            lambda predictions, labels: predictions,
            LevelBatch(("lower", None), ("upper", None)),
            partial(torch.optim.SGD, lr=lower),
            partial(torch.optim.SGD, lr=upper),
        )

    def reference(self, kind):
        """A value of ``REFERENCES``, in closed form."""
        network = self.network
        residual = (network.y - network.c).detach()
        if kind == "exact":
            response = torch.linalg.solve(network.a, residual)
        else:
            size = 1.0 if kind == "unit" else self.lower_lr
            response = torch.zeros_like(residual)
            for _ in range(UNROLLED if kind == "steps" else 1):
                change = residual - network.a @ response
                response = response + size * change
        return network.rho * network.x.detach() + network.b.T @ response


class SmallV2Problem(Problem):
    """The network of ``train_v2_small_bilevel.yaml`` on noise."""

    repeats, settle, step_size, damping = 1, 4, 1e-3, 1.0
    hparams, clips = "train_v2_small_bilevel.yaml", 16

    def __init__(self, device, held=False):
        overrides = {
            "data_folder": "-",
            "checkpointer": None,
            "network": {"dropout": 0.0},
        }
        with tempfile.TemporaryDirectory() as folder:
            overrides["output_folder"] = folder
            hparams = load_hparams(HPARAMS / self.hparams, overrides)
        dtype = torch.float64 if held else torch.float32
        generator = torch.Generator().manual_seed(0)
        shape = 2, self.clips, hparams["num_samples"]
        noise = 0.1 * torch.randn(shape, generator=generator)
        labels = torch.arange(self.clips, device=device) % 2
        lower, upper = (1e-3, 0.0) if held else (1e-4, 1e-4)
        super().__init__(
            hparams["network"].to(device, dtype),
            "mel_encoder",
            hparams["loss"],
            LevelBatch(*((w, labels) for w in noise.to(device, dtype))),
            partial(hparams["opt_class"], lr=lower),
            partial(hparams["upper_opt_class"], lr=upper),
        )

    def reference(self, kind):
        """A value of ``REFERENCES`` with Adam's step written out, or None;
        leaves the network trained."""
        if kind not in ("step", "ahead"):
            return None
        lower = list(self.lower.values())
        optimizer = self.opt_class(lower)
        for _ in range(self.settle - (kind == "step")):
            self.evaluate("lower").backward(inputs=lower)
            optimizer.step()
            optimizer.zero_grad()
        loss = self.evaluate("lower", twice=True)
        gradients = torch.autograd.grad(loss, lower, create_graph=True)
        after = [
            parameter - adam_update(gradient, optimizer, parameter)
            for parameter, gradient in zip(lower, gradients)
        ]
        loss = self.evaluate("upper", dict(zip(self.lower, after)))
        return flat(torch.autograd.grad(loss, list(self.upper.values())))


class V2Problem(SmallV2Problem):
    """The network of ``train_v2_bilevel.yaml`` on noise."""

    hparams, clips = "train_v2_bilevel.yaml", 8


def adam_update(gradient, optimizer, parameter):
    """What Adam's next step would take off, as a function of the gradient."""
    (group,), state = optimizer.param_groups, optimizer.state[parameter]
    (beta1, beta2), count = group["betas"], state["step"].item() + 1
    mean = beta1 * state["exp_avg"] + (1 - beta1) * gradient
    square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient**2
    mean, square = mean / (1 - beta1**count), square / (1 - beta2**count)
    root = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
    return group["lr"] * mean / (root + group["eps"])


def flat(tensors):
    """Tensors as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


PROBLEMS = {"quadratic": QuadraticProblem, "v2-small": SmallV2Problem}
