"""What names a trial and its design: digests for programs, a label for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainables import deepspeed_overlay, layers, suites
from trainables.catalogue import SIZES, design
from trainables.config import FFN_RATIO, AdaptationConfig, TrialConfig
from trainables.mixture import instructions_of, shares
from trainables.overlay import as_dict, flatten

DESIGN = ("backbone.", "instructions.", "attention.", "adaptation.", "pooling.")
WORDS = {"hidden_size": "width", "num_heads": "heads", "num_latents": "latents"}


def used(config: TrialConfig) -> dict[str, Any]:
    """Return the flat configuration without the fields that its design does not read.

    >>> "pooling.num_latents" in used(TrialConfig())
    False
    """
    unread = _unread(config)
    return {n: v for n, v in flatten(as_dict(config)).items() if n not in unread}


def _unread(config: TrialConfig) -> set[str]:
    mask, head = design("masks", config.attention.mask), design("heads", config.pooling.head)
    unread = {f"attention.{n}" for n in SIZES["masks"] if n not in getattr(mask, "READS", ())}
    unread |= {f"pooling.{n}" for n in SIZES["heads"] if n not in getattr(head, "READS", ())}
    solved = config.pooling.match_parameters is not None
    unread.add(f"pooling.{config.pooling.free_width}" if solved else "pooling.free_width")
    unread.add("evaluation.task_by_task")  # changes no number
    if not config.evaluation.report_tasks:
        unread.add("evaluation.report_tasks")
    if config.adaptation.kind == "none":
        names = {part.name for part in dataclasses.fields(AdaptationConfig)} - {"kind"}
        unread |= {f"adaptation.{name}" for name in names}
    return unread


def digest(config: TrialConfig) -> str:
    """Return a trial's identity without its seed, from the canonical JSON's SHA-256."""
    return _hash({name: value for name, value in _canonical(config).items() if name != "seed"})


def design_digest(config: TrialConfig) -> str:
    """Return the identity of what is trained: all that makes an embedding, but no training."""
    return _part(_canonical(config), DESIGN)


def probe_keys(config: TrialConfig) -> dict[str, str]:
    """Return for each of `probes.PROBES` the identity of all that it depends on.

    What a state sees is the backbone's doing alone; the other probes take the whole model.
    """
    values, engine = _canonical(config), ("engine.", "lora.", "training.gradient_checkpointing")
    seen = _part(values, ("backbone.", "attention.", "pooling.layers", "engine."))
    whole = _part(values, (*DESIGN, *engine))
    others = ("batch_invariance", "gradients", "checkpointing")
    return {"reach": f"reach-{seen}"} | {name: f"{name}-{whole}" for name in others}


def training_seed(config: TrialConfig) -> int:
    """Return the seed of a trial's own randomness, from its digest and its seed."""
    text = f"{digest(config)}-{config.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _part(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the identity of the values whose names start so."""
    return _hash({name: value for name, value in values.items() if name.startswith(names)})


def _canonical(config: TrialConfig) -> dict[str, Any]:
    """Return what is read, with one spelling for equal values.

    A `hidden_size` of None is not the same as the backbone's width, which is not known here.
    """
    values = used(config)
    values["pooling.layers"] = layers.canonical(config.pooling.layers, config.backbone.num_layers)
    values["lora.targets"] = sorted(values["lora.targets"])
    values["engine.deepspeed"] = deepspeed_overlay.canonical(values["engine.deepspeed"])
    values["training.data"] = _mix(config)
    values["evaluation.tasks"] = suites.canonical(config.evaluation.tasks)
    hidden = values.get("pooling.hidden_size")
    if values.get("pooling.ffn_size", 0) is None and hidden is not None:
        values["pooling.ffn_size"] = FFN_RATIO * hidden
    return {name: _plain(value) for name, value in values.items()}


def _mix(config: TrialConfig) -> list[list[Any]]:
    """Return each data set with its share and its instructions, by name."""
    given = config.training.data
    texts = [instructions_of(data, config.instructions) for data in given]
    parts = zip(given, shares(given), texts, strict=True)
    return sorted([data.name, part, text.query, text.document] for data, part, text in parts)


def _plain(value: Any) -> Any:
    """Return 32 for 32.0, which are one value."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hash(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def label(config: TrialConfig) -> str:
    """Return the design in words that tell it from others of its backbone and instructions.

    >>> label(TrialConfig())
    'causal, last_token, none'
    """
    values = _canonical(config)
    heads = values["attention.key_value_heads"]
    parts = [
        _sized(values, "attention.mask", SIZES["masks"]),
        "" if heads == "native" else heads,
        _adaptation(values),
        _read_out(values),
        _sized(
            values,
            "pooling.head",
            (*SIZES["heads"], "output_size", "truncate_to", "match_parameters", "free_width"),
        ),
    ]
    return ", ".join(part for part in parts if part)


def _sized(values: Mapping[str, Any], name: str, sizes: tuple[str, ...]) -> str:
    """Return the value of a field with those sizes beside it that are read and given.

    >>> _sized({"attention.mask": "prefix", "attention.window": 8}, "attention.mask", ("window",))
    'prefix(window 8)'
    """
    part = name.partition(".")[0]
    given = {size: values.get(f"{part}.{size}") for size in sizes}
    words = [f"{WORDS.get(n, n)} {value}" for n, value in given.items() if value is not None]
    return str(values[name]) + (f"({', '.join(words)})" if words else "")


def _adaptation(values: Mapping[str, Any]) -> str:
    """Return the adaptation with the settings that are not the usual ones; nothing for none."""
    if values["adaptation.kind"] == "none":
        return ""
    usual = dataclasses.asdict(AdaptationConfig())
    changed = tuple(n for n, v in usual.items() if n != "kind" and values[f"adaptation.{n}"] != v)
    return _sized(values, "adaptation.kind", changed)


def _read_out(values: Mapping[str, Any]) -> str:
    words = [values["pooling.token_scope"]]
    words += [] if values["pooling.include_instruction"] else ["without instruction"]
    read = values["pooling.layers"]
    return " ".join(words + ([] if read == "last" else [f"layers {read}"]))
