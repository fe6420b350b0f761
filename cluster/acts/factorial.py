"""A space as an ablation: the same cells with the same seeds, each at its own best settings.

A factorial has two acts. *Tuning*: each cell tries the same few settings of the learning rates and
the temperature, with the same seed, on the choosing half, so that no design is judged at what
suits another. *Cells*: each cell is trained at its best setting with fresh seeds and scored on the
confirming half. A block is one setting, or one seed, of all cells in an order by lot; blocks run
one after another, so a factorial that is broken off is still balanced but for its last block.
Nothing is stopped early.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna

from cluster.acts.confirm import Run, is_control, kept_runs
from cluster.acts.tuning import best_settings, settings, spans
from cluster.preflight.forecast import Act
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL, Overlay
from search_spaces.factorial import Cell, cells, factors_of
from search_spaces.fraction import Fraction, fraction, num_effects
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.faults import check, one_of
from trainables.identity import design_digest, label
from trainables.overlay import overlay
from trainables.shape import Shape

TUNING, CELLS = "tune", "cells"  # the acts, and their folders

Log = Callable[[str], None]


class RunAct(Protocol):
    """Whoever runs the trials of a plan: `cluster.run`."""

    def __call__(self, act: str, runs: Sequence[Run]) -> optuna.Study:
        """Run what is left of `runs`; return the act's study when all have ended."""
        ...


@dataclass(frozen=True, kw_only=True)
class Factorial:
    """What is crossed with what."""

    cells: tuple[Overlay, ...]  # the control first
    settings: tuple[Overlay, ...]  # tried in each cell; one alone is the base's own
    num_cells: int  # of the whole factorial
    factors: dict[str, list[Any]]  # the levels of each
    fraction: Fraction | None  # None: the whole factorial


def factorial(config: StudyConfig, shape: Shape) -> Factorial:
    """Return the cells and the settings of a study.

    Raises:
        ConfigError: If a factor is none of the space's, or the fraction has too many cells.
    """
    given = (config.space, config.base, shape, config.factors)
    everything, control = _distinct(*given)
    size = _size(config, everything)
    check(_faults(config, shape, everything, size))
    part = None if size == len(everything) else _part(*given, size, config.seed)
    chosen = part.chosen if part else range(len(everything))
    others = [everything[place].params for place in chosen if place != control]
    return Factorial(
        cells=(dict(CONTROL), *others),
        settings=settings(config),
        num_cells=len(everything),
        factors=factors_of(everything),
        fraction=part,
    )


def _faults(
    config: StudyConfig, shape: Shape, everything: Sequence[Cell], size: int
) -> dict[str, str | None]:
    faults = _unknown_factors(config, shape)
    most = len(_distinct(config.space, config.base, shape, ())[0]) if faults else len(everything)
    if size > most:
        faults["fraction"] = (
            f"expected at most {most}, the cells of the space, got {size}; "
            "leave it out for all of them"
        )
    if len(everything) < 2:
        faults["space"] = f"expected at least two cells, got {len(everything)}"
    return faults


def check_factors(config: StudyConfig, shape: Shape) -> None:
    """Refuse factors that the space does not have.

    Raises:
        ConfigError: With each of them, and the nearest that it has.
    """
    check(_unknown_factors(config, shape))


def _unknown_factors(config: StudyConfig, shape: Shape) -> dict[str, str | None]:
    if not config.factors:
        return {}
    whole, _ = _distinct(config.space, config.base, shape, ())
    known = tuple(factors_of(whole))
    return {f"factors.{n}": one_of(n, known) for n in config.factors if n not in known}


def _size(config: StudyConfig, everything: Sequence[Cell]) -> int:
    """Return how many cells are run."""
    if isinstance(config.fraction, str):
        return num_effects(everything, interactions=config.fraction == "pairs")
    return len(everything) if config.fraction is None else config.fraction


@lru_cache(maxsize=4)
def _distinct(
    space: str, base: TrialConfig, shape: Shape, factors: tuple[str, ...]
) -> tuple[list[Cell], int]:
    """Return the cells, of equal designs the first, and the place of the control."""
    found: dict[str, Cell] = {}
    for cell in cells(SPACES[space], base, shape, factors):
        found.setdefault(design_digest(overlay(base, cell.params)), cell)
    own = design_digest(overlay(base, CONTROL))
    found.setdefault(own, Cell(levels={}, params=dict(CONTROL)))
    return list(found.values()), list(found).index(own)


@lru_cache(maxsize=4)
def _part(
    space: str, base: TrialConfig, shape: Shape, factors: tuple[str, ...], size: int, seed: int
) -> Fraction:
    """Return the fraction of so many cells, the control among them."""
    everything, control = _distinct(space, base, shape, factors)
    return fraction(everything, size, seed=seed, kept=[control])


def tuning_runs(config: StudyConfig, made: Factorial) -> list[Run]:
    """Return the tuning, block by block of one setting; none where there is nothing to choose."""
    if len(made.settings) == 1:
        return []
    return [
        Run(
            role="tuning",
            params={**made.cells[cell], **setting},
            seed=config.base.seed,
            steps=config.base.training.steps,
            split="choosing",
        )
        for block, setting in enumerate(made.settings)
        for cell in _by_lot(len(made.cells), [config.seed, 1, block])
    ]


def cell_runs(config: StudyConfig, made: Factorial, best: Sequence[Overlay | None]) -> list[Run]:
    """Return the runs of the cells at their best settings, block by block of one seed.

    A cell whose best setting is None, as none of its tuning was finished, is left out.
    """
    return [
        Run(
            role="control" if is_control(overlay(config.base, params), config.base) else "cell",
            params={**params, **(best[cell] or {})},
            seed=config.base.seed + 1 + block,
            steps=config.base.training.steps,
        )
        for block in range(config.num_seeds)
        for cell in _by_lot(len(made.cells), [config.seed, 2, block])
        for params in [made.cells[cell]]
        if best[cell] is not None
    ]


def _by_lot(count: int, seed: list[int]) -> list[int]:
    return [int(place) for place in np.random.default_rng(seed).permutation(count)]


def run(config: StudyConfig, shape: Shape, folder: Path, run_act: RunAct, log: Log) -> bool:
    """Tune all cells and run them; return whether the control could be compared with any.

    What is run is decided once, from the space and from the tuning's study, and kept.
    """
    made = factorial(config, shape)
    _keep(made, folder / "factorial.json")
    best: list[Overlay | None] = [{} for _ in made.cells]
    tuning = kept_runs(folder / TUNING / "plan.json", lambda: tuning_runs(config, made))
    if tuning:
        best = best_settings(made.cells, made.settings, run_act(TUNING, tuning))
    for params, setting in zip(made.cells, best, strict=True):
        if setting is None:
            log(
                f"left out, as no tuning of it was finished: {label(overlay(config.base, params))}"
            )
    runs = kept_runs(folder / CELLS / "plan.json", lambda: cell_runs(config, made, best))
    if {run.role for run in runs} != {"control", "cell"}:
        log("cells: nothing to compare; the control or all other cells have no finished tuning")
        return False
    run_act(CELLS, runs)
    return True


def _keep(made: Factorial, file: Path) -> None:
    """Write the factorial down for people: its cells, settings, efficiency and aliases."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(made), indent=1) + "\n")


def acts_of(config: StudyConfig, made: Factorial) -> tuple[Act, ...]:
    """Return the acts of a factorial, for a forecast."""
    num_tuning = len(made.cells) * len(made.settings) if config.tune else 0
    tuning = Act(name=TUNING, num_trained=num_tuning, num_untrained=0, split="choosing")
    num_runs = len(made.cells) * config.num_seeds
    runs = Act(name=CELLS, num_trained=num_runs, num_untrained=0, split="confirming")
    return (tuning, runs) if num_tuning else (runs,)


def describe(config: StudyConfig, made: Factorial) -> list[str]:
    """Return the plan in a few lines."""
    words = ", ".join(f"{name} ({len(levels)})" for name, levels in made.factors.items())
    if made.fraction:
        size = f"a D-optimal fraction of {len(made.cells)} of {made.num_cells} cells of {words}"
        lines = [size, *_describe_fraction(made.fraction)]
    else:
        lines = [f"all {made.num_cells} cells of {words}"]
    tuned = f"{len(made.settings)} settings tuned in each, then " if config.tune else ""
    lines.append(f"{tuned}{config.num_seeds} seeds of each, in {config.num_seeds} blocks by lot")
    if config.tune:
        reach = (f"{name} up to {span:g} times" for name, span in spans(config).items())
        lines.append(f"tuned: {', '.join(reach)} either way")
    return lines


def _describe_fraction(part: Fraction) -> list[str]:
    """Return what a fraction can tell, and what it cannot."""
    kind = "main effects and two-factor interactions" if part.interactions else "main effects"
    told = f"{part.num_estimable} of {part.num_effects} effects (the mean, {kind}) can be told"
    if part.num_estimable < part.num_effects:
        told += f"; all with --fraction {part.num_effects}"
    else:
        told += f", with a D-efficiency of {part.efficiency:.0%} of the whole's, run for run"
    if not part.aliases:
        return [told]
    first, other = part.aliases[0]
    more = f" and {len(part.aliases) - 1} more pairs" if len(part.aliases) > 1 else ""
    return [told, f"cannot be told apart: {first} and {other}{more} (factorial.json)"]
