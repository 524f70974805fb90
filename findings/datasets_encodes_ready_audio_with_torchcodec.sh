#!/bin/bash
# A row of an audio data set of Hugging Face's datasets is {"bytes", "path"}: the
# bytes of a file as they are, here FLAC. A column Audio(decode=False) gives
# these bytes back, and no audio is ever decoded.
#
# The guess: a data set can be made of such rows, and be saved as parquet,
# without a decoder, since there is nothing to encode.
#
# What is so, with valid input: made with the feature Audio, decoded or not, it
# asks for torchcodec "to support encoding audio data", although the bytes are
# stored as they are; made without features and then cast to Audio, by
# cast_column, it needs nothing, and holds the same bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet datasets==5.2.0 soundfile==0.14.0 numpy

cat > rows.py <<'PYTHON'
import io

import datasets
import numpy
import soundfile

datasets.disable_progress_bars()
file = io.BytesIO()
soundfile.write(file, numpy.zeros(1600), 16000, format="FLAC")
rows = [{"audio": {"bytes": file.getvalue(), "path": None}}]
for decode in True, False:
    audio = datasets.Audio(decode=decode)
    try:
        features = datasets.Features({"audio": audio})
        datasets.Dataset.from_list(rows, features=features)
        print(decode, "made")
    except ImportError as error:
        print(decode, "asks for torchcodec:", "torchcodec" in str(error))
    cast = datasets.Dataset.from_list(rows).cast_column("audio", audio)
    stored = cast.cast_column("audio", datasets.Audio(decode=False))[0]["audio"]
    print(decode, "cast, the same bytes:", stored["bytes"] == file.getvalue())
PYTHON
env/bin/python rows.py 2> warnings.txt | tee found.txt || cat warnings.txt
diff found.txt - <<'OUTPUT'
True asks for torchcodec: True
True cast, the same bytes: True
False asks for torchcodec: True
False cast, the same bytes: True
OUTPUT
echo "datasets 5.2.0: as described"
