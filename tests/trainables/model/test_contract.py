"""What every design promises, on a small random Llama: one class over the list of designs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from tests.trainables.model.designs import DESIGNS, HEADS, MASKS, Values
from tests.trainables.model.making import embedder, padded, shaken, small, texts
from tests.trainables.model.reference import Reference, Text
from trainables import catalogue, designs
from trainables.config import KeyValueHeads, TokenScope
from trainables.model.embedder import Embedder
from trainables.probes import check_design


class TestTheList:
    def test_it_has_every_mask_and_every_head(self) -> None:
        assert set(MASKS) == set(catalogue.designs("masks"))
        assert set(HEADS) == set(catalogue.designs("heads"))
        for name in ("attention.mask", "pooling.head"):
            known = catalogue.designs("masks" if name == "attention.mask" else "heads")
            assert {values.get(name) for values in DESIGNS.values()} - {None} == set(known)

    @pytest.mark.parametrize(
        ("name", "words"),
        [("pooling.token_scope", TokenScope), ("attention.key_value_heads", KeyValueHeads)],
        ids=["token scopes", "key/value heads"],
    )
    def test_it_has_every_word(self, llama: Path, name: str, words: object) -> None:
        part, field = name.split(".")
        configs = [small(llama, values) for values in DESIGNS.values()]
        assert {getattr(getattr(c, part), field) for c in configs} == set(get_args(words))

    @pytest.mark.parametrize("name", DESIGNS)
    def test_its_designs_are_valid(self, llama: Path, name: str) -> None:
        config = small(llama, DESIGNS[name])
        designs.check_design(config, designs.shape(config.backbone))


def trainable(model: Embedder) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
class TestEveryDesign:
    def test_embeddings_have_a_shape_a_length_and_a_precision(
        self, llama: Path, values: Values
    ) -> None:
        model = embedder(llama, values)
        vectors = model(*texts())
        assert vectors.shape == (4, model.pooling.output_size)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))

    def test_one_seed_gives_the_same_bits(self, llama: Path, values: Values) -> None:
        first, second, other = (embedder(llama, values, seed) for seed in (5, 5, 6))
        state = second.state_dict()
        assert all(torch.equal(tensor, state[n]) for n, tensor in first.state_dict().items())
        assert any(not torch.equal(t, state[n]) for n, t in other.state_dict().items())
        inputs = texts()
        assert torch.equal(first(*inputs), second(*inputs))
        assert torch.equal(first(*inputs), first(*inputs))

    def test_saved_weights_are_the_whole_difference(
        self, llama: Path, values: Values, tmp_path: Path
    ) -> None:
        trained = shaken(embedder(llama, values))
        save_file(trainable(trained), tmp_path / "weights.safetensors")
        fresh = embedder(llama, values, seed=99)
        inputs = texts()
        assert not torch.allclose(fresh(*inputs), trained(*inputs), atol=1e-3)
        fresh.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
        assert torch.equal(fresh(*inputs), trained(*inputs))

    def test_every_trainable_tensor_learns(self, llama: Path, values: Values) -> None:
        model = embedder(llama, values).train()
        parameters = trainable(model)
        before = {name: p.detach().clone() for name, p in parameters.items()}
        without = set(parameters)
        optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
        for _ in range(3):
            vectors = model(*texts())
            optimizer.zero_grad()
            (vectors @ torch.randn(vectors.shape[1], 5)).square().sum().backward()
            without -= {
                name for name, p in parameters.items() if p.grad is not None and p.grad.any()
            }
            optimizer.step()
        assert not without
        assert not [name for name, p in parameters.items() if torch.equal(p, before[name])]

    def test_the_rest_of_the_batch_changes_nothing(self, llama: Path, values: Values) -> None:
        model, inputs = shaken(embedder(llama, values)), texts()
        rows = [[field[number : number + 1] for field in inputs] for number in range(4)]
        alone = torch.cat([model(*(field[row[1]].unsqueeze(0) for field in row)) for row in rows])
        for pad in ((0, 4), (4, 0), (2, 3)):
            together = model(*padded(inputs, pad))
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)

    def test_the_order_of_texts_is_kept(self, llama: Path, values: Values) -> None:
        model, inputs = shaken(embedder(llama, values)), texts()
        order = torch.tensor([2, 0, 3, 1])
        ordered = model(*(field[order] for field in inputs))
        torch.testing.assert_close(ordered, model(*inputs)[order], atol=1e-5, rtol=0)
        assert torch.pdist(ordered).min() > 1e-2

    def test_the_probes_pass(self, llama: Path, values: Values) -> None:
        check_design(embedder(llama, values))

    def test_it_equals_the_slow_reference(self, llama: Path, values: Values) -> None:
        config = small(llama, values)
        if HEADS[config.pooling.head].slow is None:
            pytest.skip("its head has no reference")
        model, inputs = shaken(embedder(llama, values)), texts()
        config = designs.resolve(config, designs.shape(config.backbone))
        original = load_file(llama / "model.safetensors")
        slow = Reference(config, AutoConfig.from_pretrained(llama), original, model.state_dict())
        shares = (0.0, 0.3, 1.0) if config.attention.mask == "gradual" else (1.0,)
        for slow.progress in shares:
            model.backbone.progress = slow.progress
            for vector, ids, real, instruction in zip(model(*inputs), *inputs, strict=True):
                text = Text(ids=ids[real].tolist(), num_instruction=int(instruction.sum()))
                torch.testing.assert_close(vector.double(), slow.embed(text), atol=1e-5, rtol=0)
