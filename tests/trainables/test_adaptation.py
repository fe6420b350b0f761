"""The warm-up against slow references: what is hidden, the loss, the training, and kills."""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.trainables.workers import (
    TIMEOUT_S,
    Group,
    drive_and_die,
    numbers,
    opened,
    outcomes,
    reports,
)
from trainables import adaptation, data, designs, trial
from trainables.build import build
from trainables.config import (
    AdaptationConfig,
    AttentionConfig,
    BackboneConfig,
    ConfigError,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    LoraConfig,
    PoolingConfig,
    TrainingConfig,
    TrialConfig,
)
from trainables.identity import training_seed
from trainables.model.tokens import Padded
from trainables.overlay import overlay
from trainables.tokenizer import Tokenizer, pad

STEPS = 5
SIZES: dict[str, Any] = {
    "vocab_size": 2400,  # ZeRO stage 3 leaves tensors of less than 100,000 numbers whole
    "hidden_size": 48,
    "intermediate_size": 2112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.2,
}
MODELS: dict[str, Any] = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "untied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "gemma": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, head_dim=16, final_logit_softcapping=5.0)
    ),
}
TEXTS = ["the heron sleeps by the river", "a quiet place at dawn, under an old tree", "otter"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_pairs: Path) -> Path:
    """Return a folder with language models, their tokenizers and pairs."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "pairs.jsonl").symlink_to(tiny_pairs)
    (folder / "headless").symlink_to(tiny_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, make in MODELS.items():
            make().save_pretrained(folder / name)
            for file in tiny_model.glob("tokenizer*"):
                shutil.copy(file, folder / name)
    return folder


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial whose warm-up moves what it trains, with a short training behind it."""
    monkeypatch.chdir(root)
    return TrialConfig(
        backbone=BackboneConfig(model="tied", num_layers=2),
        attention=AttentionConfig(mask="bidirectional"),
        adaptation=AdaptationConfig(
            kind="mntp", steps=STEPS, batch_size=6, learning_rate=1e-2, masked_share=0.3
        ),
        pooling=PoolingConfig(
            token_scope="mean", head="latent_attention", hidden_size=32, ffn_size=64
        ),
        lora=LoraConfig(rank=4),
        training=TrainingConfig(
            data=(DataConfig(name="pairs.jsonl"),),
            steps=0,
            batch_size=4,
            weight_decay=0.1,
            max_grad_norm=0.5,
            report_every=2,
        ),
        engine=EngineConfig(precision="fp32"),
        evaluation=EvaluationConfig(tasks=("NoSuchTask",)),
    )


def batch(texts: list[str] | None = None, instruction: str = "") -> Padded:
    return Tokenizer("tied")(texts or TEXTS, 48, instruction)


class TestWhatIsHidden:
    def test_a_share_of_what_may_be_hidden_and_nothing_else(self, config: TrialConfig) -> None:
        tokens = batch(instruction="an animal: ")
        times = torch.zeros_like(tokens.ids)
        for step in range(200):
            hidden = adaptation.choose(tokens, 0.3, first_row=0, seed=[0, step])
            times += hidden
            for row, places in enumerate(hidden):
                may = int(tokens.real[row].sum() - tokens.instruction[row].sum()) - 1
                assert places.sum() == max(1, round(0.3 * may))
        ends = tokens.real.sum(1) - 1
        never = ~tokens.real | tokens.instruction
        never[torch.arange(len(ends)), ends] = True
        assert torch.equal(times == 0, never)

    def test_never_the_first_token(self, config: TrialConfig) -> None:
        hidden = adaptation.choose(batch(), 1.0, first_row=0, seed=[0, 0])
        assert not hidden[:, 0].any()
        assert hidden.sum() == batch().real.sum() - 2 * len(TEXTS)

    def test_a_text_of_one_token_keeps_it(self, config: TrialConfig) -> None:
        tokens = batch(["a", "a cat"])
        assert tokens.real[0].sum() == 2
        assert not adaptation.choose(tokens, 0.5, first_row=0, seed=[0, 0])[0].any()

    def test_workers_hide_what_one_would(self, config: TrialConfig) -> None:
        whole = adaptation.choose(batch(), 0.3, first_row=0, seed=[0, 7])
        for row, text in enumerate(TEXTS):
            part = adaptation.choose(batch([text]), 0.3, first_row=row, seed=[0, 7])
            assert torch.equal(part[0], whole[row, : part.shape[1]])
        assert not torch.equal(adaptation.choose(batch(), 0.3, first_row=0, seed=[0, 8]), whole)


def slow_loss(config: TrialConfig, tokens: Padded, hidden: Tensor, substitute: int) -> Tensor:
    """Return the sum over hidden tokens, one text at a time, by transformers' own model."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        config.backbone.model, num_hidden_layers=config.backbone.num_layers
    )
    model.config.is_causal = config.attention.mask == "causal"
    total = torch.zeros(())
    for ids, real, places in zip(tokens.ids, tokens.real, hidden, strict=True):
        read = torch.where(places, substitute, ids)[real].unsqueeze(0)
        logits = model(read).logits[0]
        for place in places.nonzero().flatten().tolist():
            total = total - functional.log_softmax(logits[place - 1], -1)[ids[place]]
    return total


@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("model", MODELS)
def test_the_loss_is_that_of_the_language_model(
    config: TrialConfig, model: str, mask: str
) -> None:
    config = overlay(config, {"backbone.model": model, "attention.mask": mask})
    predictor = adaptation.build_predictor(config).eval()
    tokenizer, tokens = Tokenizer(model), batch()
    hidden = adaptation.choose(tokens, 0.3, first_row=0, seed=[0, 0])
    expected = slow_loss(config, tokens, hidden, tokenizer.hidden)
    found = predictor(*tokens, hidden, tokenizer.hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_cut_decoder_is_read_through_the_final_norm(config: TrialConfig) -> None:
    tokens = batch()
    hidden = adaptation.choose(tokens, 0.3, first_row=0, seed=[0, 0])
    cut = overlay(config, {"backbone.num_layers": 3, "pooling.layers": "1,2"})
    found, expected = (
        adaptation.build_predictor(each).eval()(*tokens, hidden, 5) for each in (cut, config)
    )
    assert torch.equal(found, expected)


def test_only_the_adapters_are_trained(config: TrialConfig) -> None:
    predictor = adaptation.build_predictor(config)
    embedder = build(config)
    trained = {n: p.shape for n, p in predictor.named_parameters() if p.requires_grad}
    assert trained == {n: p.shape for n, p in embedder.named_parameters() if "lora_" in n}


def test_a_token_stands_for_hidden_ones(config: TrialConfig) -> None:
    tokenizer = Tokenizer("tied")
    assert tokenizer._tokenizer.decode([tokenizer.hidden]) == "_"
    tokenizer._tokenizer.mask_token = "<pad>"
    tokenizer._tokenizer.save_pretrained("masked")
    assert Tokenizer("masked").hidden == tokenizer.padding


def test_a_model_without_output_embeddings_is_refused(config: TrialConfig) -> None:
    config = overlay(config, {"backbone.model": "headless"})
    message = "adaptation.kind: expected 'none', as 'headless' was saved without lm_head.weight"
    with pytest.raises(ConfigError, match=f"^{message}, got 'mntp'$"):
        adaptation.build_predictor(config)


def test_latents_are_refused(config: TrialConfig) -> None:
    config = overlay(config, {"attention.mask": "latent_readout"})
    with pytest.raises(ConfigError, match=r"^adaptation.kind: expected 'none' with 'latent_re"):
        designs.check_design(config, designs.shape(config.backbone))


def plain_loop(config: TrialConfig) -> tuple[list[float], dict[str, Tensor]]:
    """Return the losses and the adapters of the same warm-up without DeepSpeed."""
    settings, training = config.adaptation, config.training
    torch.manual_seed(training_seed(config))
    model = build(config)
    language_model = AutoModelForCausalLM.from_pretrained(config.backbone.model)
    trained = {n: p for n, p in model.backbone.named_parameters() if "lora_" in n}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=training.weight_decay)
    tokenizer = Tokenizer(config.backbone.model)
    passages = data.open_data(config, tokenizer).passages()
    found = []
    for step in range(settings.steps):
        places = step * settings.batch_size + np.arange(settings.batch_size)
        chosen = data.permuted(places, len(passages), (config.seed, 0))
        ids, real, instruction = pad(passages.rows(chosen), tokenizer.padding)
        hidden = adaptation.choose(
            Padded(ids, real, instruction),
            settings.masked_share,
            first_row=0,
            seed=[config.seed, step],
        )
        replaced = torch.where(hidden, tokenizer.hidden, ids)
        states, _ = model.backbone.states(replaced, real, instruction)
        logits = language_model.lm_head(states[-1])
        loss = functional.cross_entropy(logits[:, :-1][hidden[:, 1:]], ids[hidden])
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), training.max_grad_norm)
        optimizer.step()
        found.append(loss.item())
    return found, {f"backbone.{name}": weight.detach() for name, weight in trained.items()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float = 0) -> None:
    """Compare tensors; AdamW makes much of the last bits of gradients near 0, but of few."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= share * weight.norm(), name


@pytest.mark.slow
class TestInATrial:
    @pytest.mark.parametrize(
        ("stage", "workers", "changes"),
        [
            (0, 2, {"attention.mask": "two_stream"}),
            (1, 1, {"instructions.document": "an animal: "}),
            (2, 1, {"attention.mask": "gradual", "training.gradient_checkpointing": True}),
            (3, 2, {"backbone.model": "untied"}),
        ],
    )
    def test_it_trains_as_the_plain_loop(
        self,
        one: Group,
        two: Group,
        config: TrialConfig,
        tmp_path: Path,
        stage: int,
        workers: int,
        changes: dict[str, Any],
    ) -> None:
        engine = {"engine.zero_stage": stage, "engine.num_workers": workers}
        config = overlay(config, {**engine, **changes})
        found = outcomes(two if workers == 2 else one, config, tmp_path)
        losses, adapters = plain_loop(config)
        assert losses[-1] < losses[0] - 0.5
        for outcome in found:
            assert outcome.adaptation["first_loss"] == pytest.approx(losses[0], abs=1e-4)
            assert outcome.adaptation["last_loss"] == pytest.approx(losses[-1], abs=1e-4)
            assert outcome.seconds == outcome.adaptation["seconds"] > 0
        adapted = load_file(tmp_path / adaptation.WEIGHTS)
        assert_close(adapted, adapters, share=1e-3)
        torch.manual_seed(training_seed(config))
        new = {n: p for n, p in build(config).named_parameters() if p.requires_grad}
        assert_close(load_file(tmp_path / "weights.safetensors"), {**new, **adapted})
        assert not (tmp_path / adaptation.CHECKPOINTS).exists()

    def test_a_killed_one_continues_to_the_same_bits(
        self, one: Group, root: Path, config: TrialConfig, tmp_path: Path
    ) -> None:
        config = overlay(config, {"lora.dropout": 0.1, "engine.zero_stage": 3})
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        with opened(1, root) as (doomed,), pytest.raises(BrokenProcessPool):
            doomed.submit(
                drive_and_die, config, parts, "os.mkdir", "step-000004.partial", num_events=0
            ).result(TIMEOUT_S)
        assert (parts / adaptation.CHECKPOINTS / "latest").read_text() == "step-000002"
        assert not (parts / adaptation.WEIGHTS).exists()
        resumed, expected = (outcomes(one, config, folder)[0] for folder in (parts, whole))
        for name in ("first_loss", "last_loss"):
            assert resumed.adaptation[name] == expected.adaptation[name]
        adapters = load_file(whole / adaptation.WEIGHTS)
        assert_close(load_file(parts / adaptation.WEIGHTS), adapters)

    def test_a_finished_one_is_not_done_again(
        self, one: Group, config: TrialConfig, tmp_path: Path
    ) -> None:
        config = overlay(config, {"training.steps": 2, "training.report_every": 1})
        begun = reports(one, config, tmp_path, 1)
        written = (tmp_path / adaptation.WEIGHTS).stat().st_mtime_ns
        with safe_open(tmp_path / adaptation.WEIGHTS, "pt") as saved:
            adapted = json.loads(saved.metadata()["adapted"])
        assert begun[0][0].seconds > adapted["seconds"] > 0
        resumed = reports(one, config, tmp_path, 2)
        assert (tmp_path / adaptation.WEIGHTS).stat().st_mtime_ns == written
        assert resumed[0] == begun[0]
        assert numbers(resumed) == numbers(reports(one, config, tmp_path / "whole", 2))

    def test_nothing_is_left_behind(self, one: Group, config: TrialConfig, tmp_path: Path) -> None:
        before = one[0].submit(leftovers).result(TIMEOUT_S)
        outcomes(one, overlay(config, {"engine.zero_stage": 3}), tmp_path)
        assert one[0].submit(leftovers).result(TIMEOUT_S) == before == 0

    def test_a_loss_that_is_not_finite_ends_the_trial(
        self, one: Group, config: TrialConfig, tmp_path: Path
    ) -> None:
        config = overlay(config, {"adaptation.learning_rate": 1e30})
        message = r"^loss: expected a finite number, got nan at step 2 of the warm-up$"
        with pytest.raises(trial.TrainingError, match=message):
            outcomes(one, config, tmp_path)
        assert one[0].submit(leftovers).result(TIMEOUT_S) == 0


def leftovers() -> int:
    """Return the predictors in memory."""
    gc.collect()
    with warnings.catch_warnings(action="ignore"):  # looking at old names warns
        return sum(type(thing) is adaptation.Predictor for thing in gc.get_objects())
