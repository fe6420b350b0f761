"""Where our step's time goes, and how far it is from the machine's own matrix products."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.paired import timed
from tests.benchmarks.training_ours import Trainer
from tests.benchmarks.training_setting import Batch, Setting, batches

NUM_STEPS = 3
SCOPES = {  # what happens within these is of one kind, whatever it is
    "tokenise": "tokenising",
    "pack": "packing",
    "engine.step": "clipping and optimiser",
}
KINDS = (  # of an operator, by the first part of its name that fits
    ("matrix products", ("aten::mm", "aten::addmm", "aten::linear", "aten::mkldnn_linear")),
    ("attention", ("scaled_dot_product", "aten::bmm", "aten::baddbmm", "softmax")),
    ("casts, copies, layout", ("copy_", "_to_copy", "aten::cat", "clone", "contiguous", "split")),
    ("sums over tokens", ("aten::sum", "aten::mean", "aten::norm")),
    ("element-wise", ("mul", "add", "silu", "rsqrt", "pow", "neg", "div", "sub", "sigmoid")),
)
REST = "other operators"
OUTSIDE = "Python and hooks"


def report(trainer: Trainer) -> Iterator[str]:
    """Yield the table of a trainer's plain step."""
    setting = trainer.setting
    texts = list(itertools.islice(batches(setting), NUM_STEPS))
    step = trainer.step()
    for batch in texts:
        step(batch)  # a warm-up
    seconds = median(timed(partial(step, batch)) for batch in texts * 2)
    yield f"where the time goes, plain, {setting.batch_size} x {setting.max_tokens} tokens"
    shares = _shares(trainer, step, texts)
    for kind, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        yield f"  {kind:26} {share:6.1%}  {share * seconds * 1e3:8.1f} ms"
    yield from _against_peak(setting, step, texts, seconds)


def _shares(trainer: Trainer, step: Callable[[Batch], float], texts: list[Batch]) -> Any:
    """Return the share of the wall time of each kind of work."""
    engine = trainer.engine
    taken = engine.step

    def update() -> None:
        with record_function("engine.step"):
            taken()

    engine.step = update
    cuda = trainer.setting.device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        wall = sum(timed(partial(step, batch)) for batch in texts)
    engine.step = taken
    spent: defaultdict[str, float] = defaultdict(float)
    for event in profiler.events():
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[_kind(event)] += own / 1e6
    spent[OUTSIDE] += max(0.0, wall - sum(spent.values()))
    return {kind: seconds / wall for kind, seconds in spent.items() if seconds > 0}


def _kind(event: Any) -> str:
    """Return what kind of work an event is; its ancestors' scopes come first."""
    above = event
    while above is not None:
        for scope, kind in SCOPES.items():
            if above.name == scope:
                return kind
        above = above.cpu_parent
    for kind, parts in KINDS:
        if any(part in event.name for part in parts):
            return kind
    return REST


def _against_peak(
    setting: Setting, step: Callable[[Batch], float], texts: list[Batch], seconds: float
) -> Iterator[str]:
    """Yield the rate of the step, of its own matrix products alone, and of one large product."""
    shapes = _Shapes()
    with FlopCounterMode(display=False) as counter, shapes:
        step(texts[0])
    operations = counter.get_total_flops()
    alone = sum(number * _seconds(shape, setting.device) for shape, number in shapes.seen.items())
    products = sum(2 * a * b * c * n for (a, b, c), n in shapes.seen.items())
    size = 8192 if setting.device == "cuda" else 2048
    peak = 2 * size**3 / _seconds((size, size, size), setting.device)
    rate = operations / timed(lambda: step(texts[0]))
    own = products / alone
    yield f"  step {operations / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
    yield (
        f"  its matrix products alone {own / 1e9:.0f} GFLOP/s, {alone * 1e3:.0f} ms of a step of "
        f"{seconds * 1e3:.0f} ms"
    )
    yield (
        f"  bf16 product of {size} x {size} matrices {peak / 1e9:.0f} GFLOP/s: the step reaches "
        f"{rate / peak:.1%} of it, {rate / own:.1%} of its own shapes' rate"
    )


class _Shapes(TorchDispatchMode):
    """Counts the shapes [a, b] x [b, c] of plain matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.mm.default and args[0].dtype == torch.bfloat16:
            self.seen[(*args[0].shape, args[1].shape[1])] += 1
        return function(*args, **(kwargs or {}))


def _seconds(shape: tuple[int, int, int], device: str) -> float:
    """Return the median time of one product of a shape, after a warm-up."""
    a, b, c = shape
    left = torch.randn(a, b, device=device, dtype=torch.bfloat16)
    right = torch.randn(b, c, device=device, dtype=torch.bfloat16)
    repeats = max(1, round((1e12 if device == "cuda" else 1e10) / (2 * a * b * c)))

    def products() -> None:
        for _ in range(repeats):
            left @ right

    products()
    return median(timed(products) for _ in range(3)) / repeats
