"""A second level for the training loop of any SpeechBrain Brain."""

import contextlib
import importlib
import inspect
import math
import sys

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from speechbrain.utils.optimizers import rm_vector_weight_decay

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import compatibility
from speechbrain_bilevel.hypergradients.base import (
    Hypergradient,
    Step,
    members,
)
from speechbrain_bilevel.utils.checkpoints import EpochRecords
from speechbrain_bilevel.utils.distributed import (
    average_gradients,
    broadcast_buffers,
    rank,
    wrap_on_cpu,
)
from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.seed import seed_step

logger = get_logger(__name__)


#: Methods that bi-level training cannot use, and what to override instead.
NOT_USED = {
    "fit_batch": "move its losses to lower_objectives and upper_objectives "
    "(the discriminator of a GAN is a lower level, its generator an upper "
    "one), the rest to on_fit_batch_start or on_fit_batch_end",
    "optimizers_step": "make the optimizer in opt_class or init_optimizers, "
    "and change learning rates in on_fit_batch_end",
}


class BilevelMixin:
    """Make a Brain bi-level: ``class MyBrain(BilevelMixin, TheirBrain)``.

    It reads these keys of ``hparams``:

    hypergradient : Hypergradient or null
        How the upper gradient is computed; null is the Brain's own training.
    upper : list of str
        Dotted names of the modules or parameters of the upper level.
    upper_opt_class : callable
        Makes ``self.upper_optimizer``. The lower level keeps the Brain's own
        optimizers, ``self.optimizer`` or those of its ``init_optimizers``.
    lower_steps : int, optional
        Lower steps on each batch, 1 by default.
    upper_every : int, optional
        Number of batches for each upper step, 1 by default.
    lr_schedule, upper_lr_schedule : callable, optional
        Take an optimizer and return a torch scheduler, stepped with it.

    A training batch is then a ``LevelBatch``, of which ``on_fit_batch_start``
    and ``on_fit_batch_end`` are given the lower one. The Brain's
    ``compute_forward`` and ``compute_objectives`` serve both levels; where
    there are methods ``lower_objectives`` or ``upper_objectives`` with the
    arguments of ``compute_objectives``, these return that level's loss.
    ``self.level`` is the level that is being computed: "lower", "upper", or
    None outside bi-level training.

    Strategies may compute a loss several times; what hangs on the Brain, its
    ``hparams`` or modules (statistics, metrics, noise) is then rewound.
    ``self.is_repeat`` is true in all but the first time, for what cannot be
    rewound, e.g. writing a file.

    After ``sb.utils.seed.seed_everything`` the random numbers of a bi-level
    step depend only on the seed, the step and the process, so that a resumed
    run draws the same ones as an uninterrupted run.

    A step whose gradients are not finite is left out at either level, and in
    plain training, too.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if sb.Brain in order and order.index(sb.Brain) < order.index(
            BilevelMixin
        ):
            raise InputError(
                f"class {cls.__name__}: BilevelMixin must come before the "
                f"Brain, class {cls.__name__}(BilevelMixin, ...)"
            )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        of_the_brain = {*vars(self)} - {"hparams", "modules", "checkpointer"}
        hparams = getattr(self, "hparams", None)
        self.hypergradient = getattr(hparams, "hypergradient", None)
        for key in ("lower_steps", "upper_every"):
            value = getattr(hparams, key, 1)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: {value}; expected 1 or more")
            setattr(self, key, value)
        if self.grad_accumulation_factor < 1:
            raise InputError(
                f"grad_accumulation_factor: {self.grad_accumulation_factor}; "
                "expected 1 or more"
            )
        if self.hypergradient is not None:
            self._check_hparams(hparams)
            self._check_methods()
        self.level, self.is_repeat = None, False
        self.bilevel_step = self.upper_optimizer = None
        self.level_optimizers = {"lower": {}, "upper": {}}
        self.schedules, self.left_out = {}, {}
        self.records = EpochRecords()
        self._begin_epoch()
        #: Attributes that hold no state of the Brain's.
        self._not_state = {*vars(self), "_not_state"} - of_the_brain

    def _check_hparams(self, hparams):
        strategy = self.hypergradient
        if not isinstance(strategy, Hypergradient):
            found = shorten(str(strategy))
            raise InputError(
                f"hypergradient: {found} is no strategy; expected an object, "
                "in a YAML `hypergradient: !new:speechbrain_bilevel."
                "hypergradients.Alternating`"
            )
        if self.max_grad_norm is None or not self.max_grad_norm > 0:
            raise InputError(
                f"max_grad_norm: {self.max_grad_norm} would zero or reverse "
                "gradients; expected a positive norm, 1.0e+9 for no limit"
            )
        if not strategy.has_upper_level:
            if self.upper_every > 1:
                name = type(strategy).__name__
                raise InputError(
                    f"upper_every: {name} has no upper step; leave it out"
                )
            return
        for key in ("upper", "upper_opt_class"):
            if not getattr(hparams, key, None):
                raise InputError(
                    f"{key}: missing or empty; bi-level training needs it (see "
                    "BilevelMixin)"
                )
        for name, value in {
            "opt_class": self.opt_class,
            "upper_opt_class": hparams.upper_opt_class,
        }.items():
            if value is not None and not callable(value):
                raise InputError(
                    f"{name}: {shorten(str(value))}; expected what makes an "
                    f"optimizer, in a YAML `{name}: !name:torch.optim.Adam`"
                )

    def _check_methods(self):
        """Refuse methods that bi-level training would leave out."""
        mine = type(self).__mro__.index(BilevelMixin)
        for number, cls in enumerate(type(self).__mro__):
            if cls in (BilevelMixin, sb.Brain):
                continue
            for name, instead in NOT_USED.items():
                method = vars(cls).get(name)
                in_front = number < mine
                if method and not (in_front and _calls_super(method)):
                    raise InputError(
                        f"{cls.__name__}.{name}: bi-level training makes its "
                        f"own steps, and would not call it; {instead}"
                    )

    # ------------------------------------------------------------------ losses
    def evaluate_level(
        self, level, batch, full_precision=False, is_repeat=False
    ):
        """Return the predictions and the scalar loss of a level on its batch.

        ``level`` is "lower" or "upper"; ``full_precision`` overrides
        ``--precision``; ``is_repeat`` is what ``self.is_repeat`` will be.
        """
        precision = self.training_ctx
        if full_precision:
            precision = contextlib.nullcontext()
        self.level, self.is_repeat = level, is_repeat
        try:
            # What a level leaves out, DDP would wait for.
            with self.no_sync(self.distributed_launch), precision:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                objectives = getattr(
                    self, f"{level}_objectives", self.compute_objectives
                )
                return predictions, objectives(
                    predictions, batch, sb.Stage.TRAIN
                )
        finally:
            self.level, self.is_repeat = None, False

    # -------------------------------------------------------------------- step
    def fit_batch(self, batch):
        """Make a step of both levels, or a plain one without a hypergradient.

        Arguments
        ---------
        batch : LevelBatch
            Without a hypergradient, the Brain gets its lower batch; a batch of
            another type is passed on unchanged.

        Returns
        -------
        torch.Tensor
            The detached (lower) loss, on the CPU.
        """
        should_step = self.step % self.grad_accumulation_factor == 0
        if self.hypergradient is None:
            plain = batch.lower if isinstance(batch, LevelBatch) else batch
            loss = super().fit_batch(plain)
        else:
            loss = self._fit_levels(batch, should_step)
        if should_step:
            for name, schedule in self.schedules.items():
                if name != "upper" or self.since_upper == 0:
                    schedule.step()
        return loss

    def _fit_levels(self, batch, should_step):
        if not isinstance(batch, LevelBatch):
            raise InputError(
                f"the training loader yields {type(batch).__name__}; bi-level "
                "training needs a LevelBatch: give Brain.fit "
                "train_loader_kwargs=bilevel_loader_kwargs(train_set, ...), or "
                "the loader a collate_fn that makes one"
            )
        if self.bilevel_step is None:
            raise InputError(
                "the levels are not set up; call super().on_fit_start() in "
                f"{type(self).__name__}.on_fit_start"
            )
        seed_step(rank(), self.optimizer_step, self.step)
        self.on_fit_batch_start(batch.lower, should_step)
        step, strategy = self.bilevel_step, self.hypergradient
        # The upper gradient is computed after the lower steps, so the batches
        # of an accumulated step are kept until then.
        micro_batch = step.add(batch)
        strategy.lower_gradient(step, micro_batch)
        predictions, loss = (
            micro_batch.lower.predictions,
            micro_batch.lower.loss,
        )
        micro_batch.lower.predictions = None
        self._check_finite(loss)
        if should_step:
            self._step_levels(step, strategy)
            step.clear()
            self.optimizer_step += 1
        self.on_fit_batch_end(batch.lower, predictions, loss, should_step)
        return loss.cpu()

    def _step_levels(self, step, strategy):
        self._step_lower(step)
        for _ in range(self.lower_steps - 1):
            step.renew()
            for micro_batch in step.micro_batches:
                strategy.lower_gradient(step, micro_batch)
            self._step_lower(step)
        self.since_upper += 1
        if self.since_upper == self.upper_every:
            with strategy.upper_parameters_in_place():
                strategy.upper_gradient(step)
                self.apply_gradients("upper")
            self.since_upper = 0
        for micro_batch in step.micro_batches:
            if micro_batch.upper.loss is not None:
                self.record("upper/loss", micro_batch.upper.loss)
                self._check_finite(micro_batch.upper.loss)

    def _check_finite(self, loss):
        # Cheaper than SpeechBrain's test where all is well.
        if not math.isfinite(loss.item()):
            self.check_loss_isfinite(loss)

    def _step_lower(self, step):
        self.hypergradient.before_lower_step(step)
        self.apply_gradients("lower")

    def active_optimizers(self, level):
        """Return a level's optimizers that ``freeze_optimizers`` lets step."""
        active = self.freeze_optimizers(self.optimizers_dict)
        optimizers = self.level_optimizers[level].items()
        return [optimizer for name, optimizer in optimizers if name in active]

    def apply_gradients(self, level):
        """Average, clip and apply the gradients of a level ("lower", "upper").

        Its parameters are clipped together, but for those whose optimizer is
        frozen by ``freeze_optimizers``. A step with gradients that are not
        finite is left out, on all processes.
        """
        optimizers = self.level_optimizers[level]
        if not optimizers:
            return
        average_gradients(list(self.bilevel_step.params[level].values()))
        active = self.active_optimizers(level)
        if active:
            for optimizer in active:
                self.scaler.unscale_(optimizer)
            norm = self._clip(level, [p for o in active for p in members(o)])
            if self.scaler.is_enabled():
                for optimizer in active:
                    self.scaler.step(optimizer)
                self.scaler.update()
            elif math.isfinite(norm):
                for optimizer in active:
                    optimizer.step()
            else:
                self._leave_out(f"{level} level")
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _clip(self, level, parameters):
        """Clip parameters' gradients together, and return their norm."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return 0.0
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        self.record(f"{level}/gradient_norm", norm)
        # A GPU is waited for, once on each level.
        value = norm.item()
        if value > self.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(
                parameters, self.max_grad_norm, norm
            )
        return value

    def optimizers_step(self):
        """Make SpeechBrain's step, if all gradients are finite."""
        optimizers = self.optimizers_dict or {"": self.optimizer}
        gradients = [
            parameter.grad
            for optimizer in self.freeze_optimizers(optimizers).values()
            for parameter in members(optimizer)
            if parameter.grad is not None
        ]
        finite = self.scaler.is_enabled() or self.skip_nonfinite_grads
        if gradients and not finite:
            largest = torch.nn.utils.get_total_norm(gradients, float("inf"))
            if not largest.isfinite():
                self._leave_out("training")
                self.zero_grad(set_to_none=True)
                self.optimizer_step += 1
                return
        super().optimizers_step()

    def _leave_out(self, what):
        """Count a step that is left out, and say so the first time."""
        self.left_out[what] = self.left_out.get(what, 0) + 1
        if self.left_out[what] == 1:
            logger.warning(
                f"{what}: gradients that are not finite, no step; the end of "
                "the epoch says how often"
            )

    # -------------------------------------------------------------- optimizers
    def on_fit_start(self):
        """Make the levels, once the Brain has made its optimizers."""
        own = self.init_optimizers

        def init_optimizers():
            # Those of an earlier fit.
            self.optimizers_dict = self.upper_optimizer = None
            own()
            if self.hypergradient is not None:
                self._init_levels()
            self._init_schedules()

        with self._replaced("init_optimizers", init_optimizers):
            super().on_fit_start()

    @contextlib.contextmanager
    def _replaced(self, name, function):
        """Put a function in a method's place, whichever class defines it."""
        given = vars(self).get(name)
        setattr(self, name, function)
        try:
            yield
        finally:
            if given is None:
                delattr(self, name)
            else:
                setattr(self, name, given)

    def _init_levels(self):
        has_upper = self.hypergradient.has_upper_level
        step = Step(
            self, self.hparams.upper if has_upper else [], self._not_state
        )
        self.bilevel_step = step
        self.level_optimizers = {"lower": step.named_optimizers, "upper": {}}
        if has_upper:
            self.upper_optimizer = self._make_upper_optimizer(step)
            upper = {"upper": self.upper_optimizer}
            self.level_optimizers["upper"] = upper
            self._add_recoverables("{}_optimizer", upper)
        self.optimizers_dict = {
            **self.level_optimizers["lower"],
            **self.level_optimizers["upper"],
        }
        compatibility.check(self, step)
        self.hypergradient.setup(step)
        self._add_recoverables("{}", self.hypergradient.recoverables())
        self._add_recoverables("{}", {"level_records": self.records})

    def _make_upper_optimizer(self, step):
        parameters = step.upper_params
        if self.remove_vector_weight_decay:
            parameters = rm_vector_weight_decay(
                torch.nn.ParameterList(parameters)
            )
        optimizer = self.hparams.upper_opt_class(parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InputError(
                f"upper_opt_class: made {shorten(str(optimizer))}, which is no "
                "optimizer"
            )
        return optimizer

    def _init_schedules(self):
        made = {
            name: getattr(
                getattr(self, "hparams", None),
                "upper_lr_schedule" if name == "upper" else "lr_schedule",
                None,
            )
            for name in self.optimizers_dict or {}
        }
        self.schedules = {
            name: make(self.optimizers_dict[name])
            for name, make in made.items()
            if make is not None
        }
        self._add_recoverables("{}_schedule", self.schedules)

    def _add_recoverables(self, name, objects):
        if self.checkpointer is not None:
            for key, obj in objects.items():
                self.checkpointer.add_recoverable(name.format(key), obj)

    # ------------------------------------------------------------------ epochs
    def _fit_train(self, train_set, epoch, enable):
        # Not in on_stage_start and on_stage_end, which Brains override.
        self._begin_epoch()
        own = self.on_stage_end

        def on_stage_end(stage, stage_loss, epoch=None):
            self._end_epoch(epoch)
            own(stage, stage_loss, epoch)

        with self._replaced("on_stage_end", on_stage_end):
            super()._fit_train(train_set, epoch, enable)

    def _begin_epoch(self):
        if self.step == 0:
            # Not resumed within the epoch.
            self.records.values.clear()
        self.since_upper = 0
        if self.bilevel_step is not None:
            self.bilevel_step.begin_epoch()

    def _end_epoch(self, epoch):
        """End the strategy's epoch before the network is validated."""
        for what, count in self.left_out.items():
            logger.warning(
                f"{what}: {count} steps left out in epoch {epoch}, their "
                "gradients were not finite"
            )
        self.left_out = {}
        if self.hypergradient is not None:
            # A checkpoint that is saved here belongs to the next epoch.
            self.step = 0
            self.hypergradient.end_epoch(epoch)
            broadcast_buffers(self.modules)
            self._warn_no_upper_step(epoch)

    def _warn_no_upper_step(self, epoch):
        has_upper = self.upper_optimizer is not None
        if has_upper and "upper/loss" not in self.records.values:
            logger.warning(
                f"no upper step in epoch {epoch}: it has fewer steps than "
                f"upper_every, {self.upper_every}"
            )

    def record(self, name, value):
        """Store a number of this step, a scalar tensor, for ``level_stats``."""
        self.records.add(name, value)

    def level_stats(self):
        """Return statistics since the epoch began, for the train log.

        Returns
        -------
        dict of str to float
            Means of the upper loss, of both levels' gradient norms (before
            clipping, without skipped steps) and of the norm of the
            hypergradient's implicit term relative to the direct one, if there
            is one; and the learning rates.
        """
        stats = self.records.means()
        if stats.get("upper/direct_norm"):
            ratio = stats["upper/implicit_norm"] / stats["upper/direct_norm"]
            stats["upper/implicit_to_direct"] = ratio
        for name, optimizer in (self.optimizers_dict or {}).items():
            level = "" if name == "opt_class" else f"{name}/"
            stats[f"{level}lr"] = optimizer.param_groups[0]["lr"]
        return stats

    # ------------------------------------------------ SpeechBrain's other hooks
    def make_dataloader(self, dataset, stage, *args, **loader_kwargs):
        """Make SpeechBrain's loader; a given sampler gets ``set_epoch`` too."""
        if stage == sb.Stage.TRAIN:
            # That of an earlier training set.
            self.train_sampler = None
        loader = super().make_dataloader(dataset, stage, *args, **loader_kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            self.train_sampler = loader_kwargs.get(
                "batch_sampler", loader_kwargs.get("sampler")
            )
        return loader

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Gradients and batches of an unfinished step are not saved.
        if self.since_upper or self.step % self.grad_accumulation_factor:
            return False
        return super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def _compile(self):
        options = self.compile, self.compile_module_keys
        if self.hypergradient is not None and (
            any(options) or "torch._dynamo" in sys.modules
        ):
            # Compiled code would not notice which level requires gradients,
            # and leave out those of one level.
            dynamo = importlib.import_module("torch._dynamo")
            dynamo.config.skip_tensor_guards_with_matching_dict_tags = False
        super()._compile()

    def _wrap_distributed(self):
        if self.distributed_launch and self.device_type == "cpu":
            wrap_on_cpu(self.modules, self.find_unused_parameters)
        else:
            super()._wrap_distributed()


def _calls_super(method):
    """Whether a method refers to its superclass."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    return code is not None and "super" in code.co_names
