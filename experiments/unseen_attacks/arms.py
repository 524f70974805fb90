"""The arms of ``run.py``: what is changed in a YAML of the recipe."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

STRATEGY = "!new:speechbrain_bilevel.hypergradients."
RAWBOOST = {
    "wav_augment": """!new:speechbrain.augment.augmenter.Augmenter
    augmentations:
        - !new:speechbrain_bilevel.augment.time_domain.RandomCrop
            num_samples: !ref <num_samples>
        - !new:speechbrain_bilevel.augment.rawboost.RawBoost
            algorithm: 5"""
}

ALL = "griffin_lim, griffin_lim_mel, world"
ONE_CLASS = {
    "network": "{one_class: True}",
    "loss": "!new:speechbrain_bilevel.nnet.losses.OneClassSoftmax",
}


class Arm(NamedTuple):
    """A way to train.

    Arguments
    ---------
    description : str
        For the table.
    passes : int
        Backward passes of a step, of which the budget makes epochs.
    overrides : dict of str to str
        Keys of the YAML and their new values, as YAML: a mapping without a tag
        is merged with what stands there, anything else replaces it.
    levels : int
        1 is plain training's YAML, 2 the bi-level one's.
    batch : int
        Clips of a backward pass.
    chosen_from : bool
        Whether the arm may become the best one. Not those that have neither an
        upper level nor copies, and not the published form of another.
    without : str
        The plain arm with all the same but the second level.
    budgets : int
        So many times the passes of the other arms.
    """

    description: str
    passes: int = 1
    overrides: Mapping = MappingProxyType({})
    levels: int = 1
    batch: int = 32
    chosen_from: bool = False
    without: str = "plain"
    budgets: int = 1


def _copies(vocoders):
    """Return what adds a copy of each bona fide clip, as a spoof."""
    return {"copy_synthesis": f"[{vocoders}]", "copies_per_clip": "1"}


def _bilevel(description, strategy, passes, chosen_from=True, **overrides):
    without = "plain"
    if ONE_CLASS.items() <= overrides.items():
        without = "plain_one_class"
    elif RAWBOOST.items() <= overrides.items():
        without = "plain_rawboost"
    elif copies := overrides.get("copy_synthesis", "").strip("[]"):
        without = "plain_copies" if copies == ALL else f"plain_copies_{copies}"
    return Arm(
        description,
        passes,
        {"hypergradient": STRATEGY + strategy, **overrides},
        levels=2,
        chosen_from=chosen_from,
        without=without,
    )


def _hyperparameters(description, strategy, passes, name, module):
    """Return an arm whose upper level is a module beside the network."""
    return _bilevel(
        description,
        strategy,
        passes,
        upper=f"[{name}]",
        upper_opt_class="!name:torch.optim.Adam {lr: 1.0e-2}",
        modules=f"{{{name}: !ref <{name}>}}",
        checkpointer=f"{{recoverables: {{{name}: !ref <{name}>}}}}",
        **{name: f"!new:speechbrain_bilevel.{module}"},
    )


_WEIGHTS = ("attack_weights", "nnet.losses.LossWeights {size: SIZE}")
_NORMS = ", ".join(f"network.mel_encoder.convs.{i}" for i in (1, 4, 7, 10))
_BACK = "[network.embedding, network.classifier]"

ARMS = {
    "plain": Arm("plain training"),
    "plain64": Arm(
        "plain, 64 clips a step",
        batch=64,
        overrides={"batch_size": "64"},
    ),
    "plain_balanced": Arm(
        "plain, classes and attacks balanced",
        overrides={"class_balanced": "True"},
    ),
    "plain_one_class": Arm("plain, one-class softmax", overrides=ONE_CLASS),
    "plain_rawboost": Arm("plain, RawBoost", overrides=RAWBOOST),
    "plain_copies": Arm(
        "plain, a copy of each bona fide clip",
        overrides=_copies(ALL),
        chosen_from=True,
    ),
    "plain_all_copies": Arm(
        "plain, copies by every vocoder, balanced",
        overrides={"copy_synthesis": f"[{ALL}]", "class_balanced": "True"},
        chosen_from=True,
    ),
    **{
        f"plain_copies_{family}": Arm(
            f"plain, a copy of each by {family} only",
            overrides=_copies(family),
            chosen_from=True,
        )
        for family in ALL.split(", ")
    },
    "sam": _bilevel("SAM", "SAM", 2, False),
    "paired": _bilevel(
        "batches of both levels jointly, no second level",
        "MLDG {step_size: 0.0}",
        2,
        False,
    ),
    "mldg": _bilevel("MLDG", "MLDG {step_size: 0.05}", 2, False),
    "published": _bilevel(
        "mel encoder up, as published",
        "LaggedAlternating {number_of_epochs: !ref <number_of_epochs>}",
        2,
        False,
        leaky_folds="True",
        epoch_ends="shorter",
        loss="{loss_on: softmax}",
        score="softmax",
        max_grad_norm="1.0e+9",
    ),
    "alternating": _bilevel("mel encoder up, Alternating", "Alternating", 2),
    "alternating_twice": _bilevel(
        "mel encoder up, Alternating, twice the passes", "Alternating", 2, False
    )._replace(budgets=2),
    "alternating_fast": _bilevel(
        "mel encoder up, Alternating, twice the learning rates",
        "Alternating",
        2,
        opt_class="{lr: 2.0e-3}",
        upper_opt_class="{lr: 2.0e-3}",
    ),
    "alternating_rawboost": _bilevel(
        "mel encoder up, Alternating, RawBoost", "Alternating", 2, **RAWBOOST
    ),
    "alternating_copies": _bilevel(
        "mel encoder up, Alternating, a copy of each",
        "Alternating",
        2,
        **_copies(ALL),
    ),
    "alternating_copies_griffin_lim_mel": _bilevel(
        "mel encoder up, Alternating, a copy of each by griffin_lim_mel only",
        "Alternating",
        2,
        **_copies("griffin_lim_mel"),
    ),
    "alternating_norms": _bilevel(
        "normalization up, Alternating", "Alternating", 2, upper=f"[{_NORMS}]"
    ),
    "alternating_back": _bilevel(
        "embedding and classifier up, Alternating",
        "Alternating",
        2,
        upper=_BACK,
    ),
    "alternating_one_class": _bilevel(
        "mel encoder up, Alternating, one-class softmax",
        "Alternating",
        2,
        **ONE_CLASS,
    ),
    "alternating_norms_one_class": _bilevel(
        "normalization up, Alternating, one-class softmax",
        "Alternating",
        2,
        upper=f"[{_NORMS}]",
        **ONE_CLASS,
    ),
    "alternating_back_one_class": _bilevel(
        "embedding and classifier up, Alternating, one-class softmax",
        "Alternating",
        2,
        upper=_BACK,
        **ONE_CLASS,
    ),
    "mldg_one_class": _bilevel(
        "MLDG, one-class softmax",
        "MLDG {step_size: 0.05}",
        2,
        False,
        **ONE_CLASS,
    ),
    "one_step": _bilevel(
        "mel encoder up, OneStepUnrolled", "OneStepUnrolled", 4
    ),
    "unrolled": _bilevel(
        "mel encoder up, TruncatedUnrolled, 3 steps",
        "TruncatedUnrolled {steps: 3}",
        10,
        lower_steps="3",
    ),
    "cg": _bilevel(
        "mel encoder up, CGAID",
        "CGAID {iterations: 3, damping: 1.0}",
        7,
    ),
    "neumann": _bilevel(
        "mel encoder up, NeumannAID",
        "NeumannAID {terms: 3, step_size: 0.05}",
        6,
    ),
    "soba": _bilevel(
        "mel encoder up, SOBA", "SOBA {step_size: 0.05, damping: 0.1}", 3
    ),
    "bome": _bilevel("mel encoder up, BOME", "BOME {step_size: 0.05}", 3),
    "f2sa": _bilevel("mel encoder up, F2SA", "F2SA {penalty: 10.0}", 3),
    "sama": _bilevel("mel encoder up, SAMA", "SAMA", 5),
    "weights_soba": _hyperparameters(
        "attack weights up, SOBA",
        "SOBA {step_size: 0.05, damping: 0.1}",
        3,
        *_WEIGHTS,
    ),
    "weights_sama": _hyperparameters(
        "attack weights up, SAMA", "SAMA", 5, *_WEIGHTS
    ),
    "noise_one_step": _hyperparameters(
        "strength of added noise up, OneStepUnrolled",
        "OneStepUnrolled",
        4,
        "noise",
        "augment.time_domain.LearnedNoise {snr: 30.0}",
    ),
}
