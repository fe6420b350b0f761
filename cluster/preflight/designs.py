"""What is refused of a space's designs before any is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import optuna

from cluster.acts.factorial import factorial
from cluster.preflight.faults import Faults
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL, Overlay, Space
from search_spaces.factorial import each_cell
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, PoolingConfig, TrialConfig
from trainables.faults import check
from trainables.identity import label
from trainables.overlay import overlay
from trainables.shape import Shape

SAMPLES = 300  # designs drawn from the space to see whether all can be built
BUILT = ("attention.mask", "attention.key_value_heads", "pooling.head")  # what is built


def check_owned(
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
    return set().union(*draws(space, base, shape))


def draws(space: Space, base: TrialConfig, shape: Shape) -> list[Overlay]:
    """Return designs that are drawn at random, the same ones each time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask(), base, shape) for _ in range(SAMPLES)]


def num_designs(config: StudyConfig, shape: Shape) -> int:
    """Return how many designs a search can try, counted up to those that it is to."""
    found = each_cell(SPACES[config.space], config.base, shape)
    own = sum(1 for _ in islice(found, config.num_trials))
    return min(own + len(config.first), config.num_trials)


def check_cells(config: StudyConfig, shape: Shape) -> None:
    """Refuse a factorial whose factors, fraction, cells or tuned settings cannot be had."""
    made, faults = factorial(config, shape), Faults()
    for params in [*made.cells, *made.settings]:  # a setting changes no design
        faults.during(partial(_check_one, config.base, params, shape))
    faults.refuse()


def _check_one(base: TrialConfig, params: Overlay, shape: Shape) -> None:
    from trainables.designs import check_design

    check_design(overlay(base, params), shape)


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

    drawn = [CONTROL, *draws(space, base, shape)]
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
