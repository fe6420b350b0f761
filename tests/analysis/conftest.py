"""A synthetic study with known effects: results rows and items as the driver writes them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

CATEGORIES = {
    "STS": "pair",
    "Retrieval": "query",
    "Classification": "text",
    "Clustering": "set",
}
NUM_ITEMS = {"STS": 30, "Retrieval": 80, "Classification": 100, "Clustering": 8}
CONTROL = {"attention.mask": "causal", "pooling.token_scope": "last", "pooling.head": "none"}
BETTER = {
    "attention.mask": "bidirectional",
    "pooling.token_scope": "mean",
    "pooling.head": "cross_attention",
    "pooling.num_layers": 4,
    "pooling.width": 256,
}
ALIAS = {"attention.mask": "two_stream", "pooling.token_scope": "last", "pooling.head": "none"}


def identity(params: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12]


def label(params: dict[str, Any]) -> str:
    head = params["pooling.head"]
    if "pooling.num_layers" in params:
        head += f"(layers {params['pooling.num_layers']}, width {params['pooling.width']})"
    return f"{params['attention.mask']}, {params['pooling.token_scope']}, {head}"


@dataclass
class Study:
    """Writes rows; `effects` is what a design adds to each category's scores."""

    folder: Path
    effects: dict[str, dict[str, float]] = field(default_factory=dict)
    seed_spread: float = 0.005

    def __post_init__(self) -> None:
        (self.folder / "results").mkdir(parents=True, exist_ok=True)

    def add(
        self,
        name: str,
        params: dict[str, Any],
        *,
        role: str = "search",
        seed: int = 0,
        split: str = "choosing",
        status: str = "complete",
        **changes: Any,
    ) -> Path:
        """Write one row, with items if it is complete; the items depend on split, not on arm."""
        row = self.row(name, params, role=role, seed=seed, split=split, status=status)
        if status == "complete":
            items = self.items(params, role, seed, split)
            items.to_parquet(self.folder / "results" / f"{name}.items.parquet")
            row["scores"] = {t: score(g) for t, g in items.groupby("task")}
            row["categories"] = dict(zip(items["task"], items["category"], strict=True))
        path = self.folder / "results" / f"{name}.json"
        path.write_text(json.dumps({**row, **changes}))
        return path

    def row(self, name: str, params: dict[str, Any], **given: Any) -> dict[str, Any]:
        steps = {"untrained": 0}.get(given["role"], 60 if given["status"] == "pruned" else 200)
        generator = np.random.default_rng(len(name) + sum(map(ord, name)))
        gain = sum(self.effect(params, c) for c in CATEGORIES)
        curve = [
            {
                "step": s,
                "loss": 3 * float(np.exp(-s / 80)) + 0.3,
                "quick_score": 0.3
                + (0.2 + gain) * (1 - float(np.exp(-s / 60)))
                + float(generator.normal(0, 0.01)),
            }
            for s in range(20, steps + 1, 20)
        ]
        return {
            "study": self.folder.name,
            "trial": name,
            "digest": identity(params),
            "design": identity(params),
            "label": label(params),
            **given,
            "reason": {"pruned": "below the median at step 60", "failed": "out of memory"}.get(
                given["status"]
            ),
            "steps": steps,
            "total_steps": 0 if not steps else 200,
            "seconds": 5.0 + steps * float(generator.uniform(0.2, 0.4)),
            "trainable_parameters": 0
            if not steps
            else 400_000
            + 2000 * params.get("pooling.width", 0) * params.get("pooling.num_layers", 0),
            "head_parameters": 2000 * params.get("pooling.width", 0),
            "embedding_size": params.get("pooling.width", 576),
            "flops_per_token": 4.5e7 + 1e4 * params.get("pooling.width", 0),
            "params": params,
            "scores": {},
            "categories": {},
            "failures": {},
            "curve": curve,
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        }

    def effect(self, params: dict[str, Any], category: str) -> float:
        return self.effects.get(identity(params), {}).get(category, 0.0)

    def items(self, params: dict[str, Any], role: str, seed: int, split: str) -> pd.DataFrame:
        parts = []
        for position, (category, kind) in enumerate(CATEGORIES.items()):
            common = np.random.default_rng([position, split == "choosing"])
            own = np.random.default_rng([position, seed, int(identity(params), 16)])
            shift = self.effect(params, category) - 0.15 * (role == "untrained")
            shift += 0.0 if role == "untrained" else float(own.normal(0, self.seed_spread))
            make = pairs if kind == "pair" else singles
            part = make(NUM_ITEMS[category], shift, common, own)
            parts.append(
                part.assign(task=f"{category}{split.title()}", category=category, kind=kind)
            )
        return pd.concat(parts, ignore_index=True)


def singles(
    number: int, shift: float, common: np.random.Generator, own: np.random.Generator
) -> pd.DataFrame:
    value = common.uniform(0.3, 0.7, number) + shift + own.normal(0, 0.05, number)
    return pd.DataFrame(
        {
            "item": [f"i{n:03d}" for n in range(number)],
            "value": np.clip(value, 0, 1),
            "gold": np.nan,
        }
    )


def pairs(
    number: int, shift: float, common: np.random.Generator, own: np.random.Generator
) -> pd.DataFrame:
    left, right = np.triu_indices(number, 1)
    gold = common.uniform(0, 5, len(left)).round(1)
    noise = 2.0 - 6 * shift
    value = gold + common.normal(0, noise, len(left)) + own.normal(0, 0.3, len(left))
    return pd.DataFrame(
        {
            "item": [f"d{a}|d{b}" for a, b in zip(left, right, strict=True)],
            "value": value / 10,
            "gold": gold,
        }
    )


def score(items: pd.DataFrame) -> float:
    if set(items["kind"]) == {"pair"}:
        return float(items["value"].corr(items["gold"], method="spearman"))
    return float(items["value"].mean())


def variants() -> list[dict[str, Any]]:
    return [
        {
            "attention.mask": mask,
            "pooling.token_scope": scope,
            "pooling.head": head,
            **({"pooling.num_layers": depth, "pooling.width": width} if depth else {}),
        }
        for mask in ("causal", "bidirectional", "prefix")
        for scope in ("last", "mean")
        for head, depth, width in (
            ("none", 0, 0),
            ("cross_attention", 2, 128),
            ("cross_attention", 4, 256),
        )
    ]


def fill(folder: Path, *, num_seeds: int = 3) -> Study:
    """A study with a search, its stopped and failed trials, and a confirmation."""
    generator = np.random.default_rng(5)
    better = {"Retrieval": 0.06, "Classification": 0.04, "STS": 0.03, "Clustering": 0.002}
    study = Study(folder, {identity(BETTER): better})
    for params in variants():
        study.effects.setdefault(
            identity(params), {c: float(generator.normal(-0.03, 0.02)) for c in CATEGORIES}
        )
    study.effects[identity(CONTROL)] = {}
    for number, params in enumerate(variants()):
        role = "control" if params == CONTROL else "search"
        status = "pruned" if number % 6 == 4 else "failed" if number == 7 else "complete"
        status = "complete" if params in (CONTROL, BETTER, variants()[14]) else status
        study.add(f"search-{number:04d}", params, role=role, status=status)
    number = 0
    for role, params in (("control", CONTROL), ("finalist", BETTER), ("finalist", variants()[14])):
        for seed in range(101, 101 + num_seeds):
            study.add(f"confirm-{number:04d}", params, role=role, seed=seed, split="confirming")
            number += 1
    for params in (CONTROL, BETTER):
        study.add(f"confirm-{number:04d}", params, role="untrained", split="confirming")
        number += 1
    return study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An empty study."""
    return Study(tmp_path / "study")


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A whole study; do not write to it."""
    return fill(tmp_path_factory.mktemp("outputs") / "first")


@pytest.fixture
def make_study(tmp_path: Path, filled: Study) -> Callable[..., Study]:
    """A whole study of the test's own, to change; with options, made by `fill`."""

    def make(**options: int) -> Study:
        if options:
            return fill(tmp_path / "own", **options)
        return Study(shutil.copytree(filled.folder, tmp_path / "first"), filled.effects)

    return make
