"""What a GPU computes otherwise than a CPU: kernels for masks, low precision, the heads.

It needs torch, transformers and peft, but neither deepspeed, ray, mteb nor the network.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trainables.model.designs import DESIGNS, HEADS, MASKS, Values
from tests.trainables.model.making import VOCABULARY, blocks, decoder, embedder, shaken
from trainables.build import DTYPES
from trainables.config import PoolingConfig, Precision, TokenScope
from trainables.model.pooling import Pooling, pool_tokens
from trainables.model.tokens import Tokens
from trainables.probes import check_design

DEVICE = "cuda"
B, T, L, D = 6, 33, 4, 96
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SIZES: dict[str, Any] = {"hidden_size": 64, "num_heads": 4, "head_size": 16, "ffn_size": 128}
ATTENTIVE = [name for name in HEADS if name not in ("none", "scalar_mix")]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    decoder("llama").save_pretrained(folder)
    return folder


def texts() -> tuple[list[Tensor], Tensor]:
    """Return the states of L layers and the mask of texts of all lengths, on the CPU."""
    lengths = torch.linspace(1, T, B).long()
    return [torch.randn(B, T, D) for _ in range(L)], torch.arange(T) < lengths.unsqueeze(1)


def read_out(head: str) -> Pooling:
    config = PoolingConfig(head=head, token_scope="all_tokens", num_latents=5, **SIZES)
    pooling: Pooling = shaken(Pooling(config, D, L))
    return pooling


def test_importing_a_model_needs_no_cluster_and_no_benchmark() -> None:
    code = (
        "import sys, trainables.build, trainables.cost, trainables.identity, trainables.probes; "
        "print({'deepspeed', 'mteb', 'ray'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert ran.stdout.decode().strip() == "set()"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")
class TestOnGpu:
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
    def test_the_probes_pass(self, llama: Path, values: Values, precision: Precision) -> None:
        model = embedder(llama, values | {"engine.precision": precision})
        check_design(model.to(DEVICE))

    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("mask", MASKS)
    def test_the_probes_pass_for_every_pair_in_bf16(
        self, llama: Path, mask: str, head: str
    ) -> None:
        values = HEADS[head].designs[0] | {
            "attention.mask": mask,
            "pooling.head": head,
            "pooling.include_instruction": True,
            "engine.precision": "bf16",
        }
        if values.get("pooling.token_scope") != "all_tokens":
            values |= {"pooling.token_scope": "mean"}
        check_design(embedder(llama, values).to(DEVICE))

    @pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
    def test_embeddings_equal_those_of_the_cpu(self, llama: Path, values: Values) -> None:
        model = shaken(embedder(llama, values))
        ids, real = torch.randint(VOCABULARY, (B, T)), texts()[1]
        real = real | (torch.arange(T) < 4)
        instruction = real & (torch.arange(T) < 3)
        expected = model(ids, real, instruction)
        found = model.to(DEVICE)(*(field.to(DEVICE) for field in (ids, real, instruction)))
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("varlen", [False, True])
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
    def test_packed_texts_equal_those_alone(
        self, llama: Path, values: Values, precision: Precision, varlen: bool
    ) -> None:
        if varlen and precision == "fp32":
            pytest.skip("the kernel has half precision alone")
        model = shaken(embedder(llama, values)).to(DEVICE, DTYPES[precision])
        batches = [block.to(torch.device(DEVICE)) for block in blocks()]
        expected = torch.cat([model(*batch) for batch in batches])
        model.backbone.varlen = varlen
        tolerance = 1e-4 if precision == "fp32" else 0.05
        torch.testing.assert_close(model.embed(batches), expected, atol=tolerance, rtol=0)

    @pytest.mark.parametrize("scope", SCOPES[:3])
    def test_pooled_tokens_equal_those_of_the_cpu(self, scope: TokenScope) -> None:
        (states, *_), mask = texts()
        found = pool_tokens(states.to(DEVICE), mask.to(DEVICE), scope)
        torch.testing.assert_close(
            found.cpu(), pool_tokens(states, mask, scope), atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize("head", ATTENTIVE)
    def test_a_head_and_its_gradients_equal_those_of_the_cpu(self, head: str) -> None:
        states, real = texts()
        pooling, target = read_out(head), torch.randn(B, 64)
        found: list[list[Tensor]] = []
        for device in ("cpu", DEVICE):
            pooling.to(device).zero_grad()
            tokens = Tokens.of(real.to(device), None)
            pooled = pooling(([layer.to(device) for layer in states], tokens))
            functional.mse_loss(pooled, target.to(device)).backward()
            gradients = [p.grad for p in pooling.parameters() if p.grad is not None]
            found.append([pooled.detach().cpu(), *(g.cpu().clone() for g in gradients)])
        assert len(found[0]) == 1 + len(list(pooling.parameters()))
        for mine, expected in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("head", ATTENTIVE)
    def test_a_head_in_bf16_keeps_angles(self, head: str) -> None:
        states, real = texts()
        pooling = read_out(head)
        expected = pooling((states, Tokens.of(real, None)))
        low = pooling.to(DEVICE, torch.bfloat16)
        tokens = Tokens.of(real.to(DEVICE), None)
        found = low([s.to(DEVICE, torch.bfloat16) for s in states], tokens)
        assert found.dtype == torch.bfloat16
        cosines = functional.cosine_similarity(found.float().cpu(), expected)
        assert cosines.min() > 0.99
