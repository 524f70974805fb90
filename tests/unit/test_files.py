"""Written files: whole or not at all, and nobody else's is touched."""

import os
import stat

import pytest
from full_disk import disk_full_after

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
