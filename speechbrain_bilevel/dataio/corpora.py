"""The corpora whose protocols can be read, and where they keep their files.

To add a corpus, describe it by a ``Corpus`` and put that in ``CORPORA``. Its
protocol is then recognized, read and found in a data folder, and its audio is
checked.
"""

import dataclasses

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF

PARTITIONS = ("train", "dev", "eval")
_SUBSETS = ("progress", "eval", "hidden")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The columns of a corpus' protocol, and where protocol and audio lie.

    Arguments
    ---------
    name : str
        The name that its authors use.
    layout : str
        Names of the protocol's columns: separated by commas if the protocol is
        a list with a header, else by spaces. In the latter case ``speaker``,
        ``utterance`` and ``label`` are required, ``subset`` is the partition,
        ``-`` is a column of dashes, and no two corpora may have the same number
        of columns.
    protocols, audio : dict of str to tuple of str
        Possible places of the protocol, and of the FLAC files, of each
        partition in the data folder; the usual one first. Lists need no
        ``audio``, because they name their files.
    attack, example : str
        The column that holds the kind of spoof, and a typical value.
    prefixes : dict of str to str
        Partition by the prefix of an utterance's name, if it shows it.

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
        """Number of whitespace-separated columns; 1 for a list."""
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

#: The same paper. Its kind of spoof is the category of the vocoder, as in the
#: official breakdown of results: more than a hundred systems made the spoofs.
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
            # Where the four parts of the download unpack to.
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

#: As the participants of the challenge got it, before the evaluation.
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

#: A user's own list.
LIST = Corpus(name="list", layout="path,label", protocols={})

#: Files of the ``datasets`` library; see ``dataio.parquet``.
PARQUET = Corpus(name="parquet", layout="path,label", protocols={})

CORPORA = (
    ASVSPOOF2019_LA,
    ASVSPOOF2021_LA,
    ASVSPOOF2021_DF,
    ASVSPOOF5,
    ASVSPOOF5_CHALLENGE,
    IN_THE_WILD,
)
