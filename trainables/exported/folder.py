"""The files of an exported model: sentence-transformers' own modules where it has them, else ours.

Modules and settings carry the names that older versions of sentence-transformers read as well.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trainables import designs, layers, model
from trainables.exported import poolsearch_module
from trainables.exported.poolsearch_module import PoolsearchModule
from trainables.runs import Run

FINISHED = {"gradual": "bidirectional"}  # what a mask has become when the training is over
SCOPES = {"last_token": "lasttoken", "mean": "mean_tokens", "weighted_mean": "weightedmean_tokens"}
REASON = "older ones ignore is_causal, and the model would be another"


def is_native(run: Run) -> bool:
    """Return whether sentence-transformers has all modules of the design.

    Its pooling cannot leave out an instruction as ours does: it counts the instruction's tokens
    alone, although the last may be joined with the text's first, and weighs the others by their
    place behind it.
    """
    pooling = run.embedder.pooling
    return _native_mask(run) is not None and not pooling.normalise and pooling.include_instruction


def _native_mask(run: Run) -> str | None:
    """Return the mask that transformers has itself and that the finished model has."""
    backbone, mask = run.embedder.backbone, run.config.attention.mask
    if mask in FINISHED and not any(backbone.windows):
        return FINISHED[mask]
    return mask if backbone.is_native else None


def max_tokens(run: Run) -> int:
    """Return the most tokens that a text had in training or scoring."""
    config = run.config
    return max(config.evaluation.max_tokens, config.training.max_passage_tokens)


def write(run: Run, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model, whose adapter is merged, and its tokenizer."""
    if is_native(run):
        modules = _write_native(run, tokenizer, folder)
    else:
        modules = _write_own(run, tokenizer, folder)
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "config_sentence_transformers.json", _settings(run))


def _settings(run: Run) -> dict[str, Any]:
    given = dataclasses.asdict(run.config.instructions)
    prompts = {"query": given["query"], "document": given["document"]}
    requirements: dict[str, Any] = {"transformers": {"specifier": ">=5.2", "reason": REASON}}
    if not is_native(run):
        requirements["sentence-transformers"] = ">=6"
    packages = ("sentence-transformers", "transformers", "torch")
    names = ("sentence_transformers", "transformers", "pytorch")
    return {
        "model_type": "SentenceTransformer",
        "__version__": {
            name: importlib.metadata.version(package)
            for name, package in zip(names, packages, strict=True)
        },
        "requirements": requirements,
        "prompts": prompts | ({"other": given["other"]} if given["other"] else {}),
        "default_prompt_name": "other" if given["other"] else None,
        "similarity_fn_name": "cosine",
    }


def _write_native(
    run: Run, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> list[tuple[str, str]]:
    """Write sentence-transformers' own modules; return their paths and types."""
    decoder: Any = run.embedder.backbone.decoder
    decoder.config.is_causal = _native_mask(run) == "causal"
    decoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = {"max_seq_length": tokenizer.model_max_length, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", transformer | _model_settings(run))
    width, mode = decoder.config.hidden_size, SCOPES[run.config.pooling.token_scope]
    pooling: dict[str, Any] = {"word_embedding_dimension": width, "include_prompt": True}
    pooling |= {f"pooling_mode_{name}": name == mode for name in ("cls_token", *SCOPES.values())}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    weight = _last_weight(run, width)
    if weight is not None:
        _write_dense(weight, folder / "2_Dense")
        modules.append(("2_Dense", "Dense"))
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    _write_json(folder / modules[-1][0] / "config.json", {})
    return [(path, f"sentence_transformers.models.{name}") for path, name in modules]


def _model_settings(run: Run) -> dict[str, Any]:
    """Return how to load the decoder, where transformers would choose otherwise."""
    kernel = run.config.engine.attn_implementation
    return {"model_args": {"attn_implementation": kernel}} if kernel == "eager" else {}


def _last_weight(run: Run, width: int) -> Tensor | None:
    """Return the linear map after the pooling, if any; truncation leaves out rows.

    sentence-transformers truncates behind its normalisation, after which vectors are shorter.
    """
    pooling = run.embedder.pooling
    if pooling.project is not None:
        return pooling.project.weight.detach()[: pooling.output_size]
    if pooling.output_size == width:
        return None
    return torch.eye(pooling.output_size, width, dtype=run.embedder.backbone.decoder.dtype)


def _write_dense(weight: Tensor, folder: Path) -> None:
    settings = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write_json(folder / "config.json", settings)
    save_file({"linear.weight": weight.contiguous()}, folder / "model.safetensors")


def _write_own(
    run: Run, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> list[tuple[str, str]]:
    """Write our module, its code and its design; return its path and type."""
    code = Path(model.__file__).parent
    module = PoolsearchModule(run.embedder, tokenizer, _design(run), code, run.final_norm)
    module.save(str(folder))
    shutil.copy(poolsearch_module.__file__, folder)
    return [("", f"poolsearch_module.{PoolsearchModule.__name__}")]


def _design(run: Run) -> dict[str, Any]:
    config, backbone = run.config, run.embedder.backbone
    shape = designs.shape(config.backbone)
    attention = dataclasses.asdict(config.attention)
    return {
        "attention": attention | {"key_value_heads": "native"},  # the decoder is converted
        "pooling": dataclasses.asdict(designs.resolve(config, shape).pooling),
        "layers": list(layers.numbers(config.pooling.layers, shape.depth)),
        "middle": set(backbone.read) != {shape.depth},
        "final_norm": not isinstance(backbone.decoder.norm, nn.Identity),
        "decoder": _model_settings(run).get("model_args", {}),
    }


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
