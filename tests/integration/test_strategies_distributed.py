"""Every strategy in two processes under a real ``torchrun``, on the CPU."""

import ddp_strategies
import pytest
import torch
from strategies import FROM_START, ONE_LEVEL, STRATEGIES
from test_distributed import TESTS, launch, torchrun


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results of one process, and of each of the two."""
    output = tmp_path_factory.mktemp("ddp") / "results"
    script = TESTS / "integration" / "ddp_strategies.py"
    launch([*torchrun(2), str(script), str(output)])
    apart = [torch.load(f"{output}.{rank}") for rank in (0, 1)]
    return ddp_strategies.results(), *apart


@pytest.mark.parametrize("case", ddp_strategies.CASES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_make_the_steps_of_one(name, case, found):
    one, *two = (results[f"{name}, {case}"] for results in found)
    levels = ["lower"] if name in ONE_LEVEL else ["lower", "upper"]
    assert {f"{level} gradients" for level in levels} < set(one)
    if case == "batch_normalized" or (
        case == "inputs_normalized" and name in FROM_START
    ):
        # On the CPU, each process normalizes by itself. And statistics of both
        # tasks are there before the first one's steps, if two processes see
        # them at once.
        one = two[0]
    for key, expected in one.items():
        assert expected.isfinite().all() and expected.abs().max() > 0, key
        for of_process in two:
            assert (of_process[key] - expected).abs().max() < 1e-11, key
