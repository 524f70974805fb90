"""A Checkpointer whose checkpoints are always complete."""

import logging
import pickle
import shutil

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)


_UNFINISHED = "unfinished+"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed while it saves.

    SpeechBrain marks a folder as a checkpoint before it is complete, so a run
    killed in between would resume from an incomplete one. Here it is filled
    under another name and renamed.

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
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise InputError(
                f"{checkpoint.path}: the checkpoint does not fit what this "
                "YAML builds; use another output_folder or the sizes it was "
                f"trained with ({error})"
            ) from error

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(_UNFINISHED + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(_UNFINISHED + path.name)
