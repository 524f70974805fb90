#!/usr/bin/env python3
"""Do SpeechBrain's own examples train with a second level, as they are?

> git clone https://github.com/speechbrain/speechbrain
> python run.py --source speechbrain --output_folder OUT

Trains every example below tests/integration that has a Brain, and the template
of speaker identification, with each strategy: the example's own script, YAML,
data and Brain, with ``BilevelMixin`` in front. Half of the trials are for the
upper level. Writes table.md, and what each run printed to
OUT/EXAMPLE/STRATEGY/out.txt. An example that does not run on its own, for want
of a package or a GPU, is left out.
"""

import argparse
import importlib.util
import inspect
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch
from tqdm import tqdm

from speechbrain_bilevel import BilevelMixin, hypergradients
from speechbrain_bilevel.dataio.sampling import bilevel_loader_kwargs
from speechbrain_bilevel.utils.errors import InputError

ALONE = "without BilevelMixin"
STRATEGIES = {
    ALONE: None,
    "null": lambda: None,
    "Alternating": hypergradients.Alternating,
    "OneStepUnrolled": hypergradients.OneStepUnrolled,
    "OneStepUnrolled, difference": partial(
        hypergradients.OneStepUnrolled, hvp_mode="difference"
    ),
    "SOBA": partial(hypergradients.SOBA, step_size=0.05, damping=0.1),
    "F2SA": partial(hypergradients.F2SA, penalty=10.0),
    "BOME": partial(hypergradients.BOME, step_size=0.05),
    "SAMA": hypergradients.SAMA,
    "NeumannAID": partial(hypergradients.NeumannAID, terms=3, step_size=0.05),
}

TEMPLATE = "templates/speaker_id"
# The upper part of each example. A name below tests/integration is that of the
# example's folder, with the end of the script's name where there are several.
EXAMPLES = {
    "speaker_id": "xvector_model.blocks.0",
    "ASR_CTC": "model.CNN",
    "ASR_CTC/complex_net": "model.conv1",
    "ASR_CTC/quaternion_net": "model.conv1",
    "ASR_seq2seq": "enc.CNN",
    "ASR_Transducer": "enc.CNN",
    "ASR_ConformerTransducer_streaming": "CNN",
    "ASR_alignment_forward": "model.CNN",
    "ASR_alignment_viterbi": "model.CNN",
    "G2P": "encoder_emb",
    "LM_RNN": "model.embedding",
    "VAD": "lin",
    "autoencoder": "linear1",
    "enhance_GAN": "generator",
    "separation": "encoder",
    TEMPLATE: "embedding_model.blocks.0",
}


# ----------------------------------------------------------------------- a run
def load(source, name):
    """Import an example's script and load its YAML: a module and a dict."""
    folder, samples = source / name, source / "tests" / "samples"
    if name == TEMPLATE:
        script, yaml = folder / "train.py", folder / "train.yaml"
        overrides = {
            "train_annotation": f"{samples}/annotation/ASR_train.json",
            "valid_annotation": f"{samples}/annotation/ASR_dev.json",
            "test_annotation": f"{samples}/annotation/ASR_dev.json",
            "data_folder": f"{samples}/ASR",
            "noise_annotation": f"{samples}/annotation/noise.csv",
            "add_noise": {"replacements": {"noise_folder": f"{samples}/noise"}},
            "num_workers": 0,
        }
    else:
        folder, _, end = name.partition("/")
        folder, overrides = source / "tests" / "integration" / folder, {}
        script = min(
            folder.glob(f"example_*{end}.py"), key=lambda p: len(str(p))
        )
        yaml = folder / f"hyperparams{'_' * bool(end)}{end}.yaml"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("example", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with open(yaml, encoding="utf-8") as lines:
        hparams = load_hyperpyyaml(lines, overrides)
    if name == TEMPLATE:
        # Its cache needs a GPU, and it expects 28 speakers.
        del hparams["feats_cache_dir"]
        encoder = sb.dataio.encoder.CategoricalEncoder()
        encoder.update_from_iterable(f"spk{i}" for i in range(28))
        encoder.save(Path(hparams["save_folder"], "label_encoder.txt"))
    return module, hparams


def data_sets(module, source, name, hparams):
    """Return the example's data sets for training and validation."""
    samples = source / "tests" / "samples"
    folder = samples / name if (samples / name).is_dir() else samples / "ASR"
    prepare = getattr(module, "data_prep", None) or module.dataio_prep
    known = {"data_folder": folder, "hparams": hparams}
    found = prepare(*(known[n] for n in inspect.signature(prepare).parameters))
    train, valid = tuple(found.values() if isinstance(found, dict) else found)[
        :2
    ]
    if len(train) == 1:
        train = torch.utils.data.ConcatDataset([train, valid])
    return train, valid


def brain_class(module, strategy, losses):
    """Return the example's Brain, with the mixin, that stores its losses."""
    (brain,) = (
        found
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, sb.Brain)
        and found.__module__ == module.__name__
    )

    class StoreLosses(brain):
        def on_stage_end(self, stage, stage_loss, epoch=None):
            super().on_stage_end(stage, stage_loss, epoch)
            if stage == sb.Stage.TRAIN:
                losses.append(stage_loss)

    bases = (StoreLosses,) if strategy == ALONE else (BilevelMixin, StoreLosses)
    return type(brain.__name__, bases, {})


def train(args, name, strategy):
    """Train an example; return "trains" and the losses, or what came of it."""
    module, hparams = load(args.source, name)
    train_set, valid_set = data_sets(module, args.source, name, hparams)
    size = hparams["dataloader_options"]["batch_size"]
    size = max(1, min(size, len(train_set) // 2))
    options = {"batch_size": size, "collate_fn": PaddedBatch}
    losses = []
    try:
        if strategy != ALONE:
            options = bilevel_loader_kwargs(train_set, options)
            hparams["hypergradient"] = STRATEGIES[strategy]()
            hparams["upper"] = [EXAMPLES[name]]
            hparams["upper_opt_class"] = partial(torch.optim.Adam, lr=1e-3)
        brain_class(module, strategy, losses)(
            hparams["modules"],
            hparams.get("opt_class"),
            hparams,
            run_opts={"device": args.device, "noprogressbar": True},
            checkpointer=hparams.get("checkpointer"),
        ).fit(
            range(1, args.epochs + 1),
            train_set,
            valid_set,
            train_loader_kwargs=options,
            valid_loader_kwargs={"batch_size": size},
        )
    except InputError as error:
        sentence = str(error).replace(":\n-", ":").split("\n")[0]
        return "refused", sentence.split(". ")[0]
    return "trains", losses


def run(args, name, strategy):
    """Train in a process of its own; return what came of it."""
    folder = args.output_folder / name / strategy
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [sys.executable, Path(__file__).resolve(), *sys.argv[1:]]
    words += ["--source", args.source, "--one", name, strategy]
    result = folder / "result.json"
    try:
        with open(folder / "out.txt", "w") as out:
            code = subprocess.run(
                words,
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, OMP_NUM_THREADS="1"),
                timeout=args.seconds,
            ).returncode
    except subprocess.TimeoutExpired:
        return "ERROR", f"not done after {args.seconds} s"
    if result.exists():
        return json.loads(result.read_text())
    lines = (folder / "out.txt").read_text().splitlines()
    return "ERROR", lines[-1] if lines else f"exit code {code}"


# ------------------------------------------------------------------- the table
def table(results):
    """Return {example: {strategy: result}} as Markdown, with notes below."""
    notes, lines = {}, []
    for name, row in results.items():
        cells = [name]
        for kind, found in row.values():
            if kind == "trains":
                higher = "" if found[-1] < found[0] else " (higher)"
                cells.append(f"{found[0]:.3g} → {found[-1]:.3g}{higher}")
            else:
                cells.append(
                    f"{kind} ({notes.setdefault(found, len(notes) + 1)})"
                )
        lines.append(f"| {' | '.join(cells)} |")
    columns = list(next(iter(results.values())))
    head = f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
    numbered = [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join([head, *lines, "", *numbered]) + "\n"


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--source", type=Path, required=True)
    add("--output_folder", type=Path, required=True)
    add("--examples", nargs="+", choices=EXAMPLES, default=list(EXAMPLES))
    add("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    add("--epochs", type=int, default=2)
    add("--device", default="cpu")
    add("--seconds", type=int, default=300, help="time limit of a run")
    add("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.source = args.source.resolve()
    if not (args.source / "tests" / "integration").is_dir():
        parser.error(f"--source: {args.source} has no folder tests/integration")
    return args


def main():
    """Make all runs, or one, and print the table."""
    args = arguments()
    if args.one:
        result = train(args, *args.one)
        Path("result.json").write_text(json.dumps(result))
        return
    results = {name: {} for name in args.examples}
    with tqdm(total=len(results) * len(args.strategies)) as progress:
        for name, row in results.items():
            for strategy in args.strategies:
                alone = row.get(ALONE)
                if alone and alone[0] != "trains":
                    row[strategy] = row[ALONE] = "not run", alone[1]
                else:
                    row[strategy] = run(args, name, strategy)
                progress.update()
    text = table(results)
    (args.output_folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
