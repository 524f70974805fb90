"""A second level for the training loop of any SpeechBrain Brain."""

import functools
import importlib
import sys

import speechbrain as sb
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.distributed import (
    broadcast_buffers,
    rank,
    wrap_on_cpu,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.hypergradients.step import MeanLoss, Part
from speechbrain_bilevel.late import LateValues
from speechbrain_bilevel.levels import LevelsMixin
from speechbrain_bilevel.problem import LevelBatch
from speechbrain_bilevel.randomness import seed_step

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
