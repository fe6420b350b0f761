"""Which hidden states a read-out takes: the words of `pooling.layers` and their numbers.

Layers count from 1, as in transformers' `hidden_states`, where 0 are the token embeddings.
"""

from __future__ import annotations

import re

WORDS = (
    '"last", "last_K", "first_third", "middle_third", "last_third", "every_N", "all" or "1,2,3"'
)
ALONE = ("last", "first_third", "middle_third", "last_third", "all")
NUMBERED = re.compile(r"(last|every)_([1-9]\d*)")
LISTED = re.compile(r"[1-9]\d*(,[1-9]\d*)*")


def numbers(scope: str, depth: int) -> tuple[int, ...]:
    """Return the layers that `scope` names in a decoder of `depth` layers, first to last.

    >>> numbers("last_third", 6), numbers("every_2", 6), numbers("1,6", 6)
    ((5, 6), (2, 4, 6), (1, 6))

    Raises:
        ValueError: If there are no such layers.
    """
    wrong = fault(scope, depth)
    if wrong:
        raise ValueError(f"layers: {wrong}")
    return _numbers(scope, depth)


def canonical(scope: str, depth: int | None) -> str:
    """Return one spelling for all scopes that name the same layers; unchanged without a depth.

    >>> canonical("last_1", 6), canonical("1,2,3,4,5,6", 6), canonical("last_third", 6)
    ('last', 'all', 'last_2')
    """
    if depth is None:
        return scope
    wanted = numbers(scope, depth)
    thirds = ("first_third", "middle_third")
    words = ("last", "all", f"last_{len(wanted)}", *thirds, f"every_{wanted[0]}")
    same = (w for w in words if not fault(w, depth) and _numbers(w, depth) == wanted)
    return next(same, ",".join(map(str, wanted)))


def fault(scope: object, depth: int | None = None) -> str | None:
    """Return what is wrong with `scope`, for a decoder of `depth` layers if that is known."""
    if not isinstance(scope, str) or not _is_known(scope):
        return f"expected {WORDS}, got {scope!r}{_remedy(scope)}"
    listed = [int(number) for number in scope.split(",")] if LISTED.fullmatch(scope) else []
    if listed != sorted(set(listed)):
        return f"expected rising numbers, got {scope!r}"
    if depth is not None and not _fits(scope, depth):
        return f"expected layers of a backbone of {depth}, got {scope!r}"
    return None


def _remedy(scope: object) -> str:
    """Return how to write what was given as a number or as a list of numbers."""
    if isinstance(scope, tuple) and scope and all(type(number) is int for number in scope):
        return f'; write "{",".join(map(str, scope))}"'
    if type(scope) is not int or scope < 1:
        return ""
    return (
        f'; write "last_{scope}" for that many layers, or "{scope}" for one alone '
        f"(in a shell '\"{scope}\"')"
    )


def _is_known(scope: str) -> bool:
    return scope in ALONE or bool(NUMBERED.fullmatch(scope) or LISTED.fullmatch(scope))


def _fits(scope: str, depth: int) -> bool:
    if scope.endswith("_third"):
        return depth >= 3
    if scope in ("last", "all"):
        return True
    numbered = NUMBERED.fullmatch(scope)
    return (int(numbered[2]) if numbered else int(scope.rsplit(",", 1)[-1])) <= depth


def _numbers(scope: str, depth: int) -> tuple[int, ...]:
    every = range(1, depth + 1)
    third = depth / 3
    parts = {
        "last": every[-1:],
        "first_third": every[: round(third)],
        "middle_third": every[round(third) : round(2 * third)],
        "last_third": every[round(2 * third) :],
        "all": every,
    }
    if scope in parts:
        return tuple(parts[scope])
    numbered = NUMBERED.fullmatch(scope)
    if numbered is None:
        return tuple(int(number) for number in scope.split(","))
    count = int(numbered[2])
    return tuple(every[-count:] if numbered[1] == "last" else every[count - 1 :: count])
