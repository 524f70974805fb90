"""Manifests whose rows stay in the file: what SpeechBrain makes of them, for
less memory."""

import copy
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    FilteredSortedDynamicItemDataset,
)

from speechbrain_bilevel.dataio import manifest_rows, name_index
from speechbrain_bilevel.dataio.manifest_dataset import ManifestDataset
from speechbrain_bilevel.dataio.manifest_rows import ManifestRows
from speechbrain_bilevel.utils.errors import InputError

HEADER = "ID,duration,wav,speaker,attack,label\n"
ROOT = {"data_root": "/data/LA"}
# Quoted, blank behind a comma, a $ in the ID, letters of several bytes, CRLF,
# empty cells, empty lines at both ends and between.
ODD = (
    HEADER + "\n"
    'a,1.5,"$data_root/x, y ""z"".flac",s1,A02,spoof\r\n'
    "b$data_root, 2,$data_root/$data_root,  s 2,-,bonafide\n"
    "\r\n\n"
    "ü,3e-1,/ü/字.flac,,A01,spoof\n"
    "d,4,plain,s1,A02,spoof\n\n"
)
KEYS = ["id", "duration", "wav", "speaker", "attack", "label"]


@pytest.fixture
def write(tmp_path):
    """Writes a manifest."""

    def write(text):
        path = tmp_path / "manifest.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def both(path):
    """SpeechBrain's dataset and ours on the same manifest."""
    return [
        kind.from_csv(str(path), ROOT, output_keys=KEYS)
        for kind in (DynamicItemDataset, ManifestDataset)
    ]


def made_up(rows):
    """A manifest of many rows of six attacks and bona fide."""
    lines = (
        f"utt_{n},{n}.5,$data_root/{n}.flac,s,{attack},"
        f"{'spoof' if attack != '-' else 'bonafide'}\n"
        for n, attack in zip(range(rows), np.resize(["A1", "A2", "-"], rows))
    )
    return HEADER + "".join(lines)


def test_every_row_is_as_speechbrain_reads_it(write):
    theirs, ours = both(write(ODD))
    assert list(ours) == list(theirs)
    assert list(ours.data_ids) == theirs.data_ids
    assert dict(ours.data) == theirs.data
    assert type(ours[0]["duration"]) is float
    assert ours.data_ids[1:3] == theirs.data_ids[1:3]
    assert ours.data_ids[-1] == "d"
    assert "b" not in ours.data and "ü" in ours.data
    with pytest.raises(IndexError):
        ours.data_ids[4]


def test_a_last_line_without_its_end_is_a_row(write):
    theirs, ours = both(write(ODD.rstrip()))
    assert list(ours) == list(theirs)


def test_a_mark_of_byte_order_is_no_part_of_the_header(write):
    rows = ManifestRows(write(b"\xef\xbb\xbfID,attack\nu,A01\n"))
    assert rows["u"] == {"attack": "A01"}


def test_filters_sorts_and_subsets_are_speechbrains(write):
    theirs, ours = both(write(made_up(50)))
    views = [
        dataset.filtered_sorted(
            key_min_value={"duration": 7},
            key_test={"label": lambda label: label == "spoof"},
            sort_key="duration",
            reverse=True,
            select_n=9,
        )
        for dataset in (theirs, ours)
    ]
    assert list(views[1]) == list(views[0]) and len(views[1]) == 9
    some = FilteredSortedDynamicItemDataset(ours, ["utt_7", "utt_3"])
    assert [row["wav"][-6:] for row in some] == ["7.flac", "3.flac"]
    assert list(ours.overfit_test(2, 5)) == list(theirs.overfit_test(2, 5))
    assert len(ours.batch_shuffle(8)) == 50


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_the_loader_asks_for(write, context):
    sets = both(write(made_up(40)))
    epochs = []
    for dataset, workers in zip(sets, (0, 2)):
        # A worker that is spawned can only be sent functions of modules.
        dataset.add_dynamic_item(len, takes="wav", provides="length")
        dataset.set_output_keys(["id", "length", "duration"])
        loader = sb.dataio.dataloader.make_dataloader(
            dataset,
            batch_size=7,
            shuffle=True,
            num_workers=workers,
            multiprocessing_context=context if workers else None,
        )
        epochs.append([(b.id, b.length, b.duration) for b in loader])
    assert repr(epochs[0]) == repr(epochs[1])
    assert len(epochs[0]) == 6


def test_copies_read_the_file_anew_unless_it_has_changed(write):
    path = write(ODD)
    rows = ManifestRows(path, ROOT)
    for twin in (copy.deepcopy(rows), pickle.loads(pickle.dumps(rows))):
        assert dict(twin) == dict(rows)
    pickled = pickle.dumps(rows)
    path.write_text(made_up(9))
    with pytest.raises(InputError, match="has changed since it was indexed"):
        pickle.loads(pickled)


def test_another_file_in_its_place_does_no_harm(write, tmp_path):
    path = write(ODD)
    rows = ManifestRows(path, ROOT)
    before = dict(rows)
    (tmp_path / "new").write_text(made_up(9))
    os.replace(tmp_path / "new", path)
    assert dict(rows) == before


@pytest.mark.parametrize("names, size", [(3, 1), (256, 1), (257, 2)])
def test_a_column_is_numbers_of_the_smallest_type(write, names, size):
    attacks = [f"A{n * 7 % names}" for n in range(600)]
    text = "".join(f"{n},{attack}\n" for n, attack in enumerate(attacks))
    found = ManifestRows(write("ID,attack\n" + text)).column("attack")
    assert list(found) == attacks
    assert found.codes.itemsize == size
    assert found.names == tuple(dict.fromkeys(attacks))


def test_cells_come_together_across_blocks(write, monkeypatch):
    monkeypatch.setattr(manifest_rows, "_BLOCK", 4)
    for count in (3, 4, 9):
        rows = ManifestRows(write(made_up(count)), ROOT)
        trials = rows.cells("ID", "label", "wav")
        assert list(trials) == [trials[n] for n in range(count)]
        # Two passes at once do not disturb each other.
        assert all(a[0] == b for a, b in zip(trials, rows.cells("ID")))


def test_ids_with_equal_hashes_are_told_apart(write, monkeypatch):
    for module in (manifest_rows, name_index):
        monkeypatch.setattr(module, "name_hash", lambda utt: len(utt) % 2)
    theirs, ours = both(write(made_up(30)))
    assert dict(ours.data) == theirs.data
    assert "utt_30" not in ours.data and "utt_300" not in ours.data


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: has no column ID"),
        ("utt,wav\na,b\n", "line 1: has no column ID"),
        ("ID,wav,wav\na,b,c\n", "line 1: names a column twice"),
        (HEADER, "manifest.csv: lists no clip"),
        ("ID,wav\na,b\n\nc\n", "line 4: 1 cells, not the 2 of the header"),
        ("ID,wav\na,b,c\n", "line 2: 3 cells, not the 2"),
        ("ID,duration\na,1\nb,long\n", "line 3: could not .* float: 'long'"),
        ('ID,wav\na,"b\nc"\n', "line 2: unexpected end of data"),
        ('ID,wav\na,"b', "line 2: unexpected end of data"),
        ("ID,wav\na,b\rc,d\n", "line 2: new-line character"),
        (b"ID,wav\na,b\nc,\xff\n", "line 3: 'utf-8' codec can't decode"),
        ("ID,wav\na,$b_root/c\n", r"line 2: nothing is given .* \$b_root"),
        ("ID,n\na,1\nb,2\n\na,3\n", "line 5: the ID 'a' is already on line 2"),
    ],
)
def test_bad_manifests_are_refused_with_the_line(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        ManifestDataset.from_csv(write(text), ROOT)
    assert "manifest.csv" in str(caught.value)
    assert "Expected a manifest" in str(caught.value)


def test_a_missing_file_and_a_missing_column_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="none.csv: cannot be read .No such"):
        ManifestRows(tmp_path / "none.csv")
    rows = ManifestRows(write("ID,wav\na,b\n"))
    with pytest.raises(InputError, match="csv, line 1: has no column attack"):
        rows.column("attack")


def test_a_clip_takes_few_bytes(write):
    path, count = write(made_up(20_000)), 20_000
    tracemalloc.start()
    dataset = ManifestDataset.from_csv(path, ROOT, output_keys=["id"])
    attacks = dataset.data.column("attack")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == len(attacks.codes) == count
    # 8 of the hash, 4 of the offset, 2 of the order, 1 of the attack.
    assert taken < 20 * count


def test_tensors_index_the_ids(write):
    rows = ManifestRows(write(made_up(5)), ROOT)
    assert rows.cells("ID")[torch.tensor(3)] == "utt_3"
