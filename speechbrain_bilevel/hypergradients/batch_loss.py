"""The losses of a training step, as functions of the levels' parameters."""

import contextlib

import torch

from speechbrain_bilevel.hypergradients import hvp
from speechbrain_bilevel.hypergradients.stateless import Replay
from speechbrain_bilevel.utils.distributed import average
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.precision import without_tf32


class MicroBatch:
    """The two losses of one ``LevelBatch`` that a step accumulates."""

    def __init__(self, step, batch):
        self.batch = batch
        self.lower = BatchLoss(step, "lower", batch.lower)
        self.upper = BatchLoss(step, "upper", batch.upper)


class BatchLoss:
    """A level's loss on one batch, evaluated as often as a strategy needs it.

    The first evaluation draws random numbers and updates running statistics
    (e.g. BatchNorm's) like any training step. Later ones start from the same
    ``State`` and restore it, so all evaluate the same function. ``predictions``
    and ``loss`` are from the first one, None before.

    Arguments
    ---------
    step : Step
    level : str
        "lower" or "upper"
    batch : object
        Argument of the Brain's ``compute_forward``.
    """

    def __init__(self, step, level, batch):
        self.step, self.level, self.batch = step, level, batch
        self.predictions = self.loss = None
        self._scale = step.loss_scale()
        self._replay = None
        # Point, parameters' versions, gradient with its graph, its inputs.
        self._kept = None

    def backward(self, hvp_mode=None, at=None):
        """Accumulate the gradient by the level's own parameters only.

        It is divided by the number of micro-batches.

        Arguments
        ---------
        hvp_mode : str, optional
            For the lower loss: keep the graph if ``products`` in that mode can
            use it, in this step and at the same point.
        at : list of torch.Tensor, optional
            This point; must equal the network's parameters.
        """
        if hvp_mode == "reverse" and self.step.accumulation == 1:
            (gradient,) = self.gradients(self.level, at=at, keep_graph=True)
            self.step.accumulate_grad(self.level, gradient)
            return
        with self._other_level_constant():
            loss = self._evaluate()
            self._check_dependence(loss.requires_grad)
            parts = self.step.accumulation
            self.step.backward(loss if parts == 1 else loss / parts)

    def gradients(self, *levels, at=None, keep_graph=False):
        """Return gradients by the parameters of one or both levels.

        Arguments
        ---------
        *levels : str
            "lower", "upper"
        at : list of torch.Tensor, optional
            Values of the lower parameters, by default those of the network.
        keep_graph : bool
            Keep the graph of the lower gradient for ``products`` at the same
            point.

        Returns
        -------
        list of torch.Tensor
            A flat vector for each of the levels.
        """
        leaves = at and self._leaves(at)
        context = contextlib.nullcontext()
        if keep_graph:
            context = hvp.twice_differentiable(self.step.recurrent)
        with context:
            loss = self._evaluate(leaves)
        found = self._differentiate(loss, levels, leaves, keep_graph)
        by_level = dict(zip(levels, found))
        if self.level == "lower" and "lower" in levels:
            depends = any(g is not None for g in by_level["lower"])
            self._check_dependence(depends)
        if keep_graph:
            self._kept = at, self._versions(), by_level["lower"], leaves
        return self._vectors(levels, found)

    def graph(self, at):
        """Evaluate the loss at values of the lower parameters.

        Return the tensors that its graph begins at, a list.
        """
        leaves = self._leaves(at)
        self._evaluate(leaves)
        return leaves

    def products(
        self,
        vector,
        *levels,
        at=None,
        mode="reverse",
        keep_graph=False,
        radius=0.01,
    ):
        """Return derivatives of <lower gradient, vector>, second derivatives.

        Arguments
        ---------
        vector : torch.Tensor
            A flat vector of the size of the lower level.
        *levels : str
            "lower" for the Hessian's product, "upper" for that of the cross
            Jacobian.
        at : list of torch.Tensor, optional
            See ``gradients``. A saved graph is only used with this very list.
        mode : str
            One of ``hvp.MODES``.
        keep_graph : bool
            In "reverse": save the graph for the next product at this point;
            not with gradient accumulation, to limit memory.
        radius : float
            For "difference", which always runs in full precision.

        Returns
        -------
        list of torch.Tensor
            A flat vector for each of the levels.
        """
        lower = self._parameters("lower")
        # What is frozen is a constant.
        vector = hvp.masked(vector, lower, [p.requires_grad for p in lower])
        if mode == "reverse":
            return self._reverse(vector, levels, at, keep_graph)
        if mode == "forward":
            return self._forward(vector, levels, at)
        if not vector.any():
            nothing = [
                [None] * len(self._parameters(level)) for level in levels
            ]
            return self._vectors(levels, nothing)

        def vectors_at(values):
            leaves = self._leaves(values)
            with without_tf32():
                loss = self._evaluate(leaves, full_precision=True)
                found = self._differentiate(loss, levels, leaves)
            return self._vectors(levels, found)

        point = self._parameters("lower", at)
        return hvp.difference(vectors_at, point, vector, radius)

    def _forward(self, vector, levels, at):
        point = self._parameters("lower", at)
        parts = hvp.unflatten(vector, point)
        names, values, directions = self.step.names, {}, {}
        lower = self._parameters("lower")
        for name, parameter, value, part in zip(
            names["lower"], lower, point, parts
        ):
            values[name] = value.detach()
            if parameter.requires_grad:
                directions[name] = part
        wanted = list(directions) if "lower" in levels else []
        for name, value in zip(names["upper"], self._parameters("upper")):
            values[name] = value.detach()
            if "upper" in levels and value.requires_grad:
                wanted.append(name)

        def loss_at(values):
            loss = self._evaluate_again(values)
            return loss if self._scale is None else loss * self._scale

        if self.loss is None:
            self._evaluate()
        with hvp.twice_differentiable(self.step.recurrent):
            tangents = self.step.forward(loss_at, values, directions, wanted)
        found = dict(zip(wanted, tangents))
        return self._vectors(
            levels, [[found.get(n) for n in names[level]] for level in levels]
        )

    def _reverse(self, vector, levels, at, keep_graph):
        if not self._has_graph_of(at):
            self.gradients("lower", at=at, keep_graph=True)
        *_, gradient, leaves = self._kept
        keep_graph = keep_graph and self.step.accumulation == 1
        if not keep_graph:
            self._kept = None
        directions = hvp.unflatten(vector, self._parameters("lower", leaves))
        inputs = self._inputs(levels, leaves)
        found = hvp.reverse(gradient, directions, inputs, keep_graph)
        return self._vectors(levels, self._split(found, levels))

    def _has_graph_of(self, at):
        if self._kept is None or self._kept[0] is not at:
            return False
        return at is not None or self._kept[1] == self._versions()

    def _versions(self):
        """Return how often each lower parameter was written."""
        return [p._version for p in self.step.params["lower"].values()]

    def _leaves(self, values):
        """Return tensors to differentiate by, for values of the lower level."""
        lower = self._parameters("lower")
        return [
            value.detach().requires_grad_(parameter.requires_grad)
            for value, parameter in zip(values, lower)
        ]

    def _evaluate(self, lower=None, full_precision=False):
        """Return the loss at given lower parameters, or at the network's."""
        step, values = self.step, {}
        if lower is not None:
            values = dict(zip(step.names["lower"], lower))
        if self.loss is not None:
            return self._evaluate_again(values, full_precision)
        first = contextlib.nullcontext()
        if step.repeats:
            self._replay = Replay(step.state)
            first = self._replay.first()
        check = step.watch_parameters(self.level, values)
        with first:
            self.predictions, loss = step.substitution.call(
                values,
                lambda: step.evaluate(self.level, self.batch, full_precision),
            )
        check()
        self.loss = loss.detach()
        step.check_loss(self.level, loss, lambda: self._evaluate_again(values))
        return loss

    def _evaluate_again(self, values, full_precision=False):
        """Return the loss at values of parameters, a dict by name."""
        step = self.step
        with self._replay.again():
            _, loss = step.substitution.call(
                values,
                lambda: step.evaluate(
                    self.level, self.batch, full_precision, is_repeat=True
                ),
            )
        return loss

    def _differentiate(self, loss, levels, lower=None, create_graph=False):
        """Return a list of first derivatives of ``loss`` for each level.

        They are scaled for AMP, or None for parameters without influence.
        """
        inputs = self._inputs(levels, lower)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        if not loss.requires_grad or not wanted:
            return self._split([None] * len(inputs), levels)
        if self._scale is not None:
            loss = loss * self._scale
        found = torch.autograd.grad(
            loss, wanted, create_graph=create_graph, allow_unused=True
        )
        return self._split(hvp.spread(found, inputs), levels)

    def _split(self, tensors, levels):
        """Split a list over the parameters of several levels by level."""
        tensors = iter(tensors)
        return [
            [next(tensors) for _ in self.step.params[level]] for level in levels
        ]

    def _vectors(self, levels, gradients):
        """Return a flat vector for each level, without the scale of AMP.

        Mark the parameters that have a gradient in the step.
        """
        vectors = []
        for level, tensors in zip(levels, gradients):
            self.step.mark_in_use(level, tensors)
            vector = hvp.flatten(tensors, self._parameters(level))
            scaled = self._scale is not None
            vectors.append(vector / self._scale if scaled else vector)
        return vectors

    def _parameters(self, level, lower=None):
        """Return the tensors by which a level's gradients are taken."""
        if level == "lower" and lower is not None:
            return list(lower)
        return list(self.step.params[level].values())

    def _inputs(self, levels, lower=None):
        """Return the ``_parameters`` of several levels in one list."""
        return [p for level in levels for p in self._parameters(level, lower)]

    @contextlib.contextmanager
    def _other_level_constant(self):
        others = [
            parameter
            for level, parameters in self.step.params.items()
            for parameter in parameters.values()
            if level != self.level and parameter.requires_grad
        ]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _check_dependence(self, depends):
        if depends:
            return
        reason = ""
        if self.level == "upper":
            reason = (
                ": its direct gradient is zero, and this strategy knows no "
                "other. Choose one that differentiates the lower level's "
                "answer, e.g. OneStepUnrolled or SOBA"
            )
        raise InputError(
            f"the {self.level} loss does not depend on the {self.level} "
            f"parameters ({', '.join(self.step.params[self.level])}){reason}"
        )


class MeanLoss:
    """The loss of the joined batch of a step.

    It is the mean of a level's losses, a list of ``BatchLoss``, and over all
    processes.
    """

    def __init__(self, losses):
        self.losses = losses

    def gradients(self, *levels, **options):
        """See ``BatchLoss.gradients``."""
        return joint_mean(
            loss.gradients(*levels, **options) for loss in self.losses
        )

    def products(self, vector, *levels, **options):
        """See ``BatchLoss.products``."""
        return joint_mean(
            loss.products(vector, *levels, **options) for loss in self.losses
        )


def joint_mean(lists):
    """Return the mean of several lists of vectors, also over all processes.

    ``lists`` has one list for each micro-batch of the step.
    """
    total, count = None, 0
    for vectors in lists:
        if total is not None:
            vectors = [a + b for a, b in zip(total, vectors)]
        total = vectors
        count += 1
    return average([vector / count for vector in total])
