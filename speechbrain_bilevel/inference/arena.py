"""The Speech Anti-Spoofing Arena: its harness's model, and its files.

The leaderboard of https://huggingface.co/SpeechAntiSpoofingBenchmarks; its
package ``speech-spoof-bench``, which is not needed here, calls ``Detector``:

> SPOOF_DETECTOR=user/name speech-spoof-bench run \\
>     --model-module speechbrain_bilevel.inference.arena:Detector \\
>     --datasets SpeechAntiSpoofingBenchmarks/ASVspoof2019_LA
"""

import json
import os
import re

import torch
from speechbrain.utils.distributed import infer_device

from speechbrain_bilevel.dataio import SAMPLE_RATE
from speechbrain_bilevel.dataio.audio import (
    Audio,
    fit_length,
    from_first_sound,
)
from speechbrain_bilevel.dataio.decoding import ArraySource
from speechbrain_bilevel.inference.config import META
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.lobes import build
from speechbrain_bilevel.utils.errors import InputError

#: The environment variable that names the detector.
VARIABLE = "SPOOF_DETECTOR"


class Detector:
    """Scores as the Arena's harness asks for them: those of ``score``.

    Recordings that cannot be scored raise an ``InputError``; the harness counts
    them as skipped. ``source`` is a pretrained folder or user/name of the hub,
    by default what the environment variable SPOOF_DETECTOR says.

    Example
    -------
    >>> class Mine(Detector):
    ...     source = "user/name"
    """

    name = "speechbrain_bilevel"
    expected_sample_rate = SAMPLE_RATE
    batch_size = 16
    source = None

    def load(self):
        """Load the detector, to the GPU if there is one."""
        source = self.source or os.environ.get(VARIABLE)
        if not source:
            raise InputError(
                f"{VARIABLE} is not set; expected a pretrained folder, or "
                "user/name of a hub repository, in this environment variable"
            )
        self.name = os.path.basename(os.path.normpath(source))
        self.detector = SpoofDetector.from_hparams(
            source, run_opts={"device": infer_device()}
        )

    def unload(self):
        """Free the detector's memory."""
        del self.detector

    @torch.no_grad()
    def score_batch(self, audios, srs):
        """Score waveforms, each float32, [time], at its rate in Hz.

        Return a list of float: higher is more bona fide.
        """
        num_samples = self.detector.hparams.num_samples
        # Full, so that a score has the same bits as in `score`.
        wavs = torch.zeros(max(self.batch_size, len(audios)), num_samples)
        for row, (samples, rate) in enumerate(zip(audios, srs)):
            audio = Audio("audio", ArraySource("audio", samples, rate))
            blocks = audio.blocks(num_samples)
            wav, _ = from_first_sound(blocks, num_samples, audio)
            wavs[row] = fit_length(torch.from_numpy(wav), num_samples)
        scores = self.detector.classify_batch(wavs)[1][: len(audios)]
        if not scores.isfinite().all():
            raise InputError("a score is NaN or infinite; is the network good?")
        return scores.tolist()


def arena_files(name, config, scores):
    """Return the texts of the files of a submission, by their names.

    ``name`` and ``config`` are those of the detector; ``scores`` are its tables
    of scores (see ``evaluation.score_files``) by data set, ORGANIZATION/NAME.
    Raise an ``InputError`` if the name of a data set is not of this form.
    """
    with torch.device("meta"):
        weights = build(config.network, config.sizes).parameters()
    seconds = config.num_samples / SAMPLE_RATE
    system = {
        "name": name,
        "slug": re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "system",
        "description": f"{config.network}, FP32, hears {seconds:.2f} s",
        "code": "https://huggingface.co/USER/NAME",
        "checkpoint": "https://huggingface.co/USER/NAME",
        "params_millions": sum(weight.numel() for weight in weights) / 1e6,
    }
    # JSON values are valid YAML.
    lines = [f"  {key}: {json.dumps(value)}\n" for key, value in system.items()]
    hint = "# To be ranked, add paper: its arxiv_id, url and bibtex.\n"
    files = {META: "".join([hint, "system:\n", *lines])}
    for dataset, table in scores.items():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", dataset):
            raise InputError(
                f"{dataset}: no data set of the Arena; expected "
                "ORGANIZATION/NAME, as the hub has it"
            )
        pairs = zip(table.utt, table.score.tolist())
        files[f".eval_results/{dataset}/scores.txt"] = "".join(
            f"{utt} {score!r}\n" for utt, score in pairs
        )
    return files
