"""Steps of torch's optimizers as differentiable functions."""

import torch

from speechbrain_bilevel.hypergradients.vectors import flat, shaped


def sgd(parameter, gradient, state, group):
    """A step of ``torch.optim.SGD``.

    Arguments
    ---------
    parameter : torch.Tensor
    gradient : torch.Tensor
    state : dict of str to torch.Tensor
        The optimizer's, from before the step.
    group : dict
        The optimizer's parameter group.

    Returns
    -------
    parameter : torch.Tensor
        After the step.
    state : dict of str to torch.Tensor
        What of it a later step depends on.

    Example
    -------
    >>> group = torch.optim.SGD([torch.ones(1)], lr=0.5).param_groups[0]
    >>> sgd(torch.ones(1), torch.ones(1), {}, group)
    (tensor([0.5000]), {})
    """
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    state_after = {}
    if group["momentum"]:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            buffer = gradient
        else:
            buffer = group["momentum"] * buffer
            buffer = buffer + (1 - group["dampening"]) * gradient
        state_after = {"momentum_buffer": buffer}
        if group["nesterov"]:
            gradient = gradient + group["momentum"] * buffer
        else:
            gradient = buffer
    return parameter - group["lr"] * gradient, state_after


def adam(parameter, gradient, state, group):
    """A step of ``torch.optim.Adam`` or ``AdamW``; see ``sgd``.

    Example
    -------
    >>> group = torch.optim.Adam([torch.ones(1)], lr=0.5).param_groups[0]
    >>> adam(torch.ones(1), torch.ones(1), {}, group)[0]
    tensor([0.5000])
    """
    if group["weight_decay"]:
        if group["decoupled_weight_decay"]:
            parameter = parameter * (1 - group["lr"] * group["weight_decay"])
        else:
            gradient = gradient + group["weight_decay"] * parameter
    beta1, beta2 = group["betas"]
    step = float(state.get("step", 0)) + 1
    mean = (1 - beta1) * gradient
    square = (1 - beta2) * gradient * gradient
    if "exp_avg" in state:
        mean = mean + beta1 * state["exp_avg"]
        square = square + beta2 * state["exp_avg_sq"]
    # The root has no derivative at 0, where a gradient was always 0.
    seen = square > 0
    root = torch.where(seen, square, 1.0).sqrt()
    root = torch.where(seen, root, 0.0) / (1 - beta2**step) ** 0.5
    change = mean / (1 - beta1**step) / (root + group["eps"])
    state_after = {"exp_avg": mean, "exp_avg_sq": square}
    return parameter - group["lr"] * change, state_after


UPDATES = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,
}


def undifferentiable(optimizer):
    """Why the steps of an optimizer cannot be differentiated here.

    Returns
    -------
    str or None
        What to do about it, or None if they can.

    Example
    -------
    >>> undifferentiable(torch.optim.Adam([torch.ones(1)]))
    >>> undifferentiable(torch.optim.Rprop([torch.ones(1)]))
    'Rprop has no differentiable form here; choose SGD, Adam or AdamW'
    """
    name = type(optimizer).__name__
    if type(optimizer) not in UPDATES:
        return (
            f"{name} has no differentiable form here; choose SGD, Adam or AdamW"
        )
    for option in ("amsgrad", "maximize"):
        if any(group.get(option) for group in optimizer.param_groups):
            return f"{name} with {option} has none; leave the option out"
    return None


class LowerStep:
    """A step that the lower level makes, to be differentiated: clipping and
    the optimizer's update, a function of the gradient, of the parameters and of
    the optimizer's state.

    Arguments
    ---------
    brain : BilevelMixin
        About to make the step.
    loss : MeanLoss
        The lower loss of the step.
    gradient : torch.Tensor
        Its gradient, a flat vector.
    point : list of torch.Tensor
        The lower parameters before the step; not changed by it.
    """

    def __init__(self, brain, loss, gradient, point):
        self.loss, self.gradient, self.point = loss, gradient, point
        self.max_norm = brain.max_grad_norm
        optimizer = brain.optimizers_dict["lower"]
        self.update = UPDATES[type(optimizer)]
        group_of = {
            id(parameter): dict(group)
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self.groups, self.states = [], []
        for parameter in brain.levels["lower"].values():
            self.groups.append(group_of[id(parameter)])
            state = optimizer.state.get(parameter, {})
            self.states.append(
                {
                    name: value.detach().clone()
                    for name, value in state.items()
                    if value is not None
                }
            )

    def result(self):
        """The lower parameters after the step, a list of tensors."""
        with torch.no_grad():
            parameters, _ = self._run(self.point, self.gradient, self.states)
        return parameters

    def pull_back(self, vector, state_vectors=None):
        """Products of the step's transposed Jacobians with a vector.

        Arguments
        ---------
        vector : torch.Tensor
            A derivative by the parameters after the step, flat.
        state_vectors : list of dict of str to torch.Tensor, optional
            The same derivative by the optimizer's state after the step.

        Returns
        -------
        by_gradient : torch.Tensor
        by_parameters : torch.Tensor
            Without the way over the gradient.
        by_state : list of dict of str to torch.Tensor
        """
        point = [_leaf(tensor) for tensor in self.point]
        gradient = _leaf(self.gradient)
        states = [
            {n: _leaf(t) if n != "step" else t for n, t in state.items()}
            for state in self.states
        ]
        parameters, after = self._run(point, gradient, states)
        outputs = list(zip(parameters, shaped(vector, parameters)))
        for values, vectors in zip(after, state_vectors or []):
            outputs += [(values[name], vectors[name]) for name in vectors]
        leaves = [
            (i, name)
            for i, state in enumerate(states)
            for name in state
            if name != "step"
        ]
        found = torch.autograd.grad(
            [output for output, _ in outputs],
            [gradient, *point, *(states[i][name] for i, name in leaves)],
            grad_outputs=[direction for _, direction in outputs],
            allow_unused=True,
        )
        by_state = [{} for _ in states]
        for (i, name), derivative in zip(leaves, found[1 + len(point) :]):
            if derivative is not None:
                by_state[i][name] = derivative
        by_parameters = flat(found[1 : 1 + len(point)], point)
        return flat(found[:1], [gradient]), by_parameters, by_state

    def _run(self, point, gradient, states):
        # As torch.nn.utils.clip_grad_norm_ does it.
        limit = self.max_norm / (gradient.norm() + 1e-6)
        parts = shaped(gradient * limit.clamp(max=1.0), point)
        steps = [
            self.update(*arguments)
            for arguments in zip(point, parts, states, self.groups)
        ]
        return [p for p, _ in steps], [state for _, state in steps]


def _leaf(tensor):
    return tensor.detach().requires_grad_()
