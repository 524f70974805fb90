"""Protocols: what is read, and the errors of bad ones."""

import os
import shutil

import pytest
from protocol_texts import rows

from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA_COUNTS,
    PARTITIONS,
)
from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_asvspoof2019_protocol,
    read_protocol,
    recognize,
)
from speechbrain_bilevel.utils.errors import InputError

GOOD = "S1 T1 - - bonafide\nS2 T2 - A01 spoof\n"


def write(folder, content, partition="train"):
    """Makes a protocol of the given text or bytes."""
    path = asvspoof2019_protocol_path(folder, partition)
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, str):
        content = content.encode("utf-8")
    path.write_bytes(content)
    return path


def refusal(folder, content):
    """The message about a protocol, which has to name the protocol."""
    path = write(folder, content)
    with pytest.raises(InputError) as caught:
        read_asvspoof2019_protocol(folder, "train")
    message = str(caught.value)
    assert str(path) in message
    return message


def test_rows(tmp_path):
    write(tmp_path, GOOD, "dev")
    folder = "ASVspoof2019_LA_dev/flac"
    assert rows(read_asvspoof2019_protocol(tmp_path, "dev")) == [
        ("T1", f"{folder}/T1.flac", "S1", "-", "bonafide", "dev"),
        ("T2", f"{folder}/T2.flac", "S2", "A01", "spoof", "dev"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", " \t\n"),
        GOOD + "\n \r\n\n",
        GOOD.replace("\n", "\n\n \t\n"),
        GOOD.rstrip(),
        b"\xef\xbb\xbf" + GOOD.encode(),
    ],
    ids=[
        "CRLF",
        "trailing",
        "blank end",
        "blank lines",
        "no last newline",
        "BOM",
    ],
)
def test_harmless_variations_read_the_same(tmp_path, content):
    write(tmp_path, GOOD)
    expected = rows(read_asvspoof2019_protocol(tmp_path, "train"))
    write(tmp_path, content)
    assert rows(read_asvspoof2019_protocol(tmp_path, "train")) == expected


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("S3 T3 - A01", "expected the 5 columns `speaker utterance - "),
        ("S3 T3 - A01 spoof 1", "separated by whitespace, found 6"),
        ("S3 T3 - A01 fake", "unknown label 'fake'"),
        ("S3 T3 - A01 Spoof", "unknown label 'Spoof'"),
        ("S3 T3 - A01 bonafide", "bonafide but has the attack 'A01'"),
        ("S3 T3 - - spoof", "spoof but has no attack"),
        (
            "S3 T3 aaa A01 spoof",
            "'aaa' in a column that is - in ASVspoof2019 LA",
        ),
        ("S3 T1 - A01 spoof", "T1 is already on line 1"),
        ("S3 a/b - A01 spoof", "'a/b' is not a plain name"),
        ("S3 a\\b - A01 spoof", "is not a plain name"),
        ("S3 .. - A01 spoof", "'..' is not a plain name"),
        ("S3 /etc/x - A01 spoof", "'/etc/x' is not a plain name"),
        ("S3 $HOME - A01 spoof", "'$HOME' is not a plain name"),
        ("S3 a\x07b - A01 spoof", "is not a plain name"),
        ("S3 T3 - A,1 spoof", "'A,1' is not a plain name"),
        ("S,3 T3 - A01 spoof", "'S,3' is not a plain name"),
    ],
)
def test_bad_line(tmp_path, line, fault):
    message = refusal(tmp_path, f"{GOOD}{line}\nS4 T4 - A01 spoof\n")
    assert "1 of 4 lines" in message
    (reported,) = [text for text in message.split("\n") if "line 3:" in text]
    assert fault in reported
    assert "'speaker utterance - attack label'" in message
    assert "unpack the corpus again" in message


def test_all_bad_lines_are_counted_and_five_shown(tmp_path):
    bad = "".join(f"S3 T{i} - A01 fake\n" for i in range(10, 17))
    message = refusal(tmp_path, GOOD + bad)
    assert "7 of 9 lines" in message
    shown = [line for line in message.split("\n") if "line" in line[:7]]
    assert [line.split(":")[0].strip() for line in shown] == [
        f"line {number}" for number in range(3, 8)
    ]
    assert "and 2 more" in message


def test_long_line_is_shortened(tmp_path):
    assert len(refusal(tmp_path, GOOD + "x" * 10**6)) < 1000


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_empty(tmp_path, content):
    assert "empty" in refusal(tmp_path, content)


def test_not_utf8_names_the_line(tmp_path):
    message = refusal(tmp_path, GOOD.encode() + b"S\xe9 T3 - A01 spoof\n")
    assert "line 3: not UTF-8" in message


@pytest.mark.parametrize(("label", "kept"), [("bonafide", 1), ("spoof", 0)])
def test_one_label_only(tmp_path, label, kept):
    message = refusal(tmp_path, GOOD.split("\n")[kept])
    assert f"none of the 1 trials is {label}" in message


def test_missing_protocol(tmp_path):
    with pytest.raises(InputError, match="cm.eval.trl.txt: cannot be read"):
        read_asvspoof2019_protocol(tmp_path, "eval")


def test_unknown_partition(tmp_path):
    with pytest.raises(InputError, match="'test': expected one of train, dev"):
        read_asvspoof2019_protocol(tmp_path, "test")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_official_protocol_has_the_official_counts(shared, tmp_path, partition):
    target = asvspoof2019_protocol_path(tmp_path, partition)
    target.parent.mkdir()
    shutil.copyfile(shared / "data" / "protocols" / target.name, target)
    trials = read_asvspoof2019_protocol(tmp_path, partition)
    assert (
        trials.label.value_counts().to_dict()
        == (ASVSPOOF2019_LA_COUNTS[partition])
    )
    # What a table of a million trials may take at rest.
    assert trials.memory_usage(deep=True).sum() < 128 * len(trials)

    attacks = trials.attack.value_counts().to_dict()
    del attacks["-"]
    first, last, each = {
        "train": (1, 6, 3800),
        "dev": (1, 6, 3716),
        "eval": (7, 19, 4914),
    }[partition]
    assert attacks == {f"A{i:02}": each for i in range(first, last + 1)}


@pytest.mark.parametrize(
    ("name", "partition"),
    [
        ("ASVspoof2019.LA.cm.train.trn.txt", "train"),
        ("ASVspoof2019.LA.cm.dev.trl.txt", "dev"),
        ("ASVspoof2019.LA.cm.eval.trl.txt", "eval"),
        ("mine.txt", "eval"),
    ],
)
def test_any_protocol_is_recognized_by_its_first_line(
    tmp_path, name, partition
):
    # One label alone will do: not every list is there to be evaluated.
    (tmp_path / name).write_text("\n" * 2 + GOOD.split("\n")[1])
    (trial,) = read_protocol(tmp_path / name).itertuples()
    assert recognize(tmp_path / name).name == "ASVspoof2019 LA"
    assert trial.path == f"ASVspoof2019_LA_{partition}/flac/T2.flac"
    assert trial.partition == partition


@pytest.mark.parametrize(
    "line",
    [
        "LA_E_9332881",
        "S1 T1 - A01",
        "PA_0010 PA_E_1000001 R3 M3 d4 r1 m1 s4 c4 spoof notrim eval",
        "x" * 10**4,
    ],
)
def test_what_is_no_protocol_says_what_is(tmp_path, line):
    path = tmp_path / "mine.txt"
    path.write_text(line)
    with pytest.raises(InputError) as caught:
        read_protocol(path)
    message = str(caught.value)
    assert f"{path}: the first line, " in message and len(message) < 1500
    assert (
        "5 columns: speaker utterance - attack label (ASVspoof2019" in message
    )
    assert "path (or wav, file, filename, ...) and label" in message


@pytest.mark.parametrize(
    "name, utterance, partition",
    [
        ("subset.txt", "LA_T_1", "train"),
        ("subset.txt", "LA_D_1", "dev"),
        ("subset.txt", "LA_E_1", "eval"),
        ("subset.txt", "T1", "eval"),
        ("my.train.txt", "LA_D_1", "train"),
    ],
)
def test_the_partition_shows_by_the_name_or_the_first_utterance(
    tmp_path, name, utterance, partition
):
    path = tmp_path / name
    path.write_text(f"S1 {utterance} - A01 spoof\n")
    (trial,) = read_protocol(path).itertuples()
    assert trial.partition == partition
    assert trial.path == f"ASVspoof2019_LA_{partition}/flac/{utterance}.flac"


def test_a_pipe_is_no_protocol(tmp_path):
    # It would be empty when it is read again.
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        InputError, match="pipe: a pipe or a device; expected a"
    ):
        read_protocol(tmp_path / "pipe")
