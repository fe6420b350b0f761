"""One trial as documented: a Tune function, sentence-transformers' Trainer, mteb at the end.

What sentence-transformers has no module for (masks but bidirectional ones, pooling heads) is left
out here, which is in favour of this side.
"""

from __future__ import annotations

import time
from typing import Any

TOKENS = 48  # as ours: of a passage in training, and of any text that is scored
NUM_HELD_OUT = 64  # pairs that an early stop looks at
POOLINGS = {"last_token": "lasttoken", "weighted_mean": "weightedmean"}


def run(config: dict[str, Any]) -> None:
    """Train one design for its steps and score it, unless it is one that was stopped early."""
    from ray import tune

    begun = time.perf_counter()
    model = _model(config["params"])
    loaded = time.perf_counter()
    if config["steps"]:
        _train(model, config)
    trained = time.perf_counter()
    scores = _score(model, config) if config["scored"] else {}
    ended = time.perf_counter()
    parts = {"load": loaded - begun, "train": trained - loaded, "score": ended - trained}
    tune.report({**parts, **scores})


def _model(params: dict[str, Any]) -> Any:
    from tests.benchmarks.training_peers import lora_model
    from tests.benchmarks.training_setting import Setting

    pooling = POOLINGS.get(params.get("pooling.token_scope", "last_token"), "mean")
    model: Any = lora_model(Setting(max_tokens=TOKENS), pooling)
    if params.get("attention.mask", "causal") == "bidirectional":
        model[0].auto_model.config.is_causal = False
    return model


def _train(model: Any, config: dict[str, Any]) -> None:
    import datasets
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from trainables import boolq

    rows = boolq.load_training_rows()
    triplets = [
        {"anchor": row["query"], "positive": row["positive"], "negative": row["negatives"][0]}
        for row in rows
    ]
    settings = config["training"]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=config["folder"],
        max_steps=config["steps"],
        per_device_train_batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        warmup_steps=settings["warmup_steps"],
        eval_strategy="steps",
        eval_steps=settings["report_every"],
        save_strategy="steps",
        save_steps=settings["report_every"],
        save_total_limit=1,
        logging_steps=settings["report_every"],
        seed=config["seed"],
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(triplets[NUM_HELD_OUT:]),
        loss=MultipleNegativesRankingLoss(model),
        evaluator=_evaluator(triplets[:NUM_HELD_OUT]),
    ).train()


def _evaluator(triplets: list[dict[str, str]]) -> Any:
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    queries: dict[str, Any] = {str(place): row["anchor"] for place, row in enumerate(triplets)}
    corpus: dict[str, Any] = {
        f"{place}{part[0]}": row[part]
        for place, row in enumerate(triplets)
        for part in ("positive", "negative")
    }
    right = {str(place): {f"{place}p"} for place in range(len(triplets))}
    return InformationRetrievalEvaluator(queries, corpus, right)


def _score(model: Any, config: dict[str, Any]) -> dict[str, float]:
    import mteb

    from trainables.tasks import load_task

    model.eval()
    tasks = [load_task(name, config["split"]) for name in config["tasks"]]
    result = mteb.evaluate(model, tasks, cache=None, encode_kwargs={"batch_size": 32})
    return {each.task_name: float(each.get_score()) for each in result.task_results}
