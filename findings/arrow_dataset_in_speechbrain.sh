#!/bin/bash
# SpeechBrain's DynamicItemDataset has two constructors for one manifest:
# from_csv, and from_arrow_dataset for tables of Hugging Face's datasets that are
# too large for memory. Both have the argument `replacements`.
#
# The guess: they give the same items, so that one can take the other's place.
#
# What is so, with valid input: from_arrow_dataset takes `replacements` and
# ignores it without a word, so a path still begins with $data_root; "id" is the
# number of the row, while the manifest's own ID is another column; and before
# that, datasets has read a speaker 0009 as the number 9 and an attack called NA
# as nothing, unless it is given features and keep_default_na=False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet speechbrain==1.1.2 torch==2.11.0 \
    torchaudio==2.11.0 datasets==5.2.0

cat > manifest.csv <<'CSV'
ID,wav,speaker,attack
utt1,$data_root/flac/utt1.flac,0009,-
utt2,$data_root/flac/utt2.flac,0010,NA
CSV
cat > items.py <<'PYTHON'
import datasets
from speechbrain.dataio.dataset import DynamicItemDataset

datasets.disable_progress_bars()
columns = ["wav", "speaker", "attack"]
keys, root = ["id", *columns], {"data_root": "/LA"}
rows = datasets.Dataset.from_csv("manifest.csv", cache_dir="guessed")
text = datasets.Features(dict.fromkeys(["ID", *columns], datasets.Value("string")))
strict = datasets.Dataset.from_csv(
    "manifest.csv", features=text, keep_default_na=False, cache_dir="strict"
)
for name, items in (
    ("from_csv", DynamicItemDataset.from_csv("manifest.csv", root, output_keys=keys)),
    ("arrow", DynamicItemDataset.from_arrow_dataset(rows, root, output_keys=keys)),
    ("arrow, text", DynamicItemDataset.from_arrow_dataset(strict, root, output_keys=keys)),
):
    print(name, list(items[1].values()), items[0]["speaker"])
PYTHON
env/bin/python items.py 2> warnings.txt | tee found.txt || cat warnings.txt
diff found.txt - <<'OUTPUT'
from_csv ['utt2', '/LA/flac/utt2.flac', '0010', 'NA'] 0009
arrow [1, '$data_root/flac/utt2.flac', 10, None] 9
arrow, text [1, '$data_root/flac/utt2.flac', '0010', 'NA'] 0009
OUTPUT
echo "speechbrain 1.1.2, datasets 5.2.0: as described"
