"""A text-embedding model whose attention or pooling sentence-transformers does not have itself.

sentence-transformers loads this file from its folder if it is told trust_remote_code=True. Beside
it, `poolsearch_model` is the code of the model, `design.json` its design, and
`poolsearch.safetensors` what is in neither the decoder nor the tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

CODE, DESIGN, WEIGHTS = "poolsearch_model", "design.json", "poolsearch.safetensors"
DECODER = "backbone.decoder."


class PoolsearchModule(InputModule):
    """Texts to embeddings of length 1, in fp32."""

    tokenizer: Any

    def __init__(
        self,
        embedder: Any,
        tokenizer: Any,
        design: Mapping[str, Any],
        code: Path,
        final_norm: nn.Module,
    ) -> None:
        """Wrap a model.

        Args:
            embedder: `poolsearch_model.embedder.Embedder`.
            tokenizer: Of transformers; it pads on the right and ends texts with a token.
            design: What `design.json` says.
            code: The folder of `poolsearch_model`.
            final_norm: The decoder's own; kept to be saved where the design does not use it.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedder = embedder
        self.tokenizer = tokenizer
        self.design = dict(design)
        self.code = code
        self.final_norm = final_norm

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return ids, their mask, and which are of the prompt.

        Prompt and text are tokenised as one string. A token that reaches into the text is the
        text's, and so is the last; what the tokenizer puts before the prompt is the prompt's.
        """
        prompt = prompt or ""
        encoded = self.tokenizer(
            [prompt + str(text) for text in inputs],
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        within = (encoded["offset_mapping"][..., 1] <= len(prompt)).cumprod(1).bool()
        last = encoded["attention_mask"].sum(1, keepdim=True) - 1
        before = torch.arange(within.shape[1]) < last
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "instruction_mask": within & before & bool(prompt),
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add the embeddings to the features."""
        ids, real = features["input_ids"], features["attention_mask"].bool()
        features["sentence_embedding"] = self.embedder(ids, real, features["instruction_mask"])
        return features

    @property
    def max_seq_length(self) -> int:
        """Tokens at which texts are cut, the prompt and the last token included."""
        return int(self.tokenizer.model_max_length)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.model_max_length = value

    def get_embedding_dimension(self) -> int:
        """Return the width of an embedding."""
        return int(self.embedder.pooling.output_size)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write all but this file, which sentence-transformers copies."""
        folder = Path(output_path)
        decoder = self.embedder.backbone.decoder
        used, decoder.norm = decoder.norm, self.final_norm
        decoder.save_pretrained(folder)
        decoder.norm = used
        self.tokenizer.save_pretrained(folder)
        (folder / DESIGN).write_text(json.dumps(self.design, indent=1) + "\n")
        own = {n: t for n, t in self.embedder.state_dict().items() if not n.startswith(DECODER)}
        save_file({name: tensor.contiguous() for name, tensor in own.items()}, folder / WEIGHTS)
        if self.code.resolve() != (folder / CODE).resolve():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(self.code, folder / CODE, ignore=ignore, dirs_exist_ok=True)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> PoolsearchModule:
        """Load the model from its folder, or from the hub."""
        if kwargs.get("backend", "torch") != "torch":
            raise ValueError(f"backend: expected 'torch', got {kwargs['backend']!r}")
        where = cls.load_dir_path(
            model_name_or_path, subfolder, token, cache_folder, revision, local_files_only
        )
        if where is None:
            raise FileNotFoundError(f"{model_name_or_path}: expected an exported model")
        parts = ("config", "model", "processor")
        return _load(Path(where), *(kwargs.get(f"{part}_kwargs") or {} for part in parts))


Settings = Mapping[str, Any]  # of transformers' from_pretrained


def _load(
    folder: Path, config: Settings, model: Settings, processor: Settings
) -> PoolsearchModule:
    design = json.loads((folder / DESIGN).read_text())
    decoder: Any = AutoModel.from_pretrained(
        folder,
        config=AutoConfig.from_pretrained(folder, **config),
        **{**design["decoder"], **model},
    )
    final_norm = decoder.norm
    embedder = _assemble(folder / CODE, design, decoder)
    _put(load_file(folder / WEIGHTS), embedder)
    embedder.pooling.to(decoder.dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, **processor)
    return PoolsearchModule(embedder, tokenizer, design, folder / CODE, final_norm)


def _assemble(code: Path, design: Mapping[str, Any], decoder: Any) -> Any:
    """Return the embedder around a decoder that is cut and converted already."""
    read = design["layers"]
    attention, pooling = (SimpleNamespace(**design[name]) for name in ("attention", "pooling"))
    if not design["final_norm"]:
        decoder.norm = nn.Identity()
    with _importable(code) as package, torch.random.fork_rng(devices=[]):
        parts = {
            name: importlib.import_module(f"{package}.{name}")
            for name in ("backbone", "pooling", "embedder")
        }
        backbone = parts["backbone"].Backbone(decoder, attention, read)
        pool = parts["pooling"].Pooling(
            pooling, decoder.config.hidden_size, len(read), middle=design["middle"]
        )
    return parts["embedder"].Embedder(backbone, pool)


def _put(weights: Mapping[str, Tensor], embedder: nn.Module) -> None:
    found = embedder.load_state_dict(weights, strict=False)
    missing = [name for name in found.missing_keys if not name.startswith(DECODER)]
    if missing or found.unexpected_keys:
        raise ValueError(
            f"{WEIGHTS}: expected the tensors of {DESIGN}, got none for {missing} and "
            f"{found.unexpected_keys} besides"
        )


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[str]:
    """Make a folder of code a package, and yield the name that nothing else has."""
    files = sorted(folder.rglob("*.py"))
    content = b"".join(file.read_bytes() for file in files)
    name = f"{CODE}_{hashlib.sha256(str(folder.resolve()).encode() + content).hexdigest()[:12]}"
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with _typed():
            if name not in sys.modules:
                _import(name, folder)
            yield name
    finally:
        sys.dont_write_bytecode = writes


def _import(name: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


class _Shape:
    """Stands for a tensor's type."""

    def __class_getitem__(cls, item: object) -> type[_Shape]:
        return cls


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    """Do without jaxtyping where it is missing; the code uses it for people to read."""
    try:
        import jaxtyping  # noqa: F401
    except ImportError:
        stand_in = ModuleType("jaxtyping")
        for kind in ("Bool", "Float", "Int"):
            setattr(stand_in, kind, _Shape)
        sys.modules["jaxtyping"] = stand_in
        try:
            yield
        finally:
            del sys.modules["jaxtyping"]
    else:
        yield
