"""What can be evaluated as it is: runs of ours, sentence-transformers models, bare decoders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables import assets, designs, engine, hub, runs
from trainables.build import load_decoder
from trainables.config import (
    EMBEDDED_MODEL,
    AttentionConfig,
    BackboneConfig,
    EngineConfig,
    PoolingConfig,
    TokenScope,
    TrialConfig,
)
from trainables.cost import count_cost
from trainables.encoding import Encode, Floats, encode_packed
from trainables.fingerprint import fingerprint
from trainables.identity import design_digest, digest, label
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.kv_heads import UnsupportedDecoderError
from trainables.model.pooling import Pooling
from trainables.overlay import overlay
from trainables.tokenizer import Tokenizer

MODULES = "modules.json"  # of sentence-transformers
USUAL_TOKENS = 512  # that a bare decoder's texts are cut at
REMEDY = (
    "fetch it on a machine that reaches the hub (hf download NAME --local-dir FOLDER) and give "
    "the folder, or run once where the hub answers, which fills its cache"
)


class SubjectError(ValueError):
    """A model cannot be evaluated; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the user says of a model."""

    pooling: TokenScope | None = None  # of a bare decoder
    max_tokens: int | None = None  # None: the model's own
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by role
    revision: str | None = None  # on the hub
    trust_remote_code: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to be scored, and how the results table knows it."""

    name: str
    label: str
    digest: str
    design: str
    seed: int
    steps: int
    total_steps: int
    encode: Encode
    cost: Mapping[str, float | None]  # fields of `trainables.cost.Cost`, where they are known
    params: Mapping[str, Any]


def open_subject(model: str, options: Options) -> Subject:
    """Return the model of a folder, a name on the hub, or the embedded one's.

    Raises:
        SubjectError: If it cannot be had or has no pooling, or an option is not for it.
        RunError: If it is the folder of a trial that cannot be read.
    """
    folder = Path(model)
    if not folder.is_dir():
        return _from_hub(model, options)
    if runs.is_trial(folder):
        _refuse(options, "a trial, which has its own")
        return _trial(folder)
    if (folder / MODULES).is_file():
        return _sentence_transformer(model, model, options)
    if not (folder / runs.CONFIG).is_file():
        trials = runs.trials_in(folder)
        hint = f"; the study's trials are in folders such as {trials[0]}" if trials else ""
        raise SubjectError(
            f"{model}: expected a folder with the {runs.CONFIG} of a trial or a decoder, or with "
            f"{MODULES}, got neither{hint}"
        )
    return _bare(model, model, options)


def _from_hub(model: str, options: Options) -> Subject:
    """Return a model by its name; what the hub does not answer for may be in its cache."""
    if model == EMBEDDED_MODEL:
        return _bare(model, str(assets.model_folder()), options)
    files, revision, reason = hub.ask(model, options.revision)
    if reason:
        folder = hub.cached(model, options.revision)
        if folder is None:
            raise SubjectError(
                f"{model}: expected a folder, the embedded {EMBEDDED_MODEL!r}, or a model of a "
                f"hub that answers, got {reason}; {REMEDY}"
            )
        opened = _sentence_transformer if (folder / MODULES).is_file() else _bare
        return opened(model, str(folder), options)
    if MODULES in files:
        return _sentence_transformer(model, model, dataclasses.replace(options, revision=revision))
    return _bare(model, hub.fetched(model, revision), options)


def _refuse(options: Options, what: str) -> None:
    given = [n for n in ("pooling", "max_tokens", "prompts", "revision") if getattr(options, n)]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SubjectError(f"{names}: expected none for {what}, got some")


def _trial(folder: Path) -> Subject:
    """Return a trial as it finished, or else as its newest checkpoint has it; in fp32."""
    if (folder / runs.OUTCOME).is_file() or not (folder / runs.CHECKPOINTS).is_dir():
        run = runs.load(folder)
        step = run.config.training.steps
    else:
        run, step = runs.load_unfinished(folder)
    config = run.config
    place = folder.resolve().parts[-3:]
    unfinished = "" if step == config.training.steps else f" at step {step}"
    return Subject(
        name="-".join(place),
        label=f"{'/'.join(place)}{unfinished}: {label(config)}",
        digest=digest(config),
        design=design_digest(config),
        seed=config.seed,
        steps=step,
        total_steps=config.training.steps,
        encode=_encoder(run.embedder, run.tokenizer, config),
        cost=dataclasses.asdict(count_cost(config)),
        params={"model": config.backbone.model},
    )


def _encoder(embedder: Embedder, tokenizer: Tokenizer, config: TrialConfig) -> Encode:
    """Return what a trial scores itself with: instructions by role, queries cut as in training."""
    device = engine.device()
    embedder.to(device).eval()

    @torch.inference_mode()
    def encode(texts: list[str], role: str | None) -> Floats:
        query = role == "query"
        return encode_packed(
            embedder.embed,
            tokenizer,
            texts,
            max_tokens=config.training.max_query_tokens if query else config.evaluation.max_tokens,
            instruction=getattr(config.instructions, role or "other"),
            mini_batch_tokens=config.evaluation.mini_batch_tokens,
            device=device,
        )

    return encode


def _bare(model: str, source: str, options: Options) -> Subject:
    """Return a decoder as it is, causal, with the read-out that the user chose."""
    if options.pooling is None:
        raise SubjectError(
            f"{model}: expected a model with a pooling of its own ({MODULES}), got a bare one; "
            "say with --pooling last_token, or mean, how its states become a vector"
        )
    config = _bare_config(source, options)
    embedder = _read_out(model, config)
    values: dict[str, Any] = {
        "model": model,
        "revision": options.revision,
        "pooling": options.pooling,
        "max_tokens": config.evaluation.max_tokens,
        "prompts": dict(options.prompts),
        "weights": fingerprint(embedder),
    }
    encode, size = _encoder(embedder, Tokenizer(source), config), embedder.pooling.output_size
    return _subject(f"{model}, causal, {options.pooling}{_cut(options)}", values, encode, size)


def _bare_config(source: str, options: Options) -> TrialConfig:
    most = options.max_tokens or USUAL_TOKENS
    base = TrialConfig(
        backbone=BackboneConfig(model=source, num_layers=None),
        attention=AttentionConfig(),
        pooling=PoolingConfig(token_scope=options.pooling or "last_token"),
        engine=EngineConfig(precision="fp32"),
    )
    limits = {"evaluation.max_tokens": most, "training.max_query_tokens": most}
    prompts = {f"instructions.{role}": text for role, text in options.prompts.items()}
    return overlay(base, limits | prompts)


def _read_out(model: str, config: TrialConfig) -> Embedder:
    """Return the decoder with its read-out, and no adapter."""
    shape = designs.shape(config.backbone)
    decoder = load_decoder(config.backbone, config.engine)
    config = designs.resolve(config, shape)
    try:
        backbone = Backbone(decoder, config.attention, (shape.depth,))
    except (AttributeError, UnsupportedDecoderError, ValueError) as error:
        raise SubjectError(
            f"{model}: expected a decoder LLM or a sentence-transformers model, got "
            f"{type(decoder).__name__} ({error})"
        ) from error
    return Embedder(backbone, Pooling(config.pooling, shape.width, 1, middle=False))


def _sentence_transformer(model: str, source: str, options: Options) -> Subject:
    """Return a model with the pooling and the prompts that its own files say."""
    from sentence_transformers import SentenceTransformer

    if options.pooling:
        raise SubjectError(f"--pooling: expected none, as {model} has one, got {options.pooling}")
    try:
        loaded = SentenceTransformer(
            source,
            revision=None if Path(source).is_dir() else options.revision,
            trust_remote_code=options.trust_remote_code,
            prompts=dict(options.prompts) or None,
        )
    except (ImportError, OSError, ValueError) as error:
        raise SubjectError(f"{model}: {_why_not(error, options)}") from error
    if options.max_tokens:
        loaded.max_seq_length = options.max_tokens
    values: dict[str, Any] = {
        "model": model,
        "revision": options.revision,
        "max_tokens": loaded.max_seq_length,
        "prompts": dict(loaded.prompts),
        "weights": fingerprint(loaded.requires_grad_(False)),
    }
    encode, size = _encode_by_role(loaded, options.prompts), loaded.get_embedding_dimension()
    return _subject(f"{model}{_cut(options)}", values, encode, size)


def _why_not(error: Exception, options: Options) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if options.trust_remote_code:
        return f"it cannot be loaded ({reason})"
    return (
        f"it cannot be loaded ({reason}); if it brings Python files of its own, as an export of "
        "ours may, and you trust them, add --trust-remote-code"
    )


def _encode_by_role(loaded: Any, prompts: Mapping[str, str]) -> Encode:
    """Return the encoder that uses the model's own prompt for a query, a document, another."""
    by_role: dict[str | None, Callable[..., Any]] = {
        "query": loaded.encode_query,
        "document": loaded.encode_document,
        None: loaded.encode,
    }

    def encode(texts: list[str], role: str | None) -> Floats:
        other = {"prompt": prompts["other"]} if role is None and "other" in prompts else {}
        found = by_role[role](
            texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True, **other
        )
        vectors: Floats = found.float().cpu().numpy().astype(np.float32)
        return vectors

    return encode


def _cut(options: Options) -> str:
    return f", {options.max_tokens} tokens" if options.max_tokens else ""


def _subject(label: str, values: Mapping[str, Any], encode: Encode, size: int | None) -> Subject:
    """Return a model that is not ours; its identity is its name and how it is read."""
    canonical = json.dumps(values, sort_keys=True).encode()
    identity = hashlib.sha256(canonical).hexdigest()[:12]
    return Subject(
        name=str(values["model"]),
        label=label,
        digest=identity,
        design=identity,
        seed=0,
        steps=0,
        total_steps=0,
        encode=encode,
        cost={"embedding_size": size},
        params={name: value for name, value in values.items() if value},
    )
