"""Everything that can be refused before a worker starts, in one message."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna

from cluster.acts.factorial import Factorial, acts_of, factorial
from cluster.observers.tracking import tracking_uri
from cluster.preflight.forecast import Forecast, acts_of_search, forecast
from cluster.preflight.plan import resource_faults
from cluster.preflight.surroundings import Place, folder_fault, nodes, tracking_fault
from cluster.settings import StudyConfig
from cluster.study import racing
from search_spaces.drawing import CONTROL, Overlay, Space
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, PoolingConfig, TrialConfig
from trainables.faults import check
from trainables.identity import label
from trainables.kernels import check_kernels
from trainables.overlay import overlay
from trainables.shape import EMBEDDED, Shape

SAMPLES = 300  # designs drawn from the space to see whether all can be built
BUILT = ("attention.mask", "attention.key_value_heads", "pooling.head")  # what is built

OF_SEARCH = (
    *("num_trials", "num_finalists", "objectives", "sampler", "num_startup", "pruner"),
    *("first_rung", "factor", "race", "first", "warm_start"),
)
OF_FACTORIAL = ("fraction", "factors", "tune")


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
    checks: Mapping[str, str | None],
    place: Place,
) -> tuple[StudyConfig, Forecast]:
    """Return the checked settings of a study, and what it will take.

    `study` holds fields of `StudyConfig`, `trial` dotted names of `TrialConfig`, `checks` what the
    caller has found.

    Raises:
        ConfigError: With every fault of both, of the model, the tasks, the data, the space, and
            of the place: its folders, MLflow, the cluster, its memory and its disk.
    """
    faults = Faults()
    faults.during(lambda: check(dict(checks) | mode_faults(study) | place_faults(place)))
    faults.during(lambda: nodes(place.address))
    given: TrialConfig | None = faults.during(lambda: overlay(TrialConfig(), trial))
    base = given or _closest(trial)
    config = faults.during(lambda: StudyConfig(**study, base=base))
    shape, base = _with_depth(base, faults)
    space = SPACES.get(str(study.get("space", StudyConfig().space)))
    faults.during(lambda: _check_owned(trial, space, base, shape))
    _check_tasks(base, faults)
    faults.during(lambda: _check_deepspeed(base))
    faults.during(lambda: check_kernels(base.engine))
    if space is not None and not faults.lines:
        faults.during(lambda: check_space(space, base, shape))
    made = None
    if config is not None and not faults.lines:
        config = dataclasses.replace(config, base=base)
        faults.during(partial(_check_race, config))
        made = faults.during(lambda: foresee(config, shape, place))
    faults.during(lambda: _check_data(base, complete=not faults.lines))
    faults.refuse()
    assert made is not None
    return config, made


def foresee(config: StudyConfig, shape: Shape, place: Place) -> Forecast:
    """Return what a study will take.

    Raises:
        ConfigError: If a cell of a factorial cannot be had, or the machines have too little.
    """
    if config.mode == "factorial":
        made = _checked_factorial(config, shape)
        acts, drawn = acts_of(config, made), made.cells
    else:
        acts = acts_of_search(config)
        drawn = tuple(_draws(SPACES[config.space], config.base, shape))
    found = forecast(config, acts, drawn, shape, place)
    faults = resource_faults(found)
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def place_faults(place: Place) -> dict[str, str | None]:
    """Return what keeps a study from writing its folder or reaching MLflow."""
    folder = folder_fault(place.outputs)
    uri = None if folder else tracking_fault(tracking_uri(place.outputs))
    return {"outputs": folder, "MLFLOW_TRACKING_URI": uri}


def mode_faults(study: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the fault of each given field that the study's mode does not read.

    >>> mode_faults({"mode": "search", "tune": 4})
    {'tune': "expected with mode 'factorial' only; add --mode factorial, or leave it out"}
    """
    if study.get("mode", StudyConfig().mode) == "factorial":
        reason = "expected without mode 'factorial', whose cells are neither drawn nor chosen"
        return {name: reason for name in OF_SEARCH if study.get(name)}
    reason = "expected with mode 'factorial' only; add --mode factorial, or leave it out"
    return {name: reason for name in OF_FACTORIAL if study.get(name)}


def _check_owned(
    trial: Mapping[str, Any], space: Space | None, base: TrialConfig, shape: Shape
) -> None:
    """Refuse settings that are not the user's to fix: they would be overwritten in silence."""
    owned = {"evaluation.split": "the search takes the choosing half, the confirmation the other"}
    if space is not None:
        usual = dataclasses.replace(base, pooling=PoolingConfig())
        varied = parameters(space, usual, shape)
        owned |= dict.fromkeys(varied, "the space varies it; leave it out or take another space")
    check({name: reason for name, reason in owned.items() if name in trial})


def parameters(space: Space, base: TrialConfig, shape: Shape) -> set[str]:
    """Return the names of all that a space sets."""
    return set().union(*_draws(space, base, shape))


def _draws(space: Space, base: TrialConfig, shape: Shape) -> list[Overlay]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), base, shape) for _ in range(SAMPLES)]


def _closest(values: Mapping[str, Any]) -> TrialConfig:
    """Return the default with those values that are fine, so that later checks see them."""
    config = TrialConfig()
    for name, value in values.items():
        with contextlib.suppress(ConfigError):
            config = overlay(config, {name: value})
    return config


def _with_depth(base: TrialConfig, faults: Faults) -> tuple[Shape, TrialConfig]:
    """Return the decoder's shape and the base with its true depth for `num_layers=None`."""
    from trainables import designs

    shape: Shape | None = faults.during(lambda: designs.shape(base.backbone))
    if shape is None:
        return EMBEDDED, base  # where the shape is unknown, so that other faults are found
    kept = {"backbone.num_layers": shape.depth}
    return shape, faults.during(lambda: overlay(base, kept)) or base


def _check_tasks(base: TrialConfig, faults: Faults) -> None:
    from trainables.task_sources import source_faults
    from trainables.tasks import check_tasks

    for field in ("tasks", "report_tasks"):
        names = getattr(base.evaluation, field)
        found = check_tasks(names) or source_faults(names)
        faults.lines += [
            line.replace("evaluation.tasks:", f"evaluation.{field}:") for line in found
        ]


def _check_race(config: StudyConfig) -> None:
    """Refuse a race that is over before it could be lost."""
    from trainables.evaluation import task_names

    number = len(task_names(config.base.evaluation.tasks, "choosing"))
    check({"race": racing.fault(number, config.race) if config.race else None})


def _checked_factorial(config: StudyConfig, shape: Shape) -> Factorial:
    """Return a factorial all of whose cells and settings can be had."""
    made, faults = factorial(config, shape), Faults()
    for params in [*made.cells, *made.settings]:  # a setting changes no design
        faults.during(partial(_check_one, config.base, params, shape))
    faults.refuse()
    return made


def _check_one(base: TrialConfig, params: Overlay, shape: Shape) -> None:
    from trainables.designs import check_design

    check_design(overlay(base, params), shape)


def _check_data(base: TrialConfig, *, complete: bool) -> None:
    """Tokenise the training data, which trials then share; only read it if nothing will start."""
    from trainables import data

    if complete:
        from trainables.tokenizer import Tokenizer

        data.open_data(base, Tokenizer(base.backbone.model))
    else:
        data.check_data(base)


def _check_deepspeed(base: TrialConfig) -> None:
    from trainables.engine import check_overlay

    check_overlay(base.engine)


def check_space(space: Space, base: TrialConfig, shape: Shape) -> None:
    """Refuse a space that draws a design which is degenerate or which the decoder cannot take.

    Raises:
        ConfigError: With the faults of all drawn designs and of the control, each fault once.
    """
    from trainables.designs import check_design
    from trainables.tokenizer import check_instructions

    faults = Faults()

    def check_each(check: Callable[[TrialConfig], None], drawn: Sequence[Overlay]) -> None:
        for params in drawn:
            faults.during(lambda params=params: check(overlay(base, params)))  # type: ignore[misc]
        faults.refuse()

    drawn = [CONTROL, *_draws(space, base, shape)]
    check_each(lambda config: check_design(config, shape), drawn)
    prefixed = [params for params in drawn if params.get("attention.mask") == "prefix"]
    check_each(check_instructions, [{}, *prefixed[:1]])  # the one mask that looks at them
    check_each(check_decoder, telling(drawn, BUILT))


def telling(drawn: Sequence[Overlay], names: Sequence[str]) -> list[Overlay]:
    """Return designs that show each value of the named parameters at least once.

    >>> telling([{"mask": "causal"}, {"mask": "prefix"}, {"mask": "causal"}], ["mask"])
    [{'mask': 'causal'}, {'mask': 'prefix'}]
    """
    seen: set[tuple[str, Any]] = set()
    found = []
    for params in drawn:
        shown = {(name, params.get(name)) for name in names}
        if shown - seen:
            found.append(params)
            seen |= shown
    return found


def check_decoder(config: TrialConfig) -> None:
    """Build a design without memory for it and run it once.

    Raises:
        ConfigError: If the decoder cannot take it.
    """
    from trainables.cost import count_cost

    try:
        count_cost(config)
    except ConfigError:
        raise
    except Exception as error:  # whatever somebody else's model raises
        reason = str(error).partition("\n")[0]
        if "scaled_dot_product_attention" in reason:
            reason += "; set engine.attn_implementation=eager"
        raise ConfigError(
            f"backbone.model: expected a decoder that takes {label(config)}, "
            f"got {config.backbone.model!r} ({type(error).__name__}: {reason})"
        ) from error
