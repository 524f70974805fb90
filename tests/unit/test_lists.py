"""Lists of one's own: what is read, and the errors of bad ones."""

import pytest
from protocol_texts import rows

from speechbrain_bilevel.dataio.protocols import read_protocol, recognize
from speechbrain_bilevel.utils.errors import InputError


@pytest.fixture
def read(tmp_path):
    """Reads a list of the given text."""

    def read(content):
        path = tmp_path / "mine.csv"
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return read_protocol(path)

    return read


@pytest.fixture
def refusal(read):
    """The message about a list, which has to name the list."""

    def refusal(content):
        with pytest.raises(InputError) as caught:
            read(content)
        assert "mine.csv" in str(caught.value)
        return str(caught.value)

    return refusal


def test_least_columns(read):
    assert rows(read("label,path\nreal,a b.wav\nfake,sub/c.mp3\n")) == [
        ("a_b.wav", "a b.wav", "-", "-", "bonafide", "eval"),
        ("sub/c.mp3", "sub/c.mp3", "-", "spoof", "spoof", "eval"),
    ]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_all_columns(read, separator):
    header = "ID,path,Label,speaker,attack,partition,duration,note"
    lines = (
        '"my id",a.wav,spoof,Ann B,TTS one,dev,1.5,x',
        ",b.wav,bonafide,,-,,,",
        "i3,c.wav,spoof,,,test,,",
    )
    text = "\n".join((header, *lines)).replace(",", separator)
    assert rows(read(text)) == [
        ("my_id", "a.wav", "Ann_B", "TTS_one", "spoof", "dev"),
        ("b.wav", "b.wav", "-", "-", "bonafide", "eval"),
        ("i3", "c.wav", "-", "spoof", "spoof", "test"),
    ]


def test_manifest_of_the_recipe(read):
    text = (
        "ID,duration,wav,speaker,attack,label\n"
        "LA_T_1,0.5,$data_root/x/LA_T_1.flac,LA_0079,-,bonafide\n"
        "LA_T_2,0.5,/data/x/LA_T_2.flac,LA_0079,A01,spoof\n"
    )
    assert rows(read(text)[["utt", "path", "attack"]]) == [
        ("LA_T_1", "x/LA_T_1.flac", "-"),
        ("LA_T_2", "/data/x/LA_T_2.flac", "A01"),
    ]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *((x, "bonafide") for x in ("bonafide", "bona-fide", "bona fide")),
        *((x, "bonafide") for x in ("genuine", "real", "Real")),
        *((x, "spoof") for x in ("spoof", "fake", "FAKE")),
    ],
)
def test_labels(read, text, label):
    assert read(f"path,label\na.wav,{text}\n").label[0] == label


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label\na.wav,real\n",
        b"path,label\r\na.wav,real\r\n\r\n",
        b'"path","label"\n"a.wav","real"',
        b"\npath, label \na.wav, real \n",
    ],
    ids=["BOM", "CRLF", "quotes", "spaces"],
)
def test_harmless_variations_read_the_same(read, content):
    assert rows(read(content)[["path", "label"]]) == [("a.wav", "bonafide")]


def test_cells_may_hold_the_separator(read):
    assert read('path,label\n"a, b.wav",real\n').path[0] == "a, b.wav"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a.wav,0", "label 0: corpora do not agree"),
        ("a.wav,1", "say which is bona fide by --bonafide 0"),
        ("a.wav,maybe", "unknown label 'maybe'"),
        ("a.wav,", "unknown label ''"),
        (",real", "no path"),
        ("../a.wav,real", "has '..' in it"),
        ("/data/../a.wav,real", "has '..' in it"),
        ("..\\a.wav,real", "has '..' in it"),
        ("$HOME/$x.wav,real", "has a $"),
        ("a\x07.wav,real", "cannot be printed"),
        ("first.wav,real", "first.wav is already on line 2"),
        ("a.wav", "expected the 2 columns `path label`"),
        ("a.wav,real,x", "separated by commas, found 3"),
    ],
)
def test_bad_line(refusal, row, fault):
    message = refusal(f"path,label\nfirst.wav,real\n{row}\nlast.wav,fake\n")
    assert "1 of 3 lines" in message
    (reported,) = [line for line in message.split("\n") if "line 3:" in line]
    assert fault in reported
    assert "Expected of every line" in message


def test_the_last_cell_of_a_line_may_be_empty(read):
    trials = read("path\tlabel\tattack\na.wav\treal\t\nb.wav\tfake\tA1\n")
    assert trials.attack.tolist() == ["-", "A1"]


def test_bonafide_with_an_attack(refusal):
    message = refusal("path,label,attack\na.wav,real,TTS\nb.wav,real,real\n")
    assert "1 of 2 lines" in message
    assert "line 2: a.wav is bonafide but has the attack 'TTS'" in message


def test_names_that_whitespace_sets_apart_are_the_same(refusal):
    message = refusal("path,label\na b.wav,real\na_b.wav,real\n")
    assert "line 3: a_b.wav is already on line 2" in message


def test_dollar_in_a_name(refusal):
    # SpeechBrain would look for a replacement.
    message = refusal("path,label,speaker\na.wav,real,$ue\n")
    assert "line 2: '$ue' has a $" in message


@pytest.mark.parametrize(
    "header", ["path,speaker", "label,speaker", "a.wav;real", "LA_E_9332881"]
)
def test_no_header(refusal, header):
    message = refusal(f"{header}\nx,y\n")
    assert f"the first line, '{header}', is of no known" in message
    assert "path (or wav, file, filename, ...) and label" in message
    assert "speaker utterance - attack label (ASVspoof2019 LA)" in message


def test_two_columns_for_the_audio(refusal):
    message = refusal("path,wav,label\na,b,real\n")
    assert "'path' and 'wav' may both be the path" in message


def test_unclosed_quote(refusal):
    others = "".join(f"{n}.wav,real\n" for n in range(20000))
    message = refusal('path,label\n"a.wav,real\n' + others)
    assert "line 2: the quotes" in message and "line 3" not in message
    # Nothing of an untrusted file is too long for a message.
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("path,label\n", "nothing below its header"),
    ],
)
def test_empty(refusal, content, message):
    assert message in refusal(content)


def test_not_text(refusal):
    assert "line 1: 65536 bytes and no line end" in refusal(b"\0" * 10**6)
    assert "line 2: not UTF-8" in refusal(b"path,label\n\xe9.wav,real\n")
    assert "line 1: not UTF-8" in refusal("path,label\n".encode("utf-16"))


def test_old_line_ends_are_no_crash(refusal):
    refusal(b"path,label\ra.wav,real\rb.wav,fake\r")


def test_is_called_a_list(read, tmp_path):
    read("path,label\na.wav,real\n")
    assert recognize(tmp_path / "mine.csv").name == "list"


@pytest.mark.parametrize(
    "row, fault",
    [
        ('0.flac,spoof,"good', "line 2: the quotes"),
        ('0.flac,spoof,"good" enough', "line 2: the quotes"),
        ("0.flac,bonafide,spoof", "is bonafide but has the attack spoof"),
        ("0.flac,spoof,bona-fide", "is spoof but has the attack bona-fide"),
        ("$data_folder/0.flac,spoof,A1", "has a $"),
        ("$data_root/../0.flac,spoof,A1", "has '..' in it"),
    ],
)
def test_what_contradicts_itself_is_no_trial(refusal, row, fault):
    message = refusal(f"path,label,attack\n{row}\n1.flac,real,-\n")
    assert "1 of 2 lines" in message and fault in message


def test_the_line_of_the_header_is_told(refusal):
    message = refusal("\n\npath,wav,label\n")
    assert ", line 3: 'path' and 'wav' may both" in message
