"""The training steps that ``hypergradients.py`` races: those of SpeechBrain, of
this package and of other libraries.

Each adapter takes a problem and returns a function that makes one step of both
levels, and the upper level's optimizer, before whose step the upper parameters
hold their hypergradient. A library is imported where it is used: none is a
requirement.
"""

import speechbrain as sb
import torch

from speechbrain_bilevel import hypergradients
from speechbrain_bilevel.core import BilevelMixin


class PlainBrain(sb.Brain):
    """SpeechBrain's own training on a problem."""

    def compute_forward(self, batch, stage):
        """Inputs -> predictions."""
        return self.modules.network(batch[0])

    def compute_objectives(self, predictions, batch, stage):
        """The loss of the level that the batch belongs to."""
        return self.hparams.loss(predictions, batch[1])


class LevelsBrain(BilevelMixin, PlainBrain):
    """The same, in two levels."""


def started(cls, problem, compile=False, precision="fp32", **hparams):
    """A Brain as it is when its first batch comes."""
    device = next(problem.network.parameters()).device
    brain = cls(
        modules={"network": problem.network},
        opt_class=problem.opt_class,
        hparams={"loss": problem.loss, **hparams},
        run_opts={
            "device": str(device),
            "max_grad_norm": 1e9,
            "noprogressbar": True,
            "compile": compile,
            "precision": precision,
        },
    )
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.modules.train()
    return brain


def plain(problem):
    """SpeechBrain: all parameters learn on the lower level's batch, then on
    the upper level's."""
    brain = started(PlainBrain, problem)

    def step():
        for batch in problem.batch:
            brain.step += 1
            brain.fit_batch(batch)

    return step, None


def ours(name, lower_steps=1, compile=False, precision="fp32", **settings):
    """A strategy of this package by name and settings; a callable is called
    with the problem. ``compile`` and ``precision`` are SpeechBrain's."""

    def make(problem):
        strategy = getattr(hypergradients, name)(**of(problem, settings))
        brain = started(
            LevelsBrain,
            problem,
            compile,
            precision,
            hypergradient=strategy,
            upper=[problem.upper_name],
            upper_opt_class=problem.upper_opt_class,
            lower_steps=lower_steps,
        )

        def step():
            brain.step += 1
            brain.fit_batch(problem.batch)

        step.brain = brain
        return step, brain.optimizers_dict.get("upper")

    return make


def bare(problem):
    """First-order alternation in plain PyTorch, with nothing around it."""
    _, step_lower = own_step(problem.lower, problem.opt_class)
    upper, step_upper = own_step(problem.upper, problem.upper_opt_class)

    def half(level, others, step):
        for parameter in others.values():
            parameter.requires_grad_(False)
        step(problem.evaluate(level))
        for parameter in others.values():
            parameter.requires_grad_(True)

    def step():
        half("lower", problem.upper, step_lower)
        half("upper", problem.lower, step_upper)

    return step, upper


def torchopt_one_step(problem):
    """TorchOpt: the lower step is differentiated through.

    The functional form of its MetaSGD and MetaAdam: these exchange parameters
    behind a module's back, and recurrent layers would go on with the old ones.
    """
    import torchopt

    names, values = list(problem.lower), tuple(problem.lower.values())
    settings = problem.opt_class(values).defaults
    if "betas" in settings:
        rule = torchopt.adam(
            settings["lr"], tuple(settings["betas"]), settings["eps"]
        )
    else:
        rule = torchopt.sgd(settings["lr"])
    lower = torchopt.FuncOptimizer(rule)
    upper, step_upper = own_step(problem.upper, problem.upper_opt_class)

    def step():
        nonlocal values
        before = dict(zip(names, values))
        after = lower.step(problem.evaluate("lower", before, True), values)
        step_upper(problem.evaluate("upper", dict(zip(names, after))))
        values = tuple(value.detach().requires_grad_() for value in after)
        torchopt.stop_gradient(lower.state_dict())

    return step, upper


def torchopt_cg(iterations):
    """TorchOpt: implicit differentiation, the linear system by conjugate
    gradients, warm-started lower level with one step; for problems with one
    tensor a level."""

    def make(problem):
        import torchopt

        ((lower_name, y),) = problem.lower.items()
        ((upper_name, x),) = problem.upper.items()
        lower = problem.opt_class([y])
        upper, step_upper = own_step(problem.upper, problem.upper_opt_class)

        def loss(level, y, x):
            return problem.evaluate(level, {lower_name: y, upper_name: x})

        optimality = torch.func.grad(lambda y, x: loss("lower", y, x))

        @torchopt.diff.implicit.custom_root(
            optimality,
            argnums=1,
            solve=torchopt.linear_solve.solve_cg(maxiter=iterations, rtol=0.0),
        )
        def solve(y, x):
            y.grad = optimality(y.detach(), x.detach())
            lower.step()
            lower.zero_grad()
            return y

        def step():
            step_upper(loss("upper", solve(y, x), x))

        return step, upper

    return make


def higher_one_step(problem):
    """higher: the lower step is differentiated through.

    Its optimizer lives for one unrolled loop; parameters and optimizer state
    are carried to the next one here.
    """
    import higher

    lower = problem.opt_class(list(problem.lower.values()))
    upper, step_upper = own_step(problem.upper, problem.upper_opt_class)

    def step():
        with higher.innerloop_ctx(
            problem.network, lower, copy_initial_weights=False
        ) as (network, unrolled):
            loss = problem.evaluate("lower", network=network, twice=True)
            unrolled.step(loss)
            step_upper(problem.evaluate("upper", network=network))
            after = dict(network.named_parameters())
            for name, parameter in problem.lower.items():
                parameter.data.copy_(after[name])
            (state,) = unrolled.state
            for index, parameter in enumerate(problem.lower.values()):
                lower.state[parameter] = {
                    key: value.detach() if torch.is_tensor(value) else value
                    for key, value in state[index].items()
                }

    return step, upper


def betty(method, **settings):
    """Betty: one lower step, then the best-response Jacobian by ``method``,
    with ``settings`` of its Config; a callable is called with the problem."""

    def make(problem):
        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem

        class Level(ImplicitProblem):
            """One level; its module holds just that level's parameters."""

            def training_step(self, batch):
                """The level's loss."""
                twice = self.name == "lower" and method in ("neumann", "cg")
                return problem.evaluate(self.name, twice=twice)

        def level(parameters, opt_class, **config):
            parameters = torch.nn.ParameterList(parameters.values())
            return dict(
                module=parameters,
                optimizer=opt_class(parameters.parameters()),
                train_data_loader=[(torch.zeros(1),)],
                config=Config(**config),
            )

        lower = Level(
            "lower",
            **level(
                problem.lower,
                problem.opt_class,
                type=method,
                unroll_steps=1,
                **of(problem, settings),
            ),
        )
        upper = Level(
            "upper",
            **level(problem.upper, problem.upper_opt_class, retain_graph=True),
        )
        on_gpu = next(iter(problem.upper.values())).is_cuda
        engine = Engine(
            problems=[upper, lower],
            config=EngineConfig(strategy="gpu" if on_gpu else "cpu"),
            dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        )
        engine.train()

        def step():
            engine.global_step += 1
            engine.train_step()

        return step, upper.optimizer

    return make


def own_step(parameters, opt_class):
    """An optimizer, and a function that makes its step on a loss."""
    parameters = list(parameters.values())
    optimizer = opt_class(parameters)

    def step(loss):
        loss.backward(inputs=parameters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return optimizer, step


def of(problem, settings):
    """Settings with the problem's values in place of callables."""
    return {
        key: value(problem) if callable(value) else value
        for key, value in settings.items()
    }
