"""A stand-in of the Hugging Face hub, which the real client speaks to.

It answers, over HTTP on this machine, what ``huggingface_hub`` asks to create
model repositories, push folders to them and fetch files from them. These are
in memory and have one branch, main. As on the hub, large files are uploaded to
and fetched from a storage that has an address of its own and needs no token.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "someone"
TOKEN = "hf_stand_in"
_LARGE = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
_LOG_IN = 401, "Invalid username or password."


class Repo:
    """A repository, with the commit that the hub itself makes.

    ``commits`` has the files of every revision by its hash, oldest first, and
    ``titles`` the message of each.

    Arguments
    ---------
    private : bool
        Only its owner sees it.
    """

    def __init__(self, private=False):
        self.private = private
        self.commits, self.titles = {}, {}
        large = "".join(f"*{end} filter=lfs -text\n" for end in _LARGE)
        self.commit("initial commit", {".gitattributes": large.encode()})

    @property
    def head(self):
        """The hash of the newest commit."""
        return list(self.commits)[-1]

    @property
    def files(self):
        """The files of the newest commit, as path: bytes."""
        return self.commits[self.head]

    def commit(self, title, files):
        """Adds a commit with these files alone; returns its hash."""
        hashes = {path: _git_hash(files[path]) for path in sorted(files)}
        content = repr((len(self.commits), title, hashes)).encode()
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid], self.titles[oid] = dict(files), title
        return oid


class HubStandIn:
    """A hub that is there within a ``with`` block.

    ``endpoint`` says where it is, ``user`` and ``token`` who may write there.
    ``repos`` has the ``Repo`` of every "user/name"; tests may put some there.
    ``requests`` has the (method, path) of every request so far.

    Arguments
    ---------
    lfs : bool
        Whether large files are treated apart. A client with hf_xet sends them
        in another protocol, unless it is disabled as in ``environment``.
    """

    user, token = USER, TOKEN

    def __init__(self, lfs=True):
        self.lfs = lfs
        self.repos, self.requests, self.storage = {}, [], {}
        self.failures, self.cuts = [], []
        self._lock = threading.Lock()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{port}"
        # Another host, as the client sees it.
        self.storage_endpoint = f"http://localhost:{port}"
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self, home, token=TOKEN):
        """The environment of a process that is to use this hub.

        Arguments
        ---------
        home : str or Path
            A folder for what the client keeps, instead of the user's own.
        token : str, optional
            None for a user who has not logged in.

        Returns
        -------
        dict
        """
        own = ("HF_", "HUGGING", "TRANSFORMERS_")
        result = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        result["HF_ENDPOINT"] = self.endpoint
        result["HF_HOME"] = str(home)
        result["HF_HUB_DISABLE_XET"] = "1"
        result["HF_HUB_DISABLE_TELEMETRY"] = "1"
        result["NO_PROXY"] = result["no_proxy"] = "127.0.0.1,localhost"
        return result | ({} if token is None else {"HF_TOKEN": token})

    def fail_next(self, status, part="", times=1):
        """Refuses requests to come.

        Arguments
        ---------
        status : int
            Of the answer, e.g. 503.
        part : str
            Only those are refused that have it in "METHOD /path".
        times : int
            How many of them.
        """
        self.failures += [(part, status)] * times

    def cut_next(self, part="", times=1):
        """Hangs up in the middle of a file; see ``fail_next``.

        The request of a large file is "GET /lfs/" and its SHA-256.
        """
        self.cuts += [(part, True)] * times

    def due(self, faults, request):
        """Takes the fault that a request is to meet from the list."""
        with self._lock:
            for fault in faults:
                if fault[0] in request:
                    faults.remove(fault)
                    return fault[1]
        return None

    def entry(self, path, data):
        """What a listing says of a file."""
        entry = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = _git_hash(data)
        if self.is_large(path, data[:512], len(data)):
            oid = hashlib.sha256(data).hexdigest()
            self.storage[oid] = data
            entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
        return entry

    def is_large(self, path, beginning, size):
        """Whether a file is kept in the storage."""
        large = path.endswith(_LARGE) or b"\0" in beginning or size > 1e7
        return self.lfs and size > 0 and large


class _Refused(Exception):
    """Ends a request with an error."""

    def __init__(self, status, message, code=None, headers={}):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | headers
        if code is not None:
            self.headers["X-Error-Code"] = code


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    # Headers and content leave in one piece, which is a lot faster.
    wbufsize = -1

    def do_GET(self):
        """Any method: each has the content of its answer, or refuses it."""
        self.hub = self.server.hub
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        try:
            self._route(f"{self.command} {path}")
        except _Refused as error:
            self._send({"error": str(error)}, error.status, error.headers)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_):
        """Nothing is printed."""

    def _route(self, request):
        if status := self.hub.due(self.hub.failures, request):
            raise _Refused(status, http.client.responses[status])
        authorization = self.headers["Authorization"]
        self.known = authorization == f"Bearer {self.hub.token}"
        # The hub minds a wrong token even where none is needed.
        if authorization and not self.known:
            raise _Refused(401, "Invalid credentials in Authorization header")
        for pattern, answer in _ROUTES.items():
            if match := re.fullmatch(pattern, request):
                parts = match.groupdict().items()
                return answer(self, **{k: v and unquote(v) for k, v in parts})
        raise _Refused(404, f"No such page: {request}")

    def _send(self, content, status=200, headers={}, cut=False):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.close_connection = self.close_connection or bool(cut)
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def _send_file(self, data, headers):
        """A file, or the rest of it that a client asks for after a cut."""
        status, size = 200, len(data)
        asked = self.headers["Range"] or ""
        if match := re.fullmatch(r"bytes=(\d+)-", asked):
            status, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            data = data[start:]
        cut = self.command == "GET"
        cut = cut and self.hub.due(self.hub.cuts, f"GET {self.path}")
        self._send(data, status, headers, cut)

    def _repo(self, repo_id, write=False):
        """A repository, if this user may see it, or write it."""
        repo = self.hub.repos.get(repo_id)
        own = self.known and repo_id.startswith(f"{self.hub.user}/")
        if repo is None or repo.private and not own or write > self.known:
            # The hub's 401 has no code: the client knows it by its https.
            error = (404, "Repository not found") if self.known else _LOG_IN
            raise _Refused(*error, "RepoNotFound")
        if write and not own:
            raise _Refused(403, "You don't have write access to this repo")
        return repo

    def _revision(self, repo_id, revision):
        """The hash and the files of a revision."""
        repo = self._repo(repo_id)
        oid = repo.head if revision in (None, "main") else revision
        if oid not in repo.commits:
            message = f"Invalid rev id: {revision}"
            raise _Refused(404, message, "RevisionNotFound")
        return oid, repo.commits[oid]

    def whoami(self):
        if not self.known:
            raise _Refused(*_LOG_IN)
        self._send({"type": "user", "name": self.hub.user, "orgs": []})

    def validate_yaml(self):
        warning = {"message": "empty or missing yaml metadata in repo card"}
        good = json.loads(self.body)["content"].startswith("---")
        self._send({"errors": [], "warnings": [] if good else [warning]})

    def create_repo(self):
        asked, hub = json.loads(self.body), self.hub
        owner = asked.get("organization") or hub.user
        repo_id = f"{owner}/{asked['name']}"
        answer = {"name": repo_id, "url": f"{hub.endpoint}/{repo_id}"}
        if not self.known:
            raise _Refused(*_LOG_IN)
        if owner != hub.user:
            message = "You don't have the rights to create a model under the "
            raise _Refused(403, f'{message}namespace "{owner}"')
        if repo_id in hub.repos:
            answer["error"] = "You already created this model repo"
            return self._send(answer, 409)
        hub.repos[repo_id] = Repo(asked.get("visibility") == "private")
        self._send(answer)

    def model_info(self, repo_id, revision):
        oid, files = self._revision(repo_id, revision)
        files = [{"rfilename": path} for path in sorted(files)]
        private = self._repo(repo_id).private
        info = {"id": repo_id, "sha": oid, "private": private}
        self._send(info | {"siblings": files})

    def tree(self, repo_id, revision):
        _, files = self._revision(repo_id, revision)
        self._send([self.hub.entry(p, files[p]) for p in sorted(files)])

    def preupload(self, repo_id, revision):
        self._repo(repo_id, write=True)
        _, files = self._revision(repo_id, revision)
        answers = []
        for asked in json.loads(self.body)["files"]:
            path, beginning = asked["path"], base64.b64decode(asked["sample"])
            large = self.hub.is_large(path, beginning, asked["size"])
            answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
            answers.append(answer | {"shouldIgnore": False})
            if path in files:
                entry = self.hub.entry(path, files[path])
                answers[-1]["oid"] = entry.get("lfs", entry)["oid"]
        self._send({"files": answers})

    def commit(self, repo_id, revision):
        repo = self._repo(repo_id, write=True)
        head, files = self._revision(repo_id, revision)
        header, *changes = map(json.loads, self.body.splitlines())
        if header["value"].get("parentCommit", head) != head:
            raise _Refused(412, "A commit has happened since")
        files = dict(files)
        for change in changes:
            self._change(files, change["key"], **change["value"])
        oid = repo.commit(header["value"]["summary"], files)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{oid}"
        self._send({"success": True, "commitOid": oid, "commitUrl": url})

    def _change(self, files, key, path, content="", oid=None, **_):
        """Applies a line of a commit."""
        if key == "file":
            files[path] = base64.b64decode(content)
        elif key == "lfsFile":
            if oid not in self.hub.storage:
                raise _Refused(400, f"{path} has not been uploaded")
            files[path] = self.hub.storage[oid]
        elif key == "deletedFile" and path in files:
            del files[path]
        else:
            message = "A file with this name doesn't exist"
            raise _Refused(404, message, "EntryNotFound")

    def lfs_batch(self, repo_id):
        self._repo(repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        verify = {"href": f"{self.hub.endpoint}/lfs/verify"}
        for asked in objects:
            # Without actions, the client takes it that the file is there.
            if asked["oid"] not in self.hub.storage:
                put = f"{self.hub.storage_endpoint}/lfs/{asked['oid']}"
                asked["actions"] = {"upload": {"href": put}, "verify": verify}
        self._send({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "The content has another hash")
        self.hub.storage[oid] = self.body
        self._send({})

    def lfs_verify(self):
        asked = json.loads(self.body)
        if len(self.hub.storage.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "The file has not been uploaded")
        self._send({})

    def lfs_get(self, oid):
        self._send_file(self.hub.storage[oid], {"ETag": f'"{oid}"'})

    def resolve(self, repo_id, revision, path):
        oid, files = self._revision(repo_id, revision)
        headers = {"X-Repo-Commit": oid}
        if path not in files:
            raise _Refused(404, "Entry not found", "EntryNotFound", headers)
        entry = self.hub.entry(path, files[path])
        if "lfs" not in entry:
            headers["ETag"] = f'"{entry["oid"]}"'
            return self._send_file(files[path], headers)
        headers["X-Linked-Etag"] = f'"{entry["lfs"]["oid"]}"'
        headers["X-Linked-Size"] = str(entry["size"])
        url = f"{self.hub.storage_endpoint}/lfs/{entry['lfs']['oid']}"
        self._send(b"", 302, headers | {"Location": url})


def _git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


_REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+?)"
_REVISION = "(?P<revision>[^/]+)"
_MODEL = f"/api/models/{_REPO}"
_ROUTES = {
    "GET /api/whoami-v2": _Handler.whoami,
    "POST /api/validate-yaml": _Handler.validate_yaml,
    "POST /api/repos/create": _Handler.create_repo,
    f"GET {_MODEL}(/revision/{_REVISION})?": _Handler.model_info,
    f"GET {_MODEL}/tree/{_REVISION}": _Handler.tree,
    f"POST {_MODEL}/preupload/{_REVISION}": _Handler.preupload,
    f"POST {_MODEL}/commit/{_REVISION}": _Handler.commit,
    rf"POST /{_REPO}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    "POST /lfs/verify": _Handler.lfs_verify,
    r"PUT /lfs/(?P<oid>\w+)": _Handler.lfs_put,
    r"GET /lfs/(?P<oid>\w+)": _Handler.lfs_get,
    f"(GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)": _Handler.resolve,
}
