#!/usr/bin/env python3
"""Trains a spoofing countermeasure on ASVspoof2019 LA, plainly or bi-level.

To run this recipe:
> python train.py hparams/train_v2_bilevel.yaml --data_folder /path/to/LA

With `hypergradient: null` in the YAML the training is plain: one level, all
attacks. Otherwise part of the network learns on attacks that the rest has not
seen. The epoch with the lowest EER on dev is kept, scores dev and eval,
and is written as a folder for `SpoofDetector`, calibrated on dev.
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from asvspoof2019_prepare import prepare_asvspoof2019
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset
from speechbrain.dataio.sampler import ReproducibleWeightedRandomSampler
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    run_on_main,
)

from speechbrain_bilevel.core import BilevelMixin
from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.dataio.batch import PairedBatch
from speechbrain_bilevel.dataio.manifest_dataset import ManifestDataset
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.dataio.sampling import (
    PairedBatchSampler,
    attack_folds,
    class_weights,
)
from speechbrain_bilevel.dataio.views import View
from speechbrain_bilevel.evaluation.bootstrap import usual_resampling
from speechbrain_bilevel.evaluation.evaluate import evaluate
from speechbrain_bilevel.evaluation.score_files import (
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.evaluation.text import format_report
from speechbrain_bilevel.inference.export import export
from speechbrain_bilevel.inference.scoring import ScoreFile
from speechbrain_bilevel.metrics.eer import eer
from speechbrain_bilevel.metrics.tdcf import asv_rates, min_tdcf
from speechbrain_bilevel.utils.distributed import (
    closing_process_group,
    rank,
    world_size,
)
from speechbrain_bilevel.utils.errors import InputError, exit_on_input_error
from speechbrain_bilevel.utils.files import write_atomically


class SpoofBrain(BilevelMixin, sb.Brain):
    """Trains, validates and scores a countermeasure."""

    def make_dataloader(self, dataset, stage, *args, **kwargs):
        """As SpeechBrain's, into memory from which a GPU fetches by itself."""
        kwargs.setdefault("pin_memory", "cuda" in str(self.device))
        return super().make_dataloader(dataset, stage, *args, **kwargs)

    def compute_forward(self, batch, stage):
        """Waveforms -> logits, [batch, 2]."""
        batch = batch.to(self.device, non_blocking=True)
        network = self.modules.network
        if stage == sb.Stage.TEST:
            # Each process scores trials of its own, without DDP's exchange.
            network = getattr(network, "module", network)
        waveforms, lengths = batch.sig
        if stage == sb.Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            waveforms, _ = self.hparams.wav_augment(waveforms, lengths)
        if self.level == "lower" and "noise" in self.modules:
            waveforms = self.modules.noise(waveforms)
        return network(waveforms)

    def compute_objectives(self, predictions, batch, stage):
        """The loss; dev and eval scores are kept on the way."""
        labels = self.targets(batch.label_encoded, stage)
        if stage == sb.Stage.VALID:
            self.dev_scores.append(self.hparams.score(predictions).cpu())
            self.dev_labels.append(labels.cpu())
        elif stage == sb.Stage.TEST:
            scores = self.hparams.score(predictions)
            self.scores.add(batch.id, scores.tolist())
        return self.hparams.loss(predictions, labels)

    def lower_objectives(self, predictions, batch, stage):
        """The loss, each attack with its learned weight where there are any."""
        weights = None
        if "attack_weights" in self.modules:
            attacks = self.targets(batch.attack_encoded, stage)
            weights = self.modules.attack_weights(attacks)
        labels = self.targets(batch.label_encoded, stage)
        return self.hparams.loss(predictions, labels, weights)

    def targets(self, encoded, stage):
        """One number a waveform, of those that augmentation adds too."""
        numbers = encoded.data[:, 0]
        if stage == sb.Stage.TRAIN and hasattr(self.hparams, "wav_augment"):
            numbers = self.hparams.wav_augment.replicate_labels(numbers)
        return numbers

    def on_fit_start(self):
        """Reads the ASV scores of dev, whose faults should show before an
        epoch is spent."""
        super().on_fit_start()
        asv = existing_asv_scores(self.hparams.asv_scores["dev"])
        self.dev_asv_rates = None
        if asv is not None:
            self.dev_asv_rates = asv_rates(asv.target, asv.nontarget, asv.spoof)

    def on_stage_start(self, stage, epoch=None):
        """Forgets the last epoch's dev scores."""
        super().on_stage_start(stage, epoch)
        self.dev_scores, self.dev_labels = [], []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the epoch and keeps the checkpoint with the lowest dev EER."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.level_stats()}
        elif stage == sb.Stage.VALID:
            stats = {"loss": stage_loss, **self.dev_metrics()}
            self.hparams.train_logger.log_stats(
                {"epoch": epoch}, self.train_stats, stats
            )
            self.checkpointer.save_and_keep_only(meta=stats, min_keys=["EER"])

    def dev_metrics(self):
        """EER in percent and, where dev has ASV scores, min t-DCF."""
        scores, labels = map(torch.cat, (self.dev_scores, self.dev_labels))
        bonafide, spoof = scores[labels == 1], scores[labels == 0]
        if len(bonafide) == 0 or len(spoof) == 0:
            # --debug validates too few trials for an error rate.
            return {"EER": float("nan")}
        metrics = {"EER": 100 * eer(bonafide, spoof)[0]}
        if self.dev_asv_rates is not None:
            tdcf, _ = min_tdcf(bonafide, spoof, self.dev_asv_rates)
            metrics["min_tDCF"] = tdcf
        return metrics

    def score(self, test_set, path, loader_kwargs):
        """Scores a set with the best checkpoint; resumes an interrupted run.

        Under --debug only a few trials are scored and nothing is written.

        Returns
        -------
        bool
            Whether this process wrote, or found, the score file.
        """
        if self.debug:
            path = self.checkpointer.checkpoints_dir / path.name
        self.on_evaluate_start(min_key="EER")
        trials = test_set.data.cells("ID", "attack", "label")
        settings = {
            "as_published": self.hparams.as_published,
            "precision": self.eval_precision,
        }
        network = self.hparams.network
        self.scores = ScoreFile(path, trials, network, settings)
        mine = self.scores.missing_positions[rank() :: world_size()]
        ids = View(mine, test_set.data_ids.__getitem__)
        todo = FilteredSortedDynamicItemDataset(test_set, ids)
        self.evaluate(todo, min_key="EER", test_loader_kwargs=loader_kwargs)
        ddp_barrier()
        if self.debug or not if_main_process():
            return False
        if not self.scores.finish():
            raise InputError(
                f"{path}: {len(self.scores.missing_positions)} trials have no "
                "score; start again. Several machines need a shared output "
                "folder"
            )
        return True


def existing_asv_scores(path):
    """ASV scores, or None where the corpus has none."""
    return read_asv_scores(path) if Path(path).is_file() else None


def dataio_prep(hparams):
    """The three sets, and the training loader's arguments."""

    # 1. The audio: what the network sees of a file, or, in training, what
    # augmentation may crop.
    def audio_pipeline(samples):
        @sb.utils.data_pipeline.takes("wav")
        @sb.utils.data_pipeline.provides("sig")
        def read(wav):
            return fit_length(read_audio(wav, samples), samples)

        return read

    lengths = dict.fromkeys(("train", "dev", "eval"), hparams["samples"])
    lengths["train"] = hparams.get("train_samples", hparams["samples"])

    # 2. The labels: 0 is spoof, 1 is bona fide.
    encoder = sb.dataio.encoder.CategoricalEncoder()
    encoder.update_from_iterable(["spoof", "bonafide"])
    encoder.expect_len(2)

    @sb.utils.data_pipeline.takes("label")
    @sb.utils.data_pipeline.provides("label_encoded")
    def label_pipeline(label):
        return encoder.encode_label_torch(label)

    # 3. The sets.
    sets = {
        name: ManifestDataset.from_csv(
            csv_path=str(Path(hparams["manifest_folder"]) / f"{name}.csv"),
            replacements={"data_root": hparams["data_folder"]},
            dynamic_items=[audio_pipeline(samples), label_pipeline],
            output_keys=["id", "sig", "label_encoded"],
        )
        for name, samples in lengths.items()
    }

    # 4. The attacks, where they have learned weights; bona fide counts as one.
    attacks = sets["train"].data.column("attack")
    if "attack_weights" in hparams["modules"]:
        provide_attacks(sets["train"], attacks.names, hparams)

    # 5. The training batches: plain ones, or pairs for the two levels.
    loader_kwargs = {"num_workers": hparams["num_workers"]}
    weights = None
    if hparams.get("class_balanced", False):
        weights = class_weights(attacks)
    if hparams["hypergradient"] is None:
        loader_kwargs |= {
            "batch_size": hparams["batch_size"],
            "drop_last": True,
        }
        if weights is None:
            loader_kwargs["shuffle"] = True
        else:
            loader_kwargs["sampler"] = ReproducibleWeightedRandomSampler(
                weights, len(weights), replacement=True, seed=hparams["seed"]
            )
    else:
        sizes = hparams["batch_size"], hparams["upper_batch_size"]
        split = {
            "seed": hparams["seed"],
            "as_published": hparams["as_published"],
        }
        folds = attack_folds(attacks, hparams["folds"], **split)
        loader_kwargs |= {
            "batch_sampler": PairedBatchSampler(
                folds, *sizes, weights=weights, **split
            ),
            "collate_fn": PairedBatch(sizes[0]),
        }
    return sets, loader_kwargs


def provide_attacks(train_set, names, hparams):
    """Lets a training batch tell the attack of each trial, as a number."""
    encoder = sb.dataio.encoder.CategoricalEncoder()
    encoder.update_from_iterable(names)
    expected = hparams["modules"]["attack_weights"].logits.numel()
    if len(encoder) != expected:
        raise InputError(
            f"attack_weights: size {expected}, but training has {len(encoder)} "
            f"attacks, bona fide included: {', '.join(sorted(encoder.lab2ind))}"
        )
    encoder.expect_len(expected)
    train_set.add_dynamic_item(
        encoder.encode_label_torch, takes="attack", provides="attack_encoded"
    )
    train_set.set_output_keys(["id", "sig", "label_encoded", "attack_encoded"])


def evaluate_scores(path, hparams):
    """All figures of the scores of eval, with 95 % intervals."""
    trials = read_protocol(Path(hparams["manifest_folder"]) / "eval.csv")
    systems = [read_cm_scores(path, trials)]
    asv = existing_asv_scores(hparams["asv_scores"]["eval"])
    return evaluate(systems, asv, usual_resampling(systems))


def main():
    """Prepares, trains, scores, reports and exports."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    try:
        with open(hparams_file, encoding="utf-8") as file:
            hparams = load_hyperpyyaml(file, overrides)
    except (OSError, ValueError) as error:
        # A !PLACEHOLDER without a value, an unknown key, no such file.
        raise InputError(f"{hparams_file}: {error}") from error
    output = Path(hparams["output_folder"])
    sb.create_experiment_directory(output, hparams_file, overrides)
    run_on_main(
        prepare_asvspoof2019,
        args=[hparams["data_folder"], hparams["manifest_folder"]],
    )
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
        sets["train"],
        sets["dev"],
        train_loader_kwargs=train_loader_kwargs,
        valid_loader_kwargs=hparams["test_loader_kwargs"],
    )
    scores = output / "eval_scores.txt"
    # Dev too: it calibrates the detector, and fusions with other systems.
    for name, path in (("dev", output / "dev_scores.txt"), ("eval", scores)):
        done = brain.score(sets[name], path, hparams["test_loader_kwargs"])
    if done:
        report = format_report(evaluate_scores(scores, hparams))
        write_atomically(output, {"eval_report.txt": report + "\n"})
        export(output, output / "pretrained", name=output.name)
        print(report)
        print(f"\nscores    {scores}\ndetector  {output / 'pretrained'}")


if __name__ == "__main__":
    with exit_on_input_error(), closing_process_group():
        main()
