"""Two processes under a real ``torchrun``, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_runs import command, final_weights

from speechbrain_bilevel.dataio.protocols import read_asvspoof2019_protocol
from speechbrain_bilevel.evaluation.score_files import read_cm_scores

TESTS = Path(__file__).resolve().parent.parent


def torchrun(processes):
    """The launcher's command; it chooses a free port."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--nproc_per_node", str(processes)),
    ]


def launch(words):
    # Two processes of two threads each would wait for one another.
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(TESTS))
    result = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stderr[-5000:]


@pytest.mark.parametrize("yaml", ["train_v2_small_bilevel", "train_v2_small"])
def test_recipe_with_two_processes(yaml, corpus, tmp_path):
    words = command(
        yaml,
        corpus,
        tmp_path,
        *("--distributed_backend", "gloo"),
        batch_size=4,
        launcher=torchrun(2),
    )
    launch(words)
    assert all(w.isfinite().all() for w in final_weights(tmp_path).values())
    scores = read_cm_scores(tmp_path / "eval_scores.txt")
    trials = read_asvspoof2019_protocol(corpus, "eval")
    assert scores.utt.tolist() == trials.utt.tolist()
    assert (tmp_path / "pretrained" / "model.safetensors").exists()
    assert not list(tmp_path.glob("*.part*"))
