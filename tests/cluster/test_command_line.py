"""The command line of a search: what it gives, what is refused, what a dry run says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cluster.search import main


@pytest.fixture(autouse=True)
def mirror(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the one official task that is named here a place, as there is no network."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "NFCorpus").mkdir()
    monkeypatch.setenv("POOLSEARCH_TASKS", str(folder))


def test_all_faults_come_in_one_message_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(
        [
            *("--space", "both", "--trials", "-3", "--model", str(tmp_path / "none")),
            *("--tasks", "Lee50", "--train-data", "pairs.jsonl", "--outputs", str(tmp_path)),
            *("--set", "poling.head=none", "--set", "training.batch_size=-1"),
            *("--set", "evaluation.split=confirming", "--set", "pooling.ffn_size=0"),
            *("--at-once", "-1", "--confirm-under", "trian"),
            *("--max-losses", "0", "--hang-timeout", "soon"),
        ]
    )
    message = capsys.readouterr().err
    assert code == 2
    spaces = "'attention', 'pooling', 'joint', 'literature'"
    assert f"--space: expected one of {spaces}, got 'both'" in message
    assert "--trials: expected at least 1, got -3" in message
    assert "poling.head: not a parameter; did you mean 'pooling.head'?" in message
    assert "training.batch_size: expected at least 2, got -1" in message
    assert "--model (backbone.model): expected 'smollm2-135m', a model folder or" in message
    assert "--tasks (evaluation.tasks): " in message
    assert "evaluation.split: the search takes the choosing half" in message
    assert "--train-data (training.data.0.name): expected a file, got 'pairs.jsonl'" in message
    assert "pooling.ffn_size: expected at least 1, got 0" in message
    assert "--at-once: expected at least 1, got -1" in message
    assert "--confirm-under: expected one of 'tune', 'train', got 'trian' (did you mean" in message
    assert "--max-losses: expected at least 1, got 0" in message
    assert "--hang-timeout: expected a number, got 'soon'" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.jsonl=0", "b.jsonl=x"], [
            "--train-data (training.data.0.weight): expected more than 0, got 0",
            "--train-data (training.data.1.weight): expected a number, got 'x'",
        ]),
        (["mix.json"], [
            "--train-data (training.data.0.wieght): not a parameter; did you mean 'weight'?"
        ]),
        (
            ["no.json"],
            [
                "--train-data (training.data): expected a list of data sets, got \"no.json: "
                "[Errno 2] No such file or directory: 'no.json'\""
            ],
        ),
    ],
)  # fmt: skip
def test_a_bad_mix_is_named(
    given: list[str],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mix.json").write_text(json.dumps([{"name": str(tiny_pairs), "wieght": 2}]))
    arguments = [
        *("--model", str(tiny_model), "--layers", "3", "--train-data", *given),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path)),
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == expected


def test_the_search_tokenises_before_it_starts(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in tiny_pairs.read_text().splitlines()]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    arguments = [
        *("--model", str(tiny_model), "--layers", "3", "--tasks", "NFCorpus"),
        *("--train-data", f"{tmp_path}/few.jsonl=0.1", str(tiny_pairs)),
        *("--outputs", str(tmp_path / "out"), "--dry-run"),
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        "training.batch_size: expected at most 11, the rows of few.jsonl found whose texts all "
        "differ, got 16"
    ]
    assert main([*arguments, "--set", "training.batch_size=8"]) == 0
    assert not (tmp_path / "out").exists()


def test_too_many_layers_are_refused(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "9"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path)),
    ]
    assert main(arguments) == 2
    expected = (
        f"--layers (backbone.num_layers): expected at most 3, the layers of {tiny_model}, got 9"
    )
    assert expected in capsys.readouterr().err


def test_what_the_space_varies_is_not_the_users_to_fix(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path), "--set", "attention.mask=causal"),
    ]
    assert main(arguments) == 2
    expected = "attention.mask: the space varies it; leave it out or take another space"
    assert capsys.readouterr().err.strip() == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "--deepspeed: expected a file, got '{file}'"),
        ("{", "--deepspeed (engine.deepspeed): expected a JSON object, got '{{'"),
        (
            '{"optimizer": {}, "dump_state": true}',
            "--deepspeed (engine.deepspeed): expected only settings that no field makes, got "
            "optimizer (set training.learning_rate and training.weight_decay)",
        ),
        (
            '{"zero_optimization": {"reduce_bucket": 5, "allgather_bucket_size": -1}}',
            "--deepspeed (engine.deepspeed): expected settings that DeepSpeed takes, got "
            "zero_optimization.allgather_bucket_size (Input should be greater than or equal "
            "to 0), zero_optimization.reduce_bucket (Extra inputs are not permitted)",
        ),
    ],
)
def test_deepspeed_settings_that_cannot_be_taken_are_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    text: str | None,
    fault: str,
) -> None:
    file, outputs = tmp_path / "ds.json", tmp_path / "out"
    if text is not None:
        file.write_text(text)
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "9"),
        *("--tasks", "NFCorpus", "--outputs", str(outputs), "--deepspeed", str(file)),
    ]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # the other is that of the layers
    assert fault.format(file=file) in lines
    assert not outputs.exists()


def test_faults_of_the_surroundings_stand_with_those_of_the_settings(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    tiny_pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.delenv("POOLSEARCH_TASKS")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "9"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path), "--address", "127.0.0.1:9"),
        *("--mode", "factorial", "--trials", "9", "--fraction", "1", "--tune", "1"),
    ]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "--address",
        "--fraction",
        "--layers (backbone.num_layers)",
        "--tasks (evaluation.tasks)",
        "--trials",
        "--tune",
        "MLFLOW_TRACKING_URI",
    ]
    assert not list(tmp_path.iterdir())


def test_what_only_a_factorial_reads_is_refused_without_it(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path), "--tune", "4", "--fraction", "8"),
    ]
    assert main(arguments) == 2
    reason = "expected with mode 'factorial' only; add --mode factorial, or leave it out"
    assert capsys.readouterr().err.splitlines() == [f"--fraction: {reason}", f"--tune: {reason}"]


def test_a_known_design_that_cannot_be_built_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path / "out"), "--dry-run"),
    ]
    file = tmp_path / "mine.json"
    file.write_text('{"pooling.layers": "last_9", "pooling.head": "scalar_mix"}')
    assert main([*arguments, "--first", "llm2vec", str(file), "--warm-start", "none"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "--first (first.1.pooling.layers)",
        "--warm-start",
    ]
    expected = ": expected a study's folder, a name in the outputs folder, or a database"
    assert expected in lines[1]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_starts_nothing(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path / "out"), "--dry-run"),
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "nothing was started" in said
    assert len(said.splitlines()) <= 24
    assert "confirm: the best 2 and the control" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_factorial_says_what_can_be_told(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    arguments = [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path / "out"), "--dry-run"),
        *("--mode", "factorial", "--fraction", "12", "--tune", "4", "--space", "attention"),
    ]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "a D-optimal fraction of 12 of " in said
    assert "effects (the mean, main effects) can be told" in said
    assert "4 settings tuned in each, then 3 seeds of each, in 3 blocks by lot" in said
    assert re.search(r"time +tune .* min, cells .* min", said)
    assert not (tmp_path / "out").exists()
