"""The settings that each cell of a factorial tries, and which was best for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState
from scipy.stats import qmc

from cluster.settings import SPAN, TUNED, StudyConfig
from search_spaces.drawing import Overlay
from trainables.config import MAX_SCALE
from trainables.overlay import as_dict, flatten

DIGITS = 3  # of a tuned value


def spans(config: StudyConfig) -> dict[str, float]:
    """Return what is tuned, and how far from the base's own, as a factor either way."""
    given = config.tuned if config.tuned is not None else TUNED
    return {name: span or TUNED.get(name, SPAN) for name, span in given.items()}


def settings(config: StudyConfig) -> tuple[Overlay, ...]:
    """Return the settings that every cell tries: the base's own, and others around it.

    The others are points of a scrambled Halton sequence (Owen, arXiv 1706.02808) in the logarithm
    of each: spread out, the same for all cells, and the first of more are the same.
    """
    if config.tune == 0:
        return ({},)
    reach, usual = spans(config), flatten(as_dict(config.base))
    given = {name: usual[name] for name in reach}
    points = qmc.Halton(len(reach), scramble=True, rng=config.seed).random(config.tune - 1)
    found = [given]
    for point in points:
        pairs = zip(reach.items(), point, strict=True)
        found.append({n: _rounded(given[n] * span ** (2 * u - 1)) for (n, span), u in pairs})
    temperature = "objective.temperature"
    if config.base.objective.learned_temperature and temperature in reach:
        for setting in found:
            setting[temperature] = max(setting[temperature], 1 / MAX_SCALE)
    return tuple(found)


def _rounded(value: float) -> float:
    """Return a value to a few digits, as a table shows it.

    >>> _rounded(0.00123456)
    0.00123
    """
    return round(value, DIGITS - 1 - math.floor(math.log10(value)))


def best_settings(
    cells: Sequence[Overlay], tried: Sequence[Overlay], study: optuna.Study
) -> list[Overlay | None]:
    """Return each cell's best setting by what the tuning's study keeps; None if it has none.

    The value of a trial is the mean over the categories of the choosing tasks. Of equal ones, the
    setting that comes first is taken.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values = {_key(trial.user_attrs["params"]): trial.value for trial in done}
    best: list[Overlay | None] = []
    for params in cells:
        scored = [(values.get(_key({**params, **s})), s) for s in tried]
        known = [(value, setting) for value, setting in scored if value is not None]
        best.append(max(known, key=lambda pair: pair[0])[1] if known else None)
    return best


def _key(params: Overlay) -> str:
    return json.dumps(params, sort_keys=True)
