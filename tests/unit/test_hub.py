"""What the hub may refuse, with a stub of its client."""

from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tiny_detector import export, tiny_network

from speechbrain_bilevel.inference import hub
from speechbrain_bilevel.inference.pretrained import FILES, WEIGHTS
from speechbrain_bilevel.utils.errors import InputError

NAME = "someone/detector"


class Client:
    """Stands in for ``HfApi``: a repository, and what it refuses."""

    refusal, private, commits = None, False, ()

    def create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        if self.refusal is not None:
            raise self.refusal
        return f"https://hub/{repo_id}"

    def model_info(self, repo_id):
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo_id, operations, commit_message):
        files = {o.path_in_repo: o.path_or_fileobj for o in operations}
        self.commits = [*self.commits, (repo_id, files)]


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr(hub, "HfApi", lambda: client)
    return client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(tmp_path_factory.mktemp("hub") / "tiny", tiny_network())


def refused(status):
    """What the client raises where the hub answers so."""
    response = SimpleNamespace(
        status_code=status, headers={}, request=None, url="https://hub"
    )
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"{status} Client Error\nRequest ID: x")
    error.response = response
    return error


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


@pytest.mark.parametrize(
    "refusal, message",
    [
        (refused(401), r"the hub refuses \(401 Client Error\); log in by"),
        (refused(403), r"the hub refuses \(403 .*HF_TOKEN"),
        (refused(413), r"the hub refuses \(413 .*nothing is half-uploaded"),
        (HFValidationError("a/b/c"), "unusable .*expected user/name"),
        (OSError("no route"), "unusable .*a hub that can be reached"),
    ],
)
def test_refusals(client, folder, refusal, message):
    client.refusal = refusal
    with pytest.raises(InputError, match=f"^{NAME}: {message}"):
        hub.push(folder, NAME)
    assert not client.commits


def test_what_cannot_be_loaded_is_not_pushed(client, folder, tmp_path):
    broken = export(tmp_path / "tiny", tiny_network())
    (broken / WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match=f"^{broken}: {WEIGHTS}: unusable"):
        hub.push(broken, NAME)
    (broken / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"^{broken}: no {WEIGHTS} in it"):
        hub.push(broken, NAME)
    assert not client.commits
