"""The words of `pooling.layers`, against a slow reading of each for every depth."""

from __future__ import annotations

import pytest

from trainables.layers import canonical, fault, numbers

WORDS = (
    'expected "last", "last_K", "first_third", "middle_third", "last_third", "every_N", "all" '
    'or "1,2,3"'
)
DEPTHS = range(1, 41)


def scopes(depth: int) -> list[str]:
    counted = [f"{word}_{n}" for word in ("last", "every") for n in range(1, depth + 1)]
    thirds = [f"{word}_third" for word in ("first", "middle", "last")] if depth > 2 else []
    return ["last", "all", *counted, *thirds, ",".join(map(str, range(1, depth + 1, 2)))]


@pytest.mark.parametrize("depth", DEPTHS)
def test_words_mean_what_they_say(depth: int) -> None:
    every = list(range(1, depth + 1))
    assert numbers("last", depth) == (depth,)
    assert numbers("all", depth) == tuple(every)
    for n in every:
        assert numbers(f"last_{n}", depth) == tuple(x for x in every if x > depth - n)
        assert numbers(f"every_{n}", depth) == tuple(x for x in every if x % n == 0)
        assert numbers(str(n), depth) == (n,)


@pytest.mark.parametrize("depth", [depth for depth in DEPTHS if depth > 2])
def test_thirds_share_the_layers_equally(depth: int) -> None:
    thirds = [numbers(f"{word}_third", depth) for word in ("first", "middle", "last")]
    assert sum(thirds, ()) == tuple(range(1, depth + 1))
    sizes = [len(third) for third in thirds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("depth", DEPTHS)
def test_equal_layers_have_one_spelling(depth: int) -> None:
    spellings: dict[tuple[int, ...], set[str]] = {}
    for scope in scopes(depth):
        spelling = canonical(scope, depth)
        assert numbers(spelling, depth) == numbers(scope, depth)
        assert canonical(spelling, depth) == spelling
        spellings.setdefault(numbers(scope, depth), set()).add(spelling)
    assert all(len(found) == 1 for found in spellings.values())


@pytest.mark.parametrize(
    ("scope", "spelling"),
    [
        ("last_1", "last"),
        ("6", "last"),
        ("every_6", "last"),
        ("every_1", "all"),
        ("last_6", "all"),
        ("last_third", "last_2"),
        ("3,4", "middle_third"),
        ("2,4,6", "every_2"),
        ("1,6", "1,6"),
    ],
)
def test_spellings(scope: str, spelling: str) -> None:
    assert canonical(scope, 6) == spelling
    assert canonical(scope, None) == scope


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        (scope, f"{WORDS}, got {scope!r}")
        for scope in (
            *("", "Last", "last_0", "every_0", "last_", "every", "last_-1", "0", "1,", "1, 2"),
            *("01", "1.0", "last\n", "-1", "third", "last_1_2"),
        )
    ]
    + [
        ("2,1", "expected rising numbers, got '2,1'"),
        ("2,2", "expected rising numbers, got '2,2'"),
        (None, f"{WORDS}, got None"),
        (True, f"{WORDS}, got True"),
        (-4, f"{WORDS}, got -4"),
        ((), f"{WORDS}, got ()"),
        (
            4,
            f'{WORDS}, got 4; write "last_4" for that many layers, or "4" for one alone '
            "(in a shell '\"4\"')",
        ),
        ((2, 4), f'{WORDS}, got (2, 4); write "2,4"'),
    ],
)
def test_what_is_no_word(scope: object, text: str) -> None:
    assert fault(scope) == fault(scope, 6) == text


@pytest.mark.parametrize(
    ("scope", "depth"),
    [
        ("last_7", 6),
        ("every_7", 6),
        ("7", 6),
        ("1,7", 6),
        ("first_third", 2),
        ("middle_third", 2),
        ("last_third", 1),
    ],
)
def test_layers_that_a_backbone_lacks(scope: str, depth: int) -> None:
    text = f"expected layers of a backbone of {depth}, got {scope!r}"
    assert fault(scope) is None
    assert fault(scope, depth) == text
    with pytest.raises(ValueError, match=text):
        numbers(scope, depth)
