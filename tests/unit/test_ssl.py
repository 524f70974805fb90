"""AASIST's back end on wav2vec 2.0: frozen and fine-tuned, second derivatives,
and from training to a detector that fetches nothing."""

import shutil

import pytest
import speechbrain as sb
import torch
import transformers
from closed_forms import relative_error, start
from recipe_runs import final_weights, last_epoch_state, run
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from toy_corpus import write_toy_corpus

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio import BONAFIDE
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.hypergradients import SOBA
from speechbrain_bilevel.hypergradients.batch_loss import BatchLoss
from speechbrain_bilevel.hypergradients.implicit import zeros
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.export import export
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.lobes.ssl import SSLAASIST
from speechbrain_bilevel.lobes.ssl_front_end import SSLFrontEnd
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.utils.errors import InputError

SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "conv_dim": [4, 6],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
TINY = {
    "projection_size": 12,
    "channels": [2, 3],
    "graph_size": 3,
    "stack_size": 2,
}
SAMPLES = 1600


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny wav2vec 2.0 as the hub would have it."""
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(num_feat_extract_layers=2, **SIZES)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "LA"
    write_toy_corpus(folder, clips_per_attack=2, bonafide=12)
    return folder


def network_of(source, freeze=False, **sizes):
    torch.manual_seed(0)
    front_end = Wav2Vec2(str(source), str(source), freeze=freeze)
    return SSLAASIST(front_end, num_samples=SAMPLES, **TINY, **sizes)


@pytest.mark.parametrize("freeze", [False, True])
def test_what_is_not_frozen_learns(source, freeze):
    network = network_of(source, freeze).eval().train()
    assert network.front_end.training != freeze
    assert network.front_end.model.training != freeze
    logits = network(torch.randn(2, SAMPLES))
    assert logits.shape == (2, 2)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    unused = "front_end.model.masked_spec_embed"
    for name, parameter in network.named_parameters():
        learns = name != unused and not (
            freeze and name.startswith("front_end")
        )
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name


def test_a_frozen_front_end_gives_the_same_in_training(source):
    network, wavs = network_of(source, True), torch.randn(2, SAMPLES)
    in_training = network.train().front_end(wavs)
    assert torch.equal(in_training, network.eval().front_end(wavs))


def test_weights_are_those_of_the_source(source):
    """Without its weight norm, it computes the same."""
    theirs = Wav2Vec2(str(source), str(source)).eval()
    wavs = torch.randn(2, SAMPLES)
    ours = network_of(source).eval().front_end
    assert not any("parametrizations" in key for key in ours.state_dict())
    torch.testing.assert_close(ours(wavs), theirs(wavs))


@pytest.mark.parametrize("normalize", [False, True])
def test_untrained_computes_as_speechbrain_does(source, normalize):
    theirs = network_of(source).eval()
    theirs.front_end.normalize_wav = normalize
    sizes = theirs.sizes["front_end"] | {"do_normalize": normalize}
    ours = build("SSLAASIST", theirs.sizes | {"front_end": sizes}).eval()
    ours.load_state_dict(theirs.state_dict())
    wavs = 3 + torch.randn(2, SAMPLES)
    torch.testing.assert_close(ours(wavs), theirs(wavs))


def test_the_shortest_input(source):
    network = network_of(source).eval()
    shortest = network.min_samples
    assert network(torch.randn(1, shortest)).isfinite().all()
    with pytest.raises(ValueError, match=f"{shortest} samples at least, got"):
        network(torch.randn(1, shortest - 1))


def test_other_front_ends_are_refused_before_training(source):
    front_end = Wav2Vec2(str(source), str(source))
    front_end.model.config.model_type = "hubert"
    with pytest.raises(InputError, match=r"model_type is 'hubert'.*exported"):
        SSLAASIST(front_end, **TINY)


@pytest.mark.parametrize("option", ["output_norm", "output_all_hiddens"])
def test_options_that_a_detector_would_lack_are_refused(source, option):
    front_end = Wav2Vec2(str(source), str(source), **{option: True})
    with pytest.raises(InputError, match=f"{option} is True; expected False"):
        SSLAASIST(front_end, **TINY)


def test_only_sizes_are_taken():
    """Transformers would fetch code for some."""
    with pytest.raises(TypeError, match="attn_implementation"):
        SSLFrontEnd(attn_implementation="mallory/kernel", **SIZES)


class ClipBrain(BilevelMixin, sb.Brain):
    def compute_forward(self, batch, stage):
        return self.modules.network(batch)

    def compute_objectives(self, predictions, batch, stage):
        labels = torch.arange(len(batch)) % 2
        return torch.nn.functional.cross_entropy(predictions, labels)


@pytest.mark.parametrize("freeze", [False, True])
def test_second_derivatives(source, freeze):
    """They are let pass, and exact products equal differences."""
    network = network_of(
        source, freeze, graph_dropout=0.0, pool_dropout=0.0, dropout=0.0
    ).double()

    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    brain = ClipBrain(
        modules={"network": network},
        opt_class=plain,
        hparams={
            "hypergradient": SOBA(0.1),
            "upper": ["network.projection"],
            "upper_opt_class": plain,
        },
        run_opts={"device": "cpu"},
    )
    start(brain)
    torch.manual_seed(1)
    loss = BatchLoss(brain.bilevel_step, "lower", torch.randn(4, 600).double())
    vector = torch.randn_like(zeros(brain.bilevel_step))
    levels = "lower", "upper"
    exact = loss.products(vector, *levels, mode="reverse")
    close = loss.products(vector, *levels, mode="difference", radius=1e-5)
    for mine, other in zip(exact, close):
        assert mine.norm() > 0
        assert relative_error(mine, other) < 1e-4


@pytest.mark.parametrize("freeze", [False, True])
def test_from_training_to_a_detector(source, corpus, tmp_path, freeze):
    """What it was fetched from is gone by the time that it is loaded."""
    mine, output = tmp_path / "source", tmp_path / "run"
    shutil.copytree(source, mine)
    yaml = "train_ssl_aasist_bilevel"
    settings = {"source": mine, "freeze": freeze, "number_of_epochs": 1}
    settings |= {"batch_size": 4, "opt_class": "{lr: 1.0e-3}"}
    run(yaml, corpus, output, **settings)
    name = "front_end.model.encoder.layers.0.attention.k_proj.weight"
    before = transformers.Wav2Vec2Model.from_pretrained(mine).state_dict()
    same = torch.equal(
        final_weights(output)[name],
        before[name.removeprefix("front_end.model.")],
    )
    assert same == freeze
    upper = last_epoch_state(output, "upper_optimizer")["state"]
    assert upper
    shutil.rmtree(mine)
    shutil.rmtree(output / "ssl", ignore_errors=True)
    for name in ("hyperparams.yaml", "config.json", "README.md"):
        text = (output / "pretrained" / name).read_text()
        assert str(tmp_path) not in text
    detector = SpoofDetector.from_hparams(output / "pretrained")
    dev = read_cm_scores(output / "dev_scores.txt")
    calibrate = learn_fusion(dev[["score"]], dev.label == BONAFIDE)
    scores = read_cm_scores(output / "eval_scores.txt")
    for utt, score in list(zip(scores.utt, calibrate(scores[["score"]])))[:3]:
        (path,) = corpus.rglob(f"{utt}.flac")
        _, ours, _, _ = detector.classify_file(path)
        assert ours.item() == pytest.approx(score, abs=1e-4)
    theirs = EncoderClassifier.from_hparams(str(output / "pretrained"))
    wavs = torch.randn(2, 4000)
    torch.testing.assert_close(
        theirs.classify_batch(wavs)[0], detector.classify_batch(wavs)[0]
    )
    # As well as from the training's output, again.
    export(output, tmp_path / "again")
    again = SpoofDetector.from_hparams(tmp_path / "again")
    assert torch.equal(
        again.classify_batch(wavs)[1], detector.classify_batch(wavs)[1]
    )
