"""Checkpoints are whole or not there, whatever stops the saving."""

import subprocess
import sys

import pytest
import torch
from full_disk import disk_full_after
from speechbrain.dataio.dataloader import SaveableDataLoader

from speechbrain_bilevel.utils.checkpoints import AtomicCheckpointer
from speechbrain_bilevel.utils.errors import InputError


def network(value=0.0, size=1):
    """A network of one number."""
    network = torch.nn.Linear(size, size)
    torch.nn.init.constant_(network.weight, value)
    return network


def recovered(folder, **find):
    """The number in the checkpoint that a new run would take."""
    net = network()
    AtomicCheckpointer(folder, {"network": net}).recover_if_possible(**find)
    return net.weight.item()


def checkpoints(folder):
    """Names of all that lies in the folder."""
    return sorted(path.name for path in folder.iterdir())


def save_killed(folder, value, name=None):
    """Saves the network, and is stopped while it saves what comes next."""

    def stop(_, path):
        path.write_bytes(b"half a fi")
        raise KeyboardInterrupt

    checkpointer = AtomicCheckpointer(folder, {"network": network(value)})
    checkpointer.add_recoverable("optimizer", object(), custom_save_hook=stop)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint(name=name)


@pytest.mark.parametrize("name", [None, "best"])
def test_a_stopped_save_is_no_checkpoint(tmp_path, name):
    save_killed(tmp_path, 1.0, name)
    assert AtomicCheckpointer(tmp_path).find_checkpoint() is None

    whole = AtomicCheckpointer(tmp_path, {"network": network(2.0)})
    first = whole.save_checkpoint(name=name).path.name
    assert checkpoints(tmp_path) == [first]

    save_killed(tmp_path, 3.0, name)
    assert len(checkpoints(tmp_path)) == 2
    assert recovered(tmp_path) == 2.0

    # The next save clears away what this one and older ones left.
    (tmp_path / "unfinished+CKPT+2020-02-02+20-20-20+00").mkdir()
    last = AtomicCheckpointer(tmp_path, {"network": network(4.0)})
    second = last.save_checkpoint(name=name).path.name
    assert checkpoints(tmp_path) == sorted({first, second})
    assert recovered(tmp_path) == 4.0


KILLED = """
import os, sys, torch
from speechbrain_bilevel.utils.checkpoints import AtomicCheckpointer
network = torch.nn.Linear(1, 1)
torch.nn.init.constant_(network.weight, 2.0)
checkpointer = AtomicCheckpointer(sys.argv[1], {"network": network})
checkpointer.add_recoverable(
    "optimizer", object(), custom_save_hook=lambda _, path: os._exit(9)
)
checkpointer.save_checkpoint()
"""


def test_a_killed_process_goes_on_from_the_last_whole_one(tmp_path):
    AtomicCheckpointer(tmp_path, {"network": network(1.0)}).save_checkpoint()
    result = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True
    )
    assert result.returncode == 9, result.stderr
    half, _ = checkpoints(tmp_path)[::-1]
    assert half.startswith("unfinished+")
    assert (tmp_path / half / "network.ckpt").is_file()
    assert recovered(tmp_path) == 1.0


def test_a_full_disk_is_told_and_earlier_checkpoints_stay(tmp_path):
    AtomicCheckpointer(tmp_path, {"network": network(1.0)}).save_checkpoint()
    large = {"network": network(2.0), "large": network(size=300)}
    checkpointer = AtomicCheckpointer(tmp_path, large)
    with disk_full_after(100_000), pytest.raises(InputError) as error:
        checkpointer.save_checkpoint()
    expected = f"{tmp_path}: the checkpoint could not be written ("
    assert str(error.value).startswith(expected)
    assert "free some space and start again" in str(error.value)
    assert len(AtomicCheckpointer(tmp_path).list_checkpoints()) == 1
    assert recovered(tmp_path) == 1.0


def test_what_is_returned_lies_where_it_says(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"network": network(1.0)})
    saved = checkpointer.save_checkpoint(meta={"EER": 2.5})
    found = checkpointer.find_checkpoint()
    assert found.path == saved.path
    assert found.meta == saved.meta and saved.meta["EER"] == 2.5
    assert found.paramfiles == saved.paramfiles
    assert saved.paramfiles["network"].is_file()


def test_a_custom_name_holds_what_was_saved_last(tmp_path):
    for value in (1.0, 2.0):
        checkpointer = AtomicCheckpointer(tmp_path, {"network": network(value)})
        checkpointer.save_checkpoint(name="best")
    assert checkpoints(tmp_path) == ["CKPT+best"]
    assert recovered(tmp_path) == 2.0


def test_only_the_best_and_the_last_are_kept(tmp_path):
    net = network()
    checkpointer = AtomicCheckpointer(tmp_path, {"network": net})
    for value, eer in enumerate([3.0, 1.0, 2.0, 2.5], start=1):
        torch.nn.init.constant_(net.weight, value)
        checkpointer.save_and_keep_only(meta={"EER": eer}, min_keys=["EER"])
        assert all(name.startswith("CKPT+") for name in checkpoints(tmp_path))
    assert len(checkpoints(tmp_path)) == 2
    assert recovered(tmp_path, min_key="EER") == 2.0
    assert recovered(tmp_path) == 4.0


def test_the_tenth_save_takes_no_longer_than_the_first(tmp_path, monkeypatch):
    checkpointer = AtomicCheckpointer(tmp_path, {"network": network()})
    searches = []
    find = checkpointer.find_checkpoints

    def counted(**keys):
        searches[-1] += 1
        return find(**keys)

    monkeypatch.setattr(checkpointer, "find_checkpoints", counted)
    for _ in range(10):
        searches.append(0)
        checkpointer.save_and_keep_only()
    assert set(searches) == {searches[0]} and searches[0] > 0


def test_a_data_loader_is_saved_with_the_rest(tmp_path):
    # SpeechBrain resumes inside an epoch from what the loader saved.
    loader = SaveableDataLoader(range(10))
    checkpointer = AtomicCheckpointer(tmp_path, {"dataloader-TRAIN": loader})
    batches = iter(loader)
    seen = [next(batches).item() for _ in range(4)]
    checkpointer.save_checkpoint(end_of_epoch=False)
    again = SaveableDataLoader(range(10))
    AtomicCheckpointer(
        tmp_path, {"dataloader-TRAIN": again}
    ).recover_if_possible()
    assert seen + [batch.item() for batch in again] == list(range(10))


def other_shape(folder):
    """A run whose network is larger."""
    return {"network": network(size=2)}


def other_part(folder):
    """A run that has something more to load."""
    return {"network": network(), "optimizer": network()}


def damaged(content):
    """A run as before, whose checkpoint has been damaged."""

    def damage(folder):
        path = next(folder.glob("*/network.ckpt"))
        whole = path.read_bytes()
        path.write_bytes(whole[:1000] if content is None else content)
        return {"network": network()}

    return damage


@pytest.mark.parametrize(
    "change",
    [
        other_shape,
        other_part,
        damaged(b"hello"),
        damaged(b"cposix\nsystem\n."),
        damaged(b""),
        damaged(None),
        damaged(b"PK\3\4" + bytes(5000)),
    ],
    ids=["other-shape", "other-part", "text", "code", "empty", "cut", "zeros"],
)
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, change):
    AtomicCheckpointer(tmp_path, {"network": network()}).save_checkpoint()
    recoverables = change(tmp_path)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables)
    with pytest.raises(InputError, match="does not fit what this") as error:
        checkpointer.recover_if_possible()
    [name] = checkpoints(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: ")


def two_checkpoints(folder):
    """The older and the newer one, of networks of 1 and of 2."""
    net = network(1.0)
    checkpointer = AtomicCheckpointer(folder, {"network": net})
    older = checkpointer.save_checkpoint(name="older", meta={"unixtime": 1})
    torch.nn.init.constant_(net.weight, 2.0)
    return older.path, checkpointer.save_checkpoint(name="newer").path


@pytest.mark.parametrize("content", [b"", b"{", b"end-of-epoch: true", b"\xff"])
def test_the_older_one_is_taken_if_the_meta_of_the_newer_is_damaged(
    tmp_path, caplog, content
):
    _, newer = two_checkpoints(tmp_path)
    (newer / "CKPT.yaml").write_bytes(content)
    assert recovered(tmp_path) == 1.0
    assert f"{newer}: CKPT.yaml is damaged; passed over" in caplog.text


def test_no_checkpoint_is_left(tmp_path):
    for path in two_checkpoints(tmp_path):
        (path / "CKPT.yaml").write_bytes(b"")
    with pytest.raises(InputError, match="older: damaged, .* start anew"):
        recovered(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, b"PK"])
def test_damaged_contents_name_the_older_one(tmp_path, content):
    older, newer = two_checkpoints(tmp_path)
    (newer / "network.ckpt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        recovered(tmp_path)
    assert str(newer) in str(caught.value)
    assert f"delete it, to go on from {older}" in str(caught.value)
    assert len(str(caught.value)) < 1000
