#!/bin/bash
# SpeechBrain's fetch() gets one file of a repository on the Hugging Face hub.
# It documents a ValueError "if file is not found".
#
# The guess: code that has an optional file in its repository can catch that
# ValueError, as it could with earlier versions of huggingface_hub.
#
# What is so, with valid input: fetch() looks for the HTTPError of requests, and
# huggingface_hub 2 no longer uses requests. A missing file ends in a
# RemoteEntryNotFoundError, which is no ValueError (it is an OSError, by way of
# httpx2), and the message "File not found on HF hub" never comes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet speechbrain==1.1.2 torch==2.11.0 \
    torchaudio==2.11.0 huggingface_hub==2.4.0 requests

cat > missing.py <<'PYTHON'
import http.server
import os
import threading


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub whose only repository lacks the file that is asked for."""

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HOME"] = os.path.abspath("home")

from requests.exceptions import HTTPError
from speechbrain.utils.fetching import fetch

try:
    fetch("label_encoder.txt", "user/name", savedir="saved")
except Exception as error:
    print(type(error).__name__)
    for kind in ValueError, HTTPError, OSError:
        print(kind.__name__, isinstance(error, kind))
    print("File not found on HF hub" in str(error))
PYTHON
env/bin/python missing.py 2> warnings.txt | tee found.txt || cat warnings.txt
diff found.txt - <<'OUTPUT'
RemoteEntryNotFoundError
ValueError False
HTTPError False
OSError True
False
OUTPUT
echo "speechbrain 1.1.2, huggingface_hub 2.4.0: as described"
