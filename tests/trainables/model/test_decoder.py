"""Decoders that no design, or only some, can take are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, AutoModel

from trainables.model.decoder import check_decoder
from trainables.model.kv_heads import UnsupportedDecoderError, convert

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def decoder(family: str, **settings: Any) -> Any:
    return AutoModel.from_config(AutoConfig.for_model(family, **SIZES, **settings))


def test_experts_are_refused() -> None:
    with pytest.raises(UnsupportedDecoderError) as caught:
        check_decoder(decoder("mixtral", num_local_experts=2))
    assert str(caught.value) == (
        "backbone.model: expected a dense decoder, got MixtralModel with experts, whose "
        "operations cannot be counted"
    )


@pytest.mark.parametrize("structure", ["multi_head", "multi_query"])
def test_a_norm_over_all_key_heads_forbids_other_heads(structure: str) -> None:
    made = decoder("olmo2", pad_token_id=0)
    check_decoder(made)
    convert(made, "native")
    with pytest.raises(UnsupportedDecoderError) as caught:
        convert(made, structure)
    assert str(caught.value) == (
        "attention.key_value_heads: expected 'native' for Olmo2Model, whose k_norm joins the key "
        "heads"
    )
