"""The probe of masks: a model whose attention is not what it says is found out, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.model import making
from tests.trainables.model.designs import DEPTH, MASKS
from tests.trainables.model.making import refusal
from trainables.config import AttentionConfig, PoolingConfig
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.pooling import Pooling
from trainables.probes import check_batch_invariance, check_reach

SUFFIX = "; LlamaModel cannot take this mask with this transformers"

Make = Callable[..., Embedder]


@pytest.fixture
def make(llama: Path) -> Make:
    """Return a builder of designs around one Llama."""

    def make(mask: str, **values: Any) -> Embedder:
        dotted = {name.replace("__", "."): value for name, value in values.items()}
        defaults = {"attention.mask": mask, "pooling.token_scope": "mean"}
        return making.embedder(llama, defaults | dotted)

    return make


def tamper(embedder: Embedder, change: Callable[[Tensor], Tensor], *layers: int) -> Embedder:
    """Change the masks that some layers, or all, are given."""

    def hook(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"attention_mask": change(kwargs["attention_mask"])}

    for number, layer in enumerate(embedder.backbone.decoder.layers, 1):
        if number in layers or not layers:
            layer.register_forward_pre_hook(hook, with_kwargs=True)
    return embedder


def both_ways(mask: Tensor) -> Tensor:
    return mask | mask.mT


def one_way(mask: Tensor) -> Tensor:
    return mask.tril()


def doubled(window: Tensor) -> Tensor:
    return (window.float() @ window.float()) > 0


def halved(window: Tensor) -> Tensor:
    return window.tril(1).triu(-1)


class TestReach:
    def test_a_flipped_switch(self, make: Make) -> None:
        embedder = make("causal")
        embedder.backbone.decoder.config.is_causal = False
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'causal', but state 0 of layer 1 sees token 3" + SUFFIX
        )
        embedder = make("bidirectional")
        embedder.backbone.decoder.config.is_causal = True
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'bidirectional', but state 0 of layer 1 does not see token 3"
            + SUFFIX
        )

    def test_the_classic_switch_on_the_module_alone(self, make: Make) -> None:
        """It works until one text is padded, then the mask is causal again."""
        embedder = make("bidirectional")
        del embedder.backbone.decoder.config.is_causal
        for layer in embedder.backbone.decoder.layers:
            layer.self_attn.is_causal = False
        ids, real, instruction = making.texts((9, 9))
        other = ids.clone()
        other[:, -1] = (ids[:, -1] + 1) % making.VOCABULARY
        (before,), _ = embedder.backbone.states(ids, real, instruction)
        (after,), _ = embedder.backbone.states(other, real, instruction)
        assert not torch.equal(before[:, 0], after[:, 0])
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'bidirectional', but state 0 of layer 1 does not see token 3"
            + SUFFIX
        )

    def test_a_family_that_ignores_the_switch_without_padding(self) -> None:
        decoder = making.decoder("nemotron")
        backbone = Backbone(decoder, AttentionConfig(mask="bidirectional"), [DEPTH])
        embedder = Embedder(backbone, Pooling(PoolingConfig(), making.WIDTH)).eval()
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'bidirectional', but state 0 of layer 1 does not see token "
            "3; NemotronModel cannot take this mask with this transformers"
        )

    def test_layers_that_never_get_their_own_mask(self, make: Make) -> None:
        embedder = make("last_k_bidirectional")
        for layer in embedder.backbone.decoder.layers:
            layer._forward_pre_hooks.clear()
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'last_k_bidirectional', but state 0 of layer 3 does not see "
            "token 3" + SUFFIX
        )

    def test_a_layer_that_no_state_gives_away(self, make: Make) -> None:
        """The states that are read see everything, whatever one layer does more or less."""
        words = "attention.mask: expected 'last_k_bidirectional', but state 0 of layer"
        values = {"attention__bidirectional_layers": 2}
        embedder = tamper(make("last_k_bidirectional", **values), both_ways, 1)
        assert refusal(check_reach, embedder) == f"{words} 1 sees token 3{SUFFIX}"
        embedder = tamper(make("last_k_bidirectional", **values), one_way, 3)
        assert refusal(check_reach, embedder) == f"{words} 3 does not see token 3{SUFFIX}"

    @pytest.mark.parametrize(
        ("mask", "change", "found"),
        [
            ("sliding_window", doubled, "state 3 of layer 1 sees token 0"),
            ("sliding_window", halved, "state 2 of layer 1 does not see token 0"),
            ("prefix", both_ways, "state 0 of layer 1 sees token 4"),
            ("prefix", one_way, "state 0 of layer 1 does not see token 3"),
            ("gradual", one_way, "state 0 of layer 1 does not see token 3"),
            ("latent_readout", both_ways, "state 0 of layer 1 sees token 3"),
            ("latent_readout", one_way, "state 12 of layer 1 does not see token 14"),
            ("two_stream", both_ways, "state 0 of layer 1 sees token 3"),
            ("two_stream", one_way, "state 0 of layer 1 does not see token 3"),
        ],
    )
    def test_another_mask_than_it_says(
        self, make: Make, mask: str, change: Callable[[Tensor], Tensor], found: str
    ) -> None:
        def changed(given: Tensor) -> Tensor:
            return change(given) if given.dtype == torch.bool else given

        embedder = tamper(make(mask), changed, 1)
        assert refusal(check_reach, embedder) == (
            f"attention.mask: expected {mask!r}, but {found}{SUFFIX}"
        )

    def test_attention_that_leaks_padding(self, make: Make) -> None:
        embedder = tamper(make("prefix"), lambda mask: mask | torch.ones_like(mask).tril())
        assert refusal(check_reach, embedder) == (
            "attention.mask: expected 'prefix', but state 0 of layer 1 sees padding" + SUFFIX
        )

    def test_states_of_another_text(self, make: Make) -> None:
        """Every layer is right, and what is read is not."""
        embedder = make("causal", pooling__layers="all", pooling__head="scalar_mix")
        backbone = embedder.backbone
        backbone.read = (2, 1, 3)
        embedder.backbone.decoder.layers[1].register_forward_pre_hook(
            lambda layer, args: (args[0].flip(1), *args[1:])
        )
        assert refusal(check_reach, embedder).startswith(
            "attention.mask: expected 'causal', but state "
        )

    @pytest.mark.parametrize("mask", MASKS)
    def test_no_right_model_is_refused_for_its_rounding(self, make: Make, mask: str) -> None:
        embedder = make(mask, engine__precision="bf16", attention__window=1)
        for seed in range(3):
            torch.manual_seed(seed)
            check_reach(embedder)
            check_batch_invariance(embedder)
