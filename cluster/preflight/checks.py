"""Everything that can be refused before a worker starts, in one message."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.acts.factorial import acts_of, check_factors, factorial
from cluster.observers.tracking import tracking_uri
from cluster.preflight.designs import check_cells, check_owned, check_space, draws, num_designs
from cluster.preflight.faults import Faults
from cluster.preflight.filling import filling
from cluster.preflight.folders import folder_fault
from cluster.preflight.forecast import Forecast, acts_of_search, forecast
from cluster.preflight.neighbours import check_neighbours
from cluster.preflight.plan import resource_faults, share_faults
from cluster.preflight.surroundings import Place, nodes, tracking_fault
from cluster.preflight.unread import unread
from cluster.settings import StudyConfig
from cluster.study import racing
from cluster.study.priors import Known, check_known
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check
from trainables.kernels import check_kernels
from trainables.overlay import overlay
from trainables.shape import EMBEDDED, Shape


@dataclass(kw_only=True)
class _Given:
    """What was given, as far as it is fine, so that all else can be checked too."""

    config: StudyConfig
    shape: Shape  # much like the embedded model's where it is not known
    shape_known: bool
    refused: set[str]  # fields of the study, and of its base

    @property
    def trial_is_whole(self) -> bool:
        """Whether the base is what trials will have."""
        return self.shape_known and not any(name.startswith("base") for name in self.refused)


def configure(
    study: Mapping[str, Any],
    trial: Mapping[str, Any],
    checks: Mapping[str, str | None],
    place: Place,
) -> tuple[StudyConfig, Forecast]:
    """Return the checked settings of a study, and what it will take.

    `study` holds fields of `StudyConfig`, `trial` dotted names of `TrialConfig`, `checks` what the
    caller has found.

    Raises:
        ConfigError: With every fault of both, of the model, the tasks, the data, the space and
            its designs, of what stands beside (a database, an earlier study, another driver), and
            of the place: its folders, MLflow, the cluster, its memory and its disk.
    """
    faults = Faults()
    faults.during(lambda: check({**checks, **unread(study), **place_faults(place)}))
    machines = faults.during(lambda: nodes(place.address, place.shares_gpus))
    given = _closest(study, trial, faults)
    config, base = given.config, given.config.base
    _check_trial(trial, given, faults)
    if "space" not in given.refused:
        _check_designs(given, study.get("first", ()), faults)
    check_neighbours(config, place.outputs, given.refused, faults)
    filled = faults.during(lambda: _filling(base, complete=not faults.lines))
    made = None
    if machines and given.trial_is_whole and "space" not in given.refused:
        made = faults.during(lambda: foresee(config, given.shape, place, filled or 1.0))
        faults.during(lambda: _check_race(config))
    faults.refuse()
    assert made is not None
    return config, made


def foresee(config: StudyConfig, shape: Shape, place: Place, filled: float = 1.0) -> Forecast:
    """Return what a study will take; its training texts fill so much of what they may.

    Raises:
        ConfigError: If a cell of a factorial cannot be had, or the machines have too little.
    """
    if config.mode == "factorial":
        made = factorial(config, shape)
        acts, drawn = acts_of(config, made), made.cells
    else:
        acts = acts_of_search(config, num_designs(config, shape))
        drawn = tuple(draws(SPACES[config.space], config.base, shape))
    found = forecast(config, acts, drawn, shape, place, filled)
    faults = [*resource_faults(found), *share_faults(found)]
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def place_faults(place: Place) -> dict[str, str | None]:
    """Return what keeps a study from writing its folder or reaching MLflow."""
    folder = folder_fault(place.outputs)
    uri = None if folder else tracking_fault(tracking_uri(place.outputs))
    return {"outputs": folder, "MLFLOW_TRACKING_URI": uri}


def _closest(study: Mapping[str, Any], trial: Mapping[str, Any], faults: Faults) -> _Given:
    """Note what is wrong with the fields of a study and its base; return the rest."""
    whole = faults.during(lambda: _trial(trial))
    base = whole or _fine_part(trial)
    refused = set() if whole else {f"base.{name}" for name in trial}
    shape, base = _with_depth(base, faults)
    fields, config = dict(study), None
    while config is None:
        try:
            config = StudyConfig(**fields, base=base)
        except ConfigError as error:
            found = {line: _field(line) for line in str(error).splitlines()}
            faults.note(line for line, field in found.items() if field not in refused)
            wrong = set(found.values()) & fields.keys()
            wrong = wrong or set(fields)  # a default that does not suit what was given
            refused |= wrong
            fields = {name: value for name, value in fields.items() if name not in wrong}
    usual = dataclasses.replace(EMBEDDED, depth=base.backbone.num_layers or EMBEDDED.depth)
    return _Given(
        config=config, shape=shape or usual, shape_known=shape is not None, refused=refused
    )


def _field(line: str) -> str:
    """Return the field of a study that a fault is about."""
    return line.partition(":")[0].partition(".")[0]


def _trial(trial: Mapping[str, Any]) -> TrialConfig:
    """Return the configuration of all trials; its seed is not the study's."""
    try:
        return overlay(TrialConfig(), trial)
    except ConfigError as error:
        lines = str(error).splitlines()
        own = [f"base.{line}" if line.startswith("seed:") else line for line in lines]
        raise ConfigError("\n".join(own)) from error


def _fine_part(values: Mapping[str, Any]) -> TrialConfig:
    """Return the default with those values that are fine."""
    config = TrialConfig()
    for name, value in values.items():
        with contextlib.suppress(ConfigError):
            config = overlay(config, {name: value})
    return config


def _with_depth(base: TrialConfig, faults: Faults) -> tuple[Shape | None, TrialConfig]:
    """Return the decoder's shape and the base with its true depth for `num_layers=None`."""
    from trainables import designs

    shape = faults.during(lambda: designs.shape(base.backbone))
    if shape is None:
        return None, base
    kept = {"backbone.num_layers": shape.depth}
    return shape, faults.during(lambda: overlay(base, kept)) or base


def _check_trial(trial: Mapping[str, Any], given: _Given, faults: Faults) -> None:
    """Note what is wrong with the settings of all trials."""
    from trainables.engine import check_overlay
    from trainables.task_sources import source_faults
    from trainables.tasks import check_tasks

    base, engine = given.config.base, given.config.base.engine
    space = None if "space" in given.refused else SPACES[given.config.space]
    faults.during(lambda: check_owned(trial, space, base, given.shape))
    for field in ("tasks", "report_tasks"):
        names = getattr(base.evaluation, field)
        found = check_tasks(names) or source_faults(names)
        faults.note(each.replace("evaluation.tasks:", f"evaluation.{field}:") for each in found)
    faults.during(lambda: check_overlay(engine))
    faults.during(lambda: check_kernels(engine))


def _check_race(config: StudyConfig) -> None:
    """Refuse a race that is over before it could be lost."""
    from trainables.evaluation import task_names

    number = len(task_names(config.base.evaluation.tasks, "choosing"))
    check({"race": racing.fault(number, config.race) if config.race else None})


def _check_designs(given: _Given, first: Sequence[Known], faults: Faults) -> None:
    """Note what is wrong with the designs: those named, those of the space, a factorial's cells.

    Where the decoder is not known, a factorial's names alone are looked at.
    """
    config, shape = given.config, given.shape
    if not given.shape_known:
        faults.during(lambda: check_factors(config, shape))
        return
    faults.during(lambda: check_known(first, config.base, shape))
    if config.mode == "factorial":
        faults.during(lambda: check_cells(config, shape))
    if given.trial_is_whole:
        faults.during(lambda: check_space(SPACES[config.space], config.base, shape))


def _filling(base: TrialConfig, *, complete: bool) -> float | None:
    """Tokenise the training data, which trials then share; only read it if nothing will start.

    Return which part of the tokens that they may have its texts have.
    """
    from trainables import data

    if not complete:
        data.check_data(base)
        return None
    from trainables.tokenizer import Tokenizer

    return filling(data.open_data(base, Tokenizer(base.backbone.model)), base.training)
