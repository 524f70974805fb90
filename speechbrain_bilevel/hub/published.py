"""Weights published elsewhere -> pretrained folders."""

from typing import NamedTuple

import yaml

from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.hub.card import model_card
from speechbrain_bilevel.hub.folder import Parts, check_folder, write_folder
from speechbrain_bilevel.hub.weights import load_weights
from speechbrain_bilevel.importers import aasist_state_dict, v2_state_dict
from speechbrain_bilevel.lobes.aasist import AASIST
from speechbrain_bilevel.lobes.v2 import V2


class Published(NamedTuple):
    """A network of which others published weights."""

    #: The class of ours.
    network: type
    #: Its sizes, where they are not the default.
    sizes: dict
    #: Published state dict -> ours.
    convert: callable
    #: How it scores, see ``nnet.losses.detection_score``.
    score: dict
    #: For the card.
    origin: str


PUBLISHED = {
    "aasist": Published(
        AASIST,
        {},
        aasist_state_dict,
        {"as_published": False, "bonafide_logit": True},
        "Weights of AASIST, published at https://github.com/clovaai/aasist "
        "under the MIT licence, copyright NAVER Corp., trained on ASVspoof2019 LA",
    ),
    "aasist-l": Published(
        AASIST,
        {
            "channels": [32, 32, 24, 24, 24, 24],
            "graph": 24,
            "spectral_keep": 0.4,
            "temporal_keep": 0.5,
            "stack_keep": 0.7,
        },
        aasist_state_dict,
        {"as_published": False, "bonafide_logit": True},
        "Weights of AASIST-L, published at https://github.com/clovaai/aasist "
        "under the MIT licence, copyright NAVER Corp., trained on ASVspoof2019 LA",
    ),
    "v2": Published(
        V2,
        {},
        v2_state_dict,
        {"as_published": True},
        "Weights of V2, published at "
        "https://github.com/menglu-lml/ASV_Deepfake_with_bilevel, trained on "
        "ASVspoof2019 LA",
    ),
}


def import_weights(name, weights, folder):
    """Writes a pretrained folder of weights that were published elsewhere.

    Arguments
    ---------
    name : str
        Of the network, a key of ``PUBLISHED``.
    weights : str or Path
        The published file: a state dict.
    folder : str or Path
        Where to write; see ``hub.folder.write_folder``.

    Raises
    ------
    InputError
        If the file cannot be loaded safely or is of another network, or the
        folder cannot be written.
    """
    published = PUBLISHED[name]
    check_folder(folder)
    state_dict = load_weights(weights)
    try:
        ours = published.convert(state_dict)
        network = published.network(**published.sizes)
        network.load_state_dict(ours)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    except RuntimeError as error:
        raise InputError(
            f"{weights}: is not of the published {name} ({error})"
        ) from error
    sizes = {"samples": network.samples, **published.sizes}
    entry = yaml.safe_dump(sizes, default_flow_style=None, sort_keys=False)
    lines = "".join(f"    {line}\n" for line in entry.splitlines())
    parts = Parts(
        f"network: !new:{_full_name(published.network)}\n{lines}",
        network.state_dict(),
        network.samples,
        **published.score,
    )
    write_folder(folder, parts, model_card(name, parts, published.origin))


def _full_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"
