"""Texts to tokens: ends, cuts, padding, and which tokens are the instruction's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoTokenizer, LlamaConfig

from trainables.config import BackboneConfig, ConfigError, TrialConfig
from trainables.overlay import overlay
from trainables.tokenizer import Tokenizer, check_instructions

END = 0
INSTRUCTION = "find the river: "
TEXTS = ["the cat", "where does the otter of the river sleep?", "", " a", "\n", "ünïcödé 猫"]
LONG = "the heron sleeps by the river at dawn " * 9


@pytest.fixture
def plain(tiny_model: Path) -> Tokenizer:
    return Tokenizer(str(tiny_model))


@pytest.fixture(params=["", "<start>", "<start> <end>"], ids=["plain", "start", "start and end"])
def tokenizer(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path
) -> tuple[Tokenizer, int]:
    """Return a tokenizer, and how many tokens it puts before a text."""
    if not request.param:
        return Tokenizer(str(tiny_model)), 0
    return Tokenizer(str(adding(tiny_model, tmp_path, request.param))), 1


def adding(model: Path, folder: Path, added: str) -> Path:
    """Save the model's tokenizer as one that adds a first token, and perhaps the last."""
    made: Any = AutoTokenizer.from_pretrained(model)
    made.add_special_tokens({"bos_token": "<start>"})
    start, end = made.bos_token_id, made.eos_token_id
    template = added.replace("<start>", "<start> $A")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<start>", start), ("<end>", end)]
    )
    made.save_pretrained(folder)
    return folder


def written(pieces: list[str]) -> str:
    return "".join(pieces).replace("Ġ", " ")


class TestEnd:
    def test_every_text_ends_with_one(self, tokenizer: tuple[Tokenizer, int]) -> None:
        for instruction in ("", INSTRUCTION):
            for row, _ in tokenizer[0].rows([*TEXTS, LONG], 24, instruction):
                assert row.count(END) == 1
                assert row[-1] == END

    def test_one_that_a_text_has_is_enough(self, plain: Tokenizer) -> None:
        ((row, _),) = plain.rows(["where does the otter sleep?<end>"], 32)
        assert row.count(END) == 1

    @pytest.mark.parametrize("max_tokens", [2, 3, 12])
    def test_long_texts_are_cut_with_the_end_counted(
        self, plain: Tokenizer, max_tokens: int
    ) -> None:
        ((whole, _),), ((cut, _),) = plain.rows([LONG], 500), plain.rows([LONG], max_tokens)
        assert len(cut) == max_tokens
        assert cut == [*whole[: max_tokens - 1], END]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_the_instruction_is_never_cut(
        self, tiny_model: Path, tmp_path: Path, side: str
    ) -> None:
        made: Any = AutoTokenizer.from_pretrained(tiny_model, truncation_side=side)
        made.save_pretrained(tmp_path)
        tokenizer = Tokenizer(str(tmp_path))
        ((whole, count),) = tokenizer.rows([LONG], 500, INSTRUCTION)
        ((cut, same),) = tokenizer.rows([LONG], 24, INSTRUCTION)
        assert cut == [*whole[:23], END]
        assert count == same


class TestInstruction:
    def test_none_has_no_tokens(self, tokenizer: tuple[Tokenizer, int]) -> None:
        assert {count for _, count in tokenizer[0].rows(TEXTS, 32)} == {0}

    def test_it_is_what_lies_within_it(self, tokenizer: tuple[Tokenizer, int]) -> None:
        """Its tokens are the instruction or a beginning of it, and one more would be more."""
        made, before = tokenizer
        for row, count in made.rows(TEXTS, 40, INSTRUCTION):
            assert before < count < len(row)
            pieces = made._tokenizer.convert_ids_to_tokens(row)
            assert INSTRUCTION.startswith(written(pieces[before:count]))
            assert not INSTRUCTION.startswith(written(pieces[before : count + 1]))

    def test_a_token_that_reaches_into_the_text_is_the_texts(self, plain: Tokenizer) -> None:
        """The space behind the instruction is joined with the word that follows."""
        (_, apart), (_, joined) = plain.rows(["", "river"], 32, "the ")
        assert (apart, joined) == (2, 1)

    def test_what_stands_before_it_is_its_own(self, tiny_model: Path, tmp_path: Path) -> None:
        folder = adding(tiny_model, tmp_path, "<start>")
        for text in TEXTS:
            ((_, plain),) = Tokenizer(str(tiny_model)).rows([text], 40, INSTRUCTION)
            ((_, with_start),) = Tokenizer(str(folder)).rows([text], 40, INSTRUCTION)
            assert with_start == plain + 1

    def test_the_end_is_never_its_own(self, tokenizer: tuple[Tokenizer, int]) -> None:
        ((row, count),) = tokenizer[0].rows([""], 32, INSTRUCTION)
        assert count == len(row) - 1

    @pytest.mark.parametrize("text", ["", "the cat"])
    def test_one_that_leaves_no_room_is_refused(self, plain: Tokenizer, text: str) -> None:
        count = len(plain.rows([""], 64, INSTRUCTION)[0][0]) - 1
        assert plain.rows([text], count + 2, INSTRUCTION)
        with pytest.raises(ConfigError) as caught:
            plain.rows([text, LONG], count - 1, INSTRUCTION)
        assert str(caught.value) == (
            f"instructions: expected less than {count - 2} tokens, as texts are cut at "
            f"{count - 1}, got {count}: {INSTRUCTION!r}"
        )


class TestBatch:
    def test_padding_is_on_the_right_and_masked(self, tokenizer: tuple[Tokenizer, int]) -> None:
        made = tokenizer[0]
        for instruction in ("", INSTRUCTION):
            rows = made.rows(TEXTS, 32, instruction)
            batch = made(TEXTS, 32, instruction)
            assert batch.real.dtype == batch.instruction.dtype == torch.bool
            assert batch.ids.shape == (len(TEXTS), max(len(row) for row, _ in rows))
            assert batch.ids[~batch.real].eq(made.padding).all()
            for ids, real, of, (row, count) in zip(*batch, rows, strict=True):
                assert ids[real].tolist() == row
                assert real.tolist() == sorted(real.tolist(), reverse=True)
                assert of.nonzero().flatten().tolist() == list(range(count))

    def test_the_padding_is_the_tokenizers_or_the_end(
        self, plain: Tokenizer, tiny_model: Path, tmp_path: Path
    ) -> None:
        assert (plain.end, plain.padding) == (0, 1)
        made: Any = AutoTokenizer.from_pretrained(tiny_model)
        made.pad_token = None
        made.save_pretrained(tmp_path)
        assert Tokenizer(str(tmp_path)).padding == 0

    def test_it_moves_as_a_whole(self, plain: Tokenizer) -> None:
        batch = plain(TEXTS, 32).to(torch.device("meta"))
        assert {field.device.type for field in batch} == {"meta"}


class TestLoading:
    def test_a_tokenizer_without_an_end_is_refused(self, tiny_model: Path, tmp_path: Path) -> None:
        made: Any = AutoTokenizer.from_pretrained(tiny_model)
        made.eos_token = None
        made.save_pretrained(tmp_path)
        with pytest.raises(ConfigError) as caught:
            Tokenizer(str(tmp_path))
        assert str(caught.value) == (
            "backbone.model: expected a tokenizer with an end-of-text token, got "
            f"{str(tmp_path)!r}"
        )

    def test_a_model_without_a_tokenizer_is_refused(self, tmp_path: Path) -> None:
        LlamaConfig().save_pretrained(tmp_path)
        with pytest.raises(ConfigError) as caught:
            Tokenizer(str(tmp_path))
        text = str(caught.value)
        start = f"backbone.model: expected a model with its tokenizer, got {str(tmp_path)!r} ("
        assert text.startswith(start)
        assert len(text.splitlines()) == 1


class TestCheckInstructions:
    @pytest.fixture
    def config(self, tiny_model: Path) -> TrialConfig:
        return TrialConfig(backbone=BackboneConfig(model=str(tiny_model), num_layers=3))

    def test_without_any_no_tokenizer_is_loaded(self) -> None:
        check_instructions(TrialConfig(backbone=BackboneConfig(model="nowhere/at-all")))

    def test_short_ones_are_fine(self, config: TrialConfig) -> None:
        values = {f"instructions.{role}": INSTRUCTION for role in ("query", "document", "other")}
        check_instructions(overlay(config, values))

    def test_each_is_told_with_its_own_limit(self, config: TrialConfig, plain: Tokenizer) -> None:
        long = "the cat " * 40
        count = len(plain.rows([long], 500)[0][0]) - 1
        values = {f"instructions.{role}": long for role in ("query", "document", "other")}
        limits = {
            "training.max_query_tokens": 20,
            "training.max_passage_tokens": 30,
            "evaluation.max_tokens": 40,
        }
        with pytest.raises(ConfigError) as caught:
            check_instructions(overlay(config, values | limits))
        assert str(caught.value).splitlines() == [
            f"instructions.{role}: expected less than {limits[name] - 1} tokens, as texts are cut "
            f"at {limits[name]}, got {count}: {long!r}; shorten it or raise {name}"
            for role, name in zip(("query", "document", "other"), limits, strict=True)
        ]

    def test_those_of_data_sets_too(self, config: TrialConfig, plain: Tokenizer) -> None:
        long = "the cat " * 40
        count = len(plain.rows([long], 500)[0][0]) - 1
        own = {"name": "a", "query_instruction": long, "document_instruction": long}
        data = [{"name": "b", "query_instruction": ""}, own]
        limits = {"training.max_query_tokens": 20, "training.max_passage_tokens": 30}
        with pytest.raises(ConfigError) as caught:
            check_instructions(overlay(config, {"training.data": data, **limits}))
        assert str(caught.value).splitlines() == [
            f"training.data.1.{role}_instruction: expected less than {most - 1} tokens, as texts "
            f"are cut at {most}, got {count}: {long!r}; shorten it or raise {name}"
            for role, (name, most) in zip(("query", "document"), limits.items(), strict=True)
        ]

    def test_documents_are_cut_in_training_and_in_scoring(self, config: TrialConfig) -> None:
        values = {"instructions.document": INSTRUCTION, "evaluation.max_tokens": 4}
        with pytest.raises(ConfigError, match=r"; shorten it or raise evaluation\.max_tokens$"):
            check_instructions(overlay(config, values))

    @pytest.mark.parametrize("fits", [True, False])
    def test_the_check_is_what_the_tokenizer_does(
        self, config: TrialConfig, plain: Tokenizer, fits: bool
    ) -> None:
        most = len(plain.rows([""], 64, INSTRUCTION)[0][0]) + (1 if fits else 0)
        values = {"instructions.query": INSTRUCTION, "training.max_query_tokens": most}
        calls = (
            lambda: check_instructions(overlay(config, values)),
            lambda: plain([""], most, INSTRUCTION),
        )
        for call in calls:
            if fits:
                call()
                continue
            with pytest.raises(ConfigError):
                call()

    def test_a_prefix_of_one_token_is_causal(self, config: TrialConfig) -> None:
        values = {"attention.mask": "prefix", "instructions.query": "the "}
        with pytest.raises(ConfigError) as caught:
            check_instructions(overlay(config, values))
        assert str(caught.value) == (
            "attention.mask: expected an instruction of two tokens or more with 'prefix', got "
            "one: it would be causal"
        )
        check_instructions(overlay(config, values | {"instructions.document": "the cat: "}))
