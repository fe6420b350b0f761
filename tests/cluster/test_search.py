"""The main job for real: Ray, DeepSpeed, mteb, Optuna and MLflow on a tiny random model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis import registration
from cluster.arguments import mix, settings
from cluster.command_line import parser
from cluster.search import main

ROOT = Path(__file__).resolve().parent.parent.parent
TASKS = ("Lee50STS", "TRECClassification")
SEED = "36"  # the design after the control has no head, those after it have one
TIMEOUT_S = 240


@pytest.fixture(autouse=True)
def mirror(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the one official task that is named here a place, as there is no network."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "NFCorpus").mkdir()
    monkeypatch.setenv("POOLSEARCH_TASKS", str(folder))


@pytest.fixture
def command(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> list[str]:
    """The command line of a search of four designs, one finalist and two seeds."""
    settings = {
        "training.steps": 4,
        "training.report_every": 2,
        "training.batch_size": 4,
        "engine.precision": "fp32",
        "evaluation.max_tokens": 16,
    }
    sets = [f"--set={name}={value}" for name, value in settings.items()]
    return [
        *("--study", "s", "--outputs", str(tmp_path), "--space", "attention"),
        *("--trials", "4", "--finalists", "1", "--seeds", "2", "--at-once", "2", "--seed", SEED),
        *("--model", str(tiny_model), "--layers", "3", "--train-data", str(tiny_pairs)),
        *("--tasks", *TASKS, *sets),
    ]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a search in a process of its own; its console goes to a pipe."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.search", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((folder / "results").glob("*.json"))]


@contextlib.contextmanager
def all_ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the driver and all that it started, as a machine that goes down does."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)
    process.communicate()
    yield


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.embedded
def test_from_command_to_verdict_through_kills_and_failing_designs(
    command: list[str], tmp_path: Path
) -> None:
    command = [*command, "--set=training.head_learning_rate=1e38"]  # a head's loss becomes NaN
    folder = tmp_path / "s"
    interrupt(command, folder)
    kept = kill_driver(command, folder)
    output = finish_without_a_worker(command, folder)

    table = rows(folder)
    assert {row["trial"]: row for row in table}.items() >= kept.items()
    search = [row for row in table if row["split"] == "choosing"]
    confirmed = [row["role"] for row in table if row["split"] == "confirming"]
    assert len(search) == 4
    assert confirmed.count("control") == confirmed.count("finalist") == 2
    failed = [row for row in search if row["status"] == "failed"]
    assert 0 < len(failed) < 3
    for row in search:
        assert (row["params"]["pooling.head"] != "none") == (row in failed)
    assert all("expected" in row["reason"] and "finite" in row["reason"] for row in failed)
    assert not any(row["scores"] for row in failed)
    assert all(set(row["scores"]) == set(TASKS) for row in table if row["status"] == "complete")
    check_optuna(folder, search)
    check_mlflow(tmp_path, table)
    assert "untrained" in (folder / "report.html").read_text()
    assert not list(folder.glob("*/*/checkpoints"))
    assert len(output.splitlines()) < 40

    again = finish(start(command))
    assert "search: all 4 trials are done" in again
    assert f"confirm: all {len(confirmed)} trials are done" in again
    assert rows(folder) == table
    check_plan(folder, search)


def check_plan(folder: Path, search: list[dict[str, Any]]) -> None:
    """The confirmation was planned from the search, and the plan's hash is in MLflow."""
    plan, sha256 = registration.read(folder) or pytest.fail("no plan")
    assert plan.sha256 == sha256
    assert [design.role for design in plan.designs] == ["control", "finalist"]
    assert {task for names in plan.tasks.values() for task in names} == set(TASKS)
    assert set(plan.winners.values()) == {plan.designs[1].label}
    assert plan.designs[1].design in {row["design"] for row in search}
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.plan_sha256 = '{sha256}'")
    assert run.data.tags["kind"] == "search"


@pytest.mark.slow
@pytest.mark.embedded
def test_a_factorial_goes_from_tuning_to_contrasts_through_a_kill(
    command: list[str], tmp_path: Path
) -> None:
    start_of = command.index("--trials")
    factors = ("attention.key_value_heads", "pooling.token_scope")
    changed = [*command[:start_of], *command[start_of + 4 :]]  # no trials, no finalists
    changed += ["--mode", "factorial", "--factors", *factors, "--fraction", "2", "--tune", "2"]
    folder = tmp_path / "s"
    kept = kill_driver(changed, folder)
    output = finish(start(changed))
    table = rows(folder)
    assert {row["trial"]: row["scores"] for row in table}.items() >= {
        name: row["scores"] for name, row in kept.items()
    }.items()
    roles = [row["role"] for row in table]
    assert [roles.count(role) for role in ("tuning", "control", "cell")] == [4, 2, 2]
    assert {(row["role"] == "tuning", row["split"]) for row in table} == {
        (True, "choosing"),
        (False, "confirming"),
    }
    tuned: dict[str, Any] = {}
    for row in (row for row in table if row["role"] == "tuning"):
        score = sum(row["scores"].values())
        tuned[row["design"]] = max(
            tuned.get(row["design"], (0.0, {})), (score, row["params"]), key=lambda pair: pair[0]
        )
    for row in (row for row in table if row["role"] != "tuning"):
        assert row["params"] == tuned[row["design"]][1]
    assert "Of 2 contrasts of cells with the control (1 of them), " in output
    assert "Cell against the control" in (folder / "report.html").read_text()
    assert len((folder / "search.log").read_text().splitlines()) > len(table) * 2


def interrupt(command: Sequence[str], folder: Path) -> None:
    """Press Ctrl-C when a trial has a checkpoint."""
    process = start(command)
    wait_for(lambda: list((folder / "search").glob("*/checkpoints/latest")), process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command continues where this left off." in output
    assert "Traceback" not in output


def kill_driver(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Kill the driver and all that it started when a row is there; return the rows."""
    process = start(command)
    wait_for(lambda: list((folder / "results").glob("*.json")), process)
    with all_ended(process):
        return {row["trial"]: row for row in rows(folder)}


def finish_without_a_worker(command: Sequence[str], folder: Path) -> str:
    """Finish the search, killing one worker as soon as it is there."""
    process = start(command)
    family = psutil.Process(process.pid)

    def workers() -> list[psutil.Process]:
        found = []
        for member in family.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [member] if "TrialWorker.advance" in " ".join(member.cmdline()) else []
        return found

    wait_for(workers, process)
    workers()[0].kill()
    return finish(process)


def check_optuna(folder: Path, search: list[dict[str, Any]]) -> None:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.load_study(study_name="s-search", storage=storage)
    states = {t.number: t.state.name for t in study.trials if "config" in t.user_attrs}
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    assert states == {int(row["trial"][-4:]): names[row["status"]] for row in search}


def check_mlflow(outputs: Path, table: list[dict[str, Any]]) -> None:
    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("poolsearch")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = {run.data.tags["trial"]: run for run in runs if run is not parent}
    assert children.keys() == {row["trial"] for row in table}
    assert parent.info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    for row in table:
        run = children[row["trial"]]
        assert run.data.params["attention.mask"] == row["params"]["attention.mask"]
        for task, score in row["scores"].items():
            assert run.data.metrics[f"{row['categories'][task]}.{task}"] == score
        if row["status"] == "complete":
            assert run.data.metrics["flops_per_token"] == row["flops_per_token"] > 0


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


def test_a_file_of_deepspeed_settings_is_one_setting_of_the_study(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size":\n 1e6}, "dump_state": false}')
    _, given = settings(parser().parse_args(["--deepspeed", str(file)]))
    text = '{"dump_state":false,"zero_optimization":{"reduce_bucket_size":1000000.0}}'
    assert given == {"engine.deepspeed": text}


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
