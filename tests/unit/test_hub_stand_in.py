"""The stand-in of the hub, as the real client and SpeechBrain see it."""

import json
import subprocess
import sys

import pytest
from hub_stand_in import HubStandIn, Repo

CLIENT = """
import json, os, pathlib, sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

def tried(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__

def read(path):
    return pathlib.Path(path).read_bytes().hex()

api, folder = HfApi(), pathlib.Path(sys.argv[1])
repo = str(api.create_repo("someone/model", private=True).repo_id)
oids = []
for _ in range(2):
    push = {"repo_id": repo, "folder_path": folder, "delete_patterns": "*"}
    oids.append(api.upload_folder(**push, commit_message="A push").oid)
    (folder / "a.yaml").write_text("a: 2")
    (folder / "old.txt").unlink(missing_ok=True)
snapshot = pathlib.Path(snapshot_download(repo))
json.dump({
    "user": api.whoami()["name"],
    "again": api.create_repo(repo, exist_ok=True),
    "foreign": tried(api.create_repo, "other/model"),
    "oids": oids,
    "listed": [api.list_repo_files(repo, revision=oid) for oid in oids],
    "head": api.model_info(repo).sha,
    "network": read(snapshot / "network.ckpt"),
    "new": read(hf_hub_download(repo, "a.yaml")),
    "old": read(hf_hub_download(repo, "a.yaml", revision=oids[0])),
    "exist": [api.file_exists(repo, name) for name in ("a.yaml", "b.yaml")],
    "no_file": tried(hf_hub_download, repo, "b.yaml"),
    "no_revision": tried(hf_hub_download, repo, "a.yaml", revision="v2"),
    "no_repo": tried(hf_hub_download, "someone/else", "a.yaml"),
    # What is in the cache is returned to whoever asks.
    "no_token": tried(snapshot_download, repo, token=False, cache_dir="c"),
    "bad_token": tried(snapshot_download, repo, token="hf_bad", cache_dir="c"),
    "no_push": tried(api.upload_folder, **push, token=False),
    "no_rights": tried(api.create_repo, "someone/b", token="hf_bad"),
}, sys.stdout)
"""
FAULTS = """
import json, pathlib, sys
from huggingface_hub import HfApi, hf_hub_download

statuses = []
for _ in range(2):
    try:
        HfApi().upload_folder(repo_id="someone/model", folder_path="folder")
    except Exception as error:
        statuses.append(error.response.status_code)
path = hf_hub_download("someone/model", "b.ckpt")
json.dump([statuses, pathlib.Path(path).stat().st_size], sys.stdout)
"""
FETCH = """
import json, pathlib, sys
from speechbrain.utils.fetching import FetchConfig, fetch

def read(name, source, savedir, **config):
    path = fetch(name, source, savedir, fetch_config=FetchConfig(**config))
    return path.read_text()

old = sys.argv[1]
try:
    hidden = read("a.yaml", "someone/private", "hidden")
except Exception as error:
    hidden = type(error).__name__
found = [read("a.yaml", "someone/public", "new")]
found += [read("b.ckpt", "someone/public", "new")]
found += [read("a.yaml", "someone/public", "old", revision=old)]
found += [read("a.yaml", "someone/private", "private", token=True)]
json.dump([*found, hidden], sys.stdout)
"""


@pytest.fixture
def hub():
    """A hub without repositories."""
    with HubStandIn() as hub:
        yield hub


@pytest.fixture
def process(hub, tmp_path):
    """Runs a script for whom this is the hub; returns what it prints."""

    def process(script, *arguments):
        result = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=hub.environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return process


def test_a_folder_is_pushed_and_fetched(hub, process, tmp_path):
    network = bytes(range(256)) * 400
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "network.ckpt").write_bytes(network)
    (folder / "a.yaml").write_text("a: 1")
    (folder / "old.txt").write_text("old")
    found = process(CLIENT, str(folder))
    assert found["user"] == hub.user
    assert found["again"] == f"{hub.endpoint}/someone/model"
    kept = [".gitattributes", "a.yaml", "network.ckpt"]
    assert found["listed"] == [[*kept, "old.txt"], kept]
    assert found["head"] == found["oids"][1]
    assert bytes.fromhex(found["network"]) == network
    assert bytes.fromhex(found["new"]) == b"a: 2"
    assert bytes.fromhex(found["old"]) == b"a: 1"
    assert found["exist"] == [True, False]
    assert found["no_file"] == "RemoteEntryNotFoundError"
    assert found["no_revision"] == "RevisionNotFoundError"
    for refused in ("no_repo", "no_token", "no_push"):
        assert found[refused] == "RepositoryNotFoundError"
    for refused in ("bad_token", "no_rights", "foreign"):
        assert found[refused] == "HfHubHTTPError"
    repo = hub.repos["someone/model"]
    assert repo.private and list(hub.repos) == ["someone/model"]
    assert list(repo.commits)[1:] == found["oids"]
    assert repo.titles[repo.head] == "A push"
    # The second push found that the hub has the network already.
    assert [method for method, path in hub.requests].count("PUT") == 1


def test_faults_and_how_the_client_takes_them(hub, process, tmp_path):
    hub.repos["someone/model"] = Repo()
    hub.repos["someone/model"].commit("Files", {"b.ckpt": b"\0" * 100_000})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.yaml").write_text("a: 1")
    hub.fail_next(413, "/commit/")
    hub.fail_next(403, "/commit/")
    hub.cut_next("GET /lfs/")
    assert process(FAULTS) == [[413, 403], 100_000]
    assert list(hub.repos["someone/model"].files) == ["b.ckpt"]
    # It comes back for the other half.
    methods = [method for method, path in hub.requests if "/lfs/" in path]
    assert methods == ["GET", "GET"]


def test_speechbrain_fetches_from_it(hub, process):
    public = hub.repos["someone/public"] = Repo()
    old = public.commit("Old", {"a.yaml": b"a: 1"})
    public.commit("New", {"a.yaml": b"a: 2", "b.ckpt": b"b"})
    private = hub.repos["someone/private"] = Repo(private=True)
    private.commit("Files", {"a.yaml": b"a: 3"})
    found = process(FETCH, old)
    assert found == ["a: 2", "b", "a: 1", "a: 3", "RepositoryNotFoundError"]
