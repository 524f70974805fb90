"""Data sets of the Speech Anti-Spoofing Arena, in parquet files as the datasets
library writes them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

ARENA = ["bonafide", "spoof"]
AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CARD = """\
---
dataset_info:
- config_name: {}
  features:
  - {{name: audio, dtype: audio}}
  - name: label
    dtype: {{class_label: {{names: {{'0': {}, '1': {}}}}}}}
---
"""


def sound(seed, format="FLAC", seconds=0.6, rate=16000):
    """The bytes of a file of noise."""
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format=format)
    return file.getvalue()


def row(number, label, content=b"", **notes):
    """A row of a data set of the Arena."""
    return {
        "path": f"flac/{number}.flac",
        "audio": {"bytes": content or sound(number), "path": None},
        "label": label,
        "notes": json.dumps(notes),
    }


def write(path, rows, names=ARENA, **options):
    """Write rows like the datasets library, with the labels' names or without,
    and return the path."""
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table(
        {
            name: pa.array(values, AUDIO if name == "audio" else None)
            for name, values in columns.items()
        }
    )
    if names:
        label = {"names": names, "_type": "ClassLabel"}
        about = {"info": {"features": {"label": label}}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps(about)}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"row_group_size": 2} | options)
    return path
