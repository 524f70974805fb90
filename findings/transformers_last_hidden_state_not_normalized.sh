#!/bin/bash
# With output_hidden_states=True, transformers' speech models also give the input
# of their first layer and the output of each. Weighted sums of these are a usual
# front end.
#
# The guess: the last one is the model's output, last_hidden_state.
#
# What is so: it was in transformers 4. In 5.24 it still is for Whisper, but for
# wav2vec 2.0 and WavLM with do_stable_layer_norm (all large models, XLS-R) it is
# taken before the final norm. So weighted sums learned with one version are
# wrong with the other, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet torch==2.11.0 numpy

cat > states.py <<'PYTHON'
import torch
import transformers

layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 8, "do_stable_layer_norm": True,
          "feat_extract_norm": "layer"}
tokens = {f"{n}_token_id": 0 for n in ("pad", "bos", "eos", "decoder_start")}
whisper = transformers.WhisperConfig(
    d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=8,
    decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8,
    vocab_size=1, max_source_positions=10, **tokens)
MODELS = {
    "wav2vec 2.0": transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(**layers)),
    "WavLM": transformers.WavLMModel(transformers.WavLMConfig(**layers)),
    "Whisper": transformers.WhisperModel(whisper).encoder,
}
for name, model in MODELS.items():
    x = torch.randn(1, 80, 20) if name == "Whisper" else torch.randn(1, 1600)
    out = model.eval()(x, output_hidden_states=True)
    same = torch.equal(out.hidden_states[-1], out.last_hidden_state)
    print(f"{transformers.__version__} {name}: {same}")
PYTHON
for version in 4.57.6 5.24.0; do
    env/bin/pip install --quiet "transformers==$version"
    env/bin/python states.py 2> errors.txt || { cat errors.txt; exit 1; }
done | tee found.txt
diff found.txt - <<'OUTPUT'
4.57.6 wav2vec 2.0: True
4.57.6 WavLM: True
4.57.6 Whisper: True
5.24.0 wav2vec 2.0: False
5.24.0 WavLM: False
5.24.0 Whisper: True
OUTPUT
echo "transformers 5.24.0: as described"
