"""Trials and their audio in parquet files, as the ``datasets`` library writes
them, in a folder or on the Hugging Face hub.

A row is named like a file: ``some/file.parquet#7`` is the audio of row 7,
counted from 0. Of ``hf://datasets/USER/NAME`` on the hub only the ranges of
bytes that are needed are fetched, and nothing is stored.
"""

import contextlib
import functools
import glob
import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import DatasetCard, HfFileSystem

from speechbrain_bilevel.dataio.corpora import PARTITION_WORDS
from speechbrain_bilevel.dataio.decoding import split_row
from speechbrain_bilevel.utils.errors import InputError, printable

#: How the paths of the hub's data sets begin.
HUB = "hf://"
#: The audio of a row group, which is read at once, may take so many bytes.
LARGEST = 1 << 30

# What columns, and keys of the JSON in `notes`, are called; the first counts.
_LABELS = "label", "key"
_NAMES = {
    "utt": ("utterance_id", "utt_id", "audio_file_name", "path", "audio.path"),
    "speaker": ("speaker", "speaker_id"),
    "attack": ("attack", "attack_id", "system_id"),
}
_EXPECTED = (
    "expected intact parquet with a column of audio and one of labels, as the "
    "datasets library writes it"
)


def file_version(path):
    """Return a number for the size and time of a file, or for its hash on the
    hub; 0 if there is no file."""
    file, _ = split_row(path)
    if str(file).startswith(HUB):
        return _hub_version(file)
    try:
        found = os.stat(file)
    except OSError:
        return 0
    return (found.st_mtime_ns ^ found.st_size << 20) & 0x7FFF_FFFF_FFFF_FFFF


@functools.lru_cache
def _hub_version(file):
    with _naming(file):
        return int(HfFileSystem().info(file)["blob_id"][:15], 16)


def _filesystem(path):
    return HfFileSystem() if path.startswith(HUB) else LocalFileSystem()


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
    """Whether a path is a parquet file, a folder of such, or on the hub."""
    path = str(path)
    known = path.startswith(HUB) or path.endswith(".parquet")
    return bool(_parquet_in(path)) if os.path.isdir(path) else known


def _parquet_in(folder):
    return sorted(glob.glob("**/*.parquet", root_dir=folder, recursive=True))


def read_rows(path, need_names=True):
    """Yield the rows of a parquet file, or of all in and below a folder.

    The audio is not read. Files without a column of audio are passed over.

    Arguments
    ---------
    path : str or Path
        File or folder; or ``hf://datasets/USER/NAME``, which may go on.
    need_names : bool
        Whether to refuse labels that are numbers without names.

    Returns
    -------
    iterator of dict of str to str
        "path" is relative to the folder, of the hub complete. "label", "utt",
        "speaker", "attack" and "partition" are as in a list of one's own (see
        ``dataio.protocols``). All other columns of text and numbers, and keys
        of the JSON object in ``notes``, have their own names.

    Raises
    ------
    InputError
        If nothing can be read, or labels are numbers of which neither the file
        nor README.md's ``dataset_info`` says what they mean, and names are
        needed.
    """
    path, n_files = os.fspath(path), 0
    with _naming(path):
        if path.startswith(HUB):
            if not re.match("hf://datasets/[^/]+/[^/]", path):
                raise InputError(f"{path}: expected hf://datasets/USER/NAME")
            # hf:, nothing, datasets, USER, NAME, and the name of a file.
            cards = ["/".join(path.split("/")[:5])]
            found = [HUB + n for n in sorted(HfFileSystem().find(path))]
            files = [(n, n, n.split("/", 5)[5]) for n in found]
        else:
            is_folder = os.path.isdir(path)
            folder = path if is_folder else os.path.dirname(path) or "."
            names = _parquet_in(path) if is_folder else [os.path.basename(path)]
            cards = [folder, f"{folder}/.."]
            files = [(f"{folder}/{n}", n, n) for n in names]
        for file, shown, name in files:
            if not file.endswith(".parquet"):
                continue
            with _naming(file):
                parquet, audio, _ = _opened(file)
                n_files += audio is not None
                if audio is not None:
                    yield from _rows(
                        *(parquet, audio, file, shown, name, cards, need_names)
                    )
        if not n_files:
            raise InputError(f"{path}: no parquet with audio; {_EXPECTED}")


def _rows(parquet, audio, file, shown, name, cards, need_names):
    schema, row = parquet.schema_arrow, 0
    unread = pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary
    columns = [f.name for f in schema if not any(is_(f.type) for is_ in unread)]
    label = next((name for name in _LABELS if name in columns), None)
    if label is None and need_names:
        raise InputError(f"{file}: no column label; {_EXPECTED}")
    are_numbers = label and pa.types.is_integer(schema.field(label).type)
    classes = _class_names(schema, label, cards) if are_numbers else []
    if are_numbers and not classes and need_names:
        raise InputError(
            f"{file}: its labels are numbers, and corpora do not agree on "
            "which class 0 and 1 are. Expected their names in the file "
            "(ClassLabel), or in README.md's dataset_info, beside it or one "
            "folder above; add them there, or say which is bona fide by "
            "--bonafide 0 or --bonafide 1"
        )
    words = re.split("[^a-z]+", name.lower())
    found = [PARTITION_WORDS[word] for word in words if word in PARTITION_WORDS]
    columns.append(f"{audio}.path")
    for group in range(parquet.num_row_groups):
        for batch in parquet.iter_batches(1 << 10, [group], columns):
            for cells in batch.to_pylist():
                cells["audio.path"] = (cells.pop(audio, 0) or {}).get("path")
                key = cells.pop(label, None)
                if key in range(len(classes)):
                    key = classes[key]
                # The datasets library writes -1 for a label that is unknown.
                is_known = key is not None and not (classes and key == -1)
                more = {"label": key} if is_known else {}
                cells = _notes(cells.get("notes")) | cells | more
                cells = {
                    k: "" if v is None else str(v) for k, v in cells.items()
                }
                for key, names in _NAMES.items():
                    cells[key] = next(filter(None, map(cells.get, names)), "")
                cells["utt"] = cells["utt"] or f"{name}-{row}"
                cells["partition"] = found[-1] if found else "eval"
                yield cells | {"path": f"{shown}#{row}"}
                row += 1


def _notes(text):
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(schema, label, cards):
    """Return the names of the classes, by the file or by a README.md, or []."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    feature = about.get("info", {}).get("features", {}).get(label, {})
    found = [feature["names"]] if "names" in feature else []
    for card in cards if not found else ():
        with contextlib.suppress(FileNotFoundError):
            text = _filesystem(card).read_text(
                f"{card}/README.md", "utf-8", "replace"
            )
            info = DatasetCard(text).data.get("dataset_info") or []
            for part in [info] if isinstance(info, dict) else info:
                for feature in part.get("features", []):
                    kind = feature.get("dtype")
                    if feature["name"] == label and isinstance(kind, dict):
                        names = kind["class_label"]["names"]
                        found.append(
                            [names[key] for key in sorted(names, key=int)]
                        )
    # Parts of a data set may differ.
    return found[0] if found and found.count(found[0]) == len(found) else []


# ----------------------------------------------------------------------- audio
def _opened(file):
    return _open(file, file_version(file), os.getpid())


@functools.lru_cache(16)
def _open(file, version, pid):
    """Return a file, opened once in each process while it stays the same, its
    column of audio, and the rows where its row groups begin."""
    # To read ahead would be to fetch audio that nobody asked for; of what was
    # asked for, columns beside one another are fetched at once.
    opened = _filesystem(file).open(file, "rb", cache_type="none")
    parquet = pq.ParquetFile(opened, pre_buffer=True)
    found = [
        field.name
        for field in parquet.schema_arrow
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
    ]
    if len(found) > 1 and "audio" not in found:
        raise InputError(
            f"{file}: several columns of audio, {', '.join(found)}; expected "
            "one, or one that is called audio"
        )
    about = parquet.metadata
    sizes = [about.row_group(n).num_rows for n in range(about.num_row_groups)]
    audio = "audio" if "audio" in found else next(iter(found), None)
    return parquet, audio, np.cumsum([0, *sizes])


def row_audio(file, row):
    """Return the bytes of a row's audio.

    Raise an ``InputError`` if the row, or audio in it, cannot be read.
    """
    with _naming(file):
        _, audio, starts = _opened(file)
        if audio is None or row >= starts[-1]:
            raise InputError(
                f"{file}#{row}: no such row with audio, of {starts[-1]}; make "
                "the list of this file again"
            )
        group = int(np.searchsorted(starts, row, "right")) - 1
        clips = _clips(file, file_version(file), os.getpid(), group)
        content = clips[row - int(starts[group])].as_py()
    if content is None:
        raise InputError(
            f"{file}#{row}: without audio, at most with the name of a file "
            "elsewhere; expected its bytes, as push_to_hub of the datasets "
            "library saves them"
        )
    return content


@functools.lru_cache(2)
def _clips(file, version, pid, group):
    """Read all audio of a row group: neighbors are asked for together."""
    parquet, audio, _ = _open(file, version, pid)
    parts, size = [], parquet.metadata.row_group(group).total_byte_size
    batches = parquet.iter_batches(16, [group], [f"{audio}.bytes"])
    # Few bytes of a file may stand for many.
    while size <= LARGEST and (batch := next(batches, None)):
        parts.append(batch.column(0).field("bytes"))
        size = max(size, sum(part.nbytes for part in parts))
    if size > LARGEST:
        raise InputError(
            f"{file}: row group {group} has more than {LARGEST >> 20} MiB, "
            "and is read at once; save it with fewer rows in each"
        )
    return pa.chunked_array(parts)
