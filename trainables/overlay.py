"""Configurations as plain values, and others made from them by dotted names."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from trainables.config import TrialConfig
from trainables.faults import ConfigError, check

ConfigT = TypeVar("ConfigT")


def as_dict(config: TrialConfig) -> dict[str, Any]:
    """Return the configuration as nested plain values, as JSON has them.

    >>> as_dict(TrialConfig())["instructions"]
    {'query': '', 'document': '', 'other': ''}
    """
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(values: Mapping[str, Any]) -> TrialConfig:
    """Return the configuration that `as_dict` gave; missing fields take their defaults.

    >>> from_dict(as_dict(TrialConfig(seed=3))) == TrialConfig(seed=3)
    True
    """
    return overlay(TrialConfig(), flatten(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names.

    >>> flatten({"attention": {"mask": "causal"}, "seed": 1})
    {'attention.mask': 'causal', 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def field_names(base: object, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields of a configuration, the deepest only."""
    names: list[str] = []
    for part in dataclasses.fields(base):  # type: ignore[arg-type]
        value = getattr(base, part.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{part.name}.")
        else:
            names.append(prefix + part.name)
    return names


def overlay(base: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """Return `base` with each dotted name in `values` replaced.

    >>> overlay(TrialConfig(), {"pooling.token_scope": "mean"}).pooling.token_scope
    'mean'

    Raises:
        ConfigError: With every name that is no field of `base` and every value out of range.
    """
    known = field_names(base)
    faults: dict[str, str | None] = {
        name: _unknown(name, known) for name in values if name not in known
    }
    config, found = _replaced(base, {n: v for n, v in values.items() if n in known}, "")
    check(faults | found)
    return config


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) or known
    return f"not a parameter; did you mean {near[0]!r}?"


def _replaced(
    base: ConfigT, values: Mapping[str, Any], prefix: str
) -> tuple[ConfigT, dict[str, str | None]]:
    """Replace the parts first, then their owner, collecting the faults by whole name."""
    changes: dict[str, Any] = {}
    faults: dict[str, str | None] = {}
    found: dict[str, str | None]
    for part in dataclasses.fields(base):  # type: ignore[arg-type]
        name, current = part.name, getattr(base, part.name)
        if dataclasses.is_dataclass(current):
            inner = {
                k.removeprefix(f"{name}."): v
                for k, v in values.items()
                if k.startswith(f"{name}.")
            }
            if inner:
                changes[name], found = _replaced(current, inner, f"{prefix}{name}.")
                faults |= found
        elif name in values:
            given, found = _items(current, values[name], prefix + name)
            changes |= {} if found else {name: given}
            faults |= found
    if not changes:
        return base, faults
    try:
        return dataclasses.replace(base, **changes), faults  # type: ignore[type-var]
    except ConfigError as error:
        lines = (line.split(": ", 1) for line in str(error).splitlines())
        found = {name: fault for name, fault in lines}
        if faults:  # what concerns several parts was checked with values that nobody gave
            found = {name: fault for name, fault in found.items() if "." not in name}
        return base, {prefix + name: fault for name, fault in found.items()} | faults


def _items(current: Any, value: Any, name: str) -> tuple[Any, dict[str, str | None]]:
    """Return a field's value; where it is a list of parts, each is made of its plain values."""
    if not isinstance(value, list | tuple):
        return value, {}
    usual = current[0] if isinstance(current, tuple) and current else None
    if not dataclasses.is_dataclass(usual):
        return tuple(value), {}
    part: Any = type(usual)
    made: list[Any] = []
    faults: dict[str, str | None] = {}
    for place, item in enumerate(value):
        try:
            made.append(overlay(part(), item) if isinstance(item, Mapping) else item)
        except ConfigError as error:
            lines = (line.split(": ", 1) for line in str(error).splitlines())
            faults |= {f"{name}.{place}.{inner}": fault for inner, fault in lines}
    return tuple(made), faults
