"""The tasks that score a design, by name and by half.

The halves of a task, "choosing" and "confirming", are disjoint and fixed: what a search looked at
says nothing on how good its winner is. mteb is imported when a task is wanted and not before: it
takes seconds, and reseeds the global random states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainables.config import EMBEDDED_TASKS, Split
from trainables.mteb_guard import guarded

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

MTEB_SEED = 42  # mteb's own; fixed, so that all designs are fitted on the same draws

_EMBEDDED_CATEGORIES = {
    "Lee50STS": "STS",
    "BoolQRetrieval": "Retrieval",
    "TRECClassification": "Classification",
    "NewsgroupSetsClustering": "Clustering",
}


def load_task(name: str, split: Split, *, seed: int = MTEB_SEED) -> AbsTask:
    """Return a fresh mteb task that holds one half; a used one would give other numbers.

    Embedded names come first; other names are mteb's own tasks, loaded by their `load_data`.

    Raises:
        ConfigError: If there is no such task, or its type has no halves here.
        AssetError: If the embedded data are absent and cannot be prepared.
    """
    with guarded():
        if name in EMBEDDED_TASKS:
            from trainables.embedded_tasks import load_embedded

            return load_embedded(name, split, seed)
        from trainables.official_tasks import load_official

        return load_official(name, split, seed)


def check_tasks(names: Sequence[str]) -> list[str]:
    """Return the fault of each task that cannot be used, without loading any data."""
    others = [name for name in names if name not in EMBEDDED_TASKS]
    if not others:
        return []
    with guarded():
        from trainables.official_tasks import official_fault

        faults = [official_fault(name, EMBEDDED_TASKS) for name in others]
    return [f"evaluation.tasks: {fault}" for fault in faults if fault]


def category(name: str) -> str:
    """Return mteb's type of a task: "STS", "Retrieval", "Classification", "Clustering" ….

    Raises:
        KeyError: If there is no such task.
    """
    if name in _EMBEDDED_CATEGORIES:
        return _EMBEDDED_CATEGORIES[name]
    with guarded():
        import mteb

        return str(mteb.get_task(name).metadata.type)
