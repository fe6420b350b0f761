"""Packed texts, in any kernel and family, against the same texts in batches of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.trainables.model.designs import DEPTH, DESIGNS, MASKS, Values
from tests.trainables.model.making import FAMILIES, blocks, embedder, shaken, texts
from trainables.model import attention, backbone
from trainables.model.embedder import Embedder
from trainables.model.tokens import Padded
from trainables.probes import check_design

READ_ALL = {"pooling.token_scope": "mean", "pooling.layers": "all", "pooling.head": "scalar_mix"}

Embed = Callable[[Embedder, list[Padded]], Tensor]


@pytest.fixture(params=[0, 256], ids=["the decoder's kernel", "matrix products"])
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Take blocks through either kernel: those of a CPU are short."""
    monkeypatch.setattr(backbone, "SHORT", request.param)
    return int(request.param)


def one_by_one(model: Embedder, batches: list[Padded]) -> Tensor:
    return torch.cat([model(*batch) for batch in batches])


def gradients(model: Embedder, embed: Embed, batches: list[Padded]) -> dict[str, Tensor]:
    """Return the gradients of a loss that each embedding enters otherwise."""
    vectors = embed(model, batches)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(3)
    loss = (vectors * torch.randn(vectors.shape, generator=generator)).sum()
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
class TestEveryDesign:
    def test_embeddings_are_the_same(self, llama: Path, values: Values) -> None:
        model, batches = shaken(embedder(llama, values)), blocks()
        for model.backbone.progress in (0.0, 0.3, 1.0):
            found = model.embed(batches)
            torch.testing.assert_close(found, one_by_one(model, batches), atol=1e-5, rtol=0)

    def test_gradients_are_the_same(self, llama: Path, values: Values) -> None:
        model, batches = shaken(embedder(llama, values)).train(), blocks()
        expected = gradients(model, one_by_one, batches)
        found = gradients(model, Embedder.embed, batches)
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name

    def test_recomputed_activations_change_no_gradient(self, llama: Path, values: Values) -> None:
        batches, found = blocks(), []
        for checkpointing in (False, True):
            changes = {"training.gradient_checkpointing": checkpointing}
            torch.manual_seed(1)
            model = shaken(embedder(llama, {**values, **changes})).train()
            found.append(gradients(model, Embedder.embed, batches))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_packs_every_mask(
    saved: Callable[[str], Path], family: str, mask: str, kernel: str
) -> None:
    changes = {"attention.mask": mask, "engine.attn_implementation": kernel}
    model = shaken(embedder(saved(family), READ_ALL | changes))
    model.backbone.progress = 0.3
    batches = blocks()
    torch.testing.assert_close(model.embed(batches), one_by_one(model, batches), atol=1e-5, rtol=0)


def test_a_packed_model_still_runs_alone(llama: Path) -> None:
    """The functions stay in front of transformers' own, which go on as before."""
    for values in DESIGNS.values():
        model, inputs = embedder(llama, values), texts()
        before = model(*inputs)
        model.embed(blocks())
        assert torch.equal(model(*inputs), before)
        check_design(model)


def test_texts_of_a_block_do_not_see_the_next(llama: Path) -> None:
    model, batches = embedder(llama, {"attention.mask": "bidirectional"}), blocks()
    before = model.embed(batches)
    ids = (batches[1].ids + 1) % 64
    after = model.embed([batches[0], batches[1]._replace(ids=ids), batches[2]])
    moved = (after != before).any(dim=1)
    assert moved.tolist() == [False, False, True, False, False, False]


def test_the_last_layer_is_computed_where_it_is_read(llama: Path) -> None:
    """All but keys and values is left out for the other tokens."""
    operations = {}
    for scope in ("last_token", "mean"):
        model = embedder(llama, {"pooling.token_scope": scope})
        with FlopCounterMode(display=False) as counter:
            model.embed(blocks())
        counted = counter.get_flop_counts()
        operations[scope] = {
            name.rpartition(".")[2]: sum(flops.values())
            for name, flops in counted.items()
            if f".layers.{DEPTH - 1}." in name
        }
    read, every = (operations[scope] for scope in ("last_token", "mean"))
    share = 6 / sum(block.ids.numel() for block in blocks())
    for name in ("q_proj", "o_proj", "mlp"):
        assert read[name] == pytest.approx(share * every[name])
    for name in ("k_proj", "v_proj"):
        assert read[name] == every[name]


def test_short_texts_take_matrix_products(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 they are three times as fast on a CPU as the fused kernel."""
    called: list[Any] = []
    function = attention._function

    def noted(name: str, module: Any) -> Any:
        called.append(name)
        return function(name, module)

    monkeypatch.setattr(attention, "_function", noted)
    monkeypatch.setattr(backbone, "SHORT", 8)
    embedder(llama, {}).embed(blocks(((9,), (8, 8))))
    assert called[:2] == ["sdpa", "eager"]
