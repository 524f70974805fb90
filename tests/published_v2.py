"""The initial weights of the reference run of the published V2.

``reference/v2_parity.npz`` names them ``init/*``, but these arrays share their
memory with the trained network and hold its final weights. The true ones are
drawn again here, in the order in which the published network draws them, from
the seed of that run. The reference's ``eval/output``, computed before training,
tells whether they are right.
"""

import torch
from torch import nn

SEED = 7
SIZES = dict(
    samples=8000,
    sinc_filters=16,
    patch=8,
    token_sizes=[64, 48, 40],
    encoder_channels=[8, 16, 16, 32],
    blocks=2,
    heads=4,
    hidden=64,
    gru=24,
    classifier=16,
    dropout=0.0,
)


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
    embed, hidden = SIZES["encoder_channels"][-1], SIZES["hidden"]
    put("sinc_branch.patches", nn.Conv2d(1, embed, SIZES["patch"]))
    sizes = [660, *SIZES["token_sizes"]]
    for i, (before, after) in enumerate(zip(sizes, sizes[1:])):
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
    for block in range(SIZES["blocks"]):
        for name, layer in layers.items():
            nn.init.xavier_uniform_(layer.weight)
            put(f"transformer.{block}.{name}", layer)
    put("gru", nn.GRU(embed, SIZES["gru"]))
    tokens = state["classifier.0.weight"].numel()
    put("classifier.1", nn.Linear(tokens, SIZES["classifier"]))
    put("classifier.2", nn.Linear(SIZES["classifier"], 2))
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
