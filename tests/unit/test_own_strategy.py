"""What a strategy of somebody else's can rely on."""

import sys
from pathlib import Path

import pytest
import torch
from closed_forms import (
    Ridge,
    random,
    relative_error,
    solver,
    start,
    upper_gradient,
)

from speechbrain_bilevel.hypergradients import Hypergradient, OneStepUnrolled

sys.path.append(str(Path(__file__).parents[2] / "examples"))
from own_strategy import OneSGDStep

X, Y, V, ELSEWHERE = (random(4, seed=seed) for seed in (1, 2, 3, 4))


def cross_product(y):
    """d2g/dxdy V of the ridge regression, by hand."""
    return 2 * X.exp() * y * V


class Asking(Hypergradient):
    """Keeps the graph of the lower gradient, and then asks for products."""

    def lower_gradient(self, step, micro_batch):
        micro_batch.lower.backward("reverse")
        self.before = self.product(step)
        micro_batch.lower.gradients("lower", keep_graph=True)
        self.elsewhere = self.product(step, at=[ELSEWHERE])

    def upper_gradient(self, step):
        self.after = self.product(step)
        self.y = step.lower_params[0].detach().clone()
        step.accumulate_hypergradient(
            *step.upper.gradients("upper"), self.after
        )

    @staticmethod
    def product(step, **options):
        (vector,) = step.lower.products(V, "upper", **options)
        return vector


def test_the_example_is_one_unrolled_step():
    found, expected = (
        upper_gradient(start(solver(Ridge, strategy, Y, X)), Ridge.batch())
        for strategy in (OneSGDStep(), OneStepUnrolled(hvp_mode="difference"))
    )
    assert expected.norm() > 0.01
    assert relative_error(found, expected) < 1e-9


def test_products_are_of_the_point_they_are_asked_for():
    """Whatever graph was kept: not after a step, nor for another point."""
    strategy = Asking()
    upper_gradient(start(solver(Ridge, strategy, Y, X)), Ridge.batch())
    assert relative_error(strategy.before, cross_product(Y)) < 1e-12
    assert relative_error(strategy.elsewhere, cross_product(ELSEWHERE)) < 1e-12
    assert (strategy.y - Y).norm() > 0.01
    assert relative_error(strategy.after, cross_product(strategy.y)) < 1e-12


def test_a_strategy_sees_a_step_and_no_brain():
    class Looking(OneSGDStep):
        def upper_gradient(self, step):
            self.seen = step
            super().upper_gradient(step)

    strategy = Looking()
    brain = start(solver(Ridge, strategy, Y, X))
    upper_gradient(brain, Ridge.batch())
    public = {name for name in dir(strategy.seen) if not name.startswith("_")}
    assert not any(getattr(strategy.seen, name) is brain for name in public)
    with pytest.raises(AttributeError):
        strategy.seen.fit_batch
    assert torch.is_tensor(strategy.seen.lower_gradient())
