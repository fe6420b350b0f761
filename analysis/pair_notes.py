"""What a reader must know of a comparison beside its numbers, in words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.arrays import BoolArray, FloatArray
from analysis.contrasts import ALPHA
from analysis.inference.corrections import Correction

SHOWN = 3  # names of missing tasks


def notes(
    found: pd.DataFrame,
    table: FloatArray,
    models: Sequence[str],
    tasks: Sequence[str],
    correction: Correction,
) -> list[str]:
    """One text for each pair of a family, mostly empty; table is (M, n).

    `found` has the columns left, right, n, p, wins, losses of the family's pairs.
    """
    gaps = [np.flatnonzero(row).tolist() for row in np.isnan(table)]
    lacks = np.array([len(gap) > 0 for gap in gaps])
    moved = (found["wins"] + found["losses"]).to_numpy()
    number, left, right = (found[name].to_numpy() for name in ("n", "left", "right"))
    family = int(found["p"].notna().sum())
    large = np.nanmax(np.abs(table), axis=1, initial=0.0)
    late = _late(int(moved.max(initial=0)), family, correction)
    texts = []
    for at in range(len(found)):
        parts = []
        if lacks[left[at]] or lacks[right[at]]:
            both = (int(left[at]), int(right[at]))
            parts += [_gap(models[who], gaps[who], tasks) for who in both if len(gaps[who])]
        if number[at] == 0:
            parts.append("no task in common, so no test and not in the family")
        elif moved[at] == 0:
            parts.append("all differences are zero: perhaps one model under two names")
        elif 2.0 ** (1 - moved[at]) > ALPHA:
            parts.append(_few(int(moved[at]), int(number[at])))
        elif late:
            parts.append(late)
        if number[at] == 1:
            parts.append("one task, so no interval")
        if (large[left[at]] > 1) != (large[right[at]] > 1) and number[at]:
            parts.append("perhaps two scales, 0 to 1 and 0 to 100")
        texts.append("; ".join(parts))
    return texts


def seed_notes(
    found: pd.DataFrame, known: BoolArray, models: Sequence[str], seeds: Sequence[str]
) -> list[str]:
    """What averaging over seeds leaves out, for each pair; known is (M, S, n)."""
    if len(seeds) == 1:
        return [""] * len(found)
    has = [_seeds(model, seeds) for model in known]
    texts = []
    for left, right in zip(found["left"], found["right"], strict=True):
        text = "scores are means over seeds, whose luck p and interval do not cover"
        if has[left] != has[right] or "some tasks" in has[left]:
            text += f"; {models[left]} has {has[left]}, {models[right]} {has[right]}"
        texts.append(text)
    return texts


def _seeds(known: BoolArray, seeds: Sequence[str]) -> str:
    """The seeds of a model with known scores (S, n), in words.

    >>> _seeds(np.array([[True, True], [True, False]]), ["1", "2"])
    'seeds 1, 2, not all on some tasks'
    """
    there = np.flatnonzero(known.any(axis=1))
    scored = known[there][:, known.any(axis=0)]
    words = ", ".join(seeds[int(at)] for at in there)
    return f"seeds {words}" + ("" if scored.all() else ", not all on some tasks")


def _gap(model: str, gap: Sequence[int], tasks: Sequence[str]) -> str:
    names = ", ".join(tasks[at] for at in gap[:SHOWN])
    more = f" and {len(gap) - SHOWN} more" if len(gap) > SHOWN else ""
    return f"{model} has no score on {names}{more}"


def _few(moved: int, number: int) -> str:
    tasks, differ = ("task", "differs") if moved == 1 else ("tasks", "differ")
    which = "" if moved == number else f" that {differ}"
    return (
        f"too few: with {moved} {tasks}{which} the smallest two-sided exact p is "
        f"{2.0 ** (1 - moved):g}"
    )


def _late(moved: int, family: int, correction: Correction) -> str:
    """What to say if not even the smallest p would survive the correction."""
    smallest = 2.0 ** (1 - moved)
    if correction != "holm" or smallest * family <= ALPHA or not moved:
        return ""
    return (
        f"too few: with {moved} tasks the smallest two-sided exact p is {smallest:.2g}, which "
        f"Holm over {family} pairs raises to {min(smallest * family, 1.0):.2g}"
    )
