"""Pretrained folders -> repositories of the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from speechbrain_bilevel.inference.pretrained import (
    CONFIG,
    FILES,
    WEIGHTS,
    load,
)
from speechbrain_bilevel.utils.errors import InputError


def push(folder, repo_id, private=False):
    """Upload a pretrained folder, in one commit.

    The token is that of ``hf auth login`` or of the variable HF_TOKEN.

    Arguments
    ---------
    folder : str or Path
        As ``pretrained.write_folder`` writes it; it is loaded first. Nothing
        else that lies in it is uploaded.
    repo_id : str
        "user/name"; created if it does not exist.
    private : bool
        Whether only the owner may see it. A repository that exists and is
        public is refused then, since it would stay so.

    Returns
    -------
    str
        Where to see it.

    Raises
    ------
    InputError
        If the folder is incomplete or damaged, or the hub cannot be reached or
        refuses.
    """
    folder, api = Path(folder), HfApi()
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: no {name} in it; expected a folder that "
                "speechbrain-bilevel export wrote"
            )
    load(folder, folder / CONFIG, folder / WEIGHTS)
    card = (folder / "README.md").read_text(encoding="utf-8")
    contents = {name: folder / name for name in FILES}
    contents["README.md"] = card.replace("USER/NAME", repo_id).encode()
    operations = [CommitOperationAdd(*item) for item in contents.items()]
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise InputError(
                f"{repo_id}: exists and is public. Nothing was uploaded; "
                "choose another name, or make it private on the hub first"
            )
        message = "A detector of speechbrain_bilevel"
        api.create_commit(repo_id, operations, commit_message=message)
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(
            f"{repo_id}: is no name of a repository ({error}); expected "
            "user/name"
        ) from error
    except HfHubHTTPError as error:
        advice = "see to it and push again: nothing is half-uploaded"
        if error.response.status_code in (401, 403):
            advice = (
                "log in by `hf auth login`, or set HF_TOKEN, with a token that "
                "may write"
            )
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{repo_id}: the hub refuses ({reason}); {advice}"
        ) from error
    # No network, or whatever the client meets in between.
    except Exception as error:
        raise InputError(
            f"{repo_id}: cannot be pushed ({type(error).__name__}: {error}); "
            "is there a network?"
        ) from error
    return str(url)
