"""A trial's whole evaluation: ours, and mteb's with sentence-transformers and the same model."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.encode import encoder, sentence_transformer
from tests.benchmarks.paired import Ratio, compare
from trainables.config import EvaluationConfig
from trainables.encoding import HANDED_OVER
from trainables.evaluation import evaluate
from trainables.mteb_guard import guarded
from trainables.suites import SUITES
from trainables.tasks import load_task

PAIRS = 3


def run(device: str) -> list[Ratio]:
    """Return the ratio for each embedded suite, the choosing half of its tasks."""
    limit = EvaluationConfig().max_tokens
    encode, model = encoder(device, limit), sentence_transformer(device, limit)

    def ours(suite: str) -> None:
        assert not evaluate(encode, [suite], split="choosing", batch_size=HANDED_OVER).failures

    return [
        compare(
            f"evaluate {suite}, {len(SUITES[suite].tasks)} tasks",
            "mteb.evaluate, SentenceTransformer",
            lambda suite=suite: ours(suite),  # type: ignore[misc]
            lambda suite=suite: _theirs(model, suite),  # type: ignore[misc]
            pairs=PAIRS,
        )
        for suite in ("embedded-quick", "embedded")
    ]


def _theirs(model: Any, suite: str) -> None:
    import mteb

    with guarded():
        mteb.evaluate(
            model,
            [load_task(name, "choosing") for name in SUITES[suite].tasks],
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": 32, "show_progress_bar": False},
        )
