"""The corpora whose protocols can be read, and where they keep what.

To add a corpus, describe it by a ``Corpus`` and put that in ``CORPORA``: its
protocol is then recognized, read and found in a data folder, and its audio
checked, like those of all others.
"""

import dataclasses

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF

PARTITIONS = ("train", "dev", "eval")
_SUBSETS = ("progress", "eval", "hidden")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """What sets a corpus apart from the others.

    Arguments
    ---------
    name : str
        As its authors call it.
    layout : str
        Names of its protocol's columns, separated as the columns are: by
        whitespace, or by commas if the protocol is a list with a header. Of
        the former, ``speaker``, ``utterance`` and ``label`` are required, a
        column ``subset`` holds the partition, and ``-`` stands for a column
        that holds nothing else. No two have equally many columns.
    protocols : dict of str to tuple of str
        Where the protocol of each partition may lie in the data folder.
    audio : dict of str to tuple of str
        Where the FLAC files of each partition may lie, the usual place first;
        of a list nothing, because it names its files.
    attack : str
        Name of the column that holds the kind of spoof.
    example : str
        What may stand in that column.
    prefixes : dict of str to str
        The partition of each beginning of an utterance's name, if it has one.

    Example
    -------
    >>> mine = Corpus(
    ...     name="Mine",
    ...     layout="utterance speaker attack label",
    ...     protocols={"eval": ("lists/eval.txt",)},
    ...     audio={"eval": ("flac",)},
    ... )
    >>> mine.n_columns, mine.is_list
    (4, False)
    """

    name: str
    layout: str
    protocols: dict
    audio: dict = dataclasses.field(default_factory=dict)
    attack: str = "attack"
    example: str = "A01"
    prefixes: dict = dataclasses.field(default_factory=dict)

    @property
    def is_list(self):
        """Whether the protocol is a list with a header."""
        return "," in self.layout

    @property
    def n_columns(self):
        """Columns of a protocol without header; of a list, which has one, 1."""
        return len(self.layout.split())


#: Wang et al., "ASVspoof 2019: A large-scale public database of synthesized,
#: converted and replayed speech", Computer Speech & Language 64, 2020.
ASVSPOOF2019_LA = Corpus(
    name="ASVspoof2019 LA",
    layout="speaker utterance - attack label",
    protocols={
        part: (f"ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{name}.txt",)
        for part, name in zip(PARTITIONS, ("train.trn", "dev.trl", "eval.trl"))
    },
    audio={part: (f"ASVspoof2019_LA_{part}/flac",) for part in PARTITIONS},
)

#: Its trials by partition and label.
ASVSPOOF2019_LA_COUNTS = {
    "train": {BONAFIDE: 2580, SPOOF: 22800},
    "dev": {BONAFIDE: 2548, SPOOF: 22296},
    "eval": {BONAFIDE: 7355, SPOOF: 63882},
}

#: Liu et al., "ASVspoof 2021: Towards spoofed and deepfake speech detection in
#: the wild", IEEE/ACM TASLP 31, 2023. Official figures are on subset "eval".
ASVSPOOF2021_LA = Corpus(
    name="ASVspoof2021 LA",
    layout="speaker utterance codec transmission attack label trim subset",
    protocols=dict.fromkeys(
        _SUBSETS,
        (
            "keys/LA/CM/trial_metadata.txt",
            "LA-keys-full/keys/LA/CM/trial_metadata.txt",
            "keys/CM/trial_metadata.txt",
            "trial_metadata.txt",
        ),
    ),
    audio=dict.fromkeys(_SUBSETS, ("ASVspoof2021_LA_eval/flac", "flac")),
)

#: The same paper. Its kind of spoof is the category of the vocoder, because
#: that is what the official evaluation breaks results down by: the spoofs are
#: by more than a hundred systems.
ASVSPOOF2021_DF = Corpus(
    name="ASVspoof2021 DF",
    layout="speaker utterance codec source system label trim subset vocoder "
    "task team gender language",
    protocols=dict.fromkeys(
        _SUBSETS,
        (
            "keys/DF/CM/trial_metadata.txt",
            "DF-keys-full/keys/DF/CM/trial_metadata.txt",
            "keys/CM/trial_metadata.txt",
            "trial_metadata.txt",
        ),
    ),
    audio=dict.fromkeys(
        _SUBSETS,
        (
            "ASVspoof2021_DF_eval/flac",
            "flac",
            # As the four parts of the download unpack.
            *(
                f"ASVspoof2021_DF_eval_part0{i}/ASVspoof2021_DF_eval/flac"
                for i in range(4)
            ),
        ),
    ),
    attack="vocoder",
    example="traditional_vocoder",
)

#: Wang et al., "ASVspoof 5: Design, collection and validation of resources for
#: spoofing, deepfake, and adversarial attack detection using crowdsourced
#: speech", arXiv 2502.08857. Spaces separate the columns of its .tsv files.
ASVSPOOF5 = Corpus(
    name="ASVspoof5",
    layout="speaker utterance gender codec codec_q codec_seed attack_tag "
    "attack label unused",
    protocols={
        part: (
            f"ASVspoof5.{name}.tsv",
            f"ASVspoof5_protocols/ASVspoof5.{name}.tsv",
        )
        for part, name in zip(
            PARTITIONS, ("train", "dev.track_1", "eval.track_1")
        )
    },
    audio={
        "train": ("flac_T",),
        "dev": ("flac_D",),
        "eval": ("flac_E_eval", "flac_E"),
    },
    prefixes={"T_": "train", "D_": "dev", "E_": "eval"},
)

#: As it was given to the participants of the challenge, before the evaluation.
ASVSPOOF5_CHALLENGE = dataclasses.replace(
    ASVSPOOF5,
    name="ASVspoof5 (challenge)",
    layout="speaker utterance gender codec attack label",
    protocols={
        part: (f"ASVspoof5.{part}.metadata.txt",) for part in ("train", "dev")
    },
)

#: Müller et al., "Does audio deepfake detection generalize?", Interspeech 2022.
IN_THE_WILD = Corpus(
    name="In-the-Wild",
    layout="file,speaker,label",
    protocols={"eval": ("meta.csv", "release_in_the_wild/meta.csv")},
)

#: A list of one's own.
LIST = Corpus(name="list", layout="path,label", protocols={})

CORPORA = (
    ASVSPOOF2019_LA,
    ASVSPOOF2021_LA,
    ASVSPOOF2021_DF,
    ASVSPOOF5,
    ASVSPOOF5_CHALLENGE,
    IN_THE_WILD,
)
