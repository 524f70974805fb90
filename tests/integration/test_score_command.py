"""``speechbrain-bilevel score``, alone and under a real ``torchrun``."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_detector import SAMPLES, export, tiny_network
from tiny_onnx import export_onnx

from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.inference import scoring
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.scoring import LONGEST, bucket_lengths
from speechbrain_bilevel.lobes.mel_cnn import MelCNN

COMMAND = Path(sys.executable).with_name("speechbrain-bilevel")
TRIALS = 37
# Some of the recordings are shorter, most are longer.
ANY_FROM = 8000
FULL = {"source": "mel_cnn"}
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone")
TWO_PROCESSES += ("--nproc_per_node", "2", "--no-python", COMMAND)
KILLED = """
import os, signal, sys
from speechbrain_bilevel import cli
from speechbrain_bilevel.inference import scoring

add, added = scoring.ResumableScoreFile.add, []

def add_and_die(self, positions, scores):
    add(self, positions, scores)
    added.append(positions)
    if len(added) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

scoring.ResumableScoreFile.add = add_and_die
sys.exit(cli.main(sys.argv[1:]))
"""


def export_mel_cnn(folder):
    """Write a detector that takes recordings of any length."""
    torch.manual_seed(0)
    network = MelCNN(ANY_FROM, n_mels=8, channels=[4, 4], embedding_size=8)
    export(folder, network.eval())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector, and a list of recordings that begin and end with silence."""
    folder = tmp_path_factory.mktemp("score")
    export(folder / "pretrained", tiny_network())
    export_mel_cnn(folder / "mel_cnn")
    export_onnx(folder / "onnx", "MelCNN")
    random = np.random.default_rng(0)
    lines = ["path,label,attack"]
    for n in range(TRIALS):
        rate = (8000, 16000, 44100)[n % 3]
        speech = random.normal(0, 0.1, random.integers(800, 2 * rate))
        silence = np.zeros(rate // 40 + random.integers(rate // 40))
        wav = np.concatenate([silence, speech, silence])
        soundfile.write(folder / f"{n}.flac", wav, rate)
        lines.append(f"{n}.flac," + ("real,-" if n % 4 else f"fake,A0{n % 7}"))
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


def words(folder, scores, *more, trials="list.csv", source="pretrained"):
    """The command's arguments."""
    source = str(folder / source)
    arguments = ["score", str(folder / trials), str(scores), "--source", source]
    return [*arguments, "--batch-size", "4", "--device", "cpu", *more]


@pytest.fixture
def score(run, monkeypatch):
    """Runs the command here; returns exit code, errors and the files read."""
    hear, read = scoring.hear, []

    def listen(path, *arguments):
        read.append(os.path.basename(path))
        return hear(path, *arguments)

    def score(*arguments, **trials):
        read.clear()
        monkeypatch.setattr(scoring, "hear", listen)
        code, out, err = run(*words(*arguments, **trials))
        if code == 0:
            assert out.endswith(" trials\n")
        return code, err, list(read)

    return score


@pytest.fixture
def interrupted(run, monkeypatch):
    """Runs the command here until Ctrl-C, after three batches."""

    def interrupted(*arguments, **trials):
        add, added = scoring.ResumableScoreFile.add, []

        def add_and_stop(scores, positions, values):
            add(scores, positions, values)
            added.extend(positions)
            if len(added) >= 3 * 4:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(scoring.ResumableScoreFile, "add", add_and_stop)
            assert run(*words(*arguments, **trials))[0] == 130
        return len(added)

    return interrupted


def launch(launcher, arguments):
    """Runs the command in processes of its own; returns exit code, errors."""
    # Two processes of two threads each would wait for one another.
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    result = subprocess.run(
        [sys.executable, *launcher, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    return result.returncode, result.stderr


def test_scores_are_those_of_classify_file(folder, tmp_path, score):
    code, err, read = score(folder, tmp_path / "scores.txt")
    assert code == 0 and len(read) == TRIALS
    assert f"{TRIALS}/{TRIALS}" in err
    scores = read_cm_scores(tmp_path / "scores.txt")
    detector = SpoofDetector.from_hparams(folder / "pretrained")
    alone = [
        detector.classify_file(folder / f"{n}.flac")[1].item()
        for n in range(TRIALS)
    ]
    # A network's sums are rounded differently for a batch of another size.
    np.testing.assert_allclose(scores.score, alone, rtol=0, atol=1e-5)
    lines = (tmp_path / "scores.txt").read_text().splitlines()
    assert lines[4].startswith("4.flac A04 spoof ")
    assert lines[5].startswith("5.flac - bonafide ")


def test_a_killed_run_is_resumed(folder, tmp_path, score):
    scores, whole = tmp_path / "a.txt", tmp_path / "whole.txt"
    assert score(folder, whole)[0] == 0
    code, err = launch(["-c", KILLED], words(folder, scores))
    assert code == -signal.SIGKILL, err[-5000:]
    assert not scores.exists()
    (part,) = tmp_path.glob("a.txt.*.part0")
    done = [line.split()[0] for line in part.read_text().splitlines()]
    assert len(done) == 3 * 4
    code, _, read = score(folder, scores)
    assert code == 0
    everything = [f"{n}.flac" for n in range(TRIALS)]
    assert sorted(done + read) == sorted(everything)
    assert scores.read_bytes() == whole.read_bytes()
    assert score(folder, scores)[2] == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_two_processes_resume_an_engine_s_run(
    folder, tmp_path, score, interrupted, engine
):
    scores, whole = tmp_path / "a.txt", tmp_path / "whole.txt"
    more, source = ("--engine", engine), {"source": "onnx"}
    assert score(folder, whole, *more, **source)[0] == 0
    interrupted(folder, scores, *more, **source)
    code, err = launch(TWO_PROCESSES, words(folder, scores, *more, **source))
    assert code == 0, err[-5000:]
    assert f"{TRIALS - 3 * 4} scores made, {3 * 4} kept" in err
    assert scores.read_bytes() == whole.read_bytes()


def test_two_processes_name_a_bad_file_once(folder, tmp_path, score):
    scores = tmp_path / "a.txt"
    lines = (folder / "list.csv").read_text().splitlines()
    # In the second batch, which is the second process's.
    lines[1 + 5] = "bad.flac,real,-"
    (folder / "bad.csv").write_text("\n".join(lines))
    bad = folder / "bad.flac"
    bad.write_text("no audio")
    arguments = words(folder, scores, trials="bad.csv")
    code, err = launch(TWO_PROCESSES, arguments)
    assert code != 0 and "exitcode  : 2" in err, err[-5000:]
    assert err.count(f"{bad}: no audio can be decoded") == 1
    assert f"error: 1 of {TRIALS} trials have no score" in err
    assert not scores.exists()

    soundfile.write(bad, *soundfile.read(folder / "5.flac"))
    code, _, read = score(folder, scores, trials="bad.csv")
    assert code == 0 and read == ["bad.flac"]
    assert len(read_cm_scores(scores).utt) == TRIALS


def test_trimmed_silence_has_scores_of_its_own(folder, tmp_path, score):
    scores, whole = tmp_path / "a.txt", tmp_path / "whole.txt"
    assert score(folder, whole)[0] == 0
    whole = read_cm_scores(whole).score
    code, _, read = score(folder, scores, "--trim-silence")
    assert code == 0 and len(read) == TRIALS
    trimmed = read_cm_scores(scores).score
    assert (np.abs(trimmed - whole) > 1e-3).all()
    detector = SpoofDetector.from_hparams(folder / "pretrained")
    wav = read_audio(folder / "3.flac", SAMPLES, trim_silence=True)
    expected = detector.classify_batch(wav)[1].item()
    assert trimmed[3] == pytest.approx(expected, abs=1e-5)
    assert score(folder, scores, "--trim-silence")[2] == []


@pytest.mark.parametrize("root", ["", "$data_root/"])
def test_audio_may_lie_elsewhere(folder, tmp_path, score, root):
    scores, trials = tmp_path / "a.txt", tmp_path / "trials.csv"
    lines = [f"u{n},{root}{n}.flac,spoof" for n in range(3)]
    trials.write_text("\n".join(["ID,wav,label", *lines]))
    code, err, read = score(folder, scores, trials=trials)
    assert code == 2 and read == []
    assert f"{tmp_path}/0.flac; pass --data-folder" in err
    there = ["--data-folder", str(folder)]
    code, err, read = score(folder, scores, *there, trials=trials)
    assert code == 0 and read == ["0.flac", "1.flac", "2.flac"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["--batch-size", "4.5"], "'4.5' is not a whole number of at least 1"),
        (["--num-workers", "-1"], "'-1' is not a whole number of at least 0"),
        (["--device", "gpu"], "--device gpu: no device; expected cpu, cuda or"),
        (["--device", "cuda:99"], "there is no GPU 99"),
        (["--source", "/gone"], "/gone: no such folder"),
    ],
)
def test_wrong_use_ends_with_2(folder, tmp_path, score, arguments, message):
    code, err, read = score(folder, tmp_path / "a.txt", *arguments)
    assert code == 2 and read == []
    assert message in err and "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_the_list_itself_is_not_overwritten(folder, score):
    before = (folder / "list.csv").read_bytes()
    code, err, _ = score(folder, folder / "list.csv")
    assert code == 2 and "exists but holds scores of another network" in err
    assert (folder / "list.csv").read_bytes() == before


def test_a_protocol_finds_its_audio_where_the_corpus_has_it(
    folder, tmp_path, score
):
    lines, flac = [], "ASVspoof2021_DF_eval_part0{}/ASVspoof2021_DF_eval/flac"
    for n in range(4):
        place = tmp_path / "DF" / flac.format(n) / f"DF_E_{n}.flac"
        place.parent.mkdir(parents=True)
        place.symlink_to(folder / f"{n}.flac")
        lines.append(f"S DF_E_{n} a b A1 spoof trim eval v - - - -")
    protocol = tmp_path / "DF" / "keys" / "trial_metadata.txt"
    protocol.parent.mkdir()
    protocol.write_text("\n".join(lines))
    there = ["--data-folder", str(tmp_path / "DF")]
    code, err, read = score(folder, tmp_path / "a", *there, trials=protocol)
    assert code == 0, err
    assert read == [f"DF_E_{n}.flac" for n in range(4)]


def test_a_recording_in_full_length_has_the_score_of_itself_alone(
    folder, tmp_path, score
):
    assert score(folder, tmp_path / "a.txt", "--full-length", **FULL)[0] == 0
    scores = read_cm_scores(tmp_path / "a.txt").score
    detector = SpoofDetector.from_hparams(folder / "mel_cnn")
    expected = []
    for n in range(TRIALS):
        wav = read_audio(folder / f"{n}.flac", LONGEST)
        buckets = bucket_lengths(ANY_FROM)
        length = int(buckets[buckets >= len(wav)][0])
        wav = fit_length(wav, length)
        found = detector.classify_batch(wav, num_samples=length)
        expected.append(found[1].item())
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    # The scores of the beginnings are others.
    code, _, read = score(folder, tmp_path / "b.txt", **FULL)
    assert code == 0 and len(read) == TRIALS
    beginnings = read_cm_scores(tmp_path / "b.txt").score
    assert (np.abs(beginnings - scores) > 1e-4).sum() > TRIALS / 2

    # Beside others, and in another order.
    header, *lines = (folder / "list.csv").read_text().splitlines()
    some = folder / "some.csv"
    some.write_text("\n".join([header, *lines[::-2]]))
    there = tmp_path / "c.txt"
    assert score(folder, there, "--full-length", trials=some, **FULL)[0] == 0
    again = read_cm_scores(there).score
    np.testing.assert_allclose(again, scores[::-2], rtol=0, atol=1e-6)


def test_two_processes_write_the_bytes_of_one_in_full_length(
    folder, tmp_path, score
):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    code, err, read = score(folder, one, "--full-length", **FULL)
    assert code == 0 and len(read) == TRIALS
    assert f"Measuring: 100%|██████████| {TRIALS}/{TRIALS}" in err
    told = re.search(r"\npadding: ([0-9.]+) % of what the network", err)
    # Some last less than the 0.5 s that the network was trained on.
    assert 0 < float(told[1]) < 20
    arguments = words(
        folder, two, "--full-length", "--num-workers", "1", **FULL
    )
    code, err = launch(TWO_PROCESSES, arguments)
    assert code == 0, err[-5000:]
    assert two.read_bytes() == one.read_bytes()
    assert sorted(os.listdir(tmp_path)) == [
        *("one.txt", "one.txt.json", "two.txt", "two.txt.json")
    ]


def test_a_broken_run_in_full_length_is_resumed(
    folder, tmp_path, score, interrupted
):
    scores, whole = tmp_path / "a.txt", tmp_path / "whole.txt"
    assert score(folder, whole, "--full-length", **FULL)[0] == 0
    count = interrupted(folder, scores, "--full-length", **FULL)
    (part,) = tmp_path.glob("a.txt.*.part0")
    done = [line.split()[0] for line in part.read_text().splitlines()]
    code, _, read = score(folder, scores, "--full-length", **FULL)
    assert code == 0 and len(done) == count
    everything = [f"{n}.flac" for n in range(TRIALS)]
    assert sorted(done + read) == sorted(everything)
    assert scores.read_bytes() == whole.read_bytes()
    code, err, read = score(folder, scores, "--full-length", **FULL)
    assert (code, read) == (0, []) and "Measuring" not in err
    # Scores of the beginnings only are not mixed with them.
    code, err, _ = score(folder, scores, **FULL)
    assert code == 2 and "exists but holds scores of another network" in err


def test_an_unreadable_file_in_full_length_is_named(folder, tmp_path, score):
    lines = (folder / "list.csv").read_text().splitlines()
    (folder / "gone.csv").write_text("\n".join([*lines, "gone.flac,real,-"]))
    scores = tmp_path / "a.txt"
    code, err, read = score(
        folder, scores, "--full-length", trials="gone.csv", **FULL
    )
    assert code == 2 and len(read) == TRIALS + 1
    assert f"1 of {TRIALS + 1} trials have no score:\n" in err
    assert f"{folder}/gone.flac: does not exist" in err


@pytest.mark.parametrize(
    "source, more, message",
    [
        ("pretrained", [], "V2: takes recordings of one length only"),
        ("mel_cnn", ["--trim-silence"], "full length and trimmed silence: how"),
    ],
)
def test_full_length_cannot_always_be_scored(
    folder, tmp_path, score, source, more, message
):
    code, err, read = score(
        folder, tmp_path / "a.txt", "--full-length", *more, source=source
    )
    assert code == 2 and read == [] and message in err
    assert "Traceback" not in err and os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def names(folder):
    """The same trials as a challenge lists them: names alone."""
    list_of_names = folder / "ASVspoof2021.LA.cm.eval.trl.txt"
    list_of_names.write_text("".join(f"{n}\n" for n in range(TRIALS)))
    return list_of_names.name


@pytest.mark.parametrize(
    "layout, header, separator",
    [
        (None, "", " "),
        ("asvspoof2021", "", " "),
        ("asvspoof5", "filename\tcm-score\n", "\t"),
    ],
)
def test_trials_without_labels(
    folder, names, tmp_path, score, layout, header, separator
):
    assert score(folder, tmp_path / "labels.txt")[0] == 0
    known = read_cm_scores(tmp_path / "labels.txt").score
    more = ["--layout", layout] if layout else []
    code, _, read = score(
        folder, tmp_path / "submission.txt", *more, trials=names
    )
    assert code == 0 and len(read) == TRIALS
    assert (tmp_path / "submission.txt").read_text() == header + "".join(
        f"{n}{separator}{value!r}\n" for n, value in enumerate(known.tolist())
    )
    # And again: nothing is left to do.
    assert (
        score(folder, tmp_path / "submission.txt", *more, trials=names)[2] == []
    )


def test_trials_without_labels_resume_under_torchrun(
    folder, names, tmp_path, score, interrupted
):
    assert score(folder, tmp_path / "whole.txt", trials=names)[0] == 0
    assert interrupted(folder, tmp_path / "broken.txt", trials=names) == 12
    arguments = words(folder, tmp_path / "broken.txt", trials=names)
    code, err = launch(TWO_PROCESSES, arguments)
    assert code == 0 and "12 kept" in err
    whole = (tmp_path / "whole.txt").read_text()
    assert (tmp_path / "broken.txt").read_text() == whole


def test_a_layout_with_labels_needs_them(folder, names, tmp_path, score):
    code, err, read = score(
        folder, tmp_path / "x.txt", "--layout", "asvspoof2019", trials=names
    )
    assert code == 2 and not read
    assert "layout asvspoof2019: has labels, which are unknown" in err


def test_another_file_of_the_stamp_s_name_is_kept(folder, tmp_path, score):
    stamp = tmp_path / "scores.txt.json"
    stamp.write_text('{"mine": 1}')
    code, err, read = score(folder, tmp_path / "scores.txt")
    assert code == 2 and not read
    assert "scores.txt.json: exists, and this command did not write it" in err
    assert stamp.read_text() == '{"mine": 1}'
