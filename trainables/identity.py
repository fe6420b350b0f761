"""What names a trial and its design: digests for programs, a label for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainables.config import TrialConfig, as_dict, flatten

WITHOUT_HEAD = ("pooling.token_scope", "pooling.head")  # all that is read of the pooling then


def used(config: TrialConfig) -> dict[str, Any]:
    """Return the flat configuration without the fields that its design does not read.

    >>> "pooling.num_latents" in used(TrialConfig())
    False
    """
    flat = flatten(as_dict(config))
    if config.pooling.head != "none":
        return flat
    return {n: v for n, v in flat.items() if not n.startswith("pooling.") or n in WITHOUT_HEAD}


def digest(config: TrialConfig) -> str:
    """Return a trial's identity without its seed, from the canonical JSON's SHA-256."""
    return _hash({name: value for name, value in used(config).items() if name != "seed"})


def design_digest(config: TrialConfig) -> str:
    """Return the identity of the design: backbone, attention, pooling, but no training."""
    parts = ("backbone.", "attention.", "pooling.")
    return _hash({name: v for name, v in used(config).items() if name.startswith(parts)})


def _hash(values: Mapping[str, Any]) -> str:
    equal = {  # 32 and 32.0 are one value
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }
    canonical = json.dumps(equal, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def label(config: TrialConfig) -> str:
    """Return the design in words that a person can tell apart.

    >>> label(TrialConfig())
    'causal, last_token, none'
    """
    pooling = config.pooling
    head: str = pooling.head
    if head != "none":
        head = (
            f"{head}({pooling.num_layers} layers, width {pooling.hidden_size}, "
            f"heads {pooling.num_heads}, latents {pooling.num_latents})"
        )
    return f"{config.attention.mask}, {pooling.token_scope}, {head}"
