"""What the hub may refuse, and what is done without it."""

import socket
import time
from types import SimpleNamespace

import pytest
from hub_stand_in import HubStandIn
from huggingface_hub import constants, hf_hub_download
from tiny_detector import export, tiny_network

from speechbrain_bilevel.inference import hub
from speechbrain_bilevel.inference.config import CONFIG, FILES, WEIGHTS
from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.utils.errors import InputError

NAME = "someone/detector"


class Client:
    """Stands in for ``HfApi``: a repository."""

    private, commits = False, ()

    def create_repo(self, repo_id, private, repo_type, exist_ok, space_sdk):
        assert exist_ok and (repo_type, space_sdk) == ("model", None)
        return f"https://hub/{repo_id}"

    def repo_info(self, repo_id, repo_type):
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo_id, operations, commit_message, repo_type):
        files = {o.path_in_repo: o.path_or_fileobj for o in operations}
        self.commits = [*self.commits, (repo_id, files)]


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr(hub, "HfApi", lambda: client)
    monkeypatch.setattr(hub, "outage", lambda *_: None)
    return client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(tmp_path_factory.mktemp("hub") / "tiny", tiny_network())


def test_one_commit_of_what_belongs_to_a_detector(client, folder):
    assert hub.push(folder, NAME) == f"https://hub/{NAME}"
    ((repo_id, files),) = client.commits
    assert repo_id == NAME and set(files) == set(FILES)


def test_the_files_of_a_submission_go_with_it(client, folder, tmp_path):
    tiny = export(tmp_path / "tiny", tiny_network())
    scores = tiny / ".eval_results" / "Org" / "set" / "scores.txt"
    scores.parent.mkdir(parents=True)
    scores.write_text("u1 0.5\n")
    (tiny / "meta.yaml").write_text("code: https://huggingface.co/USER/NAME\n")
    (tiny / "secret.yaml").write_text("")
    hub.push(tiny, NAME)
    ((_, files),) = client.commits
    own = "meta.yaml", ".eval_results/Org/set/scores.txt"
    assert set(files) == {*FILES, *own}
    expected = f"code: https://huggingface.co/{NAME}\n"
    assert files["meta.yaml"].decode() == expected


def test_nothing_private_goes_to_a_public_repository(client, folder):
    with pytest.raises(InputError, match=f"^{NAME}: exists and is public"):
        hub.push(folder, NAME, private=True)
    assert not client.commits
    client.private = True
    assert hub.push(folder, NAME, private=True)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A hub on localhost, which the real client uses."""
    with HubStandIn() as hub:
        use(monkeypatch, hub.endpoint, tmp_path / "cache")
        yield hub


def use(monkeypatch, endpoint, cache):
    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def put(hub, folder, names=FILES):
    hub.files.update({name: (folder / name).read_bytes() for name in names})


REFUSALS = {
    "missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "private": (401, {}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "forbidden": (403, {"X-Error-Message": "no rights"}),
    "bad": (400, {"X-Error-Message": "odd"}),
    "revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    "limited": (429, {"Retry-After": "3600"}),
    "broken": (503, {}),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("door", ["classify", "push"])
def test_refusals_are_one_line(run, stand_in, folder, refusal, door):
    stand_in.refusal = REFUSALS[refusal]
    status = str(stand_in.refusal[0])
    start = time.monotonic()
    words = (folder, NAME) if door == "push" else ("--source", NAME, "a.wav")
    code, _, err = run(door, *words)
    assert time.monotonic() - start < hub.PATIENCE
    assert code == 2 and err.startswith(f"error: {NAME}: ")
    assert "the hub " in err
    assert err.count("\n") == 1 and len(err) < 1000
    expected = {
        "gated": "ask for access on its page on the hub",
        "limited": "429 Too Many Requests",
        "broken": "503 Service Unavailable",
    }
    login = ("missing", "private", "forbidden", "revision")
    if door == "classify" or status in ("401", "403"):
        expected |= dict.fromkeys(login, "log in by `hf auth login`")
    assert expected.get(refusal, "the hub refuses") in err
    assert refusal == "bad" or status in err
    assert not stand_in.files


def test_names_and_files_that_are_missing(run, stand_in, folder):
    for door, *words in (
        ("push", folder, "a--b/c"),
        ("classify", "--source", "a--b/c", "a.wav"),
    ):
        code, _, err = run(door, *words)
        assert code == 2 and err.startswith("error: a--b/c: ")
        assert "user/name" in err and err.count("\n") == 1
    put(stand_in, folder, [CONFIG])
    code, _, err = run("classify", "--source", NAME, "a.wav")
    assert code == 2 and f"{NAME}: no {WEIGHTS} in this repository" in err


@pytest.fixture
def silent():
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("how", ["offline", "closed", "silent"])
def test_without_a_hub_the_cache_is_used(
    stand_in, silent, folder, monkeypatch, tmp_path, caplog, how
):
    monkeypatch.setattr(hub, "PATIENCE", 0.5)
    put(stand_in, folder)
    for name, number in (("all/there", 2), ("a/part", 1), ("no/thing", 0)):
        for file in (CONFIG, WEIGHTS)[:number]:
            hf_hub_download(name, file)
    reason = {
        "offline": r"HF_HUB_OFFLINE is set\)",
        "closed": r"cannot be reached \(.*refused\)",
        "silent": r"cannot be reached \((no answer in|timed out).*\)",
    }[how]
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        endpoint = silent if how == "silent" else "http://127.0.0.1:9"
        use(monkeypatch, endpoint, tmp_path / "cache")
    start = time.monotonic()
    for name, missing in (("a/part", WEIGHTS), ("no/thing", CONFIG)):
        message = f"^{name}: no .* here; the hub .*{reason}, and {missing} is "
        message += (
            f"not in its cache, {tmp_path}/cache; .* without HF_HUB_OFFLINE"
        )
        with pytest.raises(InputError, match=message):
            SpoofDetector.from_hparams(name)
    assert "are used" not in caplog.text
    SpoofDetector.from_hparams("all/there")
    notice = "the files in its cache are used"
    assert (notice in caplog.text) == (how != "offline")
    if how != "offline":
        message = f"^{NAME}: the hub .*{reason}; try again later"
        with pytest.raises(InputError, match=message):
            hub.push(folder, NAME)
    assert time.monotonic() - start < 5


def test_files_of_an_earlier_time_are_not_asked_for(
    stand_in, folder, tmp_path, caplog
):
    put(stand_in, folder)
    SpoofDetector.from_hparams(NAME, savedir=tmp_path / "kept")
    stand_in.refusal = REFUSALS["broken"]
    SpoofDetector.from_hparams(NAME, savedir=tmp_path / "kept")
    assert "are used" not in caplog.text


def test_what_cannot_be_loaded_is_not_pushed(client, folder, tmp_path):
    broken = export(tmp_path / "tiny", tiny_network())
    (broken / WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match=f"^{broken}: {WEIGHTS}: unusable"):
        hub.push(broken, NAME)
    (broken / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"^{broken}: no {WEIGHTS} in it"):
        hub.push(broken, NAME)
    assert not client.commits
