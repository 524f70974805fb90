"""Finding the protocol and the audio of a corpus in its data folder."""

import shutil

import pytest
from protocol_texts import (
    ASV5,
    ASV5_CHALLENGE,
    DF2021,
    LA2019,
    LA2021,
    WILD,
    refusal,
    rows,
    write,
)

from speechbrain_bilevel.dataio.corpora import (
    ASVSPOOF2019_LA_COUNTS,
    CORPORA,
    Corpus,
)
from speechbrain_bilevel.dataio.prepare import find_trials
from speechbrain_bilevel.dataio.protocols import (
    asvspoof2019_protocol_path,
    read_protocol,
)


@pytest.fixture
def la2019(tmp_path):
    for partition in ("train", "dev"):
        write(asvspoof2019_protocol_path(tmp_path, partition), LA2019)
    return tmp_path


def test_find_asvspoof2019(la2019):
    (_, trial) = find_trials(la2019, "dev").itertuples()
    assert trial.path == "ASVspoof2019_LA_dev/flac/T2.flac"
    assert trial.partition == "dev"


def test_find_names_the_partitions_that_there_are(la2019):
    message = refusal(find_trials, la2019, "eval")
    assert "no protocol of partition 'eval'. Expected one of train" in message
    assert "ASVspoof2019 LA" in message and "--partition" in message


@pytest.mark.parametrize(
    ("place", "content", "partition"),
    [
        ("keys/LA/CM/trial_metadata.txt", LA2021, "eval"),
        ("LA-keys-full/keys/LA/CM/trial_metadata.txt", LA2021, "progress"),
        ("keys/DF/CM/trial_metadata.txt", DF2021, "eval"),
        ("DF-keys-full/keys/DF/CM/trial_metadata.txt", DF2021, "hidden"),
        ("keys/CM/trial_metadata.txt", LA2021, "eval"),
        ("keys/CM/trial_metadata.txt", DF2021, "eval"),
        ("trial_metadata.txt", LA2021, "hidden"),
        ("trial_metadata.txt", DF2021, "progress"),
        ("ASVspoof5.dev.track_1.tsv", ASV5, "dev"),
        ("ASVspoof5_protocols/ASVspoof5.dev.track_1.tsv", ASV5, "dev"),
        ("ASVspoof5.train.metadata.txt", ASV5_CHALLENGE, "train"),
        ("meta.csv", WILD, "eval"),
    ],
)
def test_find_in_every_place(tmp_path, place, content, partition):
    path = write(tmp_path / place, content)
    found = rows(find_trials(tmp_path, partition))
    assert found == [r for r in rows(read_protocol(path)) if r[-1] == partition]
    assert found


def test_a_list_within_the_folder_has_its_own_folder(tmp_path):
    write(tmp_path / "release_in_the_wild" / "meta.csv", WILD)
    assert find_trials(tmp_path).path[0] == "release_in_the_wild/0.wav"


def test_none_found_says_what_was_looked_for(tmp_path):
    message = refusal(find_trials, tmp_path)
    assert str(tmp_path) in message and "--protocol FILE" in message
    for corpus in CORPORA:
        place = next(iter(corpus.protocols.values()))[0]
        assert f"{corpus.name}: {place}" in message


def test_two_found_are_named(tmp_path):
    la = write(tmp_path / "keys/LA/CM/trial_metadata.txt", LA2021)
    df = write(tmp_path / "keys/DF/CM/trial_metadata.txt", DF2021)
    message = refusal(find_trials, tmp_path)
    assert f"ASVspoof2021 LA: {la}\n" in message
    assert f"ASVspoof2021 DF: {df}\n" in message
    assert "--protocol FILE" in message
    assert find_trials(tmp_path, protocol=df).utt[0] == "DF_E_2"


def test_an_unknown_protocol_is_told(tmp_path):
    pa = "PA_0010 PA_E_1 R3 M3 d4 r1 m1 s4 c4 spoof notrim eval\n"
    path = write(tmp_path / "trial_metadata.txt", pa)
    message = refusal(find_trials, tmp_path)
    assert f"{path}: the first line" in message
    # Beside a known one it does not matter.
    write(tmp_path / "ASVspoof5.dev.track_1.tsv", ASV5)
    assert len(find_trials(tmp_path, "dev")) == 2


def test_missing_folder(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert "does not exist" in refusal(find_trials, nowhere)
    protocol = write(tmp_path / "x.txt", LA2021)
    assert "nowhere: does" in refusal(find_trials, nowhere, "eval", protocol)


def test_partition_that_the_protocol_lacks(tmp_path):
    path = write(tmp_path / "x.txt", LA2021)
    message = refusal(find_trials, tmp_path, "dev", path)
    assert "partition 'dev'" in message
    assert "that it has, eval (2), " in message
    assert "progress (1)" in message and "hidden (1)" in message


def test_audio_is_taken_from_where_it_is(tmp_path):
    write(tmp_path / "trial_metadata.txt", DF2021.replace("progress", "eval"))
    part = "ASVspoof2021_DF_eval_part03/ASVspoof2021_DF_eval/flac"
    write(tmp_path / part / "DF_E_2.flac", "")
    write(tmp_path / "flac" / "DF_E_1.flac", "")
    write(tmp_path / part / "DF_E_1.flac", "")
    assert find_trials(tmp_path).path.tolist() == [
        "flac/DF_E_1.flac",
        f"{part}/DF_E_2.flac",
        # Nowhere: the usual place.
        "ASVspoof2021_DF_eval/flac/DF_E_3.flac",
    ]


def test_a_newcomer_is_read_and_found(tmp_path, monkeypatch):
    mine = Corpus(
        name="Mine",
        layout="utterance speaker - kind label year country",
        protocols={"eval": ("lists/eval.txt",)},
        audio={"eval": ("flac",)},
        attack="kind",
    )
    for module in ("protocols", "prepare"):
        name = f"speechbrain_bilevel.dataio.{module}.CORPORA"
        monkeypatch.setattr(name, (*CORPORA, mine))
    write(tmp_path / "lists" / "eval.txt", "u s - A spoof 2026 FI\n")
    assert rows(find_trials(tmp_path)) == [
        ("u", "flac/u.flac", "s", "A", "spoof", "eval")
    ]


def test_official_protocols_through_the_folder(shared, tmp_path):
    for partition, counts in ASVSPOOF2019_LA_COUNTS.items():
        target = asvspoof2019_protocol_path(tmp_path, partition)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(shared / "data" / "protocols" / target.name, target)
        trials = find_trials(tmp_path, partition)
        assert trials.label.value_counts().to_dict() == counts
        assert rows(read_protocol(target)) == rows(trials)


def test_the_wanted_protocol_is_named_when_it_cannot_be_read(la2019):
    path = asvspoof2019_protocol_path(la2019, "eval")
    path.write_bytes(LA2019.encode("utf-16"))
    message = refusal(find_trials, la2019, "eval")
    assert f"{path}, line 1: not UTF-8 text" in message
    assert len(find_trials(la2019, "dev")) == 2


def test_a_list_of_one_s_own_is_not_taken_for_the_corpus(la2019):
    write(la2019 / "meta.csv", "path,label\na.wav,fake\n")
    assert len(find_trials(la2019, "dev")) == 2
    wild = 'file, speaker,"label"\n0.wav,Alec Guinness,spoof\n'
    write(la2019 / "meta.csv", wild)
    assert "protocols of 2 corpora" in refusal(find_trials, la2019, "dev")
