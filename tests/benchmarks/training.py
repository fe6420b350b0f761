"""Training steps: ours, and sentence-transformers' on the same texts with the same loss.

Each side tokenises, embeds, differentiates, clips and updates in every step, and the texts differ
from step to step. Both start from the same function, as LoRA adds nothing yet, so their first
losses must agree.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from tests.benchmarks import training_memory, training_time
from tests.benchmarks.paired import Ratio, compare
from tests.benchmarks.training_ours import Trainer
from tests.benchmarks.training_peers import peer
from tests.benchmarks.training_setting import SHAPES, Batch, Setting, batches, write_random_model
from trainables.engine import free_memory
from trainables.packing import num_mini_batches

PAIRS = 9
ROUNDING = 0.01  # of the first loss, by which bf16 may part the two sides
MINI_BATCH_SIZE = 16  # rows of a column in the peer's cached loss, as one of its passes takes
MINI_BATCH_TOKENS = 3072  # of ours: what takes no more memory than that
BATCH_SIZES = {"135M": 64, "1.5B": 16}  # triplets of a step that both sides' memory holds

Step = Callable[[Batch], float]


def run(device: str) -> Iterator[object]:
    """Yield the lines of the table as they are measured."""
    yield from _embedded() if device == "cpu" else _random_models(device)


def _embedded() -> Iterator[object]:
    for max_tokens in (128, 256):
        setting = Setting(max_tokens=max_tokens)
        trainer = Trainer(setting)
        yield from _against(setting, "MNRL", trainer.step(), peer(setting))
        yield from _overheads(setting, trainer)
        yield training_memory.compare_peaks(setting)
        yield from training_time.report(trainer)
    setting = Setting(batch_size=64)
    split = partial(num_mini_batches, budget=MINI_BATCH_TOKENS)
    ours, theirs = Trainer(setting).step(split), peer(setting, MINI_BATCH_SIZE)
    yield from _against(setting, "CachedMNRL", ours, theirs)
    yield training_memory.compare_peaks(
        setting, mini_batch_tokens=MINI_BATCH_TOKENS, mini_batch_size=MINI_BATCH_SIZE
    )


def _random_models(device: str) -> Iterator[object]:
    kernels = ["sdpa"] + ["flash_attention_2"] * is_flash_attn_2_available()
    for (shape, batch_size), kernel in itertools.product(BATCH_SIZES.items(), kernels):
        with tempfile.TemporaryDirectory() as folder:
            write_random_model(SHAPES[shape], Path(folder), device)
            for max_tokens in (128, 512):
                setting = Setting(
                    model=folder,
                    num_layers=None,
                    device=device,
                    kernel=kernel,
                    batch_size=batch_size,
                    max_tokens=max_tokens,
                )
                yield f"{shape} parameters, {kernel}"
                try:
                    yield from random_model(setting)
                except torch.OutOfMemoryError as error:
                    yield f"out of memory: {str(error).splitlines()[0]}"
                free_memory()


def random_model(setting: Setting) -> Iterator[object]:
    """Yield the lines of one model without DeepSpeed: against the peer, and our own variants."""
    trainer = Trainer(setting, deepspeed=False)
    yield from _against(setting, "MNRL", trainer.step(), peer(setting))
    padded = trainer.step(packed=False)
    yield from _paired(setting, "packed", "our step, padded", trainer.step(), padded)
    if setting.device == "cuda" and setting.kernel == "sdpa":
        varlen = trainer.step(varlen=True)
        yield from _paired(setting, "varlen", "our step, packed", varlen, trainer.step())
    yield from _overheads(setting, trainer)
    budget = MINI_BATCH_SIZE * setting.max_tokens
    large = dataclasses.replace(setting, batch_size=4 * setting.batch_size)
    ours = trainer.step(partial(num_mini_batches, budget=budget))
    yield from _paired(large, "cached", "CachedMNRL", ours, peer(large, MINI_BATCH_SIZE))
    yield training_memory.compare_peaks(setting)
    yield training_memory.compare_peaks(
        large, mini_batch_tokens=budget, mini_batch_size=MINI_BATCH_SIZE
    )
    yield from training_time.report(trainer)


def _against(setting: Setting, name: str, ours: Step, theirs: Step) -> Iterator[object]:
    """Check that both sides train on the same loss, then time them."""
    first = next(batches(setting))
    losses = ours(first), theirs(first)
    if abs(losses[0] - losses[1]) > ROUNDING * losses[1]:
        raise AssertionError(f"first losses: expected the same on both sides, got {losses}")
    yield f"first losses {losses[0]:.4f}, {losses[1]:.4f}"
    yield from _paired(setting, "step", name, ours, theirs)


def _overheads(setting: Setting, trainer: Trainer) -> Iterator[object]:
    """Time our cached step against our plain one; 0.83x is an overhead of 20 %."""
    for number in (2, 4):
        cached = trainer.step(partial(_fixed, number))
        yield from _paired(setting, f"{number} passes", "our plain step", cached, trainer.step())


def _paired(
    setting: Setting, name: str, peer_name: str, ours: Step, theirs: Step
) -> Iterator[object]:
    sides = [_each(setting, step) for step in (ours, theirs)]
    whole = f"{name}, {setting.batch_size} x {setting.max_tokens} tokens"
    ratio: Ratio = compare(whole, peer_name, *sides, pairs=PAIRS)
    yield ratio
    rates = [setting.batch_size / seconds for seconds in (ratio.ours_s, ratio.theirs_s)]
    yield f"  triplets per second {rates[0]:.1f}, {rates[1]:.1f}"


def _each(setting: Setting, step: Step) -> Callable[[], float]:
    """Return a call that takes a step on the next batch; every side sees the same ones."""
    texts = batches(setting)
    return lambda: step(next(texts))


def _fixed(number: int, lengths: Sequence[int]) -> int:
    """Return the number of mini-batches, whatever the lengths."""
    return number
