"""The decoder as it is loaded, cut and adapted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.trainables.model.designs import DEPTH
from tests.trainables.model.making import FAMILIES, embedder, small, texts
from trainables.build import add_lora, build, load_decoder, trainable_parameters
from trainables.config import (
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    EngineConfig,
    LoraConfig,
    Precision,
)
from trainables.model.backbone import Backbone

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FP32 = EngineConfig(precision="fp32")


def hidden_states(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    states: tuple[Tensor, ...] = model(ids, output_hidden_states=True).hidden_states
    return states


class TestLoadDecoder:
    @pytest.mark.parametrize("num_layers", [1, 2, DEPTH])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_first_layers_are_kept_and_the_final_norm(
        self, saved: Callable[[str], Path], family: str, num_layers: int
    ) -> None:
        ids, _, _ = texts((9, 9))
        folder = str(saved(family))
        whole: Any = load_decoder(BackboneConfig(model=folder, num_layers=None), FP32)
        cut: Any = load_decoder(BackboneConfig(model=folder, num_layers=num_layers), FP32)
        expected, found = hidden_states(whole, ids), hidden_states(cut, ids)
        assert len(found) == num_layers + 1
        for layer in range(num_layers):
            assert torch.equal(found[layer], expected[layer])
        last = expected[num_layers]  # the whole model's very last state is normed already
        normed = last if num_layers == DEPTH else whole.norm(last)
        assert torch.equal(found[-1], normed)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_is_frozen_and_of_the_precision(self, llama: Path, precision: Precision) -> None:
        model = load_decoder(
            BackboneConfig(model=str(llama), num_layers=DEPTH), EngineConfig(precision=precision)
        )
        expected = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
        assert {p.dtype for p in model.parameters()} == {expected}
        assert trainable_parameters(model) == 0


class TestLora:
    def test_it_starts_as_the_same_function(self, llama: Path) -> None:
        ids, real, _ = texts()
        model = load_decoder(BackboneConfig(model=str(llama), num_layers=DEPTH), FP32)
        before = model(ids, attention_mask=real).last_hidden_state
        add_lora(model, LoraConfig(dropout=0.5))
        assert torch.equal(model(ids, attention_mask=real).last_hidden_state, before)

    def test_only_adapters_latents_and_the_read_out_are_trained(self, llama: Path) -> None:
        model = embedder(
            llama,
            {
                "pooling.head": "cross_attention",
                "pooling.layers": "all",
                "pooling.token_scope": "mean",
                "attention.mask": "latent_readout",
            },
        )
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        new = ("pooling.", "backbone.latents")
        assert all("lora_" in name or name.startswith(new) for name in trained)
        widths = [(36, 40), (36, 20), (36, 20), (40, 36), (36, 40), (36, 40), (40, 36)]
        adapters = DEPTH * sum(4 * (into + out) for into, out in widths)
        head = sum(p.numel() for p in model.pooling.parameters())
        assert trainable_parameters(model) == adapters + head + 3 * 36

    def test_projections_that_are_not_there(self, llama: Path) -> None:
        config = small(llama, {"lora.targets": ["q_proj", "qkv_proj"]})
        with pytest.raises(ConfigError) as caught:
            build(config)
        assert str(caught.value) == (
            "lora.targets: expected linear layers of LlamaModel (down_proj, gate_proj, k_proj, "
            "o_proj, q_proj, up_proj, v_proj), got qkv_proj"
        )


class TestLayersThatAreRead:
    @pytest.mark.parametrize("mask", ["causal", "prefix"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_they_are_the_decoders_own_states_and_nothing_deeper_runs(
        self, saved: Callable[[str], Path], family: str, mask: str
    ) -> None:
        """Without an instruction both masks are causal; one is transformers', the other ours."""
        ids, real, _ = texts()
        folder = BackboneConfig(model=str(saved(family)), num_layers=DEPTH)
        expected = hidden_states(load_decoder(folder, FP32), ids)
        for read in ([1], [1, 2], [3], [1, 2, 3]):
            backbone = Backbone(load_decoder(folder, FP32), AttentionConfig(mask=mask), read)
            states, _ = backbone.states(ids, real)
            assert len(backbone.decoder.layers) == read[-1]
            for number, state in zip(read, states, strict=True):
                torch.testing.assert_close(
                    state[real], expected[number][real], atol=1e-4, rtol=1e-5
                )

    @pytest.mark.parametrize("mask", ["causal", "sliding_window"])
    def test_checkpointing_is_switched_by_the_configuration(self, llama: Path, mask: str) -> None:
        for enabled in (True, False):
            values = {"training.gradient_checkpointing": enabled, "attention.mask": mask}
            found = embedder(llama, values).backbone.decoder.layers[0].gradient_checkpointing
            assert found is enabled
