"""Encoding mixed-length real text: ours, and `SentenceTransformer.encode` with the same model."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from tests.benchmarks.paired import Ratio, compare
from tests.benchmarks.training_peers import TEXT
from trainables import assets, boolq, packing
from trainables.build import load_decoder
from trainables.config import (
    EMBEDDED_MODEL,
    AttentionConfig,
    BackboneConfig,
    EngineConfig,
    PoolingConfig,
)
from trainables.encoding import Floats, encode_texts
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
    decoder: Any = load_decoder(BackboneConfig(num_layers=6), EngineConfig(precision="bf16"))
    pooling = Pooling(PoolingConfig(token_scope="mean"), decoder.config.hidden_size)
    backbone = Backbone(decoder.to(device).eval(), AttentionConfig(), (6,))
    embedder, tokenizer = Embedder(backbone, pooling), Tokenizer(EMBEDDED_MODEL)

    @torch.inference_mode()
    def encode(batch: list[str], role: str | None) -> Floats:
        packed = packing.pack(tokenizer.rows(batch, MAX_TOKENS), 1, tokenizer.padding)
        packed = packed.to(torch.device(device))
        vectors: Floats = embedder.embed(packed.mini_batches[0])[packed.order].cpu().numpy()
        return vectors

    theirs = _sentence_transformer(device)
    return [
        compare(
            f"encode {NUM_TEXTS} texts, mean",
            "SentenceTransformer.encode",
            lambda: encode_texts(encode, texts, None, 32),
            lambda: theirs.encode(texts, batch_size=32, show_progress_bar=False),
            pairs=5,
        )
    ]


def _sentence_transformer(device: str) -> SentenceTransformer:
    transformer = Transformer(
        str(assets.model_folder()),
        max_seq_length=MAX_TOKENS,
        model_kwargs={"dtype": torch.bfloat16},
        modality_config=TEXT,  # or each text would go through the model's chat template
        module_output_name="token_embeddings",
    )
    model = transformer.auto_model
    model.layers = model.layers[:6]
    model.config.num_hidden_layers = 6
    parts = [transformer, TheirPooling(model.config.hidden_size, pooling_mode="mean")]
    return SentenceTransformer(modules=parts, device=device)
