from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from trainables.heartbeat import HANG_TIMEOUT_S, SLOW, Watch, beat


def beat_at(folder: Path, seconds: float) -> None:
    """Let the heart beat, as if it were some time."""
    beat(folder)
    os.utime(folder / "heartbeat", (seconds, seconds))


def test_a_silent_trial_is_hung_and_one_that_beats_is_not(tmp_path: Path) -> None:
    watch = Watch(tmp_path, 0.1)
    assert not watch.is_hung()
    time.sleep(0.15)
    beat_at(tmp_path, 5)
    assert not watch.is_hung()
    time.sleep(0.15)
    assert watch.is_hung()
    watch.begin()
    assert not watch.is_hung()


def test_slow_steps_are_waited_for(tmp_path: Path) -> None:
    beat_at(tmp_path, 0)  # of an attempt long ago
    watch = Watch(tmp_path)
    for now, timeout_s in ((9000, HANG_TIMEOUT_S), (9010, HANG_TIMEOUT_S), (9710, SLOW * 700)):
        beat_at(tmp_path, now)
        assert not watch.is_hung()
        assert watch.timeout_s == pytest.approx(timeout_s)
    beat_at(tmp_path, 9711)
    watch.begin()
    assert watch.timeout_s == pytest.approx(SLOW * 700)
    assert Watch(tmp_path, 30).timeout_s == 30
