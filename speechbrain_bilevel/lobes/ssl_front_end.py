"""Pretrained front ends: wav2vec 2.0, WavLM and Whisper's encoder.

They need transformers.
"""

import torch
import torchaudio
from torch.nn.functional import dropout, gelu, layer_norm
from torch.nn.utils import parametrize

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.lobes import with_sizes
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.precision import full_precision

# Sizes by our name and transformers', for each type of model.
_TRANSFORMER = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
}
_WAV2VEC2 = {
    name: name
    for name in (
        *_TRANSFORMER,
        *("conv_dim", "conv_kernel", "conv_stride", "conv_bias"),
        *("feat_extract_norm", "do_stable_layer_norm"),
        *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
    )
}
_BUCKETS = ("num_buckets", "max_bucket_distance")
_WHISPER = ("num_mel_bins", "max_source_positions")
_SIZES = {
    "wav2vec2": _WAV2VEC2,
    "wavlm": _WAV2VEC2 | {name: name for name in _BUCKETS},
    "whisper": _TRANSFORMER | {name: name for name in _WHISPER},
}
# Entries of their configurations and options of SpeechBrain's classes that
# change the computation; the same in all models of these types.
_FIXED_CONFIG = {
    "hidden_act": "gelu",
    "activation_function": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
    "apply_spec_augment": False,
}
_FIXED_OPTIONS = {"output_norm": False, "output_all_hiddens": False}
# Of pretraining; and fixed sinusoids.
_CONSTANT = ("masked_spec_embed", "embed_positions")
# Samples between frames of Whisper's spectrogram, half as many as between those
# of its encoder, and the samples in one.
_HOP_LENGTH, _N_FFT = 160, 400


class WhisperLogMel(torch.nn.Module):
    """Waveforms -> Whisper's log-mel spectrogram, 100 frames a second.

    As transformers' ``WhisperFeatureExtractor``, but not padded to 30 s.

    Example
    -------
    >>> WhisperLogMel(80)(torch.randn(2, 1600)).shape
    torch.Size([2, 80, 10])
    """

    def __init__(self, num_mel_bins):
        super().__init__()
        if not 0 < num_mel_bins <= _N_FFT // 2:
            raise InputError(
                f"num_mel_bins: {num_mel_bins}; expected 1 to {_N_FFT // 2}, "
                "as many as there are frequencies"
            )
        # torchaudio reads values of its table; the meta device has none.
        with torch.device("cpu"):
            self.mel = torchaudio.transforms.MelSpectrogram(
                *(SAMPLE_RATE, _N_FFT),
                hop_length=_HOP_LENGTH,
                n_mels=num_mel_bins,
                norm="slaney",
                mel_scale="slaney",
            )

    def forward(self, wavs):
        """[batch, samples] -> [batch, num_mel_bins, samples // 160]"""
        with full_precision(wavs):
            log_mel = self.mel(wavs)[..., :-1].clamp(min=1e-10).log10()
            # 80 dB below the loudest is silence.
            floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8
            return (log_mel.maximum(floor) + 4) / 4


@with_sizes
class SSLFrontEnd(torch.nn.Module):
    """wav2vec 2.0, WavLM or Whisper's encoder, with random weights.

    It computes what SpeechBrain's ``Wav2Vec2``, ``WavLM`` and ``Whisper`` do,
    by tensors of the same names (of Whisper, the encoder's); ``of`` takes one
    of these over. A detector has its own weights, so it need not fetch any.

    Whisper hears clips as long as they are: they are not padded to 30 s, and
    only the first positions are used. Longer ones are cut into equal parts.

    Weight norm is resolved into the weights, since torch's second derivatives
    of it are wrong. No layer is dropped at random. What has no effect on the
    output is not trained, since DDP refuses parameters without a gradient.

    Arguments
    ---------
    hidden_size, ..., num_conv_pos_embedding_groups
        See transformers' ``Wav2Vec2Config``; the defaults are wav2vec 2.0 base.
        Whisper has the first four only.
    do_normalize : bool
        Normalize each waveform to mean 0 and variance 1.
    freeze : bool
        Compute no gradient and stay in evaluation mode, but see ``select``.
    model_type : str
        "wav2vec2", "wavlm" or "whisper".
    num_buckets, max_bucket_distance : int
        WavLM's relative positions.
    num_mel_bins, max_source_positions : int
        Whisper's mel bands, and the frames of 20 ms that it takes at once.

    Raises
    ------
    InputError
        If transformers is missing, or a size cannot be.

    Example
    -------
    >>> front_end = SSLFrontEnd(hidden_size=48, num_hidden_layers=1)
    >>> front_end(torch.randn(2, 800)).shape
    torch.Size([2, 2, 48])
    """

    def __init__(
        self,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        conv_dim=(512,) * 7,
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_stride=(5, 2, 2, 2, 2, 2, 2),
        conv_bias=False,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        do_normalize=True,
        freeze=False,
        model_type="wav2vec2",
        num_buckets=320,
        max_bucket_distance=800,
        num_mel_bins=80,
        max_source_positions=1500,
    ):
        super().__init__()
        self.normalize_wav, self.freeze = do_normalize, freeze
        self.model_type = model_type
        self.model = _untrained(model_type, self.sizes)
        if model_type == "whisper":
            self.log_mel = WhisperLogMel(num_mel_bins)
        self.select()
        self.train()

    @classmethod
    def of(cls, front_end):
        """Take over SpeechBrain's ``Wav2Vec2``, ``WavLM`` or ``Whisper``.

        Raise an ``InputError`` if a detector could not represent it.
        """
        if isinstance(front_end, cls):
            return front_end
        # Its random weights are replaced, and change no other random number.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            found = cls(**_sizes_of(front_end))
        plan = found.model.state_dict()
        model = front_end.model
        found.model = model.encoder if found.model_type == "whisper" else model
        _resolve_weight_norm(found.model)
        state = found.model.state_dict()
        for name in plan | state:
            shapes = [
                list(tensors[name].shape) if name in tensors else "missing"
                for tensors in (state, plan)
            ]
            if shapes[0] != shapes[1]:
                raise _refusal(name, *shapes)
        # They may have been published in half precision.
        found.model.float()
        found.select()
        return found.train()

    def select(self, layers=None, num_trainable_layers=0):
        """Choose what comes out, and what of a frozen front end is trained.

        Arguments
        ---------
        layers : list of int, optional
            Hidden states whose sum comes out, weighted by the softmax of
            ``layer_weights``, which are learned (https://arxiv.org/abs/2105.01051).
            As transformers counts them, 0 is the input of the first layer, n
            the output of the n-th. Higher layers are removed. By default, the
            model's output comes out.
        num_trainable_layers : int
            The number of layers at the top that are trained although the rest
            is frozen.

        Raises
        ------
        InputError
            If there are no such layers, or with trainable ones, no ``freeze``.
        """
        blocks, norm = self._blocks_and_norm()
        count = self.sizes["num_hidden_layers"]
        if layers is not None:
            known = set(layers) <= set(range(count + 1))
            if not layers or not known or len(set(layers)) < len(layers):
                raise InputError(
                    f"layers: {layers}; expected different ones of 0 to {count}"
                )
            del blocks[max(layers) :]
            self.layer_weights = torch.nn.Parameter(torch.zeros(len(layers)))
        if not 0 <= num_trainable_layers <= len(blocks) * self.freeze:
            raise InputError(
                f"num_trainable_layers: {num_trainable_layers}; expected at "
                f"most {len(blocks)} with freeze: True, and 0 without"
            )
        self.layers, self.num_trainable_layers = layers, num_trainable_layers
        # The last hidden state of Whisper is normalized, that of others is not.
        whole = self.model_type == "whisper" and len(blocks) == count
        self.ends_with_norm = norm is not None and (layers is None or whole)
        unused = [getattr(self.model, name, None) for name in _CONSTANT]
        if not self.ends_with_norm:
            unused.append(norm)
        for part in (self.model if self.freeze else None, *unused):
            if part is not None:
                part.requires_grad_(False)
        for part in self._trainable_parts():
            part.requires_grad_(True)

    def _blocks_and_norm(self):
        """Return the transformer layers, and the norm behind them or None."""
        if self.model_type == "whisper":
            return self.model.layers, self.model.layer_norm
        encoder = self.model.encoder
        is_last = self.sizes["do_stable_layer_norm"]
        return encoder.layers, encoder.layer_norm if is_last else None

    def _trainable_parts(self):
        """Return what is trained of a frozen model."""
        if not self.num_trainable_layers:
            return []
        blocks, norm = self._blocks_and_norm()
        parts = list(blocks[-self.num_trainable_layers :])
        return [*parts, norm] if self.ends_with_norm else parts

    def train(self, mode=True):
        """Set the mode, but keep what is frozen in evaluation mode."""
        super().train(mode and not self.freeze)
        for part in self._trainable_parts():
            part.train(mode)
        return self

    def min_samples(self, frames):
        """Return the fewest samples that give a number of frames."""
        if self.model_type == "whisper":
            return _HOP_LENGTH * (2 * frames - 1)
        layers = zip(self.sizes["conv_kernel"], self.sizes["conv_stride"])
        for kernel, stride in reversed(list(layers)):
            frames = (frames - 1) * stride + kernel
        return frames

    def forward(self, wavs):
        """[batch, samples] -> [batch, frames, hidden_size]"""
        with _gradients(not self.freeze):
            if self.normalize_wav:
                wavs = layer_norm(wavs, wavs.shape[1:])
            parts = [wavs]
            if self.model_type == "whisper":
                mel = self.log_mel(wavs)
                longest = 2 * self.sizes["max_source_positions"]
                parts = mel.chunk(-(-mel.shape[2] // longest), dim=2)
        return torch.cat([self._encode(part) for part in parts], dim=1)

    def _encode(self, x):
        """Return the last hidden state, or the weighted sum of some."""
        if self.layers is None:
            for state in self._hidden_states(x):
                x = state
            return x
        weights = dict(zip(self.layers, self.layer_weights.softmax(0)))
        states = enumerate(self._hidden_states(x))
        return sum(weights[n] * state for n, state in states if n in weights)

    def _hidden_states(self, x):
        blocks, norm = self._blocks_and_norm()
        with _gradients(not self.freeze):
            x = self._embed(x)
        yield x
        bias, n_frozen = None, len(blocks) - self.num_trainable_layers
        for number, block in enumerate(blocks):
            with _gradients(not self.freeze or number >= n_frozen):
                if self.model_type == "wavlm":
                    # The first layer makes all layers' relative positions.
                    x, bias = block(x, None, bias)
                else:
                    x = block(x, None)
                if self.ends_with_norm and number == len(blocks) - 1:
                    x = norm(x)
            yield x

    def _embed(self, x):
        """Return the input of the first transformer layer."""
        model = self.model
        if self.model_type == "whisper":
            x = gelu(model.conv2(gelu(model.conv1(x)))).transpose(1, 2)
            x = x + model.embed_positions.weight[: x.shape[1]]
            return dropout(x, model.dropout, model.training)
        encoder = model.encoder
        x = model.feature_extractor(x).transpose(1, 2)
        x, _ = model.feature_projection(x)
        x = x + encoder.pos_conv_embed(x)
        if not self.sizes["do_stable_layer_norm"]:
            x = encoder.layer_norm(x)
        return encoder.dropout(x)


def _gradients(wanted):
    return torch.set_grad_enabled(torch.is_grad_enabled() and wanted)


def _untrained(model_type, sizes):
    """Return a model of transformers, without its weight norm."""
    try:
        import transformers
        from transformers.models.whisper.modeling_whisper import WhisperEncoder
    except ImportError as error:
        raise InputError(
            "wav2vec 2.0, WavLM and Whisper need transformers; install it by "
            "pip install '.[ssl]' in the clone"
        ) from error
    if model_type not in _SIZES:
        raise InputError(
            f"model_type is {model_type!r}; expected {' or '.join(_SIZES)}"
        )
    config = {theirs: sizes[n] for n, theirs in _SIZES[model_type].items()}
    if model_type == "whisper":
        return WhisperEncoder(transformers.WhisperConfig(**config))
    name = {"wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}[model_type]
    config = getattr(transformers, f"{name}Config")(
        **config, apply_spec_augment=False
    )
    config.num_feat_extract_layers = len(config.conv_dim)
    model = getattr(transformers, f"{name}Model")(config)
    _resolve_weight_norm(model)
    return model


def _sizes_of(front_end):
    """Return the sizes of an ``SSLFrontEnd`` that computes the same."""
    config = front_end.model.config
    if config.model_type not in _SIZES:
        raise _refusal("model_type", config.model_type, " or ".join(_SIZES))
    for owner, fixed in ((config, _FIXED_CONFIG), (front_end, _FIXED_OPTIONS)):
        for name, expected in fixed.items():
            value = getattr(owner, name, expected)
            if value != expected:
                raise _refusal(name, value, expected)
    frozen = front_end.freeze or getattr(front_end, "freeze_encoder", False)
    found = {
        "model_type": config.model_type,
        # SpeechBrain's Whisper has no such option, and does not.
        "do_normalize": getattr(front_end, "normalize_wav", False),
        "freeze": frozen,
    }
    for name, theirs in _SIZES[config.model_type].items():
        value = getattr(config, theirs)
        found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _refusal(name, value, expected):
    return InputError(
        f"front_end: {name} is {value!r}; expected {expected!r}: a detector "
        "with another front end could not be exported"
    )


def _resolve_weight_norm(model):
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
