"""Gradients of a network's gradients, against differences."""

import torch


def second_derivative_errors(network, wavs, step=1e-6):
    """Relative errors of the first derivative, and of each second one.

    They are taken along one random direction of all parameters and waveforms,
    and compared with central differences, in double precision.
    """
    names = [name for name, _ in network.named_parameters()]
    point = [wavs, *(p.detach() for p in network.parameters())]
    direction = [torch.randn_like(value) for value in point]

    def loss_and_gradients(step):
        values = [
            (value + step * change).requires_grad_()
            for value, change in zip(point, direction)
        ]
        given = dict(zip(names, values[1:]))
        logits = torch.func.functional_call(network, given, values[0])
        labels = torch.arange(len(wavs)) % 2
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return (
            loss,
            torch.autograd.grad(loss, values, create_graph=True),
            values,
        )

    def error(found, expected):
        # That of a bias before a batch norm is zero.
        return ((found - expected).norm() / (expected.norm() + 1e-3)).item()

    _, gradients, values = loss_and_gradients(0.0)
    along = sum((g * d).sum() for g, d in zip(gradients, direction))
    second = torch.autograd.grad(along, values)
    (high, above, _), (low, below, _) = map(loss_and_gradients, (step, -step))
    errors = {"first": error(along, (high - low) / (2 * step))}
    for name, found, up, down in zip(["wavs", *names], second, above, below):
        errors[name] = error(found, (up - down) / (2 * step))
    return errors
