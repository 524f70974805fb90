"""From what a training left behind to a detector that can be passed on."""

from dataclasses import replace
from pathlib import Path

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.evaluation.bootstrap import usual_resampling
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import (
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.inference.card import model_card
from speechbrain_bilevel.inference.folder import (
    check_folder,
    parts_of,
    read_folder,
    write_folder,
    yaml_entries,
)
from speechbrain_bilevel.inference.weights import load_weights
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.utils.errors import InputError

logger = get_logger(__name__)


def export(
    source,
    folder,
    name=None,
    corpus=None,
    licence=None,
    dev_scores=None,
    dev_protocol=None,
    eval_scores=None,
    protocol=None,
    asv_scores=None,
):
    """Writes a pretrained folder: the network, calibrated, and its model card.

    Arguments
    ---------
    source : str or Path
        Output folder of ``train.py``, of which the checkpoint with the lowest
        EER on dev is taken; or a pretrained folder.
    folder : str or Path
        Where to write; see ``hub.folder.write_folder``.
    name, corpus, licence : str, optional
        For the card: what to call the detector (by default as the folder),
        what it was trained on, and the hub's short name of its licence.
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
    Parts
        What was written.

    Raises
    ------
    InputError
        If the source is neither, a file cannot be used, or the folder cannot
        be written.
    """
    source, folder = Path(source), Path(folder)
    check_folder(folder)
    parts = _parts(source)
    known = _known(source)
    dev = _read_scores(
        dev_scores or _existing(source / "dev_scores.txt"),
        dev_protocol or known.get("dev"),
        "dev",
    )
    scores = _read_scores(
        eval_scores or _existing(source / "eval_scores.txt"),
        protocol or known.get("eval"),
        "eval",
    )
    asv = asv_scores or known.get("asv")
    fusion = dev and _learn(dev, needed=dev_scores is not None)
    report = None
    if scores is not None:
        if fusion is not None:
            scores = replace(scores, score=fusion(scores.score[:, None]))
        report = evaluate(
            [scores],
            asv and read_asv_scores(asv),
            usual_resampling([scores]),
        )
    calibration = None
    if fusion is not None:
        parts = replace(parts, calibration=_combined(parts, fusion))
        calibration = (
            f"{dev.is_bonafide.sum()} bona fide and "
            f"{(~dev.is_bonafide).sum()} spoofed trials of dev"
        )
    card = model_card(
        name or folder.name,
        parts,
        corpus,
        licence,
        known.get("train") and read_protocol(known["train"]),
        known.get("method"),
        calibration,
        report,
    )
    write_folder(folder, parts, card)
    return parts


def _parts(source):
    if (source / "network.ckpt").is_file():
        return read_folder(source)
    checkpoint = None
    if (source / "save").is_dir():
        checkpoint = Checkpointer(source / "save").find_checkpoint(
            min_key="EER"
        )
    if checkpoint is None or "network" not in checkpoint.paramfiles:
        raise InputError(
            f"{source}: neither a network.ckpt in it nor a checkpoint of a "
            "network in save/; expected a pretrained folder, or the output "
            "folder of a training"
        )
    weights = load_weights(checkpoint.paramfiles["network"])
    return parts_of(source / "hyperparams.yaml", weights)


def _known(source):
    """What the YAML of a training tells: the files that are there, and how it
    was done. Nothing of a pretrained folder's."""
    entries = yaml_entries(source / "hyperparams.yaml")
    known = {}
    if "manifest_folder" in entries:
        # Relative to where the training was started, which may be elsewhere.
        folders = [Path(entries["manifest_folder"].value), source / "manifests"]
        for partition in ("train", "dev", "eval"):
            places = [_existing(at / f"{partition}.csv") for at in folders]
            known[partition] = places[0] or places[1]
    for key, value in getattr(entries.get("asv_scores"), "value", ()):
        if key.value == "eval":
            known["asv"] = _existing(value.value)
    if "hypergradient" in entries:
        strategy = entries["hypergradient"].tag.rpartition(".")[2]
        known["method"] = (
            "Trained plainly, on all attacks at once."
            if entries["hypergradient"].tag.endswith(":null")
            else f"Trained bi-level, hypergradient {strategy}: part of it "
            "learned on attacks that the rest had not seen."
        )
    return known


def _existing(path):
    return path if Path(path).is_file() else None


def _read_scores(path, protocol, partition):
    if path is None:
        return None
    trials = protocol and read_protocol(protocol)
    if not any(trial.partition == partition for trial in trials or []):
        partition = None
    return read_cm_scores(path, trials, partition)


def _learn(dev, needed):
    """The map from scores to log-likelihood ratios; None if dev cannot teach
    any and it is not needed."""
    try:
        return learn_fusion(dev.score[:, None], dev.is_bonafide, [dev.path])
    except InputError as error:
        if needed:
            raise
        logger.warning("The detector is not calibrated: %s", error)
        return None


def _combined(parts, fusion):
    """The source's own calibration, if any, and what was learned after it."""
    weight, bias = fusion.weights[0], fusion.bias
    if parts.calibration is not None:
        bias += weight * parts.calibration["bias"]
        weight *= parts.calibration["weight"]
    return {"weight": weight, "bias": bias}
