"""The corpora whose protocols can be read, and where they keep their files.

To add a corpus, describe it by a ``Corpus`` and put that in ``CORPORA``. Its
protocol is then recognized, read and found in a data folder, and its audio is
checked.
"""

import dataclasses

from speechbrain_bilevel.dataio import BONAFIDE, SPOOF

PARTITIONS = ("train", "dev", "eval")
#: Names of the partitions in folders and files, in lower case.
PARTITION_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("dev", "development", "val", "valid", "validation"), "dev"
    ),
    **dict.fromkeys(("eval", "evaluation", "test", "testing"), "eval"),
}

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
        a list with a header, else by spaces. In the latter case ``utterance``
        and ``label`` are required, ``subset`` is the partition, ``-`` is a
        column of dashes, and a name that is there twice is the same in both.
    protocols, audio : dict of str to tuple of str
        Possible places of the protocol (``*`` stands for any folder), and of
        the audio, of each partition in the data folder; the usual one first.
    attack, example : str
        The column that holds the kind of spoof, and a typical value.
    prefixes : dict of str to str
        Partition by the prefix of an utterance's name, if it shows it.
    official : bool
        Whether names, attacks and audio are as strict as ASVspoof's: plain
        names, an attack for every spoof, mono FLAC at 16 kHz.

    Example
    -------
    >>> mine = Corpus(
    ...     name="Mine",
    ...     layout="utterance speaker attack label",
    ...     protocols={"eval": ("lists/eval.txt",)},
    ...     audio={"eval": ("flac",)},
    ... )
    >>> mine.columns, mine.is_list
    (('utterance', 'speaker', 'attack', 'label'), False)
    """

    name: str
    layout: str
    protocols: dict
    audio: dict = dataclasses.field(default_factory=dict)
    attack: str = "attack"
    example: str = "A01"
    prefixes: dict = dataclasses.field(default_factory=dict)
    official: bool = False

    @property
    def is_list(self):
        """Whether the protocol is a list with a header."""
        return "," in self.layout

    @property
    def columns(self):
        """The names of the columns."""
        return tuple(self.layout.split("," if self.is_list else None))


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
    official=True,
)

#: Its trials by partition and label.
ASVSPOOF2019_LA_COUNTS = {
    "train": {BONAFIDE: 2580, SPOOF: 22800},
    "dev": {BONAFIDE: 2548, SPOOF: 22296},
    "eval": {BONAFIDE: 7355, SPOOF: 63882},
}


def is_nearly_official(partition, n_trials):
    """Whether this many trials are, or once were, a partition of it.

    So near to the official number, it is a damaged copy rather than another
    corpus in the same layout.
    """
    official = sum(ASVSPOOF2019_LA_COUNTS[partition].values())
    return abs(n_trials - official) <= 0.2 * official


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
    official=True,
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
    official=True,
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
    official=True,
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

#: Where corpora without a fixed place may have their audio.
_ANYWHERE = dict.fromkeys(PARTITIONS, (".", "wav", "wavs", "flac", "audio"))

#: Jung et al., "SpoofCeleb: Speech deepfake detection and SASV in the wild",
#: IEEE Open Journal of Signal Processing 6, 2025; a00 is bona fide.
SPOOFCELEB = Corpus(
    name="SpoofCeleb",
    layout="file,speaker,attack",
    protocols={
        part: (f"metadata/{name}.csv", f"spoofceleb/metadata/{name}.csv")
        for part, name in zip(
            PARTITIONS, ("train", "development", "evaluation")
        )
    },
    audio={
        part: (f"flac/{name}", f"spoofceleb/flac/{name}", f"../flac/{name}")
        for part, name in zip(
            PARTITIONS, ("train", "development", "evaluation")
        )
    },
)

#: Müller et al., "MLAAD: The multi-language audio anti-spoofing dataset",
#: IJCNN 2024: spoofs only, a list for each model.
MLAAD = Corpus(
    name="MLAAD",
    layout="path,original_file,model_name",
    protocols={"eval": ("fake/*/*/meta.csv", "*/fake/*/*/meta.csv")},
)

#: A folder of the Hugging Face hub's ``datasets``, see its "AudioFolder".
AUDIOFOLDER = Corpus(
    name="AudioFolder",
    layout="file_name,label",
    protocols={
        "train": ("train/metadata.csv",),
        "dev": ("validation/metadata.csv",),
        "eval": ("test/metadata.csv", "metadata.csv"),
    },
)

#: As the lists of ADD 2023, DFADD and CodecFake circulate among users of
#: AASIST's code, in 2019's columns without speakers and attacks.
FIVE_COLUMNS = Corpus(
    name="ID ID - - label",
    layout="utterance utterance - - label",
    protocols={"eval": ("protocol.txt",)},
    audio=_ANYWHERE,
)

#: Yi et al., "ADD 2022: The first audio deep synthesis detection challenge",
#: ICASSP 2022; ADD 2023 has the same lists.
ADD = Corpus(
    name="ADD",
    layout="utterance label",
    protocols={"eval": ("label.txt",)},
    audio=_ANYWHERE,
)

#: Xie et al., "The Codecfake dataset and countermeasures for the universally
#: detection of deepfake audio", IEEE/ACM TASLP 33, 2025; the attack of bona
#: fide speech is 0.
CODECFAKE = Corpus(
    name="Codecfake",
    layout="utterance label attack",
    protocols={
        part: (f"label/{name}.txt",)
        for part, name in zip(PARTITIONS, ("train", "dev", "eval"))
    },
    audio={
        part: (name, ".", "wav", f"../{name}")
        for part, name in zip(PARTITIONS, ("train", "dev", "eval"))
    },
)

#: A challenge's trials before its keys are published: names alone.
NAMES = Corpus(
    name="names",
    layout="utterance",
    protocols={},
    audio={
        "eval": (
            *("ASVspoof2021_LA_eval/flac", "ASVspoof2021_DF_eval/flac"),
            *("flac_E_eval", "flac_E", "flac_E_prog", *_ANYWHERE["eval"]),
        )
    },
)

#: A user's own list.
LIST = Corpus(name="list", layout="path,label", protocols={})

#: A list of Kaldi: wav.scp with utt2label and, if known, utt2spk beside it.
KALDI = Corpus(name="Kaldi", layout="path,label", protocols={})

#: Audio in folders whose names say what is in them.
FOLDERS = Corpus(name="folders", layout="path,label", protocols={})

#: Files of the ``datasets`` library; see ``dataio.parquet``.
PARQUET = Corpus(name="parquet", layout="path,label", protocols={})

#: Of two that fit a line, the first counts.
CORPORA = (
    ASVSPOOF2021_LA,
    ASVSPOOF2021_DF,
    ASVSPOOF5,
    ASVSPOOF5_CHALLENGE,
    FIVE_COLUMNS,
    ASVSPOOF2019_LA,
    CODECFAKE,
    ADD,
    IN_THE_WILD,
    SPOOFCELEB,
    MLAAD,
    AUDIOFOLDER,
)
