"""Where a model of a hub is: on the hub, or in its cache on this machine."""

from __future__ import annotations

from pathlib import Path

TIMEOUT_S = 5.0  # of a question


def ask(model: str, revision: str | None) -> tuple[list[str], str | None, str]:
    """Return a model's files and its revision, or why the hub does not say."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model, revision=revision, timeout=TIMEOUT_S)
    except Exception as error:  # whatever keeps a client from its server, or the server refuses
        first = (str(error).strip().splitlines() or ["no message"])[0]
        return [], None, f"{type(error).__name__}: {first}"
    return [each.rfilename for each in info.siblings or []], info.sha, ""


def cached(model: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was fetched before, if it was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def fetched(model: str, revision: str | None) -> str:
    """Return the folder of a model, fetched from the hub where it is not here."""
    from huggingface_hub import snapshot_download

    return snapshot_download(model, revision=revision)
