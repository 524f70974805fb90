"""A train logger for runs that may be killed and resumed."""

from pathlib import Path

from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.train_logger import FileTrainLogger

from speechbrain_bilevel.utils.files import write_atomically


class ResumableTrainLogger(FileTrainLogger):
    """SpeechBrain's ``FileTrainLogger``, with one line for each epoch.

    A run that was killed between an epoch's line and its checkpoint repeats
    that epoch; the earlier line is then replaced.

    Example
    -------
    >>> path = getfixture("tmp_path") / "log.txt"
    >>> logger = ResumableTrainLogger(path)
    >>> for loss in (0.5, 0.25):
    ...     logger.log_stats({"epoch": 1}, {"loss": loss}, verbose=False)
    >>> print(path.read_text().strip())
    epoch: 1 - train loss: 2.50e-01
    """

    @main_process_only
    def log_stats(self, stats_meta, *args, **kwargs):
        """Write the line; see ``FileTrainLogger.log_stats``."""
        path = Path(self.save_file)
        text = path.read_bytes() if path.exists() else b""
        lines = text.splitlines(keepends=True)
        start = f"{self._stats_to_string(stats_meta)} - ".encode()
        # Without an end, its writing was interrupted.
        kept = [
            line
            for line in lines
            if line.endswith(b"\n") and not line.startswith(start)
        ]
        if kept != lines:
            write_atomically(path.parent, {path.name: b"".join(kept)})
        super().log_stats(stats_meta, *args, **kwargs)
