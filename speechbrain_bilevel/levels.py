"""Each level's parameters, optimizer, gradients and numbers for the log."""

import functools

import torch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel import preflight
from speechbrain_bilevel.distributed import average_gradients
from speechbrain_bilevel.hypergradients.substitution import Substitution
from speechbrain_bilevel.hypergradients.vectors import shaped
from speechbrain_bilevel.problem import Partition

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
