"""The report as one HTML page: every text escaped, nothing fetched, no script."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

import pandas as pd

from analysis.baselines import NOTE, categories, references
from analysis.gaps import Gap
from analysis.markup import figure, notes, section, table
from analysis.power import FEW_ITEMS, FEW_SEEDS
from analysis.table import SPLITS, STATUSES, Results, is_missing
from analysis.verdict import Verdict
from analysis.wording import POINTS, Finding, format_interval, format_p, format_points

METHOD = (
    "Each test compares two arms in one category, paired by seed and by item: a query's nDCG@10, "
    "whether a text is classified rightly, a document set's V-measure, or, for the Spearman "
    "correlation of pairs, a document's jackknife pseudo-value.",
    "Seeds and items are both taken as samples (the variance of Dorfman, Berbaum and Metz, 1992). "
    "An interval covers other training seeds and other items (queries, test texts, sets, "
    "documents) of the same tasks. It does not cover other tasks, another corpus, other few-shot "
    "fits of the classifier (their seed is fixed for all designs) or other k-means seeds. The "
    "critical value weighs Student's for seeds and for items by their shares of the variance "
    "(Cochran and Cox, 1957).",
    "The winner of a category is the finalist with the best score on the choosing split; the test "
    "uses the confirming split only.",
    "The best untrained model is the best of the untrained models that were run, no more: the "
    "control's read-out, the causal mean and each finalist's own design, all before training. It "
    "is picked on the confirming split, which favours the untrained side.",
    "p values are corrected by Holm's method within each of two families: the winner against the "
    "control in each category and on the mean of all tasks, and the winner against the best "
    "untrained model likewise. "
    "Nothing is corrected across the two. Each interval covers its own true difference 95 % of "
    "the time; the intervals are not simultaneous, so one may leave out 0 while Holm's p is above "
    "0.05. The sentences follow Holm's p.",
    "The smallest detectable difference is approximate: the true difference that the test would "
    "see 80 % of the time, at 0.05 divided by the number of categories tested in the family, if "
    "the estimated variances were true. The number of seeds for 1 point rests on the same "
    f"variances, so it is very rough with fewer than {FEW_SEEDS} seeds or {FEW_ITEMS} items in a "
    "task, and left out where the estimate of the items' variance came out as 0.",
    "Limits: a few seeds estimate the spread of training runs poorly, and the intervals are wide "
    "for that reason. An untrained model with one run stands for itself. Trials that were stopped "
    "early are shown, but never compared as if they had finished. The figures of the search "
    "describe: its sampler tries good regions more often, so a level's median is no effect.",
)

CELLS_METHOD = (
    "This is a factorial: every cell and the control were trained with the same seeds, and "
    "nothing was stopped early. Where settings were tuned, each cell tried the same few on the "
    "choosing split and was run at its best; the test uses the confirming split only.",
    *METHOD[:2],
    "A main effect compares two levels of a factor within each combination of the other factors "
    "that both have, all combinations counting equally; an interaction is what two levels bring "
    "together beyond what each brings. They are tested as two arms are. In a fraction, where "
    "cells lack such partners, a main effect is that of least squares, as if factors did not "
    "interact.",
    "p values are corrected by Holm's method within each of three families, in all categories: "
    "the contrasts of a cell with the control, the main effects, and the interactions. Nothing "
    "is corrected across the three. Each interval covers its own true difference 95 % of the "
    "time; the intervals are not simultaneous. The sentences follow Holm's p.",
    "The smallest detectable difference is approximate: the true difference that the test would "
    "see 80 % of the time, at 0.05 divided by the number of contrasts.",
    "Limits: a few seeds estimate the spread of training runs poorly, and the intervals are wide "
    "for that reason. The figures describe and test nothing.",
)


def page(
    results: Results,
    verdict: Verdict,
    figures: dict[str, tuple[str, str]],
    more: Mapping[str, str],
) -> str:
    """The whole page; `figures` maps a name to its SVG and its caption, `more` are sections."""
    style = files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        _header(results),
        _verdict(verdict),
        _contrasts(verdict, figures.get("forest")),
        _factors(verdict, (figures.get("effects"), figures.get("interactions"))),
        more.get("ranks", ""),
        section("Baselines", _baselines(results)),
        section("Score against cost", figure(figures.get("cost"))),
        more.get("mattered", ""),
        more.get("luck", ""),
        more.get("noise", ""),
        section("Learning curves", figure(figures.get("curves"))),
        section("Scores by parameter", figure(figures.get("strips"))),
        section("What is missing", _gaps(verdict.gaps)),
        section("All trials", _trials(results)),
        more.get("plan", ""),
        section("Method", notes(CELLS_METHOD if verdict.of_cells else METHOD)),
        section("Versions", _versions(results)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(results.study)}: report</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{''.join(parts)}</body>\n</html>\n"
    )


def _header(results: Results) -> str:
    trials = results.trials
    parts = [
        f"{split}: " + ", ".join(f"{there.count(s)} {s}" for s in STATUSES if s in there)
        for split in SPLITS
        if (there := trials.loc[trials["split"] == split, "status"].tolist())
    ]
    text = "; ".join(parts)
    return (
        f"<header>\n<h1>{escape(results.study)}</h1>\n"
        f"<p>Which attention and which pooling make a good embedding model. "
        f"Trials, {escape(text)}.</p>\n</header>\n"
    )


def _verdict(verdict: Verdict) -> str:
    families = (
        ("Against the control", verdict.against_control),
        ("Trained against untrained", verdict.against_untrained),
    )
    lists = [
        f'<h3>{escape(title)}</h3>\n<ul class="verdict">\n'
        + "".join(f'<li class="{f.outcome}">{escape(f.sentence)}</li>\n' for f in found)
        + "</ul>\n"
        for title, found in families
        if found
    ]
    return section("Verdict", "".join(lists) + notes(verdict.notes))


def _contrasts(verdict: Verdict, forest: tuple[str, str] | None) -> str:
    one = "Cell" if verdict.of_cells else "Winner"
    families = (
        (f"{one} against the control", verdict.against_control),
        (
            "Winner against the best of the untrained models that were run",
            verdict.against_untrained,
        ),
    )
    tables = [_contrast_table(title, found, one) for title, found in families if found]
    return section("Contrasts", "".join(tables) + figure(forest)) if tables else ""


def _factors(verdict: Verdict, drawn: Sequence[tuple[str, str] | None]) -> str:
    families = (
        ("Main effects: a level against the control's", verdict.main_effects),
        ("Interactions: two levels together", verdict.interactions),
    )
    tables = [_contrast_table(title, found, "Level") for title, found in families if found]
    return section("Factors", "".join([*tables, *map(figure, drawn)])) if tables else ""


def _contrast_table(title: str, found: Sequence[Finding], one: str) -> str:
    heads = (
        "Category",
        one,
        "Against",
        "Points",
        "95 % interval",
        "p",
        "Holm p",
        "Seeds \u00d7 items",
        "Remarks",
    )
    rows = [_contrast_row(finding) for finding in found]
    kept = [at for at in range(len(heads)) if any(row[at] for row in rows)]
    body = table(
        [heads[at] for at in kept],
        [[row[at] for at in kept] for row in rows],
        numbers=[kept.index(at) for at in (3, 4, 5, 6, 7) if at in kept],
        texts=[kept.index(at) for at in (1, 2, 8) if at in kept],
    )
    return f"<h3>{escape(title)}</h3>\n{body}"


def _contrast_row(finding: Finding) -> list[str]:
    names = [arm.label if arm else "" for arm in (finding.winner, finding.baseline)]
    contrast = finding.contrast
    if contrast is None or finding.holm_p is None:
        return [finding.category, *names, "", "", "", "", "", finding.why_not]
    return [
        finding.category,
        *names,
        format_points(contrast.effect, (contrast.high - contrast.low) / 2),
        format_interval(contrast),
        format_p(contrast.p).removeprefix("= "),
        format_p(finding.holm_p).removeprefix("= "),
        f"{contrast.num_seeds} \u00d7 {sum(contrast.num_items)}",
        "; ".join((*contrast.notes, *finding.dropped)),
    ]


def _gaps(gaps: Sequence[Gap]) -> str:
    rows = [[gap.missing, gap.reason, ", ".join(gap.rows)] for gap in gaps]
    if not rows:
        return "<p>Nothing: every trial finished and every task was scored.</p>\n"
    return table(("Missing", "Reason", "Rows"), rows, texts=(0, 1, 2))


def _trials(results: Results) -> str:
    means = results.scores.groupby(["name", "category"])["score"].mean().unstack()
    categories = [str(category) for category in means.columns]
    heads = (
        "Trial",
        "Role",
        "Design",
        "Seed",
        "Status",
        "Steps",
        "Seconds",
        "Parameters",
        "GFLOPs per token",
        *categories,
        "Reason",
    )
    rows, stopped = [], []
    for trial in results.trials.sort_values("name").to_dict("records"):
        name = trial["name"]
        scores = means.loc[name] if name in means.index else pd.Series(dtype=float)
        rows.append(
            [
                str(name),
                str(trial["role"]),
                str(trial["label"]),
                str(trial["seed"]),
                str(trial["status"]),
                f"{trial['steps']}/{trial['total_steps']}",
                f"{trial['seconds']:.0f}",
                _count(trial["trainable_parameters"]),
                _flops(trial["flops_per_token"]),
                *(_score(scores.get(category)) for category in categories),
                "" if is_missing(trial["reason"]) else str(trial["reason"]),
            ]
        )
        stopped.append(trial["status"] != "complete")
    numbers = (3, *range(5, 9 + len(categories)))
    text = '<p class="quiet">Scores in points; the two splits have different tasks.</p>\n'
    return text + table(heads, rows, numbers=numbers, texts=(2, len(heads) - 1), stopped=stopped)


def _baselines(results: Results) -> str:
    found = references(results)
    if not found:
        return ""
    names = categories(found)
    rows = [
        [r.label, r.split, *(_score(r.means.get(n)) for n in names), ", ".join(r.lacking)]
        for r in found
    ]
    heads = ("Model", "Half", *names, "Not scored")
    body = table(heads, rows, numbers=range(2, 2 + len(names)), texts=(0, len(heads) - 1))
    return f'<p class="quiet">{escape(NOTE)}</p>\n{body}'


def _count(value: object) -> str:
    return "" if value is pd.NA or not isinstance(value, int) else f"{value:,}"


def _flops(value: object) -> str:
    return "" if is_missing(value) or not isinstance(value, float) else f"{value / 1e9:.3g}"


def _score(value: object) -> str:
    return f"{POINTS * value:.1f}" if isinstance(value, float) and value == value else ""


def _versions(results: Results) -> str:
    pairs = results.versions.groupby("package")["version"].agg(", ".join)
    text = "; ".join(f"{package} {version}" for package, version in pairs.items())
    return f"<p>{escape(text)}</p>\n" if text else ""
