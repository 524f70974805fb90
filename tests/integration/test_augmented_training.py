"""What happens to the training audio and to its sampling, in the recipe."""

import pytest
import torch
import train
from recipe_runs import RECIPE, final_weights, run

from speechbrain_bilevel.utils.errors import InputError

AUGMENTED = """wav_augment: !new:speechbrain.augment.augmenter.Augmenter
    concat_original: True
    augmentations:
        - !new:speechbrain_bilevel.augment.rawboost.RawBoost
            algorithm: 5
        - !new:speechbrain.augment.time_domain.DropFreq
"""
HYPERPARAMETERS = "train_v2_small_hyperparameters"


def with_augmentation(yaml, folder):
    """The path, without its ending, of a YAML that augments."""
    path = folder / f"{yaml}_augmented"
    include = f"--- !include:{RECIPE}/hparams/{yaml}.yaml\n"
    path.with_suffix(".yaml").write_text(include + AUGMENTED)
    return path


@pytest.mark.parametrize("yaml", ["train_mel_cnn", "train_mel_cnn_bilevel"])
def test_balanced_classes_and_random_crops(yaml, corpus, tmp_path):
    weights = {}
    for name, options in (
        ("first", {}),
        ("again", {}),
        ("fixed", {"train_samples": 4000}),
        ("balanced", {"class_balanced": True}),
    ):
        options = {"train_samples": 6000, "number_of_epochs": 1, **options}
        run(yaml, corpus, tmp_path / name, **options)
        weights[name] = final_weights(tmp_path / name)
    first = weights.pop("first")["mel_encoder.convs.0.weight"]
    same = {
        name: torch.equal(first, found["mel_encoder.convs.0.weight"])
        for name, found in weights.items()
    }
    assert same == {"again": True, "fixed": False, "balanced": False}


def test_balanced_epochs_are_not_all_the_same(corpus, tmp_path, monkeypatch):
    order = {}

    def note(brain, batch, should_step):
        epoch = brain.hparams.epoch_counter.current
        order.setdefault(epoch, []).extend(batch.id)

    monkeypatch.setattr(train.SpoofBrain, "on_fit_batch_start", note)
    run("train_mel_cnn", corpus, tmp_path, class_balanced=True)
    assert sorted(order) == [1, 2] and order[1] != order[2]


def test_originals_beside_augmented_clips(corpus, tmp_path, monkeypatch):
    seen = {}
    forward = train.SpoofBrain.compute_forward

    def note(brain, batch, stage):
        predictions = forward(brain, batch, stage)
        seen[stage.name] = len(predictions), len(batch.id)
        return predictions

    monkeypatch.setattr(train.SpoofBrain, "compute_forward", note)
    yaml = with_augmentation(HYPERPARAMETERS, tmp_path)
    run(yaml, corpus, tmp_path / "run", number_of_epochs=1)
    assert seen["TRAIN"] == (16, 8)
    assert seen["VALID"][0] == seen["VALID"][1]


def test_a_crop_that_is_too_long_is_refused(corpus, tmp_path):
    with pytest.raises((InputError, ValueError), match="hold no crop of 4000"):
        run("train_mel_cnn", corpus, tmp_path, train_samples=3999)
