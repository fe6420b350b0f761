"""What every space is made of: its signature, the control, and how a parameter is drawn.

A space is a function that draws one design: it asks the trial for each parameter that has a
meaning (define-by-run) and returns dotted names of `TrialConfig`. The strings are those in
MLflow, in the results table and in the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from trainables.config import TrialConfig
from trainables.shape import Shape

Overlay = dict[str, Any]

CONTROL: Overlay = {  # all that a space may vary
    "attention.mask": "causal",
    "attention.key_value_heads": "native",
    "adaptation.kind": "none",
    "pooling.token_scope": "last_token",
    "pooling.include_instruction": True,
    "pooling.layers": "last",
    "pooling.head": "none",
    "pooling.match_parameters": None,
}


class Trial(Protocol):
    """What a space needs of a trial; Optuna's has it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of `choices` for the parameter `name`."""
        ...


Space = Callable[[Trial, TrialConfig, Shape], Overlay]


def choose(trial: Trial, name: str, choices: Sequence[Any], context: str = "") -> Any:
    """Return one of `choices`; where there is only one, nothing is asked.

    Optuna demands the same choices each time that it hears a name. Where they depend on what was
    drawn before, `context` says on what, and Optuna hears `name[context]`; the control's own
    parameters have no context, so that it can be queued by plain names.
    """
    if len(choices) == 1:
        return choices[0]
    return trial.suggest_categorical(f"{name}[{context}]" if context else name, choices)


def instructed(base: TrialConfig) -> bool:
    """Return whether any text has an instruction before it."""
    given = base.instructions
    return bool(given.query or given.document or given.other)
