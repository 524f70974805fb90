"""Copy synthesis: spoofs made from bona fide training clips by vocoders.

Words, speaker and recording of a copy are those of its source, so that only the
traces of the vocoder tell the two apart.

Source: Wang and Yamagishi, "Spoofed training data for speech spoofing
countermeasure can be efficiently created using neural vocoders", ICASSP 2023,
https://arxiv.org/abs/2210.10570. Their vocoders are networks; those here need
no weights.
"""

import importlib.util
import io
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import soundfile
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader
from tqdm import tqdm

from speechbrain_bilevel.augment.vocoders import FAMILIES, VOCODERS, vocode
from speechbrain_bilevel.dataio import BONAFIDE, SAMPLE_RATE, SPOOF
from speechbrain_bilevel.dataio.audio import open_audio
from speechbrain_bilevel.dataio.prepare import COLUMNS
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.files import write_atomically

logger = get_logger(__name__)

# Bytes a second of 16-bit FLAC, of speech at 16 kHz.
_BYTES = 18_000
# Durations of a clip and of its copy differ by less, in seconds.
_TOLERANCE = 0.01


def vocoder_names(names):
    """Replace families by their vocoders; without repetition, in their order.

    Raise an ``InputError`` for unknown names, or if a package is missing.

    Example
    -------
    >>> vocoder_names(["griffin_lim_8", "world_dio"])
    ['griffin_lim_8', 'world_dio']
    """
    if isinstance(names, str):
        raise InputError(f"copy_synthesis: {names}; expected [{names}]")
    wanted = set()
    for name in names:
        if name not in {*FAMILIES, *VOCODERS}:
            raise InputError(
                f"copy_synthesis: no vocoder {name}; expected some of the "
                f"families {', '.join(FAMILIES)}, or of their vocoders "
                f"{', '.join(VOCODERS)}"
            )
        wanted |= {*FAMILIES.get(name, [name])}
    if wanted & {*FAMILIES["world"]} and not importlib.util.find_spec(
        "pyworld"
    ):
        raise InputError(
            "copy_synthesis: the vocoders of WORLD need pyworld, which is not "
            "installed; pip install 'speechbrain_bilevel[world]', or leave "
            "them out"
        )
    return [name for name in VOCODERS if name in wanted]


class Copy(NamedTuple):
    """A copy to make: which vocoder, of which file, to which, and seconds."""

    vocoder: str
    source: str
    target: str
    seconds: float


def copy_synthesis(
    train_csv,
    data_folder,
    copies_folder,
    vocoders,
    copies_per_clip,
    out_csv,
    num_workers=None,
):
    """Make copies of all bona fide clips of a manifest, and add them to it.

    Each vocoder is an attack. What is in the folder already is not made again,
    so that several runs can share it, and a run that was killed goes on.

    Arguments
    ---------
    train_csv : str or Path
        The manifest of the training set. It stays as it is.
    data_folder : str or Path
        Stands for ``$data_root`` in the manifest.
    copies_folder : str or Path
        Where the copies go, ``VOCODER/ID.flac``, mono with 16 bits.
    vocoders : list of str
        Names of ``FAMILIES`` or ``VOCODERS``.
    copies_per_clip : int or None
        So many vocoders for each clip, drawn by its name; None is all.
    out_csv : str or Path
        The manifest with the copies, whose ``wav`` is absolute.
    num_workers : int, optional
        Processes; by default as many as there are cores.

    Raises
    ------
    InputError
        If a vocoder is unknown, the manifest has no bona fide clips, a file
        cannot be written, the folder has copies of other clips, or a vocoder
        fails for all clips. That it fails for some is logged.
    """
    vocoders = vocoder_names(vocoders)
    clips = pd.read_csv(train_csv, dtype=str, keep_default_na=False)
    if missing := [name for name in COLUMNS if name not in clips]:
        raise InputError(
            f"{train_csv}: no column {missing[0]}; expected a manifest, as "
            "`speechbrain-bilevel prepare` writes it"
        )
    bonafide = clips[clips.label == BONAFIDE]
    folder = os.path.abspath(copies_folder)
    if not vocoders or bonafide.empty or "$" in folder:
        raise InputError(
            f"copy_synthesis: {len(vocoders)} vocoders for {len(bonafide)} "
            f"bona fide clips of {train_csv}, to {folder}. Expected at least "
            "one of each, and a path without $, which SpeechBrain replaces"
        )
    drawn = [_draw(name, vocoders, copies_per_clip) for name in bonafide.ID]
    parts = []
    for vocoder in vocoders:
        rows = bonafide[[vocoder in names for names in drawn]]
        targets = [
            os.path.join(folder, vocoder, quote(name, safe="") + ".flac")
            for name in rows.ID
        ]
        parts.append(
            rows.assign(
                ID=f"{vocoder}_" + rows.ID,
                source=rows.wav.str.replace("$data_root", str(data_folder)),
                wav=targets,
                attack=vocoder,
                label=SPOOF,
            )
        )
    copies = pd.concat(parts)
    made = _make_all(
        [
            Copy(row.attack, row.source, row.wav, float(row.duration))
            for row in copies.itertuples()
        ],
        num_workers or os.cpu_count(),
    )
    everything = pd.concat([clips, copies[made].drop(columns="source")])
    text = everything.to_csv(index=False, lineterminator="\n")
    write_atomically(Path(out_csv).parent, {Path(out_csv).name: text})


def _draw(clip, vocoders, count):
    random = np.random.default_rng(zlib.crc32(clip.encode()))
    return random.permutation(vocoders)[:count].tolist()


def _make_all(copies, num_workers):
    """Make the copies that are missing; return a list of whether each is there
    now."""
    missing = [copy for copy in copies if not os.path.exists(copy.target)]
    if missing:
        seconds = sum(copy.seconds for copy in missing)
        logger.info(
            "Copy synthesis: %d of %d copies to make, %.3g hours, about %.3g "
            "GB, in %d processes",
            *(len(missing), len(copies), seconds / 3600),
            *(seconds * _BYTES / 1e9, num_workers),
        )
    # Its workers have one thread each, and end when this process is killed.
    faults = DataLoader(
        copies, batch_size=None, num_workers=num_workers, collate_fn=_make
    )
    faults = list(tqdm(faults, "Copy synthesis", len(copies), unit="clip"))
    failed = {}
    for copy, fault in zip(copies, faults):
        if fault:
            failed.setdefault(copy.vocoder, []).append((copy.source, fault))
    tried = Counter(copy.vocoder for copy in copies)
    for vocoder, files in failed.items():
        message = (
            f"copy_synthesis: {vocoder} made no copy of {len(files)} of "
            f"{tried[vocoder]} clips, as of {files[0][0]}: {files[0][1]}"
        )
        if len(files) == tried[vocoder]:
            raise InputError(f"{message}. Leave it out, or check data_folder")
        logger.warning(message)
    return [not fault for fault in faults]


def _make(copy):
    """Make a copy unless it is there; return why it cannot be made, or ""."""
    if os.path.exists(copy.target):
        seconds = soundfile.info(copy.target).duration
        if abs(seconds - copy.seconds) > _TOLERANCE:
            raise InputError(
                f"{copy.target}: {seconds:.2f} s, but {copy.source} has "
                f"{copy.seconds:.2f} s. Expected copies of these clips; give "
                "another copies_folder"
            )
        return ""
    try:
        with open_audio(copy.source) as audio:
            waveform = np.concatenate([np.empty(0), *audio.blocks()])
        waveform = vocode(waveform, copy.vocoder)
    except (ValueError, RuntimeError) as error:
        return str(error).split("\n")[0]
    flac = io.BytesIO()
    soundfile.write(flac, waveform, SAMPLE_RATE, "PCM_16", format="FLAC")
    folder, name = os.path.split(copy.target)
    write_atomically(folder, {name: flac.getvalue()})
    return ""
