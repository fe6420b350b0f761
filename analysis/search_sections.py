"""What a study says beside its verdict, as HTML: its plan, what mattered, luck, noise, ranks."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd

from analysis import registration, search_figures
from analysis.arms import Arm
from analysis.curse import leads
from analysis.importance import FEW_TRIALS, importance, interactions
from analysis.inference.rank_tests import friedman, nemenyi
from analysis.markup import figure, notes, section, table
from analysis.table import Results, category_scores, parameter_columns
from analysis.wording import POINTS, format_interval, format_points

Sample = tuple[pd.DataFrame, np.ndarray]  # levels and value of each trial

PLANNED = "The plan was written before the confirmation was run, and the results follow it."
MOST_INTERACTIONS = 5
FEWEST = 4  # trials for shares of a variance, and 3 designs over 5 tasks for ranks


def plan(
    results: Results, arms: Sequence[Arm], winners: Mapping[str, str]
) -> tuple[str, list[str]]:
    """The section of the registered plan, and the sentences on whether the results follow it."""
    kept = registration.read(results.folder)
    if kept is None:
        return "", []
    planned, sha256 = kept
    found = registration.deviations(planned, sha256, results, arms, winners)
    said = [f"Not as planned: {each}" for each in found] or [PLANNED]
    lines = [*registration.sentences(planned), *said, f"SHA-256 of the plan: {sha256}"]
    return section("Plan", notes(lines)), said


def what_mattered(results: Results) -> str:
    """The importance of the parameters for the final scores, and for the first reports."""
    final, early = _final(results), _early(results)
    if final is None:
        return ""
    levels, values = final
    main = importance(levels, values)
    if main.empty:
        return ""
    first = dict(importance(*early)["fanova"]) if early else {}
    rows = [
        [
            str(name),
            f"{100 * row['fanova']:.0f} ± {100 * row['fanova_sd']:.0f}",
            f"{100 * row['ped_anova']:.0f}",
            f"{100 * first[name]:.0f}" if name in first else "",
        ]
        for name, row in main.iterrows()
    ]
    counted = len(early[1]) if early else 0
    heads = ("Parameter", "fANOVA, %", "PED-ANOVA, %", f"at the first report, % ({counted})")
    body = table(heads, rows, numbers=(1, 2, 3), texts=(0,))
    pairs = interactions(levels, values, main).head(MOST_INTERACTIONS)
    if len(pairs):
        together = [[a, b, f"{100 * s:.0f}"] for a, b, s in pairs.itertuples(index=False)]
        body += "<h3>Two parameters together</h3>\n" + table(
            ("Parameter", "With", "Beyond the two, %"), together, numbers=(2,), texts=(0, 1)
        )
    drawn = search_figures.importance_bars(main)
    return section("What mattered", figure((drawn, _caption(len(values)))) + body)


def _caption(num_trials: int) -> str:
    few = f" {num_trials} are few: the shares are mostly noise." * (num_trials < FEW_TRIALS)
    return (
        f"Shares of the variance of {num_trials} finished trials' mean scores that random forests "
        "give to each parameter alone (fANOVA), with the spread over forests; PED-ANOVA: what "
        "sets the best tenth apart. Stopped trials have no score, which understates what made "
        "them bad; so the last column takes all trials at their first report. This describes "
        f"the search and tests nothing.{few}"
    )


def _final(results: Results) -> Sample | None:
    means = category_scores(results, "choosing").mean(axis=1, skipna=False).dropna()
    return _levels(results, means)


def _early(results: Results) -> Sample | None:
    """All trials of the search at the first step that each has reported."""
    curves = results.curves
    if curves.empty or "quick_score" not in curves:
        return None
    common = curves.groupby("step")["name"].nunique()
    first = curves[curves["step"] == common.idxmax()].set_index("name")["quick_score"].dropna()
    return _levels(results, first)


def _levels(results: Results, values: "pd.Series[float]") -> Sample | None:
    trials = results.trials[results.trials["role"].isin(["search", "control"])]
    trials = trials[trials["split"] == "choosing"].set_index("name")
    names = [name for name in values.index if name in trials.index]
    if len(names) < FEWEST:
        return None
    levels = trials.loc[names, parameter_columns(results.trials)]
    return levels, values.loc[names].to_numpy(dtype=float)


def luck(results: Results, arms: Sequence[Arm], items: pd.DataFrame) -> str:
    """What of the finalists' leads at selection the confirmation did not show."""
    found = leads(results, arms, items, sorted(set(results.scores["category"])))
    if not found:
        return ""
    rows = [
        [
            lead.category,
            lead.label,
            format_points(lead.selected),
            format_points(lead.confirmed.effect),
            format_interval(lead.confirmed),
            format_points(lead.shrinkage),
        ]
        for lead in found
    ]
    heads = ("Category", "Finalist", "Lead when chosen", "Confirmed", "95 % interval", "Lost")
    mean = float(np.mean([lead.shrinkage for lead in found]))
    text = (
        "Leads over the control in points: on the choosing half, where the best was picked for "
        f"being high, and on the confirming half with fresh seeds. On average {_lost(mean)}: the "
        "winner's curse, as far as so few finalists show it."
    )
    body = table(heads, rows, numbers=(2, 3, 4, 5), texts=(1,))
    return section("Luck of the winners", f'<p class="quiet">{escape(text)}</p>\n{body}')


def _lost(mean: float) -> str:
    """In words.

    >>> _lost(0.012), _lost(-0.012)
    ('1.2 points were lost', '1.2 points were gained')
    """
    return f"{format_points(abs(mean))} points were {'lost' if mean >= 0 else 'gained'}"


def noise(results: Results) -> str:
    """How far runs of one design differ by their seeds alone, in each category."""
    means = category_scores(results, "confirming")
    trials = results.trials.set_index("name")
    kept = [n for n in means.index if trials.loc[n, "role"] in ("control", "finalist", "cell")]
    groups = trials.loc[kept, "digest"]
    rows = []
    for category in means.columns:
        scores = means.loc[kept, category].dropna()
        by_arm = scores.groupby(groups.loc[scores.index])
        freedom = int((by_arm.count() - 1).sum())
        if freedom < 2:
            continue
        spread = float(np.sqrt(by_arm.var(ddof=0).mul(by_arm.count()).sum() / freedom))
        rows.append([str(category), f"{POINTS * spread:.2f}", str(freedom)])
    if not rows:
        return ""
    text = (
        "Standard deviation of a run's score between seeds of one design, in points: what a "
        "difference of two single runs is mostly made of."
    )
    body = table(("Category", "SD over seeds", "Degrees of freedom"), rows, numbers=(1, 2))
    return section("Noise floor", f'<p class="quiet">{escape(text)}</p>\n{body}')


def ranks(results: Results, arms: Sequence[Arm]) -> str:
    """The critical-difference diagram of the confirmed designs over the confirming tasks."""
    scores = results.scores[results.scores["split"] == "confirming"]
    cells = scores.pivot_table(index="task", columns="name", values="score")
    columns = {
        _name(arm): cells[[n for n in arm.rows.values() if n in cells]].mean(axis=1)
        for arm in arms
    }
    frame = pd.DataFrame(columns).dropna()
    num_tasks, num_designs = frame.shape
    if num_designs < 3 or num_tasks < 5:
        return ""
    values = frame.to_numpy(dtype=float)
    omnibus, p = friedman(values), nemenyi(values)
    drawn = search_figures.critical_difference(list(frame.columns), omnibus.mean_ranks, p)
    caption = (
        f"Mean ranks of {num_designs} designs over {num_tasks} confirming tasks, seeds averaged. "
        f"Friedman's test: p = {omnibus.p_f:.2g} (Iman and Davenport). A bar joins designs that "
        "Nemenyi's test does not tell apart at 0.05. Tasks count alike here, and seeds' luck is "
        "not covered: the verdict's tests are the ones above."
    )
    return section("Ranks over tasks", figure((drawn, caption)))


def _name(arm: Arm) -> str:
    return arm.label if arm.role != "untrained" else f"untrained: {arm.label}"
