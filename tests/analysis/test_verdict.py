import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.arms import EVERYWHERE
from analysis.contrasts import SMALLEST_P, compare
from analysis.table import load
from analysis.verdict import Verdict, confirmed_winner, reach_verdict
from analysis.wording import Finding, describe, format_interval, format_p, format_points


def by_category(findings: Iterable[Finding]) -> dict[str, Any]:
    return {finding.category: finding for finding in findings}


def edit(study: Any, name: str, **changes: Any) -> None:
    path = study.folder / "results" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(study: Any, pattern: str) -> None:
    for path in (study.folder / "results").glob(pattern):
        path.unlink()


def winner_of(study: Any, category: str) -> str:
    found = by_category(reach_verdict(load(study.folder)).against_control)
    return str(found[category].winner.label)


def test_a_known_effect_is_found_and_a_small_one_is_not_claimed(filled: Any) -> None:
    verdict = reach_verdict(load(filled.folder))
    control = by_category(verdict.against_control)
    assert list(control) == ["Classification", "Clustering", "Retrieval", "STS", EVERYWHERE]
    retrieval = control["Retrieval"]
    assert retrieval.winner.label == "bidirectional, mean, cross_attention(layers 4, width 256)"
    assert retrieval.contrast.low < 0.06 < retrieval.contrast.high
    assert retrieval.contrast.num_seeds == 3
    assert retrieval.contrast.num_items == (80,)
    assert retrieval.tasks == ("RetrievalConfirming",)
    assert retrieval.sentence == (
        "bidirectional, mean, cross_attention(layers 4, width 256) beats the control on Retrieval "
        f"by {format_points(retrieval.contrast.effect)} points "
        f"{format_interval(retrieval.contrast)}, "
        f"Holm p {format_p(retrieval.holm_p)} (3 seeds \u00d7 80 items)."
    )
    assert control["Clustering"].sentence.startswith("Nothing can be concluded on Clustering: ")
    assert " 3 seeds \u00d7 8 items could detect with 80 % power is about " in (
        control["Clustering"].sentence
    )
    assert control["STS"].contrast.num_items == (30,)  # documents, not pairs
    assert all(f.holm_p >= f.contrast.p for f in control.values())


def test_the_confirmed_winner_beats_the_control_somewhere_and_loses_nowhere(
    filled: Any, make_study: Any
) -> None:
    verdict = reach_verdict(load(filled.folder))
    winner = confirmed_winner(verdict)
    assert winner is not None
    assert winner.label == "bidirectional, mean, cross_attention(layers 4, width 256)"
    assert set(winner.rows) == {101, 102, 103}
    turned = replace(verdict.against_control[0], holm_p=0.001)
    assert turned.contrast is not None
    worse = replace(turned, contrast=replace(turned.contrast, effect=-0.1))
    assert confirmed_winner(replace(verdict, against_control=(worse, turned))) is None
    opened = tuple(replace(f, holm_p=1.0) for f in verdict.against_control)
    assert confirmed_winner(replace(verdict, against_control=opened)) is None
    assert confirmed_winner(Verdict()) is None


def test_the_effect_is_the_difference_of_the_main_scores(filled: Any) -> None:
    results = load(filled.folder)
    scores = results.scores.set_index(["name", "task"])["score"]
    for finding in by_category(reach_verdict(results).against_control).values():
        assert len(finding.tasks) == (4 if finding.category == EVERYWHERE else 1)
        means = [
            np.mean([scores[name, task] for name in arm.rows.values() for task in finding.tasks])
            for arm in (finding.winner, finding.baseline)
        ]
        assert finding.contrast.effect == pytest.approx(means[0] - means[1])


def test_the_untrained_arm_stands_against_every_seed(filled: Any) -> None:
    found = by_category(reach_verdict(load(filled.folder)).against_untrained)
    assert found["Retrieval"].contrast.num_seeds == 3
    assert found["Retrieval"].baseline.role == "untrained"
    assert (
        "beats the best untrained model of the confirmation on Retrieval by"
        in found["Retrieval"].sentence
    )


def test_the_winner_is_chosen_by_the_choosing_split_alone(make_study: Any) -> None:
    study = make_study()
    assert winner_of(study, "Retrieval").startswith("bidirectional")
    for number in (6, 7, 8):  # the other finalist would win if confirming scores chose
        row = json.loads((study.folder / "results" / f"confirm-000{number}.json").read_text())
        edit(study, row["trial"], scores={task: 1.0 for task in row["scores"]})
    assert winner_of(study, "Retrieval").startswith("bidirectional")


def test_a_longer_finalist_is_known_by_its_design(make_study: Any) -> None:
    study = make_study()
    for number in range(9):
        edit(study, f"confirm-000{number}", digest=f"long{number // 3:08d}")
    assert winner_of(study, "Retrieval").startswith("bidirectional")


def test_a_winner_that_is_the_control_is_not_tested(make_study: Any) -> None:
    study = make_study()
    for number in (3, 4, 5):
        edit(
            study,
            f"confirm-000{number}",
            design=json.loads((study.folder / "results/confirm-0000.json").read_text())["design"],
        )
    verdict = reach_verdict(load(study.folder))
    assert by_category(verdict.against_control)["Retrieval"].sentence == (
        "Nothing is tested on Retrieval: the winner, bidirectional, mean, "
        "cross_attention(layers 4, width 256), is the control's own design."
    )
    assert verdict.notes[0].startswith("Against the control, the family has 0 of 5 categories")


def test_an_alias_is_identical_and_never_nan(make_study: Any) -> None:
    study = make_study()
    for number in range(3):
        control = study.folder / "results" / f"confirm-000{number}.items.parquet"
        for other in (3, 6):
            (study.folder / "results" / f"confirm-000{number + other}.items.parquet").write_bytes(
                control.read_bytes()
            )
    finding: Any = reach_verdict(load(study.folder)).against_control[0]
    assert (finding.contrast.p, finding.holm_p) == (1, 1)
    assert finding.sentence.endswith(
        "and the control are identical on Classification: every one of the differences of "
        "3 seeds \u00d7 100 items is zero."
    )


def test_one_seed_says_what_is_not_covered(make_study: Any) -> None:
    verdict = reach_verdict(load(make_study(num_seeds=1).folder))
    assert all(
        f.sentence.endswith("one seed: the variation between training runs is not covered.")
        for f in verdict.against_control
    )


def test_without_a_confirmation_there_is_no_p(make_study: Any) -> None:
    study = make_study()
    remove(study, "confirm-*")
    verdict = reach_verdict(load(study.folder))
    assert verdict.against_control == verdict.against_untrained == ()
    assert verdict.notes == (
        "The confirmation is missing: what follows is the search alone, whose best trial is best "
        "partly by chance, so no test is made.",
    )


def test_parts_of_a_confirmation_that_are_missing_are_said(make_study: Any) -> None:
    study = make_study()
    remove(study, "confirm-0009*")
    remove(study, "confirm-0010*")
    remove(study, "confirm-000[0-2]*")
    verdict = reach_verdict(load(study.folder))
    assert verdict.against_control[0].sentence == (
        "Nothing is tested on Classification: the control is not in the confirmation."
    )
    assert verdict.against_untrained[0].sentence == (
        "Nothing is tested on Classification: no untrained model has a score in the confirmation."
    )
    remove(study, "confirm-000[3-8]*")
    study.add(
        "confirm-0000",
        {"attention.mask": "causal", "pooling.token_scope": "last", "pooling.head": "none"},
        role="control",
        split="confirming",
    )
    assert reach_verdict(load(study.folder)).against_control[0].sentence == (
        "Nothing is tested on Classification: no confirmed finalist has a choosing score."
    )


def test_gaps_are_listed_with_their_reasons(make_study: Any) -> None:
    study = make_study()
    edit(study, "confirm-0004", status="failed", reason="lost its node", scores={})
    edit(study, "confirm-0003", failures={"ClusteringConfirming": "one class only"})
    remove(study, "confirm-0007.items.parquet")
    path = study.folder / "results" / "confirm-0005.items.parquet"
    cells = pd.read_parquet(path)
    cells.loc[cells["item"] == "i000", "value"] = np.nan
    cells[cells["task"] != "ClusteringConfirming"].to_parquet(path)
    verdict = reach_verdict(load(study.folder))
    listed = {(gap.missing, gap.reason): gap.rows for gap in verdict.gaps}
    assert listed["failed trial (confirming)", "lost its node"] == ("confirm-0004",)
    assert listed["pruned trial (choosing)", "below the median at step 60"] == (
        "search-0004",
        "search-0010",
        "search-0016",
    )
    assert listed["score on ClusteringConfirming", "one class only"] == ("confirm-0003",)
    assert listed["all items", "no items file beside the row"] == ("confirm-0007",)
    assert listed["items of ClusteringConfirming", "not in the file"] == ("confirm-0005",)
    assert ("1 item values of RetrievalConfirming", "not a number") in listed
    assert any("seeds 102 of bidirectional" in missing for missing, _ in listed)
    retrieval = by_category(verdict.against_control)["Retrieval"]
    assert (retrieval.contrast.num_seeds, retrieval.contrast.num_items) == (2, (79,))
    assert retrieval.dropped == (
        "RetrievalConfirming: seed 102: not in both arms",
        "RetrievalConfirming: 1 items: no value in one of the runs",
    )


def test_a_category_of_two_tasks_uses_the_seeds_of_both(make_study: Any) -> None:
    study = make_study()
    for path in (study.folder / "results").glob("confirm-*.items.parquet"):
        cells = pd.read_parquet(path)
        more = cells[cells["category"] == "Retrieval"].assign(task="MoreRetrieval")
        if path.name.startswith("confirm-0003"):
            more = more[:0]
        pd.concat([cells, more]).to_parquet(path)
        name = path.name.removesuffix(".items.parquet")
        row = json.loads(path.with_name(f"{name}.json").read_text())
        if len(more):
            edit(
                study,
                name,
                scores=row["scores"] | {"MoreRetrieval": 0.5},
                categories=row["categories"] | {"MoreRetrieval": "Retrieval"},
            )
    finding = by_category(reach_verdict(load(study.folder)).against_control)["Retrieval"]
    assert finding.tasks == ("MoreRetrieval", "RetrievalConfirming")
    assert (finding.contrast.num_seeds, finding.contrast.num_items) == (2, (80, 80))
    assert "RetrievalConfirming: seed 101: not in every task" in finding.dropped


def test_worse_is_said_with_the_interval_turned(filled: Any) -> None:
    finding = reach_verdict(load(filled.folder)).against_control[2]
    contrast = compare([np.random.default_rng(0).normal(-0.05, 0.01, (5, 40))])
    worse = Finding(category="STS", winner=finding.winner, contrast=contrast, holm_p=SMALLEST_P)
    text = describe(worse, "the control", 1)
    assert "is worse than the control on STS by 4.98" in text
    assert "points [4." in text
    assert text.endswith("Holm p < 0.0001 (5 seeds \u00d7 40 items).")


def open_sentence(finding: Any, num_seeds: int, num_items: int, item_spread: float) -> str:
    """The sentence of an effect near 0 whose runs differ by 2 points."""
    generator = np.random.default_rng(3)
    runs = np.resize([-0.02, 0.02], (num_seeds, 1))
    items = np.resize([-item_spread, item_spread], num_items)
    contrast = compare([runs + items + generator.normal(0, 0.02, (num_seeds, num_items))])
    found = Finding(category="STS", winner=finding.winner, contrast=contrast, holm_p=1.0)
    return describe(found, "the control", 1)


def test_a_number_of_seeds_is_as_sure_as_its_variances(filled: Any) -> None:
    finding = reach_verdict(load(filled.folder)).against_control[2]
    one_point = r"points \(detecting 1 point would "
    many = open_sentence(finding, 10, 400, 0.03)
    assert re.search(one_point + r"take about \d+ seeds\)", many)
    few_seeds = open_sentence(finding, 4, 400, 0.03)
    assert re.search(one_point + r"take very roughly \d+ seeds\)", few_seeds)
    few_items = open_sentence(finding, 10, 12, 0.03)
    assert re.search(one_point + r"probably take more items, not only seeds\)", few_items)


def test_no_number_of_seeds_where_the_items_variance_was_clipped(filled: Any) -> None:
    finding = reach_verdict(load(filled.folder)).against_control[2]
    interaction = np.outer([1.0, -1.0, 0.0], np.resize([0.02, -0.02], 12))  # items: the same mean
    contrast = compare([np.array([[-0.02], [0.0], [0.02]]) + interaction])
    assert contrast.variance_items == (0.0,)
    found = Finding(category="STS", winner=finding.winner, contrast=contrast, holm_p=1.0)
    sentence = describe(found, "the control", 1)
    assert "detecting 1 point" not in sentence
    assert re.search(
        r"with 80 % power is about \d+\.\d points \(a rough guide: the spread of the items could "
        r"not be estimated\)\.$",
        sentence,
    )
