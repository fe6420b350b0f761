"""Kernels that a machine may have: the same embeddings and gradients, or a refusal by name."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from tests.trainables.model.making import blocks, embedder, shaken
from trainables.config import ConfigError, EngineConfig
from trainables.kernels import LIGER, check_kernels, compile_layers
from trainables.model.embedder import Embedder


def _embedder(folder: Path) -> Embedder:
    model = embedder(folder, {"pooling.token_scope": "mean"})
    torch.manual_seed(1)
    shaken(model)
    return model


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_layers_change_nothing(tiny_model: Path) -> None:
    plain, compiled = (_embedder(tiny_model) for _ in range(2))
    with warnings.catch_warnings(action="ignore"):  # of the compiler about itself
        compile_layers(compiled.backbone.decoder)
    found = []
    for model in (plain, compiled):
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        torch.manual_seed(2)
        with warnings.catch_warnings(action="ignore"):
            vectors = model.embed(blocks())
            gradients = torch.autograd.grad(vectors[:, :5].sum(), list(named.values()))
        found.append([vectors, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec(LIGER) is not None, reason="it is installed")
def test_kernels_that_are_not_installed_are_refused() -> None:
    check_kernels(EngineConfig())
    with pytest.raises(ConfigError) as caught:
        check_kernels(EngineConfig(liger_kernels=True))
    assert str(caught.value) == (
        "engine.liger_kernels: expected false without the package, got true; pip install "
        "liger-kernel"
    )
