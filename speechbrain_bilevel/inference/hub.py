"""Upload pretrained folders to repositories of the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from speechbrain_bilevel.inference.arena import META
from speechbrain_bilevel.inference.pretrained import (
    CONFIG,
    FILES,
    WEIGHTS,
    load,
    naming,
)
from speechbrain_bilevel.utils.errors import InputError


def push(folder, repo_id, private=False):
    """Upload a pretrained folder, in one commit.

    The token is that of ``hf auth login`` or of the variable HF_TOKEN.

    Arguments
    ---------
    folder : str or Path
        It is first loaded as a check. With what belongs to a detector, the
        Arena's files are uploaded (see ``inference.arena``), and no others.
    repo_id : str
        "user/name"; created if it does not exist.
    private : bool
        Whether only the owner may see it. An existing public repository is then
        refused, since it would stay public.

    Returns
    -------
    str
        The URL of the repository.

    Raises
    ------
    InputError
        If the folder is incomplete or damaged, or the hub cannot be reached or
        refuses.
    """
    folder, api = Path(folder), HfApi()
    contents = {name: folder / name for name in FILES}
    with naming(folder, "a folder that speechbrain-bilevel export wrote"):
        for name, path in contents.items():
            if not path.is_file():
                raise InputError(f"no {name} in it")
        load(folder / CONFIG, folder / WEIGHTS)
        for path in [*folder.glob(META), *folder.glob(".eval_results/*/*/*")]:
            contents[path.relative_to(folder).as_posix()] = path
        for name in {"README.md", META} & set(contents):
            text = contents[name].read_text(encoding="utf-8")
            contents[name] = text.replace("USER/NAME", repo_id).encode()
    operations = [CommitOperationAdd(*item) for item in contents.items()]
    message = "A detector of speechbrain_bilevel"
    with naming(repo_id, "user/name, and a hub that can be reached"):
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if private and not api.model_info(repo_id).private:
                raise InputError(
                    "exists and is public. Nothing was uploaded; choose "
                    "another name, or make it private on the hub first"
                )
            api.create_commit(repo_id, operations, commit_message=message)
        except HfHubHTTPError as error:
            advice = "fix this and push again: nothing is half-uploaded"
            if error.response.status_code in (401, 403):
                advice = "log in by `hf auth login`, or set HF_TOKEN, with a "
                advice += "token that may write"
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"the hub refuses ({reason}); {advice}") from error
    return str(url)
