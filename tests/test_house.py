"""Rules of the house that a newcomer could break without noticing."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("analysis", "cluster", "search_spaces", "trainables")
FORBIDDEN = {
    "analysis": {"torch", "ray", "optuna", "mlflow", "transformers", "deepspeed", "trainables"}
    | {"cluster", "search_spaces"},
    "search_spaces": {"torch", "ray", "optuna", "mlflow", "cluster", "analysis"},
    "trainables": {"ray", "optuna", "mlflow", "cluster", "analysis", "search_spaces"},
    "cluster": {"torch", "peft", "deepspeed", "transformers"},
}
ADAPTERS = {  # the only files that may know what their package may not
    "ray_trainable.py": "ray",
    "ray_train_loop.py": "ray",
    "importance.py": "optuna",
    "score_sources.py": "mlflow",
}


def imports(file: Path) -> Iterator[str]:
    """Yield the whole names of the modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    broken = [
        f"{file.name}: {module}"
        for file in (ROOT / package).rglob("*.py")
        for module in imports(file)
        if module.split(".")[0] in FORBIDDEN[package]
        and ADAPTERS.get(file.name) != module.split(".")[0]
    ]
    assert not broken


def test_spaces_know_only_the_configuration_of_trials() -> None:
    modules = {m for file in (ROOT / "search_spaces").rglob("*.py") for m in imports(file)}
    known = {f"trainables.{name}" for name in ("config", "faults", "layers", "shape")}
    assert {m for m in modules if m.startswith("trainables")} == known


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_read_that_could_run_code(package: str) -> None:
    """No pickle, and no torch.load, whatever it promises: safetensors, JSON and parquet do."""
    for file in (ROOT / package).rglob("*.py"):
        assert not {"pickle", "cloudpickle", "joblib", "dill", "shelve"} & set(imports(file)), file
        assert "torch.load(" not in file.read_text(), file


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_this_checkout(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve().parent == ROOT / package


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_folders_explain_themselves(package: str) -> None:
    assert (ROOT / package / "README.md").is_file()


def test_the_lock_meets_the_declared_ranges() -> None:
    import tomllib

    from packaging.requirements import Requirement

    locked = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().lower().splitlines()
        if "==" in line and not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement
