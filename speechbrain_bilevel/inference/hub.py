"""Fetch pretrained folders from the Hugging Face hub, and upload them."""

import os
import threading
from dataclasses import replace
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
)
from speechbrain.utils.fetching import FetchConfig, fetch
from speechbrain.utils.logger import get_logger

from speechbrain_bilevel.inference.config import (
    CONFIG,
    EXPECTED,
    FILES,
    META,
    ONNX,
    ONNX_INT8,
    WEIGHTS,
    naming,
)
from speechbrain_bilevel.inference.engines import check_network
from speechbrain_bilevel.inference.pretrained import load
from speechbrain_bilevel.inference.space import contents as space_contents
from speechbrain_bilevel.utils.errors import InputError, printable

logger = get_logger(__name__)

#: Seconds in which the hub has to answer. Its client would retry for longer,
#: and wait without end for a connection when it uploads.
PATIENCE = 5
_LOGIN = "log in by `hf auth login`, or set HF_TOKEN"


def fetch_files(
    source, names=(CONFIG, WEIGHTS), fetch_config=None, savedir=None, **fetching
):
    """Fetch files of a pretrained folder, and return their paths.

    If the hub cannot be reached, the files in its cache are used, with a
    warning unless this was asked for.

    Arguments
    ---------
    source : str or Path
        A folder, or "user/name".
    names : tuple of str
        What they are called.
    fetch_config, savedir, **fetching
        See ``speechbrain.utils.fetching.fetch``; by default with
        ``huggingface_hub``'s token, if there is one.

    Raises
    ------
    InputError
        If there is no such folder, the repository lacks a file, the hub
        refuses, or it cannot be reached and the cache lacks a file.
    """
    source, reason = str(source), None
    fetch_config = fetch_config or FetchConfig(token=None)
    is_offline = constants.is_offline_mode() or not fetch_config.allow_network
    is_path = source.startswith((os.sep, ".")) or source.count(os.sep) != 1
    is_elsewhere = "://" in source
    is_here = os.path.isdir(source)
    if is_path and not is_elsewhere and not is_here:
        raise InputError(f"no such folder; expected {EXPECTED}")
    if savedir and not (fetch_config.overwrite or fetch_config.allow_updates):
        is_here |= all(Path(savedir, name).exists() for name in names)
    if not is_here and not is_elsewhere:
        reason = outage(source, fetch_config)
    if reason:
        fetch_config = replace(fetch_config, allow_network=False)
    options = {"savedir": savedir, "fetch_config": fetch_config, **fetching}
    try:
        paths = []
        for name in names:
            paths.append(fetch(name, source, **options))
    except RemoteEntryNotFoundError as error:
        raise InputError(
            f"no {name} in this repository; expected one that "
            "speechbrain-bilevel push wrote"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        cause = error.__cause__
        refusal = cause if isinstance(cause, HfHubHTTPError) else error
        if isinstance(refusal, HfHubHTTPError) and reason is None:
            advice = "check the name: there is no such folder here, either; "
            advice += f"for a private repository, {_LOGIN}"
            raise _refusal(refusal, advice) from error
        cache = fetch_config.huggingface_cache_dir or constants.HF_HUB_CACHE
        raise InputError(
            f"no such folder here; {reason or _line(error)}, and {name} is not "
            f"in its cache, {cache}; try again with a network and without "
            "HF_HUB_OFFLINE, or give a pretrained folder"
        ) from error
    if reason and not is_offline:
        logger.warning(
            "%s: %s; the files in its cache are used", source, reason
        )
    return paths


def outage(repo_id, fetch_config):
    """Ask the hub for a file; return why it cannot be used now, or None.

    It can be used if it answers, or refuses this repository only.
    """
    if not fetch_config.allow_network:
        return "the hub is not asked (allow_network is False)"
    found = [f"the hub cannot be reached (no answer in {PATIENCE} s)"]

    def ask():
        try:
            url = hf_hub_url(repo_id, CONFIG, revision=fetch_config.revision)
            token = fetch_config.token
            get_hf_file_metadata(url, token=token, timeout=PATIENCE)
            found[0] = None
        except OfflineModeIsEnabled:
            found[0] = "the hub is not asked (HF_HUB_OFFLINE is set)"
        except HfHubHTTPError as error:
            status = error.response.status_code
            is_down = status in (408, 429) or status >= 500
            found[0] = f"the hub is down ({_line(error)})" if is_down else None
        except HTTPError as error:
            found[0] = f"the hub cannot be reached ({_line(error)})"
        except Exception:
            # Not the hub's: whoever uses it next raises it.
            found[0] = None

    # A thread, since looking a name up, and trying its addresses one by one,
    # have no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def _line(error):
    """Return the parts of a message that matter, on one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For more info")]
    return printable(" ".join(lines[:2]) or type(error).__name__, 200)


def _refusal(error, advice):
    if isinstance(error, GatedRepoError):
        advice = f"ask for access on its page on the hub, then {_LOGIN}"
    return InputError(f"the hub refuses ({_line(error)}); {advice}")


def push(folder, repo_id, private=False, space=False):
    """Upload a pretrained folder, in one commit.

    The token is that of ``hf auth login`` or of the variable HF_TOKEN.

    Arguments
    ---------
    folder : str or Path
        It is first loaded as a check. With what belongs to a detector, ONNX
        files and the Arena's (see ``inference.arena``) are uploaded, and no
        others.
    repo_id : str
        "user/name"; created if it does not exist.
    private : bool
        Whether only the owner may see it. An existing public repository is then
        refused, since it would stay public.
    space : bool
        Make a Space that serves the detector's page; see ``inference.space``.

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
        config, _ = load(folder / CONFIG, folder / WEIGHTS)
        for name in (ONNX, ONNX_INT8):
            if (folder / name).exists():
                check_network(folder / name, config)
                contents[name] = folder / name
        for path in [*folder.glob(META), *folder.glob(".eval_results/*/*/*")]:
            contents[path.relative_to(folder).as_posix()] = path
        for name in {"README.md", META} & set(contents):
            text = contents[name].read_text(encoding="utf-8")
            contents[name] = text.replace("USER/NAME", repo_id).encode()
        if space:
            contents = space_contents(folder, repo_id.split("/")[-1])
    operations = [CommitOperationAdd(*item) for item in contents.items()]
    kind, sdk = ("space", "gradio") if space else ("model", None)
    message = "A detector of speechbrain_bilevel"
    with naming(repo_id, "user/name, and a hub that can be reached"):
        if reason := outage(repo_id, FetchConfig(token=None)):
            raise InputError(f"{reason}; try again later: nothing was uploaded")
        try:
            url = api.create_repo(
                repo_id,
                private=private,
                repo_type=kind,
                exist_ok=True,
                space_sdk=sdk,
            )
            if private and not api.repo_info(repo_id, repo_type=kind).private:
                raise InputError(
                    "exists and is public. Nothing was uploaded; choose "
                    "another name, or make it private on the hub first"
                )
            api.create_commit(
                repo_id, operations, commit_message=message, repo_type=kind
            )
        except HfHubHTTPError as error:
            advice = "fix this and push again: nothing is half-uploaded"
            if error.response.status_code in (401, 403):
                advice = f"{_LOGIN}, with a token that may write"
            raise _refusal(error, advice) from error
    return str(url)
