"""The interface of a strategy, and the training step that it works on."""

import contextlib
import copy

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.hypergradients import compatibility, hvp
from speechbrain_bilevel.hypergradients.batch_loss import MeanLoss, MicroBatch
from speechbrain_bilevel.hypergradients.hvp import flatten, unflatten
from speechbrain_bilevel.hypergradients.partition import Partition, plain_name
from speechbrain_bilevel.hypergradients.stateless import State, Substitution
from speechbrain_bilevel.utils.distributed import average
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)


class Step:
    """A training step as a strategy sees it, without the rest of the Brain.

    One object serves a complete training; each step fills it with new
    micro-batches. A strategy may use:

    * ``lower``, ``upper``: the levels' losses on the step's batches and over
      all processes, each a ``MeanLoss`` with ``gradients`` and ``products``;
    * ``micro_batches``: the batches that are accumulated, each with a
      ``BatchLoss`` ``lower`` and ``upper``; ``accumulation``: their number;
    * ``lower_params``, ``upper_params``: lists of the levels' parameters;
    * ``lower_optimizers``, a list of one, unless the Brain makes more;
      ``active_optimizers``, those that make their step (``freeze_optimizers``
      may forbid it); ``copy_lower()``; ``max_grad_norm``; ``lower_steps``, the
      number of lower steps between two upper ones;
    * ``lower_gradient()``, ``accumulate_grad(level, vector)`` and
      ``accumulate_hypergradient(direct, implicit)``.

    Arguments
    ---------
    brain : BilevelMixin
        Its modules are already wrapped if it uses DDP.
    upper : list of str
        See ``Partition``.
    ignored : iterable of str
        See ``State``.
    """

    def __init__(self, brain, upper, ignored):
        self._brain = brain
        self._partition = Partition(upper)
        lower, upper = self._partition.split(brain.modules)
        self.named_optimizers = lower_optimizers(brain, lower, upper)
        optimized = {p for o in self.lower_optimizers for p in members(o)}
        lower = {n: p for n, p in lower.items() if p in optimized}
        if not any(parameter.requires_grad for parameter in lower.values()):
            raise InputError("the lower level's optimizers train no parameter")
        self.params = {"lower": lower, "upper": upper}
        self.substitution = Substitution(brain.modules)
        self.names = {
            level: self.substitution.names(of_level.values())
            for level, of_level in self.params.items()
        }
        self.repeats = brain.hypergradient.repeats(self)
        self.recurrent = {
            type(module)
            for module in brain.modules.modules()
            if isinstance(module, torch.nn.RNNBase)
        }
        self.state = State(brain, ignored)
        self.begin_epoch()

    # ---------------------------------------------------------- for strategies
    @property
    def lower(self):
        """The lower loss of this step."""
        return MeanLoss([batch.lower for batch in self.micro_batches])

    @property
    def upper(self):
        """The upper loss of this step."""
        return MeanLoss([batch.upper for batch in self.micro_batches])

    @property
    def lower_params(self):
        """The lower parameters, a list."""
        return list(self.params["lower"].values())

    @property
    def upper_params(self):
        """The upper parameters, a list."""
        return list(self.params["upper"].values())

    @property
    def accumulation(self):
        """Number of micro-batches of a step."""
        return self._brain.grad_accumulation_factor

    @property
    def lower_optimizers(self):
        """The lower level's optimizers, a list."""
        return list(self.named_optimizers.values())

    @property
    def active_optimizers(self):
        """Those of ``lower_optimizers`` that make their step."""
        return self._brain.active_optimizers("lower")

    def copy_lower(self):
        """Return copies of the lower parameters, and optimizers of them."""
        copies = [
            torch.nn.Parameter(p.detach().clone(), p.requires_grad)
            for p in self.lower_params
        ]
        same = {id(p): c for p, c in zip(self.lower_params, copies)}
        return copies, [copy.deepcopy(o, same) for o in self.lower_optimizers]

    @property
    def max_grad_norm(self):
        """The norm to which gradients of a level are clipped."""
        return self._brain.max_grad_norm

    @property
    def lower_steps(self):
        """Lower steps between two upper ones."""
        return self._brain.lower_steps * self._brain.upper_every

    def lower_gradient(self):
        """Return the lower gradient of the complete step, a flat vector.

        It is the parameters' ``.grad``, averaged over processes and without the
        scale of AMP.
        """
        vector = flatten([p.grad for p in self.lower_params], self.lower_params)
        return average([vector / self._brain.scaler.get_scale()])[0]

    def accumulate_grad(self, level, vector):
        """Add a flat vector to the ``.grad`` of a level's parameters.

        ``level`` is "lower" or "upper". The ``.grad`` of a parameter that no
        loss depends on remains None.
        """
        parameters = list(self.params[level].values())
        scaled = self._brain.scaler.scale(vector.detach())
        gradients = unflatten(scaled, parameters)
        for i in self._in_use[level]:
            if parameters[i].grad is None:
                parameters[i].grad = gradients[i]
            else:
                parameters[i].grad += gradients[i]

    def accumulate_hypergradient(self, direct, implicit):
        """Accumulate an upper gradient and log the norms of its two terms.

        Both are flat vectors: ``direct`` is the derivative by the upper
        parameters, ``implicit`` the one through the lower level's response.
        """
        self._brain.record("upper/direct_norm", direct.norm())
        self._brain.record("upper/implicit_norm", implicit.norm())
        self.accumulate_grad("upper", direct + implicit)

    def upper_tensors(self):
        """Return parameters and buffers of the upper level, a dict by name."""
        buffers = {
            plain_name(name): tensor
            for name, tensor in self._brain.modules.named_buffers()
            if self._partition.is_upper(plain_name(name))
        }
        return {**self.params["upper"], **buffers}

    # ---------------------------------------------------------- for the engine
    @property
    def modules(self):
        """The Brain's modules."""
        return self._brain.modules

    def begin_epoch(self):
        """Forget the last step, and check anew what losses are like."""
        self.clear()
        self.state.forget()
        self._unchecked = {"lower", "upper"}
        self._forward_is_light = None

    def clear(self):
        """Remove the micro-batches and their gradients."""
        self.micro_batches = []
        self._in_use = {"lower": set(), "upper": set()}

    def add(self, batch):
        """Add a micro-batch and return it."""
        self.micro_batches.append(MicroBatch(self, batch))
        return self.micro_batches[-1]

    def renew(self):
        """Renew the micro-batches, for evaluation at the new parameters."""
        self.micro_batches = [
            MicroBatch(self, b.batch) for b in self.micro_batches
        ]

    def mark_in_use(self, level, gradients):
        """Mark the parameters of a level that a loss depends on."""
        self._in_use[level].update(
            i for i, tensor in enumerate(gradients) if tensor is not None
        )

    def evaluate(self, level, batch, full_precision=False, is_repeat=False):
        """Return the Brain's predictions and the loss of a level."""
        return self._brain.evaluate_level(
            level, batch, full_precision, is_repeat
        )

    def watch_parameters(self, level, values):
        """Refuse, in an epoch's first step, parameters that a loss writes to.

        ``values`` are what takes their place, a dict by name. Return a function
        to call after the evaluation.
        """
        strategy = self._brain.hypergradient
        if level not in self._unchecked or not strategy.needs_functional_call:
            return lambda: None
        named = dict(self.substitution.named_parameters())
        parameters = [*named.items(), *values.items()]

        def marks():
            return [(p._version, p.data_ptr()) for _, p in parameters]

        before = marks()

        def check():
            changed = zip(parameters, before, marks())
            for (name, _), was, now in changed:
                if was != now:
                    name = plain_name(name).removeprefix("substituted.")
                    raise InputError(
                        f"{name}: this parameter is written to when a loss is "
                        f"computed, which {type(strategy).__name__} may do "
                        "several times; make it a buffer, or write to it in "
                        "on_fit_batch_end, or choose Alternating"
                    )

        return check

    def check_loss(self, level, loss, again):
        """Refuse, in an epoch's first step, a loss that cannot be used.

        ``again`` evaluates it once more.
        """
        if level in self._unchecked:
            self._unchecked.discard(level)
            compatibility.check_loss(
                self._brain.hypergradient,
                level,
                loss,
                again if self.repeats else None,
                self._tolerance(loss),
            )

    def forward(self, loss_at, values, *arguments):
        """Return ``hvp.forward``'s derivatives, in the light form if it works.

        The first time in an epoch, it is compared with an ordinary evaluation.
        """
        if self._forward_is_light is None:
            self._forward_is_light = False
            with contextlib.suppress(RuntimeError, NotImplementedError):
                loss, found = hvp.forward(loss_at, values, *arguments)
                with torch.no_grad():
                    expected = loss_at(values)
                difference = (loss - expected).abs()
                if difference <= self._tolerance(loss) * expected.abs():
                    self._forward_is_light = True
                    return found
            logger.info(
                "hvp_mode forward: torch.func cannot evaluate this loss as it "
                "is; more memory is used"
            )
        try:
            light = self._forward_is_light
            return hvp.forward(loss_at, values, *arguments, light=light)[1]
        except NotImplementedError as error:
            raise InputError(
                'hvp_mode: "forward" does not work with this network ('
                f'{hvp.first_line(error)}); choose "reverse"'
            ) from error

    def _tolerance(self, loss):
        exact = self._brain.precision == "fp32" and loss.is_cpu
        return 1e-5 if exact else 1e-3

    def moves(self):
        """Return which lower parameters the next step will change.

        A list of bool: those that have a gradient and an active optimizer.
        """
        in_use = self._in_use["lower"]
        optimizers = self.active_optimizers
        active = None
        if len(optimizers) < len(self.named_optimizers):
            active = {p for o in optimizers for p in members(o)}
        return [
            (parameter.grad is not None or i in in_use)
            and (active is None or parameter in active)
            for i, parameter in enumerate(self.lower_params)
        ]

    def loss_scale(self):
        """Return AMP's scale, a scalar on the device, or None without AMP."""
        scaler, device = self._brain.scaler, self._brain.device
        if not scaler.is_enabled():
            return None
        return scaler.scale(torch.ones((), device=device))

    def backward(self, loss):
        """Accumulate the gradients of a loss, scaled for AMP."""
        self._brain.scaler.scale(loss).backward()


def members(optimizer):
    """Yield the parameters of an optimizer."""
    for group in optimizer.param_groups:
        yield from group["params"]


def lower_optimizers(brain, lower, upper):
    """Make the lower level's optimizers of those that a Brain made for itself.

    The parameters of the upper level are taken out, and so are optimizers
    without parameters. ``lower`` and ``upper`` are dicts of parameters. Return
    a dict by name; the name of SpeechBrain's only one is "lower".
    """
    made = brain.optimizers_dict or {
        name: value
        for name, value in vars(brain).items()
        if isinstance(value, torch.optim.Optimizer)
    }
    taken, known = set(upper.values()), {*lower.values(), *upper.values()}
    for name, optimizer in made.items():
        if not known.issuperset(members(optimizer)):
            raise InputError(
                f"{name}: this optimizer has parameters that are not in the "
                "Brain's modules; give their module to `modules`"
            )
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p not in taken]
        for parameter in taken:
            optimizer.state.pop(parameter, None)
    kept = {name: o for name, o in made.items() if list(members(o))}
    # SpeechBrain's name for the only one.
    return {"lower": kept["opt_class"]} if list(kept) == ["opt_class"] else kept


class Hypergradient:
    """Computes the gradients of both levels of

        min_x f(x, y*(x))   subject to   y*(x) = argmin_y g(x, y),

    with upper parameters x, lower parameters y and their losses f and g, each
    on its own batches. The hypergradient is d f(x, y*(x)) / dx: a direct term,
    the derivative of f by x, and an implicit one, through y*.

    A strategy is chosen in YAML and contains no part of the training loop: the
    ``BilevelMixin`` calls it with the ``Step``, then clips and steps. It must
    define ``upper_gradient``; ``examples/own_strategy.py`` is an example.
    """

    #: How second derivatives are computed, one of ``hvp.MODES``, or None
    #: without any.
    hvp_mode = None
    #: Whether losses are evaluated more than once, at other parameters, or
    #: differentiated twice.
    needs_functional_call = True
    #: Whether the lower optimizer's step is differentiated.
    differentiates_step = False
    #: Whether ``hparams.upper`` divides the parameters; else all are lower.
    has_upper_level = True

    def repeats(self, step):
        """Whether a loss is evaluated more than once in a step."""
        del step
        return self.needs_functional_call

    def setup(self, step):
        """Called once, with the levels known, before a checkpoint is loaded."""

    def recoverables(self):
        """Return what to save with every checkpoint, a dict by name."""
        return {}

    def unsupported(self, step):
        """Return what this strategy cannot do with this training.

        A list of str, each a sentence that says what to choose instead.
        """
        del step
        return []

    def lower_gradient(self, step, micro_batch):
        """Accumulate dg/dy on a micro-batch, divided by their number."""
        del step
        micro_batch.lower.backward()

    def before_lower_step(self, step):
        """Called when all micro-batches have accumulated their lower gradient.

        It is not yet averaged over processes.
        """

    def upper_parameters_in_place(self):
        """Return a context for the upper gradient and the upper step.

        A strategy whose upper level works on a copy puts it in place here.
        """
        return contextlib.nullcontext()

    def upper_gradient(self, step):
        """Accumulate the hypergradient, after the lower parameters' step."""
        raise NotImplementedError

    def end_epoch(self, epoch):
        """Called after each epoch's training, before validation."""


@register_checkpoint_hooks
class StatefulHypergradient(Hypergradient):
    """A strategy with a ``state``, a dict of tensors, in every checkpoint.

    It is loaded in place.
    """

    def recoverables(self):
        """See ``Hypergradient.recoverables``; ``setup`` must set ``state``."""
        return {"hypergradient": self}

    @mark_as_saver
    def save(self, path):
        """Save the state."""
        torch.save(self.state, path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Load the state."""
        del end_of_epoch
        saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in saved.items():
            self.state[name].copy_(tensor)
