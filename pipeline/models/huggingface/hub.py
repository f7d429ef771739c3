"""Finds a checkpoint: a folder of one's own, or a repository of the Hugging Face Hub, fetched by name.

Only this module imports huggingface_hub, and only where a checkpoint is asked for by name. That package keeps what it
fetches in its cache (`HF_HOME`), and does without a network where `HF_HUB_OFFLINE` says so or there is none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.models.huggingface.folder import DESCRIPTIONS, SHIPPED, Folder
from pipeline.runtime.errors import UserError

EXTRA = "huggingface"
SHIPPED_NAME = "digits"
"""The name of the checkpoint that comes with the package; a folder of this name goes first."""
_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>\S+))?", re.ASCII)
_SNAPSHOT = re.compile(r"/models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]+)$")
"""How the folder of a snapshot ends in the cache."""


def find(typed: str, more: Sequence[str] = ()) -> Folder:
    """Find a checkpoint, and fetch the small files that describe it if it is asked for by name.

    Args:
        typed: The value of `model.checkpoint`: a folder, `owner/name` or `owner/name@revision`, or `SHIPPED_NAME`.
        more: Further files of a repository to fetch, where it has them.

    Raises:
        UserError: There is no such folder and no such repository, or it cannot be fetched.
    """
    said = f"model.checkpoint={typed}"
    path = Path(os.path.abspath(os.path.expanduser(typed)))
    if typed == SHIPPED_NAME and not path.exists():
        return Folder(said, SHIPPED, None, SHIPPED_NAME)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"{said}: has no config.json; give the folder that save_pretrained of transformers wrote "
                f"(a file of weights alone is for model=checkpoint)"
            )
        return Folder(said, path, None, path.name)
    if path.exists():
        raise UserError(
            f"{said}: is a file; give the folder with its config.json, or load the weights alone with model=checkpoint"
        )
    name = _NAME.fullmatch(typed)
    if name is None:
        raise UserError(f"{said}: no such folder, and not owner/name of a repository; give one of them")
    snapshot = _describe(said, name["name"], name["revision"], [*DESCRIPTIONS, *more])
    folder = Folder(said, snapshot, f"{name['name']}@{snapshot.name}", typed.replace("/", "-"))
    if not (snapshot / "config.json").is_file():
        raise folder.refusal(
            "the repository has no config.json, so it holds no checkpoint of transformers; give another"
        )
    return folder


def fetch(folder: Folder, file: str) -> bool:
    """Fetch a file of the commit that a folder is a snapshot of, with a progress bar. Signals end it at once.

    Args:
        folder: The snapshot, whose `pinned` names the repository and the commit.
        file: The name of the file.

    Returns:
        Whether the repository has such a file.

    Raises:
        UserError: It cannot be fetched.
    """
    assert folder.pinned is not None
    name, _, commit = folder.pinned.rpartition("@")
    with _explaining(folder.said, name, commit):
        import huggingface_hub
        from huggingface_hub.errors import RemoteEntryNotFoundError

        print(f"fetching {file} of {folder.pinned} to {folder.path}", file=sys.stderr)
        try:
            huggingface_hub.hf_hub_download(name, file, revision=commit)
        except RemoteEntryNotFoundError:
            return False
    return True


def cached_name(snapshot: Path) -> str | None:
    """`owner/name@commit` of a folder in the cache of huggingface_hub; `None` for any other folder."""
    found = _SNAPSHOT.search(snapshot.as_posix())
    return found and f"{found['owner']}/{found['name']}@{found['commit']}"


def _describe(said: str, name: str, revision: str | None, files: list[str]) -> Path:
    """Fetch small files of a repository. Returns the snapshot's folder, named after the commit."""
    with _explaining(said, name, revision):
        import huggingface_hub
        from tqdm import tqdm

        class Silent(tqdm):  # type: ignore[misc]  # has no types
            def __init__(self, *given: Any, **options: Any) -> None:
                super().__init__(*given, **{**options, "disable": True})

        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files, tqdm_class=Silent))


@contextmanager
def _explaining(said: str, name: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line."""
    try:
        import httpx  # the client of huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise UserError(
            f"{said}: no such folder; to fetch a repository by name, run pip install huggingface_hub, which the extra "
            f"{EXTRA} has"
        ) from None
    try:
        yield
        return
    except errors.GatedRepoError:
        reason = "asks its users for consent; give it on the repository's page, then log in with `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = (
            "neither a folder nor a repository that can be read; check the name, "
            "or log in with `hf auth login` if it is private"
        )
    except errors.RevisionNotFoundError:
        reason = f"the repository has no revision {revision}; give a branch, a tag or a commit that it has"
    except errors.LocalEntryNotFoundError:
        how = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        reason = f"no folder, not complete in the cache, and {how}; fetch it with `hf download {name}` or give a folder"
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx.HTTPError, OSError) as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        reason = f"cannot be fetched ({first}); try again, or give a folder"
    raise UserError(f"{said}: {reason}")
