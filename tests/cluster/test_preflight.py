from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, Phi3Config, PreTrainedConfig

from cluster.preflight.designs import check_space, parameters, telling
from search_spaces.drawing import CONTROL, Overlay, Space, Trial
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.designs import shape
from trainables.overlay import overlay
from trainables.shape import Shape

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 0,
}
LLAMA, FUSED = LlamaConfig(**SIZES), Phi3Config(**SIZES)
Changes = dict[str, Any]


def base_of(folder: Path, changes: Changes, config: PreTrainedConfig = LLAMA) -> TrialConfig:
    """Return settings of a decoder that has a configuration and nothing else."""
    config.save_pretrained(folder)
    names = {"backbone.model": str(folder), "backbone.num_layers": 2}
    return overlay(TrialConfig(), names | changes)


def faults(space: Space, base: TrialConfig) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_space(space, base, shape(base.backbone))
    return str(raised.value).splitlines()


def always(*designs: Overlay) -> Space:
    """Return a space of given designs, each as often as the others."""

    def space(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
        number: int = trial.suggest_categorical("design", tuple(range(len(designs))))
        return designs[number]

    return space


@pytest.mark.parametrize("name", SPACES)
def test_the_spaces_suit_a_llama(name: str, tmp_path: Path) -> None:
    base = base_of(tmp_path, {})
    check_space(SPACES[name], base, shape(base.backbone))


def test_degenerate_designs_are_refused_together_each_fault_once(tmp_path: Path) -> None:
    one_key = {"pooling.head": "cross_attention"}
    wide = {"attention.mask": "sliding_window", "attention.window": 99}
    found = faults(always(one_key, wide), base_of(tmp_path, {}))
    assert [line.partition(": expected")[0] for line in sorted(found)] == [
        "attention.window",
        "pooling.layers",
    ]
    assert "over one key the softmax is constant" in "".join(found)


def test_a_mask_that_flash_attention_ignores_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, {"engine.attn_implementation": "flash_attention_2"})
    found = faults(SPACES["attention"], base)
    assert all(line.startswith("engine.attn_implementation: expected 'sdpa'") for line in found)
    assert any("'sliding_window'" in line for line in found)


def test_an_unknown_family_is_refused_by_name(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=400, n_embd=48, n_layer=2, n_head=4)
    (fault,) = faults(SPACES["joint"], base_of(tmp_path, {}, config))
    assert fault.startswith("backbone.model: expected a decoder whose `layers` have `self_attn`")
    assert fault.endswith("got GPT2Model")


def test_lora_targets_that_match_nothing_are_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, {"lora.targets": ("query", "v_proj")})
    (fault,) = faults(SPACES["joint"], base)
    assert fault.startswith("lora.targets: expected linear layers of LlamaModel (")
    assert fault.endswith("got query")


def test_surgery_that_a_family_cannot_take_is_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, {"lora.targets": ("qkv_proj",)}, FUSED)
    (fault,) = faults(SPACES["attention"], base)
    assert fault == "attention.key_value_heads: Phi3Model has no self_attn.k_proj"
    check_space(SPACES["pooling"], base, shape(base.backbone))


def test_what_a_library_raises_is_told_with_the_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such kernel\nat line 1")

    monkeypatch.setattr("transformers.LlamaModel.forward", broken)
    (fault,) = faults(always(CONTROL), base_of(tmp_path, {}))
    assert fault == (
        "backbone.model: expected a decoder that takes causal, last_token, none, "
        f"got {str(tmp_path)!r} (RuntimeError: no such kernel)"
    )


def test_an_instruction_that_leaves_no_room_is_refused(tiny_model: Path) -> None:
    changes = {"backbone.model": str(tiny_model), "backbone.num_layers": 3}
    long = {"instructions.query": "where does the cat sleep? " * 20}
    base = overlay(TrialConfig(), changes | long)
    found = faults(SPACES["attention"], base)
    assert [line.partition(":")[0] for line in found] == ["instructions.query"]


def test_what_is_built_shows_every_value_once() -> None:
    drawn = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1}, {"a": 2}]
    assert telling(drawn, ["a", "b"]) == [drawn[0], drawn[1], drawn[3]]


def test_a_space_owns_what_it_sets_and_no_more(tmp_path: Path) -> None:
    base = base_of(tmp_path, {})
    owned = parameters(SPACES["attention"], base, shape(base.backbone))
    assert {"attention.mask", "adaptation.kind", "pooling.num_heads", "pooling.layers"} <= owned
    assert not owned & {"pooling.hidden_size", "pooling.num_latents", "pooling.match_parameters"}
