"""The decoder families and attention kernels: what each does, against transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from tests.trainables.model.designs import DEPTH, DESIGNS, MASKS
from tests.trainables.model.making import (
    FAMILIES,
    WITHOUT_WINDOWS,
    decoder,
    embedder,
    padded,
    shaken,
    small,
    texts,
)
from trainables.build import build
from trainables.config import AttentionConfig, ConfigError
from trainables.model.backbone import Backbone
from trainables.model.kv_heads import UnsupportedDecoderError
from trainables.model.tokens import Tokens
from trainables.probes import check_design

KERNELS = ("sdpa", "eager")
ALL = range(1, DEPTH + 1)
READ_ALL = {"pooling.token_scope": "mean", "pooling.layers": "all", "pooling.head": "scalar_mix"}

Saved = Callable[[str], Path]


def values(mask: str, kernel: str = "sdpa") -> dict[str, Any]:
    return {"attention.mask": mask, "engine.attn_implementation": kernel, **READ_ALL}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamilyUnderEveryMask:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_the_probes_pass(self, saved: Saved, family: str, mask: str, kernel: str) -> None:
        check_design(embedder(saved(family), values(mask, kernel)))

    def test_the_kernels_agree(self, saved: Saved, family: str, mask: str) -> None:
        models = [embedder(saved(family), values(mask, kernel)) for kernel in KERNELS]
        for model in models:
            torch.manual_seed(2)
            shaken(model).backbone.progress = 0.3
        inputs = padded(texts(), (2, 1))
        first, second = (model(*inputs) for model in models)
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_every_design_on_every_family(saved: Saved, family: str, name: str) -> None:
    """The contract on other families than the one that it is spelled out for, kernels in turn."""
    kernel = KERNELS[(list(DESIGNS).index(name) + list(FAMILIES).index(family)) % 2]
    design = {**DESIGNS[name], "engine.attn_implementation": kernel}
    trained = shaken(embedder(saved(family), design))
    inputs = texts()
    vectors = trained(*inputs)
    assert vectors.shape == (4, trained.pooling.output_size)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    fresh = embedder(saved(family), design, seed=99)
    fresh.load_state_dict(
        {n: p for n, p in trained.named_parameters() if p.requires_grad}, strict=False
    )
    assert torch.equal(fresh(*inputs), vectors)
    for pad in ((0, 4), (4, 0)):
        torch.testing.assert_close(trained(*padded(inputs, pad)), vectors, atol=1e-5, rtol=0)
    check_design(trained)


def gap(left: torch.Tensor, right: torch.Tensor, tokens: Tokens) -> float:
    """Return the largest difference over real tokens, by the size of the states."""
    return float(((left - right)[tokens.real].abs().max() / right[tokens.real].std()).item())


@pytest.mark.parametrize("kernel", KERNELS)
class TestAgainstTransformers:
    @pytest.mark.parametrize("family", WITHOUT_WINDOWS)
    def test_bidirectional_attention_is_its_own(self, family: str, kernel: str) -> None:
        model = decoder(family, kernel)
        ids, real, _ = texts()
        output = model(ids, attention_mask=real, is_causal=False, output_hidden_states=True)
        expected = [state.clone() for state in output.hidden_states[1:]]
        states, tokens = Backbone(model, AttentionConfig(mask="bidirectional"), ALL).states(
            ids, real
        )
        for found, state in zip(states, expected, strict=True):
            assert torch.equal(found[tokens.real], state[tokens.real])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_causal_and_last_token_is_the_bare_model(
        self, saved: Saved, family: str, kernel: str
    ) -> None:
        ids, real, instruction = texts()
        bare: Any = AutoModel.from_pretrained(saved(family), attn_implementation=kernel)
        state = bare(ids, attention_mask=real).last_hidden_state
        last = state[torch.arange(len(ids)), real.sum(1) - 1]
        ours = embedder(
            saved(family),
            {"attention.mask": "causal", "engine.attn_implementation": kernel},
        )
        found = ours(ids, real, instruction)
        assert torch.equal(found, functional.normalize(last, dim=-1))

    @pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_WINDOWS])
    def test_own_windows_stay_in_a_causal_overlay(self, family: str, kernel: str) -> None:
        """A prefix mask without an instruction is causal, but handed to each layer by us."""
        model = decoder(family, kernel)
        ids, real, _ = texts((12, 7))
        output = model(ids, attention_mask=real, output_hidden_states=True)
        expected = [state.clone() for state in output.hidden_states[1:]]
        states, tokens = Backbone(model, AttentionConfig(mask="prefix"), ALL).states(ids, real)
        for found, state in zip(states, expected, strict=True):
            assert gap(found, state, tokens) < 1e-5


class TestRefusals:
    def refusal(self, model: Any, **attention: Any) -> str:
        with pytest.raises(UnsupportedDecoderError) as caught:
            Backbone(model, AttentionConfig(**attention), [1])
        return str(caught.value)

    def test_a_decoder_without_layers_of_attention(self) -> None:
        model = decoder("gpt2", n_embd=36, n_head=4)
        assert self.refusal(model) == (
            "backbone.model: expected a decoder whose `layers` have `self_attn`, got GPT2Model"
        )
        model = decoder("mamba", "eager")
        assert self.refusal(model) == (
            "backbone.model: expected a decoder whose `layers` have `self_attn`, got MambaModel"
        )

    def test_a_decoder_without_a_final_norm(self) -> None:
        model: Any = decoder("llama")
        del model.norm
        assert self.refusal(model) == (
            "backbone.model: expected a decoder with a final `norm`, got LlamaModel"
        )

    def test_layers_of_another_type(self) -> None:
        model: Any = decoder("qwen2")
        model.config.layer_types = ["chunked_attention", "full_attention", "linear_attention"]
        assert self.refusal(model) == (
            "backbone.model: expected layers of full_attention, sliding_attention, got Qwen2Model "
            "with chunked_attention, linear_attention"
        )

    @pytest.mark.parametrize("kind", ["multi_head", "multi_query"])
    def test_projections_in_one(self, kind: str) -> None:
        model = decoder("phi3")
        assert self.refusal(model, key_value_heads=kind) == (
            "attention.key_value_heads: Phi3Model has no self_attn.k_proj"
        )

    @pytest.mark.parametrize(
        ("family", "mask"),
        [("llama", mask) for mask in MASKS if mask not in ("causal", "bidirectional")]
        + [("mistral", "bidirectional"), ("gemma3_text", "bidirectional")],
    )
    def test_flash_attention_under_a_mask_that_it_ignores(self, family: str, mask: str) -> None:
        model: Any = decoder(family)
        model.config._attn_implementation = "flash_attention_2"
        assert self.refusal(model, mask=mask) == (
            f"engine.attn_implementation: expected 'sdpa' or 'eager' for mask {mask!r} on "
            f"{type(model).__name__}, as FlashAttention ignores it in silence, "
            "got 'flash_attention_2'"
        )

    @pytest.mark.parametrize("mask", ["causal", "bidirectional"])
    def test_flash_attention_may_have_its_own_masks(self, mask: str) -> None:
        model: Any = decoder("llama")
        model.config._attn_implementation = "flash_attention_2"
        assert Backbone(model, AttentionConfig(mask=mask), ALL).is_native

    def test_a_trial_is_told_as_a_fault_of_its_configuration(self, tmp_path: Path) -> None:
        decoder("phi3").save_pretrained(tmp_path)
        config = small(
            tmp_path, {"attention.key_value_heads": "multi_query", "lora.targets": ["o_proj"]}
        )
        with pytest.raises(
            ConfigError, match=r"^attention\.key_value_heads: Phi3Model has no self_attn\.k_proj$"
        ):
            build(config)
