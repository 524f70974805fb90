"""The audio files that paths, folders and patterns stand for."""

import glob
import os

#: What is taken of a folder. libsndfile cannot read the last ones: they are
#: taken too, so that they are refused by name and not passed over in silence.
ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"),
    *(".aifc", ".au", ".caf", ".w64", ".rf64", ".sph"),
    *(".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm"),
)


def find_audio(paths):
    """Lists audio files.

    Arguments
    ---------
    paths : str, Path or list of str or Path
        Files, as they are; folders, of which all files with an audio file's
        ending are taken, sorted, those in folders within them too; and
        patterns with ``*``, ``?`` or ``**``. What leads nowhere is kept, for
        whoever opens it to complain.

    Returns
    -------
    list of str

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.FLAC", "notes.txt"):
    ...     (folder / name).touch()
    >>> [os.path.basename(path) for path in find_audio(folder)]
    ['a.FLAC', 'b.wav']
    >>> [os.path.basename(path) for path in find_audio(folder / "*.txt")]
    ['notes.txt']
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found = []
    for path in map(os.fspath, paths):
        matches = [path]
        if not os.path.exists(path):
            matches = sorted(glob.glob(path, recursive=True)) or [path]
        for match in matches:
            inside = _audio_in(match) if os.path.isdir(match) else []
            found += inside or [match]
    return found


def _audio_in(folder):
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in ENDINGS
        and not name.startswith(".")
    )
