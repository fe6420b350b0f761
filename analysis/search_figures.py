"""Figures of a search's own evidence: what mattered in it, and how its designs rank."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import svg
from analysis.arrays import FloatArray
from analysis.figures import styled

SHORT = 60  # letters of a design
MOST_BARS = 12


@styled
def importance_bars(found: pd.DataFrame) -> str:
    """The share of each parameter, with the spread over forests; columns fanova, fanova_sd."""
    if found.empty:
        return ""
    shown = found.head(MOST_BARS).iloc[::-1]
    figure, (axis,) = svg.new_figure(7.6, 0.9 + 0.28 * len(shown))
    rows = np.arange(len(shown))
    axis.barh(rows, 100 * shown["fanova"], color=svg.WINNER, height=0.6)
    axis.errorbar(
        100 * shown["fanova"],
        rows,
        xerr=100 * shown["fanova_sd"],
        fmt="none",
        ecolor=svg.INK,
        linewidth=1,
    )
    axis.set_yticks(rows, [str(name) for name in shown.index], color=svg.INK)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("share of the scores' variance, %")
    axis.set_xlim(left=0)
    return svg.to_svg(figure, "importance", "Importance of the parameters that the search varied")


@styled
def critical_difference(names: Sequence[str], mean_ranks: FloatArray, p: FloatArray) -> str:
    """Mean ranks (M,) on a line, best on the right; bars join what `p` (M, M) does not part.

    The diagram of Demšar (2006, section 3.2.5), with the names below one another.
    """
    order = np.argsort(-mean_ranks)
    groups = _groups(order, p)
    figure, (axis,) = svg.new_figure(7.6, 0.9 + 0.3 * len(names) + 0.12 * len(groups))
    top = len(names) + 0.4
    for place, which in enumerate(order):
        row = len(names) - place - 1
        rank = mean_ranks[which]
        axis.plot([rank, rank], [row, top], color=svg.FAINT, linewidth=0.8)
        axis.plot(rank, row, "o", color=svg.INK, markersize=4)
        name = names[which] if len(names[which]) <= SHORT else f"{names[which][: SHORT - 1]}…"
        axis.text(rank, row, f"  {name}  ", ha="right", va="center", color=svg.INK, fontsize=8.5)
    for number, group in enumerate(groups):
        ends = [min(mean_ranks[group]) - 0.03, max(mean_ranks[group]) + 0.03]
        height = top + 0.25 + 0.3 * number
        axis.plot(ends, [height, height], color=svg.WINNER, linewidth=3, solid_capstyle="butt")
    axis.set_ylim(-0.6, top + 0.3 * (len(groups) + 1))
    span = float(np.ptp(mean_ranks)) or 1.0
    axis.set_xlim(mean_ranks.min() - 1.1 * span, mean_ranks.max() + 0.1 * span)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(f"mean rank over tasks (1 to {len(names)}, higher is better)")
    return svg.to_svg(figure, "ranks", "Mean ranks of the designs, and which are not told apart")


def _groups(order: np.ndarray, p: FloatArray, level: float = 0.05) -> list[list[int]]:
    """The longest runs of neighbours no two of which are told apart, each of two at least.

    >>> _groups(np.array([0, 1, 2]), np.array([[1, 0.5, 0.01], [0.5, 1, 0.4], [0.01, 0.4, 1]]))
    [[0, 1], [1, 2]]
    """
    found: list[list[int]] = []
    last = -1
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and all(
            p[order[end + 1], order[at]] >= level for at in range(start, end + 1)
        ):
            end += 1
        if end > start and end > last:
            found.append([int(which) for which in order[start : end + 1]])
            last = end
    return found
