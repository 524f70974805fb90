"""The model card: what a detector is, was trained on, and is worth."""

import re

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from speechbrain_bilevel.dataio.audio import SAMPLE_RATE
from speechbrain_bilevel.evaluation.results import METRICS
from speechbrain_bilevel.evaluation.text import interval_text, number_text
from speechbrain_bilevel.utils.errors import printable

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("speechbrain_bilevel.hub", "."),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


_TAGS = ["speechbrain", "anti-spoofing", "audio-deepfake-detection", "ASVspoof"]


def model_card(
    name,
    parts,
    corpus=None,
    licence=None,
    training=None,
    method=None,
    calibration=None,
    report=None,
):
    """Writes a model card in the form of the Hugging Face hub.

    Arguments
    ---------
    name : str
        Of the detector.
    parts : Parts
        The detector.
    corpus : str, optional
        What it was trained on.
    licence : str, optional
        The hub's short name of it, such as "apache-2.0".
    training : Sequence of Trial, optional
        What it was trained on, one by one.
    method : str, optional
        How it was trained, a sentence.
    calibration : str, optional
        What it was calibrated on.
    report : Report, optional
        Figures of it, the only system in there.

    Returns
    -------
    str
        Markdown with a YAML header.

    Example
    -------
    >>> from speechbrain_bilevel.inference.folder import Parts
    >>> parts = Parts("network: !new:some.Network {}", {}, 16000, False)
    >>> print(model_card("mine", parts).split("---")[1].strip())
    library_name: speechbrain
    pipeline_tag: audio-classification
    tags:
    - speechbrain
    - anti-spoofing
    - audio-deepfake-detection
    - ASVspoof
    """
    facts = {"metrics": None}
    if report is not None:
        facts = _measured(report)
    if training is not None:
        training = _training(training)
    header = ModelCardData(
        library_name="speechbrain",
        license=licence,
        pipeline_tag="audio-classification",
        tags=_TAGS,
        model_name=name if report else None,
        eval_results=_eval_results(report) if report else None,
    )
    return _TEMPLATES.get_template("model_card.md.jinja").render(
        header=header.to_yaml().strip(),
        name=_plain(name),
        network=_class_of(parts.network),
        seconds=parts.samples / SAMPLE_RATE,
        as_published=parts.as_published,
        bonafide_logit=parts.bonafide_logit,
        calibrated=parts.calibration is not None,
        calibration=calibration,
        corpus=_plain(corpus or "A corpus that is not named here"),
        training=training,
        method=method,
        **facts,
    )


def _class_of(entry):
    """The class that a YAML's entry builds."""
    match = re.search(r"!new:(?:\w+\.)*(\w+)", entry)
    return match[1] if match else "of a class that is not named here"


def _training(trials):
    labels = [trial.label for trial in trials]
    attacks = {trial.attack for trial in trials if trial.label == "spoof"}
    return {
        "bonafide": labels.count("bonafide"),
        "spoof": labels.count("spoof"),
        "attacks": [_plain(attack) for attack in sorted(attacks)],
    }


def _measured(report):
    """What the card tells of an evaluation."""
    (system,) = report.evaluations
    return {
        "evaluated": _evaluated(system),
        "resampled": report.resampled,
        "metrics": [
            (METRICS[name][0], _cell(estimate, METRICS[name][1], 4))
            for name, estimate in system.metrics.items()
        ],
        "attacks": [
            (_plain(name), attack.trials, _cell(attack.eer, 100, 2))
            for name, attack in system.attacks.items()
        ],
        "cautions": [_plain(caution) for caution in report.cautions],
    }


def _evaluated(system):
    return (
        f"{system.n_bonafide} bona fide and {system.n_spoof} spoofed trials of "
        f"{len(system.attacks)} attacks"
    )


def _eval_results(report):
    (system,) = report.evaluations
    return [
        EvalResult(
            task_type="audio-classification",
            dataset_type="spoofing",
            dataset_name=_evaluated(system),
            metric_type=name,
            metric_name=METRICS[name][0],
            metric_value=METRICS[name][1] * estimate.value,
        )
        for name, estimate in system.metrics.items()
    ]


def _cell(estimate, scale, digits):
    text = number_text(scale * estimate.value, digits)
    interval = interval_text(estimate, scale, digits)
    return f"{text} ({interval})" if interval else text


def _plain(text):
    """A name from a file as Markdown that means nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", printable(text, 200))
