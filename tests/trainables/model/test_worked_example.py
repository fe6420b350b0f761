"""The head that the README adds works as it stands there."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.catalogue import file_fault

TRAINABLES = Path(__file__).parents[3] / "trainables"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a copy of the model package that has the README's head."""
    block = (TRAINABLES / "README.md").read_text().split("```python\n")[1].split("```")[0]
    shutil.copytree(TRAINABLES / "model", tmp_path / "copied_model")
    (tmp_path / "copied_model" / "heads" / "maximum.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module


def test_the_readme_s_head_takes_the_maximum_of_what_is_read(model: Any) -> None:
    head = model("copied_model.heads.maximum")
    assert file_fault("heads", head) is None
    settings = SimpleNamespace(
        head="maximum",
        token_scope="all_tokens",
        include_instruction=False,
        output_size=None,
        truncate_to=None,
    )
    pooling = model("copied_model.pooling").Pooling(settings, 8, 2)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    instruction = torch.tensor([[True, False, False, False, False]] * 2)
    tokens = model("copied_model.tokens").Tokens.of(real, instruction)
    states = [torch.randn(2, 5, 8) for _ in range(2)]
    found = pooling((states, tokens))
    for text in range(2):
        read = [
            layer[text, place] / layer[text, place].square().mean().sqrt()
            for layer in states
            for place in range(1, int(real[text].sum()))
        ]
        expected = torch.stack(read).amax(0)
        torch.testing.assert_close(found[text], expected, atol=1e-5, rtol=1e-5)
