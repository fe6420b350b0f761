"""What a confirmation is to show, written down and hashed before any of its runs begins.

The report then says whether the results follow it. Whoever changes the plan afterwards changes its
hash, which is in MLflow and in the study's log since it was written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.arms import (
    EVERYWHERE,
    Arm,
    choosing_rows,
    choosing_score,
    choosing_tasks,
    contrast_in,
)
from analysis.contrasts import ALPHA, shares
from analysis.power import power, smallest_detectable
from analysis.table import Results, items

FILE = Path("confirm") / "registration.json"
TEST = (
    "paired by seed and item, both random (Dorfman, Berbaum and Metz 1992), with the mean of "
    "Student's critical values weighted by their shares of the variance (Cochran and Cox 1957)"
)
CORRECTION = "Holm, within each family"
FAMILIES = ("winner against the control", "winner against the best untrained model")
SEED_SD = 0.01  # of a run's score, where only one seed has been run
CONTROL = "control"
FINALIST = "finalist"


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """One arm of a confirmation; `design` and `digest` as in the results table."""

    role: str
    label: str
    design: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What the test of one category can show at the first step of Holm's correction.

    The items' variance is that of the winner against the control in the search, with one seed.
    `power` is the chance to see the smallest effect of interest if seeds do not matter, and
    `power_with_seeds` if they move a run's score by `SEED_SD` (standard deviation).
    """

    power: float
    power_with_seeds: float
    detectable: float
    num_items: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """The plan of a confirmation; scores and effects from 0 to 1."""

    study: str
    designs: tuple[Design, ...]
    seeds: tuple[int, ...]
    tasks: dict[str, tuple[str, ...]]  # of each category, on the confirming split
    winners: dict[str, str]  # the label of the finalist that is tested in each category
    smallest_effect: float
    families: tuple[str, ...] = FAMILIES
    test: str = TEST
    correction: str = CORRECTION
    alpha: float = ALPHA
    outlook: dict[str, Outlook] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The hash of all that is planned."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()


def _canonical(plan: Registration) -> str:
    return json.dumps(asdict(plan), sort_keys=True)


def make(
    results: Results,
    designs: Sequence[Design],
    seeds: Sequence[int],
    tasks: Mapping[str, Sequence[str]],
    smallest_effect: float,
) -> Registration:
    """The plan of a confirmation of `designs`, from what the search has found."""
    arms = [_arm(design) for design in designs if design.role == FINALIST]
    control = next(_arm(design) for design in designs if design.role == CONTROL)
    asked = [*tasks, EVERYWHERE] if len(tasks) > 1 else list(tasks)
    winners = {category: _winner(results, arms, category) for category in asked}
    known = {category: arm for category, arm in winners.items() if arm is not None}
    level = ALPHA / max(len(known), 1)
    outlook = {
        category: found
        for category, arm in known.items()
        if (found := _outlook(results, arm, control, category, len(seeds), smallest_effect, level))
    }
    return Registration(
        study=results.study,
        designs=tuple(designs),
        seeds=tuple(seeds),
        tasks={category: tuple(names) for category, names in tasks.items()},
        winners={category: arm.label for category, arm in known.items()},
        smallest_effect=smallest_effect,
        outlook=outlook,
    )


def _arm(design: Design) -> Arm:
    given = {name: getattr(design, name) for name in ("role", "label", "design", "digest")}
    return Arm(**given, rows={})


def _winner(results: Results, arms: Sequence[Arm], category: str) -> Arm | None:
    scored = [(choosing_score(results, arm, category), arm) for arm in arms]
    known = [(score, arm) for score, arm in scored if score == score]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _outlook(
    results: Results,
    arm: Arm,
    control: Arm,
    category: str,
    num_seeds: int,
    effect: float,
    level: float,
) -> Outlook | None:
    """What can be shown; None where the search has no items of both."""
    rows = [choosing_rows(results, each)[-1:] for each in (arm, control)]
    if not all(rows):
        return None
    ours, theirs = (replace(a, rows={0: r[0]}) for a, r in zip((arm, control), rows, strict=True))
    tasks = choosing_tasks(results, category)
    evidence = items(results, [row for (row,) in rows])
    pilot = contrast_in(evidence, ours, theirs, tasks).contrast
    if pilot is None:
        return None
    still = shares(0.0, num_seeds, pilot.variance_items, pilot.num_items)
    moving = shares(2 * SEED_SD**2 / num_seeds, num_seeds, pilot.variance_items, pilot.num_items)
    return Outlook(
        power=power(still, effect, level),
        power_with_seeds=power(moving, effect, level) if num_seeds > 1 else 0.0,
        detectable=smallest_detectable(moving if num_seeds > 1 else still, level),
        num_items=sum(pilot.num_items),
    )


def write(plan: Registration, folder: Path) -> Path:
    """Write a plan and its hash into a study's folder; a kill leaves it whole or absent."""
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"sha256": plan.sha256, "plan": asdict(plan)}, indent=1) + "\n")
    partial.replace(file)
    return file


def read(folder: Path) -> tuple[Registration, str] | None:
    """The plan in a study's folder and the hash that stands beside it; None without one."""
    file = folder / FILE
    if not file.is_file():
        return None
    kept = json.loads(file.read_text())
    plan: dict[str, Any] = kept["plan"]
    lists = {name: tuple(plan[name]) for name in ("seeds", "families")}
    made = {
        "designs": tuple(Design(**each) for each in plan["designs"]),
        "tasks": {category: tuple(names) for category, names in plan["tasks"].items()},
        "outlook": {category: Outlook(**each) for category, each in plan["outlook"].items()},
    }
    return Registration(**{**plan, **lists, **made}), kept["sha256"]


def deviations(
    plan: Registration,
    kept_hash: str,
    results: Results,
    arms: Sequence[Arm],
    winners: Mapping[str, str],
) -> list[str]:
    """What of the results does not follow the plan, in sentences; `winners` are those tested."""
    found = []
    if plan.sha256 != kept_hash:
        found.append("The plan was changed after it was written: its hash is another one.")
    trained = {(arm.role, arm.digest): arm for arm in arms if arm.role in (CONTROL, FINALIST)}
    planned = {(design.role, design.digest): design for design in plan.designs}
    for key, design in planned.items():
        have = set(trained[key].rows) if key in trained else set()
        lacking = [str(seed) for seed in plan.seeds if seed not in have]
        if lacking:
            found.append(f"{design.label} has no complete run of the seeds {', '.join(lacking)}.")
        extra = sorted(have - set(plan.seeds))
        if extra:
            found.append(f"{design.label} was run with seeds beyond the plan: {extra}.")
    found += [f"{trained[k].label} was not planned." for k in trained if k not in planned]
    found += _of_tasks(plan, results)
    for category, label in plan.winners.items():
        if winners.get(category, label) != label:
            found.append(f"On {category}, {label} was to be tested, not {winners[category]}.")
    return found


def _of_tasks(plan: Registration, results: Results) -> list[str]:
    scores = results.scores[results.scores["split"] == "confirming"]
    scored = {
        str(category): set(group["task"])
        for category, group in scores.groupby("category", observed=True)
    }
    found = []
    for category, names in plan.tasks.items():
        lacking = [name for name in names if name not in scored.get(category, set())]
        if lacking:
            found.append(f"On {category}, nothing has a score on {', '.join(lacking)}.")
    for category, have in scored.items():
        extra = sorted(have - set(plan.tasks.get(category, ())))
        if extra:
            found.append(f"{', '.join(extra)} ({category}) was not planned.")
    return found


def summary(plan: Registration) -> str:
    """The plan in one line: how much is run, and what it can show."""
    num_finalists = sum(design.role == FINALIST for design in plan.designs)
    line = f"{num_finalists} finalists and the control, {len(plan.seeds)} seeds each"
    if not plan.outlook:
        return line
    detectable = [f"{100 * each.detectable:.1f} on {c}" for c, each in plan.outlook.items()]
    return f"{line}; 80 % power for differences in points of about {', '.join(detectable)}"


def sentences(plan: Registration) -> list[str]:
    """The plan in plain English; effects in points, from 0 to 100."""
    finalists = [design.label for design in plan.designs if design.role == FINALIST]
    control = next(design.label for design in plan.designs if design.role == CONTROL)
    effect = f"{100 * plan.smallest_effect:g} point" + "s" * (plan.smallest_effect != 0.01)
    lines = [
        f"Confirm {'; '.join(finalists)} against the control ({control}), seeds "
        f"{', '.join(map(str, plan.seeds))}.",
        f"Tested: {plan.test}; {plan.correction}, at {plan.alpha:g}.",
    ]
    for category, label in plan.winners.items():
        line = f"{category} ({', '.join(plan.tasks.get(category, ('tasks counting alike',)))})"
        line += f": {label}" if len(finalists) > 1 else ""
        found = plan.outlook.get(category)
        if found:
            line += (
                f"; a difference of {effect} is seen {100 * found.power:.0f} % of the time "
                f"if seeds do not matter, {100 * found.power_with_seeds:.0f} % if they move a "
                f"score by {100 * SEED_SD:g}; 80 % see {100 * found.detectable:.1f} points"
            )
        lines.append(f"{line}.")
    return lines
