"""Each level's parameters, optimizer, gradients and numbers for the log."""

import functools
import importlib
import sys

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import compatibility as preflight
from speechbrain_bilevel.hypergradients.batch_loss import MeanLoss, Part
from speechbrain_bilevel.hypergradients.hvp import shaped
from speechbrain_bilevel.hypergradients.partition import Partition
from speechbrain_bilevel.hypergradients.stateless import Substitution
from speechbrain_bilevel.late import LateValues
from speechbrain_bilevel.utils.distributed import (
    average_gradients,
    broadcast_buffers,
    rank,
    wrap_on_cpu,
)
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.seed import seed_step

logger = get_logger(__name__)


def _tell_of_no_step(finite, level):
    if not finite:
        logger.warning(f"{level} level: gradients not finite, no step")


class LevelsMixin:
    """The part of ``BilevelMixin`` that knows optimizers, and no batches.

    ``levels`` has the parameters of "lower" and "upper" by name,
    ``optimizers_dict`` their optimizers, ``in_use`` the indices of those
    parameters that a gradient was found for in this step, and ``records`` the
    numbers of this epoch.
    """

    def init_optimizers(self):
        """An optimizer for each level, and the schedules."""
        if self.hypergradient is None:
            super().init_optimizers()
        else:
            self._init_levels()
        factories = {
            name: getattr(self.hparams, key, None)
            for name, key in (
                ("opt_class", "lr_schedule"),
                ("lower", "lr_schedule"),
                ("upper", "upper_lr_schedule"),
            )
        }
        self.schedules = {
            name: factories[name](optimizer)
            for name, optimizer in (self.optimizers_dict or {}).items()
            if factories.get(name) is not None
        }
        self._recoverable("schedule", self.schedules)

    def _init_levels(self):
        partitions = self.hypergradient.partitions
        partition = Partition(self.hparams.upper if partitions else [])
        lower, upper = partition.split(self.modules)
        self.levels = {"lower": lower, "upper": upper}
        self.optimizers_dict = {"lower": self.opt_class(list(lower.values()))}
        if upper:
            make = self.hparams.upper_opt_class
            self.optimizers_dict["upper"] = make(list(upper.values()))
        self._recoverable("optimizer", self.optimizers_dict)
        self.substitution = Substitution(self.modules, self.levels)
        preflight.check(self)
        self.hypergradient.setup(self)

    def _recoverable(self, kind, objects):
        if self.checkpointer is not None:
            for name, obj in objects.items():
                self.checkpointer.add_recoverable(f"{name}_{kind}", obj)

    def deposit(self, level, vector):
        """Adds a flat vector to the ``.grad`` of a level's parameters, except
        where no loss depends on one, whose ``.grad`` remains None.

        Arguments
        ---------
        level : str
            "lower" or "upper"
        vector : torch.Tensor
        """
        parameters = list(self.levels[level].values())
        parts = shaped(self.scaler.scale(vector.detach()), parameters)
        for i in self.in_use[level]:
            if parameters[i].grad is None:
                parameters[i].grad = parts[i]
            else:
                parameters[i].grad += parts[i]

    def deposit_upper(self, direct, implicit):
        """Deposits a hypergradient; its two parts go to the log.

        Arguments
        ---------
        direct : torch.Tensor
            By the upper parameters themselves, a flat vector.
        implicit : torch.Tensor
            By the lower level's answer to them.
        """
        self.record("upper/direct_norm", direct.norm())
        self.record("upper/implicit_norm", implicit.norm())
        self.deposit("upper", direct + implicit)

    def is_active(self, level):
        """Whether ``freeze_optimizers`` lets a level make its step."""
        return level in self.freeze_optimizers(self.optimizers_dict)

    def step_level(self, level):
        """Averages, clips and applies the gradients of one level.

        All of the level's parameters are clipped together. A step whose
        gradients are not finite is left out, on every process alike.

        Arguments
        ---------
        level : str
            "lower" or "upper"
        """
        if not self.levels[level]:
            return
        optimizer = self.optimizers_dict[level]
        if self.is_active(level):
            parameters = list(self.levels[level].values())
            average_gradients(parameters)
            self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(
                parameters, self.max_grad_norm
            )
            self.record(f"{level}/gradient_norm", norm)
            self._apply(optimizer, norm, level)
        optimizer.zero_grad(set_to_none=True)

    def _apply(self, optimizer, norm, level):
        finite = torch.isfinite(norm)
        if self.scaler.is_enabled():
            self.scaler.step(optimizer)
            self.scaler.update()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            # A fused optimizer looks on its device whether to make its step.
            optimizer.found_inf = (~finite).float()
            optimizer.step()
            del optimizer.found_inf
            tell = functools.partial(_tell_of_no_step, level=level)
            self.late.read(finite, self.step, tell)
        elif finite:
            optimizer.step()
        else:
            _tell_of_no_step(finite, level)

    def record(self, name, value):
        """Keeps a number of this step for ``level_stats``.

        Arguments
        ---------
        name : str
        value : torch.Tensor
            A scalar.
        """
        self.records.setdefault(name, []).append(value.detach())

    def level_stats(self):
        """For the train log: the means since the epoch began of the upper loss
        and of both levels' gradient norms (before clipping; steps that were
        left out do not count), the norm of the hypergradient's implicit part
        relative to the direct one (where there is one), and the learning
        rates.

        Returns
        -------
        dict of str to float
        """
        stats = {}
        for name, values in self.records.items():
            values = torch.stack(values).float()
            stats[name] = values[values.isfinite()].mean().item()
        if stats.get("upper/direct_norm"):
            ratio = stats["upper/implicit_norm"] / stats["upper/direct_norm"]
            stats["upper/implicit_to_direct"] = ratio
        for name, optimizer in (self.optimizers_dict or {}).items():
            level = "" if name == "opt_class" else f"{name}/"
            stats[f"{level}lr"] = optimizer.param_groups[0]["lr"]
        return stats


logger = get_logger(__name__)


class BilevelMixin(LevelsMixin):
    """Goes in front of a Brain: ``class MyBrain(BilevelMixin, TheirBrain)``.

    It reads these keys of ``hparams``:

    hypergradient : Hypergradient or null
        How the upper gradient is computed; null is the Brain's own training.
    upper : list of str
        Dotted names of the modules or parameters of the upper level.
    upper_opt_class : callable
        Optimizer of the upper level; ``opt_class`` is the lower level's.
    lower_steps : int, optional
        Lower steps on each batch, 1 by default.
    upper_every : int, optional
        An upper step follows each so many batches, 1 by default.
    lr_schedule, upper_lr_schedule : callable, optional
        Take an optimizer, return a torch scheduler, stepped with it.

    A training batch is then a ``LevelBatch``. The Brain's ``compute_forward``
    and ``compute_objectives`` serve both levels, unless ``lower_objectives`` or
    ``upper_objectives`` are overridden; ``self.level`` says which one is being
    computed ("lower" or "upper", None outside bi-level training).

    After ``sb.utils.seed.seed_everything`` the random numbers of a step depend
    on the seed, the step and the process only, so that a resumed run draws what
    the unbroken one would have drawn.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams = getattr(self, "hparams", None)
        self.hypergradient = getattr(hparams, "hypergradient", None)
        if self.hypergradient is not None and self.hypergradient.partitions:
            for key in ("upper", "upper_opt_class"):
                if not hasattr(hparams, key):
                    raise InputError(
                        f"hyperparameters: '{key}' is missing; a bi-level "
                        "training needs it (see BilevelMixin)"
                    )
        if self.max_grad_norm <= 0:
            raise InputError(
                f"max_grad_norm: {self.max_grad_norm} would turn gradients "
                "off or around; expected a positive norm, 1.0e+9 for no limit"
            )
        for key in ("lower_steps", "upper_every"):
            value = getattr(hparams, key, 1)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: {value}; expected 1 or more")
            setattr(self, key, value)
        self.level = None
        self.late = LateValues()
        self.schedules = {}
        self._begin_epoch()

    def lower_objectives(self, predictions, batch, stage):
        """The lower loss; by default the Brain's ``compute_objectives``."""
        return self.compute_objectives(predictions, batch, stage)

    def upper_objectives(self, predictions, batch, stage):
        """The upper loss; by default the Brain's ``compute_objectives``."""
        return self.compute_objectives(predictions, batch, stage)

    def fit_batch(self, batch):
        """One step of both levels, or a plain one without a hypergradient.

        Arguments
        ---------
        batch : LevelBatch
            Without a hypergradient, its lower batch is the Brain's; a batch of
            another type is passed on as it is.

        Returns
        -------
        torch.Tensor
            The detached (lower) loss; of a bi-level step, on its device.
        """
        seed_step(rank(), self.optimizer_step, self.step)
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
        self.on_fit_batch_start(batch, should_step)
        # The upper gradient is taken where the lower steps end, so the batches
        # of an accumulated step wait for it.
        self.parts.append(Part(self, batch))
        predictions, loss = self.hypergradient.lower_gradient(
            self, self.parts[-1]
        )
        if should_step:
            self._step_lower()
            for _ in range(self.lower_steps - 1):
                self.parts = [Part(self, part.batch) for part in self.parts]
                for part in self.parts:
                    self.hypergradient.lower_gradient(self, part)
                self._step_lower()
            self.since_upper += 1
            if self.since_upper == self.upper_every:
                with self.hypergradient.upper_view():
                    self.hypergradient.upper_gradient(self)
                    self.step_level("upper")
                self.since_upper = 0
            self._begin_step()
            self.optimizer_step += 1
        self.on_fit_batch_end(batch, predictions, loss, should_step)
        return loss.detach()

    def check_loss_isfinite(self, loss):
        """As SpeechBrain's; on a GPU, a step later."""
        check = super().check_loss_isfinite
        self.late.read(loss, self.step, check)

    def update_average(self, loss, avg_loss):
        """As SpeechBrain's; of losses on a GPU, which are those of training,
        the last one is added a step later."""
        if loss.is_cpu:
            return super().update_average(loss, avg_loss)
        add = functools.partial(self._add_to_average, step=self.step)
        self.late.read(loss, self.step, add)
        return self.avg_train_loss

    def _add_to_average(self, loss, step):
        if loss.isfinite():
            self.avg_train_loss -= self.avg_train_loss / step
            self.avg_train_loss += float(loss) / step

    def zero_grad(self, set_to_none=False):
        """As SpeechBrain's, which does this last before it reports an epoch's
        loss."""
        self.late.finish()
        super().zero_grad(set_to_none)

    def _save_intra_epoch_ckpt(self):
        self.late.finish()
        super()._save_intra_epoch_ckpt()

    def _step_lower(self):
        self.hypergradient.before_lower_step(self)
        self.step_level("lower")

    def mean_loss(self, level):
        """A level's loss on all batches of the step.

        Arguments
        ---------
        level : str
            "lower" or "upper"

        Returns
        -------
        MeanLoss
        """
        return MeanLoss([getattr(part, level) for part in self.parts])

    def make_dataloader(self, dataset, stage, *args, **loader_kwargs):
        """As SpeechBrain's, and sees that a given sampler hears of epochs."""
        loader = super().make_dataloader(dataset, stage, *args, **loader_kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            self.train_sampler = loader_kwargs.get(
                "batch_sampler", loader_kwargs.get("sampler")
            )
        return loader

    def on_stage_start(self, stage, epoch=None):
        """Forgets what the last epoch left."""
        if stage == sb.Stage.TRAIN:
            self._begin_epoch()
        super().on_stage_start(stage, epoch)

    def _begin_epoch(self):
        self.records = {}
        self.since_upper = 0
        self._begin_step()

    def _begin_step(self):
        self.parts = []
        self.in_use = {"lower": set(), "upper": set()}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Ends the strategy's epoch before the network is validated."""
        if stage == sb.Stage.TRAIN:
            # A checkpoint that is saved here belongs to the next epoch.
            self.step = 0
            if self.hypergradient is not None:
                self._end_epoch(epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def _end_epoch(self, epoch):
        self.hypergradient.end_epoch(self, epoch)
        broadcast_buffers(self.modules)
        if self.levels["upper"] and "upper/loss" not in self.records:
            logger.warning(
                f"no upper step in epoch {epoch}: it has fewer steps than "
                f"upper_every, {self.upper_every}"
            )

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # What a step has begun, gradients and batches, is not saved.
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
            # Compiled code would not notice that the levels take turns at
            # requiring gradients, and leave those of one level out.
            dynamo = importlib.import_module("torch._dynamo")
            dynamo.config.skip_tensor_guards_with_matching_dict_tags = False
        super()._compile()

    def _wrap_distributed(self):
        if self.distributed_launch and self.device_type == "cpu":
            wrap_on_cpu(self.modules, self.find_unused_parameters)
        else:
            super()._wrap_distributed()
