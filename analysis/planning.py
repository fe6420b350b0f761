"""What so many tasks and seeds can show, before anything is trained.

Two tests are asked. Wilcoxon's over tasks, on means over seeds (`analysis.compare`): with few
tasks no difference at all can reach significance after the correction. And the test over seeds and
tasks (`contrasts.compare`), whose claim is about other seeds too. The model of both: a difference
of two designs on a task with a seed is effect + seed + task + rest, each normal and independent.
Power is that of one difference at alpha / family, Holm's first step, so it is the least.
Wilcoxon's is simulated, the other's calculated (`power.power`) from true variances.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import optimize, special

from analysis.contrasts import ALPHA, Share, shares
from analysis.inference.signed_rank import signed_rank
from analysis.noise import Noise, noise_of
from analysis.power import POWER, power, smallest_detectable
from analysis.score_sources import read_scores
from analysis.scores import ScoresError

DRAWS = 20_000
LUCK = special.ndtri((np.arange(64) + 0.5) / 64)  # of one seed, at quantiles of a normal
SEED = 20240904  # of the simulation, so that a plan can be repeated


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An experiment that compares two designs: its size, the level, and the effect that counts."""

    tasks: int
    seeds: int
    effect: float
    alpha: float = ALPHA
    family: int = 1

    @property
    def level(self) -> float:
        """What a p must stay below to be significant in the first step of Holm's correction."""
        return self.alpha / self.family

    @property
    def smallest_p(self) -> float:
        """The smallest two-sided exact p of Wilcoxon's test over the tasks."""
        return 2.0 ** (1 - self.tasks)

    @property
    def tasks_needed(self) -> int:
        """The fewest tasks with which Wilcoxon's test can reach significance at all."""
        return math.ceil(1 - math.log2(self.level) - 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What a plan can show; differences in the units of the score.

    `false_claims` is how often Wilcoxon's test finds a difference at `level` where there is none:
    more than `level` where the luck of few seeds reaches all tasks.
    """

    level: float
    smallest_p: float
    reachable: bool
    tasks_needed: int
    power_over_tasks: float
    false_claims: float
    power_over_seeds_and_tasks: float
    detectable: float


def look_ahead(plan: Plan, noise: Noise, generator: np.random.Generator) -> Outlook:
    """What `plan` can show under `noise`."""
    parts = variance_shares(plan.seeds, plan.tasks, noise)
    return Outlook(
        level=plan.level,
        smallest_p=plan.smallest_p,
        reachable=plan.smallest_p <= plan.level,
        tasks_needed=plan.tasks_needed,
        power_over_tasks=power_over_tasks(plan, noise, plan.effect, generator),
        false_claims=power_over_tasks(plan, noise, 0.0, generator),
        power_over_seeds_and_tasks=_power(parts, plan, noise, plan.effect),
        detectable=_detectable(parts, plan, noise),
    )


def _power(parts: Sequence[Share], plan: Plan, noise: Noise, effect: float) -> float:
    """The power over seeds and tasks; the test of one seed takes that seed's luck for effect."""
    luck = noise.seed * LUCK if plan.seeds == 1 else np.zeros(1)
    return float(np.mean([power(parts, effect + each, plan.level) for each in luck]))


def _detectable(parts: Sequence[Share], plan: Plan, noise: Noise) -> float:
    """The smallest effect found with 80 % power; infinite where luck alone is found as often."""
    calm = smallest_detectable(parts, plan.level)
    if plan.seeds > 1 or not noise.seed or math.isinf(calm):
        return calm
    if _power(parts, plan, noise, 0.0) >= POWER:
        return math.inf
    most = calm + 10 * noise.seed
    return float(optimize.brentq(lambda e: _power(parts, plan, noise, e) - POWER, 0.0, most))


def variance_shares(seeds: int, tasks: int, noise: Noise) -> tuple[Share, ...]:
    """The variance of a mean difference as `contrasts.compare` will find it, on average."""
    if seeds == 1:
        return shares(0.0, 1, [(noise.task**2 + noise.rest**2) / tasks], [tasks])
    by_seed = noise.seed**2 / seeds + noise.rest**2 / (seeds * tasks)
    return shares(by_seed, seeds, [noise.task**2 / tasks if tasks > 1 else 0.0], [tasks])


def power_over_tasks(
    plan: Plan, noise: Noise, effect: float, generator: np.random.Generator, draws: int = DRAWS
) -> float:
    """How often Wilcoxon's test over tasks is significant at the plan's level, by simulation.

    The standard error of a power P is sqrt(P (1 - P) / draws), at most 0.4 points.
    """
    if plan.smallest_p > plan.level:
        return 0.0
    luck = noise.seed / math.sqrt(plan.seeds) * generator.normal(size=(draws, 1))
    spread = math.hypot(noise.task, noise.rest / math.sqrt(plan.seeds))
    rows = effect + luck + spread * generator.normal(size=(draws, plan.tasks))
    return float((signed_rank(rows).p <= plan.level).mean())


def sentences(plan: Plan, noise: Noise, outlook: Outlook) -> list[str]:
    """The outlook in plain English."""
    over = "" if plan.family == 1 else f", corrected over {plan.family} comparisons,"
    if outlook.reachable:
        reach = f"With {plan.tasks} tasks, significance{over} can be reached over tasks"
    else:
        reach = (
            f"With {plan.tasks} tasks, no difference{over} can be significant over tasks, however "
            f"large: that takes {outlook.tasks_needed} tasks"
        )
    text = [
        f"{reach} (smallest two-sided exact p {outlook.smallest_p:.3g}, needed {plan.level:.3g}).",
        f"A true difference of {plan.effect:g} is found {_percent(outlook.power_over_tasks)} of "
        "the time by Wilcoxon's test over tasks, and "
        f"{_percent(outlook.power_over_seeds_and_tasks)} by the test over seeds and tasks.",
        f"The smallest difference found {_percent(POWER)} of the time over seeds and tasks is "
        f"{outlook.detectable:.3g}.",
    ]
    if outlook.false_claims > 1.2 * plan.level:
        alone = plan.seeds == 1
        seeds, other = ("seed", "errs with one seed too") if alone else ("seeds", "does not")
        text.append(
            f"Wilcoxon's test over tasks claims a difference {_percent(outlook.false_claims)} of "
            f"the time where there is none ({_percent(plan.level)} promised): the luck of "
            f"{plan.seeds} {seeds} reaches all tasks. The test over seeds and tasks {other}."
        )
    if plan.seeds == 1:
        text.append("One seed: neither test covers the variation between training runs.")
    text.append(
        f"Noise of a difference of two designs: seeds {noise.seed:.3g}, tasks {noise.task:.3g}, "
        f"rest {noise.rest:.3g}{f' ({noise.source})' if noise.source else ''}."
    )
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.{2 if share < 0.01 else 0}f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 2 if the plan cannot be looked at."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        plan = _plan(given)
        noise = _noise(given)
    except ScoresError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    outlook = look_ahead(plan, noise, np.random.default_rng(SEED))
    if given.format == "json":
        seen = asdict(outlook)
        if math.isinf(outlook.detectable):
            seen["detectable"] = None
        found = {"plan": asdict(plan), "noise": asdict(noise), "outlook": seen}
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in sentences(plan, noise, outlook)))
    return 0


def _plan(given: argparse.Namespace) -> Plan:
    checks = {
        "tasks": (2 <= given.tasks <= 1000, "2 to 1000", given.tasks),
        "seeds": (given.seeds >= 1, "at least 1", given.seeds),
        "family": (given.family >= 1, "at least 1", given.family),
        "alpha": (0 < given.alpha < 1, "between 0 and 1", given.alpha),
        "effect": (math.isfinite(given.effect) and given.effect > 0, "above 0", given.effect),
    }
    spreads = (("seed-sd", given.seed_sd), ("task-sd", given.task_sd), ("rest-sd", given.rest_sd))
    for name, spread in spreads:
        fine = spread is None or (math.isfinite(spread) and spread >= 0)
        checks[name] = (fine, "at least 0", spread)
    faults = [
        f"{name}: expected {wanted}, got {value}"
        for name, (fine, wanted, value) in checks.items()
        if not fine
    ]
    if given.noise is None and (given.task_sd is None or given.rest_sd is None):
        faults.append("noise: expected --noise, or --task-sd and --rest-sd, got neither")
    if faults:
        raise ScoresError("\n".join(faults))
    return Plan(**{name: getattr(given, name) for name in Plan.__slots__})


def _noise(given: argparse.Namespace) -> Noise:
    """The table's noise, each part replaced by what was given."""
    found = Noise(seed=0.0, task=0.0, rest=0.0)
    if given.noise is not None:
        found = noise_of(read_scores(given.noise, given.tracking_uri), given.category)
    told = {"seed": given.seed_sd, "task": given.task_sd, "rest": given.rest_sd}
    known = {name: value for name, value in told.items() if value is not None}
    noise = Noise(**{**asdict(found), **known})
    if noise.task == noise.rest == noise.seed == 0:
        raise ScoresError("noise: expected some above 0, got none, so any effect would be seen")
    return noise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power",
        description="Say what so many tasks and seeds can show, before anything is trained. "
        "Effects and standard deviations are in the units of the score.",
    )
    add = parser.add_argument
    add("--tasks", type=int, required=True, help="tasks of the comparison")
    add("--seeds", type=int, default=1, help="training runs of each design (default: 1)")
    add("--effect", type=float, default=0.01, help="the difference that counts (default: 0.01)")
    add("--alpha", type=float, default=ALPHA, help=f"promised false claims (default: {ALPHA})")
    add("--family", type=int, default=1, help="comparisons that are corrected together")
    add(
        "--noise",
        metavar="SOURCE",
        help="take the noise from these scores: a finished study's folder, a CSV "
        "model,category,task,score[,seed], mteb's folders or mlflow:EXPERIMENT",
    )
    add("--category", help="only the tasks of this category in SOURCE")
    add("--seed-sd", type=float, help="standard deviation that seeds give a difference")
    add("--task-sd", type=float, help="standard deviation of a difference between tasks")
    add("--rest-sd", type=float, help="standard deviation of what is left in one cell")
    add("--format", choices=("text", "json"), default="text")
    add("--tracking-uri", metavar="URI", help="of MLflow (default: its own setting)")
    return parser
