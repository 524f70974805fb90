"""A second level for the training loop of any SpeechBrain Brain."""

import contextlib
import importlib
import sys

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio.batch import LevelBatch
from speechbrain_bilevel.hypergradients import compatibility
from speechbrain_bilevel.hypergradients.base import Step
from speechbrain_bilevel.utils.distributed import (
    average_gradients,
    broadcast_buffers,
    rank,
    wrap_on_cpu,
)
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.seed import seed_step

logger = get_logger(__name__)


class BilevelMixin:
    """Make a Brain bi-level: ``class MyBrain(BilevelMixin, TheirBrain)``.

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
        Number of batches for each upper step, 1 by default.
    lr_schedule, upper_lr_schedule : callable, optional
        Take an optimizer and return a torch scheduler, stepped with it.

    A training batch is then a ``LevelBatch``. The Brain's ``compute_forward``
    and ``compute_objectives`` serve both levels, unless ``lower_objectives`` or
    ``upper_objectives`` are overridden. ``self.level`` is the level that is
    being computed: "lower", "upper", or None outside bi-level training.

    After ``sb.utils.seed.seed_everything`` the random numbers of a bi-level
    step depend only on the seed, the step and the process, so that a resumed
    run draws the same ones as an uninterrupted run.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams = getattr(self, "hparams", None)
        self.hypergradient = getattr(hparams, "hypergradient", None)
        if self.max_grad_norm <= 0:
            raise InputError(
                f"max_grad_norm: {self.max_grad_norm} would zero or reverse "
                "gradients; expected a positive norm, 1.0e+9 for no limit"
            )
        for key in ("lower_steps", "upper_every"):
            value = getattr(hparams, key, 1)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{key}: {value}; expected 1 or more")
            setattr(self, key, value)
        if self.hypergradient is not None:
            self._check_keys(hparams)
        self.level = None
        self.bilevel_step = None
        self.schedules = {}
        self._begin_epoch()

    def _check_keys(self, hparams):
        if not self.hypergradient.has_upper_level:
            if self.upper_every > 1:
                name = type(self.hypergradient).__name__
                raise InputError(
                    f"upper_every: {name} has no upper step; leave it out"
                )
            return
        for key in ("upper", "upper_opt_class"):
            if not hasattr(hparams, key):
                raise InputError(
                    f"hyperparameters: '{key}' is missing; bi-level training "
                    "needs it (see BilevelMixin)"
                )

    # ------------------------------------------------------------------ losses
    def lower_objectives(self, predictions, batch, stage):
        """Return the lower loss; by default by ``compute_objectives``."""
        return self.compute_objectives(predictions, batch, stage)

    def upper_objectives(self, predictions, batch, stage):
        """Return the upper loss; by default by ``compute_objectives``."""
        return self.compute_objectives(predictions, batch, stage)

    def evaluate_level(self, level, batch, full_precision=False):
        """Return the predictions and the scalar loss of a level on its batch.

        ``level`` is "lower" or "upper"; ``full_precision`` overrides
        ``--precision``.
        """
        precision = self.training_ctx
        if full_precision:
            precision = contextlib.nullcontext()
        self.level = level
        try:
            with self.no_sync(), precision:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                objectives = getattr(self, f"{level}_objectives")
                return predictions, objectives(
                    predictions, batch, sb.Stage.TRAIN
                )
        finally:
            self.level = None

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
        seed_step(rank(), self.optimizer_step, self.step)
        self.on_fit_batch_start(batch, should_step)
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
        self.check_loss_isfinite(loss)
        if should_step:
            self._step_levels(step, strategy)
            step.clear()
            self.optimizer_step += 1
        self.on_fit_batch_end(batch, predictions, loss, should_step)
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
                self.check_loss_isfinite(micro_batch.upper.loss)

    def _step_lower(self, step):
        self.hypergradient.before_lower_step(step)
        self.apply_gradients("lower")

    def is_active(self, level):
        """Whether ``freeze_optimizers`` lets a level make its step."""
        return level in self.freeze_optimizers(self.optimizers_dict)

    def apply_gradients(self, level):
        """Average, clip and apply the gradients of a level ("lower", "upper").

        All of its parameters are clipped together. A step with gradients that
        are not finite is skipped, on all processes.
        """
        if level not in self.optimizers_dict:
            return
        optimizer = self.optimizers_dict[level]
        if self.is_active(level):
            parameters = list(self.bilevel_step.params[level].values())
            average_gradients(parameters)
            self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(
                parameters, self.max_grad_norm
            )
            self.record(f"{level}/gradient_norm", norm)
            if self.scaler.is_enabled():
                self.scaler.step(optimizer)
                self.scaler.update()
            elif norm.isfinite():
                optimizer.step()
            else:
                logger.warning(f"{level} level: gradients not finite, no step")
        optimizer.zero_grad(set_to_none=True)

    # -------------------------------------------------------------- optimizers
    def init_optimizers(self):
        """Make an optimizer for each level, and the schedules."""
        if self.hypergradient is None:
            super().init_optimizers()
        else:
            self._init_levels()
        factories = {
            "opt_class": getattr(self.hparams, "lr_schedule", None),
            "lower": getattr(self.hparams, "lr_schedule", None),
            "upper": getattr(self.hparams, "upper_lr_schedule", None),
        }
        self.schedules = {
            name: factories[name](optimizer)
            for name, optimizer in (self.optimizers_dict or {}).items()
            if factories.get(name) is not None
        }
        self._add_recoverables("{}_schedule", self.schedules)

    def _init_levels(self):
        has_upper = self.hypergradient.has_upper_level
        step = Step(self, self.hparams.upper if has_upper else [])
        self.bilevel_step = step
        self.optimizers_dict = {"lower": step.lower_optimizer}
        if has_upper:
            upper = self.hparams.upper_opt_class(step.upper_params)
            self.optimizers_dict["upper"] = upper
        self._add_recoverables("{}_optimizer", self.optimizers_dict)
        compatibility.check(self, step)
        self.hypergradient.setup(step)
        self._add_recoverables("{}", self.hypergradient.recoverables())

    def _add_recoverables(self, name, objects):
        if self.checkpointer is not None:
            for key, obj in objects.items():
                self.checkpointer.add_recoverable(name.format(key), obj)

    # ------------------------------------------------------------------ epochs
    def on_stage_start(self, stage, epoch=None):
        """Reset the state of an epoch."""
        if stage == sb.Stage.TRAIN:
            self._begin_epoch()
        super().on_stage_start(stage, epoch)

    def _begin_epoch(self):
        self.records = {}
        self.since_upper = 0
        if self.bilevel_step is not None:
            self.bilevel_step.clear()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """End the strategy's epoch before the network is validated."""
        if stage == sb.Stage.TRAIN:
            # A checkpoint that is saved here belongs to the next epoch.
            self.step = 0
            if self.hypergradient is not None:
                self.hypergradient.end_epoch(epoch)
                broadcast_buffers(self.modules)
                self._warn_no_upper_step(epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def _warn_no_upper_step(self, epoch):
        has_upper = "upper" in self.optimizers_dict
        if has_upper and "upper/loss" not in self.records:
            logger.warning(
                f"no upper step in epoch {epoch}: it has fewer steps than "
                f"upper_every, {self.upper_every}"
            )

    def record(self, name, value):
        """Store a number of this step, a scalar tensor, for ``level_stats``."""
        self.records.setdefault(name, []).append(value.detach())

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

    # ------------------------------------------------ SpeechBrain's other hooks
    def make_dataloader(self, dataset, stage, *args, **loader_kwargs):
        """Make SpeechBrain's loader; a given sampler gets ``set_epoch`` too."""
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
