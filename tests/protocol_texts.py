"""Protocols of all corpora, a few lines each, as these ship them."""

import pytest

from speechbrain_bilevel.utils.errors import InputError

LA2019 = "S1 T1 - - bonafide\nS2 T2 - A01 spoof\n"
LA2021 = (
    "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval\n"
    "LA_0020 LA_E_2 g722 loc_tx bonafide bonafide notrim eval\n"
    "LA_0020 LA_E_3 none loc_tx - bonafide notrim progress\n"
    "LA_0020 LA_E_4 none loc_tx A19 spoof trim hidden\n"
)
DF2021 = (
    "LA_0023 DF_E_1 nocodec asvspoof A14 spoof notrim progress "
    "traditional_vocoder - - - -\n"
    "TEF2 DF_E_2 low_m4a vcc2020 Task1-team20 spoof notrim eval "
    "neural_vocoder_nonautoregressive Task1 team20 FF E\n"
    "VCC2TM2 DF_E_3 mp3m4a vcc2018 - bonafide notrim eval bonafide - - - -\n"
    "VCC2TM2 DF_E_4 mp3m4a vcc2018 - bonafide trim hidden - - - - -\n"
)
ASV5 = (
    "D_4461 D_0000000169 F - - - AC1 A14 spoof -\n"
    "D_0461 D_0000000190 M - - - - bonafide bonafide -\n"
)
ASV5_CHALLENGE = (
    "T_4850 T_0000000000 F - A05 spoof\n"
    "T_4851 T_0000000001 M - bonafide bonafide\n"
)
WILD = (
    "file,speaker,label\n0.wav,Alec Guinness,spoof\n"
    "4.wav,Christopher Hitchens,bona-fide\n"
)


def write(path, content):
    """Writes a file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def refusal(function, *arguments, **options):
    """The message with which a function refuses its arguments."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def rows(table):
    """The rows of a table of trials, as tuples."""
    return list(table.itertuples(index=False, name=None))
