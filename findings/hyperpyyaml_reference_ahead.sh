#!/bin/bash
# HyperPyYAML's !ref <key> may name a key that stands further down.
#
# The guess: it may, whatever stands there.
#
# What is so, with valid input: not if that is a reference, too. A reference
# alone (save_path: !ref <folder>) then becomes the text of the second one, tag
# included, and loading fails on the tag !ref. A reference within a text
# (!ref <folder>/weights) follows the whole chain, and so does the first one if
# the key that it names stands above it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet hyperpyyaml==1.2.3

cat > chains.py <<'PYTHON'
from hyperpyyaml import load_hyperpyyaml

KEYS = ["save_path: !ref <folder>", "folder: !ref <root>/ssl", "root: results"]
TEXT = ["save_path: !ref <folder>/weights", *KEYS[1:]]
for name, lines in (
    ("alone, upwards", KEYS[::-1]),
    ("in a text, downwards", TEXT),
    ("alone, downwards", KEYS),
):
    try:
        found = load_hyperpyyaml("\n".join(lines))["save_path"]
    except Exception as error:
        found = f"{type(error).__name__}: {error.problem}"
    print(f"{name}: {found}")
PYTHON
env/bin/python chains.py | tee found.txt
diff found.txt - <<'OUTPUT'
alone, upwards: results/ssl
in a text, downwards: results/ssl/weights
alone, downwards: ConstructorError: could not determine a constructor for the tag '!ref'
OUTPUT
echo "hyperpyyaml 1.2.3: as described"
