"""How a configuration's faults are found and told: each with what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import get_args


class ConfigError(ValueError):
    """A configuration cannot be used; one line for each fault."""


def check(faults: Mapping[str, str | None]) -> None:
    """Raise one `ConfigError` that names every fault; `None` means that the field is fine."""
    found = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    if found:
        raise ConfigError("\n".join(found))


def one_of(value: object, choices: object) -> str | None:
    """Return the fault if `value` is none of a `Literal`'s values, with the nearest as remedy."""
    allowed = get_args(choices)
    if any(value == choice and type(value) is type(choice) for choice in allowed):
        return None
    near = difflib.get_close_matches(str(value), [str(choice) for choice in allowed], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"expected one of {', '.join(map(repr, allowed))}, got {value!r}{hint}"


def whole(value: object, *, at_least: int) -> str | None:
    """Return the fault if `value` is not a whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        return f"expected a whole number, got {value!r}"
    return None if value >= at_least else f"expected at least {at_least}, got {value}"


def number(
    value: object, *, above: float | None = None, at_least: float | None = None
) -> str | None:
    """Return the fault if `value` is not a finite number within the bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"expected a number, got {value!r}"
    if value != value or value in (float("inf"), float("-inf")):
        return f"expected a finite number, got {value}"
    if above is not None and value <= above:
        return f"expected more than {above:g}, got {value:g}"
    if at_least is not None and value < at_least:
        return f"expected at least {at_least:g}, got {value:g}"
    return None


def some_text(value: object) -> str | None:
    """Return the fault if `value` is not a text with something in it."""
    good = isinstance(value, str) and value
    return None if good else f"expected a name or a path, got {value!r}"


def distinct_texts(value: object) -> str | None:
    """Return the fault if `value` is not a tuple of different texts, at least one."""
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        return f"expected a list of names, got {value!r}"
    if not value:
        return "expected at least one name, got none"
    repeated = sorted({text for text in value if value.count(text) > 1})
    return f"expected each name once, got {', '.join(repeated)} again" if repeated else None
