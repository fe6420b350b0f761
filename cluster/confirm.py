"""Confirm what a search has found: the best designs and the control, with fresh seeds.

A plan is written first and hashed: who is confirmed, with which seeds, on which tasks, what is
tested how, and with what power. It is decided once; the same command continues its runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.arguments import value
from cluster.command_line import ended, parse, say, this_run
from cluster.search import place_of
from cluster.settings import StudyConfig
from trainables.config import ConfigError
from trainables.faults import check, number, whole_or_none
from trainables.overlay import from_dict

if TYPE_CHECKING:
    from cluster.preflight.surroundings import Place

EXAMPLES = """examples:
  python -m cluster.search --study masks --space attention --trials 40 --search-only
  python -m cluster.confirm masks --finalists 3 --seeds 8 --dry-run
      what would be confirmed, and what that could show
  python -m cluster.confirm masks --finalists 3 --seeds 8
"""
OWN = {"finalists": "num_finalists", "seeds": "num_seeds", "smallest_effect": "smallest_effect"}


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.confirm",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("study", metavar="STUDY", help="its name in the outputs folder")
    plan = made.add_argument_group("the plan (default: the study's own numbers)")
    plan.add_argument("--finalists", metavar="N", help="designs to confirm beside the control")
    plan.add_argument("--seeds", metavar="N", help="fresh seeds of each")
    plan.add_argument(
        "--smallest-effect", metavar="D", help="difference of scores that counts, 0 to 1"
    )
    plan.add_argument("--storage", metavar="URL", help="the study's database, if it has one")
    this_run(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments, unknown = parse(parser(), argv)
    return ended(lambda: _run(arguments, unknown))


def _run(arguments: argparse.Namespace, unknown: dict[str, str | None]) -> int:
    from cluster.run import confirm_study, quiet_libraries

    arguments.deepspeed, arguments.set = None, []
    place, checks = place_of(arguments)
    folder = place.outputs / arguments.study
    _check(arguments, unknown | checks, folder, place)
    config = _settings(arguments, folder)
    quiet_libraries()
    if arguments.dry_run:
        for line in described(config, folder):
            say(line)
        return 0
    return 0 if confirm_study(config, place, log=say) else 1


def _check(
    arguments: argparse.Namespace, found: dict[str, str | None], folder: Path, place: Place
) -> None:
    from cluster.preflight.checks import place_faults
    from cluster.preflight.faults import Faults
    from cluster.preflight.surroundings import nodes

    faults = Faults()
    given = {field: value(getattr(arguments, name)) for name, field in OWN.items()}
    checks = {
        name: whole_or_none(given[name], at_least=1) for name in ("num_finalists", "num_seeds")
    }
    if given["smallest_effect"] is not None:
        checks["smallest_effect"] = number(given["smallest_effect"], above=0, at_most=1)
    study = None if (folder / "study.json").is_file() else _no_study(folder)
    planned = (folder / "confirm" / "plan.json").is_file()
    if planned:
        decided = "the plan is written and kept; leave it out"
        checks |= {name: decided for name in given if given[name] is not None}
    faults.during(lambda: check({**found, "STUDY": study, **checks, **place_faults(place)}))
    faults.during(lambda: nodes(place.address, place.shares_gpus))
    faults.refuse()


def _no_study(folder: Path) -> str:
    known = sorted(each.parent.name for each in folder.parent.glob("*/study.json"))
    there = f"; there are {', '.join(known)}" if known else ""
    return f"expected a study in {folder.parent}, got {folder.name!r}{there}"


def _settings(arguments: argparse.Namespace, folder: Path) -> StudyConfig:
    """Return a study's own settings with those of the plan that are given."""
    kept: dict[str, Any] = json.loads((folder / "study.json").read_text())
    if kept["mode"] == "factorial":
        raise ConfigError("STUDY: expected a search, got a factorial, which confirms its cells")
    if kept["storage"] is not None and arguments.storage is None:
        raise ConfigError(f"storage: expected the study's own, {kept['storage']}")
    named = {each.name for each in dataclasses.fields(StudyConfig)} - {"first", "warm_start"}
    fields: dict[str, Any] = {
        n: tuple(v) if isinstance(v, list) else v for n, v in kept.items() if n in named
    }
    given = {field: value(getattr(arguments, name)) for name, field in OWN.items()}
    given = {field: each for field, each in given.items() if each is not None}
    own = {"base": from_dict(kept["base"]), "storage": arguments.storage}
    return StudyConfig(**fields | own | given)


def described(config: StudyConfig, folder: Path) -> list[str]:
    """Return what would be confirmed, in sentences, and how long its runs take, all in a row."""
    from analysis import registration
    from cluster.acts import confirm
    from cluster.acts.registering import planned
    from cluster.observers.results import read_rows

    rows = [row for row in read_rows(folder / "results") if row["split"] == "choosing"]
    if not confirm.finalists(rows, config.num_finalists, config.objectives):
        return ["no design beside the control was finished: nothing to confirm"]
    kept = registration.read(folder)
    runs = confirm.plan(config, rows)
    plan = kept[0] if kept else planned(config, runs, folder)
    whole = [row["seconds"] for row in rows if row["status"] == "complete"]
    trained = sum(run.steps > 0 for run in runs)
    hours = trained * sum(whole) / len(whole) / 3600
    return [
        *registration.sentences(plan),
        f"{len(runs)} runs, {trained} of them trained: about {hours:.1f} hours of training, one "
        "after the other.",
        f"sha256 {plan.sha256[:12]}; " + ("it is written" if kept else "nothing was written"),
    ]


if __name__ == "__main__":
    sys.exit(main())
