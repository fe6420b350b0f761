"""The tasks that score a design, by name and by half.

The halves of a task, "choosing" and "confirming", are disjoint and fixed: what a search looked at
says nothing on how good its winner is. mteb is imported when a task is wanted and not before: it
takes seconds, and reseeds the global random states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.config import ConfigError
from trainables.mteb_guard import guarded
from trainables.suites import (
    EMBEDDED_CATEGORIES,
    EMBEDDED_TASKS,
    SPLITS,
    SUITES,
    Split,
    parts,
    role,
)

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

MTEB_SEED = 42  # mteb's own; fixed, so that all designs are fitted on the same draws


def load_task(name: str, split: Split, *, whole: bool = False, seed: int = MTEB_SEED) -> AbsTask:
    """Return a fresh mteb task that holds one half; a used one would give other numbers.

    Embedded names come first; other names are mteb's own tasks, loaded by their `load_data`. In
    suites that share out tasks, a split loads the `whole` of its own and nothing of the others.

    Raises:
        ConfigError: If there is no such task, it has no halves here, or it is the other split's.
        AssetError: If the embedded data are absent and cannot be prepared.
    """
    if whole and role(name) != split:
        raise ConfigError(
            f"evaluation.tasks: expected a task of the {split} split, got {name!r}, which is for "
            f"{role(name)}"
        )
    with guarded():
        if name in EMBEDDED_TASKS:
            from trainables.embedded_tasks import load_embedded

            return load_embedded(name, split, seed)
        from trainables.official_tasks import load_official

        return load_official(name, None if whole else split, seed)


def check_tasks(names: Sequence[str]) -> list[str]:
    """Return the fault of each suite or task that cannot be used, without loading any data."""
    found = {part for split in SPLITS for part in parts(names, split)}
    official = sorted(part for part in found if part.task not in EMBEDDED_TASKS)
    if not official:
        return []
    known = (*SUITES, *EMBEDDED_TASKS)
    with guarded():
        from trainables.official_tasks import official_fault

        faults = [official_fault(task, known, whole=whole) for task, whole in official]
    return [f"evaluation.tasks: {fault}" for fault in faults if fault]


def category(name: str) -> str:
    """Return mteb's type of a task: "STS", "Retrieval", "Classification", "Clustering" ….

    Raises:
        KeyError: If there is no such task.
    """
    if name in EMBEDDED_CATEGORIES:
        return EMBEDDED_CATEGORIES[name]
    with guarded():
        import mteb

        return str(mteb.get_task(name).metadata.type)
