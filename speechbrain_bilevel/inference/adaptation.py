"""Adapt a detector to a few labelled recordings of one's own.

What is trained, and for how long, is chosen by cross-validation over
recordings; where no choice is better than the detector as it is, nothing is
changed.
"""

import copy
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import softplus
from torch.nn.utils import parametrize
from tqdm import tqdm

from speechbrain_bilevel.dataio import BONAFIDE, NO_ATTACK, SAMPLE_RATE, SPOOF
from speechbrain_bilevel.dataio.audio import fit_length, hear
from speechbrain_bilevel.evaluation.bootstrap import default_resampling
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.format import format_estimate
from speechbrain_bilevel.evaluation.score_files import split_classes
from speechbrain_bilevel.inference.config import EXPECTED, naming
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.export import combined, model_card
from speechbrain_bilevel.inference.hub import fetch_files
from speechbrain_bilevel.inference.pretrained import (
    check_folder,
    load,
    write_folder,
)
from speechbrain_bilevel.metrics.asvspoof5 import bits
from speechbrain_bilevel.metrics.calibration import learn_fusion
from speechbrain_bilevel.metrics.detection_score import detection_score
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.nnet.normalization import UnbiasedLayerNorm
from speechbrain_bilevel.utils.errors import InputError, listed
from speechbrain_bilevel.utils.precision import without_tf32

#: What of a network can be trained: all behind its front end; its normalization
#: and classifier; its normalization and a change of low rank (LoRA) of all
#: weights; everything.
METHODS = "back_end", "normalization", "lora", "all"
_WORDS = {
    "back_end": "all layers behind its front end",
    "normalization": "its normalization and classifier",
    "lora": "its normalization and a change of low rank of all weights",
    "all": "all of its parameters",
}
#: Numbers of steps to choose from.
STEPS = 10, 30, 60, 120
#: Clips of a step, half of them bona fide.
BATCH_SIZE = 32
#: Recordings of each class that cross-validation needs.
MIN_RECORDINGS = 2

_MAX_FOLDS = 4
_RATES = {"back_end": 1e-3, "normalization": 3e-3, "lora": 1e-3, "all": 1e-3}
_WARMUP = 5
_RANK = 4
# Crops of each clip, of whose features the back end is trained, and the bytes
# of all of them.
_CROPS, _MAX_FEATURES = 4, 1 << 30
# What the passes of a step may keep for their gradients, in bytes.
_MAX_KEPT = 2 << 30
# All audio that is held in memory, in samples: 1 GB.
_MAX_SAMPLES = 1 << 28
# Clips that are scored at once.
_SCORED = 16
# Faults to show.
_SHOWN = 5
# How sure a gain must be, in standard errors.
_SURE = 1.0
_NORMS = (
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    UnbiasedLayerNorm,
)


class NoGainError(InputError):
    """Cross-validation found nothing that is better than the detector."""


@dataclass(frozen=True)
class Adaptation:
    """What was learned from a few recordings.

    Arguments
    ---------
    network : torch.nn.Module
        In evaluation mode.
    calibration : dict of str to float
        Learned from ``after``; see ``recordings.Decision``.
    method : str
        Of ``METHODS``.
    steps : int
        Of ``BATCH_SIZE`` clips each.
    before, after : numpy.ndarray
        [trials], scores without calibration: of the detector, and of those that
        cross-validation trained without the trial's recording.
    costs : dict of (str, int) to float
        Cllr in bits in cross-validation, by method and steps; ("", 0) is the
        detector's own.
    recordings : array_like
        [trials], what cross-validation kept together.
    folds : int
    not_tried : list of str
        Methods for which there was no time.
    """

    network: torch.nn.Module
    calibration: dict
    method: str
    steps: int
    before: np.ndarray
    after: np.ndarray
    costs: dict
    recordings: object
    folds: int
    not_tried: list


def adapt(
    network,
    trials,
    score,
    recordings=None,
    methods=METHODS,
    minutes=5.0,
    seed=0,
    progress=True,
):
    """Train a copy of a network on labelled recordings, if that helps.

    Arguments
    ---------
    network : torch.nn.Module
        One of ``lobes``.
    trials : pandas.DataFrame
        See ``dataio.protocols``, with paths that can be opened.
    score : str
        See ``metrics.detection_score``.
    recordings : array_like, optional
        The recording that each trial is from, [trials]; cross-validation keeps
        its trials together. By default each is its own, unless two sound the
        same.
    methods : list of str
        What to choose from.
    minutes : float
        About how long this may take; methods and numbers of steps that take
        longer are not tried.
    seed : int
    progress : bool
        Whether to show a progress bar, on a terminal.

    Returns
    -------
    Adaptation

    Raises
    ------
    NoGainError
        If cross-validation shows none.
    InputError
        If a label is unknown, a class has too few recordings, a file cannot be
        used, or there are too many.
    """
    is_bonafide = (trials.label == BONAFIDE).to_numpy()
    known = is_bonafide | (trials.label == SPOOF).to_numpy()
    if not known.all():
        names = trials.utt[~known].tolist()
        raise InputError(f"labels are unknown: {listed(names)}; all are needed")
    for method in methods:
        if method not in METHODS:
            expected = ", ".join(METHODS)
            raise InputError(f"methods: {method}; expected some of {expected}")
    # Not every network has normalization, or layers to change.
    with torch.random.fork_rng(devices=[]):
        methods = [m for m in methods if _trained(copy.deepcopy(network), m)]
    if not methods:
        raise InputError("methods: the network has nothing that they train")
    learner = Learner(network, score, is_bonafide, seed)
    learner.read(trials.path, progress)
    if recordings is None:
        recordings = [sha256(c.tobytes()).hexdigest() for c in learner.clips]
    folds = divide(is_bonafide, recordings, seed)
    every = np.arange(len(trials))
    before = learner.scores(network, every)
    costs, held_out, not_tried = {}, {}, []
    end = time.monotonic() + 60 * minutes
    hidden = None if progress else True
    for left, method in zip(range(len(methods), 0, -1), methods):
        if method == "back_end":
            learner.extract()
        seconds = (end - time.monotonic()) / left / (len(folds) + 1)
        checkpoints = learner.affordable(method, every, seconds)
        if not checkpoints:
            not_tried.append(method)
            continue
        found = {steps: np.empty(len(trials)) for steps in checkpoints}
        for fold in tqdm(folds, method, unit="fold", disable=hidden):
            kept = np.setdiff1d(every, fold)
            for steps, adapted in learner.train(method, kept, checkpoints):
                found[steps][fold] = learner.scores(adapted, fold)
        for steps, scores in found.items():
            held_out[method, steps] = scores
            costs[method, steps] = losses(scores, is_bonafide)
    if not held_out:
        raise InputError(
            f"minutes: {minutes:g} are too few for this network; allow for more"
        )
    sums = {choice: float(each.sum()) for choice, each in costs.items()}
    choice = min(held_out, key=sums.get)
    own = losses(before, is_bonafide)
    sums["", 0] = float(own.sum())
    _, codes = np.unique(recordings, return_inverse=True)
    gains = np.bincount(codes, own - costs[choice])
    error = np.sqrt(len(gains)) * gains.std(ddof=1)
    if not gains.sum() > _SURE * error:
        raise NoGainError(
            f"no gain: in cross-validation over {len(gains)} recordings, the "
            f"best adapted detector has a Cllr of {sums[choice]:.3f} bits, the "
            f"one as it is {sums['', 0]:.3f}, which is not better than by "
            f"{error:.3f}, the standard error. Nothing was changed; add "
            f"recordings{_no_time(not_tried)}"
        )
    method, steps = choice
    ((_, adapted),) = learner.train(method, every, [steps])
    after = held_out[choice]
    fusion = learn_fusion(after[:, None], is_bonafide)
    return Adaptation(
        network=adapted,
        calibration=combined(None, fusion),
        method=method,
        steps=steps,
        before=before,
        after=after,
        costs=sums,
        recordings=recordings,
        folds=len(folds),
        not_tried=not_tried,
    )


def adapt_folder(
    source,
    trials,
    folder,
    recordings=None,
    old=None,
    name=None,
    license=None,
    device="cpu",
    **options,
):
    """Write an adapted detector, and its model card, as a pretrained folder.

    Arguments
    ---------
    source : str or Path
        A pretrained folder, or "user/name" of a hub repository.
    trials, recordings, **options
        See ``adapt``.
    folder : str or Path
        The folder to write; see ``pretrained.write_folder``.
    old : pandas.DataFrame, optional
        Trials like those that the source was made for, such as its dev set:
        the card says what was forgotten.
    name, license : str, optional
        For the card; see ``export.export``.
    device : str

    Returns
    -------
    found : Adaptation
    summary : str
        What the card says of it.

    Raises
    ------
    InputError
        See ``adapt``; or if the source cannot be used.
    """
    check_folder(folder)
    with naming(source, EXPECTED):
        config, network = load(*fetch_files(source))
    found = adapt(
        network.to(device), trials, config.score, recordings, **options
    )
    summary = describe(found, trials)
    if old is None:
        summary += " What it forgot was not measured."
    else:
        show = options.get("progress", True)
        rates = [
            _error_rate(each, config.score, old, show)
            for each in (network, found.network)
        ]
        summary += (
            f" On {len(old)} trials of what it was made for, the EER went from "
            f"{rates[0]:.2f} % to {rates[1]:.2f} %."
        )
    config = replace(
        config,
        calibration=found.calibration,
        onnx=None,
        training=dict(config.training, adaptation=summary),
    )
    card = model_card(
        name or Path(folder).name,
        config,
        license,
        f"what cross-validation held out of {len(trials)} trials",
    )
    write_folder(folder, config, found.network.cpu().state_dict(), card)
    return found, summary


def describe(found, trials):
    """Say in words what an ``Adaptation`` has learned, and from what."""
    table = trials[["label"]].reset_index(drop=True)
    table["utt"] = table.index.astype(str)
    # Attacks do not matter here, and there may be many.
    table["attack"] = np.where(table.label == SPOOF, SPOOF, NO_ATTACK)
    # Recordings are resampled as speakers are.
    table["speaker"] = np.asarray(found.recordings).astype(str)
    tables = [table.assign(score=s) for s in (found.before, found.after)]
    report = evaluate(
        tables, None, default_resampling(tables), names=["before", "after"]
    )
    before, after = (
        format_estimate("eer", each.metrics["eer"])
        for each in report.evaluations
    )
    n_bonafide = int((trials.label == BONAFIDE).sum())
    costs = found.costs["", 0], found.costs[found.method, found.steps]
    return (
        f"Adapted to {len(trials)} trials ({n_bonafide} bona fide, "
        f"{len(trials) - n_bonafide} spoofed) of {table.speaker.nunique()} "
        f"recordings: {_WORDS[found.method]}, {found.steps} steps of "
        f"{BATCH_SIZE} clips. In {found.folds}-fold cross-validation over "
        f"recordings, the EER went from {before} % to {after} %, Cllr from "
        f"{costs[0]:.3f} to {costs[1]:.3f} bits; method and steps were chosen "
        "by these, so elsewhere it is somewhat worse. This holds for other "
        f"recordings of the same sources only{_no_time(found.not_tried)}."
    )


def _no_time(methods):
    return f"; there was no time to try {', '.join(methods)}" if methods else ""


def _refuse_faults(faults, count):
    """Raise an ``InputError`` if some of ``count`` files have faults."""
    if faults:
        raise InputError(
            f"{len(faults)} of {count} files cannot be used; take them out of "
            f"the list, or mend them: {'; '.join(faults[:_SHOWN])}"
        )


def _error_rate(network, score, trials, progress):
    """Return the EER of a network in percent."""
    detector = SpoofDetector(
        {"network": network},
        {"num_samples": network.num_samples, "score": score},
    )
    verdicts = detector.classify_files(
        trials.path.tolist(), _SCORED, progress=progress
    )
    faults = [each.error for each in verdicts if each.error is not None]
    _refuse_faults(faults, len(trials))
    table = trials.assign(score=[each.score for each in verdicts])
    return 100 * eer(*split_classes(table))[0]


def divide(is_bonafide, recordings, seed=0):
    """Divide trials into folds that share no recording; both classes in each.

    Arguments
    ---------
    is_bonafide : array_like of bool
        [trials]
    recordings : array_like
        [trials]
    seed : int

    Returns
    -------
    list of numpy.ndarray
        Indices of the trials of each fold, 2 to 4.

    Raises
    ------
    InputError
        If a class has fewer than ``MIN_RECORDINGS``.

    Example
    -------
    >>> divide([True, True, False, False], ["a", "a", "b", "c"])
    Traceback (most recent call last):
    ...
    speechbrain_bilevel.utils.errors.InputError: 1 bona fide and 2 spoofed ...
    >>> folds = divide([True, True, False, False], ["a", "d", "b", "c"])
    >>> sorted(map(len, folds))
    [2, 2]
    """
    is_bonafide = np.asarray(is_bonafide)
    _, codes = np.unique(np.asarray(recordings), return_inverse=True)
    # [recordings, classes]
    counts = np.stack([np.bincount(codes, is_bonafide == k) for k in (1, 0)], 1)
    having = (counts > 0).sum(axis=0)
    if having.min() < MIN_RECORDINGS:
        raise InputError(
            f"{having[0]} bona fide and {having[1]} spoofed recordings; "
            f"expected {MIN_RECORDINGS} of each or more, better 16"
        )
    folds = min(_MAX_FOLDS, having.min())
    order = np.random.default_rng(seed).permutation(len(counts))
    # The largest first, each where its classes are rarest.
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    filled, fold_of = np.zeros((folds, 2)), np.empty(len(counts), int)
    for recording in order:
        share = counts[recording] / counts.sum(axis=0)
        place = np.argmin(filled @ share + 1e-6 * filled.sum(axis=1))
        fold_of[recording] = place
        filled[place] += share
    found = [np.flatnonzero(fold_of[codes] == fold) for fold in range(folds)]
    return [fold for fold in found if len(fold)]


def losses(scores, is_bonafide):
    """Return the share of each trial in Cllr, in bits, after calibration.

    Cllr is 0 if scores separate the classes and 1 if they say nothing; scores
    that calibration would have to turn around say nothing.

    Example
    -------
    >>> found = losses([2.0, 0.5, 1.0, -3.0], [True, True, False, False])
    >>> round(float(found.sum()), 1)
    0.8
    """
    is_bonafide = np.asarray(is_bonafide)
    shares = 0.5 / np.where(
        is_bonafide, is_bonafide.sum(), (~is_bonafide).sum()
    )
    try:
        scores = np.asarray(scores)[:, None]
        llr = learn_fusion(scores, is_bonafide)(scores)
    except InputError:
        return shares
    signed = np.where(is_bonafide, llr, -llr)
    return shares * bits(-signed)


class _LowRank(torch.nn.Module):
    """Adds a matrix of low rank to a weight."""

    def __init__(self, weight):
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.up = torch.nn.Parameter(weight.new_zeros(rows, _RANK))
        down = torch.randn(_RANK, columns) / columns**0.5
        self.down = torch.nn.Parameter(down.to(weight))

    def forward(self, weight):
        return weight + (self.up @ self.down).view_as(weight)


class Learner:
    """Trains copies of a network on some of the clips, and scores others."""

    def __init__(self, network, score, is_bonafide, seed):
        self.network, self.score, self.seed = network, score, seed
        self.is_bonafide = is_bonafide
        self.size = network.num_samples
        self.device = next(network.parameters()).device
        self.features = None

    def read(self, paths, progress):
        """Read the beginning of each file, twice what the network sees."""
        self.clips, faults, total = [], [], 0
        hidden = None if progress else True
        for path in tqdm(paths, "Reading", unit="file", disable=hidden):
            try:
                self.clips.append(hear(path, 2 * self.size).wav)
                total += len(self.clips[-1])
            except InputError as error:
                faults.append(str(error))
            if total > _MAX_SAMPLES:
                hours = _MAX_SAMPLES // SAMPLE_RATE // 3600
                raise InputError(
                    f"{len(paths)} files are more than the {hours} hours that "
                    "fit into memory; train with the recipe, or list fewer"
                )
        _refuse_faults(faults, len(paths))

    @torch.no_grad()
    @without_tf32()
    def extract(self):
        """Compute the features of some crops, for the method "back_end"."""
        random, found, count = np.random.default_rng(self.seed), [], _CROPS
        for i in range(len(self.clips)):
            wavs = self._cropped([i] * count, random)
            found.append(self.network.extract_features(wavs))
            if i == 0:
                size = len(self.clips) * found[0][0].nbytes
                count = max(1, min(count, _MAX_FEATURES // size))
                found[0] = found[0][:count]
        self.features = torch.stack(found)

    @torch.no_grad()
    @without_tf32()
    def scores(self, network, which):
        """Return scores of clips as the detector hears them, an array."""
        found = []
        for start in range(0, len(which), _SCORED):
            wavs = [
                fit_length(self.clips[i][: self.size], self.size)
                for i in which[start : start + _SCORED]
            ]
            wavs = torch.from_numpy(np.stack(wavs)).to(self.device)
            found.append(detection_score(network(wavs), self.score).cpu())
        return torch.cat(found).double().numpy()

    def train(self, method, kept, checkpoints):
        """Yield (steps, network in evaluation mode) for each of checkpoints.

        "back_end" needs ``extract`` first.
        """
        rng = np.random.default_rng([self.seed, len(kept)])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            network = copy.deepcopy(self.network)
            parameters = _trained(network, method)
            optimizer = torch.optim.Adam(parameters, lr=_RATES[method])
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min(1.0, (step + 1) / _WARMUP)
            )
            size = self._part_size(network, method)
            for step in range(1, checkpoints[-1] + 1):
                _training_mode(network)
                which = self._draw(kept, rng)
                for part in np.array_split(which, -(-BATCH_SIZE // size)):
                    loss = self._loss(network, method, part, rng)
                    (loss * len(part) / BATCH_SIZE).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                if step in checkpoints:
                    yield step, _merged(network, self.network)

    def _loss(self, network, method, which, rng):
        """Return the mean logistic loss of crops of some clips."""
        if method == "back_end":
            crops = rng.integers(self.features.shape[1], size=len(which))
            features = self.features[which, crops]
            logits = network.classifier(network.readout(features))
        else:
            logits = network(self._cropped(which, rng))
        kind = self.score.replace("softmax", "logit_difference")
        score = detection_score(logits, kind)
        sign = torch.from_numpy(2.0 * self.is_bonafide[which] - 1)
        return softplus(-sign.to(score) * score).mean()

    def _part_size(self, network, method):
        """Return how many clips may be passed at once, for their memory.

        Norms are as in use, so gradients of parts add up to those of the whole.
        """
        kept = [1]

        def count(tensor):
            kept.append(tensor.nbytes)
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks
        with hooks(count, lambda tensor: tensor):
            self._loss(network, method, [0], np.random.default_rng(0))
        return min(BATCH_SIZE, max(1, _MAX_KEPT // sum(kept)))

    def affordable(self, method, kept, seconds):
        """Return those of ``STEPS`` that can be made in so many seconds."""
        # The first step is slower.
        start = time.monotonic()
        list(self.train(method, kept, [1]))
        first = time.monotonic() - start
        if first > seconds:
            return []
        list(self.train(method, kept, [2]))
        of_one = (time.monotonic() - start - first) / 2
        return [steps for steps in STEPS if steps * of_one <= seconds]

    def _draw(self, kept, rng):
        """Return indices of ``BATCH_SIZE`` clips, half of each class."""
        found = []
        for of_class in (True, False):
            pool = kept[self.is_bonafide[kept] == of_class]
            found.append(np.resize(rng.permutation(pool), BATCH_SIZE // 2))
        return np.concatenate(found)

    def _cropped(self, which, rng):
        wavs = []
        for i in which:
            wav = self.clips[i]
            start = rng.integers(max(1, len(wav) - self.size + 1))
            wavs.append(fit_length(wav[start:][: self.size], self.size))
        return torch.from_numpy(np.stack(wavs)).to(self.device)


def _trained(network, method):
    """Make the parameters of a method the only trained ones; return them."""
    network.requires_grad_(method == "all")
    if method == "lora":
        layers = torch.nn.Linear, torch.nn.modules.conv._ConvNd
        for module in list(network.modules()):
            # Not those whose weight is computed, as by weight_norm.
            weight = module._parameters.get("weight")
            if isinstance(module, layers) and weight is not None:
                change = _LowRank(weight)
                parametrize.register_parametrization(module, "weight", change)
    if method in ("normalization", "lora"):
        for module in network.modules():
            if isinstance(module, _NORMS):
                module.requires_grad_(True)
    if method == "normalization":
        network.classifier.requires_grad_(True)
    if method == "back_end":
        _release_back_end(network)
    return [p for p in network.parameters() if p.requires_grad]


def _release_back_end(network):
    """Make the parameters trained that act behind ``extract_features``."""
    # In evaluation mode, cuDNN's recurrent layers have no gradients.
    _training_mode(network.requires_grad_(True))
    with torch.no_grad():
        wavs = next(network.parameters()).new_zeros(2, network.num_samples)
        features = network.extract_features(wavs)
    loss = network.classifier(network.readout(features)).sum()
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found):
        parameter.requires_grad_(gradient is not None)


def _training_mode(network):
    """Drop out as in training, normalize as in use."""
    network.train()
    for module in network.modules():
        if isinstance(module, _NORMS):
            module.eval()


@torch.no_grad()
def _merged(network, like):
    """Return a copy of ``like`` with a network's weights, for evaluation.

    A weight is what the network uses, with any change of low rank.
    """
    copied = copy.deepcopy(like).eval().requires_grad_(False)
    for name, tensor in copied.state_dict().items():
        owner, _, attribute = name.rpartition(".")
        tensor.copy_(getattr(network.get_submodule(owner), attribute))
    return copied
