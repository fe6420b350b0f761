"""Keeps mteb from disturbing its surroundings.

It reseeds the global random states when it is imported, when a task is made and at each
evaluation; makes a folder in the home when it is imported; and prints bars, notes and warnings.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from trainables.assets import cache_folder

_LOGGERS = ("mteb", "datasets")


@contextmanager
def guarded() -> Iterator[None]:
    """Use mteb only within: random states, switches and the home are as before on leaving."""
    with ExitStack() as stack:
        for each in (
            _random_states(),
            _no_warnings(),
            _quiet_loggers(),
            _own_folder(),
            _no_bars(),
        ):
            stack.enter_context(each)
        yield


@contextmanager
def _random_states() -> Iterator[None]:
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 -- this is the state that mteb overwrites
    torch_states = _torch_states()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        _restore_torch(torch_states)


def _torch_states() -> tuple[Any, list[Any]] | None:
    """Do not import torch for it: what is not there yet has no state to lose."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def _restore_torch(states: tuple[Any, list[Any]] | None) -> None:
    if states is None:
        return
    torch = sys.modules["torch"]
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


@contextmanager
def _no_warnings() -> Iterator[None]:
    """A fit that stops early or a superseded task is no fault of a trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _own_folder() -> Iterator[None]:
    """On import mteb makes its result cache, which stays empty here; a home may be read-only."""
    before = os.environ.get("MTEB_CACHE")
    os.environ["MTEB_CACHE"] = before or str(cache_folder() / "mteb")
    try:
        yield
    finally:
        if before is None:
            del os.environ["MTEB_CACHE"]


@contextmanager
def _no_bars() -> Iterator[None]:
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
