"""Checks of a built design on the model itself, in seconds, before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.backbone import Embedder
from trainables.config import Mask

PROBE_TOKENS = 12


class ProbeError(RuntimeError):
    """The model does not do what its design says."""


def _tokens(embedder: Embedder) -> Tensor:
    vocabulary = embedder.backbone.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary // 2, (1, PROBE_TOKENS), generator=generator)
    return ids.to(next(embedder.parameters()).device)


def _first_state(embedder: Embedder, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = embedder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    return states[0, 0].float()


@torch.no_grad()
def check_reach(embedder: Embedder, mask: Mask) -> None:
    """Change the last token and look at the first one's state, in a batch with a padded row.

    Raises:
        ProbeError: If the first state changes although the mask is causal, or the reverse.
    """
    ids = _tokens(embedder).repeat(2, 1)
    real = torch.ones_like(ids, dtype=torch.bool)
    real[1, PROBE_TOKENS // 2 :] = False
    changed = ids.clone()
    changed[0, -1] += 1
    before, after = _first_state(embedder, ids, real), _first_state(embedder, changed, real)
    moved = bool((before - after).abs().max() > 0)
    if moved != (mask == "bidirectional"):
        found = "sees" if moved else "does not see"
        raise ProbeError(
            f"attention.mask: expected {mask!r}, but the first token {found} the last one; "
            f"{type(embedder.backbone).__name__} cannot take this mask with this transformers"
        )


@torch.no_grad()
def check_batch_invariance(embedder: Embedder) -> None:
    """Compare a text's embedding alone, padded on the right and padded on the left.

    Raises:
        ProbeError: If padding moves the embedding by more than rounding does.
    """
    ids = _tokens(embedder)
    real = torch.ones_like(ids, dtype=torch.bool)
    alone = embedder(ids, real)
    low_precision = next(embedder.parameters()).dtype == torch.bfloat16
    tolerance = 2e-2 if low_precision else 1e-4
    for side, pad in (("right", (0, 7)), ("left", (7, 0))):
        padded = embedder(
            torch.nn.functional.pad(ids, pad), torch.nn.functional.pad(real, pad, value=False)
        )
        distance = (alone - padded).norm().item()
        if not distance <= tolerance:
            raise ProbeError(
                f"padding on the {side}: expected the same embedding to {tolerance:g}, "
                f"got a distance of {distance:.3g}"
            )


def check_design(embedder: Embedder, mask: Mask) -> None:
    """Run all probes in evaluation mode; the embedder's mode is restored."""
    training = embedder.training
    embedder.eval()
    check_reach(embedder, mask)
    check_batch_invariance(embedder)
    embedder.train(training)
