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
    """Return the fault if `value` is none of a `Literal`'s or tuple's values, with the nearest."""
    allowed = choices if isinstance(choices, tuple) else get_args(choices)
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


def whole_or_none(value: object, *, at_least: int) -> str | None:
    """Return the fault if `value` is neither None nor a whole number of at least `at_least`."""
    return None if value is None else whole(value, at_least=at_least)


def multiple(value: int, name: str, factor: int) -> str | None:
    """Return the fault if `value` cannot be shared equally by `factor`, the field `name`."""
    return f"expected a multiple of {name} {factor}, got {value}" if value % factor else None


def number(
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
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
    if at_most is not None and value > at_most:
        return f"expected at most {at_most:g}, got {value:g}"
    if below is not None and value >= below:
        return f"expected less than {below:g}, got {value:g}"
    return None


def number_or_none(value: object, *, at_least: float, at_most: float) -> str | None:
    """Return the fault if `value` is neither None nor a finite number within the bounds."""
    return None if value is None else number(value, at_least=at_least, at_most=at_most)


def true_or_false(value: object) -> str | None:
    """Return the fault if `value` is not a truth value."""
    return None if isinstance(value, bool) else f"expected true or false, got {value!r}"


def text(value: object) -> str | None:
    """Return the fault if `value` is not a text; an empty one is fine."""
    return None if isinstance(value, str) else f"expected a text, got {value!r}"


def text_or_none(value: object) -> str | None:
    """Return the fault if `value` is neither None nor a text."""
    return None if value is None else text(value)


def some_text(value: object) -> str | None:
    """Return the fault if `value` is not a text with something in it."""
    good = isinstance(value, str) and value
    return None if good else f"expected a name or a path, got {value!r}"


def distinct_texts(value: object) -> str | None:
    """Return the fault if `value` is not a tuple of different texts, at least one, none empty."""
    if not isinstance(value, tuple) or any(some_text(text) for text in value):
        return f"expected a list of names, got {value!r}"
    if not value:
        return "expected at least one name, got none"
    repeated = sorted({text for text in value if value.count(text) > 1})
    return f"expected each name once, got {', '.join(repeated)} again" if repeated else None


def distinct_sizes(value: object) -> str | None:
    """Return the fault if `value` is not a tuple of different whole numbers of at least 1."""
    good = isinstance(value, tuple) and not any(whole(size, at_least=1) for size in value)
    good = good and len(set(value)) == len(value)  # type: ignore[arg-type, call-overload]
    return None if good else f"expected a list of different whole numbers, got {value!r}"
