"""A limit on the size of files, which stands in for a full disk."""

import contextlib
import resource


@contextlib.contextmanager
def disk_full_after(size):
    """Meanwhile no file can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
