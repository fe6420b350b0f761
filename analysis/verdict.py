"""What the confirmed scores allow one to say, in sentences with their evidence.

In each category the winner is the finalist that was best on the *choosing* split; the claim about
it comes from the *confirming* split alone, so choosing and confirming never share data. Of a
factorial, every cell is compared with the control in every category.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from analysis.arms import (
    EVERYWHERE,
    Arm,
    choosing_score,
    confirmed_arms,
    confirming_tasks,
    contrast_in,
    means_in,
)
from analysis.factor_effects import factor_effects
from analysis.gaps import Gap, gaps
from analysis.inference.corrections import holm
from analysis.table import Results, items
from analysis.wording import Finding, describe


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Two families of findings, each corrected on its own, and all that could not enter.

    Of a factorial (`of_cells`) they are three, the surest findings first: each cell against the
    control, the factors' main effects, and their interactions.
    """

    against_control: tuple[Finding, ...] = ()
    main_effects: tuple[Finding, ...] = ()
    interactions: tuple[Finding, ...] = ()
    against_untrained: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    of_cells: bool = False


def reach_verdict(results: Results) -> Verdict:
    """Compare the winner of each category with the control and with the untrained models."""
    arms = confirmed_arms(results)
    evidence = items(results, [name for arm in arms for name in arm.rows.values()])
    missing = gaps(results, arms, evidence)
    if not arms:
        note = (
            "The confirmation is missing: what follows is the search alone, whose best trial "
            "is best partly by chance, so no test is made."
        )
        return Verdict(notes=(note,), gaps=missing)
    controls = [arm for arm in arms if arm.role == "control"]
    untrained = [arm for arm in arms if arm.role == "untrained"]

    categories = sorted(set(results.scores["category"]))
    if any(arm.role == "cell" for arm in arms):
        return _of_cells(results, arms, categories, evidence, missing)
    asked = [*categories, EVERYWHERE] if len(categories) > 1 else categories
    winners = {c: winner_in(results, arms, c) for c in asked}

    def against(find: Callable[[str], Arm | None], name: str, absent: str) -> tuple[Finding, ...]:
        found = [
            _find(results, evidence, Finding(category=c, winner=w, baseline=find(c)), absent)
            for c, w in winners.items()
        ]
        return _correct(found, name)

    families = (
        against(
            lambda _: controls[0] if controls else None,
            "the control",
            "the control is not in the confirmation",
        ),
        against(
            lambda c: _best_untrained(results, untrained, c),
            "the best untrained model of the confirmation",
            "no untrained model has a score in the confirmation",
        ),
    )
    return Verdict(
        against_control=families[0],
        against_untrained=families[1],
        notes=_notes(controls, families),
        gaps=missing,
    )


def confirmed_winner(verdict: Verdict) -> Arm | None:
    """The arm that beats the control in most categories and is worse in none; None without one."""
    found: dict[str, list[Finding]] = {}
    for finding in verdict.against_control:
        if finding.winner is not None:
            found.setdefault(finding.winner.digest, []).append(finding)
    wins = {
        digest: sum(each.outcome == "better" for each in each_of)
        for digest, each_of in found.items()
        if all(each.outcome != "worse" for each in each_of)
    }
    best = max(wins, key=lambda digest: wins[digest], default=None)
    return found[best][0].winner if best is not None and wins[best] else None


def _of_cells(
    results: Results,
    arms: list[Arm],
    categories: list[str],
    evidence: pd.DataFrame,
    missing: tuple[Gap, ...],
) -> Verdict:
    """Compare every cell with the control, and every factor's levels, in every category."""
    controls = [arm for arm in arms if arm.role == "control"]
    control = controls[0] if controls else None
    absent = "the control has no complete run"
    cells = [arm for arm in arms if arm.role == "cell"]
    findings = [Finding(category=c, winner=a, baseline=control) for c in categories for a in cells]
    found = _correct([_find(results, evidence, f, absent) for f in findings], "the control")
    ordered = tuple(sorted(found, key=_sureness))
    shown = [finding.outcome for finding in found]
    effects = factor_effects(results, [*controls[:1], *cells], evidence, categories)
    mains, crossed = (tuple(sorted(_correct(family, None), key=_sureness)) for family in effects)
    note = (
        f"Of {len(found)} contrasts of cells with the control ({len(cells)} of them), "
        f"{shown.count('better')} say better, {shown.count('worse')} worse and "
        f"{shown.count('open')} leave it open; Holm's correction runs over all of them."
    )
    return Verdict(
        against_control=ordered,
        main_effects=mains,
        interactions=crossed,
        notes=(note, *_notes(controls, (ordered,))),
        gaps=missing,
        of_cells=True,
    )


def _sureness(finding: Finding) -> tuple[float, float]:
    """What puts the surest findings first; those without a test come last."""
    if finding.contrast is None or finding.holm_p is None:
        return (2.0, 0.0)
    return (finding.holm_p, -abs(finding.contrast.effect))


def winner_in(results: Results, arms: list[Arm], category: str) -> Arm | None:
    """The finalist with the best choosing score in `category`; ties go to the first label."""
    scored = [(choosing_score(results, a, category), a) for a in arms if a.role == "finalist"]
    known = [(score, arm) for score, arm in scored if score == score]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _find(results: Results, evidence: pd.DataFrame, finding: Finding, absent: str) -> Finding:
    """The finding with its contrast, or the reason why not; `absent`: there is no baseline."""
    winner, baseline = finding.winner, finding.baseline
    if winner is None:
        return replace(finding, why_not="no confirmed finalist has a choosing score")
    if baseline is None:
        return replace(finding, why_not=absent)
    if winner.design == baseline.design and baseline.role == "control":
        return replace(finding, why_not=f"the winner, {winner.label}, is the control's own design")
    tasks = confirming_tasks(results, finding.category)
    made = contrast_in(evidence, winner, baseline, tasks)
    why_not = "" if made.contrast else "the two have no scored items in common"
    return replace(
        finding, contrast=made.contrast, tasks=made.tasks, dropped=made.dropped, why_not=why_not
    )


def _best_untrained(results: Results, untrained: list[Arm], category: str) -> Arm | None:
    """The best on the confirming split of the untrained arms that were run; favours no winner."""
    scores = means_in(results, "confirming", category)
    if scores is None or not untrained:
        return None
    means = {arm.digest: scores.reindex(list(arm.rows.values())).mean() for arm in untrained}
    known = [arm for arm in untrained if means[arm.digest] == means[arm.digest]]
    return max(known, key=lambda arm: means[arm.digest]) if known else None


def _correct(found: list[Finding], name: str | None) -> tuple[Finding, ...]:
    """Holm over one family; `name` is what all baselines are called, or None for their labels."""
    tested = [finding for finding in found if finding.contrast]
    adjusted = iter(holm([f.contrast.p for f in found if f.contrast]).tolist())
    size = len(tested)
    corrected = [replace(f, holm_p=next(adjusted)) if f.contrast else f for f in found]
    return tuple(
        replace(f, sentence=describe(f, name or (f.baseline.label if f.baseline else ""), size))
        for f in corrected
    )


def _notes(controls: list[Arm], families: tuple[tuple[Finding, ...], ...]) -> tuple[str, ...]:
    notes = []
    if len(controls) > 1:
        notes.append(
            f"{len(controls)} controls were confirmed; the test is against the first, "
            f"{controls[0].label} ({controls[0].digest})."
        )
    for family, name in zip(families, ("the control", "the untrained models"), strict=False):
        untested = [finding.category for finding in family if not finding.contrast]
        if untested:
            tested, words = len(family) - len(untested), ", ".join(dict.fromkeys(untested))
            kind = "contrasts" if len(set(untested)) < len(untested) else "categories"
            notes.append(
                f"Against {name}, the family has {tested} of {len(family)} {kind}: "
                f"no test on {words}."
            )
    return tuple(notes)
