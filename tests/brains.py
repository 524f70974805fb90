"""Brains of many kinds, as somebody might have written them for SpeechBrain:
few parameters, few trials, in double precision where the operations allow it.

Those of one level know nothing of a second one; ``bilevel`` gives it to them.
``make`` builds any of them, with or without a strategy.
"""

import collections
import copy
import functools
import itertools
import random
import types

import numpy as np
import soundfile
import speechbrain as sb
import torch
import torchaudio
from speechbrain.augment.time_domain import AddNoise, AddReverb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.nnet.attention import MultiheadAttention
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.schedulers import (
    NewBobScheduler,
    NoamScheduler,
    update_learning_rate,
)
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.metric_stats import ClassificationStats, MetricStats
from torch.nn.functional import cross_entropy, logsigmoid

from speechbrain_bilevel import BilevelMixin, LevelBatch
from speechbrain_bilevel.hypergradients import MAML

TRAIN = sb.Stage.TRAIN
#: Batches of an epoch, and the trials of each level in one.
STEPS, TRIALS = 2, 6


def sgd(parameters, lr=0.3):
    return torch.optim.SGD(parameters, lr=lr)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def draw_trials(seed):
    """Trials of two classes, half of each, [trials, tokens, 4]."""
    inputs = draw(TRIALS, 5, 4, seed=seed)
    inputs += 0.5 - inputs.mean((1, 2), keepdim=True)
    inputs[::2] *= -1
    return inputs


def labels(batch):
    """The class of each trial."""
    return (batch.mean((1, 2)) > 0).long()


def exact(strategy):
    """Whether a strategy needs exact second derivatives."""
    return strategy.hvp_mode in ("reverse", "forward")


class Classifier(sb.Brain):
    """Tells two classes of [trials, tokens, 4] apart."""

    #: Of the second level, if the Brain gets one.
    upper = ("encoder",)
    opt_class = upper_opt_class = staticmethod(sgd)
    run_opts = ()

    @staticmethod
    def body():
        """What [trials, tokens, 4] go through before the mean over tokens."""
        return torch.nn.Sequential(
            torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Dropout(0.1)
        )

    @classmethod
    def network(cls):
        body = cls.body()
        hidden = body(torch.ones(2, 5, 4)).shape[-1]
        return {
            "encoder": torch.nn.Sequential(
                torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4)
            ).double(),
            "body": body.double(),
            "head": torch.nn.Linear(hidden, 2).double(),
        }

    @classmethod
    def batches(cls):
        """The batches of an epoch, for both levels."""
        seeds = range(2 * STEPS)
        levels = [cls.trials(draw_trials(seed)) for seed in seeds]
        return [LevelBatch(*pair) for pair in zip(levels[::2], levels[1::2])]

    @staticmethod
    def trials(inputs):
        """The batch of some inputs."""
        return inputs

    @classmethod
    def settings(cls, folder):
        """Hyperparameters of its own."""
        return {}

    @classmethod
    def refusal(cls, strategy):
        """What must be said where a strategy cannot train it, else ""."""
        return ""

    def compute_forward(self, batch, stage):
        hidden = self.modules.body(self.modules.encoder(batch))
        return self.modules.head(hidden.mean(1))

    def compute_objectives(self, predictions, batch, stage):
        return cross_entropy(predictions, labels(batch))

    def loss(self, batch):
        """What must fall: the loss of both levels without dropout."""
        self.modules.eval()
        losses = [self.evaluate_batch(b, sb.Stage.VALID) for b in batch]
        return sum(losses).item()


class First(torch.nn.Module):
    """The first result of a module that has several."""

    def __init__(self, module, inputs=1):
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, x):
        return self.module(*[x] * self.inputs)[0]


class Recurrent(Classifier):
    @staticmethod
    def body():
        return First(torch.nn.GRU(4, 3, batch_first=True))


class Transformer(Classifier):
    opt_class = upper_opt_class = staticmethod(functools.partial(sgd, lr=0.1))

    @staticmethod
    def body():
        return torch.nn.TransformerEncoderLayer(
            4, 2, 8, dropout=0.1, batch_first=True
        )


class Attention(Classifier):
    @staticmethod
    def body():
        return First(MultiheadAttention(nhead=2, d_model=4), inputs=3)


class Transposed(torch.nn.Sequential):
    """Layers that want [trials, channels, tokens]."""

    def forward(self, x):
        return super().forward(x.mT).mT


class Convolution(Classifier):
    @staticmethod
    def body():
        return Transposed(
            torch.nn.Conv1d(4, 3, 2),
            torch.nn.BatchNorm1d(3, momentum=0.5),
            torch.nn.Tanh(),
        )


class Ctc(Classifier):
    """Each class has a word of two symbols."""

    operation = "CtcLoss"

    @classmethod
    def network(cls):
        modules = super().network()
        modules["head"] = torch.nn.Linear(3, 4).double()
        return modules

    @classmethod
    def refusal(cls, strategy):
        if exact(strategy):
            return f"second derivatives.*{cls.operation}.*choose hvp_mode"
        return ""

    def compute_forward(self, batch, stage):
        hidden = self.modules.body(self.modules.encoder(batch))
        return self.modules.head(hidden)

    def compute_objectives(self, predictions, batch, stage):
        words = torch.tensor([[1, 2], [3, 1]])[labels(batch)]
        whole = torch.ones(len(batch))
        return ctc_loss(
            predictions.log_softmax(2), words, whole, whole, blank_index=0
        )


class Transducer(Ctc):
    """The same words; its loss exists in single precision only."""

    operation = "RnntLossBackward"

    @classmethod
    def network(cls):
        return {**super().network(), "words": torch.nn.Embedding(4, 3).double()}

    def compute_forward(self, batch, stage):
        tokens = self.modules.body(self.modules.encoder(batch))
        words = torch.tensor([[0, 1, 2], [0, 3, 1]])[labels(batch)]
        words = self.modules.words(words)
        return self.modules.head(tokens[:, :, None] + words[:, None])

    def compute_objectives(self, predictions, batch, stage):
        words = torch.tensor([[1, 2], [3, 1]])[labels(batch)]
        sizes = [torch.full((len(batch),), n).int() for n in (5, 2)]
        return torchaudio.functional.rnnt_loss(
            predictions.float(), words.int(), *sizes, blank=0
        )


class LatticeLoss(torch.autograd.Function):
    """A squared error whose gradient is computed with it and kept, as losses
    over lattices do: a constant for automatic differentiation."""

    @staticmethod
    def forward(ctx, predictions, targets):
        ctx.gradient = 2 * (predictions - targets) / targets.numel()
        return ((predictions - targets) ** 2).mean()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.gradient, None


class Lattice(Classifier):
    @classmethod
    def refusal(cls, strategy):
        if exact(strategy):
            return "second derivatives.*LatticeLossBackward.*choose hvp_mode"
        return ""

    def compute_objectives(self, predictions, batch, stage):
        targets = torch.nn.functional.one_hot(labels(batch), 2).double()
        return LatticeLoss.apply(predictions, targets)


class Clouds(sb.Brain):
    """Moves a cloud of points onto another one, with an optimizer for each of
    two networks."""

    upper = ("generator",)
    opt_class = upper_opt_class = staticmethod(adam)
    run_opts, settings = (), Classifier.settings

    @classmethod
    def network(cls):
        discriminator = torch.nn.Linear(2, 1).double()
        torch.nn.init.zeros_(discriminator.weight)
        return {
            "generator": torch.nn.Linear(2, 2).double(),
            "discriminator": discriminator,
        }

    @classmethod
    def batches(cls):
        levels = [1 + draw(12, 2, seed=seed) / 4 for seed in range(2 * STEPS)]
        return [LevelBatch(*pair) for pair in zip(levels[::2], levels[1::2])]

    def init_optimizers(self):
        self.optimizers_dict = {
            f"{name}_optimizer": adam(module.parameters())
            for name, module in self.modules.items()
        }
        if self.checkpointer is not None:
            for name, optimizer in self.optimizers_dict.items():
                self.checkpointer.add_recoverable(name, optimizer)

    def compute_forward(self, batch, stage):
        made = self.modules.generator(torch.randn_like(batch))
        return self.modules.discriminator(made), made

    def discriminator_loss(self, predictions, batch):
        real = self.modules.discriminator(batch)
        return -(logsigmoid(real) + logsigmoid(-predictions[0])).mean()

    def generator_loss(self, predictions):
        return -logsigmoid(predictions[0]).mean()

    def compute_objectives(self, predictions, batch, stage):
        return self.discriminator_loss(predictions, batch)

    def loss(self, batch):
        """How far apart the clouds are."""
        with torch.no_grad():
            _, made = self.compute_forward(batch.upper, sb.Stage.VALID)
        return (made.mean(0) - batch.upper.mean(0)).norm().item()


class Square(torch.autograd.Function):
    """A function whose backward pass has a derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * gradient * x


class OwnFunction(Classifier):
    @classmethod
    def refusal(cls, strategy):
        if strategy.hvp_mode == "forward":
            return 'hvp_mode: "forward" does not work with this.*"reverse"'
        return ""

    def compute_objectives(self, predictions, batch, stage):
        targets = torch.nn.functional.one_hot(labels(batch), 2).double()
        return Square.apply(predictions - targets).mean()


class Gan(Clouds):
    """Makes both of its steps itself."""

    @classmethod
    def refusal(cls, strategy):
        return (
            r"^Gan\.fit_batch: bi-level training makes its own steps.*"
            "discriminator of a GAN is a lower level, its generator an upper"
        )

    def fit_batch(self, batch):
        optimizers = self.optimizers_dict
        predictions = self.compute_forward(batch, TRAIN)
        loss = self.compute_objectives(predictions, batch, TRAIN)
        loss.backward()
        optimizers["discriminator_optimizer"].step()
        self.zero_grad(set_to_none=True)
        predictions = self.compute_forward(batch, TRAIN)
        self.generator_loss(predictions).backward()
        optimizers["generator_optimizer"].step()
        self.zero_grad(set_to_none=True)
        self.optimizer_step += 1
        return loss.detach()


class TwoLevelGan(BilevelMixin, Clouds):
    """The discriminator below, the generator above."""

    @classmethod
    def refusal(cls, strategy):
        return ""

    def lower_objectives(self, predictions, batch, stage):
        return self.discriminator_loss(predictions, batch)

    def upper_objectives(self, predictions, batch, stage):
        return self.generator_loss(predictions)

    def loss(self, batch):
        if self.upper_optimizer is not None:
            return super().loss(batch)
        if isinstance(self.hypergradient, MAML):
            # Of a task, the upper loss is to become small.
            with torch.no_grad():
                predictions = self.compute_forward(batch.upper, TRAIN)
                return self.generator_loss(predictions).item()
        # Without an upper level both networks descend the lower loss.
        with torch.no_grad():
            predictions = self.compute_forward(batch.lower, TRAIN)
            return self.discriminator_loss(predictions, batch.lower).item()


class TwoOptimizers(Classifier):
    """SGD for all but the head, which has Adam."""

    def init_optimizers(self):
        modules = self.modules
        body = [*modules.encoder.parameters(), *modules.body.parameters()]
        self.body_optimizer = torch.optim.SGD(
            body, lr=0.2, momentum=0.5, nesterov=True
        )
        self.head_optimizer = adam(modules.head.parameters())
        self.optimizers_dict = {
            "body_optimizer": self.body_optimizer,
            "head_optimizer": self.head_optimizer,
        }
        if self.checkpointer is not None:
            for name, optimizer in self.optimizers_dict.items():
                self.checkpointer.add_recoverable(name, optimizer)


class FrozenHead(TwoOptimizers):
    """The head rests in the second epoch."""

    def on_stage_start(self, stage, epoch=None):
        self.epoch = epoch

    def freeze_optimizers(self, optimizers):
        frozen = "head_optimizer" if self.epoch == 2 else None
        return {name: o for name, o in optimizers.items() if name != frozen}


class TiedWeights(Classifier):
    """Predicts the next of six symbols; the embedding is the output layer's
    matrix, which the upper level has by its second name."""

    upper = ("output.weight",)

    @classmethod
    def network(cls):
        embedding = torch.nn.Embedding(6, 4).double()
        output = torch.nn.Linear(4, 6).double()
        output.weight = embedding.weight
        middle = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
        return {
            "embedding": embedding,
            "middle": middle.double(),
            "output": output,
        }

    @staticmethod
    def trials(inputs):
        first = (3 * inputs[:, :1, 0].abs()).long()
        return (first + torch.arange(5)) % 6

    def compute_forward(self, batch, stage):
        hidden = self.modules.embedding(batch[:, :-1])
        return self.modules.output(self.modules.middle(hidden))

    def compute_objectives(self, predictions, batch, stage):
        return cross_entropy(predictions.mT, batch[:, 1:])


class OwnStep(Classifier):
    """Makes its rate smaller in a step of its own."""

    @classmethod
    def refusal(cls, strategy):
        return (
            r"^OwnStep\.optimizers_step: .*change learning rates in on_fit_ba"
        )

    def optimizers_step(self):
        super().optimizers_step()
        update_learning_rate(self.optimizer, 0.2 / self.optimizer_step)


class Freezing(Classifier):
    """Freezes a part of each level in the first epoch, and another one in the
    second."""

    opt_class = upper_opt_class = staticmethod(adam)
    #: The layers that are frozen, by epoch.
    frozen = (("encoder.0", "body.0"), ("encoder.2", "body.2"))

    @staticmethod
    def body():
        return torch.nn.Sequential(
            torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3)
        )

    def is_frozen(self, name, epoch):
        return name.startswith(self.frozen[epoch - 1])

    def on_stage_start(self, stage, epoch=None):
        if stage == TRAIN:
            for name, parameter in self.modules.named_parameters():
                parameter.requires_grad_(not self.is_frozen(name, epoch))


class Noisy(Classifier):
    """Tells a rise from a fall of loudness, in noise and with an echo that are
    read from files."""

    @classmethod
    def network(cls):
        return {
            "encoder": torch.nn.Linear(8, 4).double(),
            "head": torch.nn.Linear(4, 2).double(),
        }

    @staticmethod
    def trials(inputs):
        rise = torch.linspace(0.2, 1, 160).double()
        rises = labels(inputs)[:, None] == 1
        return torch.where(rises, rise, rise.flip(0)) * inputs.repeat(
            1, 8, 1
        ).flatten(1)

    @classmethod
    def settings(cls, folder):
        """Write files of noise and of impulse responses."""
        lists = {}
        for kind, samples in (("noise", 300), ("rir", 20)):
            lines = ["ID,duration,wav,wav_format,wav_opts"]
            for n in range(3):
                path = folder / f"{kind}{n}.wav"
                wave = draw(samples + n, seed=samples + n) / 5
                soundfile.write(path, wave.numpy(), 16000)
                lines.append(f"{n},{len(wave) / 16000},{path},wav,")
            lists[kind] = folder / f"{kind}.csv"
            lists[kind].write_text("\n".join(lines))
        return {
            "noise": AddNoise(lists["noise"], snr_low=10, snr_high=20),
            "echo": AddReverb(lists["rir"]),
        }

    def hear(self, batch):
        """What the network hears of a batch in training."""
        noisy = self.hparams.noise(batch, torch.ones(len(batch)))
        return self.hparams.echo(noisy)

    def compute_forward(self, batch, stage):
        heard = self.hear(batch) if stage == TRAIN else batch
        loudness = heard.unfold(1, 20, 20).square().mean(2)
        return self.modules.head(self.modules.encoder(loudness).tanh())

    def compute_objectives(self, predictions, batch, stage):
        begin, end = batch.square().unflatten(1, (2, -1)).sum(2).T
        return cross_entropy(predictions, (begin < end).long())


class Counting(Classifier):
    """Keeps metrics of the epoch on itself."""

    @staticmethod
    def trials(inputs):
        return PaddedBatch(
            [{"id": f"{trial[0, 0]:.6f}", "inputs": trial} for trial in inputs]
        )

    def on_stage_start(self, stage, epoch=None):
        self.classes = ClassificationStats()
        self.losses = MetricStats(metric=cross_entropy)
        self.seen, self.count, self.by_class = [], 0, collections.Counter()

    def compute_forward(self, batch, stage):
        return super().compute_forward(batch.inputs.data, stage)

    def compute_objectives(self, predictions, batch, stage):
        targets = labels(batch.inputs.data)
        if stage == TRAIN:
            self.count_trials(batch.id, predictions, targets)
        return cross_entropy(predictions, targets)

    def count_trials(self, ids, predictions, targets):
        found, expected = (
            [str(c.item()) for c in classes]
            for classes in (predictions.argmax(1), targets)
        )
        self.classes.append(ids, found, expected)
        self.losses.append(ids, predictions, targets, reduction="none")
        self.seen += ids
        self.count += len(ids)
        self.by_class.update(expected)

    def counts(self):
        """How often each of its metrics has counted a trial."""
        return {
            len(self.classes.ids),
            len(self.losses.ids),
            len(self.losses.scores),
            len(self.seen),
            self.count,
            self.by_class.total(),
        }


class Normalizing(Classifier):
    """Normalizes its inputs by an object that is no module of its own."""

    @classmethod
    def settings(cls, folder):
        return {"normalize": InputNormalization(update_until_epoch=100)}

    def compute_forward(self, batch, stage):
        lengths = torch.ones(len(batch))
        return super().compute_forward(
            self.hparams.normalize(batch, lengths), stage
        )


class Masking(Classifier):
    """Hides tokens and features, and changes the loudness, by generators and
    an iterator that hang on hparams."""

    @staticmethod
    def sources():
        return {
            "tokens": torch.Generator().manual_seed(1),
            "features": np.random.default_rng(2),
            "loudness": random.Random(3),
            "rates": itertools.cycle([0.9, 1.0, 1.1]),
        }

    @classmethod
    def settings(cls, folder):
        return {"sources": types.SimpleNamespace(**cls.sources())}

    def compute_forward(self, batch, stage):
        if stage == TRAIN:
            batch = self.augment(batch, self.hparams.sources)
        return super().compute_forward(batch, stage)

    @staticmethod
    def augment(batch, sources):
        kept = torch.ones_like(batch)
        kept[:, torch.randint(5, (1,), generator=sources.tokens)] = 0
        kept[:, :, sources.features.integers(4)] = 0
        loudness = sources.loudness.uniform(0.9, 1.1) * next(sources.rates)
        return batch * kept * loudness


class OwnMasking(Masking):
    """The same with attributes that the Brain makes for itself."""

    settings = Classifier.settings

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, source in self.sources().items():
            setattr(self, name, source)

    def compute_forward(self, batch, stage):
        if stage == TRAIN:
            batch = self.augment(batch, self)
        return Classifier.compute_forward(self, batch, stage)


class HiddenState(Classifier):
    """A function among its hparams keeps a generator to itself."""

    @classmethod
    def settings(cls, folder):
        generator = torch.Generator().manual_seed(1)

        def shake(batch):
            noise = torch.randn(batch.shape, generator=generator)
            return batch + 0.1 * noise

        return {"shake": shake}

    def compute_forward(self, batch, stage):
        if stage == TRAIN:
            batch = self.hparams.shake(batch)
        return super().compute_forward(batch, stage)


class OwnHooks(Classifier):
    """Has every hook, and calls no other one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hooks = collections.Counter()

    def on_stage_start(self, stage, epoch=None):
        self.hooks["stage_start"] += 1

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.hooks["stage_end"] += 1

    def on_fit_batch_start(self, batch, should_step):
        self.hooks["batch_start"] += 1

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        self.hooks["batch_end"] += 1


class Scheduled(Classifier):
    """Halves a rate after the first epoch and warms the other one up."""

    @classmethod
    def settings(cls, folder):
        return {
            "newbob": NewBobScheduler(0.2, improvement_threshold=2.0),
            "noam": NoamScheduler(0.2, n_warmup_steps=2),
        }

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if getattr(self, "upper_optimizer", None) is not None:
            self.hparams.noam(self.upper_optimizer)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == TRAIN:
            _, rate = self.hparams.newbob(stage_loss)
            update_learning_rate(self.optimizer, rate)


class Following(Classifier):
    """A teacher follows the body in each forward pass."""

    @classmethod
    def network(cls):
        modules = super().network()
        teacher = copy.deepcopy(modules["body"]).requires_grad_(False)
        return {**modules, "teacher": teacher}

    def compute_forward(self, batch, stage):
        if stage == TRAIN:
            self.follow()
        hidden = self.modules.encoder(batch)
        taught = self.modules.teacher(hidden)
        return self.modules.head((self.modules.body(hidden) + taught).mean(1))

    def follow(self):
        body, teacher = self.modules.body, self.modules.teacher
        for of_body, other in zip(body.parameters(), teacher.parameters()):
            other.data = 0.5 * other.data + 0.5 * of_body.data


def decaying(parameters):
    return torch.optim.SGD(parameters, lr=0.2, weight_decay=0.01)


class DecayingMatrices(Classifier):
    """Vectors have no weight decay."""

    opt_class = upper_opt_class = staticmethod(decaying)
    run_opts = (("remove_vector_weight_decay", True),)


#: All of them by name.
BRAINS = {
    "recurrent": Recurrent,
    "transformer": Transformer,
    "attention": Attention,
    "convolution": Convolution,
    "CTC": Ctc,
    "transducer": Transducer,
    "lattice": Lattice,
    "own function": OwnFunction,
    "GAN": Gan,
    "two-level GAN": TwoLevelGan,
    "two optimizers": TwoOptimizers,
    "frozen head": FrozenHead,
    "tied weights": TiedWeights,
    "own step": OwnStep,
    "freezing": Freezing,
    "noisy": Noisy,
    "counting": Counting,
    "normalizing": Normalizing,
    "masking": Masking,
    "own masking": OwnMasking,
    "hidden state": HiddenState,
    "own hooks": OwnHooks,
    "scheduled": Scheduled,
    "decaying": DecayingMatrices,
}


@functools.cache
def bilevel(cls):
    """The class of a Brain with a second level."""
    if issubclass(cls, BilevelMixin):
        return cls
    return type(f"TwoLevel{cls.__name__}", (BilevelMixin, cls), {})


def make(
    cls, strategy=None, folder=None, hparams=(), checkpointer=None, **run_opts
):
    """A Brain with fixed initial weights; without the mixin, too."""
    torch.manual_seed(0)
    return cls(
        modules=cls.network(),
        opt_class=cls.opt_class,
        hparams={
            "hypergradient": strategy,
            "upper": list(cls.upper),
            "upper_opt_class": cls.upper_opt_class,
            **cls.settings(folder),
            **dict(hparams),
        },
        run_opts={
            "device": "cpu",
            "noprogressbar": True,
            **dict(cls.run_opts),
            **run_opts,
        },
        checkpointer=checkpointer,
    )
