"""The small log-mel network and its one-class form."""

import math

import pytest
import torch
from closed_forms import relative_error

from speechbrain_bilevel.augment.time_domain import RandomCrop
from speechbrain_bilevel.lobes.mel_cnn import MelCNN
from speechbrain_bilevel.metrics.detection_score import detection_score
from speechbrain_bilevel.nnet.losses import OneClassHead, OneClassSoftmax

WAVS = torch.randn(3, 1600, generator=torch.Generator().manual_seed(1)) / 10


def test_number_of_parameters():
    network = MelCNN()
    convolutions = sum(
        9 * before * after + 3 * after
        for before, after in ((1, 16), (16, 32), (32, 64), (64, 64))
    )
    layers = (2 * 64 * 5 + 1) * 64 + (64 + 1) * 2
    found = sum(p.numel() for p in network.parameters())
    assert found == convolutions + layers == 101_730


def test_loudness_changes_nothing():
    encoder = MelCNN(num_samples=1600).mel_encoder.eval()
    maps = encoder(WAVS)
    by_loudness = relative_error(encoder(10 * WAVS), maps)
    assert (
        by_loudness < 1e-2 < 1e-1 < relative_error(encoder(WAVS.flip(1)), maps)
    )


def test_silence_and_gradients_are_finite():
    network = MelCNN(num_samples=1600)
    wavs = torch.zeros(2, 1600)
    network(wavs).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_any_length_above_half_a_window():
    network = MelCNN(num_samples=1600).eval()
    for samples in (257, 1599, 5000):
        assert network(torch.randn(2, samples)).isfinite().all()


def test_the_one_class_score_is_the_cosine():
    network = MelCNN(num_samples=1600, one_class=True).eval()
    score = detection_score(network(WAVS))
    cosine = torch.nn.functional.cosine_similarity(
        network.embed(WAVS), network.classifier.direction[None]
    )
    assert relative_error(score, cosine.double()) < 1e-6
    doubled = OneClassHead(4)
    embeddings = torch.randn(5, 4)
    torch.testing.assert_close(doubled(embeddings), doubled(3 * embeddings))


def test_one_class_softmax_in_closed_form():
    loss = OneClassSoftmax(margins=(0.2, 0.9), scale=20.0)
    cosines = torch.tensor([0.5, 0.5, -0.3], dtype=torch.float64)
    logits = torch.stack([-cosines / 2, cosines / 2], dim=-1)
    labels = torch.tensor([0, 1, 0])
    expected = [
        math.log1p(math.exp(20 * (0.5 - 0.2))),
        math.log1p(math.exp(20 * (0.9 - 0.5))),
        math.log1p(math.exp(20 * (-0.3 - 0.2))),
    ]
    assert float(loss(logits, labels)) == pytest.approx(sum(expected) / 3, 1e-6)
    weights = torch.tensor([0.0, 3.0, 0.0])
    found = float(loss(logits, labels, weights))
    assert found == pytest.approx(expected[1], 1e-6)


def test_crops_lie_anywhere_and_each_elsewhere():
    torch.manual_seed(0)
    rows = torch.arange(10.0).expand(2000, 10)
    crops = RandomCrop(7)(rows)
    assert crops.shape == (2000, 7)
    assert (crops.diff(dim=1) == 1).all()
    _, counts = crops[:, 0].unique(return_counts=True)
    assert len(counts) == 4 and counts.min() > 400
    assert RandomCrop(10)(rows).equal(rows)


def test_a_crop_longer_than_the_audio_is_refused():
    with pytest.raises(ValueError, match="1600 samples hold no crop of 1601"):
        RandomCrop(1601)(WAVS)


def test_a_frame_needs_its_samples():
    with pytest.raises(ValueError, match="num_samples: 256; .* more than 256"):
        MelCNN(num_samples=256)
    assert MelCNN(num_samples=257).eval()(torch.randn(1, 257)).shape == (1, 2)
