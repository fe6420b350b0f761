"""How much differences between two models vary, by seed and by task, in a table of scores."""

from dataclasses import dataclass

import numpy as np

from analysis.contrasts import mean_squares, pair
from analysis.pseudovalues import SeedsByItems
from analysis.scores import ALL, Scores, ScoresError, choose

MOST_PAIRS = 2000  # evenly spaced, of a table that has more


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Standard deviations of a difference between two models, in the units of the score.

    `seed` is common to all tasks of a run, `task` to all runs on a task, `rest` of one cell.
    """

    seed: float
    task: float
    rest: float
    source: str = ""


def noise_of(scores: Scores, category: str | None = None) -> Noise:
    """The median over all pairs of models of each part (analysis of variance, never below 0).

    Where a table has one seed, nothing is known of seeds, and `task` holds the rest too.

    Raises:
        ScoresError: If there is no pair with two tasks, or the category is unknown.
    """
    choose(scores, [], category)
    at = scores.tasks_of(category or ALL)
    seeds, tasks = tuple(range(len(scores.seeds))), tuple(scores.tasks[task] for task in at)
    arms = [
        SeedsByItems(seeds=seeds, items=tasks, values=values[:, at]) for values in scores.values
    ]
    left, right = np.triu_indices(len(arms), 1)
    some = np.unique(np.linspace(0, len(left) - 1, min(len(left), MOST_PAIRS)).astype(int))
    cells = [pair(arms[left[each]], arms[right[each]]).values for each in some]
    known = [each for each in cells if len(each) and each.shape[1] > 1]
    if not known:
        raise ScoresError("noise: expected two models with two tasks in common, got none")
    crossed = [each for each in known if each.shape[0] > 1]
    parts = np.array([_parts(each) for each in crossed or known])
    seed, task, rest = (float(part) for part in np.median(parts, axis=0))
    about = "" if crossed else ", one seed, so nothing is known of seeds"
    return Noise(
        seed=seed,
        task=task,
        rest=rest,
        source=f"median of {len(parts)} {'pair' if len(parts) == 1 else 'pairs'}{about}",
    )


def _parts(cells: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> list[float]:
    """Standard deviations of seed, task and rest in differences (S, T)."""
    num_seeds, num_tasks = cells.shape
    squares = mean_squares(cells)
    if num_seeds == 1:
        return [0.0, squares.item**0.5, 0.0]
    seed = max(squares.seed - squares.error, 0.0) / num_tasks
    task = max(squares.item - squares.error, 0.0) / num_seeds
    return [seed**0.5, task**0.5, squares.error**0.5]
