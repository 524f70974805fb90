"""Data preparation of ASVspoof2019 LA (https://doi.org/10.7488/ds/2555).

Writes train.csv, dev.csv and eval.csv from the official protocols, after
checking every audio file that they name:

> python asvspoof2019_prepare.py /data/LA results/prepared

The folder LA has to hold ASVspoof2019_LA_cm_protocols and, for train, dev and
eval, ASVspoof2019_LA_<partition>/flac.
"""

import argparse
import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF
from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA,
    ASVSPOOF2019_LA_COUNTS,
    PARTITIONS,
    is_nearly_official,
)
from speechbrain_bilevel.dataio.prepare import (
    COLUMNS,
    join_paths,
    locate_audio,
    manifest_lines,
    measure_durations,
)
from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_asvspoof2019_protocol,
)
from speechbrain_bilevel.utils.errors import InputError, exit_on_input_error
from speechbrain_bilevel.utils.files import (
    read_stamp,
    sha256,
    write_atomically,
)

logger = get_logger(__name__)

STAMP = "prepare.json"


def prepare_asvspoof2019(data_folder, save_folder, skip_prep=False):
    """Write the CSV manifests of ASVspoof2019 LA, or of a corpus laid out so.

    Every audio file is decoded: it must hold a sound, and all that its header
    states. The official corpus must be mono FLAC at 16 kHz; another one may
    have any format (see ``dataio.decoding``). A folder that was prepared from
    the same protocols is left alone, and its audio is not checked again.

    Arguments
    ---------
    data_folder : str
        The corpus' ``LA`` folder.
    save_folder : str
        Where train.csv, dev.csv, eval.csv and prepare.json go. Column
        ``duration`` is in seconds, ``wav`` begins with ``$data_root``, for
        which the reader of the CSV substitutes the data folder.
    skip_prep : bool
        If True, nothing is done.

    Raises
    ------
    InputError
        If the data folder, a protocol, the number of trials or any audio file
        cannot be used, or the CSVs cannot be written. Nothing is then written.

    Example
    -------
    >>> prepare_asvspoof2019("/data/LA", "results/prepared")  # doctest: +SKIP
    """
    if skip_prep:
        return
    if not data_folder:
        raise InputError("data_folder is empty; expected the folder LA")
    data_folder = Path(os.path.abspath(data_folder))
    save_folder = Path(save_folder)
    _check_layout(data_folder)
    source = _describe_source(data_folder)
    if _is_prepared(save_folder, source):
        logger.info("%s is prepared already: skipped", save_folder)
        return
    tables = {
        partition: locate_audio(
            read_asvspoof2019_protocol(data_folder, partition),
            data_folder,
            ASVSPOOF2019_LA.audio,
            by_name=True,
        )
        for partition in PARTITIONS
    }
    is_official = check_counts(tables)
    # All files are checked before any is refused.
    paths = pd.concat([trials.path for trials in tables.values()])
    durations = measure_durations(data_folder, paths, not is_official)
    ends = np.cumsum([len(trials) for trials in tables.values()])
    contents = {
        f"{partition}.csv": "".join(
            manifest_lines(join_paths(trials, "$data_root"), seconds)
        )
        for (partition, trials), seconds in zip(
            tables.items(), np.split(durations, ends[:-1])
        )
    }
    _refuse_others(save_folder, contents)
    write_atomically(save_folder, contents)
    # Last, because it vouches for the others.
    stamp = {**source, "csv": _describe_csvs(save_folder)}
    write_atomically(save_folder, {STAMP: json.dumps(stamp, indent=2)})
    logger.info("Wrote the manifests to %s", save_folder)


def _check_layout(data_folder):
    expected = ["ASVspoof2019_LA_cm_protocols"]
    expected += [f"ASVspoof2019_LA_{part}/flac" for part in PARTITIONS]
    missing = [name for name in expected if not (data_folder / name).is_dir()]
    if not missing:
        return
    inner = data_folder / "LA"
    raise InputError(
        f"data_folder {data_folder} lacks {', '.join(missing)}. Expected the "
        "folder LA of ASVspoof2019, with ASVspoof2019_LA_cm_protocols and "
        "ASVspoof2019_LA_{train,dev,eval}/flac in it; give "
        + (f"{inner}" if inner.is_dir() else "that folder or unpack it again")
    )


def check_counts(tables):
    """Refuse damaged official protocols; return whether they are official.

    Arguments
    ---------
    tables : dict of str to pandas.DataFrame
        The trials of each partition.

    Raises
    ------
    InputError
        If a partition has nearly as many trials as the official one, and any
        of them has not exactly as many.
    """
    found = {
        partition: {
            label: int((trials.label == label).sum())
            for label in (BONAFIDE, SPOOF)
        }
        for partition, trials in tables.items()
    }
    counts = ", ".join(f"{part} {_show(found[part])}" for part in found)
    if not any(is_nearly_official(p, len(t)) for p, t in tables.items()):
        logger.info("This is not the official corpus: %s", counts)
        return False
    wrong = [
        f"{part}: expected {_show(official)}, found {_show(found[part])}"
        for part, official in ASVSPOOF2019_LA_COUNTS.items()
        if found[part] != official
    ]
    if wrong:
        raise InputError(
            "the protocols look like those of ASVspoof2019 LA, but the number "
            "of trials differs:\n  " + "\n  ".join(wrong) + "\nA protocol was "
            "truncated or edited; download the corpus again"
        )
    logger.info("This is the official corpus: %s", counts)
    return True


def _show(counts):
    return f"{counts[BONAFIDE]} bona fide + {counts[SPOOF]} spoof"


def _describe_source(data_folder):
    """What the manifests depend on."""
    protocols = {
        part: sha256(asvspoof2019_protocol_path(data_folder, part))
        for part in PARTITIONS
    }
    return {
        "columns": list(COLUMNS),
        "data_folder": str(data_folder),
        "protocols": protocols,
    }


def _describe_csvs(save_folder):
    return {part: sha256(save_folder / f"{part}.csv") for part in PARTITIONS}


def _is_prepared(save_folder, source):
    stamp = read_stamp(save_folder / STAMP)
    return stamp == {**source, "csv": _describe_csvs(save_folder)}


def _refuse_others(save_folder, contents):
    """Refuse to replace manifests that were written elsewhere, or edited."""
    written = read_stamp(save_folder / STAMP).get("csv", {})
    for partition, digest in _describe_csvs(save_folder).items():
        # A killed run may have left those of today without their stamp.
        new = hashlib.sha256(contents[f"{partition}.csv"].encode()).hexdigest()
        if digest not in (None, new, written.get(partition)):
            raise InputError(
                f"{save_folder / partition}.csv: was written elsewhere, or "
                "edited since. To keep it, train with skip_prep: True, or give "
                "another manifest_folder; to prepare again, delete it"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data_folder", help="the folder LA of the corpus")
    parser.add_argument("save_folder", help="where the CSV files go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_input_error():
        prepare_asvspoof2019(arguments.data_folder, arguments.save_folder)
