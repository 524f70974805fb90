"""Protocols of all corpora, as these ship them."""

import pytest
from protocol_texts import (
    ASV5,
    ASV5_CHALLENGE,
    DF2021,
    LA2021,
    WILD,
    refusal,
    rows,
    write,
)

from speechbrain_bilevel.dataio.protocols import read_protocol, recognize


def test_asvspoof2021_la(tmp_path):
    folder = "ASVspoof2021_LA_eval/flac"
    assert rows(read_protocol(write(tmp_path / "x.txt", LA2021))) == [
        (f"LA_E_{i}", f"{folder}/LA_E_{i}.flac", *rest)
        for i, *rest in (
            (1, "LA_0009", "A07", "spoof", "eval"),
            (2, "LA_0020", "-", "bonafide", "eval"),
            (3, "LA_0020", "-", "bonafide", "progress"),
            (4, "LA_0020", "A19", "spoof", "hidden"),
        )
    ]


def test_asvspoof2021_df_has_the_vocoder_as_attack(tmp_path):
    folder = "ASVspoof2021_DF_eval/flac"
    nonautoregressive = "neural_vocoder_nonautoregressive"
    assert rows(read_protocol(write(tmp_path / "x.txt", DF2021))) == [
        (f"DF_E_{i}", f"{folder}/DF_E_{i}.flac", *rest)
        for i, *rest in (
            (1, "LA_0023", "traditional_vocoder", "spoof", "progress"),
            (2, "TEF2", nonautoregressive, "spoof", "eval"),
            (3, "VCC2TM2", "-", "bonafide", "eval"),
            (4, "VCC2TM2", "-", "bonafide", "hidden"),
        )
    ]


def test_asvspoof5(tmp_path):
    bonafide, spoof = "D_0000000190", "D_0000000169"
    expected = [
        (spoof, f"flac_D/{spoof}.flac", "D_4461", "A14", "spoof", "dev"),
        (
            bonafide,
            f"flac_D/{bonafide}.flac",
            "D_0461",
            "-",
            "bonafide",
            "dev",
        ),
    ]
    # Whatever the file is called, and whatever whitespace is between columns.
    for content in (ASV5, ASV5.replace(" ", "\t")):
        assert (
            rows(read_protocol(write(tmp_path / "x.tsv", content))) == expected
        )


@pytest.mark.parametrize(
    ("letter", "partition", "folder"),
    [("T", "train", "flac_T"), ("E", "eval", "flac_E_eval")],
)
def test_asvspoof5_partitions(tmp_path, letter, partition, folder):
    content = ASV5.replace("D_", f"{letter}_")
    trials = read_protocol(write(tmp_path / "x.tsv", content))
    for trial in trials.itertuples():
        assert trial.partition == partition
        assert trial.path == f"{folder}/{trial.utt}.flac"


def test_asvspoof5_as_the_challenge_had_it(tmp_path):
    path = write(tmp_path / "ASVspoof5.train.metadata.txt", ASV5_CHALLENGE)
    spoof, bonafide = read_protocol(path).itertuples()
    assert (spoof.attack, spoof.label) == ("A05", "spoof")
    assert (bonafide.attack, bonafide.label) == ("-", "bonafide")
    assert bonafide.path == "flac_T/T_0000000001.flac"


def test_in_the_wild(tmp_path):
    assert rows(read_protocol(write(tmp_path / "meta.csv", WILD))) == [
        ("0.wav", "0.wav", "Alec_Guinness", "spoof", "spoof", "eval"),
        ("4.wav", "4.wav", "Christopher_Hitchens", "-", "bonafide", "eval"),
    ]
    assert recognize(tmp_path / "meta.csv").name == "In-the-Wild"


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        (LA2021, "S LA_E_9 alaw ita_tx A07 fake notrim eval", "label 'fake'"),
        (LA2021, "S LA_E_9 alaw ita_tx A07 spoof notrim test", "subset 'test'"),
        (
            LA2021,
            "S LA_E_9 alaw ita_tx bonafide spoof notrim eval",
            "no attack",
        ),
        (LA2021, "S ../x alaw ita_tx A07 spoof notrim eval", "plain name"),
        (LA2021, "S LA_E_1 alaw ita_tx A07 spoof notrim eval", "on line 1"),
        (LA2021, "S LA_E_9 alaw ita_tx A07 spoof notrim", "found 7"),
        (DF2021, "S D_9 a b A14 bonafide trim eval v - - - -", "attack 'v'"),
        (ASV5, "D_1 X_1 F - - - AC1 A14 spoof -", "'X_1' does not begin"),
        (ASV5, "D_1 D_1 F - - - AC1 A14 - spoof", "unknown label '-'"),
    ],
)
def test_bad_line(tmp_path, content, line, fault):
    path = write(tmp_path / "x.txt", f"{content}{line}\n")
    message = refusal(read_protocol, path)
    number = content.count("\n") + 1
    assert f"{path}: 1 of {number} lines cannot be used" in message
    (reported,) = [x for x in message.split("\n") if f"line {number}:" in x]
    assert fault in reported
    assert f"'{recognize(path).layout}'" in message
