"""What a command line gives, as the configuration has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.arguments import mix, settings
from cluster.command_line import parser


def test_a_mix_is_given_by_names_or_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.jsonl", "odd=2.jsonl"):
        (tmp_path / name).touch()
    whole = str(tmp_path / "pairs.jsonl")
    given = ["boolq", "pairs.jsonl=2", "odd=2.jsonl", "user/pairs=heavy"]
    assert mix(given) == [
        {"name": "boolq"},
        {"name": whole, "weight": 2},
        {"name": str(tmp_path / "odd=2.jsonl")},
        {"name": "user/pairs", "weight": "heavy"},
    ]
    sets = [{"name": "pairs.jsonl", "query_instruction": "find: "}, {"weight": 2}, 3]
    (tmp_path / "mix.json").write_text(json.dumps(sets))
    assert mix(["mix.json"]) == [{**sets[0], "name": whole}, *sets[1:]]  # type: ignore[dict-item]


def test_a_file_of_deepspeed_settings_is_one_setting_of_the_study(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size":\n 1e6}, "dump_state": false}')
    _, given = settings(parser().parse_args(["--deepspeed", str(file)]))
    text = '{"dump_state":false,"zero_optimization":{"reduce_bucket_size":1000000.0}}'
    assert given == {"engine.deepspeed": text}


def test_the_engine_is_set_by_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('[{"attention.mask": "gradual"}, {"pooling.token_scope": "mean"}]')
    command = [
        *("--sampler", "gp", "--startup", "9", "--pruner", "halving", "--first-rung", "16"),
        *("--eta", "2", "--warm-start", str(tmp_path), "--storage", "sqlite:////s.db"),
        *("--first", "nv_embed", str(file)),
    ]
    study, _ = settings(parser().parse_args(command))
    assert study == {
        "name": "embedded",
        "sampler": "gp",
        "num_startup": 9,
        "pruner": "halving",
        "first_rung": 16,
        "factor": 2,
        "first": ("nv_embed", {"attention.mask": "gradual"}, {"pooling.token_scope": "mean"}),
        "warm_start": str(tmp_path),
        "storage": "sqlite:////s.db",
    }
    several, _ = settings(parser().parse_args(["--objectives", "score", "embedding_size"]))
    assert (several["objectives"], several["pruner"]) == (("score", "embedding_size"), "none")
    assert settings(parser().parse_args([]))[0] == {"name": "embedded", "first": ()}
