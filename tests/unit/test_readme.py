"""What the README shows runs."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_brain_trains(capfd):
    (code,) = re.findall(r"```python\n(import speechbrain.*?)```", README, re.S)
    assert len(code.splitlines()) <= 35
    names = {}
    torch.manual_seed(0)
    exec(code, names)  # our own text
    brain = names["brain"]
    assert brain.optimizer_step == 3 * 8
    assert brain.level_stats()["upper/implicit_norm"] > 0


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\]\(([\w/.-]+)[#)]", README)))
)
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_it_is_short():
    assert len(README.splitlines()) <= 170
