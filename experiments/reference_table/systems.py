"""The networks of the table: how each is trained, and what was published."""

from types import MappingProxyType
from typing import NamedTuple

from speechbrain_bilevel.lobes.aasist import AASIST_L

_WARMUP = "!name:speechbrain_bilevel.nnet.schedulers.warmup_cosine"
_LI = "https://github.com/menglu-lml/ASV_Deepfake_with_bilevel"
_WANG = "https://arxiv.org/abs/2103.11326"
_AASIST = "https://arxiv.org/abs/2110.01200"
# All of a clip of MiniLA. The log-mel CNN and the small V2 hear 2 s.
_WHOLE = {"num_samples": "48000"}


class System(NamedTuple):
    """A network of the package.

    Arguments
    ---------
    description : str
    yaml : str
        Of ``hparams/``, without its ending.
    published : str
        EER in % / min t-DCF on ASVspoof2019 LA eval.
    source : str
        Whose figures these are.
    overrides : dict of str to str
        Of the YAML, as on the command line.
    """

    description: str
    yaml: str
    published: str = "-"
    source: str = ""
    overrides: MappingProxyType = MappingProxyType({})


SYSTEMS = {
    "mel_cnn": System("log-mel CNN", "train_mel_cnn"),
    "cqcc_gmm": System(
        "B01, CQCC-GMM", "train_cqcc_gmm", "9.57 / 0.2839", _LI, _WHOLE
    ),
    "lfcc_gmm": System(
        "B02, LFCC-GMM", "train_lfcc_gmm", "8.09 / 0.2605", _LI, _WHOLE
    ),
    # Of six rounds each.
    "lfcc_lcnn": System(
        "LFCC-LCNN",
        "train_lfcc_lcnn",
        "2.31 to 3.11 / 0.056 to 0.075",
        _WANG,
        _WHOLE,
    ),
    "lfcc_lcnn_lstm": System(
        "LFCC-LCNN, LSTM",
        "train_lfcc_lcnn",
        "1.92 to 3.10 / 0.052 to 0.075",
        _WANG,
        {**_WHOLE, "network": "{lstm: True}"},
    ),
    "rawnet2": System(
        "RawNet2", "train_rawnet2", "4.66 / 0.1294", _AASIST, _WHOLE
    ),
    "rawgat_st": System(
        "RawGAT-ST",
        "train_rawgat_st",
        "1.06 / 0.0335",
        _AASIST,
        # 32 clips at once take 22 GB.
        {**_WHOLE, "batch_size": "16", "grad_accumulation_factor": "2"},
    ),
    "aasist": System(
        "AASIST", "train_aasist", "0.83 / 0.0275", _AASIST, _WHOLE
    ),
    "aasist_l": System(
        "AASIST-L",
        "train_aasist",
        "0.99 / 0.0309",
        _AASIST,
        {**_WHOLE, "network": str(AASIST_L).replace("'", "")},
    ),
    "v2": System(
        "V2",
        "train_v2",
        "15.38 / 0.2931",
        _LI,
        # The published rates rise for 10,000 steps.
        {
            **_WHOLE,
            "opt_class": "{lr: 1.0e-3}",
            "lr_schedule": f"{_WARMUP} "
            "{steps: !ref <training_steps>, warmup: 0.04}",
        },
    ),
    "v2_small": System("V2, small", "train_v2_small"),
}
