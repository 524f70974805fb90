"""The recipe on real speech, where the reference data is."""

import json

import numpy as np
from recipe_runs import run

from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.detector import SpoofDetector


def test_train_score_and_classify_a_recording(shared, tmp_path):
    corpus = shared / "data" / "MiniLA" / "LA"
    run(
        "train_v2_small_bilevel",
        corpus,
        tmp_path,
        number_of_epochs=1,
        training_steps=29,
        batch_size=32,
    )
    report = evaluate([read_cm_scores(tmp_path / "eval_scores.txt")])
    (result,) = report.evaluations
    assert (result.n_bonafide, result.n_spoof) == (333, 692)
    assert list(result.attacks) == [f"A{n:02}" for n in range(7, 20)]
    stamp = json.loads((tmp_path / "manifests" / "prepare.json").read_text())
    assert stamp["data_folder"] == str(corpus)

    detector = SpoofDetector.from_hparams(tmp_path / "pretrained")
    posteriors, score, index, label = detector.classify_file(
        shared / "data" / "ADD_A_00000000.wav"
    )
    assert np.isclose(posteriors.exp().sum(), 1)
    assert label == ["bonafide" if score.item() > 0 else "spoof"]
    assert index.item() == int(score.item() > 0)
