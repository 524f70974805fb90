"""Steps of torch's optimizers as differentiable functions."""

import torch

from speechbrain_bilevel.hypergradients.hvp import flatten, masked, unflatten


def sgd(parameter, gradient, state, group):
    """Make a step of ``torch.optim.SGD`` with a parameter and its gradient.

    ``state`` is the optimizer's, a dict of tensors from before the step,
    ``group`` its parameter group. Return the parameter after the step, and the
    part of the state that a later step depends on.
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
    """Make a step of ``torch.optim.Adam`` or ``AdamW``; see ``sgd``."""
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
    root = square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
    root = root / (1 - beta2**step) ** 0.5 + group["eps"]
    change = group["lr"] / (1 - beta1**step) * mean / root
    return parameter - change, {"exp_avg": mean, "exp_avg_sq": square}


UPDATES = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,
}


def why_not_differentiable(optimizer):
    """Return why an optimizer's steps cannot be differentiated here, or None.

    Example
    -------
    >>> why_not_differentiable(torch.optim.Rprop([torch.ones(1)]))
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
    """A step of the lower level that can be differentiated.

    Clipping and the optimizer's update are a function of the gradient, of the
    parameters and of the optimizer's state.

    Arguments
    ---------
    step : Step
        Its lower level is about to make the step.
    gradient : torch.Tensor
        The lower gradient, a flat vector.
    point : list of torch.Tensor
        The lower parameters before the step, which does not change them.
    """

    def __init__(self, step, gradient, point):
        self.loss, self.point = step.lower, point
        self.max_norm = step.max_grad_norm
        parameters, self.moves = step.lower_params, step.moves()
        self.gradient = masked(gradient, point, self.moves)
        self.clips = self._factor(self.gradient).item() < 1
        states = {}
        for optimizer in step.active_optimizers:
            states.update(optimizer.state)
        states = [states.get(p, {}) for p in parameters]
        self.state = {
            name: flatten([state.get(name) for state in states], parameters)
            for name in ("momentum_buffer", "exp_avg", "exp_avg_sq")
            if any(state.get(name) is not None for state in states)
        }
        self.segments = list(_segments(step, parameters, states, self.moves))

    def result(self):
        """Return the lower parameters after the step, a list of tensors."""
        with torch.no_grad():
            vector, _ = self._run(
                flatten(self.point, self.point), self.gradient, self.state
            )
        return unflatten(vector, self.point)

    def vjp(self, vector, by_state_after=None):
        """Multiply the step's transposed Jacobians by derivatives.

        ``vector`` is a derivative by the parameters after the step, flat;
        ``by_state_after`` those by the optimizer's state after it, a dict.
        Return derivatives by the gradient, by the parameters (not through the
        gradient), and by the state, a dict.
        """
        leaves = [flatten(self.point, self.point), *self.state.values()]
        by_gradient, by_parameters, *by_state = self._derivatives(
            vector, by_state_after or {}, leaves
        )
        return by_gradient, by_parameters, dict(zip(self.state, by_state))

    def vjp_wrt_gradient(self, vector, by_state_after=None):
        """Return only the first result of ``vjp``."""
        return self._derivatives(vector, by_state_after or {}, [])[0]

    def _derivatives(self, vector, by_state_after, others):
        gradient, *leaves = (
            tensor.detach().requires_grad_()
            for tensor in (self.gradient, *others)
        )
        point = leaves[0] if leaves else flatten(self.point, self.point)
        state = dict(zip(self.state, leaves[1:])) if leaves else self.state
        after, state_after = self._run(point, gradient, state)
        return torch.autograd.grad(
            [after, *(state_after[name] for name in by_state_after)],
            [gradient, *leaves],
            grad_outputs=[vector, *by_state_after.values()],
            materialize_grads=True,
            allow_unused=True,
        )

    def _factor(self, gradient):
        # Like torch.nn.utils.clip_grad_norm_.
        return self.max_norm / (gradient.norm() + 1e-6)

    def _run(self, point, gradient, state):
        if self.clips:
            gradient = gradient * self._factor(gradient)
        results = []
        for index, update, group, step, known in self.segments:
            part = {name: values[index] for name, values in state.items()}
            part = {**(part if known else {}), "step": step}
            results.append(update(point[index], gradient[index], part, group))
        if len(results) == 1 and all(self.moves):
            return results[0]
        state_after = {}
        for name in {name for _, after in results for name in after}:
            whole = state.get(name, torch.zeros_like(gradient))
            parts = [after.get(name) for _, after in results]
            state_after[name] = self._joined(whole, parts)
        return self._joined(point, [after for after, _ in results]), state_after

    def _joined(self, whole, parts):
        for (index, *_), part in zip(self.segments, parts):
            if part is not None:
                whole = whole.index_copy(0, index, part)
        return whole


def _segments(step, parameters, states, moves):
    """Yield the parameters that are updated alike.

    That is: their indices in a flat vector, the update, the group, the number
    of steps, and whether they have a state.
    """
    group_of = {
        parameter: (number, UPDATES[type(optimizer)], group)
        for number, (optimizer, group) in enumerate(
            (optimizer, group)
            for optimizer in step.active_optimizers
            for group in optimizer.param_groups
        )
        for parameter in group["params"]
    }
    places, start, groups = {}, 0, {}
    counts = _numbers([state.get("step", 0) for state in states])
    for parameter, state, moved, count in zip(
        parameters, states, moves, counts
    ):
        end = start + parameter.numel()
        if moved:
            known = any(torch.is_tensor(value) for value in state.values())
            number, *groups[number] = group_of[parameter]
            alike = number, count, known
            places.setdefault(alike, []).append(
                torch.arange(start, end, device=parameter.device)
            )
        start = end
    whole = len(places) == 1 and all(moves)
    for (number, count, known), ranges in places.items():
        update, group = groups[number]
        settings = {n: v for n, v in group.items() if n != "params"}
        index = slice(None) if whole else torch.cat(ranges)
        yield index, update, settings, count, known


def _numbers(scalars):
    """Return numbers and scalar tensors as numbers; tensors are read at once,
    so that a device is waited for only once.

    Example
    -------
    >>> _numbers([0, torch.tensor(2.0), torch.tensor(3.0)])
    [0, 2.0, 3.0]
    """
    tensors = [s for s in scalars if torch.is_tensor(s)]
    if not tensors:
        return scalars
    # Some of fused optimizers', some of others'.
    together = torch.stack([s.to(tensors[0].device) for s in tensors])
    read = iter(together.tolist())
    return [next(read) if torch.is_tensor(s) else s for s in scalars]
