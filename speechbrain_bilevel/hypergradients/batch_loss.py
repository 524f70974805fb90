"""A level's loss as a function of the levels' parameters."""

import contextlib

import speechbrain as sb
import torch

from speechbrain_bilevel.hypergradients.hvp import (
    PRODUCTS,
    flat,
    twice_differentiable,
)
from speechbrain_bilevel.hypergradients.stateless import Replay
from speechbrain_bilevel.utils.distributed import average
from speechbrain_bilevel.utils.errors import InputError


class BatchLoss:
    """A level's loss on one batch, as often as a strategy needs it.

    The first evaluation draws random numbers and updates running statistics
    (BatchNorm's, say) like any training step. Later ones start from the same
    generators and statistics and leave no trace, so that all of them are one
    function.

    Arguments
    ---------
    brain : BilevelMixin
    level : str
        "lower" or "upper"
    batch : object
        What the Brain's ``compute_forward`` takes.
    """

    def __init__(self, brain, level, batch):
        self.brain, self.level, self.batch = brain, level, batch
        self.scale = None
        if brain.scaler.is_enabled():
            # On the device, where it is.
            self.scale = brain.scaler.scale(torch.ones((), device=brain.device))
        self.replay = None
        self.evaluated = False
        self.graph = None

    def backward(self):
        """Adds the gradient by the level's own parameters to their ``.grad``,
        scaled for AMP and for accumulation; no other gradient is computed.

        Returns
        -------
        predictions : object
            What ``compute_forward`` returned.
        loss : torch.Tensor
            A scalar.
        """
        with self._others_constant():
            predictions, loss = self.evaluate()
            self._check_dependence(loss.requires_grad)
            share = loss / self.brain.grad_accumulation_factor
            self.brain.scaler.scale(share).backward()
        return predictions, loss

    def backward_for(self, products, at=None):
        """As ``backward``, for the lower level; keeps the graph where products
        of that kind, in this step and at the same place, can use it.

        Arguments
        ---------
        products : str
            A key of ``PRODUCTS``.
        at : list of torch.Tensor, optional
            See ``gradients``; equal to the network's.

        Returns
        -------
        predictions : object
        loss : torch.Tensor
        """
        if products != "reverse" or self.brain.grad_accumulation_factor > 1:
            return self.backward()
        predictions, loss, (gradient,) = self.gradients(
            "lower", at=at, keep_graph=True
        )
        self.brain.deposit("lower", gradient)
        return predictions, loss

    def gradients(self, *levels, at=None, keep_graph=False):
        """Gradients by the parameters of one or both levels.

        Arguments
        ---------
        *levels : str
            "lower", "upper"
        at : list of torch.Tensor, optional
            Values of the lower parameters, by default those of the network.
        keep_graph : bool
            Keeps the graph of the lower gradient for ``products`` at the same
            place.

        Returns
        -------
        predictions : object
        loss : torch.Tensor
        gradients : list of torch.Tensor
            A flat vector for each of the levels.
        """
        at = at and [value.detach().requires_grad_() for value in at]
        context = twice_differentiable if keep_graph else contextlib.nullcontext
        with context(self.brain.modules):
            predictions, loss = self.evaluate(at)
        gradients = self.differentiate(loss, levels, at, keep_graph)
        if self.level == "lower" and "lower" in levels:
            mine = gradients[levels.index("lower")]
            self._check_dependence(any(g is not None for g in mine))
        if keep_graph:
            self.graph = gradients[levels.index("lower")], at
        return predictions, loss, self.vectors(levels, gradients)

    def products(self, vector, *levels, at=None, method="reverse", **options):
        """Second derivatives: those of <lower gradient, vector> by the
        parameters of one or both levels.

        Arguments
        ---------
        vector : torch.Tensor
            A flat vector of the size of the lower level.
        *levels : str
            "lower" for the Hessian's product, "upper" for the cross Jacobian's.
        at : list of torch.Tensor, optional
            Values of the lower parameters, by default those of the network.
        method : str
            A key of ``PRODUCTS``.
        **options
            Of that method.

        Returns
        -------
        list of torch.Tensor
            A flat vector for each of the levels.
        """
        return PRODUCTS[method](self, vector, levels, at, **options)

    def evaluate(self, lower=None, full_precision=False):
        """Predictions and loss at given values of the lower parameters, by
        default those of the network."""
        brain = self.brain
        values = {}
        contexts = [brain.no_sync()]
        if not full_precision:
            contexts.append(brain.training_ctx)
        if lower is not None:
            values.update(zip(brain.substitution.names["lower"], lower))
        first = not self.evaluated
        if not first:
            values.update(self.replay.buffers())
            contexts.append(self.replay.again())
        elif brain.hypergradient.substitutes:
            self.replay = Replay(brain.substitution)
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            predictions, loss = brain.substitution.call(values, self._forward)
        if first:
            self.evaluated = True
            brain.check_loss_isfinite(loss)
            if self.level == "upper":
                brain.record("upper/loss", loss)
        return predictions, loss

    def differentiate(self, loss, levels, at=None, create_graph=False):
        """First derivatives of ``loss``, scaled for AMP, each a list over the
        parameters of a level, None where it does not depend on one."""
        inputs = [self.parameters(level, at) for level in levels]
        if not loss.requires_grad:
            return [[None for _ in of_level] for of_level in inputs]
        found = iter(
            torch.autograd.grad(
                loss if self.scale is None else loss * self.scale,
                [parameter for of_level in inputs for parameter in of_level],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
        return [[next(found) for _ in of_level] for of_level in inputs]

    def vectors(self, levels, gradients):
        """Flat vectors, without the scale of AMP, of a list of gradients for
        each of the levels; takes note of the parameters that have one."""
        found = []
        for level, tensors in zip(levels, gradients):
            self.brain.in_use[level].update(
                i for i, tensor in enumerate(tensors) if tensor is not None
            )
            vector = flat(tensors, self.parameters(level))
            found.append(vector if self.scale is None else vector / self.scale)
        return found

    def parameters(self, level, at=None):
        """The tensors that a level's gradients are taken by."""
        if level == "lower" and at is not None:
            return at
        return list(self.brain.levels[level].values())

    def _forward(self):
        brain, stage = self.brain, sb.Stage.TRAIN
        brain.level = self.level
        try:
            predictions = brain.compute_forward(self.batch, stage)
            objectives = getattr(brain, f"{self.level}_objectives")
            return predictions, objectives(predictions, self.batch, stage)
        finally:
            brain.level = None

    @contextlib.contextmanager
    def _others_constant(self):
        others = [
            parameter
            for level, parameters in self.brain.levels.items()
            for parameter in parameters.values()
            if level != self.level
        ]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _check_dependence(self, depends):
        if not depends:
            reason = ""
            if self.level == "upper":
                reason = (
                    ": its direct gradient is zero, and this strategy knows no "
                    "other. Choose one that differentiates the lower level's "
                    "answer, e.g. OneStepUnrolled or SOBA"
                )
            raise InputError(
                f"the {self.level} loss does not depend on the {self.level} "
                f"parameters ({', '.join(self.brain.levels[self.level])})"
                f"{reason}"
            )


class Part:
    """The two losses of one of a step's batches.

    Arguments
    ---------
    brain : BilevelMixin
    batch : LevelBatch
    """

    def __init__(self, brain, batch):
        self.batch = batch
        self.lower = BatchLoss(brain, "lower", batch.lower)
        self.upper = BatchLoss(brain, "upper", batch.upper)


class MeanLoss:
    """The mean of a level's losses on the batches of a step, and over all
    processes: the loss of the joined batch.

    Arguments
    ---------
    losses : list of BatchLoss
    """

    def __init__(self, losses):
        self.losses = losses

    def gradients(self, *levels, **options):
        """See ``BatchLoss.gradients``; only the vectors are returned."""
        return joint_mean(
            loss.gradients(*levels, **options)[2] for loss in self.losses
        )

    def products(self, vector, *levels, **options):
        """See ``BatchLoss.products``."""
        return joint_mean(
            loss.products(vector, *levels, **options) for loss in self.losses
        )


def joint_mean(lists):
    """The mean of several lists of vectors, and over all processes.

    Arguments
    ---------
    lists : iterable of list of torch.Tensor
        One list for each batch of the step.

    Returns
    -------
    list of torch.Tensor

    Example
    -------
    >>> import torch
    >>> joint_mean([[torch.zeros(1)], [torch.ones(1)]])
    [tensor([0.5000])]
    """
    total, count = None, 0
    for vectors in lists:
        if total is not None:
            vectors = [a + b for a, b in zip(total, vectors)]
        total = vectors
        count += 1
    return average([vector / count for vector in total])
