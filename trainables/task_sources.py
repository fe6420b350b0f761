"""Whether the data of mteb's tasks can be had: in a mirror, in the hub's cache, or on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.mteb_guard import guarded
from trainables.suites import EMBEDDED_TASKS, expand

TIMEOUT_S = 5.0  # of one question to the hub
REMEDY = (
    "run once with access to it, or put the data into a folder of the task's name under "
    "$POOLSEARCH_TASKS (parquet files and a README.md with `configs:`)"
)


def source_faults(names: Sequence[str]) -> list[str]:
    """Return the fault of each task whose data cannot be had from here; nothing is loaded.

    The names are those of suites and tasks that there are. The hub is asked about one task after
    the other, until it gives no answer at all.
    """
    faults: list[str] = []
    out_of_reach: list[str] = []
    reason = ""
    for name in expand(names):
        if name in EMBEDDED_TASKS or _is_here(name):
            continue
        if reason:
            out_of_reach.append(name)
            continue
        answered, fault = _ask_hub(name)
        if fault and answered:
            faults.append(f"evaluation.tasks: {name}: {fault}; {REMEDY}")
        elif fault:
            reason = fault
            out_of_reach.append(name)
    if out_of_reach:
        words = ", ".join(out_of_reach)
        faults.append(
            f"evaluation.tasks: expected data here or a hub that answers for {words}, "
            f"got {reason}; {REMEDY}"
        )
    return faults


def _dataset(name: str) -> tuple[str, str]:
    """Return the path of a task's data, a mirror's where there is one, and the revision."""
    with guarded():
        import mteb

        from trainables.official_tasks import located

        data = located(mteb.get_task(name).metadata).dataset
    return str(data["path"]), str(data["revision"])


def _is_here(name: str) -> bool:
    """Return whether a task's data are in a mirror or in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    path, revision = _dataset(name)
    if Path(path).is_dir():
        return True
    try:
        snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _ask_hub(name: str) -> tuple[bool, str]:
    """Return whether the hub answered, and what is wrong, or nothing."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    path, revision = _dataset(name)
    try:
        HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT_S)
    except HfHubHTTPError as error:
        return True, f"the hub has no {path} for you ({_first_line(error)})"
    except Exception as error:  # whatever keeps a client from its server
        return False, f"{type(error).__name__}: {_first_line(error)}"
    return True, ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
