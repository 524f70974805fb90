"""Write files so that a killed run never leaves an incomplete one."""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from speechbrain_bilevel.utils.errors import InputError

#: Is in the head of files that commands may replace.
MARK = "speechbrain_bilevel"
_HEAD = 4096


def write_atomically(folder, contents):
    """Write files to a folder, each completely or not at all.

    ``contents`` has the content of each file by its name: str (written as
    UTF-8), bytes, or an iterable of str, for files larger than memory. All are
    first written under temporary names, so that a full disk leaves every file
    as it was. The folder is created; symbolic links are followed. Raise an
    ``InputError`` if a file cannot be written, or is a folder or a device.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        targets = {name: _target(folder / name) for name in contents}
        for name, content in contents.items():
            with _open_temporary(targets[name]) as file:
                written.append(file.name)
                file.writelines(_encode(content))
        for temporary, target in zip(written, targets.values()):
            os.replace(temporary, target)
    except OSError as error:
        where = ", ".join(str(folder / name) for name in contents)
        raise _not_written(where, error) from error
    finally:
        for temporary in written:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def check_target(path, mark=None):
    """Check, before long work, that its result can be written to ``path``.

    The folder need not exist. A file that exists may be replaced only if this
    package wrote it: ``mark``, bytes, is then among the first of the file.
    Raise an ``InputError`` if it is not so, or cannot be written.
    """
    try:
        target = _target(path)
        if target.exists() and not is_marked(target, mark):
            raise InputError(
                f"{path}: exists, and this command did not write it; choose a "
                "new name, or delete it, so that nothing is lost"
            )
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        with _open_temporary(folder / target.name) as file:
            os.unlink(file.name)
    except OSError as error:
        raise _not_written(path, error) from error


def is_marked(path, mark):
    """Whether a file has these bytes among its first; None is in no file."""
    with open(path, "rb") as file:
        return mark is not None and mark in file.read(_HEAD)


def _not_written(path, error):
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}); expected a "
        "file name, in a folder that is writable and has room"
    )


def _encode(content):
    if isinstance(content, bytes):
        return [content]
    parts = [content] if isinstance(content, str) else content
    return (part.encode("utf-8") for part in parts)


def _target(path):
    """Return the file itself if the path is a link to it."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file but a device or a pipe")
    return path


def _open_temporary(path):
    """Open a new file beside the path, never an existing file or link."""
    name = f".{path.name}.{secrets.token_hex(4)}.tmp"
    return open(path.with_name(name), "xb")
