"""A toy task for ``hyper_cleaning.py`` and a Brain for it: eight keywords, each
a melody of four tones in noise. All of it is synthetic."""

from itertools import permutations

import speechbrain as sb
import torch
from torch import nn

KEYWORDS = 8
TRAIN, CLEAN = range(800), range(800, 880)
TONES = torch.tensor(list(permutations([0.0, 0.4, 0.8, 1.2]))[::3])  # octaves


def draw_keywords(count):
    """Log-mel spectrograms [count, 40, frames] of half a second each, and the
    keywords [count]; onset and pitch vary from trial to trial."""
    words = torch.randint(KEYWORDS, (count,))
    onset, pitch = torch.rand(2, count, 1)
    place = (torch.arange(4000) / 800 - 0.25 - onset).clamp(0, 2.999)
    tones, last = TONES[words], place.long()
    tone = tones.gather(1, last).lerp(tones.gather(1, last + 1), place % 1)
    phase = (2 ** (tone + pitch / 4)).cumsum(1) * 0.1 * torch.pi  # from 400 Hz
    waves = phase.sin() * (place > 0) * (place < 2.999)
    waves += 0.25 * torch.randn(waves.shape)
    mels = sb.lobes.features.Fbank(sample_rate=8000, n_fft=256)(waves).mT
    return nn.functional.layer_norm(mels, mels.shape[1:]), words


class NoisyKeywords(torch.utils.data.Dataset):
    """800 trials with every second label wrong, 80 with right ones; and 1000 to
    test with."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        mels, words = draw_keywords(len(TRAIN) + len(CLEAN))
        self.clean = mels[CLEAN.start :], words[CLEAN.start :]
        self.test = draw_keywords(1000)
        self.wrong = torch.rand(len(TRAIN)) < 0.5
        shift = torch.randint(1, KEYWORDS, (len(TRAIN),))
        words[: len(TRAIN)] += self.wrong * shift
        self.mels, self.words = mels, words % KEYWORDS

    def __len__(self):
        return len(self.words)

    def __getitem__(self, i):
        return {"trial": i, "mels": self.mels[i], "word": int(self.words[i])}


def network():
    """[batch, 40, frames] -> logits [batch, 8]."""
    return nn.Sequential(
        nn.Conv1d(40, 32, 5, 2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, 2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, KEYWORDS),
    )


class KeywordBrain(sb.Brain):
    """Anyone's Brain: knows nothing of levels. After each epoch it notes its
    accuracy on the clean trials and on those to test with."""

    def compute_forward(self, batch, stage):
        """Spectrograms -> logits."""
        return self.modules.network(batch.mels.data)

    def compute_objectives(self, predictions, batch, stage):
        """Cross entropy."""
        return nn.functional.cross_entropy(predictions, batch.word)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Notes the accuracies."""
        super().on_stage_end(stage, stage_loss, epoch)
        task = self.hparams.task
        self.hparams.accuracies.append(
            [self.accuracy(*task.clean), self.accuracy(*task.test)]
        )

    @torch.no_grad()
    def accuracy(self, mels, words):
        """Share of the trials that the network knows."""
        found = self.modules.network(mels).argmax(dim=1)
        return (found == words).float().mean().item()


def f1(found, true):
    """F1 of one set of trials, both as masks."""
    return 2 * (found & true).sum().item() / (found.sum() + true.sum()).item()
