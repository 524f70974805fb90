"""A second level for the training loop of any SpeechBrain Brain."""

import contextlib
import os
import random

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.distributed import (
    average_gradients,
    broadcast_buffers,
    rank,
    wrap_on_cpu,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.problem import Partition

logger = get_logger(__name__)


class BilevelMixin:
    """Goes in front of a Brain: ``class MyBrain(BilevelMixin, TheirBrain)``.

    It reads these keys of ``hparams``:

    hypergradient : Hypergradient or null
        How the upper gradient is computed; null is the Brain's own training.
    upper : list of str
        Dotted names of the modules or parameters of the upper level.
    upper_opt_class : callable
        Optimizer of the upper level; ``opt_class`` is the lower level's.
    lr_schedule, upper_lr_schedule : callable, optional
        Take an optimizer, return a torch scheduler, stepped with it.

    A training batch is then a ``LevelBatch``. The Brain's ``compute_forward``
    and ``compute_objectives`` serve both levels, unless ``lower_objectives`` or
    ``upper_objectives`` are overridden.

    After ``sb.utils.seed.seed_everything`` the random numbers of a step depend
    on the seed, the step and the process only, so that a resumed run draws what
    the unbroken one would have drawn.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hparams = getattr(self, "hparams", None)
        self.hypergradient = getattr(hparams, "hypergradient", None)
        if self.hypergradient is not None:
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
        self.schedules = {}
        self.upper_losses = []
        self.waiting = []

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
            Or the Brain's own batch without a hypergradient.

        Returns
        -------
        torch.Tensor
            The detached (lower) loss.
        """
        self._seed_step()
        should_step = self.step % self.grad_accumulation_factor == 0
        if self.hypergradient is None:
            loss = super().fit_batch(batch)
        else:
            loss = self._fit_levels(batch, should_step)
        if should_step:
            for schedule in self.schedules.values():
                schedule.step()
        return loss

    def _fit_levels(self, batch, should_step):
        self.on_fit_batch_start(batch, should_step)
        predictions, loss = self.hypergradient.lower_gradient(self, batch)
        # The upper gradient is taken where the lower step ends, so the batches
        # of an accumulated step wait for it.
        self.waiting.append(batch)
        if should_step:
            self.step_level("lower")
            with self.hypergradient.upper_view():
                for part in self.waiting:
                    _, upper = self.hypergradient.upper_gradient(self, part)
                    self.upper_losses.append(upper.detach())
                self.step_level("upper")
            self.waiting = []
            self.scaler.update()
            self.optimizer_step += 1
        self.on_fit_batch_end(batch, predictions, loss, should_step)
        return loss.detach().cpu()

    def backward(self, level, batch):
        """Adds the direct gradient of a level's loss to the ``.grad`` of its
        own parameters; no other gradient is computed.

        Arguments
        ---------
        level : str
            "lower" or "upper"
        batch : object
            What ``compute_forward`` takes.

        Returns
        -------
        predictions : object
            What ``compute_forward`` returned.
        loss : torch.Tensor
            The level's loss, a scalar.
        """
        objectives = getattr(self, f"{level}_objectives")
        with self._only(level), self.no_sync():
            with self.training_ctx:
                predictions = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = objectives(predictions, batch, sb.Stage.TRAIN)
            if not loss.requires_grad:
                raise InputError(
                    f"the {level} loss does not depend on the {level} "
                    f"parameters ({', '.join(self.levels[level])})"
                )
            scaled = self.scaler.scale(loss / self.grad_accumulation_factor)
            self.check_loss_isfinite(scaled)
            scaled.backward()
        return predictions, loss

    @contextlib.contextmanager
    def _only(self, level):
        other = self.levels["upper" if level == "lower" else "lower"]
        for parameter in other.values():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in other.values():
                parameter.requires_grad_(True)

    def step_level(self, level):
        """Averages, clips and applies the gradients of one level.

        All of the level's parameters are clipped together. A step whose
        gradients are not finite is left out, on every process alike.

        Arguments
        ---------
        level : str
            "lower" or "upper"
        """
        optimizer = self.optimizers_dict[level]
        if level in self.freeze_optimizers(self.optimizers_dict):
            parameters = list(self.levels[level].values())
            average_gradients(parameters)
            self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(
                parameters, self.max_grad_norm
            )
            if self.scaler.is_enabled() or torch.isfinite(norm):
                self.scaler.step(optimizer)
            else:
                logger.warning(f"{level} level: gradients not finite, no step")
        optimizer.zero_grad(set_to_none=True)

    def init_optimizers(self):
        """An optimizer for each level, and the schedules."""
        if self.hypergradient is None:
            super().init_optimizers()
        else:
            lower, upper = Partition(self.hparams.upper).split(self.modules)
            self.levels = {"lower": lower, "upper": upper}
            self.optimizers_dict = {
                "lower": self.opt_class(list(lower.values())),
                "upper": self.hparams.upper_opt_class(list(upper.values())),
            }
            self._recoverable("optimizer", self.optimizers_dict)
            self.hypergradient.setup(self)
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

    def _recoverable(self, kind, objects):
        if self.checkpointer is not None:
            for name, obj in objects.items():
                self.checkpointer.add_recoverable(f"{name}_{kind}", obj)

    def make_dataloader(self, dataset, stage, *args, **loader_kwargs):
        """As SpeechBrain's, and sees that a batch sampler hears of epochs."""
        loader = super().make_dataloader(dataset, stage, *args, **loader_kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            self.train_sampler = loader_kwargs.get("batch_sampler")
        return loader

    def on_stage_start(self, stage, epoch=None):
        """Forgets the last epoch's upper losses."""
        if stage == sb.Stage.TRAIN:
            self.upper_losses, self.waiting = [], []
        super().on_stage_start(stage, epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Ends the strategy's epoch before the network is validated."""
        if stage == sb.Stage.TRAIN and self.hypergradient is not None:
            self.hypergradient.end_epoch(self, epoch)
            broadcast_buffers(self.modules)
        super().on_stage_end(stage, stage_loss, epoch)

    def level_stats(self):
        """For the train log: the mean upper loss since the epoch began, and
        the learning rates.

        Returns
        -------
        dict of str to float
        """
        stats = {}
        if self.upper_losses:
            stats["upper/loss"] = torch.stack(self.upper_losses).mean().item()
        for name, optimizer in (self.optimizers_dict or {}).items():
            level = "" if name == "opt_class" else f"{name}/"
            stats[f"{level}lr"] = optimizer.param_groups[0]["lr"]
        return stats

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Between the parts of an accumulated step, gradients would be lost.
        if self.step % self.grad_accumulation_factor != 0:
            return False
        return super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def _wrap_distributed(self):
        if self.distributed_launch and self.device_type == "cpu":
            wrap_on_cpu(self.modules, self.find_unused_parameters)
        else:
            super()._wrap_distributed()

    def _seed_step(self):
        seed = os.environ.get("SB_GLOBAL_SEED")
        if seed is None:
            return
        entropy = [int(seed), rank(), self.optimizer_step, self.step]
        words = np.random.SeedSequence(entropy).generate_state(3)
        torch.manual_seed(int(words[0]))
        np.random.seed(words[1])
        random.seed(int(words[2]))
