"""Strategies whose lower level starts at the upper level's parameters.

A micro-batch is a task: its lower batch is the support, its upper batch the
query. The parameters z are a start from which K steps y_0 = z, y_1, ..., y_K on
the support are to make the query's loss f(y_K(z)) small.
``dataio.sampling.TaskBatchSampler`` draws tasks.
"""

import torch

from speechbrain_bilevel.hypergradients.base import StatefulHypergradient
from speechbrain_bilevel.hypergradients.baselines import OneLevel
from speechbrain_bilevel.hypergradients.hvp import (
    add_scaled,
    flatten,
    masked,
    reverse,
    unflatten,
)
from speechbrain_bilevel.hypergradients.implicit import CGAID
from speechbrain_bilevel.hypergradients.partition import Partition, plain_name
from speechbrain_bilevel.utils.distributed import average_gradients
from speechbrain_bilevel.utils.errors import InputError


class FromStart(OneLevel):
    """The steps on a task's support: y_{k+1} = y_k - rates * dg/dy(y_k).

    All parameters are trained, by ``opt_class``; gradients of the tasks of an
    accumulated step, and of all processes, are averaged. The loss that is
    logged is that of the support at z, "upper/loss" the query's at y_K.
    Validation sees z.

    Arguments
    ---------
    steps : int
        K.
    step_size : float
        Of each step.
    adapted : list of str, optional
        Names of the modules or parameters that make the steps, as in ``upper``;
        all by default.
    """

    def __init__(self, steps, step_size, adapted=None):
        self.steps, self.step_size, self.adapted = steps, step_size, adapted

    def unsupported(self, step):
        """See ``Hypergradient.unsupported``."""
        found = []
        if self.steps < 1:
            found.append(f"steps: {self.steps}; expected 1 or more")
        if step.lower_steps > 1:
            found.append(
                f"lower_steps: {step.lower_steps}; it makes its own steps on "
                "each task: leave it out, and choose their number by `steps`"
            )
        return found

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        parameters = step.params["lower"]
        adapted = Partition(self.adapted or list(parameters))
        for name in adapted.upper:
            if not any(map(Partition(name).is_upper, parameters)):
                parents = {n.rpartition(".")[0] or n for n in parameters}
                raise InputError(
                    f"adapted: '{name}' names no trained parameter; choose "
                    f"among {', '.join(sorted(parents))} or a parent of these"
                )
        self.moves = [adapted.is_upper(name) for name in parameters]
        parts = [
            torch.full_like(parameter, self.step_size * moves)
            for parameter, moves in zip(parameters.values(), self.moves)
        ]
        self.rates = flatten(parts, parts)

    def start(self, step, task):
        """Return y_0, and what turns derivatives by it into those by z."""
        del task
        return [p.detach() for p in step.lower_params], lambda vector: vector

    def descend(self, step, task, start, note=None):
        """Make the steps and return y_K.

        ``note`` is called with each y_k, a list, and the gradient there, a flat
        vector.
        """
        point = start
        for k in range(self.steps):
            gradient = self.support_gradient(task, start, point, k)
            if step.loss_scale() is not None and not gradient.isfinite().all():
                # Too large a scale: this step is left out, and so is the
                # optimizer's, after which the scale is smaller.
                step.accumulate_grad("lower", gradient)
                gradient = torch.zeros_like(gradient)
            if note is not None:
                note(point, gradient)
            moved = add_scaled(point, self.rates * gradient, -1)
            # What stays needs no memory.
            parts = zip(moved, point, self.moves)
            point = [new if moves else old for new, old, moves in parts]
        return point

    def support_gradient(self, task, start, point, k):
        """Return dg/dy at the k-th point, a flat vector."""
        del start, k
        return task.lower.gradients("lower", at=point)[0]


class Reptile(FromStart):
    """Follows the sum of the gradients along the steps, (z - y_K) / step_size.

    Support and query take turns as the batches of the steps, since gradients on
    different batches are what makes it more than plain training; "upper/loss"
    is the query's at y_1. With SGD, a learning rate of e * step_size moves z to
    z + e (y_K - z).

    Source: Nichol et al., On first-order meta-learning algorithms,
    https://arxiv.org/abs/1803.02999

    Arguments
    ---------
    steps : int
        K, at least 2.
    step_size : float
        Of each step.
    """

    def __init__(self, steps, step_size):
        super().__init__(steps, step_size)

    def unsupported(self, step):
        """See ``Hypergradient.unsupported``."""
        found = super().unsupported(step)
        if self.steps == 1:
            found.append("steps: 1 is plain training; expected 2 or more")
        return found

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        start, _ = self.start(step, micro_batch)
        total = torch.zeros_like(self.rates)
        self.descend(step, micro_batch, start, lambda _, g: total.add_(g))
        step.accumulate_grad("lower", total / step.accumulation)

    def support_gradient(self, task, start, point, k):
        """Return the gradient of support and query in turn."""
        del start
        loss = task.upper if k % 2 else task.lower
        return loss.gradients("lower", at=point)[0]


class MAML(FromStart):
    """Differentiates through all steps: df(y_K(z))/dz.

    With ``adapted`` the head, it is ANIL: the body learns, too, but only the
    head makes the steps.

    Sources: Finn et al. (MAML), https://arxiv.org/abs/1703.03400;
    Raghu et al. (ANIL), https://arxiv.org/abs/1909.09157

    Arguments
    ---------
    steps, step_size, adapted
        See ``FromStart``.
    first_order : bool
        Leave the second derivatives out and follow df/dy at y_K.
    hvp_mode : str
        How second derivatives are computed; see ``hypergradients/hvp.py``.
    """

    #: Whether ``accumulate_rates`` uses its argument.
    learns_rates = False

    def __init__(
        self,
        steps,
        step_size,
        adapted=None,
        first_order=False,
        hvp_mode="reverse",
    ):
        super().__init__(steps, step_size, adapted)
        self.hvp_mode = None if first_order else hvp_mode

    def support_gradient(self, task, start, point, k):
        """See ``FromStart``; the last graph is kept for the way back."""
        del start
        keep = self.hvp_mode == "reverse" and k == self.steps - 1
        return task.lower.gradients("lower", at=point, keep_graph=keep)[0]

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        start, by_start = self.start(step, micro_batch)
        second, learns = self.hvp_mode is not None, self.learns_rates
        path = []

        def note(point, gradient):
            kept = point if second else None, gradient if learns else None
            path.append(kept)

        end = self.descend(step, micro_batch, start, note)
        (vector,) = micro_batch.upper.gradients("lower", at=end)
        by_rates = torch.zeros_like(vector) if learns else None
        while path:
            point, gradient = path.pop()
            if learns:
                by_rates -= gradient * vector
            if second:
                (image,) = micro_batch.lower.products(
                    self.rates * vector, "lower", at=point, mode=self.hvp_mode
                )
                vector = vector - image
        if learns:
            self.accumulate_rates(step, by_rates)
        step.accumulate_grad("lower", by_start(vector) / step.accumulation)

    def accumulate_rates(self, step, gradient):
        """Accumulate the derivative by the step sizes, a flat vector."""


class MetaSGD(MAML, StatefulHypergradient):
    """MAML with a learned step size for each element of what makes the steps.

    They are trained with the parameters, by the same optimizer, without weight
    decay, and may become negative; ``step_sizes`` are by parameter.

    Source: Li et al., Meta-SGD: learning to learn quickly for few-shot
    learning, https://arxiv.org/abs/1707.09835

    Arguments
    ---------
    steps, adapted, first_order, hvp_mode
        See ``MAML``.
    step_size : float
        Where they begin.
    """

    learns_rates = True

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        known = getattr(self, "state", {}).get("step_sizes")
        super().setup(step)
        if known is not None and known.shape == self.rates.shape:
            # Those of an earlier fit.
            self.rates = known
        self.parameter = torch.nn.Parameter(self.rates)
        self.state = {"step_sizes": self.rates}
        step.lower_optimizers[0].add_param_group(
            {"params": [self.parameter], "weight_decay": 0.0}
        )
        self.names = {n: p.shape for n, p in step.params["lower"].items()}

    @property
    def step_sizes(self):
        """A tensor for each parameter, a dict by name."""
        shapes = self.names.values()
        parts = self.rates.split([shape.numel() for shape in shapes])
        pairs = zip(self.names, parts, shapes)
        return {name: part.view(shape) for name, part, shape in pairs}

    def accumulate_rates(self, step, gradient):
        """See ``MAML.accumulate_rates``."""
        gradient = masked(gradient, step.lower_params, self.moves)
        scale, gradient = step.loss_scale(), gradient / step.accumulation
        gradient = gradient if scale is None else gradient * scale
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(gradient)
        self.parameter.grad += gradient

    def before_lower_step(self, step):
        """See ``Hypergradient.before_lower_step``."""
        average_gradients([self.parameter])


class IMAML(MAML):
    """Differentiates the solution of the steps, not the steps.

    The lower loss is g(y) + strength |y - z|^2 / 2; where y_K minimizes it,

        df/dz = (I + H / strength)^-1 df/dy,   H = d2g/dy2 at y_K,

    which conjugate gradients solve for the difference from df/dy; they stop at
    a direction of negative curvature, with the solution so far. Neither memory
    nor exactness depends on the path to y_K.

    Source: Rajeswaran et al., Meta-learning with implicit gradients,
    https://arxiv.org/abs/1909.04630

    Arguments
    ---------
    steps, step_size
        See ``FromStart``.
    strength : float
        Of the pull back to z; larger than the most negative curvature of g.
    iterations : int
        Of conjugate gradients, a Hessian product each; one more before them.
    hvp_mode : str
        See ``MAML``.
    """

    def __init__(
        self, steps, step_size, strength=1.0, iterations=5, hvp_mode="reverse"
    ):
        super().__init__(steps, step_size, hvp_mode=hvp_mode)
        self.strength = strength
        self.solver = CGAID(iterations, damping=strength)

    def support_gradient(self, task, start, point, k):
        """Return the gradient with the pull back to z."""
        del k
        (gradient,) = task.lower.gradients("lower", at=point)
        away = [y - z for y, z in zip(point, start)]
        return gradient + self.strength * flatten(away, away)

    def lower_gradient(self, step, micro_batch):
        """See ``Hypergradient.lower_gradient``."""
        start, _ = self.start(step, micro_batch)
        end = self.descend(step, micro_batch, start)
        (vector,) = micro_batch.upper.gradients("lower", at=end)

        def hessian(direction):
            return micro_batch.lower.products(
                *(direction, "lower"),
                at=end,
                mode=self.hvp_mode,
                keep_graph=True,
            )[0]

        wanted = -hessian(vector) / self.strength
        vector = vector + self.strength * self.solver.solve(hessian, wanted)
        step.accumulate_grad("lower", vector / step.accumulation)


class ProtoMAML(MAML):
    """MAML whose head starts at the prototypes of the support's classes.

    A prototype c is the mean of the head's inputs over the trials of a class;
    the head, a linear layer, starts at weights 2 c and bias -|c|^2, with which
    its softmax is that of the negative squared distances. The derivative by z
    goes through the prototypes, too.

    The head's own weights serve classes that a support lacks, the loss that is
    logged, and validation.

    Source: Triantafillou et al., Meta-dataset, https://arxiv.org/abs/1903.03096

    Arguments
    ---------
    steps, step_size, adapted, first_order, hvp_mode
        See ``MAML``.
    head : str
        Dotted name of a ``torch.nn.Linear`` with a bias, below the Brain's
        modules, which sees [batch, features].
    labels : callable or str
        Takes a batch and returns its classes, [batch]; or the name of a batch's
        attribute that has them, as ``CategoricalEncoder`` makes it.
    """

    def __init__(self, steps, step_size, head, labels, **options):
        super().__init__(steps, step_size, **options)
        self.head, self.labels = head, labels

    def setup(self, step):
        """See ``Hypergradient.setup``."""
        super().setup(step)
        modules = step.modules.named_modules()
        modules = {plain_name(name): module for name, module in modules}
        names = list(step.params["lower"])
        own = [f"{self.head}.weight", f"{self.head}.bias"]
        heads = [
            name
            for name, module in modules.items()
            if isinstance(module, torch.nn.Linear)
            and {f"{name}.weight", f"{name}.bias"} <= set(names)
        ]
        if self.head not in heads:
            raise InputError(
                f"head: {self.head} is no trained torch.nn.Linear with a bias; "
                f"choose among {', '.join(heads) or 'layers that you add'}"
            )
        self.module = modules[self.head]
        self.places = [names.index(name) for name in own]

    def start(self, step, task):
        """See ``FromStart.start``."""
        seen = []
        hook = self.module.register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        )
        try:
            leaves = task.lower.graph([p.detach() for p in step.lower_params])
        finally:
            hook.remove()
        if not seen:
            raise InputError(
                f"head: {self.head} is not called for the lower loss; expected "
                "the last layer before it"
            )
        own = [leaves[place] for place in self.places]
        # Of the first evaluation: an epoch's first batch has another one.
        weight, bias = self.prototypes(seen[0], self.classes(task), *own)
        point = [leaf.detach() for leaf in leaves]
        for place, value in zip(self.places, (weight, bias)):
            point[place] = value.detach()

        def by_start(vector):
            scale = step.loss_scale()
            scale = 1 if scale is None else scale
            parts = unflatten(vector * scale, leaves)
            of_head = [parts[place] for place in self.places]
            through = reverse([weight, bias], of_head, leaves)
            for place in self.places:
                parts[place] = None
            total = flatten(parts, leaves) + flatten(through, leaves)
            return total / scale

        return point, by_start

    def classes(self, task):
        """Return the classes of a task's support, [batch]."""
        batch = task.lower.batch
        if callable(self.labels):
            return self.labels(batch)
        found = getattr(batch, self.labels)
        return getattr(found, "data", found).flatten()

    def prototypes(self, inputs, classes, own_weight, own_bias):
        """Return weights and bias for inputs, [batch, features].

        Those of a class that the support lacks are the head's own.
        """
        if inputs.ndim != 2 or len(inputs) != len(classes):
            raise InputError(
                f"head: {self.head} sees {list(inputs.shape)} for "
                f"{len(classes)} labels; expected [batch, features], so choose "
                "a layer behind the mean over time"
            )
        numbers = classes.unique().tolist()
        if not set(numbers) <= set(range(len(own_bias))):
            raise InputError(
                f"labels: {numbers}; expected 0 to {len(own_bias) - 1}, the "
                f"outputs of {self.head}"
            )
        weights, biases = list(own_weight), list(own_bias)
        inputs, classes = inputs.to(own_bias.dtype), classes.to(inputs.device)
        for number in map(int, numbers):
            center = inputs[classes == number].mean(dim=0)
            weights[number] = 2 * center
            biases[number] = -center.square().sum()
        return torch.stack(weights), torch.stack(biases)
