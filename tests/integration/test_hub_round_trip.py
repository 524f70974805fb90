"""A detector goes to the hub and comes back, over HTTP, by the real client."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hub_stand_in import HubStandIn, Repo
from tiny_detector import export, tiny_network

from speechbrain_bilevel.inference.detector import SpoofDetector
from speechbrain_bilevel.inference.folder import FILES

NAME = "someone/detector"
CALIBRATION = {"weight": 2.0, "bias": 0.5}
# Three doors to a repository; each tells the log posteriors of a file.
LOAD = """
import json, sys
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.interfaces import foreign_class
from speechbrain_bilevel.inference.detector import SpoofDetector

name, audio = sys.argv[1:]
doors = (
    SpoofDetector.from_hparams,
    EncoderClassifier.from_hparams,
    foreign_class,
)
print(json.dumps([load(name).classify_file(audio)[0].tolist() for load in doors]))
"""


@pytest.fixture
def hub():
    """A hub without repositories."""
    with HubStandIn() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to share, with something in it that is nobody's business."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    export(folder, tiny_network(), calibration=CALIBRATION)
    (folder / ".env").write_text("PASSWORD=1")
    return folder


@pytest.fixture
def audio(tmp_path):
    """A recording."""
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    return tmp_path / "a.wav"


@pytest.fixture
def shell(hub, tmp_path):
    """Runs a command of a user of that hub."""

    def shell(*words, token=hub.token, home="home"):
        return subprocess.run(
            [str(word) for word in words],
            env=hub.environment(tmp_path / home, token),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return shell


COMMAND = Path(sys.executable).with_name("speechbrain-bilevel")


def test_there_and_back(hub, shell, folder, audio):
    pushed = shell(COMMAND, "push", folder, NAME)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{hub.endpoint}/{NAME}"
    repo = hub.repos[NAME]
    assert not repo.private
    # One commit, and what belongs to a detector only.
    assert len(repo.commits) == 2
    assert set(repo.files) - {".gitattributes"} == set(FILES)
    for name in set(FILES) - {"README.md"}:
        assert repo.files[name] == (folder / name).read_bytes()
    card = repo.files["README.md"].decode()
    assert f'from_hparams("{NAME}")' in card and "USER/NAME" not in card

    expected = SpoofDetector.from_hparams(folder).classify_file(audio)
    loaded = shell(sys.executable, "-c", LOAD, NAME, audio, token=None)
    assert loaded.returncode == 0, loaded.stderr
    for found in json.loads(loaded.stdout.splitlines()[-1]):
        np.testing.assert_allclose(found, expected[0], atol=1e-6)
    judged = shell(COMMAND, "classify", "--source", NAME, audio, token=None)
    line = f"{expected[3][0]:8} {expected[1].item():+10.4f}  {audio}\n"
    assert (judged.returncode, judged.stdout) == (0, line), judged.stderr


def test_private_is_private(hub, shell, folder, audio):
    pushed = shell(COMMAND, "push", folder, NAME, "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert hub.repos[NAME].private
    command = COMMAND, "classify", "--source", NAME, audio
    stranger = shell(*command, token=None, home="stranger")
    assert stranger.returncode == 2 and stranger.stdout == ""
    assert stranger.stderr.startswith(f"error: {NAME}: cannot be loaded (")
    owner = shell(*command)
    assert owner.returncode == 0, owner.stderr


def test_nothing_private_goes_to_a_public_repository(hub, shell, folder):
    hub.repos[NAME] = Repo(private=False)
    pushed = shell(COMMAND, "push", folder, NAME, "--private")
    assert pushed.returncode == 2
    assert f"error: {NAME}: is there already, and public" in pushed.stderr
    assert len(hub.repos[NAME].commits) == 1


@pytest.mark.parametrize(
    "name, token, message",
    [
        (NAME, None, "log in by `hf auth login`"),
        (NAME, "hf_wrong", "log in by `hf auth login`"),
        ("other/detector", "hf_stand_in", "the hub refuses (403"),
        ("a/b/c", "hf_stand_in", "expected user/name"),
    ],
)
def test_who_may_not_push_is_told(hub, shell, folder, name, token, message):
    pushed = shell(COMMAND, "push", folder, name, token=token)
    assert pushed.returncode == 2 and pushed.stdout == ""
    assert pushed.stderr.startswith(f"error: {name}: ")
    assert message in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert not hub.repos


def test_an_incomplete_folder_is_not_pushed(hub, shell, tmp_path):
    folder = export(tmp_path / "tiny", tiny_network())
    (folder / "network.ckpt").unlink()
    pushed = shell(COMMAND, "push", folder, NAME)
    assert pushed.returncode == 2
    assert f"error: {folder}: no network.ckpt in it" in pushed.stderr
    assert not hub.requests


def test_a_refused_commit_leaves_the_repository_as_it_was(hub, shell, folder):
    hub.repos[NAME] = Repo()
    hub.fail_next(413, "/commit/")
    pushed = shell(COMMAND, "push", folder, NAME)
    assert pushed.returncode == 2
    assert f"error: {NAME}: the hub refuses" in pushed.stderr
    assert len(hub.repos[NAME].commits) == 1


def test_a_download_that_breaks_off_is_taken_up_again(
    hub, shell, folder, audio
):
    assert shell(COMMAND, "push", folder, NAME).returncode == 0
    hub.cut_next("GET /lfs/")
    judged = shell(COMMAND, "classify", "--source", NAME, audio)
    assert judged.returncode == 0, judged.stderr


def test_a_hostile_repository_is_refused(hub, shell, folder, audio, tmp_path):
    mark = tmp_path / "executed"
    files = {name: (folder / name).read_bytes() for name in FILES}
    yaml = files["hyperparams.yaml"].decode()
    yaml += f"x: !apply:os.system [touch {mark}]\n"
    files["hyperparams.yaml"] = yaml.encode()
    hub.repos[NAME] = Repo()
    hub.repos[NAME].commit("trust me", files)
    command = COMMAND, "classify", "--source", NAME, audio
    judged = shell(*command)
    assert judged.returncode == 2 and not mark.exists()
    line = yaml.splitlines().index(f"x: !apply:os.system [touch {mark}]") + 1
    assert f"{NAME}: hyperparams.yaml, line {line}: '!apply:os.system'" in (
        judged.stderr
    )
    judged = shell(*command, "--trust-code")
    assert judged.returncode == 0 and mark.exists()
