#!/bin/bash
# SpeechBrain's Checkpointer.save_and_keep_only saves a checkpoint and deletes all
# but the newest.
#
# The guess: one save costs what another does, since as many checkpoints are there
# to be looked through.
#
# What is so, with valid input: the n-th save of a process searches the folder n
# times, each time reading the YAML of every checkpoint in it, whichever
# Checkpointer makes it: the list of keys to sort by is the argument's default,
# and each call adds one to it. With ckpt_interval_steps of 2, saving became four
# fifths of a small training. A list of one's own (importance_keys=[]) avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet speechbrain==1.1.2 torch==2.11.0 torchaudio==2.11.0

cat > saves.py <<'PYTHON'
import torch
from speechbrain.utils.checkpoints import Checkpointer


def searches(folder, **arguments):
    """How often each of five saves looks through the checkpoints."""
    checkpointer = Checkpointer(folder, {"net": torch.nn.Linear(1, 1)})
    counts = []
    find = checkpointer.find_checkpoints

    def counted(**keys):
        counts[-1] += 1
        return find(**keys)

    checkpointer.find_checkpoints = counted
    for _ in range(5):
        counts.append(0)
        checkpointer.save_and_keep_only(**{k: list(v) for k, v in arguments.items()})
    return counts


print("one's own list:", searches("a", importance_keys=[]))
print("the default:", searches("b"))
print("the default, another folder:", searches("c"))
PYTHON
env/bin/python saves.py | tee found.txt
diff found.txt - <<'OUTPUT'
one's own list: [2, 2, 2, 2, 2]
the default: [2, 4, 6, 8, 10]
the default, another folder: [12, 14, 16, 18, 20]
OUTPUT
echo "speechbrain 1.1.2: as described"
