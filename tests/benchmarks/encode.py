"""Encoding mixed-length real text: ours, and `SentenceTransformer.encode` with the same model."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from tests.benchmarks.paired import Ratio, compare
from tests.benchmarks.training_peers import TEXT
from trainables import assets, boolq
from trainables.build import load_decoder
from trainables.config import (
    EMBEDDED_MODEL,
    AttentionConfig,
    BackboneConfig,
    EngineConfig,
    EvaluationConfig,
    PoolingConfig,
)
from trainables.encoding import HANDED_OVER, Encode, Floats, encode_packed, encode_texts
from trainables.model.backbone import Backbone
from trainables.model.embedder import Embedder
from trainables.model.pooling import Pooling
from trainables.tokenizer import Tokenizer

NUM_TEXTS = 192
MAX_TOKENS = 128


def run(device: str) -> list[Ratio]:
    """Return the ratio for the embedded model with 6 layers and mean pooling, in bf16."""
    rows = boolq.held_out_rows("dev")[: NUM_TEXTS // 2]
    texts = [text for row in rows for text in (row.question, row.passage)]
    encode, theirs = encoder(device, MAX_TOKENS), sentence_transformer(device, MAX_TOKENS)
    return [
        compare(
            f"encode {NUM_TEXTS} texts, mean",
            "SentenceTransformer.encode",
            lambda: encode_texts(encode, texts, None, HANDED_OVER),
            lambda: theirs.encode(texts, batch_size=32, show_progress_bar=False),
            pairs=5,
        )
    ]


def encoder(device: str, max_tokens: int) -> Encode:
    """Return the embedded model with 6 layers as a trial encodes with it."""
    decoder: Any = load_decoder(BackboneConfig(num_layers=6), EngineConfig(precision="bf16"))
    pooling = Pooling(PoolingConfig(token_scope="mean"), decoder.config.hidden_size)
    backbone = Backbone(decoder.to(device).eval(), AttentionConfig(), (6,))
    embedder, tokenizer = Embedder(backbone, pooling), Tokenizer(EMBEDDED_MODEL)

    @torch.inference_mode()
    def encode(texts: list[str], role: str | None) -> Floats:
        return encode_packed(
            embedder.embed,
            tokenizer,
            texts,
            max_tokens=max_tokens,
            mini_batch_tokens=EvaluationConfig().mini_batch_tokens,
            device=torch.device(device),
        )

    return encode


def sentence_transformer(device: str, max_tokens: int) -> SentenceTransformer:
    """Return the same model as sentence-transformers has it."""
    transformer = Transformer(
        str(assets.model_folder()),
        max_seq_length=max_tokens,
        model_kwargs={"dtype": torch.bfloat16},
        modality_config=TEXT,  # or each text would go through the model's chat template
        module_output_name="token_embeddings",
    )
    model = transformer.auto_model
    model.layers = model.layers[:6]
    model.config.num_hidden_layers = 6
    parts = [transformer, TheirPooling(model.config.hidden_size, pooling_mode="mean")]
    return SentenceTransformer(modules=parts, device=device)
