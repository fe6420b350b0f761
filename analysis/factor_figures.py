"""The figure of a factorial's interactions: lines of cell means, parallel where there is none."""

from collections.abc import Sequence
from itertools import combinations

import pandas as pd
from matplotlib.axes import Axes

from analysis import svg
from analysis.factorial import factors_of, levels_of
from analysis.figures import styled
from analysis.wording import POINTS

MOST_PAIRS = 6  # of factors
SHORT = 18  # letters of a level
LOOKS = ((svg.CONTROL, "D"), (svg.WINNER, "o"), (svg.OTHER, "s"), (svg.INK, "^"), (svg.QUIET, "v"))


@styled
def interaction_lines(points: pd.DataFrame, names: Sequence[str]) -> str:
    """One panel for each pair of factors that vary, at most `MOST_PAIRS`.

    `points` has a row for each run of a cell: score (0 to 1) and the parameters `names`.
    """
    values = zip(*(points[name] for name in names), strict=True)
    cells = [levels_of(dict(zip(names, row, strict=True)), names) for row in values]
    pairs = list(combinations(factors_of(cells), 2))[:MOST_PAIRS]
    if not pairs:
        return ""
    levels = pd.DataFrame(cells).assign(score=POINTS * points["score"].to_numpy(float))
    columns = min(len(pairs), 2)
    rows = -(-len(pairs) // columns)
    figure, axes = svg.new_figure(7.6, 2.8 * rows, rows=rows, columns=columns, share_y=True)
    for axis, (across, lines) in zip(axes, pairs, strict=False):
        _panel(axis, levels.dropna(subset=[across, lines]), across, lines)
    for axis in axes[len(pairs) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("score, points")
    return svg.to_svg(figure, "interactions", "Mean score by the levels of two factors")


def _panel(axis: Axes, levels: pd.DataFrame, across: str, lines: str) -> None:
    order = list(dict.fromkeys(levels[across]))
    means = levels.groupby([lines, across], sort=False)["score"].mean()
    for number, level in enumerate(dict.fromkeys(levels[lines])):
        color, mark = LOOKS[number % len(LOOKS)]
        known = means[level]
        at = [place for place, name in enumerate(order) if name in known.index]
        heights = [float(known[order[place]]) for place in at]
        axis.plot(at, heights, color=color, marker=mark, markersize=5, label=_short(level))
    axis.set_xticks(range(len(order)), [_short(name) for name in order], color=svg.INK)
    axis.set_xlim(-0.4, len(order) - 0.6)
    axis.set_xlabel(across)
    axis.legend(title=lines, fontsize=7, title_fontsize=7, loc="best")


def _short(level: str) -> str:
    return level if len(level) <= SHORT else f"{level[: SHORT - 1]}…"
