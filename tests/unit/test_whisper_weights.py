"""Whisper with its pretrained weights, where their packages are installed."""

import pytest
import torch
from speechbrain.integrations.huggingface.whisper import Whisper
from whisper_weights import FILES, write_whisper

from speechbrain_bilevel.lobes.ssl_front_end import SSLFrontEnd

# Of CTranslate2 4.8.5's own encoder in single precision, for the chirp below:
# the first two numbers of some frames, and the standard deviation of all.
PLACES = [0, 400, 800, 1499]
EXPECTED = {
    "base": (
        [
            [-0.6114, 0.0897],
            [-0.7691, 0.4474],
            [0.2613, 0.0546],
            [-1.0039, 0.8805],
        ],
        1.3985,
    ),
    "tiny.en": (
        [
            [-0.5017, -0.2568],
            [-0.4942, 0.5598],
            [1.0471, 1.1521],
            [-0.1808, 0.1818],
        ],
        1.0971,
    ),
}


@pytest.mark.parametrize("size", FILES)
def test_the_encoder_computes_as_ctranslate2_does(size, tmp_path):
    source = str(write_whisper(size, tmp_path))
    front_end = Whisper(source, source, encoder_only=True, freeze=True)
    front_end = SSLFrontEnd.of(front_end).eval()
    time = torch.arange(30 * 16000) / 16000
    chirp = 0.3 * torch.sin(2 * torch.pi * (100 * time + 60 * time * time))
    found = front_end(chirp.unsqueeze(0))[0]
    expected, deviation = EXPECTED[size]
    assert (found[PLACES, :2] - torch.tensor(expected)).abs().max() < 1e-2
    assert found.std().item() == pytest.approx(deviation, abs=1e-3)
