"""A forecast in words: what is refused, what may go wrong, and the plan of a dry run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from textwrap import wrap

from cluster.dispatch.slots import Slots, check_memory
from cluster.preflight.forecast import Forecast, num_finalists
from cluster.settings import StudyConfig
from trainables.config import ConfigError
from trainables.estimate import estimate
from trainables.identity import digest, label
from trainables.overlay import overlay

GB, MILLION, HOUR = 1e9, 1e6, 3600.0
HEAD, WIDTH = 9, 100  # columns of a row's head, and in all


def resource_faults(made: Forecast) -> list[str]:
    """Return what the machines do not have: memory for one text at a time, room on the disk."""
    faults = []
    known = [node.memory_bytes for node in made.nodes if node.memory_bytes is not None]
    most, demand = max(known, default=math.inf), made.largest
    if demand.needed.total_bytes > most:
        least = estimate(overlay(demand.config, {"training.mini_batch_tokens": 1}), made.rate)
        if least.total_bytes > most:
            faults.append(
                f"memory: expected at most {most / GB:.1f} GB for a worker, the most of any node, "
                f"got {least.total_bytes / GB:.1f} GB for {label(demand.config)} with one text "
                "at a time; take more workers with engine.zero_stage=3, "
                "training.gradient_checkpointing=true or fewer layers"
            )
    if made.disk_bytes > made.free_bytes:
        faults.append(
            f"outputs: expected {made.disk_bytes / GB:.1f} GB for checkpoints, weights and items, "
            f"got {made.free_bytes / GB:.1f} GB free at {made.place.outputs}; make room, or give "
            "another --outputs"
        )
    return faults


def share_faults(made: Forecast) -> list[str]:
    """Return whether the control does not fit in the share of a GPU that a worker is given."""
    known = [node.memory_bytes for node in made.nodes if node.gpus and node.memory_bytes]
    if not known or not made.place.shares_gpus:
        return []
    slots = Slots(num_workers=1, threads=made.threads, gpu=made.gpus_each, gpu_bytes=min(known))
    try:
        check_memory(slots, made.demands[0].needed.total_bytes)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def warnings(made: Forecast) -> list[str]:
    """Return what may go wrong, with the remedy."""
    known = [node.memory_bytes for node in made.nodes if node.memory_bytes is not None]
    if not known:
        return []
    workers = made.demands[0].config.engine.num_workers
    on_one = math.ceil(made.at_once * workers / len(made.nodes))
    share = int(1 / made.gpus_each + 1e-6) if _unit(made) == "GPU" else on_one
    needed, least = made.largest.needed.total_bytes * share, min(known)
    if needed <= least:
        return []
    fewer = f"--at-once {max(1, int(made.at_once * least / needed))}, " if share > 1 else ""
    return [
        f"memory: {share} workers may need {needed / GB:.1f} GB on a node with "
        f"{least / GB:.1f} GB; take {fewer}a smaller training.mini_batch_tokens, or "
        "training.gradient_checkpointing=true"
    ]


def summary(made: Forecast) -> str:
    """Return the forecast in one line."""
    trials = ", then ".join(f"{act.num_trials} ({act.name})" for act in made.acts)
    return f"{trials} trials, {made.at_once} at once: {_end(made.seconds)}"


def lines(made: Forecast, plan: Sequence[str]) -> list[str]:
    """Return the plan, what it costs and when it ends, for a terminal."""
    times = zip(made.acts, made.act_seconds, strict=True)
    precision = made.demands[0].config.engine.precision
    rows = [("plan" if place == 0 else "", line) for place, line in enumerate(plan)]
    rows += [
        ("at once", _at_once(made)),
        ("designs", _designs(made)),
        ("memory", _memory(made)),
        ("time", ", ".join(f"{act.name} {_duration(seconds)}" for act, seconds in times)),
        ("cost", f"{_hours(made):.1f} {_unit(made)}-hours"),
        ("disk", f"{made.disk_bytes / GB:.1f} GB, of {made.free_bytes / GB:.0f} GB free"),
        ("end", _end(made.seconds)),
        ("", f"at this machine's pace of {made.rate / GB:.0f} GFLOP/s in {precision}"),
        ("", f"{_filled(made.filled)}; what early stopping saves is not counted"),
    ]
    if made.uncounted:
        rows.append(("", f"nor is the scoring of {', '.join(made.uncounted)}"))
    wrapped = (wrap(f"{h:<{HEAD}}{t}", WIDTH, subsequent_indent=" " * HEAD) for h, t in rows)
    return [line for row in wrapped for line in row]


def _unit(made: Forecast) -> str:
    return "GPU" if any(node.gpus for node in made.nodes) else "CPU"


def _hours(made: Forecast) -> float:
    """Return the hours of GPUs, or of CPUs, that are held."""
    each = made.gpus_each if _unit(made) == "GPU" else made.threads
    workers = made.demands[0].config.engine.num_workers
    return made.seconds * made.at_once * workers * each / HOUR


def _at_once(made: Forecast) -> str:
    unit, workers = _unit(made), made.demands[0].config.engine.num_workers
    each = made.gpus_each if unit == "GPU" else made.threads
    total = sum(node.gpus if unit == "GPU" else node.cpus for node in made.nodes)
    held = f"{workers} {_plural('worker', workers)} of {each:g} {_plural(unit, each)}"
    trials = f"{made.at_once} {_plural('trial', made.at_once)}"
    return f"{trials} of {held}, on {total} {_plural(unit, total)}"


def _designs(made: Forecast) -> str:
    trained = [demand.cost.trainable_parameters / MILLION for demand in made.demands]
    flops = [demand.cost.flops_per_token / MILLION for demand in made.demands]
    built = len({digest(demand.config) for demand in made.demands})
    words = f"{_range(trained)} million trained parameters, {_range(flops)} MFLOPs a token"
    return f"{words} ({built} built)"


def _memory(made: Forecast) -> str:
    needed = [demand.needed.total_bytes / GB for demand in made.demands]
    known = [node.memory_bytes / GB for node in made.nodes if node.memory_bytes is not None]
    there = f", of {min(known):.1f} GB on a node" if known else ""
    return f"{_range(needed)} GB a worker{there}; most: {label(made.largest.config)}"


def _filled(part: float) -> str:
    """Return how long training texts are taken to be.

    >>> _filled(1.0), _filled(0.256)
    ('training texts as long as they may be', 'training texts 26% as long as they may be')
    """
    share = "" if part > 0.995 else f" {part:.0%}"
    return f"training texts{share} as long as they may be"


def _plural(word: str, count: float) -> str:
    return word if count == 1 else f"{word}s"


def plan_of_search(config: StudyConfig, made: Forecast) -> list[str]:
    """Return the plan of a search in words."""
    num_trials = made.acts[0].num_trained
    asked = config.num_trials
    fewer = f", and no more ({asked} were asked for)" if num_trials < asked else ""
    best = num_finalists(config, num_trials)
    return [
        f"search: {num_trials} designs of {config.space}, the control among them{fewer}",
        f"confirm: the best {best} and the control, {config.num_seeds} fresh seeds of each; "
        "untrained models beside them",
    ]


def _range(values: Sequence[float]) -> str:
    """Return the least and the most.

    >>> _range([0.51, 0.5, 12.34]), _range([2.0, 2.0])
    ('0.50 to 12.34', '2.00')
    """
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _duration(seconds: float) -> str:
    """Return a time in words.

    >>> _duration(40), _duration(7000), _duration(200_000)
    ('1 min', '1 h 57 min', '2 d 8 h')
    """
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {round(minutes % 1440 / 60)} h"


def _end(seconds: float) -> str:
    """Return when something that takes so long ends if it starts now."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    day = "" if end.date() == now.date() else f"{end:%A, %d %B }".rstrip() + ", "
    return f"about {day}{end:%H:%M} (in {_duration(seconds)})"
