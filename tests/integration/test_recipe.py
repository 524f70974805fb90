"""The recipe really trains, scores, reports and exports."""

import re
import runpy
import subprocess
import sys

import pytest
import torch
import train
from recipe_runs import (
    RECIPE,
    arguments,
    final_weights,
    last_epoch_state,
    run,
)

from speechbrain_bilevel.dataio import BONAFIDE
from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.utils.errors import InputError

LOGGED = [
    "loss",
    "lower/gradient_norm",
    "lower/lr",
    "upper/loss",
    "upper/gradient_norm",
    "upper/direct_norm",
    "upper/implicit_norm",
    "upper/implicit_to_direct",
    "upper/lr",
]
STRATEGIES = "speechbrain_bilevel.hypergradients."


@pytest.fixture(scope="module")
def bilevel(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("bilevel")
    run("train_v2_small_bilevel", corpus, output, number_of_epochs=3)
    return output


def train_losses(output, name):
    log = (output / "train_log.txt").read_text()
    return [float(v) for v in re.findall(rf"train {name}: ([-\d.e+]+)", log)]


def test_both_losses_fall(bilevel):
    for name in ("loss", "upper/loss"):
        first, *_, last = train_losses(bilevel, name)
        assert last < first


def test_scores_are_those_of_the_eval_protocol_in_its_order(bilevel, corpus):
    trials = read_asvspoof2019_protocol(corpus, "eval")
    scores = read_cm_scores(bilevel / "eval_scores.txt")
    assert scores.utt.tolist() == trials.utt.tolist()
    assert scores.attack.tolist() == trials.attack.tolist()
    assert len(set(scores.score)) > len(trials) // 2


def test_the_script_finds_a_trial_without_a_score(bilevel, corpus, tmp_path):
    lines = (bilevel / "eval_scores.txt").read_text().splitlines(True)
    for name, kept, code in (("whole", lines, 0), ("cut", lines[1:], 2)):
        scores = tmp_path / name
        scores.write_text("".join(kept))
        script = RECIPE / "evaluate_tdcf.py"
        result = subprocess.run(
            [sys.executable, script, scores, "--data_folder", corpus],
            capture_output=True,
            text=True,
        )
        assert result.returncode == code, result.stderr
    assert f"missing trials: 1 ({lines[0].split()[0]})" in result.stderr
    assert result.stdout == ""


def test_best_dev_epoch_is_kept_and_dev_has_a_tdcf(bilevel):
    log = (bilevel / "train_log.txt").read_text()
    eers = [float(v) for v in re.findall(r"valid EER: ([\d.e+]+)", log)]
    assert len(re.findall(r"valid min_tDCF: [\d.e+-]+", log)) == len(eers) == 3
    kept = [
        re.search(r"EER: ([\d.]+)", (path / "CKPT.yaml").read_text())
        for path in (bilevel / "save").glob("CKPT*")
    ]
    assert min(float(m[1]) for m in kept) == pytest.approx(min(eers), rel=0.01)


@pytest.mark.parametrize("partition", ["dev", "eval"])
def test_detector_gives_the_scores_of_the_score_files(
    bilevel, corpus, partition
):
    detector = SpoofDetector.from_hparams(bilevel / "pretrained")
    dev = read_cm_scores(bilevel / "dev_scores.txt")
    calibrate = learn_fusion(dev[["score"]], dev.label == BONAFIDE)
    trials = read_asvspoof2019_protocol(corpus, partition)
    scores = read_cm_scores(bilevel / f"{partition}_scores.txt")
    assert scores.utt.tolist() == trials.utt.tolist()
    for path, score in zip(trials.path[:3], calibrate(scores[["score"]])):
        _, ours, _, _ = detector.classify_file(corpus / path)
        assert ours.item() == pytest.approx(score, abs=1e-5)


def test_the_card_tells_data_and_figures(bilevel, corpus):
    card = (bilevel / "pretrained" / "README.md").read_text()
    trials = read_asvspoof2019_protocol(corpus, "train")
    n_spoof = (trials.label == "spoof").sum()
    attacks = "attacks A01, A02, A03, A04, A05, A06."
    assert f"bona fide and {n_spoof} spoofed\nrecordings, {attacks}" in card
    assert "Training: Alternating." in card
    report = (bilevel / "eval_report.txt").read_text()
    eer = re.search(r"^EER %\s+([\d.]+)", report, re.M)[1]
    assert f"| EER % | {float(eer):.4f} (" in card
    assert "| min t-DCF, legacy 2019 | " in card


def test_a_finished_run_is_left_alone(bilevel, corpus):
    files = [bilevel / "eval_scores.txt", bilevel / "train_log.txt"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    run("train_v2_small_bilevel", corpus, bilevel, number_of_epochs=3)
    after = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    assert after == before


@pytest.mark.parametrize(
    "yaml",
    [
        "train_v2",
        "train_v2_bilevel",
        "train_v2_bilevel_as_published",
        "train_v2_small",
        "train_aasist",
        "train_aasist_bilevel",
        "train_lfcc_gmm",
        "train_cqcc_gmm",
        "train_lfcc_lcnn",
        "train_lfcc_lcnn_bilevel",
        "train_rawnet2",
        "train_rawgat_st_bilevel",
    ],
)
def test_every_other_yaml_runs(yaml, corpus, tmp_path):
    run(yaml, corpus, tmp_path, number_of_epochs=1)
    scores = read_cm_scores(tmp_path / "eval_scores.txt").score
    if yaml.endswith("as_published"):
        assert scores.min() >= 0 and scores.max() <= 1
    assert (tmp_path / "eval_report.txt").read_text().count("\nA") == 13
    detector = SpoofDetector.from_hparams(tmp_path / "pretrained")
    trials = read_asvspoof2019_protocol(corpus, "eval")
    _, score, _, _ = detector.classify_file(corpus / trials.path[0])
    assert score.isfinite().all()


def test_weights_of_attacks_and_noise_are_learned(corpus, tmp_path):
    yaml = "train_v2_small_hyperparameters"
    run(yaml, corpus, tmp_path, number_of_epochs=1)
    logits = last_epoch_state(tmp_path, "attack_weights")["logits"]
    assert logits.shape == (7,) and (logits != 0).all()
    assert last_epoch_state(tmp_path, "noise")["snr"] != 30
    assert train_losses(tmp_path, "upper/implicit_norm")[0] > 0
    assert train_losses(tmp_path, "upper/direct_norm")[0] == 0


def test_tensorboard_shows_both_levels(corpus, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    (tmp_path / "edited.yaml").write_text(
        f"--- !include:{RECIPE}/hparams/train_v2_small_bilevel.yaml\n"
        "train_logger: !new:speechbrain.utils.train_logger.TensorboardLogger\n"
        f"    save_dir: {tmp_path}\n"
        "hypergradient: !new:speechbrain_bilevel.hypergradients.SOBA\n"
        "    step_size: 0.1\n"
    )
    run(tmp_path / "edited", corpus, tmp_path / "run", number_of_epochs=1)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    tags = {f"{name}/train" for name in LOGGED} | {"EER/valid"}
    assert tags <= set(events.Tags()["scalars"])
    for tag in tags:
        (scalar,) = events.Scalars(tag)
        assert scalar.value > 0, tag


@pytest.mark.parametrize(
    "override, message",
    [
        (
            {"hypergradient": "!new:" + STRATEGIES + "Alternating"},
            "loss does not depend on the upper parameters .attack_w.*zero",
        ),
        ({"attack_weights": "{size: 9}"}, "attack_weights: size 9, but .* 7"),
    ],
)
def test_what_cannot_be_learned_is_refused(override, message, corpus, tmp_path):
    with pytest.raises(InputError, match=message):
        run("train_v2_small_hyperparameters", corpus, tmp_path, **override)


def test_plain_training_is_one_line_of_the_bilevel_yaml(corpus, tmp_path):
    run("train_v2_small", corpus, tmp_path / "plain")
    run(
        "train_v2_small_bilevel",
        corpus,
        tmp_path / "ablation",
        hypergradient="null",
    )
    plain = final_weights(tmp_path / "plain")
    for name, tensor in final_weights(tmp_path / "ablation").items():
        assert torch.equal(tensor, plain[name]), name


def test_the_same_seed_gives_the_same_weights(bilevel, corpus, tmp_path):
    for seed, same in ((1234, True), (4321, False)):
        output = tmp_path / str(seed)
        run(
            "train_v2_small_bilevel",
            corpus,
            output,
            seed=seed,
            number_of_epochs=3,
        )
        name = "classifier.1.weight"
        ours, theirs = final_weights(output), final_weights(bilevel)
        assert torch.equal(ours[name], theirs[name]) == same


def test_accumulation_halves_the_steps(corpus, tmp_path):
    flags = ("--grad_accumulation_factor", 2)
    run("train_v2_small_bilevel", corpus, tmp_path, *flags, batch_size=4)
    optimizer = last_epoch_state(tmp_path, "upper_optimizer")
    schedule = last_epoch_state(tmp_path, "upper_schedule")
    steps = int(next(iter(optimizer["state"].values()))["step"])
    assert steps == schedule["last_epoch"] == 2 * (8 // 2)


def test_bf16(corpus, tmp_path, monkeypatch):
    dtypes = {}
    forward = train.SpoofBrain.compute_forward

    def note(brain, batch, stage):
        logits = forward(brain, batch, stage)
        dtypes[brain.level, stage.name] = logits.dtype
        return logits

    monkeypatch.setattr(train.SpoofBrain, "compute_forward", note)
    flags = ("--precision", "bf16", "--eval_precision", "bf16")
    run("train_v2_small_bilevel", corpus, tmp_path, *flags)
    places = [("lower", "TRAIN"), ("upper", "TRAIN"), (None, "VALID")]
    assert dtypes == dict.fromkeys(places, torch.bfloat16)
    weights = final_weights(tmp_path)
    assert all(w.isfinite().all() for w in weights.values())
    assert weights["classifier.1.weight"].dtype == torch.float32


def test_debug_writes_no_result(corpus, tmp_path):
    run("train_v2_small_bilevel", corpus, tmp_path, "--debug")
    assert not (tmp_path / "eval_scores.txt").exists()
    assert not (tmp_path / "pretrained").exists()


def test_a_checkpoint_of_other_sizes_is_refused(bilevel, corpus):
    with pytest.raises(InputError, match="does not fit what this YAML builds"):
        run("train_v2_small_bilevel", corpus, bilevel, num_samples=5000)


def test_bad_input_ends_with_exit_code_2(corpus, tmp_path, monkeypatch, capsys):
    words = arguments("train_v2_small", tmp_path, tmp_path / "output")
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(train.__file__, run_name="__main__")
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert "ASVspoof2019_LA_cm_protocols" in errors
    assert not (tmp_path / "output" / "eval_scores.txt").exists()


def test_a_yaml_without_its_data_folder_is_refused(monkeypatch):
    yaml = train.__file__.replace("train.py", "hparams/train_v2.yaml")
    monkeypatch.setattr("sys.argv", ["train.py", yaml])
    with pytest.raises(InputError, match="train_v2.yaml: .*data_folder"):
        train.main()
