"""Which texts go through the model together: each once, within the budget, little padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.packing import MAX_PADDING, num_equal_blocks, num_mini_batches, pack, plan

GENERATOR = np.random.default_rng(0)
LENGTHS = [
    [5],
    [7] * 12,
    [300, *[10] * 50],
    GENERATOR.integers(2, 130, 48).tolist(),
    GENERATOR.lognormal(3, 1, 200).astype(int).clip(2, 512).tolist(),
]


@pytest.mark.parametrize("budget", [1, 60, 1000, 10**6])
@pytest.mark.parametrize("lengths", LENGTHS, ids=map(len, LENGTHS))
class TestPlans:
    def test_every_text_is_there_once(self, lengths: list[int], budget: int) -> None:
        number = num_mini_batches(lengths, budget)
        planned = plan(lengths, number)
        assert len(planned) == number
        assert all(blocks and all(blocks) for blocks in planned)
        places = [place for blocks in planned for block in blocks for place in block]
        assert sorted(places) == list(range(len(lengths)))

    def test_no_mini_batch_is_above_the_budget_but_a_text_alone(
        self, lengths: list[int], budget: int
    ) -> None:
        for blocks in plan(lengths, num_mini_batches(lengths, budget)):
            texts = [lengths[place] for block in blocks for place in block]
            assert len(texts) == 1 or sum(texts) <= budget

    def test_blocks_are_of_like_length(self, lengths: list[int], budget: int) -> None:
        for blocks in plan(lengths, num_mini_batches(lengths, budget)):
            for block in blocks:
                sizes = [lengths[place] for place in block]
                assert min(sizes) >= (1 - MAX_PADDING) * max(sizes)


def test_a_long_text_is_alone_and_the_others_are_not() -> None:
    assert num_mini_batches([100, *[10] * 50], budget=60) <= 11


def test_blocks_alike_are_equally_many_on_all_workers() -> None:
    shares = [LENGTHS[3], GENERATOR.integers(2, 9, 48).tolist()]
    for number in (1, 3, 20):
        count = num_equal_blocks(shares, number)
        assert 1 <= count <= 4
        found = {len(blocks) for each in shares for blocks in plan(each, number, count)}
        assert found == {count}


def test_packed_texts_are_found_again() -> None:
    rows = [(list(range(1, 1 + length)), 0) for length in LENGTHS[3]]
    packed = pack(rows, 3, padding=0)
    lengths = [block.real.sum(1) for blocks in packed.mini_batches for block in blocks]
    assert torch.cat(lengths)[packed.order].tolist() == LENGTHS[3]
