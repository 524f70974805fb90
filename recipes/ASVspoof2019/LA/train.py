#!/usr/bin/env python3
"""Trains a spoofing countermeasure on ASVspoof2019 LA, plainly or bi-level.

> python train.py hparams/train_v2_bilevel.yaml --data_folder /path/to/LA

With `hypergradient: null` in the YAML the training is plain. Otherwise part of
the network learns on attacks that the rest has not seen. The epoch with the
lowest EER on dev scores dev and eval, and is exported, calibrated on dev.
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from asvspoof2019_prepare import prepare_asvspoof2019
from speechbrain.dataio.sampler import ReproducibleWeightedRandomSampler
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_bilevel import BilevelMixin, SpoofDetector
from speechbrain_bilevel.augment.copy_synthesis import copy_synthesis
from speechbrain_bilevel.dataio import BONAFIDE, LABELS, sampling
from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.dataio.prepare import join_paths
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.evaluation.format import format_report
from speechbrain_bilevel.evaluation.score_files import read_asv_scores
from speechbrain_bilevel.inference.config import DetectorConfig
from speechbrain_bilevel.inference.export import export
from speechbrain_bilevel.inference.scoring import score_trials
from speechbrain_bilevel.metrics.detection_score import detection_score
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import asv_rates, min_tdcf
from speechbrain_bilevel.utils.distributed import closing_process_group, rank
from speechbrain_bilevel.utils.errors import InputError, exit_on_input_error
from speechbrain_bilevel.utils.files import write_atomically
from speechbrain_bilevel.utils.hparams import load_hparams, parse_arguments
from speechbrain_bilevel.utils.seed import seed_step


class SpoofBrain(BilevelMixin, sb.Brain):
    """Trains and validates a countermeasure."""

    def compute_forward(self, batch, stage):
        """Waveforms -> logits, [batch, 2]."""
        batch = batch.to(self.device, non_blocking=True)
        waveforms, lengths = batch.sig
        if stage == sb.Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            waveforms, _ = self.hparams.wav_augment(waveforms, lengths)
        if self.level == "lower" and "noise" in self.modules:
            waveforms = self.modules.noise(waveforms)
        return self.modules.network(waveforms)

    def compute_objectives(self, predictions, batch, stage, weights=None):
        """The loss; dev's scores are kept on the way."""
        labels = self.targets(batch.label_encoded, stage)
        if stage == sb.Stage.VALID:
            scores = detection_score(predictions, self.hparams.score)
            self.dev_scores.append((scores.cpu(), labels.cpu()))
        return self.hparams.loss(predictions, labels, weights)

    def lower_objectives(self, predictions, batch, stage):
        """The loss, each attack with its learned weight where there are any."""
        weights = None
        if "attack_weights" in self.modules:
            attacks = self.targets(batch.attack_encoded, stage)
            weights = self.modules.attack_weights(attacks)
        return self.compute_objectives(predictions, batch, stage, weights)

    def targets(self, encoded, stage):
        """[batch, 1] -> [batch], repeated for the copies by augmentation."""
        numbers = encoded.data[:, 0]
        if stage == sb.Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            numbers = self.hparams.wav_augment.replicate_labels(numbers)
        return numbers

    def on_fit_start(self):
        """Read the ASV scores of dev, before an epoch is spent in vain."""
        super().on_fit_start()
        self.dev_scores, self.dev_asv_rates = [], None
        path = self.hparams.asv_scores["dev"]
        if Path(path).is_file():
            asv = read_asv_scores(path)
            self.dev_asv_rates = asv_rates(asv.target, asv.nontarget, asv.spoof)

    def on_fit_batch_start(self, batch, should_step):
        """Plain training, too, resumes to the bit."""
        super().on_fit_batch_start(batch, should_step)
        seed_step(rank(), self.optimizer_step, self.step)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the epoch and keep the checkpoint with the lowest dev EER."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.level_stats()}
        elif stage == sb.Stage.VALID:
            stats = {"loss": stage_loss, **self.dev_metrics()}
            logger = self.hparams.train_logger
            logger.log_stats({"epoch": epoch}, self.train_stats, stats)
            self.checkpointer.save_and_keep_only(meta=stats, min_keys=["EER"])

    def dev_metrics(self):
        """EER in percent and, where dev has ASV scores, min t-DCF."""
        scores, labels = map(torch.cat, zip(*self.dev_scores))
        self.dev_scores = []
        is_bonafide = labels == LABELS.index(BONAFIDE)
        bonafide, spoof = scores[is_bonafide], scores[~is_bonafide]
        if len(bonafide) == 0 or len(spoof) == 0:
            # --debug validates too few trials for an error rate.
            return {"EER": float("nan")}
        metrics = {"EER": 100 * eer(bonafide, spoof)[0]}
        if (rates := self.dev_asv_rates) is not None:
            metrics["min_tDCF"] = min_tdcf(bonafide, spoof, rates)[0]
        return metrics


def dataio_prep(hparams):
    """The training and dev sets, and the training loader's arguments."""
    manifests = Path(hparams["manifest_folder"])
    csvs = {name: manifests / f"{name}.csv" for name in ("train", "dev")}
    if vocoders := hparams.get("copy_synthesis"):
        folders = hparams["data_folder"], hparams["copies_folder"]
        options = csvs["train"], *folders, vocoders, hparams["copies_per_clip"]
        csvs["train"] = Path(hparams["output_folder"], "train_with_copies.csv")
        run_on_main(copy_synthesis, (*options, csvs["train"]))
    attacks = read_protocol(csvs["train"]).attack
    names, weights = sorted(attacks.unique()), hparams.get("attack_weights")
    if weights is not None and len(weights.logits) != len(names):
        raise InputError(
            f"attack_weights: size {len(weights.logits)}, but training has "
            f"{len(names)} attacks, bona fide included: {', '.join(names)}"
        )

    # 1. The labels, 0 is spoof and 1 is bona fide, and the attacks.
    @sb.utils.data_pipeline.takes("label", "attack")
    @sb.utils.data_pipeline.provides("label_encoded", "attack_encoded")
    def label_pipeline(label, attack):
        yield torch.tensor([LABELS.index(label)])
        yield torch.tensor([names.index(attack)])

    # 2. The sets, with what the network sees, or what augmentation may crop.
    sets, keys = {}, ["id", "sig", "label_encoded", "attack_encoded"]
    for name, key in (("train", "train_samples"), ("dev", "num_samples")):
        sets[name] = sb.dataio.dataset.DynamicItemDataset.from_csv(
            csvs[name], {"data_root": hparams["data_folder"]}, [label_pipeline]
        )
        sets[name].add_dynamic_item(
            lambda wav, n=hparams[key]: fit_length(read_audio(wav, n), n),
            takes="wav",
            provides="sig",
        )
        sets[name].set_output_keys(keys if name == "train" else keys[:3])

    # 3. The training batches: plain ones, or pairs for the two levels.
    seed, balanced = hparams["seed"], hparams["class_balanced"]
    weights = sampling.class_weights(attacks) if balanced else None
    loader_kwargs = {"num_workers": hparams["num_workers"]}
    if hparams["hypergradient"] is not None:
        sizes = hparams["batch_size"], hparams["upper_batch_size"]
        split = hparams["num_folds"], seed, hparams["leaky_folds"]
        folds = sampling.group_folds(attacks, *split)
        loader_kwargs["collate_fn"] = PairedBatch(sizes[0])
        loader_kwargs["batch_sampler"] = sampling.PairedBatchSampler(
            folds, *sizes, seed, hparams["epoch_ends"], weights
        )
        return sets, loader_kwargs
    sampling.check_batch_size("batch_size", hparams["batch_size"], len(attacks))
    loader_kwargs |= {"batch_size": hparams["batch_size"], "drop_last": True}
    loader_kwargs["shuffle"] = weights is None
    if weights is not None:
        loader_kwargs["sampler"] = ReproducibleWeightedRandomSampler(
            weights, len(weights), replacement=True, seed=seed
        )
    return sets, loader_kwargs


def describe(hparams):
    """The detector as data, for `speechbrain-bilevel export`."""
    strategy = hparams["hypergradient"]
    method = "plain" if strategy is None else type(strategy).__name__
    if vocoders := hparams.get("copy_synthesis"):
        method += f", with copy synthesis by {', '.join(vocoders)}"
    return DetectorConfig.of(
        hparams["network"],
        hparams["score"],
        method=f"Training: {method}.",
        manifest_folder=str(Path(hparams["manifest_folder"]).resolve()),
        asv_scores=str(Path(hparams["asv_scores"]["eval"]).resolve()),
    ).to_json()


def score_and_export(brain, hparams):
    """Score dev and eval with the best epoch; calibrate, report, export."""
    output = Path(hparams["output_folder"])
    brain.on_evaluate_start(min_key="EER")
    detector = SpoofDetector(
        {"network": hparams["network"]},
        {"num_samples": hparams["num_samples"], "score": hparams["score"]},
        {"device": brain.device, "precision": brain.eval_precision},
    )
    for name in ("dev", "eval"):
        trials = read_protocol(Path(hparams["manifest_folder"], f"{name}.csv"))
        score_trials(
            detector,
            join_paths(trials, hparams["data_folder"]),
            output / f"{name}_scores.txt",
            hparams["test_loader_kwargs"]["batch_size"],
            hparams["test_loader_kwargs"]["num_workers"],
            replace=True,
        )
    if if_main_process():
        detector, scores = output / "pretrained", output / "eval_scores.txt"
        _, report = export(output, detector, name=output.name)
        text = format_report(report)
        write_atomically(output, {"eval_report.txt": text + "\n"})
        print(f"{text}\n\nscores    {scores}\ndetector  {detector}")


def main():
    """Prepare, train, score, report and export."""
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    sb.create_experiment_directory(hparams["output_folder"])
    folders = hparams["data_folder"], hparams["manifest_folder"]
    run_on_main(prepare_asvspoof2019, (*folders, hparams["skip_prep"]))
    files = {"config.json": describe(hparams)}
    run_on_main(write_atomically, (hparams["output_folder"], files))
    sets, train_loader_kwargs = dataio_prep(hparams)
    brain = SpoofBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        *sets.values(),
        train_loader_kwargs=train_loader_kwargs,
        valid_loader_kwargs=hparams["test_loader_kwargs"],
    )
    if not brain.debug:
        score_and_export(brain, hparams)


if __name__ == "__main__":
    with exit_on_input_error(), closing_process_group():
        main()
