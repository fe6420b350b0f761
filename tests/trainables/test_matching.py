"""Equal parameters for heads of different kinds, and the paper's head as a closed form."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import pytest
import torch

from trainables.config import ConfigError, PoolingConfig, TrialConfig
from trainables.designs import WIDEST, head, resolve
from trainables.model.pooling import Pooling
from trainables.overlay import overlay
from trainables.shape import Shape

HEADS = ("self_attention", "cross_attention", "latent_attention")
FREE = ("hidden_size", "head_size", "ffn_size")
WIDTHS = (48, 576, 4096)
LAYERS = 3
SETTINGS = {"backbone.num_layers": None, "pooling.layers": "last_3"}


def shaped(width: int) -> Shape:
    return Shape(depth=6, width=width, num_heads=4, num_key_value_heads=2)


def solved(width: int, **values: Any) -> PoolingConfig:
    names = {f"pooling.{name}": value for name, value in values.items()}
    return resolve(overlay(TrialConfig(), SETTINGS | names), shaped(width)).pooling


def closed_form(config: PoolingConfig, width: int, num_layers: int = LAYERS) -> int:
    """Return the parameters of a head by pencil and paper."""
    w, f, r = config.hidden_size, config.ffn_size, config.num_latents
    assert w is not None
    assert f is not None
    inner = config.num_heads * config.head_size
    feed_forward = 2 * w + (w * 2 * f + 2 * f) + (f * w + w)
    layer_embeddings = num_layers * width if num_layers > 1 else 0
    projection = 0 if w == width else w * width
    own = {
        "cross_attention": r * w + 2 * w * inner + 2 * width * inner,
        "self_attention": projection + 2 * w + 4 * w * inner,
        "latent_attention": projection + r * w + 4 * w + 4 * w * inner,
    }[config.head]
    output = 0 if config.output_size is None else config.output_size * w
    return own + feed_forward + layer_embeddings + output


def built(config: PoolingConfig, width: int) -> int:
    return sum(p.numel() for p in Pooling(config, width, LAYERS).parameters())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("hidden_size", [32, 48])
@pytest.mark.parametrize("output_size", [None, 24])
def test_the_closed_form_is_a_real_head(
    name: str, hidden_size: int, output_size: int | None
) -> None:
    config = solved(48, head=name, hidden_size=hidden_size, output_size=output_size)
    expected = built(config, 48)
    assert closed_form(config, 48) == expected
    assert sum(p.numel() for p in head(config, shaped(48)).parameters()) == expected


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("free", FREE)
def test_the_closest_width_is_found(width: int, name: str, free: str) -> None:
    """Every wanted number: within 2 % if any width is, and no neighbour is closer."""
    fixed = {"head": name, "hidden_size": width // 2, "free_width": free}
    for wanted in (int(10 ** (3 + step / 2)) for step in range(14)):
        reaches, size = nearest(width, wanted, fixed)
        counts = {
            other: closed_form(solved(width, **(fixed | {free: other})), width)
            for other in (size, max(1, size - 1), min(WIDEST, size + 1), width)
        }
        errors = {other: abs(count - wanted) for other, count in counts.items()}
        assert errors[size] == min(errors.values())
        assert reaches == (errors[size] <= 0.02 * wanted)


def nearest(width: int, wanted: int, fixed: dict[str, Any]) -> tuple[bool, int]:
    """Return whether the wanted number is reached, and the free width that comes closest."""
    free = fixed["free_width"]
    try:
        return True, getattr(solved(width, match_parameters=wanted, **fixed), free)
    except ConfigError as error:
        found = re.search(rf"; {free} (\d+) gives ", str(error))
    assert found
    return False, int(found[1])


@pytest.mark.parametrize("name", ["self_attention", "latent_attention"])
def test_the_width_without_a_projection_is_found_and_misleads_nobody(name: str) -> None:
    """At the backbone's own width a projection falls away, so the count is not monotone there."""
    fixed = {"head": name, "ffn_size": 64, "free_width": "hidden_size"}
    counts = {
        size: closed_form(solved(48, **(fixed | {"hidden_size": size})), 48)
        for size in range(1, 97)
    }
    assert counts[48] < counts[47] < counts[49]
    for size, offset in itertools.product((1, 40, 46, 47, 48, 49, 90), (-9, 0, 9)):
        wanted = counts[size] + offset
        _, found = nearest(48, wanted, fixed)
        assert abs(counts[found] - wanted) == min(abs(x - wanted) for x in counts.values())


def test_heads_of_different_kinds_end_up_equal() -> None:
    found = [
        built(solved(576, head=name, match_parameters=2_000_000, free_width=free), 576)
        for name, free in itertools.product(HEADS, FREE)
    ]
    assert all(abs(count - 2_000_000) <= 0.02 * 2_000_000 for count in found)


def test_an_inner_width_that_is_not_given_follows_the_free_one() -> None:
    fixed = {"head": "self_attention", "ffn_size": None, "free_width": "hidden_size"}
    one = solved(576, hidden_size=64, match_parameters=3_000_000, **fixed)
    other = solved(576, hidden_size=999, match_parameters=3_000_000, **fixed)
    assert one == other
    assert one.hidden_size is not None
    assert one.ffn_size == 4 * one.hidden_size
    assert abs(closed_form(one, 576) - 3_000_000) <= 60_000


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"head": "none", "match_parameters": 5000},
            "expected none with head 'none', which has no ffn_size, got 5,000",
        ),
        (
            {"head": "scalar_mix", "match_parameters": 5000, "free_width": "hidden_size"},
            "expected none with head 'scalar_mix', which has no hidden_size, got 5,000",
        ),
        (
            {"head": "cross_attention", "match_parameters": 5000, "hidden_size": 32},
            "expected a number within 2 % of one that ffn_size reaches, got 5,000; ffn_size 1 "
            "gives 41,810; take such a number, or another pooling.free_width",
        ),
    ],
)
def test_what_cannot_be_reached_is_told_with_the_nearest(
    values: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        solved(48, **values)
    assert str(caught.value) == f"pooling.match_parameters: {text}"


def test_widths_left_open_follow_the_backbone() -> None:
    config = solved(48, head="cross_attention", hidden_size=None, ffn_size=None)
    assert (config.hidden_size, config.ffn_size) == (48, 192)
    assert solved(48, head="cross_attention", hidden_size=20, ffn_size=None).ffn_size == 80


def test_a_solution_takes_no_time_and_no_random_numbers() -> None:
    values = {"head": "self_attention", "match_parameters": 10**8, "free_width": "hidden_size"}
    solved(4096, **values)  # torch compiles nothing, but imports on its first use of "meta"
    before, started = torch.get_rng_state(), time.perf_counter()
    solved(4096, **values)
    assert time.perf_counter() - started < 2  # 0.03 s on an idle core
    assert torch.equal(torch.get_rng_state(), before)


def test_the_head_of_the_paper_has_1278_million_parameters() -> None:
    """Tang & Yang's multi-layers trainable pooling for Mistral-7B (arXiv 2409.02727)."""
    config = PoolingConfig(
        head="cross_attention",
        layers="all",
        hidden_size=4096,
        num_heads=32,
        head_size=2048,
        num_latents=768,
        ffn_size=16384,
    )
    mistral = Shape(depth=32, width=4096, num_heads=32, num_key_value_heads=8)
    count = sum(p.numel() for p in head(config, mistral).parameters())
    latents, layer_embeddings = 768 * 4096, 32 * 4096
    projections = 4 * 4096 * (32 * 2048)
    feed_forward = 4096 * (8 * 4096) + (4 * 4096) * 4096
    weights = latents + layer_embeddings + projections + feed_forward
    assert weights == 1_278_345_216
    # The GEGLU block has biases, and a norm before it.
    assert count == weights + (8 * 4096 + 4096) + 2 * 4096 == 1_278_390_272
    assert count == closed_form(config, 4096, num_layers=32)
