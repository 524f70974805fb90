#!/bin/bash
# torchaudio 2.11.1 beside torch 2.11.0.
#
# The guess: a patch release of torchaudio works beside the torch of its own
# number, as its requirement (torch>=2.11) and its page say.
#
# What is so: pip installs the pair without a word, and `import torchaudio` fails:
# the wheel asks for a symbol that torch 2.11 and 2.12 do not have. torch 2.14 has
# it. A requirement such as torch>=2.11,<2.12 with torchaudio>=2.11,<2.12 held
# until 2.11.1 came out, and broke everything that imports torchaudio that day.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env

for torch in 2.11.0 2.14.1; do
	env/bin/pip install --quiet numpy "torch==$torch" torchaudio==2.11.1
	env/bin/pip check > /dev/null && echo "torch $torch: pip sees no conflict"
	if env/bin/python -c 'import torchaudio' 2> error.txt; then
		echo "torch $torch: torchaudio imported"
	else
		grep -o 'undefined symbol: .*' error.txt
	fi
done | tee found.txt
env/bin/pip show torchaudio | grep Requires | tee -a found.txt
diff found.txt - <<'OUTPUT'
torch 2.11.0: pip sees no conflict
undefined symbol: torch_exception_get_what_without_backtrace
torch 2.14.1: pip sees no conflict
torch 2.14.1: torchaudio imported
Requires: torch
OUTPUT
echo "torchaudio 2.11.1: as described"
