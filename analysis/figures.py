"""The figures of a report: each takes tables and gives one inline SVG, or "" without data."""

from collections.abc import Callable, Sequence
from functools import wraps

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FormatStrFormatter, NullFormatter

from analysis import svg
from analysis.table import is_missing
from analysis.wording import POINTS, Finding

COSTS = (
    ("trainable_parameters", "trainable parameters"),
    ("flops_per_token", "FLOPs per token, forward"),
    ("seconds", "training seconds\n(with other trials running)"),
)
LABEL = 60  # letters of a design in the forest
MOST_ROWS = 24  # of a panel of the forest
MOST_LEVELS = 8  # a number with more values than this is drawn as a number, not as levels


def styled(draw: Callable[..., str]) -> Callable[..., str]:
    """Draw under the project's settings, whatever the caller's are."""

    @wraps(draw)
    def drawn(*arguments: object) -> str:
        with mpl.rc_context(svg.STYLE):
            return draw(*arguments)

    return drawn


@styled
def forest(families: Sequence[tuple[str, Sequence[Finding]]], name: str = "forest") -> str:
    """Effects with 95 % intervals in points; one panel for each family of findings."""
    tested = [(title, [f for f in found if f.contrast][:MOST_ROWS]) for title, found in families]
    tested = [(title, found) for title, found in tested if found]
    if not tested:
        return ""
    most = max(len(found) for _, found in tested)
    figure, axes = svg.new_figure(7.6, 1.1 + 0.36 * most, columns=len(tested))
    for axis, (title, found) in zip(axes, tested, strict=True):
        _forest_panel(axis, title, found)
    return svg.to_svg(figure, name, "Effects with 95 % intervals, in points")


def _forest_panel(axis: Axes, title: str, found: Sequence[Finding]) -> None:
    axis.axvline(0, color=svg.QUIET, linewidth=0.8)
    for row, finding in enumerate(reversed(found)):
        contrast = finding.contrast
        if contrast is None:
            continue
        sure = finding.outcome != "open"
        color = {"better": svg.WINNER, "worse": svg.CONTROL, "open": svg.QUIET}[finding.outcome]
        if np.isfinite(contrast.low):
            ends = [POINTS * contrast.low, POINTS * contrast.high]
            axis.plot(ends, [row, row], color=color, linewidth=2, solid_capstyle="butt")
        axis.plot(
            POINTS * contrast.effect,
            row,
            "s",
            color=color,
            markersize=6,
            markerfacecolor=color if sure else "white",
        )
    axis.set_yticks(range(len(found)), _names(found)[::-1], color=svg.INK)
    axis.set_ylim(-0.6, len(found) - 0.4)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_title(title)
    axis.set_xlabel("difference in points")


def _names(found: Sequence[Finding]) -> list[str]:
    """The category of each finding, with the design where there are several of a category."""
    categories = [finding.category for finding in found]
    if len(set(categories)) == len(categories):
        return categories
    labels = [finding.winner.label if finding.winner else "" for finding in found]
    short = [text if len(text) <= LABEL else f"{text[: LABEL - 1]}…" for text in labels]
    return [f"{text}: {category}" for text, category in zip(short, categories, strict=True)]


@styled
def cost(points: pd.DataFrame) -> str:
    """Mean choosing score against each cost; those that a design fixes have a Pareto front.

    Seconds get no front: they depend on what else ran at the same time. `points` has one row for
    each complete search trial: score (0 to 1), trainable_parameters, flops_per_token, seconds,
    mark ("control", "winner" or "other"). A cost that no trial knows has no panel.
    """
    if points.empty:
        return ""
    panels = [panel for panel in COSTS if panel[0] == "seconds" or points[panel[0]].notna().any()]
    figure, axes = svg.new_figure(7.6, 3.3, columns=len(panels), share_y=True)
    for axis, (column, title) in zip(axes, panels, strict=True):
        known = points.dropna(subset=[column])
        if column != "seconds":
            _front(axis, known, column)
        _marked(axis, known[column].astype(float), POINTS * known["score"], known["mark"])
        axis.set_xlabel(title)
        _scale(axis, known[column].astype(float))
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes[0].set_ylabel("mean choosing score, points")
    axes[0].legend(loc="best", fontsize=8)
    return svg.to_svg(figure, "cost", "Mean choosing score against what a design costs")


def _front(axis: Axes, known: pd.DataFrame, cost: str) -> None:
    """The Pareto line over a cost that is known for each row."""
    ordered = known.sort_values([cost, "score"], ascending=[True, False])
    front = ordered.loc[pareto(ordered["score"].to_numpy(float))]
    axis.plot(
        front[cost].astype(float),
        POINTS * front["score"],
        color=svg.INK,
        linewidth=0.9,
        drawstyle="steps-post",
        zorder=1,
        label="best for its cost",
    )


def pareto(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[bool]:
    """Which rows, ordered by cost, are better than all that cost less.

    >>> pareto(np.array([0.2, 0.1, 0.3, 0.3]))
    [True, False, True, False]
    """
    before = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
    return [bool(better) for better in scores > before]


def _scale(axis: Axes, values: "pd.Series[float]") -> None:
    if len(values) and values.min() > 0 and values.max() / values.min() > 20:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(NullFormatter())


def _marked(axis: Axes, x: "pd.Series[float]", y: "pd.Series[float]", marks: pd.Series) -> None:
    size_of_many = float(np.clip(4000 / max(len(marks), 1), 7, 34))
    looks = {
        "other": (svg.OTHER_MARK, svg.OTHER, size_of_many, "trial"),
        "winner": (svg.WINNER_MARK, svg.WINNER, 130, "winner"),
        "control": (svg.CONTROL_MARK, svg.CONTROL, 42, "control"),
    }
    for mark, (shape, color, size, name) in looks.items():
        chosen = (marks == mark).to_numpy()
        if chosen.any():
            axis.scatter(
                x[chosen],
                y[chosen],
                s=size,
                marker=shape,
                color=color,
                label=name,
                edgecolors="white",
                linewidths=0.4,
                zorder=2 if mark == "other" else 3,
            )


@styled
def learning_curves(curves: pd.DataFrame) -> str:
    """Quick score by step; `curves` has name, status, step, quick_score and mark."""
    known = curves.dropna(subset=["step", "quick_score"])
    if known.empty:
        return ""
    figure, (axis,) = svg.new_figure(7.6, 3.2)
    drawn: set[str] = set()
    order = {"other": 0, "winner": 1, "control": 2}
    groups = sorted(known.groupby("name"), key=lambda g: (order[g[1]["mark"].iloc[0]], g[0]))
    for _, trial in groups:
        _curve(axis, trial.sort_values("step"), drawn)
    axis.set_xlabel("training step")
    axis.set_ylabel("quick score")
    axis.legend(loc="best", fontsize=8)
    return svg.to_svg(figure, "curves", "Quick score of each search trial by training step")


def _curve(axis: Axes, trial: pd.DataFrame, drawn: set[str]) -> None:
    mark, status = str(trial["mark"].iloc[0]), str(trial["status"].iloc[0])
    color = {"control": svg.CONTROL, "winner": svg.WINNER, "other": svg.OTHER}[mark]
    name = mark if mark != "other" else "finished" if status == "complete" else "not finished"
    axis.plot(
        trial["step"],
        trial["quick_score"],
        color=color,
        linewidth=0.8 if mark == "other" else 2.2,
        linestyle="-" if status == "complete" else ":",
        label="_" if name in drawn else name,
    )
    if status != "complete":
        axis.plot(
            trial["step"].iloc[-1],
            trial["quick_score"].iloc[-1],
            "o",
            color=color,
            markerfacecolor="white",
            markersize=4,
        )
    drawn.add(name)


@styled
def parameter_strips(points: pd.DataFrame, parameters: Sequence[str]) -> str:
    """The mean score of each trial by the level of each parameter that varies.

    `points` is as for `cost`, with the parameters' columns.
    """
    varying = [p for p in parameters if len(_levels(points[p])) > 1]
    if not varying:
        return ""
    rows = -(-len(varying) // 2)
    figure, axes = svg.new_figure(7.6, 2.5 * rows, rows=rows, columns=2, share_y=True)
    for axis, parameter in zip(axes, varying, strict=False):
        _strip(axis, points[[not is_missing(v) for v in points[parameter]]], parameter)
    for axis in axes[len(varying) :]:
        axis.set_visible(False)
    for axis in axes[::2]:
        axis.set_ylabel("score, points")
    return svg.to_svg(figure, "strips", "Mean choosing score by the level of each parameter")


def _levels(values: pd.Series) -> list[object]:
    """The distinct values that are there: numbers by size, then the others by name."""
    levels = {
        value if isinstance(value, int | float) else str(value)
        for value in values
        if not is_missing(value)
    }
    return sorted(
        levels, key=lambda v: (isinstance(v, str), v if not isinstance(v, str) else 0, str(v))
    )


def _strip(axis: Axes, points: pd.DataFrame, parameter: str) -> None:
    levels = _levels(points[parameter])
    scores = POINTS * points["score"]
    axis.set_title(parameter)
    numbers = [v for v in levels if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(levels) > MOST_LEVELS:
        x = points[parameter].astype(float)
        _marked(axis, x, scores, points["mark"])
        _scale(axis, x)
        return
    names = [str(level) for level in levels]
    at = points[parameter].map(lambda v: float(names.index(str(v))))
    rank = at.groupby(at).cumcount() - (at.groupby(at).transform("size") - 1) / 2
    largest = max(float(rank.abs().max()), 1.0)
    _marked(axis, at + 0.25 * rank / largest, scores, points["mark"])
    medians = scores.groupby(at).median()
    axis.hlines(medians, medians.index - 0.33, medians.index + 0.33, color=svg.INK, linewidth=1.4)
    axis.set_xticks(range(len(names)), names, color=svg.INK)
    axis.set_xlim(-0.6, len(names) - 0.4)
