"""What trials would do, without training any: a formula, or the curves of a finished search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.observers.results import COST, read_rows
from cluster.simulation.draws import normal, uniform
from cluster.simulation.virtual import Event
from cluster.study.trials import mean_score
from search_spaces.drawing import Space
from search_spaces.factorial import cells
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import as_dict, flatten
from trainables.shape import Shape

BEST, WORST, START = 0.8, 0.7, 0.3  # scores: of the best and the worst design, and of no training
PAIRS = 0.15  # share of the pairs of parameters that interact
NOISE = 0.005  # standard deviation of a report's score
RATES = (4.0, 5.0)  # how fast designs learn, over a whole training; early ranks are half the truth
SECONDS = (0.7, 1.5)  # a step of designs
SCORING_S = 4.0  # seconds of an evaluation
NAME = "score"  # of the one task


class Formula:
    """Each value of a parameter has a worth, and some pairs of values too; the best is known.

    A curve rises to its design's score, at the design's own rate, with noise in its reports.
    """

    def __init__(
        self, space: Space, base: TrialConfig, shape: Shape, *, seed: int = 0, noise: float = NOISE
    ) -> None:
        """Weigh all designs of the space; another seed makes other worths."""
        self._base, self._seed, self._noise = base, seed, noise
        self._worths: dict[object, float] = {}
        drawn = [cell.params for cell in cells(space, base, shape)]
        self.num_designs = len(drawn)
        usual = flatten(as_dict(base))
        self._names = sorted({name for design in drawn for name in design})
        pairs = itertools.combinations(self._names, 2)
        self._pairs = [pair for pair in pairs if uniform(seed, pair) < PAIRS]
        worths = [self._worth(usual | design) for design in drawn]
        self._low, self._high = min(worths), max(worths)
        self.best = BEST

    def score(self, config: Mapping[str, Any]) -> float:
        """Return the true score of flat values."""
        share = (self._worth(config) - self._low) / ((self._high - self._low) or 1.0)
        return WORST + (BEST - WORST) * share

    def _worth(self, config: Mapping[str, Any]) -> float:
        alone = sum(self._of(name, config[name]) for name in self._names)
        return alone + sum(self._of(a, config[a], b, config[b]) for a, b in self._pairs)

    def _of(self, *values: object) -> float:
        if values not in self._worths:
            self._worths[values] = normal(self._seed, values)
        return self._worths[values]

    def events(self, config: dict[str, Any]) -> Sequence[Event]:
        """Return reports along the design's curve, and its true score at the end."""
        flat = flatten(config)
        own = [self._seed, *(flat[name] for name in self._names)]
        final, training = self.score(flat), self._base.training
        pace = SECONDS[0] + (SECONDS[1] - SECONDS[0]) * uniform("pace", own)
        rate = RATES[0] + (RATES[1] - RATES[0]) * uniform("rate", own)
        found, before = [], 0
        for step in report_steps(training.steps, training.report_every):
            missing = (final - START) * math.exp(-rate * step / training.steps)
            quick = final - missing + self._noise * normal("noise", own, step)
            found.append(_report(step, quick, (step - before) * pace, step * pace))
            before = step
        cost = {name: int(1000 * uniform(name, own)) for name in COST}
        found.append(Event(SCORING_S, "Outcome", _outcome(final, cost)))
        return found


def report_steps(steps: int, every: int) -> list[int]:
    """Return the steps at which a trial reports.

    >>> report_steps(7, 3)
    [3, 6, 7]
    """
    return [*range(every, steps, every), steps]


def _report(step: int, quick: float, seconds: float, since_start: float) -> Event:
    return Event(
        seconds,
        "Report",
        {
            "step": step,
            "loss": 1 - quick,
            "quick_score": quick,
            "temperature": 0.05,
            "seconds": since_start,
        },
    )


def _outcome(score: float, cost: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scores": {NAME: score},
        "categories": {NAME: NAME},
        "failures": {},
        "items": "",
        "cost": dict(cost),
        "seconds": 0.0,
        "versions": {},
    }


class Recorded:
    """The complete trials of a finished search; any other design does as the nearest of them.

    The nearest differs in the fewest parameters; among equals it is the first.
    """

    def __init__(self, folder: Path) -> None:
        """Read a study's results table.

        Raises:
            ConfigError: If no trial of the search there was completed.
        """
        rows = read_rows(folder / "results") if (folder / "results").is_dir() else []
        rows = [r for r in rows if r["role"] != "baseline" and r["split"] == "choosing"]
        self._rows = [r for r in rows if r["status"] == "complete"]
        if not self._rows:
            raise ConfigError(
                f"recorded: expected a finished search's folder, got {str(folder)!r}"
            )
        self._scores = [_mean(row) for row in self._rows]
        self.num_designs = len(self._rows)
        self.best = max(self._scores)
        self._names = sorted({name for row in self._rows for name in row["params"]})
        self._known: dict[tuple[object, ...], int] = {}

    def score(self, config: Mapping[str, Any]) -> float:
        """Return the recorded score of flat values."""
        return self._scores[self._nearest(config)]

    def _nearest(self, config: Mapping[str, Any]) -> int:
        key = tuple(config[name] for name in self._names)
        if key not in self._known:
            self._known[key] = min(range(len(self._rows)), key=lambda i: self._distance(i, config))
        return self._known[key]

    def _distance(self, place: int, config: Mapping[str, Any]) -> int:
        params = self._rows[place]["params"]
        return sum(config[name] != value for name, value in params.items())

    def events(self, config: dict[str, Any]) -> Sequence[Event]:
        """Return the recorded curve and score."""
        place = self._nearest(flatten(config))
        row, found, before = self._rows[place], [], 0.0
        for report in row["curve"]:
            found.append(Event(max(report["seconds"] - before, 0.0), "Report", report))
            before = report["seconds"]
        rest = max(row["seconds"] - before, 0.0)
        cost = {name: row[name] for name in COST}
        found.append(Event(rest, "Outcome", _outcome(self._scores[place], cost)))
        return found


def _mean(row: Mapping[str, Any]) -> float:
    score = mean_score({name: row[name] for name in ("scores", "categories", "failures")})
    assert score is not None
    return score
