"""Trials and their audio in parquet files, as the ``datasets`` library writes
them, in a folder or on the Hugging Face hub.

A row is named like a file: ``some/file.parquet#7`` is the audio of row 7,
counted from 0. Of files on the hub, ``hf://datasets/USER/NAME/...``, only what
is needed is fetched, and nothing is stored.
"""

import contextlib
import functools
import io
import json
import os
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, HfFileSystem

from speechbrain_bilevel.utils.errors import InputError, printable

#: How the paths of the hub's data sets begin.
HUB = "hf://"
#: The audio of a row group, which is read at once, may take so many bytes.
LARGEST = 1 << 30

_ROW = re.compile(r"(.+\.parquet)#(\d+)", re.DOTALL)
# Words in a file's name -> partition.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "eval"),
}
# What columns, and keys of the JSON in `notes`, are called; the first counts.
_NAMES = {
    "label": ("label", "key"),
    "utt": ("utterance_id", "utt_id", "audio_file_name", "path"),
    "speaker": ("speaker", "speaker_id"),
    "attack": ("attack", "attack_id", "system_id"),
}
_EXPECTED = (
    "expected an intact parquet file with a column of audio and one of labels, "
    "as the datasets library writes it"
)
# Files to keep open, and rows to read at once: of columns, of audio.
_OPEN, _ROWS, _CLIPS = 16, 1 << 14, 16


class _File(NamedTuple):
    """An open file, its column of audio, and where its row groups begin."""

    parquet: pq.ParquetFile
    audio: str
    starts: np.ndarray


def split_row(path):
    """Return the file and the row that a path names; the row may be None.

    Example
    -------
    >>> split_row("data/test.parquet#7")
    ('data/test.parquet', 7)
    >>> split_row("call.wav")
    ('call.wav', None)
    """
    path = os.fspath(path)
    found = isinstance(path, str) and _ROW.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, None)


def open_binary(path):
    """Open a file, or the audio of a row, for reading bytes.

    Raise an ``InputError`` if the row, or audio in it, cannot be read.
    """
    file, row = split_row(path)
    return open(path, "rb") if row is None else io.BytesIO(_audio(file, row))


def exists(path):
    """Whether there is such a file; those on the hub are not asked for."""
    file, _ = split_row(path)
    return _on_hub(file) or os.path.exists(file)


def file_version(path):
    """Return a number for the content of a file: for its size and time, on the
    hub for its hash; 0 without one."""
    file, _ = split_row(path)
    if _on_hub(file):
        return _hub_version(file)
    try:
        found = os.stat(file)
    except OSError:
        return 0
    return (found.st_mtime_ns ^ found.st_size << 20) & 0x7FFF_FFFF_FFFF_FFFF


def _on_hub(path):
    return isinstance(path, str) and path.startswith(HUB)


@functools.lru_cache
def _hub_version(file):
    with _naming(file):
        return int(HfFileSystem().info(file)["blob_id"][:15], 16)


@contextlib.contextmanager
def _naming(path):
    """Raise an ``InputError`` for the many errors of pyarrow and of the hub."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        words = printable(" ".join(str(error).split()), 200)
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {words}); "
            f"{_EXPECTED}"
        ) from error


# ---------------------------------------------------------------------- trials
def is_parquet(path):
    """Whether a path is a parquet file, a folder of such or on the hub."""
    path = os.fspath(path)
    if os.path.isdir(path):
        return next(_local_files(path), None) is not None
    return _on_hub(path) or path.endswith(".parquet")


def _local_files(folder):
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in sorted(names):
            if name.endswith(".parquet") and not name.startswith("."):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _files(path):
    """Return the folder of a path, and the names of the files in it."""
    if os.path.isdir(path):
        return path, list(_local_files(path))
    if not _on_hub(path) or path.endswith(".parquet"):
        return os.path.split(path)
    path = path.rstrip("/")
    with _naming(path):
        found = HfFileSystem().glob(f"{path}/**/*.parquet")
    inside = len(path) - len(HUB) + 1
    return path, sorted(name[inside:] for name in found)


def read_rows(path):
    """Yield the rows of a parquet file, or of all in and below a folder.

    Files without a column of audio are passed over. The audio is not read.

    Arguments
    ---------
    path : str or Path
        File or folder; ``hf://datasets/USER/NAME`` with or without more.

    Returns
    -------
    iterator of dict of str to str
        "path" is relative to the folder, of the hub complete; "label",
        "utt", "speaker", "attack" and "partition" are as in a list of one's own
        (see ``dataio.protocols``); all other columns of text or numbers, and
        keys of the JSON object in ``notes``, have their own names.

    Raises
    ------
    InputError
        If nothing can be read, or labels are numbers of which neither the file
        nor README.md's ``dataset_info`` says what they mean.
    """
    folder, names = _files(os.fspath(path))
    names, n_files = [names] if isinstance(names, str) else names, 0
    for name in names:
        file = f"{folder}/{name}" if folder else name
        with _naming(file):
            opened = _opened(file)
            if opened.audio is None:
                continue
            n_files += 1
            yield from _rows_of(opened, file, name, folder)
    if not n_files:
        raise InputError(f"{path}: no parquet file with audio; {_EXPECTED}")


def _rows_of(opened, file, name, folder):
    schema = opened.parquet.schema_arrow
    columns = [field.name for field in schema if _is_plain(field.type)]
    label = next((n for n in _NAMES["label"] if n in columns), None)
    if label is None:
        raise InputError(f"{file}: no column label; {_EXPECTED}")
    classes = None
    if pa.types.is_integer(schema.field(label).type):
        classes = _names_in(schema, label) or _names_in_card(folder, label)
        if classes is None:
            raise InputError(
                f"{file}: its labels are numbers, and corpora do not agree on "
                "which class 0 and 1 are. Expected their names in the file, as "
                "of a ClassLabel, or in README.md's dataset_info beside it or "
                "one folder above; add them there"
            )
    words = re.split("[^a-z]+", name.lower())
    found = [_SPLITS[word] for word in words if word in _SPLITS]
    own = {"partition": found[-1] if found else "eval"}
    shown, row = file if _on_hub(file) else name, 0
    wanted = [*columns, f"{opened.audio}.path"]
    for group in range(opened.parquet.num_row_groups):
        for batch in opened.parquet.iter_batches(
            _ROWS, [group], wanted, use_threads=False
        ):
            for cells in batch.to_pylist():
                cells["path"] = cells.get("path") or _path_of(cells, opened)
                if classes and cells[label] in range(len(classes)):
                    cells[label] = classes[cells[label]]
                cells = {**cells, **_notes(cells.get("notes"))}
                cells = {key: _text(value) for key, value in cells.items()}
                named = {
                    key: next(filter(None, map(cells.get, options)), "")
                    for key, options in _NAMES.items()
                }
                named["utt"] = named["utt"] or f"{name}-{row}"
                yield {**cells, **named, **own, "path": f"{shown}#{row}"}
                row += 1


def _is_plain(kind):
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
    )


def _path_of(cells, opened):
    return (cells.pop(opened.audio, None) or {}).get("path")


def _text(value):
    return str(value) if isinstance(value, (str, int, float)) else ""


def _notes(text):
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _names_in(schema, label):
    """Return the names of the classes that ``datasets`` left in a file."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        return about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def _names_in_card(folder, label):
    """Return the names of the classes in README.md's ``dataset_info``."""
    found = []
    for place in (folder or ".", os.path.dirname(folder.rstrip("/")) or "."):
        readme = f"{place}/README.md"
        try:
            if _on_hub(folder):
                text = HfFileSystem().read_text(readme, encoding="utf-8")
            else:
                with open(readme, encoding="utf-8") as file:
                    text = file.read()
        except OSError:
            continue
        with _naming(readme):
            info = DatasetCard(text).data.get("dataset_info") or []
            for part in [info] if isinstance(info, dict) else info:
                for feature in part.get("features", []):
                    if feature["name"] == label and "dtype" in feature:
                        names = feature["dtype"]["class_label"]["names"]
                        found.append([names[key] for key in sorted(names)])
    return found[0] if found and all(n == found[0] for n in found) else None


# ----------------------------------------------------------------------- audio
def _opened(file):
    return _open(file, file_version(file), os.getpid())


@functools.lru_cache(_OPEN)
def _open(file, version, pid):
    """Open a file, once in each process while it stays the same."""
    if _on_hub(file):
        # Read ahead, most of what is fetched would be audio.
        source = HfFileSystem().open(file, "rb", cache_type="none")
    else:
        source = pa.OSFile(file)
    parquet = pq.ParquetFile(source)
    fields = [
        field.name
        for field in parquet.schema_arrow
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
    ]
    if len(fields) > 1 and "audio" not in fields:
        raise InputError(
            f"{file}: several columns of audio, {', '.join(fields)}; expected "
            "one, or one of them with the name audio"
        )
    audio = "audio" if "audio" in fields else next(iter(fields), None)
    groups = range(parquet.num_row_groups)
    sizes = [parquet.metadata.row_group(group).num_rows for group in groups]
    return _File(parquet, audio, np.cumsum([0, *sizes]))


def _audio(file, row):
    """Return the bytes of a row's audio."""
    with _naming(file):
        opened = _opened(file)
        if row >= opened.starts[-1] or opened.audio is None:
            raise InputError(
                f"{file}#{row}: no audio there, of {opened.starts[-1]} rows; "
                "make the list of this file again"
            )
        group = int(np.searchsorted(opened.starts, row, "right")) - 1
        clips = _clips(file, file_version(file), os.getpid(), group)
        content = clips[row - int(opened.starts[group])].as_py()
    if content is None:
        raise InputError(
            f"{file}#{row}: without audio, at most with the name of a file "
            "elsewhere; expected its bytes: save it by datasets' push_to_hub, "
            "or embed_table_storage"
        )
    return content


@functools.lru_cache(2)
def _clips(file, version, pid, group):
    """Read all audio of a row group: neighbors are asked for together."""
    opened = _open(file, version, pid)
    parquet, column = opened.parquet, f"{opened.audio}.bytes"
    about = parquet.metadata.row_group(group)
    (number,) = (
        n
        for n in range(about.num_columns)
        if about.column(n).path_in_schema == column
    )
    size, parts = about.column(number).total_uncompressed_size, []
    if size <= LARGEST:
        size = 0
        batches = parquet.iter_batches(
            _CLIPS, [group], [column], use_threads=False
        )
        # A few bytes of a file may stand for much more.
        for batch in batches:
            parts.append(batch.column(0).field("bytes"))
            size += parts[-1].nbytes
            if size > LARGEST:
                break
    if size > LARGEST:
        raise InputError(
            f"{file}: row group {group} has more than {LARGEST >> 20} MiB of "
            "audio, which is read at once; save it with fewer rows in each"
        )
    return pa.chunked_array(parts)
