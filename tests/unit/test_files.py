"""Written files: whole or not at all, and nobody else's is touched."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest
from full_disk import disk_full_after

from speechbrain_bilevel.utils import files
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import (
    check_target,
    write_atomically,
)


def test_a_full_disk_leaves_all_as_it_was(tmp_path):
    write_atomically(tmp_path, {"a": "old", "b": "old"})
    with disk_full_after(10), pytest.raises(InputError, match="too large"):
        write_atomically(tmp_path, {"a": "new", "b": 20 * "new"})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "old"


def test_lines_that_end_in_an_error_leave_all_as_it_was(tmp_path):
    def lines():
        yield "new\n"
        raise KeyboardInterrupt

    write_atomically(tmp_path, {"a": "old"})
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path, {"a": lines()})
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_among_the_targets_leaves_all_as_it_was(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        write_atomically(tmp_path, {"a": "new", "b": "new"})
    assert os.listdir(tmp_path) == ["b"]


def test_links_are_followed(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to("big/real")
    write_atomically(tmp_path, {"link": "text"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "big" / "real").read_text() == "text"


def test_pipes_and_devices_are_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular"):
        write_atomically(tmp_path, {"pipe": "text"})
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    for path in tmp_path / "pipe", "/dev/null":
        with pytest.raises(InputError, match="not a regular file but a dev"):
            check_target(path)


def test_no_name_of_ours_is_one_of_a_user_s(tmp_path):
    others = [f"{dot}a{end}" for dot in ("", ".") for end in (".tmp", ".part")]
    for name in others:
        (tmp_path / name).write_text("precious")
    write_atomically(tmp_path, {"a": "text"})
    assert all((tmp_path / name).read_text() == "precious" for name in others)
    assert len(os.listdir(tmp_path)) == 1 + len(others)


def test_files_are_as_readable_as_others(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / "new" / "folder", {"a": "text"})
    modes = [
        path.stat().st_mode
        for path in (tmp_path / "other", tmp_path / "new" / "folder" / "a")
    ]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    "name, fault",
    [
        (".", "Is a directory"),
        ("file/x", "Not a directory"),
        ("file/x/y", "Not a directory"),
        (300 * "x", "File name too long"),
    ],
)
def test_a_target_is_checked_before_the_work(tmp_path, name, fault):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"cannot be written \({fault}\)"):
        check_target(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_good_target_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("text")
    check_target(tmp_path / "file", b"text")
    check_target(tmp_path / "not" / "there" / "yet")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("kind", ["file", "link", "empty"])
def test_only_what_has_the_mark_is_replaced(tmp_path, kind):
    mine, target = tmp_path / "mine", tmp_path / "target"
    mine.write_text("" if kind == "empty" else "what was here before")
    target.symlink_to(mine) if kind == "link" else mine.rename(target)
    for mark in (None, b"{made by us}"):
        with pytest.raises(InputError, match="target: exists, and this comm"):
            check_target(target, mark)
    check_target(tmp_path / "new")
    target.write_text("\n{made by us}")
    check_target(target, b"{made by us}")
    assert target.read_text() == "\n{made by us}"


# ------------------------------------------------------------------ two at once
HOLD = """
import sys, time
from speechbrain_bilevel.utils.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_run(tmp_path):
    """Another process, which writes the file ``held``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "held")],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_what_another_run_writes_is_refused(tmp_path, other_run, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    for write in (
        lambda: check_target(tmp_path / "held"),
        lambda: write_atomically(tmp_path, {"free": "", "held": "mine"}),
        lambda: files.lock_for(tmp_path, tmp_path / "held"),
    ):
        with pytest.raises(InputError, match="held: another run is writing"):
            write()
    assert os.listdir(tmp_path) == [".held.lock"]
    other_run.kill()
    other_run.wait()
    write_atomically(tmp_path, {"held": "mine"})
    assert os.listdir(tmp_path) == ["held"]


def test_a_lock_is_held_until_its_last_user_has_ended(tmp_path):
    class Owner:
        pass

    owner = Owner()
    files.lock_for(owner, tmp_path / "a")
    write_atomically(tmp_path, {"a": "text"})
    assert sorted(os.listdir(tmp_path)) == [".a.lock", "a"]
    pid = os.fork()
    if pid == 0:
        # As in a process of a DataLoader.
        del owner
        os._exit(not os.path.exists(tmp_path / ".a.lock"))
    assert os.waitpid(pid, 0)[1] == 0
    del owner
    assert os.listdir(tmp_path) == ["a"]


def test_a_drive_without_locks(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="this drive has no locks .No locks"):
        write_atomically(tmp_path, {"a": "text"})
    assert (tmp_path / "a").read_text() == "text"


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = ".a[1].0123abcd.tmp", ".folder.0123abcd.tmp"
    mine = ".a[1].tmp", ".a1.0123abcd.tmp", ".a[1].my_notes.tmp"
    for name in (left[0], *mine):
        (tmp_path / name).touch()
    (tmp_path / left[1] / "inner").mkdir(parents=True)
    write_atomically(tmp_path, {"a[1]": "text"})
    check_target(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "a[1]"])


# ------------------------------------------------------------ sets and folders
def test_sets_are_not_mixed(tmp_path, monkeypatch):
    old = {"a": "old", "b": "old", "c": "old"}
    write_atomically(tmp_path, old)
    seen = []
    replace = os.replace

    def look(new, target):
        seen.append({p.name: p.read_text() for p in tmp_path.glob("[abc]")})
        replace(new, target)

    monkeypatch.setattr(os, "replace", look)
    write_atomically(tmp_path, {"a": "new", "b": "new"}, remove=old)
    assert seen == [{}, {"a": "new"}]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folders_are_exchanged(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    files.replace_folder(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "new"
    assert (tmp_path / "new" / "file").read_text() == "old"
    files.replace_folder(tmp_path / "new", tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["old", "other"]
