"""Settings that were given and that nothing would read: refused, as silence would mislead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.settings import StudyConfig
from cluster.study import pruners, samplers

OF_SEARCH = (
    *("num_trials", "num_finalists", "objectives", "sampler", "num_startup", "pruner"),
    *("first_rung", "factor", "race", "first", "warm_start"),
)
OF_FACTORIAL = ("fraction", "factors", "tune", "tuned")
FACTORIAL = "factorial"


def unread(study: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the fault of each given field of a study that its other fields leave unread.

    >>> unread({"mode": "search", "tune": 4})
    {'tune': "expected with mode 'factorial' only; add --mode factorial, or leave it out"}
    """
    given = {name for name, value in study.items() if value}
    if study.get("mode", StudyConfig().mode) == FACTORIAL:
        reason = "expected without mode 'factorial', whose cells are neither drawn nor chosen"
        found: dict[str, str | None] = {name: reason for name in OF_SEARCH if name in given}
        if "tuned" in given and "tune" not in given:
            found["tuned"] = "expected with --tune only; add --tune 4, or leave it out"
        return found
    reason = f"expected with mode '{FACTORIAL}' only; add --mode {FACTORIAL}, or leave it out"
    found = {name: reason for name in OF_FACTORIAL if name in given}
    usual = StudyConfig()
    sampler, pruner = study.get("sampler", usual.sampler), study.get("pruner", usual.pruner)
    return found | unread_by(given, [sampler], [pruner])


def unread_by(
    given: Collection[str], with_samplers: Collection[str], with_pruners: Collection[str]
) -> dict[str, str | None]:
    """Return the fault of each given field that none of some samplers and pruners reads.

    >>> unread_by({"factor"}, ["tpe"], ["none"])
    {'factor': 'expected with pruner halving or hyperband only, got none; leave it out'}
    """
    if not _known(with_samplers, samplers.SAMPLERS) or not _known(with_pruners, pruners.NAMES):
        return {}
    found: dict[str, str | None] = {}
    if not set(with_pruners) & set(pruners.WITH_RUNGS):
        rungs, got = " or ".join(pruners.WITH_RUNGS), ", ".join(with_pruners)
        reason = f"expected with pruner {rungs} only, got {got}; leave it out"
        found |= {name: reason for name in ("first_rung", "factor") if name in given}
    reading = {*samplers.WITH_STARTUP, *pruners.WITH_STARTUP}
    if "num_startup" in given and not reading & {*with_samplers, *with_pruners}:
        found["num_startup"] = (
            f"expected with sampler {', '.join(samplers.WITH_STARTUP)} or pruner "
            f"{', '.join(pruners.WITH_STARTUP)} only, got {', '.join(with_samplers)} and "
            f"{', '.join(with_pruners)}; leave it out"
        )
    return found


def _known(names: Collection[str], known: Collection[str]) -> bool:
    return all(name in known for name in names)
