"""What can be refused before a search is sent to a cluster; the cluster checks all the rest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from cluster.arguments import settings
from cluster.manifests.deployment import LOGIN, secret_value
from cluster.preflight.faults import Faults
from cluster.preflight.unread import unread
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL, Overlay
from search_spaces.spaces import SPACES
from trainables.config import EMBEDDED_MODEL, TrialConfig
from trainables.faults import check
from trainables.overlay import overlay
from trainables.shape import EMBEDDED, Shape

SAMPLES = 100  # designs drawn from the space
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the command of a job
FILES = ("model", "train_data", "first", "deepspeed", "warm_start")  # options that may name some


def check_submission(
    arguments: argparse.Namespace,
    flags: Sequence[str],
    names: Sequence[str],
    unknown: Mapping[str, str | None],
) -> None:
    """Refuse a search that cannot start on the cluster, as far as can be seen here.

    `flags` are the words that `arguments` were read from, `names` variables that go along,
    `unknown` what is no flag.

    Raises:
        ConfigError: With every fault.
    """
    from trainables.tasks import check_tasks

    faults = Faults()
    found = {
        **unknown,
        "outputs": outputs_fault(arguments.outputs),
        "environment": environment_fault(names, os.environ),
        "flags": flags_fault(flags),
        **{name.replace("_", "-"): file_fault(getattr(arguments, name)) for name in FILES},
    }
    faults.during(lambda: check(found))
    study, trial = settings(_readable(arguments))
    faults.during(lambda: check(unread(study)))
    base = faults.during(lambda: overlay(TrialConfig(), trial)) or TrialConfig()
    faults.during(lambda: StudyConfig(**study, base=base))
    faults.lines += check_tasks(arguments.tasks or ())
    if not faults.lines:
        check_designs(study.get("space", StudyConfig().space), base, faults)
    faults.refuse()


def check_designs(space: str, base: TrialConfig, faults: Faults) -> None:
    """Refuse settings with which designs of the space cannot be built, if the model is here."""
    from trainables import designs

    if base.backbone.model == EMBEDDED_MODEL:
        shape = EMBEDDED
    elif Path(base.backbone.model).is_dir():
        shape = designs.shape(base.backbone)
    else:
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [CONTROL, *(SPACES[space](study.ask(), base, shape) for _ in range(SAMPLES))]
    for params in drawn:
        faults.during(partial(_check_design, base, params, shape))


def _check_design(base: TrialConfig, params: Overlay, shape: Shape) -> None:
    from trainables.designs import check_design

    check_design(overlay(base, params), shape)


def outputs_fault(outputs: Path) -> str | None:
    """Return the fault of a job's outputs folder: a relative one would go with the job's copy.

    >>> outputs_fault(Path("/shared/outputs"))
    """
    if outputs.is_absolute():
        return None
    return (
        f"expected an absolute path that all nodes see, as /shared/outputs, got {str(outputs)!r}, "
        "which would be in the job's temporary folder"
    )


def job_fault(outputs: Path) -> str | None:
    """Return the fault of an outputs folder if this process is the command of a Ray job."""
    return outputs_fault(outputs) if IN_JOB in os.environ else None


def environment_fault(names: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return why variables cannot go along: whoever sees the dashboard sees them."""
    missing = [name for name in names if name not in environment]
    if missing:
        return f"expected variables that are set, got {', '.join(missing)}"
    secret = [name for name in names if secret_value(f"{name}={environment[name]}")]
    if not secret:
        return None
    return (
        f"expected no secrets, got {', '.join(secret)}; a job's settings are shown to all who "
        "reach the cluster, so give secrets to the cluster itself (see cluster/README.md)"
    )


def flags_fault(flags: Sequence[str]) -> str | None:
    """Return the fault of flags with a password, which the job's command would show."""
    if any(LOGIN.search(flag) for flag in flags):
        return "expected no password in a URL; give the cluster PGPASSWORD or the like instead"
    return None


def file_fault(given: str | Iterable[str] | None) -> str | None:
    """Return the fault of files that are here and not on the cluster."""
    names = [given] if isinstance(given, str) else list(given or ())
    here = [name for name in names if not Path(name).is_absolute() and _exists(name)]
    if not here:
        return None
    return f"expected absolute paths that all nodes see, got {', '.join(map(repr, here))}"


def _exists(name: str) -> bool:
    """Return whether a name, or what stands before its weight, is a file or a folder here."""
    return Path(name).exists() or Path(name.rpartition("=")[0] or name).exists()


def _readable(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the options without files of the cluster, whose content is not to be seen here."""
    kept = argparse.Namespace(**vars(arguments))
    for name, instead in (("train_data", None), ("first", []), ("deepspeed", None)):
        given: Any = getattr(arguments, name)
        names = [given] if isinstance(given, str) else given or ()
        if any(Path(each).is_absolute() and not Path(each).exists() for each in names):
            setattr(kept, name, instead)
    return kept
