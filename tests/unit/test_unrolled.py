"""Unrolled hypergradients against differences of the whole procedure and
against other libraries; differentiable steps against torch's."""

import types

import pytest
import torch
from closed_forms import (
    Ridge,
    Vector,
    random,
    relative_error,
    solver,
    start,
    upper_gradient,
)

from speechbrain_bilevel.hypergradients import (
    OneStepUnrolled,
    TruncatedUnrolled,
)
from speechbrain_bilevel.hypergradients.differentiable_optim import (
    UPDATES,
    LowerStep,
)
from speechbrain_bilevel.utils.errors import InputError

X = torch.tensor([-1.0, -2.0, -3.0, 0.0], dtype=torch.float64)
BATCHES = [Ridge.batch(seed=4), Ridge.batch(seed=6)]
OPTIMIZERS = {
    "SGD": dict(lr=0.1),
    "SGD momentum": dict(lr=0.05, momentum=0.9, weight_decay=0.1),
    "SGD nesterov": dict(lr=0.05, momentum=0.8, nesterov=True),
    "SGD dampening": dict(lr=0.05, momentum=0.8, dampening=0.3),
    "Adam": dict(lr=0.05, betas=(0.8, 0.9)),
    "Adam weight_decay": dict(lr=0.05, weight_decay=0.1, eps=1e-3),
    "AdamW": dict(lr=0.05, weight_decay=0.1),
}


def make(name):
    cls = getattr(torch.optim, name.split()[0])
    return lambda parameters: cls(parameters, **OPTIMIZERS[name])


def run(strategy, name, x, limit=1e9, **schedule):
    """Trains with a fixed x, then up to the next hypergradient with another:
    the hypergradient, and the upper loss where the lower steps ended."""
    brain = start(
        solver(
            Ridge,
            strategy,
            random(4, seed=5),
            X,
            make(name),
            run_opts={"max_grad_norm": limit},
            **schedule,
        )
    )
    for values in (X, X, x):
        brain.modules.x.values.data.copy_(values)
        for batch in BATCHES[: brain.upper_every]:
            found = upper_gradient(brain, batch)
    errors = batch.upper[:, :4] @ brain.modules.y.values - batch.upper[:, 4]
    return found, (errors**2).mean().item()


def differences(step=1e-5, **options):
    """Central differences of the upper loss by each element of x."""
    units = step * torch.eye(4, dtype=torch.float64)
    return torch.tensor(
        [
            (run(x=X + unit, **options)[1] - run(x=X - unit, **options)[1])
            / (2 * step)
            for unit in units
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("limit", [1e9, 0.3], ids=["", "clipped"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "steps, hvp_mode", [(1, "reverse"), (4, "reverse"), (4, "forward")]
)
def test_steps_of_the_real_optimizer(steps, hvp_mode, name, limit):
    schedule = dict(lower_steps=2, upper_every=2) if steps == 4 else {}
    options = dict(name=name, limit=limit, **schedule)
    strategy = TruncatedUnrolled(steps, hvp_mode)
    found, _ = run(strategy, x=X, **options)
    expected = differences(strategy=TruncatedUnrolled(steps), **options)
    assert relative_error(found, expected) < 1e-5


def test_the_ends_of_a_longer_procedure():
    """The last of three steps only: the first two do not follow x."""
    found, _ = run(TruncatedUnrolled(1), "Adam", X, lower_steps=3)
    all_of_it, _ = run(TruncatedUnrolled(3), "Adam", X, lower_steps=3)
    one, _ = run(OneStepUnrolled(), "Adam", X, lower_steps=3)
    assert relative_error(found, one) < 1e-12
    assert relative_error(found, all_of_it) > 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_ahead_is_that_of_the_optimizer(name):
    """DARTS' point is where T1-T2 stands one step later, on one batch."""
    ahead, _ = run(OneStepUnrolled("ahead"), name, X)
    y = random(4, seed=5)
    brain = start(solver(Ridge, OneStepUnrolled(), y, X, make(name)))
    for _ in range(4):
        later = upper_gradient(brain, BATCHES[0])
    assert relative_error(ahead, later) < 1e-10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_differentiable_steps_equal_those_of_torch(name):
    parameter = torch.nn.Parameter(random(5, seed=1))
    ours, state = parameter.detach().clone(), {}
    optimizer = make(name)([parameter])
    for seed in range(4):
        gradient = random(5, seed=seed)
        # An element that never had a gradient.
        gradient[0] = 0
        parameter.grad = gradient.clone()
        optimizer.step()
        ours, state = UPDATES[type(optimizer)](
            ours, gradient, state, optimizer.param_groups[0]
        )
        if "Adam" in name:
            state["step"] = seed + 1
        assert (ours - parameter.detach()).abs().max() < 1e-14


@pytest.mark.parametrize(
    "opt_class, message",
    [
        (torch.optim.RMSprop, "RMSprop has no differentiable form"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "Adam with amsgrad"),
        (lambda p: torch.optim.SGD(p, 0.1, maximize=True), "SGD with maximize"),
    ],
)
def test_other_optimizers_are_refused(opt_class, message):
    brain = solver(Ridge, OneStepUnrolled(), X, X, opt_class)
    with pytest.raises(InputError, match=f"lower: {message}"):
        start(brain)


def test_more_steps_than_are_made_are_refused():
    brain = solver(Ridge, TruncatedUnrolled(5), X, X, lower_steps=2)
    with pytest.raises(InputError, match="lower_steps . upper_every = 2 are"):
        start(brain)


def inner_loss(y, x):
    lower = BATCHES[0].lower
    errors = lower[:, :4] @ y - lower[:, 4]
    return (errors**2).mean() + (x.exp() * y**2).sum()


def outer_loss(y):
    upper = BATCHES[0].upper
    return ((upper[:, :4] @ y - upper[:, 4]) ** 2).mean()


# Others add something under Adam's root; the differences above have no such
# freedom.
LIBRARIES = pytest.mark.parametrize(
    "name, tolerance",
    [("SGD", 1e-12), ("SGD momentum", 1e-12), ("Adam", 1e-5)],
)


@LIBRARIES
def test_against_torchopt(name, tolerance):
    torchopt = pytest.importorskip("torchopt")
    meta = getattr(torchopt, f"Meta{name.split()[0]}")
    y = Vector(random(4, seed=5))
    x = X.clone().requires_grad_()
    optimizer = meta(y, **OPTIMIZERS[name])
    for _ in range(3):
        optimizer.step(inner_loss(y(), x))
    (expected,) = torch.autograd.grad(outer_loss(y()), x)
    assert relative_error(first(name), expected) < tolerance


@LIBRARIES
def test_against_higher(name, tolerance):
    higher = pytest.importorskip("higher")
    y = Vector(random(4, seed=5))
    x = X.clone().requires_grad_()
    optimizer = make(name)(y.parameters())
    with higher.innerloop_ctx(y, optimizer) as (fast, steps):
        for _ in range(3):
            steps.step(inner_loss(fast(), x))
        (expected,) = torch.autograd.grad(outer_loss(fast()), x)
    assert relative_error(first(name), expected) < tolerance


def first(name):
    """The hypergradient of three steps from the beginning."""
    strategy = TruncatedUnrolled(3)
    y = random(4, seed=5)
    brain = start(solver(Ridge, strategy, y, X, make(name), lower_steps=3))
    return upper_gradient(brain, BATCHES[0])


def test_parameters_in_groups_of_their_own():
    """Other rates, and a parameter that has made fewer steps."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(random(3, seed=s)) for s in (1, 2, 3)]
    groups = [
        {"params": [parameters[2]], "lr": 0.3},
        {"params": parameters[:2], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    step = types.SimpleNamespace(
        lower=None,
        lower_params=parameters,
        active_optimizers=[optimizer],
        moves=lambda: [True, True, True],
        max_grad_norm=2.0,
    )
    for used in (3, 2, 3):
        for parameter in parameters[:used]:
            parameter.grad = random(3, seed=used)
        last = LowerStep(
            step,
            torch.cat([p.grad for p in parameters]),
            [p.detach().clone() for p in parameters],
        )
        torch.nn.utils.clip_grad_norm_(parameters, 2.0)
        if used == 2:
            parameters[2].grad = None
        optimizer.step()
        if used == 2:
            parameters[2].grad = random(3, seed=2)
    assert len(last.segments) == 2
    for ours, theirs in zip(last.result(), parameters):
        assert (ours - theirs.detach()).abs().max() < 1e-14
