"""Masks and heads are files; a file of one's own that is mistaken is told what it lacks."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from trainables import catalogue
from trainables.catalogue import FOLDER, NAMES, SIZES, Kind, design, designs, file_fault
from trainables.config import AttentionConfig, ConfigError, PoolingConfig

KINDS: tuple[Kind, ...] = ("masks", "heads")
FILES = [(kind, name) for kind in KINDS for name in designs(kind)]
MASK = "def attends(query, key, layer):\n    return query.real | key.real\n"
HEAD = "class Head:\n    def __init__(self, config, input_size, num_layers):\n        "
MASK_SIZES = "bidirectional_layers, window, transition, num_latents"


def module(file: Path, text: str) -> ModuleType:
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_names_are_those_of_the_files() -> None:
    for kind in KINDS:
        files = {file.stem for file in (FOLDER / kind).glob("*.py")} - {"__init__"}
        assert set(designs(kind)) == files
        assert designs(kind) == tuple(sorted(files))


def test_sizes_are_fields() -> None:
    assert set(SIZES["masks"]) <= {f.name for f in dataclasses.fields(AttentionConfig)}
    assert set(SIZES["heads"]) <= {f.name for f in dataclasses.fields(PoolingConfig)}


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_our_own_are_right(kind: Kind, name: str) -> None:
    assert design(kind, name).__doc__
    assert file_fault(kind, design(kind, name)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_may_say_is_written_down(kind: Kind) -> None:
    text = (FOLDER / kind / "__init__.py").read_text()
    assert not [name for name in NAMES[kind] if name not in text]


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("masks", "", "expected it to define 'attends', got no such name"),
        ("masks", "attends = None", "expected it to define 'attends', got no such name"),
        ("masks", MASK.replace("attends", "attend"), "expected 'attends', got 'attend'"),
        ("masks", MASK + "LATENT = True", "expected 'LATENTS', got 'LATENT'"),
        ("masks", MASK + "IS_CASUAL = True", "expected 'IS_CAUSAL', got 'IS_CASUAL'"),
        (
            "masks",
            MASK + "def variants(layer):\n    return 1",
            "expected 'variant', got 'variants'",
        ),
        (
            "masks",
            MASK + "READS = ('windows',)",
            f"expected READS to be a tuple of some of {MASK_SIZES}, got ('windows',)",
        ),
        (
            "masks",
            MASK + "READS = ('window')",
            f"expected READS to be a tuple of some of {MASK_SIZES}, got 'window'",
        ),
        (
            "masks",
            MASK.replace("query.real", "layer.settings.window"),
            "expected READS to name every size that is read, got none of 'window'",
        ),
        ("heads", MASK, "expected it to define 'Head', got no such name"),
        ("heads", HEAD + "pass\nREAD = ()", "expected 'READS', got 'READ'"),
        (
            "heads",
            HEAD + "self.heads = config.num_heads",
            "expected READS to name every size that is read, got none of 'num_heads'",
        ),
    ],
)
def test_a_mistaken_file_is_told_so(tmp_path: Path, kind: Kind, text: str, fault: str) -> None:
    assert file_fault(kind, module(tmp_path / "mine.py", text)) == fault


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("masks", MASK + "def weight(layer):\n    return 1"),
        ("masks", MASK.replace("query.real", "layer.settings.window") + "READS = ('window',)"),
        ("heads", HEAD + "self.num_heads = self.num_heads"),
        ("heads", HEAD + "self.n = config.num_heads\nREADS = ('num_heads', 'ffn_size')"),
    ],
)
def test_a_right_one_may_say_more(tmp_path: Path, kind: Kind, text: str) -> None:
    assert file_fault(kind, module(tmp_path / "mine.py", text)) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def attends(", r"expected one that can be imported, got SyntaxError: .* \(mine.py"),
        (
            "import nowhere_at_all",
            "expected one that can be imported, got ModuleNotFoundError: No module named "
            "'nowhere_at_all'$",
        ),
        ("READS = ()", "expected it to define 'attends', got no such name$"),
    ],
)
def test_it_is_told_with_its_field_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    from trainables.model import masks

    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(masks, "__path__", [*masks.__path__, str(tmp_path)])
    start = "attention.mask: the file trainables/model/masks/mine.py: "
    with pytest.raises(ConfigError, match=f"^{start}{fault}"):
        design("masks", "mine")
    sys.modules.pop("trainables.model.masks.mine", None)


def test_a_file_behind_an_underscore_is_no_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("_part", "__init__", "mine"):
        (tmp_path / "masks" / f"{name}.py").write_text("")
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    assert designs.__wrapped__("masks") == ("mine",)
