"""Write files and folders so that they are complete or do not exist.

Each is written under a temporary name beside its own, ``.NAME.*.tmp``, brought
to the disk, and renamed; meanwhile ``.NAME.lock`` keeps other runs from writing
the same. What a killed run leaves of both is removed by the next.
"""

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
import warnings
import weakref
from pathlib import Path

from speechbrain_bilevel.utils.errors import InputError

# Its notes on each lock are not for a training's log.
logging.getLogger("filelock").setLevel(logging.WARNING)

#: Is in the head of files that commands may replace.
MARK = "speechbrain_bilevel"
_HEAD = 4096
# Processes that read for a killed run notice within 5 s, and hold its locks.
_PATIENCE = 8
# As on some network drives.
_NO_LOCKS = errno.ENOLCK, errno.ENOTSUP


def write_atomically(folder, contents, remove=()):
    """Write files to a folder, each completely or not at all.

    Arguments
    ---------
    folder : str or Path
        It is created.
    contents : dict
        The content of each file by its name: str (written as UTF-8), bytes, or
        an iterable of str, for files larger than memory. Symbolic links are
        followed.
    remove : tuple of str
        Names of files to remove before any file is there: of an earlier set,
        which must not be mixed with the new one.

    Raises
    ------
    InputError
        If a file cannot be written, or is a folder or a device; every file is
        then as it was.
    """
    folder = Path(folder)
    written = []
    with contextlib.ExitStack() as locks:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            targets = {name: _target(folder / name) for name in contents}
            for target in targets.values():
                locks.enter_context(locked(target))
            for name, content in contents.items():
                with open(temporary(targets[name]), "xb") as file:
                    written.append(file.name)
                    file.writelines(_encode(content))
                    file.flush()
                    os.fsync(file.fileno())
            for name in remove:
                (folder / name).unlink(missing_ok=True)
            for new, target in zip(written, targets.values()):
                os.replace(new, target)
        except OSError as error:
            where = ", ".join(str(folder / name) for name in contents)
            raise _not_written(where, error) from error
        finally:
            for new in written:
                with contextlib.suppress(OSError):
                    os.unlink(new)


def replace_folder(new, folder):
    """Rename a folder; what was there before, if anything, is then ``new``.

    In one step where the system can exchange names, as Linux does on its own
    file systems; elsewhere there is no ``folder`` for an instant.
    """
    for file in new.rglob("*"):
        if file.is_file():
            sync(file)
    if not folder.exists():
        os.rename(new, folder)
    elif not _exchange(new, folder):
        # No name of what is removed as a leftover.
        earlier = folder.with_name(f".{folder.name}.earlier")
        os.rename(folder, earlier)
        os.rename(new, folder)
        os.rename(earlier, new)


def _exchange(one, other):
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2
    names = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    return rename and not rename(here, names[0], here, names[1], exchange)


def sync(path):
    """Bring a file to the disk, before a rename that vouches for it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def temporary(path):
    """Return a new name beside a path that is locked."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def locked(path):
    """Keep other runs from writing a file or folder, and tidy up after them.

    Raise an ``InputError`` if another run holds it, and an ``OSError`` if its
    folder cannot be written.

    Example
    -------
    >>> with locked(getfixture("tmp_path") / "scores.txt"):
    ...     pass
    """
    # Most commands need no lock, and it takes a while to import.
    from filelock import FileLock, Timeout

    path = Path(os.path.realpath(path))
    lock = FileLock(
        path.with_name(f".{path.name}.lock"),
        timeout=_PATIENCE,
        is_singleton=True,
    )
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{path}: another run is writing it; wait for its end, or choose "
            "another name"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path.parent}: this drive has no locks ({error.strerror}); start "
            "one run at a time",
            stacklevel=3,
        )
    try:
        if lock.lock_counter == 1:
            _remove_leftovers(path)
        yield
    finally:
        # Not in a process that was forked from the holder.
        if lock.lock_counter == 1:
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
        lock.release()


def lock_for(owner, path):
    """Lock a path, see ``locked``, for as long as an object exists."""
    lock = contextlib.ExitStack()
    try:
        lock.enter_context(locked(path))
    except OSError as error:
        raise _not_written(path, error) from error
    weakref.finalize(owner, lock.close)


def _remove_leftovers(path):
    name = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"
    for leftover in path.parent.glob(name):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def check_target(path, mark=None):
    """Check, before long work, that its result can be written to ``path``.

    The folder need not exist. A file that exists may be replaced only if this
    package wrote it: ``mark``, bytes, is then among the first of the file.
    Raise an ``InputError`` if it is not so, or cannot be written.
    """
    try:
        target = _target(path)
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with locked(folder / target.name):
            if target.exists() and not is_marked(target, mark):
                raise InputError(
                    f"{path}: exists, and this command did not write it; "
                    "choose a new name, or delete it, so that nothing is lost"
                )
            # A long name might fit, but not this one.
            new = temporary(folder / target.name)
            new.touch()
            new.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def is_marked(path, mark):
    """Whether a file has these bytes among its first; None is in no file."""
    with open(path, "rb") as file:
        return mark is not None and mark in file.read(_HEAD)


def sha256(path):
    """Return the digest of a file, or None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def read_stamp(path):
    """Return the object in a JSON file of ours, {} if there is none intact."""
    try:
        stamp = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


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
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file but a device or a pipe")
    return path
