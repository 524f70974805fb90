"""Write files so that a killed run never leaves a half-written one."""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from speechbrain_bilevel.utils.errors import InputError


def write_atomically(folder, contents):
    """Write files so that each is seen whole or not at all.

    All are written under temporary names first, so that a full disk leaves
    every file as it was. Symbolic links are followed.

    Arguments
    ---------
    folder : str or Path
        Created if it does not exist.
    contents : dict of str to (str, bytes or iterable of str)
        What each file holds, by its name; text is written as UTF-8. An
        iterable is written item by item, for files larger than memory.

    Raises
    ------
    InputError
        If they cannot be written, or a target is a folder or a device.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lines = (f"{n}\\n" for n in range(3))
    >>> write_atomically(folder, {"a.txt": lines, "b.bin": b"two"})
    >>> (folder / "a.txt").read_text().split()
    ['0', '1', '2']
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


def check_target(path):
    """Find out before long work whether its result can be written.

    Arguments
    ---------
    path : str or Path
        The file to be written; its folder need not exist.

    Raises
    ------
    InputError
        If it could not be written.

    Example
    -------
    >>> check_target("/")
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.utils.errors.InputError: /: cannot be written (Is a \
directory); expected a file name, in a folder that is writable and has room
    """
    try:
        target = _target(path)
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        with _open_temporary(folder / target.name) as file:
            os.unlink(file.name)
    except OSError as error:
        raise _not_written(path, error) from error


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
    """The file itself where the path is a link to it."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file but a device or a pipe")
    return path


def _open_temporary(path):
    """A new file beside the path; an existing file or link is never opened."""
    name = f".{path.name}.{secrets.token_hex(4)}.tmp"
    return open(path.with_name(name), "xb")


def refuse_overwriting(targets, inputs):
    """Refuse to write a file that is also read.

    Arguments
    ---------
    targets : iterable of str or Path
        What is to be written.
    inputs : iterable of str or Path
        What is read; None is skipped.

    Raises
    ------
    InputError
        If two are the same file, by whatever names.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> path.touch()
    >>> refuse_overwriting([path], [None, "other.txt"])
    """
    inputs = [path for path in inputs if path and os.path.exists(path)]
    for target in filter(os.path.exists, targets):
        for path in inputs:
            if os.path.samefile(target, path):
                raise InputError(
                    f"{target}: would replace the input {path}; choose another "
                    "name to write to, so that nothing is lost"
                )
