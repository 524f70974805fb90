"""Reading protocols whose columns are separated by blanks."""

from speechbrain_bilevel.dataio.collecting import collect_trials
from speechbrain_bilevel.dataio.trials import (
    BONAFIDE,
    NO_ATTACK,
    SPOOF,
    Trial,
    check_name,
    protocol_lines,
)
from speechbrain_bilevel.errors import InputError
from speechbrain_bilevel.text import shorten


def read_columns(corpus, protocol, partition):
    """Reads a protocol whose columns are separated by blanks.

    Arguments
    ---------
    corpus : Corpus
        Whose protocol it is.
    protocol : str or Path
        The file.
    partition : str
        Of trials that do not tell it themselves.

    Returns
    -------
    TrialTable
        In the order of the protocol.

    Raises
    ------
    InputError
        The protocol is missing, empty, not UTF-8 or has bad lines; all bad
        lines are counted and the first ones shown.

    Example
    -------
    >>> from speechbrain_bilevel.dataio.corpora import ASVSPOOF2019_LA
    >>> protocol = getfixture("tmp_path") / "protocol.txt"
    >>> _ = protocol.write_text("S1 T2 - A01 spoof")
    >>> read_columns(ASVSPOOF2019_LA, protocol, "train")[0].path
    'ASVspoof2019_LA_train/flac/T2.flac'
    """
    rows = ((number, line.split()) for number, line in protocol_lines(protocol))
    parse = _row_parser(corpus, partition)
    return collect_trials(protocol, rows, parse, _describe_rows(corpus))


def _row_parser(corpus, partition):
    """A function that makes a ``Trial`` of the columns of a line."""
    names = corpus.layout.split()
    speaker_at, utt_at = names.index("speaker"), names.index("utterance")
    attack_at, label_at = names.index(corpus.attack), names.index("label")
    fixed = [at for at, name in enumerate(names) if name == "-"]
    tell_partition = _partition_teller(corpus, names, partition)
    folders = {part: places[0] for part, places in corpus.audio.items()}
    # A protocol has many lines, but few speakers and attacks.
    checked = set()

    def parse(columns):
        if len(columns) != len(names):
            found = shorten(" ".join(columns))
            raise InputError(f"{len(columns)} columns in {found}")
        speaker, utt = columns[speaker_at], columns[utt_at]
        attack, label = columns[attack_at], columns[label_at]
        check_name(utt)
        for name in (speaker, attack):
            if name not in checked:
                check_name(name)
                checked.add(name)
        for at in fixed:
            if columns[at] != "-":
                found = shorten(columns[at])
                raise InputError(
                    f"column {at + 1} is {found}, not - (is it PA?)"
                )
        attack = _attack_of(utt, attack, label)
        part = tell_partition(columns)
        path = f"{folders[part]}/{utt}.flac"
        return Trial(utt, path, speaker, attack, label, part)

    return parse


def _attack_of(utt, attack, label):
    """The attack of a trial; corpora write that of bona fide differently."""
    none = attack in (NO_ATTACK, BONAFIDE)
    if label == BONAFIDE:
        if none:
            return NO_ATTACK
        raise InputError(
            f"{utt} is bonafide but has the attack {shorten(attack)}"
        )
    if label == SPOOF:
        if not none:
            return attack
        raise InputError(f"{utt} is spoof but has no attack")
    raise InputError(f"unknown label {shorten(label)}")


def _partition_teller(corpus, names, partition):
    """A function that tells the partition of the columns of a line."""
    utt_at = names.index("utterance")
    subset_at = names.index("subset") if "subset" in names else None

    def by_subset(columns):
        subset = columns[subset_at]
        if subset not in corpus.audio:
            known = ", ".join(corpus.audio)
            raise InputError(f"unknown subset {shorten(subset)}, not {known}")
        return subset

    def by_prefix(columns):
        for prefix, part in corpus.prefixes.items():
            if columns[utt_at].startswith(prefix):
                return part
        raise InputError(
            f"{shorten(columns[utt_at])} does not begin with "
            f"{', '.join(corpus.prefixes)}, which tell the partition"
        )

    if subset_at is not None:
        return by_subset
    return by_prefix if corpus.prefixes else lambda columns: partition


def _describe_rows(corpus):
    return (
        f"Expected on every line {corpus.n_columns} columns, "
        f"'{corpus.layout}', where label is bonafide (then {corpus.attack} is "
        f"- or bonafide) or spoof (then {corpus.attack} is a name such as "
        f"{corpus.example}); correct these lines, get the corpus' full keys "
        "or unpack the corpus again"
    )
