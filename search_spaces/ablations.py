"""The two ablations that arXiv 2409.02727 left out, and their product.

A space is a function that draws one design: it asks the trial for each parameter that has a
meaning (define-by-run) and returns dotted names of `TrialConfig`. The strings here are the strings
in MLflow, in the results table and in the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trainables.config import TrialConfig

Overlay = dict[str, Any]

CONTROL: Overlay = {
    "attention.mask": "causal",
    "pooling.token_scope": "last_token",
    "pooling.head": "none",
}
HEADS = ("none", "cross_attention")
LAYERS = (2, 4, 6, 8, 16, 32)  # those that the backbone has are offered
DEFAULT_LAYERS = 4


class Trial(Protocol):
    """What a space needs of a trial; Optuna's has it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of `choices` for the parameter `name`."""
        ...


Space = Callable[[Trial, TrialConfig], Overlay]


def attention(trial: Trial, base: TrialConfig) -> Overlay:
    """Ablation 1: the mask, the token scope that it is crossed with, and attention in the head.

    Self-attention in the backbone is causal or bidirectional; the head has none, cross-attention
    with one head, or multi-head cross-attention over the last layers.
    """
    return _mask(trial) | _read_out(trial) | _head(trial, base, sizes=False)


def pooling(trial: Trial, base: TrialConfig) -> Overlay:
    """Ablation 2: how many layers the head reads, and its sizes; the mask is the base's."""
    return _read_out(trial) | _head(trial, base, sizes=True)


def joint(trial: Trial, base: TrialConfig) -> Overlay:
    """Both ablations at once: every mask with every head."""
    return _mask(trial) | _read_out(trial) | _head(trial, base, sizes=True)


def _mask(trial: Trial) -> Overlay:
    masks = ("causal", "bidirectional")
    return {"attention.mask": trial.suggest_categorical("attention.mask", masks)}


def _read_out(trial: Trial) -> Overlay:
    scopes = ("last_token", "mean")
    return {"pooling.token_scope": trial.suggest_categorical("pooling.token_scope", scopes)}


def _head(trial: Trial, base: TrialConfig, *, sizes: bool) -> Overlay:
    """Draw the head and, only where there is one, what belongs to it."""
    head = trial.suggest_categorical("pooling.head", HEADS)
    drawn: Overlay = {"pooling.head": head}
    if head == "none":
        return drawn
    drawn["pooling.num_heads"] = trial.suggest_categorical("pooling.num_heads", (1, 8))
    layers = layer_choices(base)
    if not sizes:
        return drawn | {"pooling.num_layers": min(DEFAULT_LAYERS, max(layers))}
    drawn["pooling.num_layers"] = trial.suggest_categorical("pooling.num_layers", layers)
    drawn["pooling.hidden_size"] = trial.suggest_categorical("pooling.hidden_size", (64, 256, 576))
    drawn["pooling.num_latents"] = trial.suggest_categorical("pooling.num_latents", (1, 16, 64))
    return drawn


def layer_choices(base: TrialConfig) -> tuple[int, ...]:
    """Return the numbers of layers that a head may read from the base's backbone.

    >>> layer_choices(TrialConfig())
    (2, 4, 6)
    """
    kept = base.backbone.num_layers
    fitting = tuple(n for n in LAYERS if kept is None or n <= kept)
    return fitting or (2,)


SPACES: dict[str, Space] = {"attention": attention, "pooling": pooling, "joint": joint}
