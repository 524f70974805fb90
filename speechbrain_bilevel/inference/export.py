"""From what a training left behind to a pretrained folder and its model card."""

import re
from dataclasses import replace
from pathlib import Path

import jinja2
import torch
from huggingface_hub import EvalResult, ModelCardData
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio import BONAFIDE, SAMPLE_RATE, SPOOF
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.evaluation.bootstrap import default_resampling
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.format import METRICS, format_estimate
from speechbrain_bilevel.evaluation.score_files import (
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.inference.pretrained import (
    CONFIG,
    WEIGHTS,
    check_folder,
    load,
    named_errors,
    read_config,
    write_folder,
)
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.utils.errors import InputError, printable

logger = get_logger(__name__)

_TASK = "audio-classification"
_TAGS = ["speechbrain", "anti-spoofing", "audio-deepfake-detection", "ASVspoof"]


def export(
    source,
    folder,
    name=None,
    corpus=None,
    license=None,
    dev_scores=None,
    dev_protocol=None,
    eval_scores=None,
    protocol=None,
    asv_scores=None,
):
    """Write a pretrained folder: the network, calibrated, and its model card.

    Arguments
    ---------
    source : str or Path
        Output folder of ``train.py``, whose checkpoint with the lowest EER on
        dev is taken; or a pretrained folder.
    folder : str or Path
        Where to write; see ``pretrained.write_folder``.
    name, corpus, license : str, optional
        For the card: what to call the detector (by default as the folder),
        what it was trained on, and the hub's short name of its license.
    dev_scores : str or Path, optional
        The source's own scores on dev, to calibrate it; by default
        ``dev_scores.txt`` in it, if there.
    dev_protocol : str or Path, optional
        Trials and keys of dev; by default the training's manifest, if there.
    eval_scores : str or Path, optional
        The source's own scores on eval, to measure it; by default
        ``eval_scores.txt`` in it, if there.
    protocol : str or Path, optional
        Trials, keys and speakers of eval; by default the training's manifest,
        if there.
    asv_scores : str or Path, optional
        For the t-DCF on eval; by default the training's, if there.

    Returns
    -------
    DetectorConfig
        What was written.

    Raises
    ------
    InputError
        If the source is neither, a file cannot be used, or the folder cannot
        be written.
    """
    source, folder = Path(source), Path(folder)
    check_folder(folder)
    config, weights = _read_source(source)
    known = config.training
    dev = _read_scores(
        dev_scores or _existing(source / "dev_scores.txt"),
        dev_protocol or _manifest(source, known, "dev"),
        "dev",
    )
    scores = _read_scores(
        eval_scores or _existing(source / "eval_scores.txt"),
        protocol or _manifest(source, known, "eval"),
        "eval",
    )
    asv = asv_scores or _existing(known["asv_scores"])
    fusion, calibrated_on = None, None
    if dev is not None:
        fusion = _learn(dev, needed=dev_scores is not None)
        calibrated_on = f"{_count(dev)} of dev"
    report = None
    if scores is not None:
        if fusion is not None:
            scores["score"] = fusion(scores[["score"]])
        report = evaluate(
            [scores],
            asv and read_asv_scores(asv),
            default_resampling([scores]),
        )
    config = replace(
        config,
        calibration=_combined(config.calibration, fusion),
        training=_training(source, known, corpus),
    )
    card = model_card(
        name or folder.name, config, license, calibrated_on, report
    )
    write_folder(folder, config, weights, card)
    return config


def _read_source(source):
    for name in (CONFIG, "save" if (source / "save").is_dir() else WEIGHTS):
        if not (source / name).exists():
            raise InputError(
                f"{source}: no {name} in it; expected a pretrained folder, or "
                "the output folder of a training"
            )
    if (source / WEIGHTS).exists():
        config, network = load(source, source / CONFIG, source / WEIGHTS)
        return config, network.state_dict()
    with named_errors(source):
        config = read_config(source / CONFIG)
        checkpoint = Checkpointer(source / "save").find_checkpoint(
            min_key="EER"
        )
        if checkpoint is None or "network" not in checkpoint.paramfiles:
            raise InputError("no checkpoint of a network in save/")
        path = checkpoint.paramfiles["network"]
        return config, torch.load(path, map_location="cpu", weights_only=True)


def _existing(path):
    return path if path and Path(path).is_file() else None


def _manifest(source, known, partition):
    """As it was written, or in the source, which may have been moved since."""
    moved = source / "manifests" / f"{partition}.csv"
    return _existing(known["manifests"][partition]) or _existing(moved)


def _read_scores(path, protocol, partition):
    if path is None:
        return None
    trials = protocol and read_protocol(protocol)
    if trials is None or not (trials.partition == partition).any():
        partition = None
    return read_cm_scores(path, trials, partition)


def _learn(dev, needed):
    """The map from scores to log-likelihood ratios; None if dev cannot teach
    any and it is not needed."""
    try:
        return learn_fusion(
            dev[["score"]], dev.label == BONAFIDE, [dev.attrs["path"]]
        )
    except InputError as error:
        if needed:
            raise
        logger.warning("The detector is not calibrated: %s", error)
        return None


def _combined(calibration, fusion):
    """The source's own calibration, if any, and what was learned after it."""
    if fusion is None:
        return calibration
    (weight,), bias = fusion.weights, fusion.bias
    if calibration is not None:
        bias += weight * calibration["bias"]
        weight *= calibration["weight"]
    return {"weight": weight, "bias": bias}


def _training(source, known, corpus):
    """What others may know of the training: no paths of this machine."""
    found = {
        key: value
        for key, value in known.items()
        if value and key not in ("manifests", "asv_scores")
    }
    if manifest := _manifest(source, known, "train"):
        trials = read_protocol(manifest)
        attacks = trials.attack[trials.label == SPOOF].unique()
        found["attacks"] = ", ".join(sorted(attacks))
        found["num_bonafide"] = int((trials.label == BONAFIDE).sum())
        found["num_spoof"] = int((trials.label == SPOOF).sum())
    return found | ({"corpus": corpus} if corpus else {})


# ----------------------------------------------------------------------- card
def model_card(name, config, license=None, calibrated_on=None, report=None):
    """Write a model card in the form of the Hugging Face hub.

    Arguments
    ---------
    name : str
        What to call the detector.
    config : DetectorConfig
    license : str, optional
        The hub's short name of it, such as "apache-2.0".
    calibrated_on : str, optional
    report : Report, optional
        Figures of it, the only system in there.

    Returns
    -------
    str
        Markdown with a YAML header.

    Example
    -------
    >>> from speechbrain_bilevel.inference.pretrained import DetectorConfig
    >>> config = DetectorConfig("V2", {"num_samples": 16000})
    >>> print(model_card("mine", config).split("---")[1].strip())
    library_name: speechbrain
    pipeline_tag: audio-classification
    tags:
    - speechbrain
    - anti-spoofing
    - audio-deepfake-detection
    - ASVspoof
    """
    system = report and report.evaluations[0]
    header = ModelCardData(
        library_name="speechbrain",
        license=license,
        pipeline_tag=_TASK,
        tags=_TAGS,
        model_name=name if report else None,
        eval_results=report and _eval_results(system),
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speechbrain_bilevel.inference", "."),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("model_card.md.jinja").render(
        header=header.to_yaml().strip(),
        name=name,
        config=config,
        training={"corpus": "", "method": "", **config.training},
        seconds=f"{config.num_samples / SAMPLE_RATE:.2f}",
        calibrated_on=calibrated_on,
        report=report,
        system=system,
        evaluated_on=report and _count(system.scores, len(system.attacks)),
        metrics=METRICS,
        format=format_estimate,
    )


def _count(scores, n_attacks=None):
    n_bonafide = (scores.label == BONAFIDE).sum()
    text = (
        f"{n_bonafide} bona fide and {len(scores) - n_bonafide} spoofed trials"
    )
    return text if n_attacks is None else f"{text} of {n_attacks} attacks"


def _eval_results(system):
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type="spoofing",
            dataset_name=_count(system.scores, len(system.attacks)),
            metric_type=name,
            metric_name=METRICS[name].title,
            metric_value=METRICS[name].scale * estimate.value,
        )
        for name, estimate in system.metrics.items()
    ]


def _plain(text):
    """A name from a file as Markdown that means nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", printable(text, 200))
