"""Numbers and findings in plain English; points are on a scale from 0 to 100."""

import math
from dataclasses import dataclass
from typing import Literal

from analysis.arms import Arm
from analysis.contrasts import ALPHA, Contrast
from analysis.power import POWER, is_rough, items_vanish, seeds_needed, smallest_detectable

TIMES = "\u00d7"
POINTS = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One category of one family: winner against baseline.

    `contrast` and `holm_p` are None where there is no test, and `why_not` then says why.
    """

    category: str
    winner: Arm | None = None
    baseline: Arm | None = None
    contrast: Contrast | None = None
    tasks: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    why_not: str = ""
    holm_p: float | None = None
    sentence: str = ""

    @property
    def outcome(self) -> Literal["better", "worse", "open"]:
        """What the corrected test says of the winner."""
        if self.contrast is None or self.holm_p is None or self.holm_p >= ALPHA:
            return "open"
        return "better" if self.contrast.effect > 0 else "worse"


def format_p(p: float) -> str:
    """A p value that never rounds across 0.05, and never to 0.

    >>> format_p(0.00412), format_p(0.0497), format_p(0.04999), format_p(1e-9), format_p(1.0)
    ('= 0.0041', '= 0.0497', '= 0.04999', '< 0.0001', '= 1')
    """
    if p < 1e-4:
        return "< 0.0001"
    texts = (f"{p:.{digits}g}" for digits in (2, 3, 4, 8))
    return "= " + next(
        (t for t in texts if (float(t) < ALPHA) == (p < ALPHA) and float(t) != ALPHA), repr(p)
    )


def format_points(score: float, half_width: float = 100.0) -> str:
    """A score difference in points, with a second decimal where the interval is narrow.

    >>> format_points(0.0412), format_points(-0.00123, 0.002), format_points(float("inf"))
    ('4.1', '-0.12', 'unbounded')
    """
    if math.isinf(score):
        return "unbounded"
    text = f"{POINTS * score:.{2 if half_width < 0.005 else 1}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def format_interval(contrast: Contrast) -> str:
    """The 95 % interval in points, such as '[2.0, 6.3]'."""
    if math.isinf(contrast.low):
        return "[no interval]"
    half = (contrast.high - contrast.low) / 2
    return f"[{format_points(contrast.low, half)}, {format_points(contrast.high, half)}]"


def sample_size(contrast: Contrast) -> str:
    """Seeds times items, the items of several tasks added up."""
    num_items = sum(contrast.num_items)
    return (
        f"{contrast.num_seeds} {'seed' if contrast.num_seeds == 1 else 'seeds'} {TIMES} "
        f"{num_items} {'item' if num_items == 1 else 'items'}"
    )


def describe(finding: Finding, baseline: str, family_size: int) -> str:
    """One finding as one sentence; `baseline` is what the other arm is called."""
    contrast, category = finding.contrast, finding.category
    if finding.winner is None or contrast is None or finding.holm_p is None:
        return f"Nothing is tested on {category}: {finding.why_not}."
    winner = finding.winner.label
    if contrast.identical:
        return (
            f"{winner} and {baseline} are identical on {category}: every one of the "
            f"differences of {sample_size(contrast)} is zero."
        )
    notes = "".join(f"; {note}" for note in contrast.notes)
    if finding.outcome != "open":
        return f"{_significant(category, winner, baseline, contrast, finding.holm_p)}{notes}."
    return (
        f"Nothing can be concluded on {category}: "
        f"{_difference(winner, baseline, contrast)}, Holm p {format_p(finding.holm_p)}; "
        f"{_detectable(contrast, ALPHA / family_size)}{notes}."
    )


def _significant(
    category: str, winner: str, baseline: str, contrast: Contrast, holm_p: float
) -> str:
    half = (contrast.high - contrast.low) / 2
    better = contrast.effect > 0
    low, high = sorted(
        abs(b) if b * contrast.effect > 0 else -abs(b) for b in (contrast.low, contrast.high)
    )
    verb = "beats" if better else "is worse than"
    return (
        f"{winner} {verb} {baseline} on {category} by "
        f"{format_points(abs(contrast.effect), half)} points "
        f"[{format_points(low, half)}, {format_points(high, half)}], "
        f"Holm p {format_p(holm_p)} ({sample_size(contrast)})"
    )


def _difference(winner: str, baseline: str, contrast: Contrast) -> str:
    half = (contrast.high - contrast.low) / 2
    size = format_points(abs(contrast.effect), half)
    where = "above" if contrast.effect >= 0 else "below"
    return f"{winner} is {size} points {where} {baseline} {format_interval(contrast)}"


def _detectable(contrast: Contrast, alpha: float) -> str:
    smallest = smallest_detectable(contrast.shares, alpha)
    if math.isinf(smallest):
        return f"{sample_size(contrast)} give no error to test against"
    text = (
        f"the smallest difference that {sample_size(contrast)} could detect with "
        f"{100 * POWER:.0f} % power is about {format_points(smallest, smallest)} points"
    )
    if items_vanish(contrast):
        return f"{text} (a rough guide: the spread of the items could not be estimated)"
    if POINTS * smallest <= 1 or contrast.num_seeds < 2:
        return text
    seeds, rough = seeds_needed(contrast, 1 / POINTS, alpha), is_rough(contrast)
    if seeds:
        about = "very roughly" if rough else "about"
        return f"{text} (detecting 1 point would take {about} {seeds} seeds)"
    probably = "probably " if rough else ""
    return f"{text} (detecting 1 point would {probably}take more items, not only seeds)"
