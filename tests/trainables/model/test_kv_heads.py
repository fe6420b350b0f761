"""Key/value heads and the two streams: what they keep of the original, in every family."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.model.designs import DEPTH
from tests.trainables.model.making import FAMILIES, SIZES, decoder, texts
from trainables.config import AttentionConfig, PoolingConfig
from trainables.cost import count_flops
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.masks import causal
from trainables.model.pooling import Pooling

ALL = range(1, DEPTH + 1)
LENGTHS = (9, 6, 4)


def states(model: Any, **attention: Any) -> list[Tensor]:
    """Return all hidden states at real tokens, in units of their own size."""
    backbone = Backbone(copy.deepcopy(model), AttentionConfig(**attention), ALL)
    torch.manual_seed(3)
    ids, real, instruction = texts(LENGTHS)
    found, _ = backbone.states(ids, real, instruction)
    return [state[real] / state[real].std() for state in found]


@pytest.mark.parametrize("family", FAMILIES)
class TestKeyValueHeads:
    @pytest.mark.parametrize("mask", ["causal", "prefix"])
    @pytest.mark.parametrize("kernel", ["sdpa", "eager"])
    def test_multi_head_keeps_the_function(self, family: str, mask: str, kernel: str) -> None:
        model = decoder(family, kernel)
        converted = states(model, mask=mask, key_value_heads="multi_head")
        for found, expected in zip(converted, states(model, mask=mask), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    def test_multi_query_is_the_mean_of_the_heads(self, family: str) -> None:
        model: Any = decoder(family)
        averaged = copy.deepcopy(model)
        for layer in averaged.layers:
            for linear in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                for parameter in linear.parameters():
                    size, count = SIZES["head_dim"], SIZES["num_key_value_heads"]
                    heads = [parameter[n * size : (n + 1) * size] for n in range(count)]
                    mean = sum(heads[1:], heads[0]) / count
                    parameter.copy_(torch.cat([mean] * count))
        converted = states(model, key_value_heads="multi_query")
        for found, expected in zip(converted, states(averaged), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (converted[0] - states(model)[0]).abs().max() > 1e-2

    @pytest.mark.parametrize("kind", ["multi_head", "multi_query"])
    def test_the_projections_have_the_heads(self, family: str, kind: Any) -> None:
        backbone = Backbone(decoder(family), AttentionConfig(key_value_heads=kind), [1])
        count = {"multi_head": SIZES["num_attention_heads"], "multi_query": 1}[kind]
        attention = backbone.decoder.layers[0].self_attn
        assert attention.k_proj.weight.shape[0] == count * SIZES["head_dim"]
        assert attention.num_key_value_groups * count == SIZES["num_attention_heads"]
        assert backbone.decoder.config.num_key_value_heads == count
        assert not any(p.requires_grad for p in attention.parameters())


@pytest.mark.parametrize("family", FAMILIES)
class TestTwoStreams:
    @pytest.mark.parametrize("kernel", ["sdpa", "eager"])
    def test_a_causal_second_pass_equals_the_first(self, family: str, kernel: str) -> None:
        model = decoder(family, kernel)
        backbone = Backbone(copy.deepcopy(model), AttentionConfig(mask="two_stream"), ALL)
        same: Any = types.SimpleNamespace(first_stream=causal.attends, attends=causal.attends)
        backbone.mask = same
        torch.manual_seed(3)
        ids, real, instruction = texts(LENGTHS)
        found, _ = backbone.states(ids, real, instruction)
        for state, expected in zip(found, states(model), strict=True):
            own = state[real] / state[real].std()
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)

    def test_it_costs_two_passes(self, family: str) -> None:
        model = decoder(family)
        flops = [
            count_flops(Embedder(backbone, Pooling(PoolingConfig(), SIZES["hidden_size"])), 11)
            for backbone in (
                Backbone(copy.deepcopy(model), AttentionConfig(mask=mask), [DEPTH])
                for mask in ("two_stream", "causal")
            )
        ]
        assert flops[0] == 2 * flops[1]
