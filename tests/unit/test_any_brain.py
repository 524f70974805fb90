"""Brains of many kinds get a second level: each trains with every strategy, as
the mathematics says, or is refused in a sentence that says why."""

import collections
import functools
import itertools
import logging
import re

import numpy as np
import pytest
import torch
from brains import (
    BRAINS,
    STEPS,
    TRAIN,
    TRIALS,
    Classifier,
    Counting,
    Ctc,
    DecayingMatrices,
    Following,
    Freezing,
    FrozenHead,
    HiddenState,
    Noisy,
    Normalizing,
    OwnHooks,
    Scheduled,
    TwoLevelGan,
    TwoOptimizers,
    adam,
    bilevel,
    draw,
    make,
    sgd,
)
from small_problem import loader, weights
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.metric_stats import MetricStats
from strategies import (
    EPOCHS,
    FOR_ANY_BRAIN,
    STRATEGIES,
    TWO_LEVELS,
    distance,
)

from speechbrain_bilevel import (
    BilevelMixin,
    LevelBatch,
    bilevel_loader_kwargs,
)
from speechbrain_bilevel.hypergradients import (
    Alternating,
    LaggedAlternating,
    OneStepUnrolled,
)
from speechbrain_bilevel.utils.errors import InputError
from speechbrain_bilevel.utils.seed import seed_step

every_strategy = pytest.mark.parametrize("name", FOR_ANY_BRAIN)
with_two_levels = pytest.mark.parametrize("name", TWO_LEVELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the Brains that need files write them."""
    return tmp_path_factory.mktemp("brains")


def two_level(cls, name, folder=None, hparams=(), **options):
    """A Brain with a strategy, by its name in STRATEGIES."""
    strategy = STRATEGIES[name]() if name else None
    hparams = {"lower_steps": lower_steps(name), **dict(hparams)}
    return make(bilevel(cls), strategy, folder, hparams, **options)


def lower_steps(name):
    return 2 if name == "Truncated" else 1


def fitted(cls, name, folder=None, epochs=EPOCHS, batches=None, **options):
    """Such a Brain after some epochs."""
    brain = two_level(cls, name, folder, **options)
    brain.fit(range(1, epochs + 1), loader(batches or cls.batches()))
    return brain


def levels_of(cls, brain):
    """The names of the parameters of each level."""
    names = [name for name, _ in brain.modules.named_parameters()]
    tensors = dict(brain.modules.named_parameters(remove_duplicate=False))
    upper = [p for n, p in tensors.items() if n.startswith(tuple(cls.upper))]
    is_upper = [any(tensors[name] is p for p in upper) for name in names]
    return (
        {n for n, is_ in zip(names, is_upper) if not is_},
        {n for n, is_ in zip(names, is_upper) if is_},
    )


def trained(brain):
    """All parameters, and the step sizes that MetaSGD learns."""
    step_sizes = getattr(brain.hypergradient, "parameter", None)
    own = [] if step_sizes is None else [step_sizes]
    return [*brain.modules.parameters(), *own]


def moved(before, after):
    return {n for n, w in after.items() if not torch.equal(w, before[n])}


@every_strategy
@pytest.mark.parametrize("kind", [k for k in BRAINS if k != "hidden state"])
def test_every_brain_trains_or_is_refused_in_one_sentence(kind, name, folder):
    cls = BRAINS[kind]
    batches = cls.batches()
    refusal = cls.refusal(STRATEGIES[name]())
    if refusal:
        with pytest.raises(InputError) as error:
            fitted(cls, name, folder)
        assert re.search(refusal, str(error.value))
        assert "\n" not in str(error.value)
        return
    brain = two_level(cls, name, folder)
    before, loss = weights(brain), brain.loss(batches[0])
    brain.fit(range(1, EPOCHS + 1), loader(batches))
    assert brain.optimizer_step == STEPS * EPOCHS
    assert brain.loss(batches[0]) < loss
    after = weights(brain)
    assert all(tensor.isfinite().all() for tensor in after.values())
    for level in levels_of(cls, brain):
        assert moved(before, after) & level


@every_strategy
def test_a_state_that_cannot_be_rewound_is_refused_where_it_matters(name):
    repeats = []

    class Watched(HiddenState):
        def compute_forward(self, batch, stage):
            repeats.append(self.is_repeat)
            return super().compute_forward(batch, stage)

    batches = Watched.batches()
    brain = two_level(Watched, name)
    before, loss = weights(brain), brain.loss(batches[0])
    try:
        brain.fit(range(1, EPOCHS + 1), loader(batches))
    except InputError as error:
        message = "evaluates a batch more than once.*cannot be rewound.*choose"
        assert re.search(message, str(error))
        assert any(repeats) and not moved(before, weights(brain))
        return
    assert not any(repeats)
    assert brain.loss(batches[0]) < loss


def test_a_refusal_comes_before_anything_has_moved():
    brain = two_level(Ctc, "SOBA reverse")
    before = weights(brain)
    with pytest.raises(InputError):
        brain.fit([1], loader(Ctc.batches()))
    assert not moved(before, weights(brain))


#: Those whose hypergradients are compared with differences.
DIFFERENTIATED = [
    "recurrent",
    "transformer",
    "attention",
    "convolution",
    "own function",
    "two optimizers",
    "frozen head",
    "tied weights",
    "freezing",
    "noisy",
    "masking",
    "decaying",
]


def upper_parameters(cls, brain):
    _, upper = levels_of(cls, brain)
    return [p for n, p in brain.modules.named_parameters() if n in upper]


def upper_losses(cls, folder, shift):
    """The upper loss after each of SpeechBrain's own steps, with x constant,
    but for the last step, when it is moved by ``shift`` times a direction, of
    what then is trainable; and that direction."""
    pairs, losses, directions = cls.batches(), [], []

    class Own(cls):
        def on_fit_batch_start(self, batch, should_step):
            seed_step(0, self.optimizer_step, self.step)
            if self.optimizer_step == EPOCHS * STEPS - 1:
                for number, x in enumerate(upper_parameters(cls, self)):
                    direction = draw(*x.shape, seed=number) * x.requires_grad
                    directions.append(direction)
                    x.data += shift * direction

        def optimizers_step(self):
            for x in upper_parameters(cls, self):
                x.grad = None
            super().optimizers_step()

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            upper = pairs[self.step - 1].upper
            with torch.no_grad():
                predictions = self.compute_forward(upper, TRAIN)
                loss = self.compute_objectives(predictions, upper, TRAIN)
            losses.append(loss.item())

    brain = make(Own, folder=folder, max_grad_norm=1e9)
    lower = [pair.lower for pair in pairs]
    brain.fit(range(1, EPOCHS + 1), loader(lower))
    return losses, directions


def last_hypergradient(cls, strategy, folder):
    """The last gradient before the upper optimizer's step, zeros where there
    is none; x does not move."""
    found = []

    class Watched(bilevel(cls)):
        def apply_gradients(self, level):
            if level == "upper":
                parameters = upper_parameters(cls, self)
                found[:] = [
                    torch.zeros_like(p) if p.grad is None else p.grad.clone()
                    for p in parameters
                ]
            super().apply_gradients(level)

    resting = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    hparams = {"upper_opt_class": resting}
    brain = make(Watched, strategy, folder, hparams, max_grad_norm=1e9)
    brain.fit(range(1, EPOCHS + 1), loader(cls.batches()))
    return found, brain.level_stats()


@pytest.mark.parametrize("kind", DIFFERENTIATED)
def test_hypergradients_are_differences_of_the_brains_own_step(
    kind, folder, monkeypatch
):
    monkeypatch.setenv("SB_GLOBAL_SEED", "5")
    cls, shift = BRAINS[kind], 1e-5
    (plus, directions), (minus, _) = (
        upper_losses(cls, folder, sign * shift) for sign in (1, -1)
    )
    assert plus[:-1] == minus[:-1]
    expected = (plus[-1] - minus[-1]) / (2 * shift)
    for mode in ("reverse", "forward"):
        strategy = OneStepUnrolled("at_step", mode)
        if cls.refusal(strategy):
            continue
        found, stats = last_hypergradient(cls, strategy, folder)
        product = sum((g * d).sum().item() for g, d in zip(found, directions))
        assert product == pytest.approx(expected, rel=1e-4)
        # The answer of the lower level has a part in it.
        assert stats["upper/implicit_to_direct"] > 1e-2


PLAIN = [n for n, cls in BRAINS.items() if not issubclass(cls, BilevelMixin)]


@pytest.mark.parametrize("kind", PLAIN)
def test_without_a_hypergradient_it_is_the_brains_own_training(kind, folder):
    cls, ends = BRAINS[kind], []
    pairs, both = cls.batches(), bilevel(cls)
    lower = [pair.lower for pair in pairs]
    for of, batches in ((cls, lower), (both, lower), (both, pairs)):
        brain = make(of, folder=folder)
        before = weights(brain)
        torch.manual_seed(3)
        brain.fit(range(1, EPOCHS + 1), loader(batches))
        assert brain.optimizer_step == STEPS * EPOCHS
        ends.append({**weights(brain), "random": torch.get_rng_state()})
    assert moved(before, weights(brain))
    for end in ends[1:]:
        assert not moved(ends[0], end)


def test_a_brain_without_hparams_trains_as_ever():
    batches, ends = [pair.lower for pair in Classifier.batches()], []
    for cls in (Classifier, bilevel(Classifier)):
        torch.manual_seed(0)
        run_opts = {"device": "cpu", "noprogressbar": True}
        brain = cls(cls.network(), opt_class=sgd, run_opts=run_opts)
        brain.fit([1], loader(batches))
        ends.append(weights(brain))
    assert distance(*ends) == 0


@every_strategy
def test_frozen_parameters_stay_and_others_do_not(name):
    seen, ends = [], []

    class Watched(Freezing):
        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            self.epoch = epoch
            if epoch == 1:
                ends.append(weights(self))

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            for parameter, tensor in self.modules.named_parameters():
                is_frozen = self.is_frozen(parameter, self.epoch)
                seen.append(tensor.requires_grad != is_frozen)

        def on_stage_end(self, stage, stage_loss, epoch=None):
            ends.append(weights(self))

    brain = two_level(Watched, name)
    if name == "LaggedAlternating":
        # The second epoch, too, hands the upper level over.
        brain.hypergradient = LaggedAlternating(EPOCHS + 1)
    brain.fit([1, 2], loader(Watched.batches()))
    assert len(seen) == len(ends[0]) * STEPS * EPOCHS and all(seen)
    for epoch in (1, 2):
        trained = {n for n in ends[0] if not brain.is_frozen(n, epoch)}
        assert 0 < len(trained) < len(ends[0])
        assert moved(ends[epoch - 1], ends[epoch]) == trained


@every_strategy
def test_an_optimizer_that_is_frozen_makes_no_step(name):
    ends = []

    class Watched(FrozenHead):
        def on_stage_end(self, stage, stage_loss, epoch=None):
            ends.append(weights(self))

    before = weights(make(Watched))
    head = {"head.weight", "head.bias"}
    fitted(Watched, name)
    assert moved(before, ends[0]) >= head
    assert not moved(ends[0], ends[1]) & head
    assert {"body.0.weight", "body.0.bias"} <= moved(ends[0], ends[1])


@every_strategy
def test_all_evaluations_of_a_batch_hear_the_same_noise(name, folder):
    heard = collections.defaultdict(list)
    options = {"hparams": {"lower_steps": 1}}
    if name == "Truncated":
        options["hparams"]["upper_every"] = 2

    class Listening(Noisy):
        def on_stage_start(self, stage, epoch=None):
            self.epoch = epoch

        def hear(self, batch):
            waves = super().hear(batch)
            key = self.epoch, batch.data_ptr()
            heard[key].append((waves.clone(), self.is_repeat))
            return waves

    class Given(Listening):
        def hear(self, batch):
            return heard[self.epoch, batch.data_ptr()][0][0]

    batches = Noisy.batches()
    brain = fitted(Listening, name, folder, batches=batches, **options)
    upper = {"SAM": 0, "Truncated": STEPS // 2}.get(name, STEPS)
    assert len(heard) == (STEPS + upper) * EPOCHS
    for (first, _), *others in heard.values():
        for again, is_repeat in others:
            assert is_repeat and torch.equal(again, first)
    if "difference" in name or name in ("F2SA 1", "BOME", "SAM"):
        assert any(len(evaluations) > 1 for evaluations in heard.values())
    firsts = [evaluations[0][0] for evaluations in heard.values()]
    for one, other in itertools.combinations(firsts, 2):
        assert not torch.equal(one, other)
    given = fitted(Given, name, folder, batches=batches, **options)
    assert distance(weights(given), weights(brain)) == 0


@every_strategy
def test_metrics_count_each_trial_once(name):
    firsts, counts = [], []

    class Watched(Counting):
        def count_trials(self, ids, predictions, targets):
            super().count_trials(ids, predictions, targets)
            firsts.extend([] if self.is_repeat else ids)

        def on_stage_end(self, stage, stage_loss, epoch=None):
            counts.append(self.counts())

    fitted(Watched, name)
    levels = lower_steps(name) + (name != "SAM")
    expected = levels * STEPS * TRIALS
    assert counts == [{expected}] * EPOCHS
    assert len(firsts) == expected * EPOCHS
    assert len(set(firsts)) == STEPS * TRIALS * (1 if name == "SAM" else 2)


def add_one(array):
    array += 1


#: What somebody may count in: an empty one, how to count, the count so far.
COUNTERS = {
    "a list": (list, lambda c: c.append(1), len),
    "a list in a dict": (
        dict,
        lambda c: c.setdefault("train", []).append(1),
        lambda c: len(c["train"]),
    ),
    "a Counter": (
        collections.Counter,
        lambda c: c.update("a"),
        lambda c: c["a"],
    ),
    "an array": (lambda: np.zeros(1), add_one, lambda c: c[0]),
    "a tensor": (lambda: torch.zeros(1), add_one, lambda c: c[0]),
    "a list of numbers": (
        lambda: [0, 0],
        lambda c: c.__setitem__(0, c[0] + 1),
        lambda c: c[0],
    ),
    "lists in a list": (
        lambda: [[], []],
        lambda c: c[0].append(1),
        lambda c: len(c[0]),
    ),
    "an array in a list": (
        lambda: [np.zeros(1)],
        lambda c: add_one(c[0]),
        lambda c: c[0][0],
    ),
    "a deque": (collections.deque, lambda c: c.append(1), len),
    "a Counter of many": (
        lambda: collections.Counter(range(2000)),
        lambda c: c.update([7]),
        lambda c: c[7] - 1,
    ),
    "metrics made when needed": (
        dict,
        lambda c: c.setdefault("train", MetricStats(None)).ids.append(1),
        lambda c: len(c["train"].ids),
    ),
    "dicts made when needed": (
        lambda: collections.defaultdict(collections.Counter),
        lambda c: c["train"].update("a"),
        lambda c: c["train"]["a"],
    ),
}


@pytest.mark.parametrize("kind", COUNTERS)
def test_whatever_hangs_on_the_brain_counts_once(kind):
    new, count, read = COUNTERS[kind]
    firsts = []

    class Watched(Classifier):
        def on_stage_start(self, stage, epoch=None):
            self.counter = new()

        def compute_objectives(self, predictions, batch, stage):
            count(self.counter)
            firsts.extend([] if self.is_repeat else [1])
            return super().compute_objectives(predictions, batch, stage)

    brain = fitted(Watched, "at_step difference", epochs=1)
    assert read(brain.counter) == len(firsts) == 2 * STEPS


@pytest.mark.parametrize("calls_super_first", [True, False])
def test_what_init_makes_is_rewound_like_all_else(calls_super_first):
    class Watched(Classifier):
        def __init__(self, *args, **kwargs):
            if calls_super_first:
                super().__init__(*args, **kwargs)
            self.count, self.seen = 0, []
            if not calls_super_first:
                super().__init__(*args, **kwargs)

        def compute_objectives(self, predictions, batch, stage):
            self.count += 1
            self.seen.append(1)
            return super().compute_objectives(predictions, batch, stage)

    brain = fitted(Watched, "at_step difference", epochs=1)
    assert (brain.count, len(brain.seen)) == (2 * STEPS, 2 * STEPS)


@every_strategy
def test_normalization_among_the_hparams_counts_once(name, folder):
    brain = fitted(Normalizing, name, folder)
    updates = (lower_steps(name) + (name != "SAM")) * STEPS * EPOCHS
    # Five tokens in each trial.
    assert brain.hparams.normalize.count == 5 * TRIALS * updates


@pytest.mark.parametrize(
    "name", ["Alternating", "at_step reverse", "at_step difference", "F2SA 1"]
)
def test_a_teacher_follows_once_per_batch_or_is_refused(name):
    steps = []

    class Watched(Following):
        def follow(self):
            super().follow()
            if not self.is_repeat:
                body = self.modules.body.parameters()
                steps.append([p.detach().clone() for p in body])

    try:
        brain = fitted(Watched, name)
    except InputError as error:
        assert "teacher" in str(error)
        return
    expected = [*make(Following).modules.teacher.parameters()]
    for body in steps:
        expected = [torch.lerp(a, b, 0.5) for a, b in zip(expected, body)]
    assert distance([*brain.modules.teacher.parameters()], expected) < 1e-12


def test_modules_that_take_turns_by_an_iterator_train():
    class Turning(Classifier):
        @classmethod
        def network(cls):
            return {**super().network(), "other": cls.body().double()}

        def on_stage_start(self, stage, epoch=None):
            bodies = self.modules.body, self.modules.other
            self.turns = itertools.cycle([*bodies, *bodies[::-1]])

        def compute_forward(self, batch, stage):
            hidden = next(self.turns)(self.modules.encoder(batch))
            return self.modules.head(hidden.mean(1))

    before = weights(make(Turning))
    brain = fitted(Turning, "SOBA reverse")
    assert moved(before, weights(brain)) == set(before)


def test_an_array_generator_of_the_old_kind_is_rewound_too():
    class Shaking(Classifier):
        @classmethod
        def settings(cls, folder):
            return {"random": np.random.RandomState(1)}

        def compute_forward(self, batch, stage):
            loudness = self.hparams.random.uniform(0.5, 1.5)
            return super().compute_forward(loudness * batch, stage)

    brain = fitted(Shaking, "SOBA reverse")
    assert brain.optimizer_step == STEPS * EPOCHS


@every_strategy
def test_every_hook_is_called_once(name):
    brain = fitted(OwnHooks, name)
    batches = STEPS * EPOCHS
    assert brain.hooks == {
        "stage_start": EPOCHS,
        "stage_end": EPOCHS,
        "batch_start": batches,
        "batch_end": batches,
    }


def test_the_lagged_upper_level_is_handed_over_without_super():
    found = []

    class Watched(OwnHooks):
        def on_stage_end(self, stage, stage_loss, epoch=None):
            found.append(weights(self))

    start = weights(make(Watched))
    brain = fitted(Watched, "LaggedAlternating", epochs=1)
    of_copy = brain.hypergradient.state
    assert len(of_copy) == 4
    for name, tensor in of_copy.items():
        assert torch.equal(found[0][name], tensor)
        assert not torch.equal(start[name], tensor)


@with_two_levels
def test_schedulers_of_speechbrain_change_both_rates(name, folder):
    brain = fitted(Scheduled, name, folder)
    stats = brain.level_stats()
    # Halved after the second epoch, whose improvement was too small.
    assert stats["lower/lr"] == pytest.approx(0.1)
    steps = STEPS * EPOCHS
    noam = 0.2 * 2**0.5 * min(steps**-0.5, steps * 2**-1.5)
    assert stats["upper/lr"] == pytest.approx(noam)
    assert brain.optimizer is brain.optimizers_dict["lower"]


@every_strategy
def test_vectors_have_no_decay_at_either_level(name):
    brain = two_level(DecayingMatrices, name)
    brain.on_fit_start()
    decays = {
        parameter: group["weight_decay"]
        for optimizer in brain.optimizers_dict.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    parameters = trained(brain)
    assert set(decays) == set(parameters)
    for parameter in parameters:
        expected = 0.01 if parameter.ndim > 1 else 0
        assert decays[parameter] == expected, parameter.shape


@every_strategy
@pytest.mark.parametrize("cls", [TwoOptimizers, TwoLevelGan])
def test_the_brains_own_optimizers_share_the_lower_level(cls, name):
    brain = two_level(cls, name)
    brain.on_fit_start()
    shared = {}
    for optimizer_name, optimizer in brain.optimizers_dict.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                shared.setdefault(parameter, []).append(optimizer_name)
    assert set(shared) == set(trained(brain))
    assert all(len(names) == 1 for names in shared.values())
    upper = upper_parameters(cls, brain)
    if name in TWO_LEVELS:
        assert {shared[p][0] for p in upper} == {"upper"}
    else:
        assert "upper" not in {shared[p][0] for p in upper}


@pytest.mark.parametrize(
    "name", ["Alternating", "at_step reverse", "CG warm", "F2SA 2", "MLDG"]
)
@pytest.mark.parametrize("cls", [TwoOptimizers, TwoLevelGan])
def test_runs_with_optimizers_of_their_own_resume(
    cls, name, tmp_path, monkeypatch
):
    monkeypatch.setenv("SB_GLOBAL_SEED", "5")

    class Saving(bilevel(cls)):
        def on_stage_end(self, stage, stage_loss, epoch=None):
            self.checkpointer.save_checkpoint()

    def run(folder, epochs):
        counter, keeper = EpochCounter(epochs), Checkpointer(folder)
        strategy = STRATEGIES[name]()
        brain = make(Saving, strategy, checkpointer=keeper)
        keeper.add_recoverables({"net": brain.modules, "counter": counter})
        brain.fit(counter, loader(cls.batches()))
        return brain

    expected = weights(run(tmp_path / "unbroken", EPOCHS + 1))
    run(tmp_path / "broken", EPOCHS)
    brain = run(tmp_path / "broken", EPOCHS + 1)
    assert brain.optimizer_step == STEPS * (EPOCHS + 1)
    assert distance(weights(brain), expected) == 0


@pytest.mark.parametrize(
    "batches, kind",
    [
        ([torch.ones(2, 5, 4)], "Tensor"),
        ([PaddedBatch([{"id": "a"}])], "PaddedBatch"),
        ([{"inputs": torch.ones(2)}], "dict"),
    ],
)
def test_an_ordinary_loader_is_refused(batches, kind):
    message = f"loader yields {kind};.*bilevel_loader_kwargs"
    with pytest.raises(InputError, match=message):
        fitted(Classifier, "Alternating", batches=batches)


@pytest.mark.parametrize(
    "strategy",
    ["Alternating", Alternating, functools.partial(OneStepUnrolled, "ahead")],
)
def test_what_is_no_strategy_is_refused(strategy):
    message = "^hypergradient: .* is no strategy; expected an object.*!new:"
    with pytest.raises(InputError, match=message):
        make(bilevel(Classifier), strategy)


def test_the_mixin_behind_the_brain_is_refused():
    message = r"BilevelMixin must come before the Brain, class Wrong\(Bilevel"
    with pytest.raises(InputError, match=message):

        class Wrong(Classifier, BilevelMixin):
            pass


@pytest.mark.parametrize(
    "value",
    ["torch.optim.Adam", {"lr": 0.1}, adam([torch.ones(1)])],
    ids=["text", "dict", "optimizer"],
)
def test_what_makes_no_upper_optimizer_is_refused(value):
    hparams = {"upper_opt_class": value}
    message = "^upper_opt_class: .*expected what makes an optimizer.*!name:"
    with pytest.raises(InputError, match=message):
        two_level(Classifier, "Alternating", hparams=hparams)


@pytest.mark.parametrize(
    "hparams, message",
    [
        ({"upper": []}, "^upper: "),
        ({"upper": None}, "^upper: "),
        ({"upper_opt_class": lambda parameters: None}, "^upper_opt_class: "),
    ],
)
def test_an_empty_upper_level_is_refused(hparams, message):
    with pytest.raises(InputError, match=message):
        fitted(Classifier, "Alternating", hparams=hparams)


def test_losses_of_levels_behind_the_mixin_are_not_left_out_silently():
    class Weighted(Classifier):
        def upper_objectives(self, predictions, batch, stage):
            return 2 * self.compute_objectives(predictions, batch, stage)

    try:
        ours = fitted(Weighted, "Alternating")
    except InputError as error:
        assert "upper_objectives" in str(error)
        return
    assert distance(weights(ours), weights(fitted(Classifier, "SAM"))) > 0
    twice = lambda parameters: torch.optim.SGD(parameters, lr=0.6)
    hparams = {"upper_opt_class": twice}
    expected = fitted(Classifier, "Alternating", hparams=hparams)
    assert distance(weights(ours), weights(expected)) < 1e-12


@every_strategy
def test_hooks_are_given_the_lower_batch(name):
    seen = []

    class Watched(Counting):
        def on_fit_batch_start(self, batch, should_step):
            seen.append(("start", *batch.id))

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            assert outputs.shape == (len(batch.id), 2)
            assert loss.ndim == 0 and should_step
            seen.append(("end", *batch.id))

    pairs = Counting.batches()
    fitted(Watched, name, epochs=1)
    assert seen == [
        (when, *pair.lower.id) for pair in pairs for when in ("start", "end")
    ]


@every_strategy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_eps_is_warned_of_once(name, dtype, caplog):
    class Adams(Classifier):
        opt_class = upper_opt_class = staticmethod(torch.optim.Adam)

        @classmethod
        def network(cls):
            modules = super().network().items()
            return {name: module.to(dtype) for name, module in modules}

    with caplog.at_level(logging.WARNING):
        two_level(Adams, name).on_fit_start()
    warnings = [r.message for r in caplog.records if "eps" in r.message]
    unrolled = getattr(STRATEGIES[name](), "differentiates_step", False)
    assert len(warnings) == (unrolled and dtype == torch.float32)
    assert all("Adam with eps 1e-08" in message for message in warnings)


def broken(batch):
    return LevelBatch(*(level * float("nan") for level in batch))


@pytest.mark.parametrize("name", [None, *FOR_ANY_BRAIN])
def test_steps_that_are_not_finite_are_left_out(name, caplog):
    ends = []

    class Watched(Classifier):
        opt_class = upper_opt_class = staticmethod(adam)

        def on_fit_batch_end(self, batch, outputs, loss, should_step):
            ends.append(weights(self))

    good = Classifier.batches()
    batches = [good[0], broken(good[0]), broken(good[1]), good[1]]
    options = {"batches": batches, "nonfinite_patience": 10, "epochs": 1}
    with caplog.at_level(logging.WARNING):
        brain = fitted(Watched, name, **options)
    assert brain.optimizer_step == 4
    assert not moved(ends[0], ends[1]) and not moved(ends[0], ends[2])
    assert moved(ends[2], ends[3]) >= levels_of(Watched, brain)[0]
    left_out = {
        "training" if name is None else "lower level": lower_steps(name)
    }
    if name in TWO_LEVELS:
        left_out["upper level"] = 1
    for level, steps in left_out.items():
        messages = [
            record.message
            for record in caplog.records
            if record.message.startswith(level)
        ]
        first, summary = messages
        assert "not finite, no step" in first
        assert f"{2 * steps} steps left out in epoch 1" in summary


def test_parameters_without_an_optimizer_do_not_stop_training_after_a_nan():
    class Partly(Classifier):
        def init_optimizers(self):
            self.optimizer = sgd(self.modules.head.parameters())
            self.optimizers_dict = {"opt_class": self.optimizer}

    good = Partly.batches()
    brain = fitted(Partly, None, batches=[broken(good[0])], epochs=1)
    before = weights(brain)
    assert not moved(weights(make(Partly)), before)
    brain.fit([2], loader(good))
    assert moved(before, weights(brain)) == {"head.weight", "head.bias"}


def pairs_of(kwargs, epoch, dataset):
    """The ids of each level's batches in an epoch."""
    kwargs["batch_sampler"].set_epoch(epoch)
    loading = torch.utils.data.DataLoader(dataset, **kwargs)
    lower, upper = zip(*((pair.lower.id, pair.upper.id) for pair in loading))
    return lower, upper


def speech(speakers=6, each=4):
    """A data set of some speakers, with words of two classes."""
    inputs = draw(speakers * each, 5, 4, seed=1)
    return DynamicItemDataset(
        {
            f"s{n // each}-{n % each}": {
                "inputs": inputs[n],
                "speaker": f"s{n // each}",
                "word": "yes" if n < each else "no",
            }
            for n in range(speakers * each)
        },
        output_keys=["id", "inputs"],
    )


def test_halves_are_disjoint_and_cover_the_data_set():
    dataset = speech()
    kwargs = bilevel_loader_kwargs(dataset, {"batch_size": 3})
    epochs = [pairs_of(kwargs, epoch, dataset) for epoch in (1, 2)]
    for lower, upper in epochs:
        assert {len(batch) for batch in lower + upper} == {3}
        first, second = ({i for b in level for i in b} for level in epochs[0])
        assert len(first) == len(second) == len(dataset) / 2
        assert not first & second
        # The same halves in another order.
        assert {i for batch in lower for i in batch} == first
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("by", ["speaker", "values"])
def test_folds_by_a_column_keep_groups_together(by):
    dataset, held_out = speech(), []
    if by == "values":
        by = [name.partition("-")[0] for name in dataset.data_ids]
    kwargs = bilevel_loader_kwargs(dataset, {"batch_size": 4}, folds=3, by=by)
    for epoch in (1, 2, 3):
        levels = pairs_of(kwargs, epoch, dataset)
        lower, upper = (
            {i.partition("-")[0] for batch in level for i in batch}
            for level in levels
        )
        assert len(upper) == 2 and len(lower) == 4 and not lower & upper
        held_out.append(upper)
    assert set.union(*held_out) == {f"s{n}" for n in range(6)}


def test_classes_that_one_level_misses_are_warned_of(caplog):
    dataset, kwargs = speech(), {"batch_size": 2}
    with caplog.at_level(logging.WARNING):
        made = bilevel_loader_kwargs(
            dataset, kwargs, by="speaker", label="speaker"
        )
    (fold,) = made["batch_sampler"].folds
    missing = (
        min(dataset.data_ids[trial].partition("-")[0] for trial in other)
        for other in (fold.upper, fold.lower)
    )
    assert [record.message for record in caplog.records] == [
        f"fold 1 of 1: the {level} level has no item of 3 classes, e.g. {name}"
        for level, name in zip(("lower", "upper"), missing)
    ]
    caplog.clear()
    words = [n % 2 for n in range(len(dataset))]
    with caplog.at_level(logging.WARNING):
        bilevel_loader_kwargs(dataset, kwargs, label=words)
    assert not caplog.records


def test_other_settings_of_the_loader_are_carried_over():
    given = {
        "batch_size": 2,
        "num_workers": 1,
        "prefetch_factor": 3,
        "shuffle": True,
        "drop_last": True,
        "collate_fn": list,
    }
    before = dict(given)
    kwargs = bilevel_loader_kwargs(speech(), given, upper_batch_size=5)
    assert given == before
    loading = torch.utils.data.DataLoader(speech(), **kwargs)
    assert (loading.num_workers, loading.prefetch_factor) == (1, 3)
    pair = next(iter(loading))
    assert type(pair) is LevelBatch
    assert type(pair.lower) is list
    assert (len(pair.lower), len(pair.upper)) == (2, 5)


@pytest.mark.parametrize("key", ["sampler", "batch_sampler"])
def test_another_sampler_is_refused(key):
    given = {"batch_size": 2, key: torch.utils.data.SequentialSampler([1])}
    if key == "batch_sampler":
        del given["batch_size"]
    with pytest.raises(InputError, match=f"^{key}: .*leave it out"):
        bilevel_loader_kwargs(speech(), given)


@pytest.mark.parametrize(
    "size, options, message",
    [
        (2, {"folds": 0}, "folds: 0"),
        (2, {"folds": 7, "by": "speaker"}, "folds: 7 of 6 groups"),
        (2, {"by": ["a"]}, "1 values for a data set of 24 items"),
        (2, {"label": ["a"]}, "1 values for a data set of 24 items"),
        (13, {}, r"too few trials for one batch of 13 \+ 13"),
    ],
)
def test_too_little_data_is_refused(size, options, message):
    with pytest.raises(InputError, match=message):
        bilevel_loader_kwargs(speech(), {"batch_size": size}, **options)


@pytest.mark.parametrize("name", ["Alternating", "SOBA reverse"])
def test_a_brain_trains_on_a_data_set_with_folds(name):
    seen = collections.defaultdict(set)

    class Watched(Counting):
        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            self.epoch = epoch

        def count_trials(self, ids, predictions, targets):
            super().count_trials(ids, predictions, targets)
            speakers = {trial.partition("-")[0] for trial in ids}
            seen[self.epoch, self.level].update(speakers)

    dataset = speech()
    given = {"batch_size": 4, "num_workers": 1}
    kwargs = bilevel_loader_kwargs(dataset, given, folds=2, by="speaker")
    brain = two_level(Watched, name)
    brain.fit([1, 2], dataset, train_loader_kwargs=kwargs)
    assert brain.optimizer_step == 2 * 3
    assert seen[1, "lower"] == seen[2, "upper"]
    assert seen[1, "upper"] == seen[2, "lower"]
    assert len(seen[1, "lower"]) == len(seen[1, "upper"]) == 3
    assert not seen[1, "lower"] & seen[1, "upper"]


def test_each_fit_goes_through_its_own_folds():
    dataset, brain = speech(), two_level(Counting, "Alternating")
    for epochs in ([1, 2], [3, 4]):
        given = {"batch_size": 4}
        kwargs = bilevel_loader_kwargs(dataset, given, folds=2)
        brain.fit(epochs, dataset, train_loader_kwargs=kwargs)
        assert kwargs["batch_sampler"].epoch == epochs[-1]
