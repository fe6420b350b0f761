"""The decoder: checked against its folder, cut, masked, adapted; and the probes that guard it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel

from trainables.backbone import (
    Embedder,
    Tokenizer,
    add_lora,
    build,
    check_against_model,
    load_backbone,
    trainable_parameters,
)
from trainables.config import (
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    EngineConfig,
    LoraConfig,
    Mask,
    PoolingConfig,
    Precision,
    TrialConfig,
    overlay,
)
from trainables.probes import ProbeError, check_batch_invariance, check_design, check_reach

MASKS: tuple[Mask, ...] = get_args(Mask)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HEADLESS = PoolingConfig(token_scope="last_token")
MEAN = PoolingConfig(token_scope="mean")
HEAD = PoolingConfig(head="cross_attention", num_layers=2, hidden_size=32, num_latents=4)
MEAN_HEAD = PoolingConfig(
    token_scope="mean", head="cross_attention", num_layers=3, hidden_size=16, num_heads=1
)
POOLINGS = [HEADLESS, MEAN, HEAD, MEAN_HEAD]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def config(tiny_model: Path) -> TrialConfig:
    return TrialConfig(
        backbone=BackboneConfig(model=str(tiny_model), num_layers=3),
        engine=EngineConfig(precision="fp32"),
    )


@pytest.fixture
def make(config: TrialConfig) -> Callable[..., Embedder]:
    """Return a builder of embedders that differ from the base in dotted names."""

    def make(pooling: PoolingConfig = HEADLESS, **parts: Any) -> Embedder:
        names = {name.replace("__", "."): value for name, value in parts.items()}
        changed = TrialConfig(
            backbone=config.backbone, pooling=pooling, engine=config.engine, lora=config.lora
        )
        return build(overlay(changed, names)).eval()

    return make


def batch(num_texts: int = 2, num_tokens: int = 9) -> tuple[Tensor, Tensor]:
    ids = torch.randint(2, 400, (num_texts, num_tokens))
    return ids, torch.ones_like(ids, dtype=torch.bool)


class TestCheckAgainstModel:
    def test_it_returns_the_depth(self, config: TrialConfig) -> None:
        assert check_against_model(config) == 3
        assert check_against_model(overlay(config, {"backbone.num_layers": None})) == 3

    @pytest.mark.parametrize("exists", [False, True], ids=["no folder", "empty folder"])
    def test_an_unknown_model_is_named(
        self, config: TrialConfig, tmp_path: Path, exists: bool
    ) -> None:
        folder = tmp_path / "model"
        if exists:
            folder.mkdir()
        with pytest.raises(ConfigError) as caught:
            check_against_model(overlay(config, {"backbone.model": str(folder)}))
        text = str(caught.value)
        assert text.startswith(
            "backbone.model: expected 'smollm2-135m', a model folder or a reachable hub id, "
            f"got {str(folder)!r} ("
        )
        assert len(text.splitlines()) == 1

    def test_more_layers_than_the_model_has(self, config: TrialConfig) -> None:
        with pytest.raises(ConfigError) as caught:
            check_against_model(overlay(config, {"backbone.num_layers": 4}))
        assert str(caught.value) == (
            "backbone.num_layers: expected at most 3, "
            f"the layers of {config.backbone.model}, got 4"
        )

    def test_more_pooled_layers_than_the_model_has(self, config: TrialConfig) -> None:
        values = {
            "backbone.num_layers": None,
            "pooling.head": "cross_attention",
            "pooling.num_layers": 4,
        }
        with pytest.raises(ConfigError) as caught:
            check_against_model(overlay(config, values))
        assert str(caught.value) == (
            "pooling.num_layers: expected at most 3, the layers of the backbone, got 4"
        )


class TestTokenizer:
    def test_every_text_ends_with_one_end_of_text(self, tiny_model: Path) -> None:
        tokenizer = Tokenizer(str(tiny_model))
        texts = ["the cat", "", "where does the otter sleep?<end>", "x" * 90]
        rows = tokenizer.ids(texts, 12)
        assert [row.count(tokenizer.end) for row in rows] == [1, 1, 1, 1]
        assert all(row[-1] == tokenizer.end for row in rows)

    @pytest.mark.parametrize("max_tokens", [2, 3, 12])
    def test_long_texts_are_cut_with_the_end_counted(
        self, tiny_model: Path, max_tokens: int
    ) -> None:
        tokenizer = Tokenizer(str(tiny_model))
        long = "the heron sleeps by the river at dawn " * 9
        (whole,), (cut,) = tokenizer.ids([long], 500), tokenizer.ids([long], max_tokens)
        assert len(cut) == max_tokens
        assert cut == [*whole[: max_tokens - 1], tokenizer.end]

    def test_padding_is_on_the_right_and_masked(self, tiny_model: Path) -> None:
        tokenizer = Tokenizer(str(tiny_model))
        texts = ["the cat", "where does the cat of the river sleep?", ""]
        ids, mask = tokenizer(texts, 32)
        assert mask.dtype == torch.bool
        assert mask.sum(1).tolist() == [len(row) for row in tokenizer.ids(texts, 32)]
        assert torch.equal(mask, mask.sort(1, descending=True).values)
        assert ids[~mask].eq(tokenizer.padding).all()
        assert tokenizer.padding == 1


class TestLoadBackbone:
    @pytest.mark.parametrize("num_layers", [1, 2, 3])
    def test_the_first_layers_are_kept_and_the_final_norm(
        self, config: TrialConfig, num_layers: int
    ) -> None:
        ids, _ = batch()
        model = config.backbone.model
        whole: Any = load_backbone(BackboneConfig(model=model, num_layers=None), "fp32")
        cut = load_backbone(BackboneConfig(model=model, num_layers=num_layers), "fp32")
        expected = whole(ids, output_hidden_states=True).hidden_states
        found = cut(ids, output_hidden_states=True)
        assert len(found.hidden_states) == num_layers + 1
        for layer in range(num_layers):
            assert torch.equal(found.hidden_states[layer], expected[layer])
        last = expected[num_layers]  # the whole model's very last state is normed already
        normed = last if num_layers == 3 else whole.norm(last)
        assert torch.equal(found.last_hidden_state, normed)
        assert torch.equal(found.hidden_states[-1], normed)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_is_frozen_and_of_the_precision(
        self, config: TrialConfig, precision: Precision
    ) -> None:
        model = load_backbone(config.backbone, precision)
        expected = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
        assert {p.dtype for p in model.parameters()} == {expected}
        assert trainable_parameters(model) == 0


class TestLora:
    def test_it_starts_as_the_same_function(self, config: TrialConfig) -> None:
        ids, mask = batch()
        model = load_backbone(config.backbone, "fp32")
        before = model(ids, attention_mask=mask).last_hidden_state
        add_lora(model, LoraConfig(dropout=0.5))
        assert torch.equal(model(ids, attention_mask=mask).last_hidden_state, before)

    def test_only_adapters_and_head_are_trained(self, make: Callable[..., Embedder]) -> None:
        embedder = make(HEAD, lora__rank=4)
        trained = {name for name, p in embedder.named_parameters() if p.requires_grad}
        assert all("lora_" in name or name.startswith("pooling.") for name in trained)
        widths = [(48, 48), (48, 24), (48, 24), (48, 48), (48, 2112), (48, 2112), (2112, 48)]
        head = sum(p.numel() for p in embedder.pooling.parameters())
        adapters = 3 * sum(4 * (into + out) for into, out in widths)
        assert trainable_parameters(embedder) == adapters + head

    def test_the_same_seed_draws_the_same_weights(self, make: Callable[..., Embedder]) -> None:
        torch.manual_seed(5)
        first = make(HEAD).state_dict()
        torch.manual_seed(5)
        second = make(HEAD).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("pooling", POOLINGS, ids=["last", "mean", "head", "mean head"])
@pytest.mark.parametrize("mask", MASKS)
class TestEveryDesign:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_probes_pass(
        self, make: Callable[..., Embedder], pooling: PoolingConfig, mask: Mask, precision: str
    ) -> None:
        embedder = make(pooling, attention__mask=mask, engine__precision=precision)
        check_design(embedder, mask)
        other = MASKS[1 - MASKS.index(mask)]
        with pytest.raises(ProbeError):
            check_design(embedder, other)

    @pytest.mark.parametrize("pad", [(4, 0), (0, 4), (2, 3)], ids=["left", "right", "both"])
    def test_padding_changes_nothing(
        self,
        make: Callable[..., Embedder],
        pooling: PoolingConfig,
        mask: Mask,
        pad: tuple[int, int],
    ) -> None:
        embedder = make(pooling, attention__mask=mask)
        ids, real = batch()
        longer = functional.pad(ids, pad), functional.pad(real, pad, value=False)
        torch.testing.assert_close(embedder(*longer), embedder(ids, real), atol=1e-5, rtol=1e-4)

    def test_embeddings_have_length_one_and_their_own_width(
        self, make: Callable[..., Embedder], pooling: PoolingConfig, mask: Mask
    ) -> None:
        embeddings = make(pooling, attention__mask=mask)(*batch(5))
        assert embeddings.shape == (5, 48 if pooling.head == "none" else pooling.hidden_size)
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))

    def test_every_trained_parameter_learns(
        self, make: Callable[..., Embedder], pooling: PoolingConfig, mask: Mask
    ) -> None:
        embedder = make(pooling, attention__mask=mask)
        trained = {n: p for n, p in embedder.named_parameters() if p.requires_grad}
        before = {name: p.detach().clone() for name, p in trained.items()}
        optimizer = torch.optim.SGD(trained.values(), lr=1.0)
        for _ in range(3):
            embeddings = embedder(*batch(4))
            optimizer.zero_grad()
            (embeddings @ embeddings.T).square().sum().backward()
            optimizer.step()
        assert not [name for name, p in trained.items() if torch.equal(p, before[name])]


def family(name: str, **settings: Any) -> PreTrainedModel:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(name, **sizes, **settings)
    model: PreTrainedModel = AutoModel.from_config(config, attn_implementation="sdpa")
    return model


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_other_families_take_both_masks_when_cut(
    config: TrialConfig, tmp_path: Path, name: str, mask: Mask
) -> None:
    family(name).save_pretrained(tmp_path)
    design = TrialConfig(
        backbone=BackboneConfig(model=str(tmp_path), num_layers=2),
        attention=AttentionConfig(mask=mask),
        pooling=PoolingConfig(token_scope="mean"),
        engine=config.engine,
    )
    check_design(build(design), mask)


class TestProbes:
    @pytest.mark.parametrize(
        ("mask", "found"), [("causal", "sees"), ("bidirectional", "does not see")]
    )
    def test_a_wrong_mask_is_named(
        self, make: Callable[..., Embedder], mask: Mask, found: str
    ) -> None:
        embedder = make(attention__mask=mask)
        embedder.backbone.config.is_causal = mask != "causal"
        with pytest.raises(ProbeError) as caught:
            check_reach(embedder, mask)
        assert str(caught.value) == (
            f"attention.mask: expected {mask!r}, but the first token {found} the last one; "
            "LlamaModel cannot take this mask with this transformers"
        )

    def test_the_classic_silent_bug_is_caught(self, make: Callable[..., Embedder]) -> None:
        embedder = make()
        layers: Any = embedder.backbone.layers
        for layer in layers:
            layer.self_attn.is_causal = False
        with pytest.raises(ProbeError, match="the first token does not see the last one"):
            check_reach(embedder, "bidirectional")

    @pytest.mark.parametrize(("read", "side"), [("ends", "right"), ("starts", "left")])
    def test_an_embedding_that_reads_padding_is_caught(
        self, make: Callable[..., Embedder], read: str, side: str
    ) -> None:
        embedder = make(MEAN)

        class Broken(torch.nn.Module):
            def forward(self, states: list[Tensor], mask: Tensor) -> Tensor:
                return states[-1][:, -1 if read == "ends" else 0]

            num_layers = 1

        embedder.pooling = Broken()  # type: ignore[assignment]
        with pytest.raises(
            ProbeError,
            match=rf"^padding on the {side}: expected the same embedding to 0\.0001, "
            r"got a distance of [\d.]+$",
        ):
            check_batch_invariance(embedder)

    @pytest.mark.parametrize("training", [True, False])
    def test_they_leave_the_rng_and_the_mode_alone(
        self, make: Callable[..., Embedder], training: bool
    ) -> None:
        embedder = make(HEAD, lora__dropout=0.5).train(training)
        before = torch.get_rng_state()
        check_design(embedder, "causal")
        assert torch.equal(torch.get_rng_state(), before)
        assert embedder.training == training
