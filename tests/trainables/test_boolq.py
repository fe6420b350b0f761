"""The embedded training rows: negatives against a slow loop, nothing that a task scores."""

from __future__ import annotations

import numpy as np
import pytest

from trainables import boolq
from trainables.texts import near_duplicates, normal


def test_near_duplicates_are_revisions_and_not_the_same_subject() -> None:
    base = "the tonne is a unit of mass equal to one thousand kilograms or about 2204 pounds"
    others = [
        base.replace("about", "approximately").upper() + "!",
        "a pound is a unit of mass used in british imperial and united states customary systems",
        *(
            f"entirely other words number {n} with nothing much in common {n * 7}"
            for n in range(20)
        ),
    ]
    assert near_duplicates(others, [base]) == {0}


def test_hard_negatives_are_the_best_by_bm25_but_never_the_answer() -> None:
    """Against a slow loop over the formula of Robertson and Zaragoza 2009."""
    passages = [
        "red fox runs",
        "red fox red fox sleeps in the den",
        "a blue whale",
        "fox",
        "sea",
        "sky",
    ]
    passages += [f"filler words {n} here" for n in range(12)]
    found = boolq.hard_negatives(["red fox"], [0], passages)[0]
    words = [passage.split() for passage in passages]
    mean = np.mean([sum(len(w) > 1 for w in each) for each in words])

    def score(each: list[str]) -> float:
        length = sum(len(w) > 1 for w in each)
        total = 0.0
        for word in ("red", "fox"):
            present = sum(word in other for other in words)
            rarity = np.log(1 + (len(words) - present + 0.5) / (present + 0.5))
            count = each.count(word)
            total += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
        return float(total)

    order = sorted(range(len(passages)), key=lambda place: -score(words[place]))
    order.remove(0)
    assert found[:2] == order[:2] == [1, 3]
    assert 0 not in found[: len(passages) - 1]


@pytest.mark.embedded
def test_boolq_is_disjoint_from_its_held_out_parts() -> None:
    rows = boolq.load_training_rows()
    held = boolq.held_out_rows("dev") + boolq.held_out_rows("test")
    passages = {normal(row.passage) for row in held}
    questions = {normal(row.question) for row in held}
    assert len(rows) > 6500
    for each in rows:
        assert normal(each["query"]) not in questions
        assert passages.isdisjoint(map(normal, (each["positive"], *each["negatives"])))
        assert each["positive"] not in each["negatives"]
