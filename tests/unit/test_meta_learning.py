"""Starts from which to adapt: derivatives against closed forms, autograd and
other libraries; what is refused; the tasks that a sampler draws."""

import collections
import copy

import numpy as np
import pytest
import speechbrain as sb
import torch
from closed_forms import Quadratic, random, relative_error, solver, start
from small_problem import SmallBrain, loader, small_batches, weights
from strategies import distance, network, sgd, strategy_brain
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio.batch import LevelBatch, PairedBatch
from speechbrain_bilevel.dataio.sampling import TaskBatchSampler
from speechbrain_bilevel.hypergradients import (
    IMAML,
    MAML,
    MetaSGD,
    ProtoMAML,
    Reptile,
)
from speechbrain_bilevel.utils.errors import InputError

NOTHING = LevelBatch(torch.zeros(1), torch.zeros(1))
N, RATE = Quadratic.n, 0.1
X, Y = random(N, seed=9), random(N, seed=5)
#: Of the quadratic problem, with z = (y, x): g = z'Hz/2, and f's gradient is
#: Dz - d.
H = torch.cat(
    [
        torch.cat([Quadratic.A, -Quadratic.B], 1),
        torch.cat([-Quadratic.B.T, torch.zeros(N, N).double()], 1),
    ]
)
D = torch.cat([torch.ones(N), torch.full((N,), Quadratic.rho)]).double()
d = torch.cat([Quadratic.c, torch.zeros(N).double()])
Z = torch.cat([Y, X])
MODES = ["reverse", "forward", "difference"]


def followed(brain, batches):
    """The gradient that a step of plain SGD follows, a flat vector."""
    before = parameters_to_vector(brain.modules.parameters()).detach()
    rate = brain.optimizer.param_groups[0]["lr"]
    for batch in batches:
        brain.step += 1
        brain.fit_batch(batch)
    after = parameters_to_vector(brain.modules.parameters()).detach()
    return (before - after) / rate


def on_quadratic(strategy):
    return followed(start(solver(Quadratic, strategy, Y, X)), [NOTHING])


def on_network(strategy, tasks, **options):
    """The gradient on ``strategies.network()``."""
    return followed(start(brain_of(strategy, **options)), tasks)


def brain_of(strategy, **options):
    hparams = {"hypergradient": strategy, **options.pop("hparams", {})}
    return strategy_brain("Reptile", hparams=hparams, **options)


# ----------------------------------------------------------------- closed forms
@pytest.mark.parametrize("hvp_mode", MODES)
@pytest.mark.parametrize("adapted", [None, ["y"]], ids=["MAML", "ANIL"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_derivative_through_all_steps(steps, adapted, hvp_mode):
    rates = RATE * torch.ones(2 * N).double()
    if adapted:
        rates[N:] = 0
    descent = torch.eye(2 * N).double() - rates[:, None] * H
    power = torch.linalg.matrix_power(descent, steps)
    expected = power.T @ (D * (power @ Z) - d)
    found = on_quadratic(MAML(steps, RATE, adapted, hvp_mode=hvp_mode))
    assert relative_error(found, expected) < 1e-8


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("adapted", [None, ["y"]])
def test_step_sizes_are_learned_by_their_derivative(adapted, first_order):
    z, rates = Z.clone().requires_grad_(), RATE * torch.ones(2 * N).double()
    rates[N:] *= adapted is None
    rates.requires_grad_()
    point = z
    for _ in range(3):
        slope = H @ point
        point = point - rates * (slope.detach() if first_order else slope)
    loss = (D * point**2).sum() / 2 - d @ point
    by_start, by_rates = torch.autograd.grad(loss, (z, rates))

    strategy = MetaSGD(3, RATE, adapted=adapted, first_order=first_order)
    assert relative_error(on_quadratic(strategy), by_start) < 1e-8
    found = strategy.step_sizes
    assert list(found) == ["y.values", "x.values"]
    moves = (rates.detach() - torch.cat([*found.values()])) / 0.1
    if adapted:
        assert not moves[N:].any()
        by_rates[N:] = 0
    assert relative_error(moves, by_rates) < 1e-8


@pytest.mark.parametrize("hvp_mode", MODES)
def test_implicit_differentiation_of_the_steps_solution(hvp_mode):
    strength = 3.0
    end = Z
    for _ in range(4):
        end = end - RATE * (H @ end + strength * (end - Z))
    left = torch.eye(2 * N).double() + H / strength
    expected = torch.linalg.solve(left, D * end - d)
    strategy = IMAML(4, RATE, strength, iterations=100, hvp_mode=hvp_mode)
    assert relative_error(on_quadratic(strategy), expected) < 1e-8


def test_negative_curvature_leaves_the_gradient_where_the_steps_end():
    class Hill(Quadratic):
        A, B = -Quadratic.A, torch.zeros(N, N).double()

    brain = start(solver(Hill, IMAML(1, RATE, strength=0.5), Y, X))
    end = torch.cat([Y + RATE * Quadratic.A @ Y, X])
    found = followed(brain, [NOTHING])
    assert relative_error(found[:N], (D * end - d)[:N]) < 1e-8


def test_reptile_goes_to_where_the_steps_end():
    y = Z
    for k in range(3):
        y = y - RATE * (D * y - d if k % 2 else H @ y)
    found = on_quadratic(Reptile(3, RATE))
    assert relative_error(found, (Z - y) / RATE) < 1e-8


# --------------------------------------------------- other libraries, a network
TASK = small_batches()[0]


def loss_of(net, level, parameters=None):
    """The loss of a network, or of one with these parameters, on a level."""
    inputs, targets = level[:, :3], level[:, 3]
    if parameters is None:
        return ((net(inputs)[:, 0] - targets) ** 2).mean()
    outputs = torch.func.functional_call(net, parameters, (inputs,))
    return ((outputs[:, 0] - targets) ** 2).mean()


def whole_network():
    return torch.nn.Sequential(*network().values())


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize("hvp_mode", ["reverse", "forward"])
def test_maml_against_torchopt(hvp_mode):
    torchopt = pytest.importorskip("torchopt")
    net = whole_network()
    parameters = list(net.parameters())
    optimizer = torchopt.MetaSGD(net, lr=RATE)
    for _ in range(3):
        optimizer.step(loss_of(net, TASK.lower))
    loss = loss_of(net, TASK.upper)
    expected = flat(torch.autograd.grad(loss, parameters))
    found = on_network(MAML(3, RATE, hvp_mode=hvp_mode), [TASK])
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_against_higher(first_order):
    higher = pytest.importorskip("higher")
    net = whole_network()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    with higher.innerloop_ctx(
        *(net, optimizer),
        copy_initial_weights=False,
        track_higher_grads=not first_order,
    ) as (fast, steps):
        for _ in range(3):
            steps.step(loss_of(fast, TASK.lower))
        # Without higher gradients, those by the last parameters.
        wanted = fast.parameters() if first_order else net.parameters()
        loss = loss_of(fast, TASK.upper)
        expected = flat(torch.autograd.grad(loss, list(wanted)))
    found = on_network(MAML(3, RATE, first_order=first_order), [TASK])
    assert relative_error(found, expected) < 1e-6


def test_first_order_is_the_gradient_of_a_copy_that_made_the_steps():
    fast = copy.deepcopy(whole_network())
    optimizer = torch.optim.SGD(fast.parameters(), lr=RATE)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(fast, TASK.lower).backward()
        optimizer.step()
    loss = loss_of(fast, TASK.upper)
    expected = flat(torch.autograd.grad(loss, list(fast.parameters())))
    found = on_network(MAML(3, RATE, first_order=True), [TASK])
    assert relative_error(found, expected) < 1e-12


# -------------------------------------------------------------------- ProtoMAML
class Classes(BilevelMixin, sb.Brain):
    """Tells three classes of [trials, 4] apart; the last column has them."""

    def compute_forward(self, batch, stage):
        return self.modules.head(self.modules.encoder(batch[..., :3]))

    def compute_objectives(self, predictions, batch, stage):
        return cross_entropy(predictions, classes(batch))


def classes(batch):
    return batch[..., 3].long()


def class_brain(strategy, cls=Classes, **run_opts):
    torch.manual_seed(0)
    modules = {
        "encoder": torch.nn.Linear(3, 4).double(),
        "head": torch.nn.Linear(4, 3).double(),
    }
    run_opts = {"device": "cpu", "max_grad_norm": 1e9, **run_opts}
    return cls(modules, sgd, {"hypergradient": strategy}, run_opts)


def class_task(support_classes):
    data = random(18, 4, seed=3)
    data[:9, 3] = torch.tensor(support_classes).repeat(9)[:9]
    data[9:, 3] = torch.arange(9) % 3
    return LevelBatch(data[:9], data[9:])


def through_prototypes(brain, task, steps, first_order):
    """The derivative through prototypes and steps, by autograd alone."""
    z = [p.detach().requires_grad_() for p in brain.modules.parameters()]

    def loss(y, level):
        hidden = level[:, :3] @ y[0].T + y[1]
        return cross_entropy(hidden @ y[2].T + y[3], classes(level))

    hidden = task.lower[:, :3] @ z[0].T + z[1]
    weight, bias = list(z[2]), list(z[3])
    for number in set(classes(task.lower).tolist()):
        center = hidden[classes(task.lower) == number].mean(0)
        weight[number], bias[number] = 2 * center, -(center**2).sum()
    # Copies: the steps do not see how the prototypes depend on the encoder.
    y = [z[0].clone(), z[1].clone(), torch.stack(weight), torch.stack(bias)]
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(y, task.lower), y, create_graph=True)
        if first_order:
            slopes = [slope.detach() for slope in slopes]
        y = [point - RATE * slope for point, slope in zip(y, slopes)]
    found = torch.autograd.grad(loss(y, task.upper), z, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, z)]
    return flat(parts)


@pytest.mark.parametrize("hvp_mode", [*MODES, "first order"])
@pytest.mark.parametrize("support", [[0, 1, 2], [2, 0]])
def test_the_derivative_goes_through_prototypes(support, hvp_mode):
    first_order, task = hvp_mode == "first order", class_task(support)
    options = {} if first_order else {"hvp_mode": hvp_mode}
    strategy = ProtoMAML(
        *(2, RATE, "head", classes), first_order=first_order, **options
    )
    brain = start(class_brain(strategy))
    expected = through_prototypes(brain, task, 2, first_order)
    found = followed(brain, [task])
    tolerance = 1e-4 if hvp_mode == "difference" else 1e-8
    assert relative_error(found, expected) < tolerance
    # A class that the support lacks has the head's own weights.
    assert found[16:].any() == (len(support) < 3)


def test_labels_by_the_name_of_an_attribute():
    class Named(Classes):
        def compute_forward(self, batch, stage):
            return super().compute_forward(batch.inputs.data, stage)

        def compute_objectives(self, predictions, batch, stage):
            return cross_entropy(predictions, batch.label.data[:, 0])

    def named(level):
        items = [{"inputs": x, "label": classes(x)[None]} for x in level]
        return sb.dataio.batch.PaddedBatch(items)

    task = class_task([0, 1, 2])
    one = class_brain(ProtoMAML(2, RATE, "head", classes))
    other = class_brain(ProtoMAML(2, RATE, "head", "label"), Named)
    expected = followed(start(one), [task])
    found = followed(start(other), [LevelBatch(*map(named, task))])
    assert relative_error(found, expected) < 1e-12


# ----------------------------------------------------- what a training asks for
class Overflowing(SmallBrain):
    """Begins with a scale that is much too large."""

    def on_fit_start(self):
        super().on_fit_start()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)


@pytest.mark.parametrize(
    "strategy",
    [
        MAML(2, 1e-3),
        MAML(2, 1e-3, first_order=True),
        MetaSGD(2, 1e-3),
        IMAML(2, 1e-3),
        Reptile(3, 1e-3),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_scale_that_is_too_large_costs_steps_and_no_patience(strategy):
    tasks = [
        LevelBatch(*(level.float() * 16 for level in task))
        for task in small_batches(steps=16)
    ]
    modules = network(dtype=torch.float32)
    brain = brain_of(
        strategy,
        modules=modules,
        cls=Overflowing,
        max_grad_norm=0.1,
        nonfinite_patience=0,
    )
    before, ends = weights(brain), []
    brain.on_fit_batch_end = lambda *_: ends.append(weights(brain))
    brain.fit([1], loader(tasks))
    assert distance(ends[2], before) == 0 < distance(ends[-1], ends[-2])
    assert all(w.isfinite().all() for w in weights(brain).values())
    assert np.isfinite(brain.level_stats()["upper/loss"])


def test_learned_step_sizes_serve_another_fit_and_do_not_decay():
    decay = lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5)
    strategy = MetaSGD(1, RATE)
    brain = brain_of(strategy, opt_class=decay)
    brain.modules["head"].idle = torch.nn.Parameter(torch.ones(2).double())
    tasks = small_batches()
    brain.fit([1], loader(tasks))
    learned = {n: sizes.clone() for n, sizes in strategy.step_sizes.items()}
    assert (learned["head.idle"] == RATE).all()
    assert (learned["head.0.weight"] != RATE).all()

    seen = []
    brain.on_stage_start = lambda *_: seen.append(copy.deepcopy(strategy.state))
    brain.fit([2], loader(tasks))
    assert torch.equal(seen[0]["step_sizes"], flat(learned.values()))
    assert distance(strategy.step_sizes, learned) > 0


def test_learned_step_sizes_are_in_checkpoints(tmp_path):
    def run(epochs):
        strategy = MetaSGD(1, RATE)
        counter = sb.utils.epoch_loop.EpochCounter(epochs)
        modules = network()
        keeper = sb.utils.checkpoints.Checkpointer(
            tmp_path, {**modules, "counter": counter}
        )
        brain = brain_of(strategy, modules=modules, checkpointer=keeper)
        brain.on_stage_end = lambda *_: keeper.save_checkpoint()
        brain.fit(counter, loader(small_batches()))
        return strategy.step_sizes

    first = run(1)
    assert distance(run(1), first) == 0
    assert distance(run(2), first) > 0


def test_what_is_frozen_is_a_constant():
    strategy = MAML(3, RATE)
    brain = start(solver(Quadratic, strategy, Y, X))
    brain.modules.x.requires_grad_(False)
    found = followed(brain, [NOTHING])
    expected = on_quadratic(MAML(3, RATE, adapted=["y"]))
    assert not found[N:].any()
    assert relative_error(found[:N], expected[:N]) < 1e-8


def test_what_is_not_adapted_is_not_copied():
    points = []

    class Watched(MAML):
        def support_gradient(self, task, start, point, k):
            points.append(point)
            return super().support_gradient(task, start, point, k)

    brain = start(brain_of(Watched(3, RATE, adapted=["head"])))
    brain.step += 1
    own = {n: p.data_ptr() for n, p in brain.modules.named_parameters()}
    brain.fit_batch(TASK)
    assert len(points) == 3
    for name, *tensors in zip(own, *points):
        places = {tensor.data_ptr() for tensor in tensors}
        assert len(places) == (1 if name.startswith("encoder") else 3)
        assert own[name] in places


def one_class(batch):
    return torch.zeros(len(batch), dtype=torch.long)


#: Evaluations of a loss for each task, of K = 3 steps; IMAML's with 4
#: iterations.
EVALUATIONS = [
    (MAML(3, RATE, first_order=True), 1, 4),
    (MAML(3, RATE), 1, 6),
    (MAML(3, RATE), 2, 6),
    (MAML(3, RATE, hvp_mode="forward"), 1, 7),
    (MAML(3, RATE, hvp_mode="difference"), 1, 10),
    (MAML(3, RATE, adapted=["head"]), 1, 6),
    (MetaSGD(3, RATE), 1, 6),
    (IMAML(3, RATE, 2.0, 4), 1, 5),
    (IMAML(3, RATE, 2.0, 4), 2, 9),
    (IMAML(3, RATE, 2.0, 4, "forward"), 1, 9),
    (IMAML(3, RATE, 2.0, 4, "difference"), 1, 14),
    (Reptile(3, RATE), 1, 3),
    *(
        (ProtoMAML(3, RATE, "head.4", one_class, hvp_mode=hvp_mode), 1, count)
        for hvp_mode, count in zip(MODES, (7, 8, 11))
    ),
]


@pytest.mark.parametrize("strategy, tasks, expected", EVALUATIONS)
def test_the_cost_of_a_task(strategy, tasks, expected):
    """That of docs/hypergradients.md."""
    counts = collections.Counter()

    class Watched(SmallBrain):
        def compute_forward(self, batch, stage):
            counts[self.optimizer_step] += 1
            return super().compute_forward(batch, stage)

    brain = brain_of(strategy, cls=Watched, grad_accumulation_factor=tasks)
    brain.fit([1], loader(small_batches(2 * tasks)))
    # An epoch's first step has more, to check the losses.
    assert counts[1] == expected * tasks


# --------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "strategy, hparams, message",
    [
        (MAML(0, RATE), {}, "steps: 0; expected 1 or more"),
        (MAML(2, RATE), {"lower_steps": 2}, "lower_steps: 2.*by `steps`"),
        (Reptile(1, RATE), {}, "steps: 1 is plain training; expected 2"),
        (
            MAML(2, RATE, adapted=["head", "tail"]),
            *({}, "adapted: 'tail' names no.*choose among encoder.0, head.0"),
        ),
        (
            ProtoMAML(2, RATE, "head.1", classes),
            *({}, "head: head.1 is no.*choose among encoder.0, head.0, head.4"),
        ),
        (
            ProtoMAML(2, RATE, "tail", classes),
            *({}, "head: tail is no.*Linear with a bias; choose among"),
        ),
        (MAML(2, RATE, hvp_mode="exact"), {}, 'hvp_mode: "exact"; expected'),
        (MAML(2, RATE), {"upper_every": 2}, "upper_every: MAML has no upper"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_start(strategy, hparams, message):
    with pytest.raises(InputError, match=message):
        start(brain_of(strategy, hparams=hparams))


@pytest.mark.parametrize(
    "labels, task, message",
    [
        (
            classes,
            LevelBatch(torch.ones(2, 5, 4), torch.ones(2, 5, 4)),
            r"head sees \[2, 5, 4\] for .* labels; .* behind the mean over t",
        ),
        (
            lambda batch: classes(batch) + 1,
            class_task([0, 1, 2]),
            r"labels: \[1, 2, 3\]; expected 0 to 2, the outputs of head",
        ),
    ],
)
def test_prototypes_of_something_else_are_refused(labels, task, message):
    class Means(Classes):
        def compute_objectives(self, predictions, batch, stage):
            return predictions.mean()

    brain = start(class_brain(ProtoMAML(2, RATE, "head", labels), Means))
    task = LevelBatch(*(level.double() for level in task))
    with pytest.raises(InputError, match=message):
        followed(brain, [task])


def test_a_head_that_has_no_part_in_the_loss_is_refused():
    class Encoding(Classes):
        def compute_forward(self, batch, stage):
            return self.modules.encoder(batch[:, :3])

    brain = start(class_brain(ProtoMAML(2, RATE, "head", classes), Encoding))
    with pytest.raises(InputError, match="head is not called for the lower"):
        followed(brain, [class_task([0, 1, 2])])


# ------------------------------------------------------------------------ tasks
def corpus(attacks=5, spoofs=12, bonafide=30, takes=3):
    """Groups, labels and recordings of a set, ``takes`` items of each
    recording."""
    names = ["-"] * bonafide
    for number in range(attacks):
        names += [f"A{number:02d}"] * spoofs
    groups = np.array(names)
    labels = np.where(groups == "-", "bonafide", "spoof")
    recordings = [f"R{i // takes}" for i in range(len(groups))]
    return groups, labels, np.array(recordings)


@pytest.mark.parametrize("sizes", [(4, 8), (5, 3), (40, 2)])
def test_support_and_query_of_a_task(sizes):
    groups, labels, recordings = corpus()
    sampler = TaskBatchSampler(groups, labels, *sizes, recordings, length=40)
    assert len(sampler) == len(list(sampler)) == 40
    for task in sampler:
        assert all(type(item) is int for item in task)
        assert len(set(groups[task]) - {"-"}) == 1
        support, query = task[: sizes[0]], task[sizes[0] :]
        assert not set(recordings[support]) & set(recordings[query])
        for items, size in ((support, sizes[0]), (query, sizes[1])):
            counts = collections.Counter(labels[items].tolist())
            assert len(items) == size and len(counts) == 2
            assert max(counts.values()) - min(counts.values()) <= 1
            # No item twice before all that the part can have.
            again = collections.Counter(items)
            assert max(again.values()) - 1 <= size // 12
    pair = PairedBatch(sizes[0])([{"id": str(item)} for item in task])
    assert pair.lower.id == [str(item) for item in support]


def test_groups_take_turns_and_items_their_chance():
    groups, labels, recordings = corpus()
    sampler = TaskBatchSampler(groups, labels, 4, 4, recordings, length=500)
    tasks = list(sampler)
    of_task = [max(groups[task]) for task in tasks]
    turns = [of_task[i : i + 5] for i in range(0, 500, 5)]
    assert all(len(set(turn)) == 5 for turn in turns)
    assert len(set(map(tuple, turns))) > 1
    for part in (slice(4), slice(4, None)):
        drawn = {item for task in tasks for item in task[part]}
        assert drawn == set(range(len(groups)))


def test_shared_items_may_have_another_name():
    groups, labels, _ = corpus()
    groups = np.where(groups == "-", "everywhere", groups)
    sampler = TaskBatchSampler(groups, labels, 2, 2, shared="everywhere")
    assert len(sampler) == len(groups) // 4
    for task in sampler:
        assert sorted(groups[task] == "everywhere") == [0, 0, 1, 1]


def test_groups_with_classes_of_their_own_share_nothing():
    groups = np.repeat(["anna", "ben"], 12)
    labels = np.tile(["one", "two", "three"], 8)
    for task in TaskBatchSampler(groups, labels, 3, 6, length=10):
        assert len(set(groups[task])) == 1
        counts = collections.Counter(labels[task].tolist())
        assert set(counts.values()) == {3}


def test_tasks_depend_on_seed_and_epoch():
    groups, labels, _ = corpus()

    def tasks(epoch, seed=1):
        sampler = TaskBatchSampler(groups, labels, 4, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert tasks(2) == tasks(2)
    assert tasks(1) != tasks(2)
    assert tasks(1) != tasks(1, seed=2)


def test_recordings_with_items_of_several_classes():
    """Vocoded copies of bona fide recordings, and some that have none."""
    sources = np.arange(12)
    groups = np.array(["-"] * 12 + ["A01"] * 8 + ["A02"] * 5)
    labels = np.where(groups == "-", "bonafide", "spoof")
    recordings = np.concatenate([sources, sources[:8], sources[-5:]])
    sampler = TaskBatchSampler(groups, labels, 4, 4, recordings, length=200)
    for task in sampler:
        support, query = task[:4], task[4:]
        assert not set(recordings[support]) & set(recordings[query])
        for items in (support, query):
            assert sorted(labels[items]) == ["bonafide"] * 2 + ["spoof"] * 2


def test_recordings_are_divided_evenly():
    groups = np.array([*"----AAA"])
    recordings = np.array([*"1234123"])
    sampler = TaskBatchSampler(groups, groups, 6, 6, recordings, length=50)
    found = collections.Counter()
    for task in sampler:
        for part in np.split(np.array(task), 2):
            names = groups[part]
            assert len(set(recordings[part[names == "-"]])) == 2
            found[len(set(recordings[part[names == "A"]]))] += 1
    assert found == {1: 50, 2: 50}
    supports = {len(set(recordings[task[:6]])) for task in sampler}
    assert supports == {2}


def test_a_brain_trains_on_drawn_tasks():
    seen = []

    class Watched(SmallBrain):
        def on_fit_batch_start(self, batch, should_step):
            seen.append(batch)

    data = random(24, 4, seed=1)
    groups = np.array(["-"] * 12 + ["A01", "A02"] * 6)
    sampler = TaskBatchSampler(groups, groups == "-", 4, 2)
    collate = PairedBatch(4, torch.stack)
    kwargs = {"batch_sampler": sampler, "collate_fn": collate}
    brain = brain_of(MAML(1, RATE), cls=Watched)
    brain.fit(range(1, 3), data, train_loader_kwargs=kwargs)
    assert brain.optimizer_step == len(seen) == 8
    assert all(support.shape == (4, 4) for support in seen)
    assert not any(torch.equal(*pair) for pair in zip(seen[:4], seen[4:]))


@pytest.mark.parametrize(
    "groups, labels, recordings, sizes, message",
    [
        ("--AA", "bbss", "1234", (1, 2), "^support_size.*1 and 2;.* 2, the cl"),
        ("--AA", "bbss", "1234", (2, 1), "^support_size.*2 and 1;.* 2, the cl"),
        ("AABB", "ssss", "1234", (2, 2), "^group A: .*: 2 of s; .*leave"),
        ("--AAB", "bbsss", "12345", (2, 2), "^group B: .* 2 of b, 1 of s; "),
        ("--AA", "bbss", "1233", (2, 2), "^group A: .* 2 of b, 1 of s; "),
        ("----", "bbss", "1234", (2, 2), "^groups: all items are of '-'"),
        ("--AA", "bbs", "1234", (2, 2), "^groups, .* of 4, 3 and 4 items"),
        ("--AA", "bbss", "123", (2, 2), "^groups, .* of 4, 4 and 3 items"),
        (
            *("AAAAAA", "aabbcc", "122331", (3, 3)),
            "^group A: its recordings.*cannot be divided.*leave some out",
        ),
    ],
)
def test_sets_without_tasks_are_refused(
    groups, labels, recordings, sizes, message
):
    with pytest.raises(InputError, match=message):
        TaskBatchSampler([*groups], [*labels], *sizes, [*recordings])
