"""What sentence-transformers makes of an exported trial, in a process that knows nothing of us."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from tokenizers import processors
from transformers import AutoModel, AutoTokenizer, MistralConfig, MistralModel

from tests.trainables import finished
from tests.trainables.finished import MAX_TOKENS, design, write_run
from trainables import export as program
from trainables import runs
from trainables.build import load_decoder
from trainables.config import BackboneConfig, EngineConfig
from trainables.evaluation import task_names
from trainables.exported import card as cards
from trainables.exported.check import DifferenceError, compare
from trainables.exported.exporting import export
from trainables.exported.tokenization import ending_tokenizer
from trainables.model import kv_heads
from trainables.tokenizer import Tokenizer

pytestmark = pytest.mark.slow  # half of it is one process that loads all of them

TEXTS = [
    "the heron sleeps by the river",
    "",
    "a",
    "  an otter, at dawn \n",
    "where does the badger of the quarry sleep, and who told the otter of the forest? " * 3,
    "鷺は川で眠る",
    "query: the cat",
    "the cat of the meadow sleeps all winter, under an old tree",
]
PROMPTS = {"instructions.query": "find a passage: ", "instructions.document": "passage: "}
WIDE = {"pooling.token_scope": "all_tokens"}
NATIVE: dict[str, dict[str, Any]] = {
    "causal_last": {},
    "causal_prompts": {**PROMPTS, "instructions.other": "text: "},
    "bidirectional_mean": {"attention.mask": "bidirectional", "pooling.token_scope": "mean"},
    "gradual": {"attention.mask": "gradual", "pooling.token_scope": "mean"},
    "weighted_projected": {"pooling.token_scope": "weighted_mean", "pooling.output_size": 20},
    "truncated": {"pooling.token_scope": "mean", "pooling.truncate_to": 16},
    "projected_truncated": {"pooling.output_size": 20, "pooling.truncate_to": 8},
    "multi_query": {
        "attention.mask": "bidirectional",
        "attention.key_value_heads": "multi_query",
        "pooling.token_scope": "weighted_mean",
    },
    "multi_head_cut": {"attention.key_value_heads": "multi_head", "backbone.num_layers": 2},
    "eager": {"engine.attn_implementation": "eager"},
}
OWN: dict[str, dict[str, Any]] = {
    "prefix": {**PROMPTS, "attention.mask": "prefix"},
    "last_k": {"attention.mask": "last_k_bidirectional", "pooling.token_scope": "mean"},
    "window": {"attention.mask": "sliding_window", "pooling.token_scope": "mean"},
    "latent_readout": {"attention.mask": "latent_readout", "pooling.token_scope": "mean"},
    "two_stream": {"attention.mask": "two_stream", "pooling.token_scope": "mean"},
    "two_stream_eager": {"attention.mask": "two_stream", "engine.attn_implementation": "eager"},
    "cross_attention": {**WIDE, "pooling.head": "cross_attention", "pooling.layers": "all"},
    "latent_attention": {
        **WIDE,
        "pooling.head": "latent_attention",
        "pooling.hidden_size": None,
        "pooling.ffn_size": None,
        "attention.mask": "bidirectional",
    },
    "self_attention": {
        **WIDE,
        "pooling.head": "self_attention",
        "pooling.match_parameters": 12_000,
        "pooling.truncate_to": 12,
    },
    "scalar_mix": {"pooling.head": "scalar_mix", "pooling.layers": "1,2"},
    "middle": {"pooling.layers": "2", "pooling.token_scope": "mean", "pooling.output_size": 20},
    "multi_query_latents": {
        **WIDE,
        "attention.mask": "latent_readout",
        "attention.key_value_heads": "multi_query",
        "pooling.head": "cross_attention",
    },
    "instruction_excluded": {
        **PROMPTS,
        "attention.mask": "bidirectional",
        "pooling.token_scope": "weighted_mean",
        "pooling.include_instruction": False,
    },
    "own_windows": {"attention.mask": "bidirectional", "pooling.token_scope": "mean"},
}
DESIGNS = {**NATIVE, **OWN}

FRESH = """
import importlib.abc, json, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"trainables", "tests", "jaxtyping"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy
from pathlib import Path
from sentence_transformers import SentenceTransformer
task = json.loads(Path("task.json").read_text())
vectors = {}
for name, is_native in task["folders"].items():
    model = SentenceTransformer(name, device="cpu", trust_remote_code=not is_native)
    for role in ("encode", "encode_query", "encode_document"):
        vectors[f"{name} {role}"] = getattr(model, role)(task["texts"], batch_size=5)
numpy.savez("vectors.npz", **vectors)
widths = {name: SentenceTransformer(
    name, trust_remote_code=True).get_embedding_dimension() for name in task["widths"]}
found = {"widths": widths, "jaxtyping": "jaxtyping" in sys.modules, "shapes": {}}
for name in task["cards"]:
    scope = {}
    for code in Path(name, "README.md").read_text().split("```python\\n")[1:]:
        exec(code.split("```")[0], scope)
    found["shapes"][name] = list(scope["vectors"].shape)
Path("found.json").write_text(json.dumps(found))
"""


def quiet(line: str) -> None:
    """Take an export's progress without showing it."""


@pytest.fixture(scope="module")
def windowed_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Return the folder of a random Mistral that was made for windows of 6 tokens."""
    folder = tmp_path_factory.mktemp("windowed")
    settings = MistralConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        MistralModel(settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, windowed_model: Path) -> Path:
    """Return a folder that holds every design's run and, under its name, what was exported."""
    folder = tmp_path_factory.mktemp("exported")
    for name, values in DESIGNS.items():
        model = windowed_model if name == "own_windows" else tiny_model
        write_run(folder / "runs" / name, design(model, values))
        export(folder / "runs" / name, folder / name, log=quiet)
    return folder


@pytest.fixture(scope="module")
def fresh(root: Path) -> dict[str, Any]:
    """Return what a process found that has only the exported folders."""
    task = {
        "folders": {name: name in NATIVE for name in DESIGNS},
        "texts": TEXTS,
        "widths": ["projected_truncated", "self_attention"],
        "cards": ["causal_last", "window"],
    }
    (root / "task.json").write_text(json.dumps(task))
    (root / "fresh.py").write_text(FRESH)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | offline
    done = subprocess.run(
        [sys.executable, "fresh.py"], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((root / "found.json").read_text())
    found["vectors"] = dict(np.load(root / "vectors.npz"))
    return found


@pytest.mark.parametrize("name", DESIGNS)
def test_vectors_equal_ours(root: Path, fresh: dict[str, Any], name: str) -> None:
    run = runs.load(root / "runs" / name)
    given = run.config.instructions
    roles = {"encode": given.other, "encode_query": given.query, "encode_document": given.document}
    for role, instruction in roles.items():
        ours = run.encode(TEXTS, MAX_TOKENS, instruction).numpy()
        theirs = fresh["vectors"][f"{name} {role}"]
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    assert len(np.unique(theirs.round(3), axis=0)) == len(TEXTS)


def test_widths_are_known(fresh: dict[str, Any]) -> None:
    assert fresh["widths"] == {"projected_truncated": 8, "self_attention": 12}


def test_cards_show_what_runs(fresh: dict[str, Any]) -> None:
    assert fresh["shapes"] == {"causal_last": [2, 48], "window": [2, 48]}


def test_nothing_stands_for_jaxtyping_afterwards(fresh: dict[str, Any]) -> None:
    assert not fresh["jaxtyping"]


@pytest.mark.parametrize("name", DESIGNS)
def test_folders_hold_code_only_where_it_is_needed(root: Path, name: str) -> None:
    code = {file.name for file in (root / name).rglob("*.py")}
    assert (not code) if name in NATIVE else {"poolsearch_module.py", "backbone.py"} <= code
    assert not list((root / name).rglob("__pycache__"))
    for file in (root / name).rglob("*.json"):
        assert str(root) not in file.read_text()
    for file in (root / name).rglob("*"):
        assert file.stat().st_mode & 0o044 == 0o044


@pytest.mark.parametrize("name", ["scalar_mix", "latent_readout"])
def test_what_sentence_transformers_saves_is_the_same_model(
    root: Path, tmp_path: Path, name: str
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(root / name), device="cpu", trust_remote_code=True)
    model.save(str(tmp_path / "again"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


# PEFT 0.21 asks a decoder for a name that transformers is giving up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["causal_last", "multi_query", "scalar_mix"])
def test_the_adapter_fits_the_cut_decoder(root: Path, tiny_model: Path, name: str) -> None:
    run = runs.load(root / "runs" / name)
    depth = len(run.embedder.backbone.decoder.layers)
    base = load_decoder(
        BackboneConfig(model=str(tiny_model), num_layers=depth), EngineConfig(precision="fp32")
    )
    kv_heads.convert(base, run.config.attention.key_value_heads)
    adapted = PeftModel.from_pretrained(base, root / name / "adapter")
    merged = AutoModel.from_pretrained(root / name, is_causal=True)
    ids = torch.arange(24).reshape(2, 12)
    found, wanted = (model(ids).last_hidden_state for model in (adapted, merged))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert adapted.peft_config["default"].to_dict()["r"] == 4


def test_bf16_halves_the_weights(root: Path, tmp_path: Path) -> None:
    for name in ("weighted_projected", "cross_attention"):
        facts = export(root / "runs" / name, tmp_path / name, "bf16", log=quiet)
        sizes = [(f / name / "model.safetensors").stat().st_size for f in (tmp_path, root)]
        assert 0.49 < sizes[0] / sizes[1] < 0.51
        assert 1e-5 < facts.difference < 0.05
        assert "The weights are in bf16" in (tmp_path / name / "README.md").read_text()


def test_the_card_says_what_was_found(root: Path) -> None:
    card = ModelCard.load(root / "instruction_excluded" / "README.md")
    score = card.data.eval_results[0]
    assert (score.dataset_name, score.task_type) == ("STS22", "STS")
    assert (score.metric_value, score.dataset_split) == (pytest.approx(51.234), "choosing")
    assert len(card.data.eval_results) == 1
    assert card.data.to_dict()["library_name"] == "sentence-transformers"
    assert "custom_code" in card.data.tags
    assert "base_model" not in card.data.to_dict()  # it came from a folder
    text = " ".join(card.text.split())
    for said in (
        "**bidirectional, weighted_mean without instruction, none**",
        "| STS | STS22 | 51.23 |",
        "- `NFCorpus`: ValueError: no \\| text at all",
        '"find a passage: " and "passage: "',
        "| `objective.temperature` | `0.05` |",
        "| of them in the pooling | 0 |",
        "torch 2.13.0, mteb 2.26.24",
        "trust_remote_code=True",
        "Texts are cut at 20 tokens",
        "Queries were cut at 16",
    ):
        assert said in text


def test_a_card_without_scores_shows_none(tmp_path: Path, tiny_model: Path) -> None:
    write_run(tmp_path / "run", design(tiny_model, {}))
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    outcome |= {"scores": {}, "categories": {}, "adaptation": {"first_loss": 9.0, "last_loss": 5}}
    (tmp_path / "run" / "outcome.json").write_text(json.dumps(outcome))
    export(tmp_path / "run", tmp_path / "model", log=quiet)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.eval_results is None
    assert "No task was scored." in card.text
    assert "whose loss went from 9.00 to 5.00 nats" in card.text


@pytest.mark.parametrize(
    ("tasks", "scored", "are_halves"),
    [
        (("proxy",), "on whole tasks that a search chooses by", False),
        (("STS17",), "on the half of the items that a search chooses by", True),
        (("proxy", "STS17"), "on tasks, or halves of their items, that a search", True),
    ],
)
def test_a_card_tells_whole_tasks_from_halves(
    tiny_model: Path, tasks: tuple[str, ...], scored: str, are_halves: bool
) -> None:
    config = design(tiny_model, {"evaluation.tasks": tasks})
    names = task_names(tasks, "choosing")
    found = dataclasses.replace(
        finished.outcome(config),
        scores=dict.fromkeys(names, 0.5),
        categories=dict.fromkeys(names, "STS"),
    )
    facts = cards.Facts(
        name="model",
        is_native=True,
        num_layers=3,
        max_tokens=20,
        precision="fp32",
        difference=0.0,
        is_local=True,
    )
    text = cards.card(config, found, facts)
    assert scored in text
    assert ("Halves cannot be compared" in text) is are_halves


def added(before: list[str], after: list[str]) -> Any:
    """Return a post-processor that puts special tokens around a text."""
    single = " ".join([*before, "$A", *after])
    numbers = {"<end>": 0, "<pad>": 1}
    return processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=list(numbers.items())
    )


TOKENIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bare": (None, {}),
    "bytes": (processors.ByteLevel(trim_offsets=True), {}),
    "begins": (added(["<pad>"], []), {}),
    "begins_bytes": (
        processors.Sequence([processors.ByteLevel(trim_offsets=True), added(["<pad>"], [])]),
        {},
    ),
    "ends": (added([], ["<end>"]), {}),
    "begins_ends": (added(["<pad>"], ["<end>"]), {}),
    "left": (added(["<pad>"], []), {"padding_side": "left", "truncation_side": "left"}),
    "no_padding": (None, {"pad_token": None}),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_end_as_ours_do(tmp_path: Path, tiny_model: Path, name: str) -> None:
    processor, settings = TOKENIZERS[name]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, **settings)
    if processor is not None:
        tokenizer.backend_tokenizer.post_processor = processor
    tokenizer.save_pretrained(tmp_path / "ours")
    ending_tokenizer(str(tmp_path / "ours"), 12).save_pretrained(tmp_path / "theirs")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    found = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt")
    wanted = Tokenizer(str(tmp_path / "ours"))(TEXTS, 12)
    assert set(found) == {"input_ids", "attention_mask"}
    assert torch.equal(found["input_ids"], wanted.ids)
    assert torch.equal(found["attention_mask"].bool(), wanted.real)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prompts_tokens_are_ours(tmp_path: Path, tiny_model: Path, name: str) -> None:
    from trainables.exported.poolsearch_module import PoolsearchModule

    processor, settings = TOKENIZERS[name]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, **settings)
    if processor is not None:
        tokenizer.backend_tokenizer.post_processor = processor
    tokenizer.save_pretrained(tmp_path)
    theirs = ending_tokenizer(str(tmp_path), 30)
    module = PoolsearchModule(None, theirs, {}, tmp_path, torch.nn.Identity())
    for prompt in ("query: ", "find\n", "of the riv"):
        wanted = Tokenizer(str(tmp_path))(TEXTS, 30, prompt)
        found = module.preprocess(TEXTS, prompt)
        assert torch.equal(found["instruction_mask"], wanted.instruction)
    assert not module.preprocess(TEXTS)["instruction_mask"].any()


def test_another_model_is_not_let_through(root: Path) -> None:
    run = runs.load(root / "runs" / "causal_last")
    wrong = {"": run.encode(["another text"] * 5, MAX_TOKENS)}
    with pytest.raises(DifferenceError, match="vectors: expected the run's to 1e-05 after"):
        compare(root / "causal_last", wrong, MAX_TOKENS, "fp32")
    wrong = {"": wrong[""][:, :3]}
    with pytest.raises(DifferenceError, match=r"expected shape \[5, 3\], got \[5, 48\]"):
        compare(root / "causal_last", wrong, MAX_TOKENS, "fp32")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the program, whose silence ends with the test."""
    monkeypatch.setattr(program, "quiet", lambda: None)
    return program.main


def test_the_program_says_how_to_load(
    root: Path, tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert command([str(root / "runs" / "window"), str(tmp_path / "empty")]) == 0
    said = capsys.readouterr().out
    assert f'SentenceTransformer("{tmp_path}/empty", trust_remote_code=True)' in said
    assert (tmp_path / "empty" / "modules.json").is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_faults_end_the_program(
    root: Path, tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([str(root / "runs" / "window"), str(root / "window")]) == 2
    assert capsys.readouterr().err == (
        f"{root}/window: expected a new or an empty folder, got one with files in it; "
        "name another one, or remove it first\n"
    )
    assert command([str(tmp_path / "none"), str(tmp_path / "new")]) == 2
    assert "expected the folder of a finished trial, got no folder" in capsys.readouterr().err
    assert command([str(root / "runs" / "window"), str(root / "task.json")]) == 2
    assert "expected a folder, got a file; name another one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "python -m trainables.export outputs/embedded/confirm/0001 my-model" in said


@pytest.mark.embedded
def test_the_embedded_model(tmp_path: Path) -> None:
    values = {
        "backbone.num_layers": 6,
        "attention.mask": "bidirectional",
        "pooling.token_scope": "mean",
        **PROMPTS,
    }
    write_run(tmp_path / "run", design(Path("smollm2-135m"), values))
    facts = export(tmp_path / "run", tmp_path / "model", log=quiet)
    assert facts.difference < 1e-5
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    adapter = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == card.data.base_model
