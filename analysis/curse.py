"""How much of a winner's lead was luck: its lead at selection against its lead when confirmed.

The best of many noisy scores is too high on average (the winner's curse). Leads over the control
are compared, not scores: the two halves of the tasks differ in difficulty, and the control, which
was not selected, takes that difference along.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.arms import Arm, choosing_score, confirming_tasks, contrast_in
from analysis.contrasts import Contrast
from analysis.table import Results


@dataclass(frozen=True, kw_only=True, slots=True)
class Lead:
    """A finalist's lead over the control in one category, in units of the score."""

    label: str
    category: str
    selected: float  # on the choosing half, from the search's runs
    confirmed: Contrast  # on the confirming half, with fresh seeds

    @property
    def shrinkage(self) -> float:
        """What of the lead at selection the confirmation did not show."""
        return self.selected - self.confirmed.effect


def leads(
    results: Results, arms: Sequence[Arm], items: pd.DataFrame, categories: Sequence[str]
) -> list[Lead]:
    """The leads of every finalist that has one in both halves, by category and label.

    `items` has the items of the arms' rows, with their `name`.
    """
    controls = [arm for arm in arms if arm.role == "control"]
    finalists = [arm for arm in arms if arm.role == "finalist"]
    if not controls:
        return []
    found = []
    for category in categories:
        tasks = confirming_tasks(results, category)
        for arm in finalists:
            selected = choosing_score(results, arm, category) - choosing_score(
                results, controls[0], category
            )
            made = contrast_in(items, arm, controls[0], tasks).contrast
            if made is not None and selected == selected:
                lead = Lead(label=arm.label, category=category, selected=selected, confirmed=made)
                found.append(lead)
    return found
