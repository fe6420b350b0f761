"""The designs that there are: each mask and each pooling head is one file of `trainables/model/`.

Names are read from the folder, so that neither torch nor the designs are imported to check one.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from trainables.faults import ConfigError

Kind = Literal["masks", "heads"]

FOLDER = Path(__file__).parent / "model"
FIELDS: dict[Kind, str] = {"masks": "attention.mask", "heads": "pooling.head"}
# The sizes that a file reads are those of its READS, and no others.
SIZES: dict[Kind, tuple[str, ...]] = {
    "masks": ("bidirectional_layers", "window", "transition", "num_latents"),
    "heads": ("hidden_size", "num_heads", "head_size", "num_latents", "ffn_size"),
}
SETTINGS = ("config", "pooling", "settings", "layer.settings", "config.attention")
# What a file may say, the first of which it must.
NAMES: dict[Kind, tuple[str, ...]] = {
    "masks": (
        *("attends", "READS", "IS_CAUSAL", "LATENTS"),
        *("first_stream", "log_weight", "variant", "refuse"),
    ),
    "heads": ("Head", "READS", "LAYER_EMBEDDINGS", "refuse"),
}


@functools.cache
def designs(kind: Kind) -> tuple[str, ...]:
    """Return the names of all masks or heads; a file that starts with "_" is none.

    >>> "causal" in designs("masks"), "cross_attention" in designs("heads")
    (True, True)
    """
    found = (module.name for module in pkgutil.iter_modules([str(FOLDER / kind)]))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@functools.cache
def design(kind: Kind, name: str) -> Any:
    """Import and return the module of a mask or a head; this imports torch.

    Raises:
        ConfigError: If the file cannot be imported or is not written as its folder says.
    """
    try:
        module = importlib.import_module(f"trainables.model.{kind}.{name}")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _broken(kind, name, f"expected one that can be imported, got {reason}") from error
    fault = file_fault(kind, module)
    if fault:
        raise _broken(kind, name, fault)
    return module


def _broken(kind: Kind, name: str, fault: str) -> ConfigError:
    return ConfigError(f"{FIELDS[kind]}: the file trainables/model/{kind}/{name}.py: {fault}")


def file_fault(kind: Kind, module: ModuleType) -> str | None:
    """Return what is wrong with the names in the module of a mask or a head."""
    names, sizes = NAMES[kind], SIZES[kind]
    for name in sorted(vars(module).keys() - set(names)):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        if near and not hasattr(module, near[0]):
            return f"expected {near[0]!r}, got {name!r}"
    if not callable(getattr(module, names[0], None)):
        return f"expected it to define {names[0]!r}, got no such name"
    reads = getattr(module, "READS", ())
    if not isinstance(reads, tuple) or not set(reads) <= set(sizes):
        return f"expected READS to be a tuple of some of {', '.join(sizes)}, got {reads!r}"
    undeclared = sorted(_attributes(module) & set(sizes) - set(reads))
    if undeclared:
        return f"expected READS to name every size that is read, got none of {undeclared[0]!r}"
    return None


def _attributes(module: ModuleType) -> set[str]:
    """Return the fields of the configuration that the module's file names."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in found if ast.unparse(node.value) in SETTINGS}
