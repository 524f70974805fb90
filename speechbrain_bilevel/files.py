"""Writing files so that a killed run leaves none of them half-written."""

import os
from pathlib import Path


def write_atomically(folder, texts):
    """Writes text files so that each is seen whole or not at all.

    All are written under temporary names first, so that a full disk leaves
    every file as it was.

    Arguments
    ---------
    folder : str or Path
        Where they go; it exists.
    texts : dict of str to str
        The text of each file by its name.

    Raises
    ------
    OSError
        If they cannot be written.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_atomically(folder, {"a.txt": "one", "b.txt": "two"})
    >>> sorted(path.name for path in folder.iterdir())
    ['a.txt', 'b.txt']
    """
    folder = Path(folder)
    temporary = {name: folder / f"{name}.tmp" for name in texts}
    try:
        for name, text in texts.items():
            temporary[name].write_text(text, encoding="utf-8")
        for name in texts:
            os.replace(temporary[name], folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
