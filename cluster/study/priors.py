"""What a search knows before it starts: designs to try first, and the trials of an earlier study.

A design outside the space is trained as it is given; Optuna's samplers do not see it. An earlier
trial is added as one of Optuna's, marked `warm_start`; it was not trained here and has no row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from cluster.study.mirror import UNSEEN
from cluster.study.storage import hidden, open_storage
from cluster.study.trials import Proposal
from search_spaces.drawing import CONTROL, Overlay, Space
from search_spaces.factorial import each_cell
from search_spaces.literature import CONTROL_PRESET, PRESETS, literature
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check
from trainables.identity import design_digest, digest
from trainables.overlay import as_dict, flatten, overlay
from trainables.shape import Shape

MOST = 50_000  # designs of a space that are counted out
DESIGN, PLACE, WARM = "design", "first", "warm_start"  # user attributes
Known = str | Mapping[str, Any]  # a preset's name, or dotted names and values
CONTROL_KNOWN: Known = CONTROL | {"preset": CONTROL_PRESET}


def fault(known: object) -> str | None:
    """Return the fault if something is neither a preset nor a design."""
    if isinstance(known, Mapping) or known in PRESETS:
        return None
    return (
        f"expected a JSON file of designs or one of {', '.join(PRESETS)}, got {known!r}; a design "
        'is an object such as {"attention.mask": "bidirectional", "pooling.token_scope": "mean"}'
    )


class Follower:
    """Draws a given design as far as a space has it."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        """Follow the design `wanted`, by dotted names."""
        self._wanted = wanted
        self.drawn: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the design's own choice, or the first where it has none of them."""
        value = self._wanted.get(name.partition("[")[0])
        self.drawn[name] = value if value in choices else choices[0]
        return self.drawn[name]


def design(known: Known, base: TrialConfig, shape: Shape) -> tuple[Overlay, dict[str, Any]]:
    """Return a known design, the rest of it the base's, and what to follow a space by."""
    if isinstance(known, str):
        found = literature(Follower({"preset": known}), base, shape)
        return found, found | {"preset": known}
    usual = {name: v for name, v in flatten(as_dict(base)).items() if name in CONTROL}
    found = usual | {name: v for name, v in known.items() if name != "preset"}
    return found, found | dict(known)


def check_known(known: Sequence[Known], base: TrialConfig, shape: Shape) -> None:
    """Refuse designs that cannot be built; what is no design at all is the settings' fault.

    Raises:
        ConfigError: With every fault, by the design's place.
    """
    from trainables.designs import check_design

    faults: dict[str, str | None] = {}
    for place, each in enumerate(known):
        if fault(each):
            continue
        try:
            check_design(overlay(base, design(each, base, shape)[0]), shape)
        except ConfigError as error:
            lines = (line.partition(": ") for line in str(error).splitlines())
            faults |= {f"first.{place}.{name}": text for name, _, text in lines}
    check(faults)


def queue(
    study: optuna.Study, known: Sequence[Known], space: Space, base: TrialConfig, shape: Shape
) -> None:
    """Queue designs to be tried first, those that are not queued already."""
    there = {trial.user_attrs.get(PLACE) for trial in study.get_trials(deepcopy=False)}
    for place, each in enumerate(known):
        if place in there:
            continue
        found, wanted = design(each, base, shape)
        follower = Follower(wanted)
        reached = space(follower, base, shape)
        fits = digest(overlay(base, reached)) == digest(overlay(base, found))
        mark = {PLACE: place, DESIGN: found} | ({} if fits else {UNSEEN: True})
        study.enqueue_trial(follower.drawn if fits else {}, user_attrs=mark)


def proposer(space: Space, base: TrialConfig, shape: Shape) -> Callable[[optuna.Trial], Proposal]:
    """Return who makes a trial's design: the one that was queued, or what the space draws."""
    control = design_digest(overlay(base, CONTROL))

    def propose(trial: optuna.Trial) -> Proposal:
        user = trial.user_attrs
        unseen = bool(user.get(UNSEEN))
        drawn = {} if unseen else space(trial, base, shape)
        params = user.get(DESIGN, drawn)
        config = overlay(base, params)
        plain = config.pooling.head == CONTROL["pooling.head"]  # a digest takes its time
        role = "control" if plain and design_digest(config) == control else "search"
        return Proposal(config=config, params=params, role=role, unseen=unseen)

    return propose


def drawings(space: Space, base: TrialConfig, shape: Shape) -> list[dict[str, Any]] | None:
    """Return what a space asks for in each of its designs; None if it has more than `MOST`."""
    found: list[dict[str, Any]] = []
    for cell in islice(each_cell(space, base, shape), MOST + 1):
        follower = Follower(cell.levels)
        space(follower, base, shape)
        found.append(follower.drawn)
    return found if len(found) <= MOST else None


def open_source(given: str, outputs: Path) -> optuna.Study:
    """Return the search of an earlier study: a folder, a name in `outputs`, or URL[#STUDY].

    Raises:
        ConfigError: If there is none.
    """
    if "://" in given:
        url, _, name = given.partition("#")
        return _of_database(open_storage(url, outputs), url, name)
    folder = Path(given) if Path(given).is_dir() else outputs / given
    if not (folder / "study.journal").is_file():
        raise ConfigError(
            "warm-start: expected a study's folder, a name in the outputs folder, or a database "
            f"URL with #STUDY, got {given!r}"
        )
    settings = json.loads((folder / "study.json").read_text())
    file = JournalFileBackend(str(folder / "study.journal"))  # only read: nothing is locked
    name = f"{settings['name']}-search"
    return optuna.load_study(study_name=name, storage=JournalStorage(file))


def _of_database(storage: BaseStorage, url: str, name: str) -> optuna.Study:
    searches = [each.study_name for each in storage.get_all_studies()]
    searches = [each for each in searches if each.endswith("-search")]
    wanted = f"{name}-search" if name else (searches[0] if len(searches) == 1 else None)
    if wanted not in searches:
        names = ", ".join(each.removesuffix("-search") for each in searches) or "none"
        raise ConfigError(
            f"warm-start: expected #STUDY after {hidden(url)}, one of {names}, got {name!r}"
        )
    return optuna.load_study(study_name=wanted, storage=storage)


def warm_start(
    study: optuna.Study, source: optuna.Study, propose: Callable[[optuna.Trial], Proposal]
) -> str:
    """Add the source's finished trials that fit the space; return what was done in a sentence.

    Those of another base configuration come with their last score only; those of the same one
    with their curves, and their designs are not trained again.
    """
    done: str | None = study.user_attrs.get(WARM)
    if done is not None:
        return done
    there = {trial.user_attrs.get(WARM) for trial in study.get_trials(deepcopy=False)}
    alike = source.directions == study.directions
    own = [t for t in source.get_trials(deepcopy=False) if "config" in t.user_attrs]
    fitting = [_refit(trial, propose, source.study_name) for trial in own] if alike else []
    taken = [trial for trial in fitting if trial is not None]
    for trial in taken:
        if trial.user_attrs[WARM] not in there:
            study.add_trial(trial)
    done = f"{len(taken)} of the {len(own)} trials of {source.study_name} are known"
    study.set_user_attr(WARM, done)
    return done


def _refit(
    trial: FrozenTrial, propose: Callable[[optuna.Trial], Proposal], source: str
) -> FrozenTrial | None:
    """Return an earlier trial as the new space has it; None if it cannot be one of it."""
    user = trial.user_attrs
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or user.get(UNSEEN):
        return None
    fixed = FixedTrial(trial.params)
    try:
        proposal = propose(cast(optuna.Trial, fixed))
    except ValueError:  # a parameter or a value that was not there, or a size that cannot be
        return None
    key = f"{digest(proposal.config)}-{proposal.config.seed}"
    same = key == user["key"]
    if fixed.params.keys() != trial.params.keys() or not (
        same or trial.state == TrialState.COMPLETE
    ):
        return None
    return create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=fixed.distributions,
        intermediate_values=trial.intermediate_values if same else None,
        user_attrs={WARM: f"{source}#{trial.number}"} | ({"key": key} if same else {}),
    )
