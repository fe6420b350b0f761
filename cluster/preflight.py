"""Everything that can be refused before a worker starts, in one message."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from cluster.settings import StudyConfig
from search_spaces.ablations import CONTROL, SPACES, Space
from trainables.config import ConfigError, TrialConfig, overlay
from trainables.faults import check

SAMPLES = 300  # designs drawn from the space to see whether all can be built


class Faults:
    """Collects the faults of several checks, so that a person mends them all at once."""

    def __init__(self) -> None:
        """Start without a fault."""
        self.lines: list[str] = []

    def during(self, check: Callable[[], Any]) -> Any:
        """Run a check; return what it returns, or None after noting its faults."""
        try:
            return check()
        except ConfigError as error:
            self.lines += [line for line in str(error).splitlines() if line not in self.lines]
            return None

    def refuse(self) -> None:
        """Raise all faults together, if there are any."""
        if self.lines:
            raise ConfigError("\n".join(self.lines))


def configure(
    study: Mapping[str, Any],
    trial: Mapping[str, Any],
    checks: Mapping[str, str | None] | None = None,
) -> StudyConfig:
    """Return the checked settings of a study.

    `study` holds fields of `StudyConfig`, `trial` dotted names of `TrialConfig`, `checks` what the
    caller has found.

    Raises:
        ConfigError: With every fault of both, of the model, the tasks, the data and the space.
    """
    faults = Faults()
    faults.during(lambda: check(checks or {}))
    space = SPACES.get(str(study.get("space", StudyConfig().space)))
    faults.during(lambda: _check_owned(trial, space))
    given: TrialConfig | None = faults.during(lambda: overlay(TrialConfig(), trial))
    base = given or _closest(trial)
    config = faults.during(lambda: StudyConfig(**study, base=base))
    base = faults.during(lambda: _with_depth(base)) or base
    _check_tasks(base, faults)
    faults.during(lambda: _check_data(base))
    if space is not None and not faults.lines:
        faults.during(lambda: check_space(space, base))
    faults.refuse()
    checked: StudyConfig = dataclasses.replace(config, base=base)
    return checked


def _check_owned(trial: Mapping[str, Any], space: Space | None) -> None:
    """Refuse settings that are not the user's to fix: they would be overwritten in silence."""
    owned = {"evaluation.split": "the search takes the choosing half, the confirmation the other"}
    if space is not None:
        varied = parameters(space, TrialConfig())
        owned |= dict.fromkeys(varied, "the space varies it; leave it out or take another space")
    check({name: reason for name, reason in owned.items() if name in trial})


def parameters(space: Space, base: TrialConfig) -> set[str]:
    """Return the names of all that a space sets."""
    return set().union(*_draws(space, base))


def _draws(space: Space, base: TrialConfig) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), base) for _ in range(SAMPLES)]


def _closest(values: Mapping[str, Any]) -> TrialConfig:
    """Return the default with those values that are fine, so that later checks see them."""
    config = TrialConfig()
    for name, value in values.items():
        with contextlib.suppress(ConfigError):
            config = overlay(config, {name: value})
    return config


def _with_depth(base: TrialConfig) -> TrialConfig:
    """Check against the model's own settings; `num_layers=None` becomes its true depth."""
    from trainables.backbone import check_against_model

    depth = check_against_model(base)
    return overlay(base, {"backbone.num_layers": base.backbone.num_layers or depth})


def _check_tasks(base: TrialConfig, faults: Faults) -> None:
    from trainables.tasks import check_tasks

    faults.lines += check_tasks(base.evaluation.tasks)


def _check_data(base: TrialConfig) -> None:
    from trainables.data import load_triples

    triples = load_triples(base.training.data, num_hard_negatives=base.training.num_hard_negatives)
    if len(triples.train) < base.training.batch_size:
        raise ConfigError(
            f"training.data: expected at least training.batch_size {base.training.batch_size} "
            f"rows, got {len(triples.train)}"
        )


def check_space(space: Space, base: TrialConfig) -> None:
    """Draw designs from a space and build the configuration of each, the control's too.

    Raises:
        ConfigError: If any cannot be built; each fault once.
    """
    faults = Faults()
    faults.during(lambda: overlay(base, CONTROL))
    for drawn in _draws(space, base):
        faults.during(lambda drawn=drawn: overlay(base, drawn))  # type: ignore[misc]
    faults.refuse()
