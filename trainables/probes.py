"""Checks of a built design on the model itself, in seconds, before it is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from trainables.model.backbone import Backbone
from trainables.model.decoder import checkpoint_activations
from trainables.model.embedder import Embedder
from trainables.reach import Copies, Wrong, copies, wrong_layer, wrong_state

PROBES = ("reach", "batch_invariance", "gradients", "checkpointing")
PROBE_TOKENS = 12
INSTRUCTION_TOKENS = 4
PADDING = 3
NUM_TEXTS = 6
ROUNDING = 10  # times the rounding error that is measured
NUDGE = 0.02  # of tensors that start at 0 and would hide the gradients of others
SMALL = 1e-4  # a gradient this much smaller than the largest may be rounding


class ProbeError(RuntimeError):
    """The model does not do what its design says."""


def check_design(embedder: Embedder, names: Collection[str] = PROBES) -> None:
    """Run the probes; mode, weights, gradients and random state are left as they were.

    Raises:
        ProbeError: With what was expected, if the model is not what its configuration says.
    """
    probes = (check_reach, check_batch_invariance, check_gradients, check_checkpointing)
    with _left_alone(embedder):
        for name, probe in zip(PROBES, probes, strict=True):
            if name in names:
                probe(embedder)


@contextlib.contextmanager
def _left_alone(embedder: Embedder) -> Iterator[None]:
    """Probe a finished model that does not drop out, under a seed of its own."""
    training, progress = embedder.training, embedder.backbone.progress
    device = _device(embedder)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        embedder.eval()
        embedder.backbone.progress = 1.0
        try:
            yield
        finally:
            embedder.backbone.progress = progress
            embedder.train(training)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _text(backbone: Backbone, num_texts: int) -> Int[Tensor, "texts tokens"]:
    """Return texts of a length at which a window of the mask does not reach the far end."""
    window = getattr(backbone.settings, "window", 0)
    reads = getattr(backbone.mask, "READS", ())
    length = PROBE_TOKENS + (window if "window" in reads else 0)
    size = backbone.decoder.config.vocab_size - 1  # the last id is what others are changed to
    return torch.randint(size, (num_texts, length)).to(_device(backbone))


def check_reach(embedder: Embedder) -> None:
    """Compare what each layer and each state that is read sees with what their masks say.

    Texts come padded and by themselves, as kernels differ; a mask that changes over the training
    is looked at before it, within its transition and after it.

    Raises:
        ProbeError: If a state sees more or less than its mask says.
    """
    backbone = embedder.backbone
    middle = getattr(backbone.settings, "transition", 1.0) / 2
    shares = (0.0, middle, 1.0) if hasattr(backbone.mask, "log_weight") else (1.0,)
    alone, padded = [(0, 0)], [(PADDING, 0), (0, PADDING)]
    for backbone.progress in shares:
        for pads in (alone, padded):
            rows = copies(_text(backbone, 1)[0], INSTRUCTION_TOKENS, backbone.num_latents, pads)
            _refuse(backbone, rows)


def _refuse(backbone: Backbone, rows: Copies) -> None:
    wrong: Wrong | None = wrong_layer(backbone, rows) or wrong_state(backbone, rows)
    if wrong is None:
        return
    verb = "sees" if wrong.sees else "does not see"
    what = "padding" if wrong.token is None else f"token {wrong.token}"
    raise ProbeError(
        f"attention.mask: expected {backbone.settings.mask!r}, but state {wrong.state} of layer "
        f"{wrong.layer} {verb} {what}; {type(backbone.decoder).__name__} cannot take this mask "
        "with this transformers"
    )


@torch.no_grad()
def check_batch_invariance(embedder: Embedder) -> None:
    """Compare the embeddings of texts alone with those of the same texts padded, on either side.

    What stands in the padding and in other texts must not matter to the bit. That it is there may
    matter as rounding does, which differs a thousandfold between models and is measured: small
    errors in the token embeddings grow on their way as those of other kernels do.

    Raises:
        ProbeError: If the rest of the batch moves an embedding.
    """
    text = _text(embedder.backbone, NUM_TEXTS)
    alone = embedder(*_padded(text, (0, 0)))
    with _rounded(embedder):
        noise = (alone - embedder(*_padded(text, (0, 0)))).norm(dim=1).median().item()
    epsilon = torch.finfo(embedder.backbone.decoder.dtype).eps
    tolerance = ROUNDING * max(noise, epsilon)
    for side, pad in (("right", (0, 7)), ("left", (7, 0))):
        ids, real, instruction = _padded(text, pad)
        padded = embedder(ids, real, instruction)
        kept = real & (torch.arange(NUM_TEXTS, device=ids.device) < NUM_TEXTS // 2).unsqueeze(1)
        other = embedder(torch.where(kept, ids, ids.flip(1) + 1), real, instruction)
        if not torch.equal(padded[: NUM_TEXTS // 2], other[: NUM_TEXTS // 2]):
            raise ProbeError(
                f"padding on the {side}: expected the same embedding whatever stands there and in "
                "other texts, got another"
            )
        distance = (alone - padded).norm(dim=1).median().item()
        if not distance <= tolerance:
            raise ProbeError(
                f"padding on the {side}: expected the same embedding to {tolerance:.2g}, which is "
                f"{ROUNDING} times the rounding, got a distance of {distance:.2g}"
            )


def _padded(
    text: Int[Tensor, "texts tokens"], pad: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, what is real, and the instruction."""
    real = torch.ones_like(text, dtype=torch.bool)
    instruction = real & (torch.arange(text.shape[1], device=text.device) < INSTRUCTION_TOKENS)
    ids, real, instruction = (functional.pad(x, pad) for x in (text, real, instruction))
    return ids, real, instruction


@contextlib.contextmanager
def _rounded(embedder: Embedder) -> Iterator[None]:
    """Multiply the token embeddings with 1 and an error of the size of rounding."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * (1 + torch.finfo(output.dtype).eps * torch.randn_like(output))

    handle = embedder.backbone.decoder.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def check_gradients(embedder: Embedder) -> None:
    """Look for a gradient at every trainable tensor.

    Tensors that start at 0 hide the gradients of those before them and are moved off it first. A
    gradient so small that it may be rounding (of a softmax over one key, for example) counts if
    other numbers in its tensor give other embeddings.

    Raises:
        ProbeError: With the tensors that training would never change.
    """
    with _nudged(embedder):
        gradients = _gradients(embedder)
        _refuse_infinite(gradients)
        small = SMALL * max(gradient.norm() for gradient in gradients.values())
        dead = [
            name
            for name, gradient in gradients.items()
            if not gradient.any() or (gradient.norm() <= small and not _matters(embedder, name))
        ]
    if dead:
        raise ProbeError(
            "gradient: expected one at every trainable tensor, got none at "
            f"{', '.join(dead[:3])}{' and others' if len(dead) > 3 else ''} "
            f"({len(dead)} of {len(gradients)}); the design leaves them without an effect"
        )


def _refuse_infinite(gradients: dict[str, Float[Tensor, ...]]) -> None:
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if bad:
        raise ProbeError(
            f"gradient: expected finite numbers, got others at {', '.join(bad[:3])}"
            f"{' and others' if len(bad) > 3 else ''} ({len(bad)} of {len(gradients)})"
        )


@torch.no_grad()
def _matters(embedder: Embedder, name: str) -> bool:
    """Return whether other numbers in a tensor give other embeddings."""
    parameter = embedder.get_parameter(name)
    kept, batch = parameter.clone(), _batch(embedder)
    before = embedder(*batch)
    parameter.copy_(torch.randn_like(kept))
    after = embedder(*batch)
    parameter.copy_(kept)
    return not torch.equal(before, after)


def check_checkpointing(embedder: Embedder) -> None:
    """Compare the gradients with and without gradient checkpointing, dropout included.

    Activations of another dropout, or of another pass, move a gradient by much more than rounding.

    Raises:
        ProbeError: If recomputing activations changes a gradient by more than rounding does.
    """
    decoder = embedder.backbone.decoder
    enabled = any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())
    found = []
    for checkpointing in (False, True):
        checkpoint_activations(decoder, checkpointing)
        embedder.train()
        with _nudged(embedder):
            torch.manual_seed(1)
            found.append(_gradients(embedder))
        embedder.eval()
    checkpoint_activations(decoder, enabled)
    tolerance = 0.1 if decoder.dtype == torch.bfloat16 else 1e-3
    for name, plain in found[0].items():
        distance = (plain - found[1][name]).norm() / plain.norm().clamp(min=1e-12)
        if not distance <= tolerance:
            raise ProbeError(
                f"gradient checkpointing: expected the gradient of {name} to {tolerance:g}, "
                f"got a relative distance of {distance:.3g}"
            )


def _batch(embedder: Embedder) -> tuple[Tensor, Tensor, Tensor]:
    """Return two texts, the second one padded."""
    ids, real, instruction = _padded(_text(embedder.backbone, 2), (0, 0))
    real[1, -PADDING:] = False
    return ids, real, instruction


def _gradients(embedder: Embedder) -> dict[str, Float[Tensor, ...]]:
    """Return the gradients of a loss over two texts on all trainable tensors."""
    embeddings = embedder(*_batch(embedder))
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(embeddings.shape, generator=generator).to(embeddings.device)
    named = {name: p for name, p in embedder.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        (embeddings * target).sum(), list(named.values()), allow_unused=True
    )
    return {
        name: torch.zeros(1) if gradient is None else gradient.float().cpu()
        for name, gradient in zip(named, gradients, strict=True)
    }


@contextlib.contextmanager
def _nudged(embedder: Embedder) -> Iterator[None]:
    """Move trainable tensors off 0 for a while."""
    zeros = [p for p in embedder.parameters() if p.requires_grad and not p.any()]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in zeros:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(NUDGE * noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()
