"""sentence-transformers' training step: the core of its Trainer without the overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.data_collator import (
    SentenceTransformerDataCollator,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.benchmarks.training_setting import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    TEMPERATURE,
    Batch,
    Setting,
)
from trainables.config import LoraConfig
from trainables.exported.tokenization import ending_tokenizer
from trainables.model.decoder import keep_layers
from trainables.tokenizer import locate

TEXT: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
COLUMNS = ("anchor", "positive", "negative")
Step = Callable[[Batch], float]


def peer(setting: Setting, mini_batch_size: int | None = None) -> Step:
    """Return one optimiser step, which returns the loss; cached with a mini-batch size."""
    model = lora_model(setting)
    loss: Any = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    if mini_batch_size is not None:
        loss = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TEMPERATURE, mini_batch_size=mini_batch_size
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    collate = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    model.train()

    def step(batch: Batch) -> float:
        collated = collate([dict(zip(COLUMNS, triplet, strict=True)) for triplet in batch])
        value = loss([_column(collated, name, model.device) for name in COLUMNS], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return float(value)

    return step


def _column(collated: dict[str, Any], name: str, device: torch.device) -> dict[str, Any]:
    """Return the features of a column, as the Trainer's `collect_features` finds them."""
    features = {
        key.removeprefix(f"{name}_"): value
        for key, value in collated.items()
        if key.startswith(f"{name}_")
    }
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in features.items()}


def lora_model(setting: Setting, pooling_mode: str = "lasttoken") -> SentenceTransformer:
    """Return the model of a setting with fresh adapters."""
    transformer = Transformer(
        locate(setting.model),
        max_seq_length=setting.max_tokens,
        model_kwargs={"dtype": torch.bfloat16, "attn_implementation": setting.kernel},
        modality_config=TEXT,  # or each text would go through the model's chat template
        module_output_name="token_embeddings",
    )
    # Ends each text as ours does, so that both sides train on the same tokens.
    transformer.processor = ending_tokenizer(setting.model, setting.max_tokens)
    decoder = transformer.auto_model
    if setting.num_layers is not None:
        keep_layers(decoder, setting.num_layers)
    pooling = Pooling(decoder.config.hidden_size, pooling_mode=pooling_mode)
    parts = [transformer, pooling, Normalize()]
    model = SentenceTransformer(modules=parts, device=setting.device)
    lora = LoraConfig()
    model.add_adapter(
        peft.LoraConfig(r=lora.rank, lora_alpha=int(lora.alpha), target_modules=list(lora.targets))
    )
    return model
