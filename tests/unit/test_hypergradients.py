"""Hypergradients against closed forms."""

import itertools

import pytest
import torch
from closed_forms import (
    Quadratic,
    Ridge,
    random,
    relative_error,
    solver,
    start,
    upper_gradient,
)

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import (
    BOME,
    CGAID,
    F2SA,
    MLDG,
    SAM,
    SAMA,
    SOBA,
    Alternating,
    NeumannAID,
    OneStepUnrolled,
)

NOTHING = LevelBatch(torch.zeros(1), torch.zeros(1))
X = random(Quadratic.n, seed=9)
Y = Quadratic.y_star(X)
WAYS = ["reverse", "forward", "difference"]


def on_quadratic(strategy, y=Y, **options):
    brain = start(solver(Quadratic, strategy, y, X, **options))
    return upper_gradient(brain, NOTHING)


@pytest.mark.parametrize("hvp_mode", WAYS)
def test_conjugate_gradients_give_the_exact_hypergradient(hvp_mode):
    found = on_quadratic(CGAID(100, hvp_mode=hvp_mode))
    assert relative_error(found, Quadratic.hypergradient_at(X, Y)) < 1e-8


def test_conjugate_gradients_stop_after_their_iterations():
    errors = [
        relative_error(on_quadratic(CGAID(n)), Quadratic.hypergradient_at(X, Y))
        for n in (1, 3, 6)
    ]
    # The bound for a condition number of 3.
    assert all(e < 4 * 0.268**n for e, n in zip(errors, (1, 3, 6)))
    assert errors[0] > 30 * errors[2]


def test_damping_is_added_to_the_hessian():
    damped = Quadratic.A + 0.5 * torch.eye(Quadratic.n)
    expected = Quadratic.rho * X + Quadratic.B.T @ torch.linalg.solve(
        damped, Y - Quadratic.c
    )
    found = on_quadratic(CGAID(100, damping=0.5))
    assert relative_error(found, expected) < 1e-8


def test_a_warm_start_goes_on_where_the_last_step_stopped():
    brain = start(solver(Quadratic, CGAID(2, warm_start=True), Y, X))
    exact = Quadratic.hypergradient_at(X, Y)
    errors = [
        relative_error(upper_gradient(brain, NOTHING), exact) for _ in range(6)
    ]
    assert all(new < old / 3 for old, new in itertools.pairwise(errors))


def test_conjugate_gradients_stop_before_negative_curvature():
    class Saddle(Quadratic):
        A = torch.diag(torch.tensor([2.0] * 99 + [-1.0], dtype=torch.float64))

    y = random(Quadratic.n, seed=5)
    brain = start(solver(Saddle, CGAID(100), y, X))
    state = y - 0.1 * (Saddle.A @ y - Saddle.B @ X)
    found = upper_gradient(brain, NOTHING) - Quadratic.rho * X
    vector = state - Saddle.c
    # One step along the first direction, then the curvature turns negative.
    first = vector.dot(vector) / vector.dot(Saddle.A @ vector) * vector
    residual = vector - Saddle.A @ first
    second = residual + residual.dot(residual) / vector.dot(vector) * vector
    assert second.dot(Saddle.A @ second) < 0 < vector.dot(Saddle.A @ vector)
    assert relative_error(found, Saddle.B.T @ first) < 1e-10


@pytest.mark.parametrize("hvp_mode", WAYS)
@pytest.mark.parametrize("terms", [1, 2, 5])
def test_neumann_is_its_own_truncated_series(terms, hvp_mode):
    one = torch.eye(Quadratic.n, dtype=torch.float64) - 0.4 * Quadratic.A
    series = sum(0.4 * torch.linalg.matrix_power(one, i) for i in range(terms))
    expected = Quadratic.rho * X + Quadratic.B.T @ series @ (Y - Quadratic.c)
    found = on_quadratic(NeumannAID(terms, 0.4, hvp_mode=hvp_mode))
    assert relative_error(found, expected) < 1e-10


@pytest.mark.parametrize("hvp_mode", WAYS)
@pytest.mark.parametrize("evaluate", ["at_step", "ahead"])
def test_one_unrolled_step(evaluate, hvp_mode):
    y = random(Quadratic.n, seed=5)

    def descend(y):
        return y - 0.1 * (Quadratic.A @ y - Quadratic.B @ X)

    after = descend(y) if evaluate == "at_step" else descend(descend(y))
    expected = Quadratic.rho * X + 0.1 * Quadratic.B.T @ (after - Quadratic.c)
    found = on_quadratic(OneStepUnrolled(evaluate, hvp_mode), y=y)
    assert relative_error(found, expected) < 1e-10


def test_sama_on_the_quadratic():
    expected = Quadratic.rho * X + 0.1 * Quadratic.B.T @ (Y - Quadratic.c)
    assert relative_error(on_quadratic(SAMA()), expected) < 1e-10


def test_mldg_learns_all_parameters_on_both_losses():
    y = random(Quadratic.n, seed=5)
    brain = start(solver(Quadratic, MLDG(step_size=0.2, weight=0.5), y, X))
    brain.fit_batch(NOTHING)
    A, B, c = Quadratic.A, Quadratic.B, Quadratic.c
    by_y, by_x = A @ y - B @ X, -B.T @ y
    there_y, there_x = y - 0.2 * by_y - c, Quadratic.rho * (X - 0.2 * by_x)
    for module, before, direction in (
        (brain.modules.y, y, by_y + 0.5 * there_y),
        (brain.modules.x, X, by_x + 0.5 * there_x),
    ):
        expected = before - 0.1 * direction
        assert relative_error(module.values.detach(), expected) < 1e-12


def test_sam_learns_all_parameters_at_the_worst_point_nearby():
    y = random(Quadratic.n, seed=5)
    brain = start(solver(Quadratic, SAM(radius=0.3), y, X))
    brain.fit_batch(NOTHING)
    A, B = Quadratic.A, Quadratic.B

    def slope(y, x):
        return A @ y - B @ x, -B.T @ y

    by_y, by_x = slope(y, X)
    step = 0.3 / torch.cat([by_y, by_x]).norm()
    there_y, there_x = slope(y + step * by_y, X + step * by_x)
    for module, before, direction in (
        (brain.modules.y, y, there_y),
        (brain.modules.x, X, there_x),
    ):
        expected = before - 0.1 * direction
        assert relative_error(module.values.detach(), expected) < 1e-12


def solved(strategy, steps, rate=0.3, **options):
    """Where the upper level arrives from 0; its distance to the solution."""
    zero = torch.zeros(Quadratic.n, dtype=torch.float64)
    brain = start(
        solver(
            Quadratic,
            strategy,
            zero,
            zero,
            opt_class=lambda p: torch.optim.SGD(p, lr=rate),
            **options,
        )
    )
    for _ in range(steps):
        brain.step += 1
        brain.fit_batch(NOTHING)
    found = brain.modules.x.values.detach()
    return relative_error(found, Quadratic.solution())


def test_soba_converges_to_the_solution():
    assert solved(SOBA(0.3), 400) < 1e-8


def test_alternating_does_not():
    assert solved(Alternating(), 400) > 0.5


@pytest.mark.parametrize("order, factor", [(1, 10), (2, 100)])
def test_f2sa_converges_up_to_its_bias(order, factor):
    errors = [solved(F2SA(penalty, order), 400) for penalty in (30.0, 300.0)]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(factor, rel=0.1)


def test_bome_converges_as_its_steps_shrink():
    def decay(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.994)

    errors = [
        solved(
            BOME(step_size=0.5, steps=10),
            steps,
            rate=0.1,
            lr_schedule=decay,
            upper_lr_schedule=decay,
        )
        for steps in (100, 700)
    ]
    assert errors[1] < 0.01 < errors[0] / 2


def test_bome_takes_the_direction_of_its_paper():
    y, (A, B, c) = random(100, seed=5), (Quadratic.A, Quadratic.B, Quadratic.c)
    brain = start(solver(Quadratic, BOME(0.2, steps=2, eta=0.7), y, X))
    found = upper_gradient(brain, NOTHING)
    inner = y
    for _ in range(2):
        inner = inner - 0.2 * (A @ inner - B @ X)
    f = torch.cat([y - c, Quadratic.rho * X])
    q = torch.cat([A @ y - B @ X, -B.T @ (y - inner)])
    both = f + max(0.7 - f @ q / (q @ q), 0) * q
    assert relative_error(found, both[100:]) < 1e-12
    moved = brain.modules.y.values.detach()
    assert relative_error(moved, y - 0.1 * both[:100]) < 1e-12


@pytest.mark.parametrize(
    "strategy",
    [CGAID(10), CGAID(10, hvp_mode="forward"), NeumannAID(400, 0.4)],
)
def test_learned_penalties_of_ridge_regression(strategy):
    batch = Ridge.batch()
    x = torch.tensor([-1.0, -2.0, -3.0, 0.0], dtype=torch.float64)
    brain = start(solver(Ridge, strategy, Ridge.y_star(x, batch.lower), x))
    found = upper_gradient(brain, batch)
    assert relative_error(found, Ridge.hypergradient(x, batch)) < 1e-8
