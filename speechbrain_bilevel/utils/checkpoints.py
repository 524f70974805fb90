"""A Checkpointer whose checkpoints are always complete, and what is in them."""

import logging
import pickle
import shutil

import torch
from speechbrain.utils.checkpoints import (
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger
from yaml import YAMLError

from speechbrain_bilevel.utils.errors import InputError, shorten
from speechbrain_bilevel.utils.files import lock_for, sync

logger = get_logger(__name__)


_UNFINISHED = "unfinished+"


@register_checkpoint_hooks
class EpochRecords:
    """Numbers of the steps of an epoch, in every checkpoint within it.

    Example
    -------
    >>> records = EpochRecords()
    >>> records.add("loss", torch.tensor(2.0))
    >>> records.add("loss", torch.tensor(3.0))
    >>> records.means()
    {'loss': 2.5}
    """

    def __init__(self):
        self.values = {}

    def add(self, name, value):
        """Add a number, a scalar tensor."""
        self.values.setdefault(name, []).append(value.detach())

    def means(self):
        """Return the mean of each name's numbers, without infinite ones."""
        stacks = self._stacked().items()
        return {name: x[x.isfinite()].mean().item() for name, x in stacks}

    def _stacked(self):
        return {
            name: torch.stack([value.float().cpu() for value in values])
            for name, values in self.values.items()
        }

    @mark_as_saver
    def save(self, path):
        """Save the numbers."""
        torch.save(self._stacked(), path)

    @mark_as_loader
    def load(self, path, end_of_epoch):
        """Load the numbers, unless the epoch is at its end."""
        saved = {} if end_of_epoch else torch.load(path, weights_only=True)
        self.values = {name: [*values] for name, values in saved.items()}


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed while it saves.

    SpeechBrain marks a folder as a checkpoint before it is complete, so a run
    killed in between would resume from an incomplete one. Here it is filled
    under another name and renamed. Other processes, but those of the same
    distributed training, are refused as long as it is in use.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmpdir")
    >>> checkpointer = AtomicCheckpointer(
    ...     folder, {"network": torch.nn.Linear(1, 1)}
    ... )
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> checkpointer.find_checkpoint().path == checkpoint.path
    True
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told = set()
        if if_main_process():
            lock_for(self, self.checkpoints_dir)

    def save_checkpoint(self, *args, verbosity=logging.INFO, **kwargs):
        """Save a checkpoint; see ``Checkpointer.save_checkpoint``.

        Raises
        ------
        InputError
            If it cannot be written, e.g. on a full disk. Earlier checkpoints
            are untouched.
        """
        try:
            if if_main_process():
                for leftover in self.checkpoints_dir.glob(_UNFINISHED + "*"):
                    shutil.rmtree(leftover)
            checkpoint = super().save_checkpoint(
                *args, verbosity=logging.DEBUG, **kwargs
            )
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.checkpoints_dir}: the checkpoint could not be written "
                f"({error}); free some space and start again: training resumes "
                "from the last checkpoint"
            ) from error
        # Every process has saved its part before the name becomes valid.
        ddp_barrier()
        if checkpoint is not None:
            folder = checkpoint.path
            for file in folder.iterdir():
                sync(file)
            final = folder.with_name(folder.name.removeprefix(_UNFINISHED))
            # Remove an earlier one with the same custom name.
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
            logger.log(verbosity, f"Saved a checkpoint in {final}")
            checkpoint = checkpoint._replace(
                path=final,
                paramfiles={
                    key: final / path.name
                    for key, path in checkpoint.paramfiles.items()
                },
            )
        ddp_barrier()
        return checkpoint

    def save_and_keep_only(self, *args, importance_keys=(), **kwargs):
        """Save one, delete others; see ``Checkpointer.save_and_keep_only``."""
        # SpeechBrain 1.1.2 extends its default list with each call, and reads
        # all checkpoints once for each of its items.
        super().save_and_keep_only(
            *args, importance_keys=list(importance_keys), **kwargs
        )

    def list_checkpoints(self):
        """List all checkpoints, but name and leave out those without intact
        CKPT.yaml. Raise an ``InputError`` if there is no other."""
        found, damaged = [], []
        for folder in self._list_checkpoint_dirs():
            try:
                found += self._construct_checkpoint_objects([folder])
                # By which SpeechBrain finds the newest.
                found[-1].meta["unixtime"]
            except (OSError, ValueError, TypeError, KeyError, YAMLError):
                found = [each for each in found if each.path != folder]
                damaged.append(str(folder))
        if damaged and not found:
            raise InputError(
                f"{', '.join(damaged)}: damaged, and there is no other "
                "checkpoint to go on from; delete this folder to start anew"
            )
        for folder in damaged:
            if folder not in self.told:
                logger.warning(f"{folder}: CKPT.yaml is damaged; passed over")
        self.told.update(damaged)
        return found

    def recover_if_possible(self, *args, max_key=None, min_key=None, **kwargs):
        """Load one; see ``Checkpointer.recover_if_possible``.

        Raise an ``InputError`` if the best one by a key is asked for, and there
        is none: what is used next would be untrained.
        """
        found = super().recover_if_possible(
            *args, max_key=max_key, min_key=min_key, **kwargs
        )
        if found is None and (key := max_key or min_key):
            raise InputError(
                f"{self.checkpoints_dir}: has no checkpoint with {key}; train "
                "for at least one epoch"
            )
        return found

    def load_checkpoint(self, checkpoint):
        """Load a checkpoint; see ``Checkpointer.load_checkpoint``.

        Raises
        ------
        InputError
            If the checkpoint is of another network or damaged.
        """
        try:
            return super().load_checkpoint(checkpoint)
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            YAMLError,
            pickle.UnpicklingError,
        ) as error:
            others = [
                (each.meta["unixtime"], str(each.path))
                for each in self.list_checkpoints()
                if each.path != checkpoint.path
            ]
            advice = (
                "use another output_folder or the sizes it was trained with"
            )
            if others:
                advice += "; if it is damaged, delete it, to go on from "
                advice += max(others)[1]
            raise InputError(
                f"{checkpoint.path}: the checkpoint does not fit what this "
                f"YAML builds ({shorten(str(error), 300)}); {advice}"
            ) from error

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(_UNFINISHED + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(_UNFINISHED + path.name)
