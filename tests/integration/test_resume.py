"""A run that was killed ends where an unbroken one does, bit by bit."""

import signal
import subprocess
import time

import pytest
import torch
import train
from recipe_runs import command, final_weights, run

from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.scoring import ResumableScoreFile

# Small batches: an epoch of many steps, so that a kill falls within it.
LONG = {"batch_size": 2, "number_of_epochs": 2, "training_steps": 30}


def assert_same_weights(output, expected):
    ours, theirs = final_weights(output), final_weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


class Interrupted(Exception):
    """Stands in for a kill where a process of its own would be slow."""


@pytest.mark.parametrize(
    "yaml",
    [
        "train_v2_small",
        "train_v2_small_bilevel",
        "train_v2_bilevel_as_published",
        "train_mel_cnn",
        "train_mel_cnn_bilevel",
    ],
)
def test_interrupted_in_mid_epoch(yaml, corpus, tmp_path, monkeypatch):
    flags = ("--ckpt_interval_steps", 2)
    run(yaml, corpus, tmp_path / "unbroken", *flags, **LONG)

    start = train.SpoofBrain.on_fit_batch_start

    def interrupt(brain, batch, should_step):
        start(brain, batch, should_step)
        if brain.step == 6 and brain.optimizer_step > 10:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(train.SpoofBrain, "on_fit_batch_start", interrupt)
        with pytest.raises(Interrupted):
            run(yaml, corpus, tmp_path / "broken", *flags, **LONG)
    assert not (tmp_path / "broken" / "eval_scores.txt").exists()
    steps = []

    def note(brain, batch, should_step):
        start(brain, batch, should_step)
        steps.append(brain.step)

    monkeypatch.setattr(train.SpoofBrain, "on_fit_batch_start", note)
    run(yaml, corpus, tmp_path / "broken", *flags, **LONG)
    assert steps[0] == 5, "it should go on after the checkpoint of step 4"
    assert_same_weights(tmp_path / "broken", tmp_path / "unbroken")
    scores = [
        read_cm_scores(tmp_path / name / "eval_scores.txt").score
        for name in ("broken", "unbroken")
    ]
    assert (scores[0] == scores[1]).all()
    logs = [
        (tmp_path / name / "train_log.txt").read_text()
        for name in ("broken", "unbroken")
    ]
    assert logs[0] == logs[1]


def test_killed_process(corpus, tmp_path, monkeypatch):
    arguments = "train_v2_small_bilevel", corpus, tmp_path / "killed"
    flags = ("--ckpt_interval_steps", 1, "--noprogressbar")
    start, steps = train.SpoofBrain.on_fit_batch_start, []

    def note(brain, batch, should_step):
        start(brain, batch, should_step)
        steps.append(brain.step)

    monkeypatch.setattr(train.SpoofBrain, "on_fit_batch_start", note)
    run(*arguments[:2], tmp_path / "unbroken", *flags, **LONG)
    unbroken = list(steps)
    steps.clear()
    with subprocess.Popen(
        command(*arguments, *flags, **LONG),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        save = tmp_path / "killed" / "save"
        deadline = time.monotonic() + 120
        # A checkpoint beside which another is being written or has been.
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(save.glob("*CKPT*"))) > 1:
                break
            time.sleep(0.001)
        assert process.poll() is None, "the run was over before the kill"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "eval_scores.txt").exists()
    run(*arguments, *flags, **LONG)
    assert unbroken[-len(steps) :] == steps and len(steps) < len(unbroken)
    assert_same_weights(tmp_path / "killed", tmp_path / "unbroken")


def test_scoring_resumes_where_it_stopped(corpus, tmp_path, monkeypatch):
    arguments = "train_v2_small", corpus, tmp_path
    overrides = {"test_loader_kwargs": "{batch_size: 4}"}
    scored = []
    original = ResumableScoreFile.add

    def add(scores, positions, values):
        if len(scored) == 3:
            raise Interrupted
        scored.append(scores.trials.utt[positions].tolist())
        original(scores, positions, values)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableScoreFile, "add", add)
        with pytest.raises(Interrupted):
            run(*arguments, **overrides)
    done = {utt for utts in scored for utt in utts}
    assert len(done) == 12

    again = []

    def note(scores, positions, values):
        again.extend(scores.trials.utt[positions])
        original(scores, positions, values)

    monkeypatch.setattr(ResumableScoreFile, "add", note)
    run(*arguments, **overrides)
    assert not done & set(again)
    scores = [
        read_cm_scores(tmp_path / f"{partition}_scores.txt")
        for partition in ("dev", "eval")
    ]
    assert done | set(again) == {utt for each in scores for utt in each.utt}


def test_more_epochs_in_a_finished_folder(corpus, tmp_path):
    yaml, steps = "train_mel_cnn_bilevel", {"training_steps": 30}
    for epochs in (1, 3):
        options = {"number_of_epochs": epochs, **steps}
        run(yaml, corpus, tmp_path / "longer", **options)
    run(yaml, corpus, tmp_path / "unbroken", number_of_epochs=3, **steps)
    assert_same_weights(tmp_path / "longer", tmp_path / "unbroken")
    for name in ("dev_scores.txt", "eval_scores.txt", "train_log.txt"):
        longer = (tmp_path / "longer" / name).read_bytes()
        assert longer == (tmp_path / "unbroken" / name).read_bytes()
