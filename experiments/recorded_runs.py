"""Runs of the recipe that are made once, and what their scores say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import scipy.stats

from speechbrain_bilevel.evaluation.score_files import (
    read_cm_scores,
    split_classes,
)
from speechbrain_bilevel.metrics.eer import eer

#: Attacks of eval that training has seen.
KNOWN = ("A16", "A19")

_HERE = Path(__file__).resolve().parent
_HPARAMS = _HERE.parent / "hparams"


def recorded_run(output, base, overrides, threads=None, device="cpu"):
    """Make a run of train.py, unless it is there, and return what it gave.

    Arguments
    ---------
    output : Path
        Folder of the run.
    base : str
        The YAML of ``hparams/``, without its ending.
    overrides : dict of str to object
        Its keys and their new values, as YAML: a mapping without a tag is
        merged with what stands there, anything else replaces it.
    threads : int, optional
        Of torch; by default as many as there are cores.
    device : str
        "cpu" or "cuda".

    Returns
    -------
    dict
        See ``train_one.py`` and ``error_rates``.
    """
    done, yaml = output / "run.json", output / "run.yaml"
    lines = [f"--- !include:{quote(str(_HPARAMS / base))}.yaml"]
    lines += [f"{key}: {value}" for key, value in overrides.items()]
    text = "\n".join(lines) + "\n"
    if not done.exists():
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        yaml.write_text(text)
        environment = dict(os.environ)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        with open(output / "out.txt", "w") as out:
            code = subprocess.run(
                [sys.executable, _HERE / "train_one.py", output, yaml, device],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
            ).returncode
        if code:
            raise SystemExit(f"{output / 'out.txt'}: the run failed")
    elif yaml.read_text() != text:
        raise SystemExit(
            f"{output}: made with other settings; choose another "
            "--output_folder"
        )
    return json.loads(done.read_text()) | error_rates(
        output / "eval_scores.txt"
    )


def error_rates(path):
    """EER in percent: of unseen and known attacks, and of each."""
    scores = read_cm_scores(path)
    bonafide, _ = split_classes(scores)
    spoof = scores[scores.label == "spoof"]
    known = spoof.attack.isin(KNOWN)
    sets = {"unseen": spoof.score[~known], "known": spoof.score[known]}
    sets |= {str(attack): of.score for attack, of in spoof.groupby("attack")}
    return {
        name: 100 * eer(bonafide, of)[0] if len(of) else float("nan")
        for name, of in sets.items()
    }


def interval(values):
    """Mean, and half of the 95 % interval of Student's t over seeds."""
    values = np.asarray(values)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return values.mean(), half


def spread(values):
    """Mean ± half of its interval; of one seed, its value."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return "{:.1f} ± {:.1f}".format(*interval(values))
