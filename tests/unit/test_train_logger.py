"""The log of a training that was killed: a line for each epoch."""

from speechbrain_bilevel.utils.train_logger import ResumableTrainLogger


def test_damaged_and_repeated_lines(tmp_path):
    path = tmp_path / "log.txt"
    lines = b"epoch: 1 - \xff", b"epoch: 2 - old", b"epoch: 20 - x", b"epoch: 2"
    path.write_bytes(b"\n".join(lines))
    logger = ResumableTrainLogger(path)
    logger.log_stats({"epoch": 2}, {"loss": 2.0}, verbose=False)
    logger.log_stats({"epoch": 3}, {"loss": 3.0}, verbose=False)
    assert path.read_bytes().splitlines() == [
        b"epoch: 1 - \xff",
        b"epoch: 20 - x",
        b"epoch: 2 - train loss: 2.00",
        b"epoch: 3 - train loss: 3.00",
    ]
