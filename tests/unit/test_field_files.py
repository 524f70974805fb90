"""Score files, lists and corpora as toolkits and people write them.

Each is read right, or refused with the way out in the message.
"""

import numpy as np
import pytest
import soundfile
from protocol_texts import rows

from speechbrain_bilevel.cli import main
from speechbrain_bilevel.dataio.prepare import find, find_trials
from speechbrain_bilevel.dataio.protocols import read_protocol
from speechbrain_bilevel.evaluation.score_files import read_cm_scores
from speechbrain_bilevel.utils.errors import InputError

# ---------------------------------------------------------------- score files
# Two bona fide trials, B1 and B2, and two spoofs, S1 and S2.
SCORES = {"B1": 2.5, "S1": -1.0, "B2": 3.0, "S2": 0.5}
LABELS = {"B1": "bonafide", "S1": "spoof", "B2": "bonafide", "S2": "spoof"}
DIGITS = {utt: int(label == "bonafide") for utt, label in LABELS.items()}
KEY = "".join(f"{utt}\t{label}\n" for utt, label in LABELS.items())


def lines(template, header=""):
    """The four trials in a template."""
    text = "".join(
        template.format(
            utt=utt,
            score=score,
            key=LABELS[utt],
            digit=DIGITS[utt],
            other=1 - DIGITS[utt],
            source="-" if DIGITS[utt] else "A07",
            half=score / 2,
            minus=-score / 2,
            i=i,
        )
        + "\n"
        for i, (utt, score) in enumerate(SCORES.items())
    )
    return f"{header}\n{text}" if header else text


GOOD = {
    "2019": (lines("{utt} {source} {key} {score}"), "utt source key score"),
    "2019 with commas": (lines("{utt},{source},{key},{score}"), "source key"),
    "ASVspoof 5 baseline": (
        lines("LA_1 {utt} {score} {key}"),
        "ASVspoof 5's baselines: speaker utt score key",
    ),
    "utt key score": (lines("{utt} {key} {score}"), "utt key score"),
    "utt key score, semicolons": (lines("{utt};{key};{score}"), "utt key"),
    "NII": (lines("Output, {utt}, {digit}, {score}"), "NII's toolkit"),
    "official with key": (
        lines("{utt}\t{score}\t{key}", "filename\tcm-score\tcm-label"),
        "a table: filename cm-score cm-label",
    ),
    "sasv": (
        lines(
            "spk\t{utt}\t{score}\t9\t9\t{key}",
            "spk\tfilename\tcm-score\tasv-score\tsasv-score\tcm-label",
        ),
        "a table: spk filename cm-score - - cm-label",
    ),
    "DeepFense": (
        lines(
            "{utt},{digit},{minus},{half}",
            "ID_audio,label,score_class0,score_class1",
        ),
        "a table: ID_audio label score_class0 score_class1",
    ),
    "AntiDeepfake": (
        lines('{utt},"[{minus}, {half}]",{digit}', "ID,Score,Label"),
        "a table: ID Score Label",
    ),
    "pandas with index": (
        lines("{i},{utt},{key},{score}", ",utt,label,score"),
        "a table: - utt label score",
    ),
    "whitespace and header": (
        lines("{utt} {key} {score}", "utt label score"),
        "a table",
    ),
    "words": (
        lines("{utt} {key} {score}").replace("spoof", "DeepFake"),
        "utt key score",
    ),
    "A00": (
        lines("{utt} {source} {key} {score}").replace("-  ", "A00 "),
        "2019",
    ),
}


def write(tmp_path, text, name="scores.txt"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def expect_the_four(scores):
    assert dict(zip(scores.utt, scores.score)) == pytest.approx(SCORES)
    assert dict(zip(scores.utt, scores.label)) == LABELS


@pytest.mark.parametrize("text, read_as", GOOD.values(), ids=GOOD)
def test_score_files_are_read_and_it_is_said_as_what(tmp_path, text, read_as):
    scores = read_cm_scores(write(tmp_path, text))
    expect_the_four(scores)
    assert read_as in scores.attrs["read_as"]


SAID = {
    "two logits": (
        lines("{utt} {minus} {half}"),
        {"columns": "utt spoof bonafide"},
    ),
    "the other way round": (
        lines("{utt} {half} {minus}"),
        {"columns": "utt bonafide spoof"},
    ),
    "digits": (
        lines("{utt} {other} {score}"),
        {"columns": "utt key score", "bonafide": "0"},
    ),
    "digits below a header": (
        lines("{utt},{digit},{score}", "utt,label,score"),
        {"bonafide": "1"},
    ),
    "digits in four columns": (
        lines("{utt} - {digit} {score}"),
        {"columns": "utt - key score", "bonafide": "1"},
    ),
    "two scores": (
        lines("{utt},{key},7,{score}", "utt,label,score,llr"),
        {"columns": "utt key - score"},
    ),
    "an index and no header": (
        lines("{i},{utt},{key},{score}"),
        {"columns": "- utt key score"},
    ),
}


@pytest.mark.parametrize("text, options", SAID.values(), ids=SAID)
def test_what_cannot_be_known_is_refused_until_it_is_said(
    tmp_path, text, options
):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match="--columns|--bonafide"):
        read_cm_scores(path)
    key = write(tmp_path, "filename\tcm-label\n" + KEY, "key.tsv")
    expect_the_four(read_cm_scores(path, read_protocol(key), **options))


BAD = {
    "a key": ("filename\tcm-label\n" + KEY, "--protocol, beside a score file"),
    "ambiguous": ("B1 0.5 1\n", 'utt spoof bonafide" or .*utt key score'),
    "decimal commas": ("B1 - bonafide 2,5\n", "'2,5' is not a number"),
    "two scores": ("utt,score,llr\nB1,1,2\n", "may both be the score"),
    "a pair of three": ('id,score\nB1,"[1, 2, 3]"\n', "no pair of logits"),
    "six columns": ("a b c d e 1\n", 'found 6 columns.*--columns "utt - score'),
}


@pytest.mark.parametrize("text, message", BAD.values(), ids=BAD)
def test_score_files_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_cm_scores(write(tmp_path, text))


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            "utt points",
            "'points' is no kind of column; expected .* score",
        ),
        ("utt utt score", "'utt' is there twice"),
        ("utt key", "expected utt, and score"),
        ("utt - - score", "4 words, but 'B1 2.5' has another number"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        read_cm_scores(write(tmp_path, "B1 2.5\nS1 0\n"), columns=columns)


def test_two_readings_are_both_named(tmp_path):
    path = write(tmp_path, "B1 x 1 0\nS1 y 0 1\n")
    with pytest.raises(InputError) as caught:
        read_cm_scores(path, bonafide="1")
    assert '"utt source key score" or --columns' in str(caught.value)
    assert '"speaker utt score key"' in str(caught.value)


@pytest.mark.parametrize("place", ["{}.flac", "/data/LA/flac/{}.wav", "x/{}"])
def test_names_with_folders_and_endings(tmp_path, place):
    key = write(tmp_path, "filename\tcm-label\n" + KEY, "key.tsv")
    text = lines(f"{place.format('{utt}')} {{score}}")
    scores = read_cm_scores(write(tmp_path, text), read_protocol(key))
    expect_the_four(scores)
    said = "names matched without folders and endings"
    assert said in scores.attrs["read_as"]
    assert f"({place.format('B1')} is B1)" in scores.attrs["read_as"]
    # One missing is one missing.
    text = text.replace("S2", "S3")
    with pytest.raises(InputError, match="missing trials: 4"):
        read_cm_scores(write(tmp_path, text), read_protocol(key))


COMMAS = "utt - score"


@pytest.mark.parametrize(
    "text, options",
    [
        # The first line is a trial, not a header.
        ("my B1,x,2.5\nS1,y,-1\n", {"columns": COMMAS}),
        ('"my B1","x","2.5"\n"S1","y","-1"\n', {"columns": COMMAS}),
        ('my B1,"[0, 2.5]",1\nS1,"[0, -1]",0\n', {"columns": "utt score -"}),
        # Quotes, blanks after separators, indices without a name.
        ('"utt","score"\n"my B1","2.5"\n"S1","-1"\n', {}),
        ("my_B1, 2.5\nS1, -1\n", {}),
        ("my_B1; 2.5\nS1; -1\n", {}),
        ("\tutt\tscore\n0\tmy B1\t2.5\n1\tS1\t-1\n", {}),
        (" utt score\n0 my_B1 2.5\n1 S1 -1\n", {}),
        ("id,filename,score\n0,my B1,2.5\n1,S1,-1\n", {}),
        ("audio_path,llr\nmy B1,2.5\nS1,-1\n", {}),
        ("my_B1 2.5 bonafide\nS1 -1 spoof\n", {}),
        # What `classify` says is no key.
        (
            "path,label,score,calibrated\nmy B1,spoof,2.5,True\n"
            "S1,spoof,-1,True\n",
            {},
        ),
    ],
)
def test_tables_of_other_programs(tmp_path, text, options):
    path = write(tmp_path, text)
    scores = read_cm_scores(path, need_keys=False, **options)
    assert scores.utt.tolist() == ["my_B1", "S1"]
    assert scores.score.tolist() == [2.5, -1.0]
    if "label" in scores:
        assert scores.label.tolist() == ["bonafide", "spoof"]


@pytest.mark.parametrize(
    "text", ["a;0,5\nb;0,25\n", "a|0,5\nb|0,25\n", "n/a;x\n"]
)
def test_decimal_commas_are_no_separators(tmp_path, text):
    with pytest.raises(InputError):
        read_cm_scores(write(tmp_path, text), need_keys=False)


def test_names_are_matched_before_partitions_are_told_apart(tmp_path):
    trials = read_protocol(
        write(
            tmp_path,
            "id,path,label,partition\ne,e.wav,real,eval\np,p.wav,fake,dev\n",
            "list.csv",
        )
    )
    path = write(tmp_path, "flac/e.flac 1\nflac/p.flac 0\n")
    scores = read_cm_scores(path, trials, "eval", need_keys=False)
    assert (scores.utt.tolist(), scores.score.tolist()) == (["e"], [1.0])
    # Partitions may use the same names.
    twice = trials.assign(utt="e")
    path = write(tmp_path, "e 1\n")
    for partition, label in (("eval", "bonafide"), ("dev", "spoof")):
        scores = read_cm_scores(path, twice, partition, need_keys=False)
        assert scores.label.tolist() == [label]


def test_two_files_of_one_name_are_not_matched(tmp_path):
    key = write(tmp_path, "filename\tcm-label\n" + KEY, "key.tsv")
    text = lines("{utt}.flac {score}") + "B1.wav 1\n"
    with pytest.raises(InputError, match="extra trials: 5"):
        read_cm_scores(write(tmp_path, text), read_protocol(key))


def test_the_command_says_it(tmp_path, capsys):
    path = write(tmp_path, lines("LA_1 {utt} {score} {key}"))
    assert main(["evaluate", str(path), "--resamples", "0"]) == 0
    out = capsys.readouterr().out
    assert "scores: read as ASVspoof 5's baselines: speaker utt score" in out
    two = write(tmp_path, lines("{utt} {minus} {half} {key}"), "two.txt")
    options = ["--columns", "utt spoof bonafide key", "--resamples", "0"]
    assert main(["evaluate", str(two), *options]) == 0
    assert "two: read as --columns says" in capsys.readouterr().out


# ---------------------------------------------------------- lists and corpora
@pytest.fixture
def corpus(tmp_path):
    """Makes audio, and files of the given texts, in a folder."""

    def make(audio=(), **texts):
        for number, name in enumerate(audio):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).normal(0, 0.1, 8000)
            soundfile.write(path, noise, 16000 + 8000 * (number % 2))
        for name, text in texts.items():
            write(tmp_path, text, name)
        return tmp_path

    return make


TWO = [
    ("b", "bonafide", "-"),
    ("s", "spoof", "spoof"),
]
LISTS = {
    "semicolons": "path;label\nb.wav;real\ns.wav;fake\n",
    "bars": "path|label\nb.wav|real\ns.wav|fake\n",
    "filename": "filename,label\nb.wav,bona_fide\ns.wav,deepfake\n",
    "file_name": "file_name,label\nb.wav,genuine\ns.wav,spoof\n",
    "backslashes": "path,label\n.\\b.wav,real\n.\\s.wav,fake\n",
    "key": "file\tkey\nb.wav\tbonafide\ns.wav\tspoof\n",
    "names without endings": "filename\tcm-label\nb\tbonafide\ns\tspoof\n",
    "A00": "path,label,attack\nb.wav,real,A00\ns.wav,fake,-\n",
    "whitespace": "path label\nb.wav real\ns.wav fake\n",
    "AntiDeepfake": "ID,Label,Path,Speaker,Proportion\n"
    "b,real,$ROOT/b.wav,-,test\ns,fake,$ROOT/s.wav,-,test\n",
    "ADD": "b.wav genuine\ns.wav fake\n",
    "Codecfake": "b.wav real 0\ns.wav fake 6\n",
    "five columns": "b b - - bonafide\ns s - - spoof\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists(corpus, tmp_path, text):
    folder = corpus(["b.wav", "s.wav"], **{"list.txt": text})
    trials = find_trials(folder / "list.txt")
    assert [path.removeprefix("./") for path in trials.path] == [
        "b.wav",
        "s.wav",
    ]
    assert trials.label.tolist() == ["bonafide", "spoof"]
    assert trials.attack[0] == "-"
    assert trials.attack[1] == ("6" if "fake 6" in text else "spoof")
    assert main(["prepare", str(folder / "list.txt"), f"{folder}/m.csv"]) == 0
    assert len(read_protocol(folder / "m.csv")) == 2


@pytest.mark.parametrize("digit, label", [("1", "bonafide"), ("0", "spoof")])
def test_digits_are_labels_once_it_is_said_which(tmp_path, digit, label):
    path = write(tmp_path, f"file_name,key\nb.wav,{digit}\ns.wav,{digit}\n")
    with pytest.raises(InputError, match=r"--bonafide 0 or --bonafide 1"):
        read_protocol(path)
    assert read_protocol(path, bonafide="1").label.tolist() == [label] * 2


def test_columns_of_a_list_may_be_said(tmp_path):
    # DECRO's list names the source of bona fide speech as if it were an attack.
    path = write(tmp_path, "G1 T1 - aidatatang bonafide\nu 2 - baidu spoof\n")
    with pytest.raises(InputError, match="bonafide but has the attack 'aida"):
        read_protocol(path)
    trials = read_protocol(path, columns="speaker utt - - label")
    assert rows(trials[["utt", "speaker", "label"]]) == [
        ("T1", "G1", "bonafide"),
        ("2", "u", "spoof"),
    ]


@pytest.mark.parametrize(
    "columns, message",
    [
        ("path lable", "'lable' is no kind of column; expected .* label"),
        ("path path", "'path' is there twice"),
        ("speaker label", "expected path or utt"),
        ("path - label", "3 words, but 'b.wav,human' has another number"),
    ],
)
def test_columns_of_a_list_that_do_not_fit(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        read_protocol(write(tmp_path, "b.wav,human\n"), columns)


def test_a_bad_first_line_is_no_header(tmp_path):
    path = write(tmp_path, "b.wav,human\ns.wav,spoof\n")
    with pytest.raises(InputError, match="line 1: unknown label 'human'"):
        read_protocol(path, "path label")
    # Names of columns are one, also without labels.
    path = write(tmp_path, "filename,spk\nb.wav,ann\n")
    trials = read_protocol(path, "path speaker", need_labels=False)
    assert trials.path.tolist() == ["b.wav"]


def test_one_file_with_two_labels(corpus):
    folder = corpus(
        ["b.wav"],
        **{"list.csv": "id,path,label\n1,b.wav,real\n2,./b.wav,fake\n"},
    )
    with pytest.raises(InputError, match=r"both bona fide .*1 \(b.wav\)"):
        find_trials(folder / "list.csv")


def test_attacks_that_are_not_spoofceleb_s(tmp_path):
    path = write(tmp_path, "file,speaker,attack\na.wav,s1,-\nb.wav,s2,A00\n")
    with pytest.raises(InputError, match="(?s)2 of 2 .*add a column label"):
        read_protocol(path, need_labels=False)


FOLDERS = {
    "FakeOrReal": (
        {
            "training/real/1.wav": ("bonafide", "-", "train"),
            "testing/fake/2.wav": ("spoof", "spoof", "eval"),
            "testing/real/3.wav": ("bonafide", "-", "eval"),
        },
        "eval",
    ),
    "DFADD": (
        {
            "DATASET_VCTK_BONAFIDE/test/1.wav": ("bonafide", "-", "eval"),
            "DATASET_MatchaTTS/spoof/2.wav": (
                "spoof",
                "DATASET_MatchaTTS",
                "eval",
            ),
        },
        None,
    ),
    "AudioFolder": (
        {
            "validation/bona-fide/1.ogg": ("bonafide", "-", "dev"),
            "validation/deepfake/tts/2.ogg": ("spoof", "tts", "dev"),
        },
        None,
    ),
    "real-time cloning": (
        {
            "fake/real_time_cloning/1.wav": (
                "spoof",
                "real_time_cloning",
                "eval",
            )
        },
        None,
    ),
}


@pytest.mark.parametrize("files, partition", FOLDERS.values(), ids=FOLDERS)
def test_folders_that_say_what_is_in_them(corpus, files, partition):
    trials, found = find(corpus(files), partition)
    assert found.name == "folders"
    expected = {
        path: row for path, row in files.items() if partition in (None, row[-1])
    }
    columns = trials[["label", "attack", "partition"]]
    assert dict(zip(trials.path, rows(columns))) == expected


def test_spoofs_only_are_joined_with_bona_fide_speech(corpus):
    folder = corpus(
        [
            "WaveFake/generated_audio/ljspeech_melgan/1.wav",
            "WaveFake/generated_audio/jsut_hifi/2.wav",
            "LJSpeech/wavs/1.wav",
        ]
    )
    with pytest.raises(InputError, match="--bonafide-folder"):
        find_trials(folder / "WaveFake")
    trials = find_trials(
        folder / "WaveFake", bonafide_folder=folder / "LJSpeech"
    )
    assert rows(trials[["path", "attack", "label"]]) == [
        ("generated_audio/jsut_hifi/2.wav", "jsut_hifi", "spoof"),
        ("generated_audio/ljspeech_melgan/1.wav", "ljspeech_melgan", "spoof"),
        (str(folder / "LJSpeech/wavs/1.wav"), "-", "bonafide"),
    ]
    with pytest.raises(InputError, match="no audio in it"):
        (folder / "empty").mkdir()
        find_trials(folder / "WaveFake", bonafide_folder=folder / "empty")


@pytest.mark.parametrize(
    "folder",
    ["Real-Time-Voice-Cloning", "fake-or-real", "not_spoofed", "real_and_fake"],
)
def test_folders_that_say_nothing_clear(corpus, folder):
    with pytest.raises(InputError, match="in no folder that says"):
        find_trials(corpus([f"{folder}/audio/1.wav"]))


def test_a_folder_s_name_is_no_trial_s(corpus):
    folder = corpus(
        ["spk1.wav", "spk1/x.wav"], **{"list.txt": "spk1 real\n", "spk2": ""}
    )
    assert find_trials(folder / "list.txt").path.tolist() == ["spk1.wav"]


def test_names_of_files_in_folders_have_no_blanks(corpus):
    trials = find_trials(corpus(["real/my call.wav"]))
    assert trials.utt.tolist() == ["real/my_call.wav"]
    assert trials.path.tolist() == ["real/my call.wav"]
    with pytest.raises(InputError, match=r"has a \$"):
        find_trials(corpus(["real/$a.wav"]))


def test_folders_that_disagree(corpus):
    with pytest.raises(InputError, match="say bona fide and spoof"):
        find_trials(corpus(["fake/real/1.wav"]))


MLAAD = "path|original_file|language|model_name|transcript\n"


def test_mlaad(corpus):
    folder = corpus(
        ["fake/en/bark/1.wav", "fake/de/vits_train/2.wav", "mailabs/3.wav"],
        **{
            # Two ways of naming a file are found in its versions.
            "fake/en/bark/meta.csv": MLAAD
            + './fake/en/bark/1.wav|en/x.wav|en|suno/bark|"A," she said.\n',
            "fake/de/vits_train/meta.csv": MLAAD + "2.wav|y|de|vits|c, d\n",
        },
    )
    trials, found = find(folder, bonafide_folder=folder / "mailabs")
    assert found.name == "MLAAD"
    assert rows(trials[["path", "attack", "label", "partition"]]) == [
        ("fake/de/vits_train/2.wav", "vits", "spoof", "eval"),
        ("fake/en/bark/1.wav", "suno/bark", "spoof", "eval"),
        (str(folder / "mailabs/3.wav"), "-", "bonafide", "eval"),
    ]
    one = find_trials(folder / "fake/de/vits_train/meta.csv")
    assert one.path.tolist() == ["2.wav"]


def test_spoofceleb(corpus):
    text = "file,speaker,attack\na00/i/1.flac,i,a00\na06/j/2.flac,j,a06\n"
    folder = corpus(
        ["flac/development/a00/i/1.flac", "flac/development/a06/j/2.flac"],
        **{"metadata/development.csv": text},
    )
    assert rows(find_trials(folder, "dev")) == [
        (
            f"{file}",
            f"flac/development/{file}",
            speaker,
            attack,
            label,
            "dev",
        )
        for file, speaker, attack, label in (
            ("a00/i/1.flac", "i", "-", "bonafide"),
            ("a06/j/2.flac", "j", "a06", "spoof"),
        )
    ]
    again = find_trials(folder / "metadata/development.csv")
    assert again.path[0] == "../flac/development/a00/i/1.flac"


def test_audiofolder_with_a_list_for_each_split(corpus):
    folder = corpus(
        ["test/a/1.wav", "train/2.wav"],
        **{
            "test/metadata.csv": "file_name,label\na/1.wav,real\n",
            "train/metadata.csv": "file_name,label\n2.wav,fake\n",
        },
    )
    assert find_trials(folder).path.tolist() == ["test/a/1.wav"]
    assert find_trials(folder, "train").label.tolist() == ["spoof"]


def kaldi(corpus, **texts):
    return corpus(
        ["b.wav", "s s.wav"],
        **{
            "wav.scp": "utt1 b.wav\nutt2 s s.wav\n",
            "utt2label": "utt2 spoof\nutt1 bonafide\n",
            "utt2spk": "utt1 ann\nutt2 bob\n",
            **texts,
        },
    )


def test_kaldi(corpus):
    folder = kaldi(corpus)
    trials, found = find(folder)
    assert found.name == "Kaldi"
    assert rows(trials) == [
        ("utt1", "b.wav", "ann", "-", "bonafide", "eval"),
        ("utt2", "s s.wav", "bob", "spoof", "spoof", "eval"),
    ]
    assert main(["prepare", str(folder), f"{folder}/m.csv"]) == 0


def test_kaldi_s_paths_may_start_elsewhere(corpus):
    folder = kaldi(corpus)
    (folder / "data").mkdir()
    for name in "wav.scp", "utt2label", "utt2spk":
        (folder / name).rename(folder / "data" / name)
    trials = find_trials(folder, protocol=folder / "data")
    assert trials.path.tolist() == ["b.wav", "s s.wav"]
    (folder / "data" / "utt2label").unlink()
    trials = find_trials(folder, protocol=folder / "data", need_labels=False)
    assert trials.label.tolist() == ["-", "-"]


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"utt2label": "utt1 spoof\n"}, r"without a label: 1 \(utt2\)"),
        ({"wav.scp": "utt1 sox b.wav -t wav - |\n"}, "commands .* not run"),
        ({"utt2label": "utt1 1\nutt2 0\n"}, "--bonafide 0 or --bonafide 1"),
        ({"wav.scp": "utt1\n"}, "line 1: 'utt1' is no pair"),
        ({"wav.scp": "utt1 b.wav\nutt1 c.wav\n"}, "utt1 is already on line 1"),
        ({"segments": "utt1 rec1 0 1\n"}, "segments: .* parts of recordings"),
    ],
)
def test_kaldi_that_cannot_be_used(corpus, texts, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        find(kaldi(corpus, **texts))


@pytest.mark.parametrize(
    "folder, ending", [("ASVspoof2019_LA_eval/flac", "wav"), ("wav", "mp3")]
)
def test_audio_is_found_by_its_name_without_ending(corpus, folder, ending):
    text = "S1 T1 - A01 spoof\n" if "2019" in folder else "T1 T1 - - spoof\n"
    place = f"{folder}/T1.{ending}"
    root = corpus([place], **{"protocol.txt": text})
    trials = find_trials(root, protocol=root / "protocol.txt")
    assert trials.path.tolist() == [place]


# ----------------------------------------------------------- without labels
@pytest.mark.parametrize(
    "text",
    [
        "T1\nT2\n",
        "path\nflac/T1.flac\nflac/T2.flac\n",
        "flac/T1.flac\nflac/T2.flac\n",
    ],
)
def test_lists_without_labels(corpus, text):
    folder = corpus(["flac/T1.flac", "flac/T2.flac"], **{"list.txt": text})
    with pytest.raises(InputError, match="no known protocol"):
        find_trials(folder / "list.txt")
    trials = find_trials(folder / "list.txt", need_labels=False)
    assert trials.path.tolist() == ["flac/T1.flac", "flac/T2.flac"]
    assert trials.label.tolist() == ["-", "-"]


def test_prepare_does_not_replace_a_recording(corpus):
    folder = corpus(["b.wav"], **{"list.csv": "path,label\nb.wav,real\n"})
    before = (folder / "b.wav").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main(["prepare", str(folder / "list.csv"), str(folder / "b.wav")])
    assert caught.value.code == 2
    assert (folder / "b.wav").read_bytes() == before
