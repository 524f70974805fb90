"""Make a pretrained folder and its model card from a training's output."""

import re
import tempfile
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
    split_classes,
)
from speechbrain_bilevel.inference.arena import arena_files
from speechbrain_bilevel.inference.config import (
    CONFIG,
    ONNX,
    SPACE,
    TRAINING,
    WEIGHTS,
    naming,
    read_config,
)
from speechbrain_bilevel.inference.pretrained import (
    check_folder,
    load,
    write_folder,
)
from speechbrain_bilevel.inference.space import space_files
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.metrics.eer import eer
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
    arena=None,
    onnx=False,
    int8=False,
    clips=None,
    int8_scores=None,
    space=False,
):
    """Write a pretrained folder: the network, calibrated, and its model card.

    Arguments
    ---------
    source : str or Path
        Output folder of ``train.py``, whose checkpoint with the lowest EER on
        dev is used; or a pretrained folder.
    folder : str or Path
        The folder to write; see ``pretrained.write_folder``.
    name, corpus, license : str, optional
        For the card: the detector's name (by default the folder's), its
        training data, and the hub's short name of its license.
    dev_scores, eval_scores : str or Path, optional
        The source's own scores on dev, to calibrate it, and on eval, to measure
        it; by default its ``dev_scores.txt`` and ``eval_scores.txt``.
    dev_protocol, protocol : str or Path, optional
        Trials and keys of dev, and of eval; by default the training's
        manifests.
    asv_scores : str or Path, optional
        For the t-DCF on eval; by default the training's.
    arena : dict of str to pandas.DataFrame, optional
        The source's own scores on data sets of the Speech Anti-Spoofing Arena,
        to add the files of a submission; see ``inference.arena``.
    onnx : bool
        Whether to add network.onnx, for the other engines; see ``engines``.
    int8 : bool
        Whether to add network_int8.onnx as well, whose convolutions are of
        8-bit numbers.
    clips : list of str, optional
        Recordings, best of the training: network.onnx is compared with torch
        on some, by default on noise; and they tell the ranges of 8-bit numbers.
    int8_scores : str or Path, optional
        The scores of network_int8.onnx on eval, for the card.
    space : bool
        Whether to add the files of a Space of the hub; see ``space``.

    Returns
    -------
    config : DetectorConfig
        Of the written folder.
    report : Report or None
        The figures of the scores of eval.

    Raises
    ------
    InputError
        If the source is neither, a file cannot be used, or the folder cannot
        be written.
    """
    source, folder = Path(source), Path(folder)
    check_folder(folder)
    with naming(source, "a pretrained folder, or the output of a training"):
        config, weights = _read_source(source)
    known = config.training
    scores = {
        partition: _read_scores(
            given or _existing(source / f"{partition}_scores.txt"),
            trials or _manifest(source, known, partition),
            partition,
        )
        for partition, given, trials in (
            ("dev", dev_scores, dev_protocol),
            ("eval", eval_scores, protocol),
        )
    }
    fusion, report = None, None
    if scores["dev"] is not None:
        fusion = _learn(scores["dev"], needed=dev_scores is not None)
    if scores["eval"] is not None:
        measured = scores["eval"]
        if fusion is not None:
            measured["score"] = fusion(measured[["score"]])
        asv = asv_scores or _existing(known["asv_scores"])
        report = evaluate(
            [measured],
            asv and read_asv_scores(asv),
            default_resampling([measured]),
        )
    config = replace(
        config,
        calibration=combined(config.calibration, fusion),
        training=_training(source, known, corpus),
    )
    calibrated_on = fusion and f"{_count(scores['dev'])} of dev"
    int8_eer = int8_count = None
    if int8_scores:
        trials = protocol or _manifest(source, known, "eval")
        table = _read_scores(int8_scores, trials, "eval")
        int8_eer = 100 * eer(*split_classes(table))[0]
        int8_count = _count(table)
    if fusion is not None:
        arena = {
            dataset: table.assign(score=fusion(table[["score"]]))
            for dataset, table in (arena or {}).items()
        }
    files = arena_files(name or folder.name, config, arena) if arena else {}
    if space:
        texts = space_files(name or folder.name)
        files |= {f"{SPACE}/{name}": text for name, text in texts.items()}
    with tempfile.TemporaryDirectory() as made:
        # Those of a pretrained source are not taken over.
        config = replace(config, onnx=None)
        if onnx or int8 or space:
            config = _add_onnx(config, weights, made, int8, clips)
        card = model_card(
            *(name or folder.name, config, license, calibrated_on, report),
            *(int8_eer, int8_count),
        )
        paths = sorted(Path(made).iterdir())
        write_folder(folder, config, weights, card, files, paths)
    return config, report


def _add_onnx(config, weights, folder, int8, paths):
    """Write ONNX files into a folder; return the config that names them."""
    from speechbrain_bilevel.inference.onnx_export import (
        quantize,
        read_clips,
        write_onnx,
    )

    if int8 and not paths:
        raise InputError(
            "8-bit numbers need recordings, to find their ranges by; name a "
            "list of the training by --clips"
        )
    network = build(config.network, config.sizes).eval()
    network.load_state_dict(weights)
    clips = read_clips(paths, config.num_samples)
    facts, difference = write_onnx(network, config, folder, clips)
    what = f"{len(clips)} recordings" if paths else "noise"
    logger.info("%s: differs from torch by %.1e on %s", ONNX, difference, what)
    if int8:
        facts["int8_sha256"] = quantize(folder, config, paths)
    return replace(config, onnx=facts)


def _read_source(source):
    if (source / WEIGHTS).exists():
        config, network = load(source / CONFIG, source / WEIGHTS)
        return config, network.state_dict()
    config = read_config(source / CONFIG)
    if not (source / "save").is_dir():
        raise InputError(f"neither {WEIGHTS} nor checkpoints (save/) in it")
    checkpoint = Checkpointer(source / "save").find_checkpoint(min_key="EER")
    if checkpoint is None:
        raise InputError("no checkpoint with an EER in save/")
    path = checkpoint.paramfiles["network"]
    return config, torch.load(path, map_location="cpu", weights_only=True)


def _existing(path):
    return path if path and Path(path).is_file() else None


def _manifest(source, known, partition):
    """Return the manifest where it was written, or moved with the source."""
    folders = [known["manifest_folder"] or source, source / "manifests"]
    places = [Path(folder, f"{partition}.csv") for folder in folders]
    return _existing(places[0]) or _existing(places[1])


def _read_scores(path, protocol, partition):
    if path is None:
        return None
    trials = protocol and read_protocol(protocol)
    if trials is None or not (trials.partition == partition).any():
        partition = None
    return read_cm_scores(path, trials, partition)


def _learn(dev, needed):
    """Learn to calibrate on dev; None if dev is unsuitable and not needed."""
    is_bonafide = dev.label == BONAFIDE
    try:
        return learn_fusion(dev[["score"]], is_bonafide, [dev.attrs["path"]])
    except InputError as error:
        if needed:
            raise
        logger.warning("The detector is not calibrated: %s", error)
        return None


def combined(calibration, fusion):
    """Combine a detector's calibration, if any, with the one after it."""
    if fusion is None:
        return calibration
    (weight,), bias = fusion.weights, fusion.bias
    earlier = calibration or {"weight": 1.0, "bias": 0.0}
    bias += weight * earlier["bias"]
    return {"weight": weight * earlier["weight"], "bias": bias}


def _training(source, known, corpus):
    """Return what may be published of the training: no local paths."""
    found = dict(known, manifest_folder="", asv_scores="")
    if manifest := _manifest(source, known, "train"):
        trials = read_protocol(manifest)
        attacks = trials.attack[trials.label == SPOOF].unique()
        found["attacks"] = ", ".join(sorted(attacks))
        found["num_bonafide"] = int((trials.label == BONAFIDE).sum())
        found["num_spoof"] = int((trials.label == SPOOF).sum())
    found["corpus"] = corpus or known["corpus"]
    return {key: value for key, value in found.items() if value}


# ----------------------------------------------------------------------- card
def model_card(
    name,
    config,
    license=None,
    calibrated_on=None,
    report=None,
    int8_eer=None,
    int8_count=None,
):
    """Return a model card in the form of the Hugging Face hub; see ``export``.

    ``report`` has this system only; ``int8_eer`` is that of network_int8.onnx,
    in percent, on ``int8_count``.
    """
    system = report and report.evaluations[0]
    measured_on = system and _count(system.scores, system.attacks)
    header = ModelCardData(
        library_name="speechbrain",
        license=license,
        pipeline_tag=_TASK,
        tags=_TAGS,
        model_name=name if report else None,
        eval_results=[
            EvalResult(
                task_type=_TASK,
                dataset_type="spoofing",
                dataset_name=measured_on,
                metric_type=metric,
                metric_name=METRICS[metric].title,
                metric_value=METRICS[metric].scale * estimate.value,
            )
            for metric, estimate in (system.metrics if system else {}).items()
        ]
        or None,
    )
    loader = jinja2.PackageLoader("speechbrain_bilevel.inference", ".")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined
    )
    environment.filters["plain"] = _plain
    return environment.get_template("model_card.md.jinja").render(
        header=header.to_yaml().strip(),
        name=name,
        config=config,
        training=TRAINING | config.training,
        seconds=f"{config.num_samples / SAMPLE_RATE:.2f}",
        calibrated_on=calibrated_on,
        report=report,
        system=system,
        measured_on=measured_on,
        int8_eer=int8_eer,
        int8_count=int8_count,
        metrics=METRICS,
        format=format_estimate,
    )


def _count(scores, attacks=None):
    n_bonafide = (scores.label == BONAFIDE).sum()
    n_spoof = len(scores) - n_bonafide
    text = f"{n_bonafide} bona fide and {n_spoof} spoofed trials"
    return text if attacks is None else f"{text} of {len(attacks)} attacks"


def _plain(text, longest=200):
    """Escape text from a file, so that it has no meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", printable(text, longest))
