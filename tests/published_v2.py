"""The published V2's own training, step by step, and where it started.

``tests/data/v2_parity.npz`` has numbers of the published network and of its
training, at a reduced size in double precision. The initial weights are drawn
again here, in the order in which the published network draws them, from the
seed of that run: the ``eval/output``, computed before training, shows whether
they are right.
"""

import copy
import itertools
import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy

SEED = 7
SIZES = {
    "num_samples": 8000,
    "sinc_channels": 16,
    "patch_size": 8,
    "token_sizes": [64, 48, 40],
    "encoder_channels": [8, 16, 16, 32],
    "num_layers": 2,
    "nhead": 4,
    "d_ffn": 64,
    "gru_hidden_size": 24,
    "classifier_size": 16,
    "dropout": 0.0,
}
#: Of both levels' Adam, and steps of the schedules.
ADAM = {"lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-9}
MODEL_SIZE, WARMUP, UPPER_STEPS = 32, 10, 55000


def initial_state(network):
    """The state dict that the reference run started from.

    Arguments
    ---------
    network : V2
        Built with ``SIZES`` in double precision.

    Returns
    -------
    dict of str to torch.Tensor
    """
    state = {k: v.clone() for k, v in network.state_dict().items()}

    def put(name, module):
        for kind, tensor in module.named_parameters():
            state[f"{name}.{kind}"] = tensor.detach().clone()

    torch.manual_seed(SEED)
    embed, hidden = SIZES["encoder_channels"][-1], SIZES["d_ffn"]
    put("sinc_branch.patches", nn.Conv2d(1, embed, SIZES["patch_size"]))
    sizes = [660, *SIZES["token_sizes"]]
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        put(f"sinc_branch.to_tokens.{2 * i}", nn.Linear(before, after))
    channels = SIZES["encoder_channels"]
    for i, (before, after) in enumerate(zip([1, *channels], channels)):
        conv = nn.Conv2d(before, after, 3)
        nn.init.kaiming_uniform_(conv.weight, a=0.1)
        nn.init.zeros_(conv.bias)
        put(f"mel_encoder.convs.{3 * i}", conv)
    # One block is drawn and copied; only the matrices are drawn again.
    projection = nn.Linear(embed, embed)
    layers = {
        "attention.query": projection,
        "attention.key": projection,
        "attention.value": projection,
        "attention.output": projection,
        "feed_forward.0": nn.Linear(embed, hidden),
        "feed_forward.3": nn.Linear(hidden, embed),
    }
    for block in range(SIZES["num_layers"]):
        for name, layer in layers.items():
            nn.init.xavier_uniform_(layer.weight)
            put(f"transformer.{block}.{name}", layer)
    put("gru", nn.GRU(embed, SIZES["gru_hidden_size"]))
    tokens = state["classifier.0.weight"].numel()
    put("classifier.1", nn.Linear(tokens, SIZES["classifier_size"]))
    put("classifier.2", nn.Linear(SIZES["classifier_size"], 2))
    for name in _published_order(network):
        scale = max(0.02 * state[name].abs().mean().item(), 1e-3)
        state[name] += scale * torch.randn_like(state[name])
    return state


def _published_order(network):
    """Parameter names in the order of the published network's parameters:
    within a block, its norms come last."""
    last = {"attention_norm": 1, "feed_forward_norm": 2}

    def place(name):
        module, _, rest = name.partition(".")
        if module != "transformer":
            return order.index(module), 0, 0
        block, part = rest.split(".")[:2]
        return order.index(module), int(block), last.get(part, 0)

    order = [name for name, _ in network.named_children()]
    return sorted((name for name, _ in network.named_parameters()), key=place)


def published_names(state):
    """A state dict of ours under the names of the published V2."""
    found = {}
    blocks = "transformer.encoder.layers"
    heads = ("query", "key", "value", "output")
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        part, _, end = rest.partition(".")
        layer, _, kind = end.partition(".")
        if module == "classifier":
            name = f"mlp.{rest}"
        elif name.startswith("sinc_branch.to_tokens."):
            which = "lin_ln" if int(layer) % 2 else "linear"
            name = f"EmbedReduce.{which}{int(layer) // 2 + 1}.{kind}"
        elif module == "sinc_branch":
            names = {"sinc": "Sinc_conv", "norm": "lnorm1"}
            name = f"{names.get(part, 'patchEmbed.proj')}.{end}"
        elif name.startswith("mel_encoder.mel."):
            name = f"FeatureEncoder.mel_transform.{end}"
        elif module == "mel_encoder":
            conv, layer = divmod(int(layer), 3)
            name = f"FeatureEncoder.encode{conv + 1}.{layer}.{kind}"
        elif module == "transformer":
            block, what = f"{blocks}.{part}", layer
            if what == "attention":
                head, _, kind = kind.partition(".")
                name = f"{block}.self_attn.linears.{heads.index(head)}.{kind}"
            elif what == "feed_forward":
                number = {"0": "1", "3": "2"}[kind[0]]
                name = f"{block}.feed_forward.w_{number}.{kind[2:]}"
            else:
                number = 0 if what == "attention_norm" else 1
                name = f"{block}.sublayer.{number}.norm.{kind}"
        found[name] = tensor
    return found


def published_training(network, batches, steps_per_epoch):
    """Train as the published script does, with two copies of the network.

    Arguments
    ---------
    network : V2
        Where it starts; it is not changed.
    batches : list of ((wavs, labels), (wavs, labels))
        Of the lower and the upper level, of whole epochs.
    steps_per_epoch : int

    Returns
    -------
    trace : dict of str to list of float
        "lower_loss", "upper_loss", "lower_lr" and "upper_lr" of each step.
    lower, upper : V2
        The copies at the end.
    """
    lower, upper = (
        copy.deepcopy(network).train(),
        copy.deepcopy(network).train(),
    )
    rest = [
        parameter
        for name, parameter in lower.named_parameters()
        if not name.startswith("mel_encoder.")
    ]
    encoder = list(upper.mel_encoder.parameters())
    optimizers = (
        torch.optim.Adam(rest, **ADAM),
        torch.optim.Adam(encoder, **ADAM),
    )
    trace = {f"{x}_{y}": [] for x in ("lower", "upper") for y in ("loss", "lr")}
    for number, (lower_batch, upper_batch) in enumerate(batches):
        if number and number % steps_per_epoch == 0:
            # Parameters only: each copy keeps its BatchNorm statistics.
            for ours, theirs in zip(lower.mel_encoder.parameters(), encoder):
                ours.data.copy_(theirs.data)
        for level, model, optimizer, batch, factor in (
            ("lower", lower, optimizers[0], lower_batch, _noam(number)),
            ("upper", upper, optimizers[1], upper_batch, _cosine(number)),
        ):
            optimizer.param_groups[0]["lr"] = ADAM["lr"] * factor
            loss = _loss(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trace[f"{level}_loss"].append(loss.item())
            trace[f"{level}_lr"].append(optimizer.param_groups[0]["lr"])
            if level == "lower":
                for name, parameter in upper.named_parameters():
                    if not name.startswith("mel_encoder."):
                        parameter.data.copy_(lower.get_parameter(name).data)
    return trace, lower, upper


def _noam(step):
    step = max(step, 1)
    return MODEL_SIZE**-0.5 * min(step**-0.5, step * WARMUP**-1.5)


def _cosine(step):
    rising = int(0.04 * UPPER_STEPS)
    if step < rising:
        return step / rising
    progress = (step - rising) / (UPPER_STEPS - rising)
    return 0.5 * (1 + math.cos(math.pi * progress))


def _loss(logits, labels):
    """Cross entropy and focal loss of the softmax."""
    entropy = cross_entropy(logits.softmax(dim=1), labels, reduction="none")
    alpha = torch.tensor([0.25, 0.75])[labels]
    focal = alpha * (1 - torch.exp(-entropy)) ** 2 * entropy
    return (entropy + focal).mean()
