"""wav2vec 2.0, WavLM and Whisper as front ends: what they compute, what of them
is trained, and from training to a detector."""

import numpy as np
import published_ssl_aasist
import pytest
import torch
import transformers
from recipe_runs import RECIPE, final_weights, run
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM
from speechbrain.integrations.huggingface.whisper import Whisper
from toy_corpus import write_toy_corpus

from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.pretrained import write_folder
from speechbrain_bilevel.lobes.ssl import SSLAASIST
from speechbrain_bilevel.lobes.ssl_front_end import SSLFrontEnd, WhisperLogMel
from speechbrain_bilevel.utils.errors import InputError

CONVOLUTIONS = published_ssl_aasist.SIZES["front_end"] | {
    "num_hidden_layers": 3
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BUCKETS = {"num_buckets": 8, "max_bucket_distance": 12}
# A tenth of a second, the samples of 10 frames after Whisper's convolutions.
SAMPLES, FRAMES = 1600, 5
KINDS = {
    "wav2vec2": ("Wav2Vec2", CONVOLUTIONS),
    "xls-r": ("Wav2Vec2", CONVOLUTIONS | STABLE),
    "wavlm": ("WavLM", CONVOLUTIONS | BUCKETS),
    "wavlm-large": ("WavLM", CONVOLUTIONS | BUCKETS | STABLE),
    "whisper": (
        "Whisper",
        {
            "d_model": 8,
            "encoder_layers": 3,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 12,
            "decoder_layers": 1,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 1,
            "vocab_size": 1,
            "max_source_positions": FRAMES,
            **{
                f"{name}_token_id": 0
                for name in ("pad", "bos", "eos", "decoder_start")
            },
        },
    ),
}
TINY = {
    "num_samples": SAMPLES,
    "projection_size": 12,
    "channels": [2, 3],
    "graph_size": 3,
    "stack_size": 2,
}


def write_source(kind, folder):
    """A tiny model as the hub would have it."""
    name, sizes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes)
    config.num_feat_extract_layers = 2
    model = getattr(transformers, f"{name}Model")(config)
    with torch.no_grad():
        # Whatever begins as ones or zeros should count.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if name == "Whisper":
        transformers.WhisperFeatureExtractor().save_pretrained(folder)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        extractor.save_pretrained(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for kind in KINDS:
        write_source(kind, folder / kind)
    return folder


@pytest.fixture(params=KINDS)
def make(request, sources):
    """SpeechBrain's front end of each kind, by the arguments of its class."""
    source = str(sources / request.param)

    def make(**options):
        name, _ = KINDS[request.param]
        if name == "Whisper":
            return Whisper(source, source, encoder_only=True, **options)
        return {"Wav2Vec2": Wav2Vec2, "WavLM": WavLM}[name](
            source, source, **options
        )

    make.kind = request.param
    return make


def audio(samples=SAMPLES, batch=2):
    return torch.randn(
        batch, samples, generator=torch.Generator().manual_seed(1)
    )


def test_hidden_states_are_those_of_transformers(make):
    theirs = make().eval()
    front_end, wavs = SSLFrontEnd.of(make()).eval(), audio()
    model, heard = theirs.model, wavs
    if make.kind == "whisper":
        model, heard = model.encoder, front_end.log_mel(wavs)
    else:
        heard = torch.nn.functional.layer_norm(wavs, wavs.shape[1:])
    expected = model(heard, output_hidden_states=True)
    torch.testing.assert_close(front_end(wavs), expected.last_hidden_state)
    assert len(expected.hidden_states) == 4
    sizes = front_end.sizes
    for number, state in enumerate(expected.hidden_states):
        one = SSLFrontEnd(**sizes).eval()
        one.load_state_dict(front_end.state_dict())
        one.select([number])
        torch.testing.assert_close(one(wavs), state)
        # Higher layers are gone.
        layers = [n for n, _ in one.named_modules() if n.endswith("layers.2")]
        assert len(layers) == (number == 3)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_is_that_of_whisper(n_mels):
    extractor = transformers.WhisperFeatureExtractor(n_mels)
    scale = torch.tensor([[1e-3], [0.3]])
    wavs = scale * audio(16000 + 77) * torch.linspace(0, 1, 16077) ** 4
    wavs[1, 4000:] = 0
    expected = extractor(
        list(wavs.numpy()),
        sampling_rate=16000,
        padding="do_not_pad",
        return_tensors="pt",
    ).input_features
    found = WhisperLogMel(n_mels)(wavs)
    assert found.shape == (2, n_mels, 100)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_whisper_hears_long_clips_in_equal_parts(sources):
    source = str(sources / "whisper")
    front_end = SSLFrontEnd.of(Whisper(source, source, encoder_only=True))
    mel = torch.randn(1, 80, 12)

    class Heard(torch.nn.Module):
        def forward(self, mel):
            return mel

    front_end.eval().log_mel = Heard()
    # Ten frames of the spectrogram are the most.
    parts = [front_end(part) for part in mel.split(6, dim=2)]
    whole = front_end(mel)
    assert whole.shape == (1, 6, 8)
    torch.testing.assert_close(whole, torch.cat(parts, dim=1))


def test_weights_of_half_precision_are_widened(sources, tmp_path):
    """In which transformers keeps them."""
    folder = str(tmp_path / "half")
    model = transformers.WhisperModel.from_pretrained(sources / "whisper")
    model.half().save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    front_end = SSLFrontEnd.of(Whisper(folder, folder, encoder_only=True))
    assert front_end(audio()).dtype == torch.float32


def test_the_weighted_sum(make):
    wavs, states = audio(), []
    for number in (1, 3):
        front_end = SSLFrontEnd.of(make()).eval()
        front_end.select([number])
        states.append(front_end(wavs))
    network = SSLAASIST(make(freeze=True), layers=[3, 1], **TINY).eval()
    weights = network.front_end.layer_weights
    with torch.no_grad():
        weights.copy_(torch.tensor([0.0, 2.0]))
    share = np.exp(2) / (1 + np.exp(2))
    expected = share * states[0] + (1 - share) * states[1]
    torch.testing.assert_close(network.front_end(wavs), expected)
    network(wavs).square().sum().backward()
    assert weights.grad.abs().min() > 0


@pytest.mark.parametrize("layers, trained", [(None, 0), (None, 1), ([1, 2], 1)])
def test_what_is_trained_of_a_frozen_front_end(make, trained, layers):
    front_end = make(freeze=True)
    options = {"layers": layers, "num_trainable_layers": trained}
    network = SSLAASIST(front_end, **options, **TINY)
    n_layers = 3 if layers is None else 2
    top = [f".layers.{n}." for n in range(n_layers - trained, n_layers)]
    if trained and layers is None and make.kind in ("xls-r", "wavlm-large"):
        top.append("model.encoder.layer_norm.")
    if trained and layers is None and make.kind == "whisper":
        top.append("front_end.model.layer_norm.")
    network(audio()).square().sum().backward()
    for name, parameter in network.named_parameters():
        learns = not name.startswith("front_end.model") or any(
            part in name for part in top
        )
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
    for name, module in network.front_end.model.named_modules():
        learns = any(part in f"front_end.model.{name}." for part in top)
        assert module.training == learns, name
    # Nothing is kept of what is below: it has no gradient function.
    if not trained and layers is None:
        assert not network.front_end(audio()).requires_grad


def test_all_is_trained_that_has_an_effect(make):
    for layers in (None, [0, 2]):
        network = SSLAASIST(make(), layers=layers, **TINY).train()
        network(audio()).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        frozen = [
            n for n, p in network.named_parameters() if not p.requires_grad
        ]
        assert len(frozen) <= 3


def test_from_an_untrusted_folder(make, tmp_path):
    """Built of sizes alone, with the layers that were chosen."""
    options = {"layers": [0, 2], "num_trainable_layers": 1}
    network = SSLAASIST(make(freeze=True), **options, **TINY).eval()
    config = DetectorConfig.of(network, "logit_difference")
    write_folder(tmp_path / "it", config, network.state_dict(), "# It\n")
    found = SpoofDetector.from_hparams(tmp_path / "it").mods.network
    assert found.sizes == network.sizes
    with torch.no_grad():
        expected = network(audio())
        torch.testing.assert_close(found(audio()), expected)
        in_double = network.double()(audio().double())
    torch.testing.assert_close(in_double.float(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": [4]}, r"layers: \[4\]; expected different ones of 0 to 3"),
        ({"layers": []}, r"layers: \[\]"),
        ({"layers": [1, 1]}, r"layers: \[1, 1\]"),
        ({"num_trainable_layers": 1}, "at most 3 with freeze: True"),
    ],
)
def test_layers_that_are_not_there(sources, options, message):
    source = str(sources / "wavlm")
    with pytest.raises(InputError, match=message):
        SSLAASIST(WavLM(source, source), **options, **TINY)


def test_what_a_detector_would_lack_is_refused(sources):
    source = str(sources / "wavlm")
    front_end = WavLM(source, source)
    del front_end.model.masked_spec_embed
    with pytest.raises(InputError, match="masked_spec_embed is 'missing'"):
        SSLFrontEnd.of(front_end)
    with pytest.raises(InputError, match="model_type is 'hubert'"):
        SSLFrontEnd(model_type="hubert")
    with pytest.raises(
        InputError, match="num_mel_bins: 201; expected 1 to 200"
    ):
        WhisperLogMel(201)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "LA"
    write_toy_corpus(folder, clips_per_attack=2, bonafide=12)
    return folder


WAVLM = """\
--- !include:{base}
network:
    front_end: !new:speechbrain.integrations.huggingface.wavlm.WavLM
        source: !ref <source>
        save_path: !ref <ssl_folder>
        freeze: !ref <freeze>
"""


@pytest.mark.parametrize("kind", ["wavlm", "whisper"])
def test_the_recipe(kind, sources, corpus, tmp_path):
    """As the YAML says; the layers that are not trained stay as they were."""
    yaml = RECIPE / "hparams" / f"train_{kind}_aasist"
    if kind == "wavlm":
        base = RECIPE / "hparams" / "train_ssl_aasist.yaml"
        yaml = tmp_path / "train_ssl_aasist_wavlm"
        text = WAVLM.format(base=base)
        yaml.with_suffix(".yaml").write_text(text)
    settings = {"source": sources / kind, "freeze": True, "layers": "[1, 2]"}
    settings |= {"num_trainable_layers": 1, "number_of_epochs": 1}
    settings |= {"batch_size": 4, "opt_class": "{lr: 1.0e-3}"}
    run(yaml, corpus, tmp_path / "run", **settings)
    name = "fc1" if kind == "whisper" else "feed_forward.intermediate_dense"
    weights = final_weights(tmp_path / "run")
    source = getattr(transformers, f"{KINDS[kind][0]}Model")
    before = source.from_pretrained(sources / kind).encoder.state_dict()
    prefix = "front_end.model." + "encoder." * (kind != "whisper")
    for number, trained in enumerate((False, True)):
        name_of_layer = f"layers.{number}.{name}.weight"
        same = torch.equal(
            weights[prefix + name_of_layer], before[name_of_layer]
        )
        assert same != trained
    assert weights["front_end.layer_weights"].abs().min() > 0
    detector = SpoofDetector.from_hparams(tmp_path / "run" / "pretrained")
    assert detector.classify_batch(audio(4000))[1].isfinite().all()
