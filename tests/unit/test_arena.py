"""The Speech Anti-Spoofing Arena: what its harness calls, and its files."""

import io

import numpy as np
import pytest
import soundfile
import torch
import yaml
from parquet_sets import row, write
from tiny_detector import export, tiny_network

from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference.arena import VARIABLE, Detector
from speechbrain_bilevel.metrics.eer import interpolated_eer
from speechbrain_bilevel.utils.errors import InputError

DATASET = "SpeechAntiSpoofingBenchmarks/InTheWild"


@pytest.fixture
def folder(tmp_path):
    return export(tmp_path / "tiny", tiny_network())


@pytest.fixture
def detector(folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(folder))
    detector = Detector()
    detector.load()
    return detector


def test_scores_are_those_of_the_command(detector, folder, tmp_path, run):
    random = np.random.default_rng(0)
    wavs = [random.normal(0, 0.1, 500 + 100 * n) for n in range(20)]
    # What is heard begins at the first sound.
    wavs[15] = np.concatenate([np.zeros(40_000), wavs[15]])
    rows, audios = [], []
    for number, wav in enumerate(wavs):
        file = io.BytesIO()
        soundfile.write(file, wav, 16000, format="WAV")
        name = f"u{number}"
        rows.append(row(number, number % 2, file.getvalue(), utterance_id=name))
        file.seek(0)
        audios.append(soundfile.read(file, dtype="float32")[0])
    path = write(tmp_path / "test.parquet", rows)
    output = tmp_path / "scores.txt"
    assert run("score", path, output, "--source", folder)[0] == 0
    expected = read_cm_scores(output).score.tolist()
    assert len(set(expected)) == 20
    found = []
    for start in range(0, 20, detector.batch_size):
        batch = audios[start : start + detector.batch_size]
        found += detector.score_batch(batch, [16000] * len(batch))
    assert found == expected
    # The harness tries them one by one if one of a batch fails.
    (alone,) = detector.score_batch([audios[7]], [16000])
    assert alone == pytest.approx(expected[7], abs=1e-6)


def test_what_its_harness_asks_of_a_class(detector):
    assert detector.name == "tiny"
    assert detector.expected_sample_rate == 16000
    detector.unload()
    assert not hasattr(detector, "detector")


def test_a_subclass_names_its_detector(folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nowhere")

    class Mine(Detector):
        source = folder

    Mine().load()
    with pytest.raises(InputError, match="^/nowhere: no such folder"):
        Detector().load()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(InputError, match="SPOOF_DETECTOR is not set"):
        Detector().load()


def test_what_cannot_be_scored(detector):
    with pytest.raises(InputError, match="^audio: nothing to hear"):
        detector.score_batch([np.zeros(8000)], [16000])
    with pytest.raises(InputError, match="NaN or infinite"):
        detector.score_batch([np.full(8000, np.nan)], [16000])
    with torch.no_grad():
        for weight in detector.detector.mods.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(InputError, match="a score is NaN"):
        detector.score_batch([np.random.rand(8000)], [16000])


def write_scores(path, seed=0, shift=1.0):
    """The scores of 30 bona fide and 50 spoofed trials."""
    random = np.random.default_rng(seed)
    lines = []
    for number in range(80):
        key = "bonafide" if number < 30 else "spoof"
        score = random.normal(shift if number < 30 else 0)
        lines.append(f"u{number} {'-' if number < 30 else 'A1'} {key} {score}")
    path.write_text("\n".join(lines))
    return path


def test_files_of_a_submission(folder, tmp_path, run):
    wild, other = (write_scores(tmp_path / f"{n}.txt", n) for n in range(2))
    dev = write_scores(tmp_path / "dev.txt", 2, shift=3.0)
    out = tmp_path / "My V2 (bi-level)"
    code, said, _ = run(
        *("export", folder, out, "--dev-scores", dev),
        *("--arena", f"{DATASET}={wild}", "--arena", f"Org/b={other}"),
    )
    assert code == 0
    scores = read_cm_scores(wild)
    parts = [scores.score[scores.label == key] for key in ("bonafide", "spoof")]
    rate = 100 * interpolated_eer(*parts)[0]
    assert f"{DATASET}: eer_percent {rate!r}, n_trials 80\n" in said
    meta = yaml.safe_load((out / "meta.yaml").read_text())
    home = "https://huggingface.co/USER/NAME"
    weights = sum(weight.numel() for weight in tiny_network().parameters())
    assert meta == {
        "system": {
            "name": out.name,
            "slug": "my-v2-bi-level",
            "description": "V2, FP32, hears 0.10 s",
            "code": home,
            "checkpoint": home,
            "params_millions": weights / 1e6,
        }
    }
    # What the exported detector gives, which is calibrated.
    lines = (out / f".eval_results/{DATASET}/scores.txt").read_text()
    utts, found = zip(*map(str.split, lines.splitlines()))
    assert list(utts) == scores.utt.tolist()
    calibrate = np.polyfit(scores.score, np.array(found, float), 1)
    assert not np.allclose(calibrate, [1, 0])
    np.testing.assert_allclose(
        np.polyval(calibrate, scores.score), np.array(found, float)
    )
    config = (out / "config.json").read_text()
    weight = yaml.safe_load(config)["calibration"]["weight"]
    assert calibrate[0] == pytest.approx(weight)
    assert (out / ".eval_results/Org/b/scores.txt").is_file()


@pytest.mark.parametrize(
    ("arena", "message"),
    [
        ("scores.txt", "--arena scores.txt: expected DATASET=SCORES"),
        ("wild={}", "wild: no data set of the Arena; expected ORG"),
        ("../../x={}", "../../x: no data set of the Arena"),
        ("Org/wild=/nowhere.txt", "/nowhere.txt: cannot be read"),
    ],
)
def test_bad_submissions_write_nothing(folder, tmp_path, run, arena, message):
    scores, out = write_scores(tmp_path / "s.txt"), tmp_path / "out"
    code, _, errors = run(
        "export", folder, out, "--arena", arena.format(scores)
    )
    assert code == 2 and f"error: {message}" in errors
    assert not out.exists()
