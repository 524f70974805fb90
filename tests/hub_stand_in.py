"""A hub of one repository on localhost: just what the real client asks for when
it pushes small files, fetches them, or reads parts of a data set's files."""

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_COMMIT = "0123456789" * 4


class HubStandIn:
    """Is there within a ``with`` block; ``files`` has what was pushed, by name,
    ``kinds`` the kinds of repositories that were created, ``endpoint`` says
    where it is, ``sent`` how many bytes of files it sent.
    ``refusal``, a status and headers, is its answer to all requests."""

    def __init__(self):
        self.files = {}
        self.kinds = []
        self.refusal = None

    @property
    def sent(self):
        return self.server.sent

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.hub, self.server.sent = self, 0
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.01,)
        )
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def environment(self, home):
        """The environment of a process that uses this hub."""
        own = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_stand_in",
            # Another protocol, for large files.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        lines = [json.loads(line) for line in body.splitlines()]
        if self.path == "/api/repos/create":
            self.server.hub.kinds.append(lines[0].get("type", "model"))
            home = f"http://{self.headers['Host']}/someone"
            answer = {"url": f"{home}/{lines[0]['name']}"}
        elif "/preupload/" in self.path:
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {
                "files": [
                    {"path": file["path"], **mode} for file in lines[0]["files"]
                ]
            }
        elif "/commit/" in self.path:
            for line in lines[1:]:
                content = base64.b64decode(line["value"]["content"])
                self.server.hub.files[line["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/someone/x/commit/{_COMMIT}"
            answer = {"commitOid": _COMMIT, "commitUrl": url}
        else:
            answer = {"errors": [], "warnings": []}
        self._send(json.dumps(answer).encode())

    def do_GET(self):
        name = re.sub(".*/resolve/[^/]*/", "", self.path)
        files = self.server.hub.files
        if self.path.startswith("/api/datasets/"):
            answer = {"id": "someone/set", "sha": _COMMIT}
            if "/tree/" in self.path:
                answer = self._tree()
            self._send(json.dumps(answer).encode())
        elif name in files:
            self._send(files[name])
        else:
            self._send(b"", 404)

    do_HEAD = do_GET  # noqa: N815

    def _tree(self):
        """What the hub says of its files."""
        return [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in self.server.hub.files.items()
        ]

    def _send(self, content, status=200):
        headers = {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
        found = re.fullmatch(
            r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")
        )
        if found:
            content = content[int(found[1]) : int(found[2]) + 1]
            self.server.sent += len(content)
            status = 206
        if self.server.hub.refusal is not None:
            content, (status, headers) = b"", self.server.hub.refusal
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("ETag", f'"{hash(content):x}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Print nothing."""
