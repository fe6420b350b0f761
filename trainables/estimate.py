"""What a trial will need, from its configuration alone: a worker's memory, seconds of training.

The design is built on torch's "meta" device and run once over one text of the longest length. What
autograd keeps of that pass, by the token, is what a mini-batch keeps; operations are counted as in
`cost.py`. Weights, gradients and AdamW's state follow from the ZeRO stage:

    bytes a weight         frozen   trained                    divided by the workers
    stage 0                P        P + G + 8 (+ 4 in bf16)    nothing
    stages 1, 2, 3         P        P + G + 12                 12; G from 2; all of P in 3

with P = G = 2 in bf16 and 4 in fp32. A training step takes a forward pass, a backward pass of as
many operations (the frozen weights need no gradient), and again a forward pass for what GradCache
or gradient checkpointing computes twice.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.build import DTYPES, trainable_parameters
from trainables.config import EngineConfig, TrialConfig
from trainables.cost import count_flops, without_numbers
from trainables.model.embedder import Embedder
from trainables.model.tokens import Padded
from trainables.overlay import overlay

EFFICIENCY = 0.4  # of that rate that a training step reaches, as measured on a CPU
SIDE = 1024  # of the matrices that the machine's rate is measured with
SECONDS = 0.2  # that the measurement takes at least


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What one worker of a trial needs."""

    weight_bytes: float  # with gradients and AdamW's state
    activation_bytes: float  # of the largest mini-batch, or of what it recomputes
    seconds: float  # of the contrastive training at the machine's own rate of matrix products

    @property
    def total_bytes(self) -> float:
        """Return the memory that is needed at once."""
        return self.weight_bytes + self.activation_bytes


def estimate(config: TrialConfig, operations_per_second: float) -> Estimate:
    """Return what a trial needs; all texts are taken to be as long as they may be."""
    embedder, training = _in_precision(config), config.training
    longest = max(training.max_query_tokens, training.max_passage_tokens)
    passages = 1 + training.num_hard_negatives
    tokens_a_query = training.max_query_tokens + passages * training.max_passage_tokens
    tokens = tokens_a_query * training.batch_size / config.engine.num_workers
    at_once = min(tokens, max(longest, training.mini_batch_tokens))
    passes = 3 - at_once / tokens + training.gradient_checkpointing
    operations = count_flops(embedder, longest) / longest * tokens * passes * training.steps
    return Estimate(
        weight_bytes=_weight_bytes(embedder, config.engine),
        activation_bytes=_activation_bytes(config, longest) / longest * at_once,
        seconds=operations / (EFFICIENCY * operations_per_second),
    )


def _in_precision(config: TrialConfig) -> Embedder:
    """Return the design without numbers, all of it in one precision as the engine trains it."""
    return without_numbers(config).to(DTYPES[config.engine.precision])


def _activation_bytes(config: TrialConfig, num_tokens: int) -> float:
    """Return what one text takes: what autograd keeps, and the layer that is computed again."""
    embedder = _in_precision(config)
    kept = saved_bytes(embedder, num_tokens)
    if not config.training.gradient_checkpointing:
        depth = len(embedder.backbone.windows)
        whole = depth - 1 if embedder.pooling.scope == "last_token" else depth  # last_layer.py
        return kept * max(whole, 1) / depth
    embedder = _in_precision(overlay(config, {"training.gradient_checkpointing": False}))
    return kept + saved_bytes(embedder, num_tokens) / len(embedder.backbone.windows)


def saved_bytes(embedder: Embedder, num_tokens: int) -> int:
    """Return what autograd keeps of one text's forward pass, without the weights."""
    device = next(embedder.parameters()).device
    ids = torch.zeros(1, num_tokens, dtype=torch.long, device=device)
    batch = Padded.of(ids, torch.ones_like(ids, dtype=torch.bool), None)
    return count_saved(embedder, [batch])


def count_saved(embedder: Embedder, batches: list[Padded]) -> int:
    """Return the bytes of all distinct tensors that autograd keeps of a forward pass."""
    weights = {p.untyped_storage()._cdata for p in (*embedder.parameters(), *embedder.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors live, so that no storage's place is used again

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embedder.train().embed(batches)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)


def machine_bytes() -> int:
    """Return the memory that this machine trains in: its GPU's, or all there is."""
    if torch.cuda.is_available():
        total: int = torch.cuda.mem_get_info()[1]
        return total
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def num_gpus() -> int:
    """Return how many GPUs this machine has."""
    return torch.cuda.device_count()


def num_threads() -> int:
    """Return how many CPU threads `matrix_rate` was measured with."""
    return torch.get_num_threads()


def _weight_bytes(embedder: Embedder, engine: EngineConfig) -> float:
    trained = trainable_parameters(embedder)
    frozen = sum(p.numel() for p in embedder.parameters()) - trained
    size, stage, workers = DTYPES[engine.precision].itemsize, engine.zero_stage, engine.num_workers
    master = 12 if stage or engine.precision == "bf16" else 8
    weights = size * (trained + frozen) / (workers if stage == 3 else 1)
    gradients = size * trained / (workers if stage >= 2 else 1)
    return weights + gradients + master * trained / (workers if stage else 1)


@functools.lru_cache(maxsize=2)
def matrix_rate(precision: str) -> float:
    """Return the operations per second of this machine's matrix products, measured now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    square = torch.ones(SIDE, SIDE, dtype=DTYPES[precision], device=device)
    (square @ square).sum().item()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        (square @ square)[0, 0].item()  # waits for the result
        count += 1
    return 2 * SIDE**3 * count / (time.perf_counter() - started)
