"""A small random Llama with a real tokenizer, and pairs to train it on: all made here, no network.

It imports neither deepspeed, ray nor mteb, so that the GPU tests run on a machine without them.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Shapes are checked wherever tensors go in and out; before anything imports these modules.
if importlib.util.find_spec("beartype"):  # a machine that only has a GPU may do without
    install_import_hook(["trainables.model", "trainables.objective"], "beartype.beartype")

# Small models gain nothing from more threads, which wait for each other when the machine is busy.
torch.set_num_threads(1)

ANIMALS = ("cat", "dog", "heron", "otter", "badger")
PLACES = ("river", "forest", "harbour", "meadow", "quarry", "station")
TIMES = ("at dawn", "all winter")


CACHE = "POOLSEARCH_CACHE"
USUAL_CACHE = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "poolsearch")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokenise into a cache that starts empty, in this process and in those that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ[CACHE] = str(folder)
    yield folder
    del os.environ[CACHE]


@pytest.fixture(scope="session")
def usual_cache() -> Path:
    """Return where the embedded assets were fetched once."""
    return USUAL_CACHE


@pytest.fixture(autouse=True)
def embedded_assets(
    request: pytest.FixtureRequest, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a test that needs the embedded assets find them."""
    if "embedded" in request.keywords:
        monkeypatch.setenv(CACHE, str(USUAL_CACHE))


def _sentences() -> list[tuple[str, str, str]]:
    """Return (query, positive, negative) texts; no text occurs twice."""
    return [
        (
            f"where does the {animal} of the {place} sleep {time}?",
            f"the {animal} sleeps by the {place} {time}, under an old tree",
            f"a {place} without any {animal} is a quiet place {time}",
        )
        for animal, place, time in itertools.product(ANIMALS, PLACES, TIMES)
    ]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama: 3 layers, width 48, 4 heads over 2 key heads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(itertools.chain.from_iterable(_sentences()), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, eos_token="<end>", pad_token="<pad>"
    ).save_pretrained(folder)
    settings = LlamaConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=2112,  # ZeRO stage 3 leaves tensors of less than 100,000 numbers whole
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.2,  # so that a layer changes something
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaModel(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a JSONL file of 60 rows with one hard negative each."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"query": q, "positive": p, "negatives": [n]} for q, p, n in _sentences()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
