"""The published SSL + AASIST, as formulas on a state dict with its names.

Written after https://github.com/TakHemlata/SSL_Anti-spoofing and the fairseq in
it, in evaluation mode; the sizes are tiny, the names all of the published ones.
"""

import json
from itertools import pairwise

import published_aasist
import torch
from torch.nn import functional as F  # noqa: N812

#: Where they differ from the published ones, for ``lobes.ssl.SSLAASIST``.
SIZES = {
    "front_end": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "conv_dim": [4, 6],
        "conv_kernel": [10, 4],
        "conv_stride": [5, 4],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
    "num_samples": 1600,
    "projection_size": 12,
    "channels": [2, 2, 3, 3, 3, 3],
    "graph_size": 5,
    "stack_size": 4,
}
_CHANNELS = [1, *SIZES["channels"]]
_SSL = "ssl_model.model."


def made_up_state():
    """A state dict as of the published file, in single precision."""
    shapes = {_SSL + "mask_emb": [8]}

    def add(name, *weight):
        shapes[name + ".weight"], shapes[name + ".bias"] = weight, weight[:1]

    def add_batch_norm(name, size):
        add(name, size)
        for buffer in ("running_mean", "running_var"):
            shapes[f"{name}.{buffer}"] = [size]
        shapes[f"{name}.num_batches_tracked"] = []

    for i, (n_in, n_out, kernel) in enumerate([(1, 4, 10), (4, 6, 4)]):
        add(f"{_SSL}feature_extractor.conv_layers.{i}.0", n_out, n_in, kernel)
        add(f"{_SSL}feature_extractor.conv_layers.{i}.2.1", n_out)
    add(_SSL + "post_extract_proj", 8, 6)
    shapes[_SSL + "quantizer.vars"] = [1, 4, 3]
    add(_SSL + "quantizer.weight_proj", 4, 6)
    add(_SSL + "project_q", 5, 5)
    shapes[_SSL + "encoder.pos_conv.0.bias"] = [8]
    shapes[_SSL + "encoder.pos_conv.0.weight_g"] = [1, 1, 4]
    shapes[_SSL + "encoder.pos_conv.0.weight_v"] = [8, 4, 4]
    for i in range(2):
        layer = f"{_SSL}encoder.layers.{i}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add(f"{layer}self_attn.{name}", 8, 8)
        add(layer + "self_attn_layer_norm", 8)
        add(layer + "fc1", 12, 8)
        add(layer + "fc2", 8, 12)
        add(layer + "final_layer_norm", 8)
    add(_SSL + "encoder.layer_norm", 8)
    add(_SSL + "layer_norm", 6)
    add(_SSL + "final_proj", 5, 8)
    add("LL", 12, 8)
    add_batch_norm("first_bn", 1)
    add_batch_norm("first_bn1", 3)
    for i, (n_in, n_out) in enumerate(pairwise(_CHANNELS)):
        block = f"encoder.{i}.0."
        if i:
            add_batch_norm(block + "bn1", n_in)
        add(block + "conv1", n_out, n_in, 2, 3)
        add_batch_norm(block + "bn2", n_out)
        add(block + "conv2", n_out, n_out, 2, 3)
        if n_in != n_out:
            add(block + "conv_downsample", n_out, n_in, 1, 3)
    add("attention.0", 6, 3, 1, 1)
    add_batch_norm("attention.2", 6)
    add("attention.3", 3, 6, 1, 1)
    shapes |= {"pos_S": [1, 4, 3], "master1": [1, 1, 5], "master2": [1, 1, 5]}
    for view in "ST":
        name = f"GAT_layer_{view}."
        for part in ("att_proj", "proj_with_att", "proj_without_att"):
            add(name + part, 5, 3)
        shapes[name + "att_weight"] = [5, 1]
        add_batch_norm(name + "bn", 5)
        add(f"pool_{view}.proj", 1, 5)
        for branch in "12":
            add(f"pool_h{view}{branch}.proj", 1, 4)
    for branch in "12":
        for layer, size in (("1", 5), ("2", 4)):
            name = f"HtrgGAT_layer_ST{branch}{layer}."
            add(name + "proj_type1", size, size)
            add(name + "proj_type2", size, size)
            for part in ("att_proj", "proj_with_att", "proj_without_att"):
                add(name + part, 4, size)
                add(name + part + "M", 4, size)
            for pair in ("11", "22", "12", "M"):
                shapes[f"{name}att_weight{pair}"] = [4, 1]
            add_batch_norm(name + "bn", 4)
    add("out_layer", 2, 20)
    state = published_aasist.made_up_state(json.dumps(list(shapes.items())))
    return {
        name: value.long() if name.endswith("tracked") else value.float()
        for name, value in state.items()
    }


class Published:
    """Waveforms -> logits."""

    def __init__(self, state):
        self.state = state

    def __call__(self, wavs):
        """[batch, samples] -> [batch, 2]"""
        x = self.linear("LL", self.front_end(wavs)).transpose(1, 2)
        x = F.max_pool2d(x.unsqueeze(1), 3)
        x = F.selu(self.batch_norm("first_bn", x))
        for i, (n_in, n_out) in enumerate(pairwise(_CHANNELS)):
            block = f"encoder.{i}.0."
            y = self.conv2d(block + "conv1", x, padding=(1, 1))
            y = F.selu(self.batch_norm(block + "bn2", y))
            y = self.conv2d(block + "conv2", y, padding=(0, 1))
            if n_in != n_out:
                x = self.conv2d(block + "conv_downsample", x, padding=(0, 1))
            x = x + y
        x = F.selu(self.batch_norm("first_bn1", x))
        w = self.batch_norm(
            "attention.2", F.selu(self.conv2d("attention.0", x))
        )
        w = self.conv2d("attention.3", w)
        spectral = (x * w.softmax(3)).sum(3).transpose(1, 2)
        temporal = (x * w.softmax(2)).sum(2).transpose(1, 2)
        spectral = self.graph("GAT_layer_S.", spectral + self.state["pos_S"])
        temporal = self.graph("GAT_layer_T.", temporal)
        spectral = self.pool("pool_S", spectral)
        temporal = self.pool("pool_T", temporal)
        branches = [self.branch(n, temporal, spectral) for n in "12"]
        temporal, spectral, master = map(torch.maximum, *branches)
        pooled = [temporal.abs().amax(1), temporal.mean(1)]
        pooled += [spectral.abs().amax(1), spectral.mean(1), master[:, 0]]
        return self.linear("out_layer", torch.cat(pooled, 1))

    def front_end(self, wavs):
        """fairseq's wav2vec 2.0 with layer norms first."""
        x = wavs.unsqueeze(1)
        for i, stride in enumerate((5, 4)):
            layer = f"{_SSL}feature_extractor.conv_layers.{i}."
            x = F.conv1d(x, *self.parameters(layer + "0"), stride=stride)
            x = self.layer_norm(layer + "2.1", x.transpose(1, 2))
            x = F.gelu(x.transpose(1, 2))
        x = self.layer_norm(_SSL + "layer_norm", x.transpose(1, 2))
        x = self.linear(_SSL + "post_extract_proj", x)
        conv = _SSL + "encoder.pos_conv.0."
        g, v = self.state[conv + "weight_g"], self.state[conv + "weight_v"]
        weight = torch._weight_norm(v, g, 2)
        bias = self.state[conv + "bias"]
        y = F.conv1d(x.transpose(1, 2), weight, bias, padding=2, groups=2)
        x = x + F.gelu(y[:, :, :-1]).transpose(1, 2)
        for i in range(2):
            layer = f"{_SSL}encoder.layers.{i}."
            x = x + self.attend(
                layer + "self_attn.",
                self.layer_norm(layer + "self_attn_layer_norm", x),
            )
            y = self.layer_norm(layer + "final_layer_norm", x)
            y = F.gelu(self.linear(layer + "fc1", y))
            x = x + self.linear(layer + "fc2", y)
        return self.layer_norm(_SSL + "encoder.layer_norm", x)

    def attend(self, name, x, heads=2):
        q, k, v = (
            self.linear(f"{name}{each}_proj", x).unflatten(2, (heads, -1))
            for each in "qkv"
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[3] ** 0.5
        y = torch.einsum("bhij,bjhd->bihd", scores.softmax(3), v)
        return self.linear(name + "out_proj", y.flatten(2))

    def graph(self, name, x):
        products = x.unsqueeze(2) * x.unsqueeze(1)
        scores = torch.tanh(self.linear(name + "att_proj", products))
        scores = (scores @ self.state[name + "att_weight"]).squeeze(3)
        return self.update(name, x, (scores / 2).softmax(2))

    def branch(self, n, temporal, spectral):
        master = self.state["master" + n]
        name = f"HtrgGAT_layer_ST{n}"
        nodes = self.stack(name + "1.", temporal, spectral, master)
        temporal = self.pool("pool_hT" + n, nodes[0])
        spectral = self.pool("pool_hS" + n, nodes[1])
        nodes = temporal, spectral, nodes[2]
        return [a + b for a, b in zip(nodes, self.stack(name + "2.", *nodes))]

    def stack(self, name, temporal, spectral, master):
        n = temporal.shape[1]
        temporal = self.linear(name + "proj_type1", temporal)
        spectral = self.linear(name + "proj_type2", spectral)
        x = torch.cat([temporal, spectral], 1)
        scores = torch.tanh(self.linear(name + "att_projM", x * master))
        scores = scores @ self.state[name + "att_weightM"] / 100
        around = scores.softmax(1).transpose(1, 2) @ x
        master = self.linear(name + "proj_with_attM", around) + self.linear(
            name + "proj_without_attM", master
        )
        products = x.unsqueeze(2) * x.unsqueeze(1)
        features = torch.tanh(self.linear(name + "att_proj", products))
        scores = features @ self.state[name + "att_weight12"]
        for pair, part in (("11", slice(n)), ("22", slice(n, None))):
            weight = self.state[f"{name}att_weight{pair}"]
            scores[:, part, part] = features[:, part, part] @ weight
        x = self.update(name, x, (scores.squeeze(3) / 100).softmax(2))
        return x[:, :n], x[:, n:], master

    def update(self, name, x, attention):
        x = self.linear(name + "proj_with_att", attention @ x) + self.linear(
            name + "proj_without_att", x
        )
        return F.selu(self.batch_norm(name + "bn", x.flatten(0, 1))).view_as(x)

    def pool(self, name, x):
        scores = self.linear(name + ".proj", x).sigmoid()
        best = scores.topk(max(x.shape[1] // 2, 1), dim=1).indices
        return (x * scores).gather(1, best.expand(-1, -1, x.shape[2]))

    def parameters(self, name):
        return self.state[name + ".weight"], self.state[name + ".bias"]

    def linear(self, name, x):
        return F.linear(x, *self.parameters(name))

    def layer_norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], *self.parameters(name))

    def batch_norm(self, name, x):
        means = self.state[name + ".running_mean"]
        variances = self.state[name + ".running_var"]
        return F.batch_norm(x, means, variances, *self.parameters(name))

    def conv2d(self, name, x, **options):
        return F.conv2d(x, *self.parameters(name), **options)
