#!/usr/bin/env python3
"""Trains a spoofing countermeasure on ASVspoof2019 LA, plainly or bi-level.

To run this recipe:
> python train.py hparams/train_v2_bilevel.yaml --data_folder /path/to/LA

With `hypergradient: null` in the YAML the training is plain: one level, all
attacks. Otherwise part of the network learns on attacks that the rest has not
seen. The epoch with the lowest EER on dev is kept, scores eval, and is written
as a folder for `SpoofDetector`.
"""

import sys
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from asvspoof2019_prepare import prepare_asvspoof2019
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    FilteredSortedDynamicItemDataset,
)
from speechbrain.utils.distributed import (
    ddp_barrier,
    if_main_process,
    run_on_main,
)

from speechbrain_bilevel.brain import BilevelMixin
from speechbrain_bilevel.dataio.audio import fit_length, read_audio
from speechbrain_bilevel.dataio.sampling import (
    PairedBatch,
    PairedBatchSampler,
    attack_folds,
)
from speechbrain_bilevel.distributed import rank, world_size
from speechbrain_bilevel.errors import exit_on_input_error
from speechbrain_bilevel.hub import export_detector
from speechbrain_bilevel.metrics.report import (
    evaluate,
    format_report,
)
from speechbrain_bilevel.metrics.scores import (
    CMScores,
    read_asv_scores,
    read_cm_scores,
)
from speechbrain_bilevel.scoring import ScoreFile


class SpoofBrain(BilevelMixin, sb.Brain):
    """Trains, validates and scores a countermeasure."""

    def compute_forward(self, batch, stage):
        """Waveforms -> logits, [batch, 2]."""
        batch = batch.to(self.device)
        network = self.modules.network
        if stage == sb.Stage.TEST:
            # Each process scores trials of its own, without DDP's exchange.
            network = getattr(network, "module", network)
        return network(batch.sig.data)

    def compute_objectives(self, predictions, batch, stage):
        """The loss; dev and eval scores are kept on the way."""
        if stage != sb.Stage.TRAIN:
            scores = self.hparams.score(predictions).tolist()
            self.collect(batch.id, scores)
        return self.hparams.loss(predictions, batch.label_encoded.data[:, 0])

    def on_stage_start(self, stage, epoch=None):
        """Empties the dev scores."""
        super().on_stage_start(stage, epoch)
        if stage == sb.Stage.VALID:
            self.dev_scores = {}
            self.collect = lambda ids, scores: self.dev_scores.update(
                zip(ids, scores)
            )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the epoch and keeps the checkpoint with the lowest dev EER."""
        super().on_stage_end(stage, stage_loss, epoch)
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss}
            if self.upper_losses:
                upper = torch.stack(self.upper_losses).mean().item()
                self.train_stats = {
                    "lower/loss": stage_loss,
                    "upper/loss": upper,
                }
            for level, optimizer in self.optimizers_dict.items():
                rate = optimizer.param_groups[0]["lr"]
                self.train_stats[f"{level}/lr"] = rate
        elif stage == sb.Stage.VALID:
            stats = {"loss": stage_loss, **self.dev_metrics()}
            self.hparams.train_logger.log_stats(
                {"epoch": epoch}, self.train_stats, stats
            )
            self.checkpointer.save_and_keep_only(meta=stats, min_keys=["EER"])

    def dev_metrics(self):
        """EER and, where ASV scores of dev exist, min t-DCF."""
        trials = self.hparams.dev_trials
        utts = [utt for utt in trials if utt in self.dev_scores]
        if len({trials[utt]["label"] for utt in utts}) < 2:
            # --debug validates too few trials for an error rate.
            return {"EER": float("nan")}
        rows = [trials[utt] for utt in utts]
        scores = CMScores(
            utt=np.array(utts),
            attack=np.array([row["attack"] for row in rows]),
            is_bonafide=np.array([row["label"] == "bonafide" for row in rows]),
            score=np.array([self.dev_scores[utt] for utt in utts]),
        )
        asv = self.hparams.asv_dev_scores
        result = evaluate(scores, read_asv_scores(asv) if asv else None)
        return {
            "EER": 100 * result.eer,
            **({"min_tDCF": result.min_tdcf} if asv else {}),
        }

    def score(self, test_set, path, loader_kwargs):
        """Scores a set with the best checkpoint; resumes an interrupted run.

        Returns
        -------
        bool
            Whether the score file is there (not so under --debug).
        """
        if self.debug:
            # What --debug makes is no result; it goes where its weights go.
            path = self.checkpointer.checkpoints_dir / "eval_scores.txt"
        self.on_evaluate_start(min_key="EER")
        trials = [
            (utt, row["attack"], row["label"])
            for utt, row in test_set.data.items()
        ]
        scores = ScoreFile(path, trials, self.hparams.network)
        self.collect = scores.add
        mine = scores.missing[rank() :: world_size()]
        todo = FilteredSortedDynamicItemDataset(test_set, mine)
        self.evaluate(todo, min_key="EER", test_loader_kwargs=loader_kwargs)
        ddp_barrier()
        return if_main_process() and scores.finish() and not self.debug


def dataio_prep(hparams):
    """The three sets, and the training loader's arguments."""
    # 1. The audio: what the network sees of a file.
    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav):
        samples = hparams["samples"]
        return fit_length(read_audio(wav, samples), samples)

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
        name: DynamicItemDataset.from_csv(
            csv_path=str(Path(hparams["manifest_folder"]) / f"{name}.csv"),
            replacements={"data_root": hparams["data_folder"]},
            dynamic_items=[audio_pipeline, label_pipeline],
            output_keys=["id", "sig", "label_encoded"],
        )
        for name in ("train", "dev", "eval")
    }

    # 4. The training batches: plain ones, or pairs for the two levels.
    loader_kwargs = {"num_workers": hparams["num_workers"]}
    if hparams["hypergradient"] is None:
        loader_kwargs |= {
            "batch_size": hparams["batch_size"],
            "shuffle": True,
            "drop_last": True,
        }
    else:
        sizes = hparams["batch_size"], hparams["upper_batch_size"]
        split = {
            "seed": hparams["seed"],
            "as_published": hparams["as_published"],
        }
        attacks = [row["attack"] for row in sets["train"].data.values()]
        folds = attack_folds(attacks, hparams["folds"], **split)
        loader_kwargs |= {
            "batch_sampler": PairedBatchSampler(folds, *sizes, **split),
            "collate_fn": PairedBatch(sizes[0]),
        }
    return sets, encoder, loader_kwargs


def main():
    """Prepares, trains, scores, reports and exports."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    output = Path(hparams["output_folder"])
    sb.create_experiment_directory(output, hparams_file, overrides)
    run_on_main(
        prepare_asvspoof2019,
        args=[hparams["data_folder"], hparams["manifest_folder"]],
    )
    sets, encoder, train_loader_kwargs = dataio_prep(hparams)
    asv = {
        name: path if Path(path).is_file() else None
        for name, path in hparams["asv_scores"].items()
    }
    hparams |= {
        "dev_trials": sets["dev"].data,
        "asv_dev_scores": asv["dev"],
    }
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
    if brain.score(sets["eval"], scores, hparams["test_loader_kwargs"]):
        result = evaluate(
            read_cm_scores(scores),
            read_asv_scores(asv["eval"]) if asv["eval"] else None,
        )
        report = format_report(result)
        (output / "eval_report.txt").write_text(report + "\n", "utf-8")
        export_detector(
            output / "pretrained",
            hparams["network"],
            encoder,
            output / "hyperparams.yaml",
            hparams["samples"],
            hparams["as_published"],
        )
        print(report)
        print(f"\nscores    {scores}\ndetector  {output / 'pretrained'}")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
