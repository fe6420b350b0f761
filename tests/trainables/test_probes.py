"""The probes: what each catches, in which words, and that it leaves a model as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.model import making
from tests.trainables.model.designs import DEPTH
from tests.trainables.model.making import refusal
from trainables.config import AttentionConfig, PoolingConfig
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.pooling import Pooling
from trainables.probes import (
    check_batch_invariance,
    check_checkpointing,
    check_design,
    check_gradients,
)

MEAN = {"pooling.token_scope": "mean"}

Make = Callable[..., Embedder]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    making.decoder("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def make(llama: Path) -> Make:
    """Return a builder of designs around one Llama."""

    def make(mask: str = "causal", **values: Any) -> Embedder:
        dotted = {name.replace("__", "."): value for name, value in values.items()}
        return making.embedder(llama, {"attention.mask": mask, **MEAN, **dotted})

    return make


class TestBatchInvariance:
    @pytest.mark.parametrize(("side", "column"), [("right", -1), ("left", 0)])
    def test_a_read_out_that_reads_padding(self, make: Make, side: str, column: int) -> None:
        embedder = make()

        class Broken(nn.Module):
            reads = None

            def forward(self, read: tuple[list[Tensor], Any]) -> Tensor:
                states, _ = read
                return states[-1][:, column]

        embedder.pooling = Broken()  # type: ignore[assignment]
        assert refusal(check_batch_invariance, embedder) == (
            f"padding on the {side}: expected the same embedding whatever stands there and in "
            "other texts, got another"
        )

    def test_a_read_out_that_counts_padding(self, make: Make) -> None:
        embedder = make()

        class Broken(nn.Module):
            reads = None

            def forward(self, read: tuple[list[Tensor], Any]) -> Tensor:
                states, tokens = read
                weights: Tensor = tokens.real * torch.arange(tokens.real.shape[1])
                return (states[-1] * weights.unsqueeze(-1)).sum(1)

        embedder.pooling = Broken()  # type: ignore[assignment]
        text = refusal(check_batch_invariance, embedder)
        found = re.fullmatch(
            r"padding on the left: expected the same embedding to (\S+), which is 10 times the "
            r"rounding, got a distance of (\S+)",
            text,
        )
        assert found
        assert float(found[1]) < 1e-4 < float(found[2])

    def test_a_read_out_that_looks_at_other_texts(self, make: Make) -> None:
        embedder = make()

        class Broken(nn.Module):
            reads = None

            def forward(self, read: tuple[list[Tensor], Any]) -> Tensor:
                states, tokens = read
                last = states[-1][torch.arange(len(tokens.real)), tokens.real.sum(1) - 1]
                return last - last.mean(0)

        embedder.pooling = Broken()  # type: ignore[assignment]
        assert refusal(check_batch_invariance, embedder).startswith("padding on the right: ")


class Extra(nn.Module):
    """A head with one more tensor, on which its vector depends as it is told."""

    def __init__(
        self, head: nn.Module, size: int, use: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.head = head
        self.use = use
        self.extra = nn.Parameter(torch.ones(size))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.use(self.head(states, mask), self.extra)


def with_extra(embedder: Embedder, use: Callable[[Tensor, Tensor], Tensor]) -> Embedder:
    head = embedder.pooling.head
    embedder.pooling.head = Extra(head, head.output_size, use)
    return embedder


class TestGradients:
    @pytest.mark.parametrize(
        "use",
        [lambda vector, extra: vector, lambda vector, extra: vector + 0 * extra],
        ids=["unused", "multiplied with 0"],
    )
    def test_a_tensor_without_an_effect(
        self, make: Make, use: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        embedder = with_extra(make(), use)
        count = sum(p.requires_grad for p in embedder.parameters())
        assert refusal(check_gradients, embedder) == (
            "gradient: expected one at every trainable tensor, got none at pooling.head.extra "
            f"(1 of {count}); the design leaves them without an effect"
        )

    def test_rounding_is_no_gradient(self, llama: Path) -> None:
        """Over one key the softmax is 1, and a kernel's gradient of it not quite 0."""
        sizes = {"hidden_size": 24, "num_heads": 2, "head_size": 6, "ffn_size": 20}
        one_state = PoolingConfig(head="cross_attention", num_latents=3, **sizes)  # type: ignore[arg-type]
        backbone = Backbone(making.decoder("llama"), AttentionConfig(), [DEPTH])
        embedder = Embedder(backbone, Pooling(one_state, making.WIDTH)).eval()
        text = refusal(check_gradients, embedder)
        assert text.startswith(
            "gradient: expected one at every trainable tensor, got none at "
            "pooling.head.attention.query.weight, pooling.head.attention.key.weight (2 of "
        )

    def test_a_small_gradient_is_one(self, make: Make) -> None:
        check_gradients(with_extra(make(), lambda vector, extra: vector * (1 + 1e-6 * extra)))

    def test_a_gradient_that_is_no_number(self, make: Make) -> None:
        embedder = with_extra(make(), lambda vector, extra: vector + (extra - 1).sqrt())
        count = sum(p.requires_grad for p in embedder.parameters())
        assert refusal(check_gradients, embedder) == (
            f"gradient: expected finite numbers, got others at pooling.head.extra (1 of {count})"
        )


class TestCheckpointing:
    def test_a_layer_that_computes_otherwise_the_second_time(self, make: Make) -> None:
        embedder, calls = make(), [0]

        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            calls[0] += 1
            return output * (1 + calls[0] % 2)

        embedder.backbone.decoder.layers[1].mlp.register_forward_hook(hook)
        text = refusal(check_checkpointing, embedder)
        assert re.fullmatch(
            r"gradient checkpointing: expected the gradient of backbone\.decoder\.layers\.\S+ to "
            r"0\.001, got a relative distance of \S+",
            text,
        )

    @pytest.mark.parametrize("enabled", [True, False])
    def test_dropout_is_the_same_and_the_switch_stays(self, make: Make, enabled: bool) -> None:
        embedder = make(lora__dropout=0.5, training__gradient_checkpointing=enabled)
        check_checkpointing(embedder)
        layers = embedder.backbone.decoder.layers
        assert {layer.gradient_checkpointing for layer in layers} == {enabled}


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
    @pytest.mark.parametrize("passes", [True, False], ids=["passed", "refused"])
    @pytest.mark.parametrize("mask", ["causal", "gradual", "two_stream"])
    def test_the_model_is_as_it_was(
        self, make: Make, mask: str, training: bool, passes: bool
    ) -> None:
        embedder = make(mask, lora__dropout=0.5).train(training)
        if not passes:
            with_extra(embedder, lambda vector, extra: vector)
        embedder.backbone.progress = 0.25
        for parameter in embedder.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        before, weights = snapshot(embedder), copy.deepcopy(embedder.state_dict())
        if passes:
            check_design(embedder)
        else:
            refusal(check_design, embedder)
        assert embedder.training == training
        assert embedder.backbone.progress == 0.25
        assert all(torch.equal(t, weights[name]) for name, t in embedder.state_dict().items())
        after = snapshot(embedder)
        assert after[1:] == before[1:]
        assert all(torch.equal(x, y) for x, y in zip(after[0], before[0], strict=True))


def snapshot(embedder: Embedder) -> tuple[list[Tensor], int, list[bool], bool]:
    """Return gradients and random state, the number of hooks, and switches."""
    gradients = [p.grad.clone() for p in embedder.parameters() if p.grad is not None]
    modules = list(embedder.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    switches = [getattr(m, "gradient_checkpointing", False) for m in modules]
    is_causal = bool(embedder.backbone.decoder.config.is_causal)
    return [*gradients, torch.get_rng_state()], hooks, switches, is_causal
