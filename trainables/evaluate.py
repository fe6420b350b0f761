"""Score a model as it is: a public one as a baseline, or a run of ours on other tasks.

MODEL is the folder of a trial, an exported folder, any sentence-transformers model or bare decoder
in a folder or on a hub, or the embedded decoder by name. With --output the scores stand in a
study's results table as a baseline: the report shows them, and no test is made of them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_args

from trainables.config import EvaluationConfig, Split, TokenScope

if TYPE_CHECKING:
    from trainables.evaluation import Evaluation
    from trainables.subjects import Subject

EXAMPLES = """examples:
  python -m trainables.evaluate outputs/first/confirm/0003 --output outputs/first
  python -m trainables.evaluate BAAI/bge-small-en-v1.5 --suite STSBenchmark NFCorpus \\
      --split confirming --output outputs/first
  python -m trainables.evaluate intfloat/e5-small-v2 --prompts "query=query: " "document=passage: "
  python -m trainables.evaluate Qwen/Qwen2-0.5B --pooling mean --max-tokens 256
"""
PACKAGES = ("torch", "transformers", "sentence-transformers", "mteb")
COST = ("trainable_parameters", "head_parameters", "embedding_size", "flops_per_token")
READ_OUTS = tuple(scope for scope in get_args(TokenScope) if scope != "all_tokens")
ROLES = ("query", "document", "other")  # that a text is encoded in


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program: 0, 1 if a task has no score, or 2 if nothing can be scored."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    faults = _faults(arguments)
    if faults:
        sys.stderr.write("\n".join(faults) + "\n")
        return 2
    from trainables.assets import AssetError  # torch takes seconds
    from trainables.config import ConfigError
    from trainables.evaluation import evaluate
    from trainables.export import quiet
    from trainables.runs import RunError
    from trainables.subjects import Options, SubjectError, open_subject

    quiet()
    options = Options(
        pooling=arguments.pooling,
        max_tokens=arguments.max_tokens,
        prompts=dict(each.split("=", 1) for each in arguments.prompts),
        revision=arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )
    try:
        subject = open_subject(arguments.model, options)
    except (AssetError, ConfigError, RunError, SubjectError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    started = time.perf_counter()
    result = evaluate(
        subject.encode, arguments.suite, split=arguments.split, batch_size=arguments.batch_size
    )
    seconds = time.perf_counter() - started
    _say(subject.label, result)
    if arguments.output and result.scores:
        written = write_row(arguments.output, subject, result, arguments.split, seconds)
        sys.stdout.write(f"{written}\n")
    return 1 if result.failures else 0


def _faults(arguments: argparse.Namespace) -> list[str]:
    """Return what is wrong with the options and the tasks, before a model is loaded."""
    from trainables import suites
    from trainables.task_sources import source_faults
    from trainables.tasks import check_tasks

    faults = []
    for each in arguments.prompts:
        role, sign, _ = each.partition("=")
        if role not in ROLES or not sign:
            faults.append(f"--prompts: expected query=, document= or other=TEXT, got {each!r}")
    for name in ("max_tokens", "batch_size"):
        value, least = getattr(arguments, name), 2 if name == "max_tokens" else 1
        if value is not None and value < least:
            option = name.replace("_", "-")
            faults.append(f"--{option}: expected at least {least}, got {value}")
    faults += _output_faults(arguments.output)
    unknown = check_tasks(arguments.suite)
    if twice := suites.fault(arguments.suite):
        unknown.append(f"--suite: {twice}")
    found = [*faults, *unknown, *([] if unknown else source_faults(arguments.suite))]
    return [fault.replace("evaluation.tasks:", "--suite:") for fault in found]


def _output_faults(folder: Path | None) -> list[str]:
    """Return why a row cannot stand there: only a study, or a folder to be made, takes one."""
    if folder is None or not folder.exists():
        return []
    if folder.is_dir() and ((folder / "results").is_dir() or not any(folder.iterdir())):
        return []
    what = "one without results/" if folder.is_dir() else "a file"
    return [f"--output: expected a study's folder or a new one, got {what}: {folder}"]


def _say(label: str, result: Evaluation) -> None:
    lines = [label]
    width = max((len(task) for task in (*result.scores, *result.failures)), default=0)
    for category in sorted(set(result.categories.values())):
        tasks = [t for t, kind in result.categories.items() if kind == category]
        lines.append(f"{category}: {100 * fmean(result.scores[t] for t in tasks):.1f}")
        lines += [f"  {task:{width}} {100 * result.scores[task]:.1f}" for task in tasks]
    lines += [f"{task}: no score: {reason}" for task, reason in result.failures.items()]
    sys.stdout.write("\n".join(lines) + "\n")


def write_row(
    study_folder: Path, subject: Subject, result: Evaluation, split: Split, seconds: float
) -> Path:
    """Write a baseline's row, its items first, into a study's results; return the row's path.

    The same model on the same tasks has one row; a later one replaces it.
    """
    folder = study_folder / "results"
    folder.mkdir(parents=True, exist_ok=True)
    tasks = ",".join(sorted((*result.scores, *result.failures)))
    name = _name(subject, split, tasks)
    items = folder / f"{name}.items.partial"
    result.write_items(items)
    items.replace(folder / f"{name}.items.parquet")
    row = _row(_study(folder), name, subject, result, split, seconds)
    partial = folder / f"{name}.json.partial"
    partial.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return partial.replace(folder / f"{name}.json")


def _name(subject: Subject, split: Split, tasks: str) -> str:
    known = f"{subject.name} {subject.digest} {subject.seed} {subject.steps} {split} {tasks}"
    mark = hashlib.sha256(known.encode()).hexdigest()[:6]
    word = re.sub(r"[^A-Za-z0-9.]+", "-", subject.name).strip("-.")[-60:]
    return f"baseline-{word}-{mark}"


def _study(results: Path) -> str:
    """Return the study's name that the rows there have; without rows, the folder's."""
    for file in sorted(results.glob("*.json")):
        return str(json.loads(file.read_text(encoding="utf-8"))["study"])
    return results.resolve().parent.name


def _row(
    study: str, name: str, subject: Subject, result: Evaluation, split: Split, seconds: float
) -> Mapping[str, Any]:
    """Return a row of the schema in `analysis/README.md`; `seconds` are of the evaluation."""
    return {
        "study": study,
        "trial": name,
        "role": "baseline",
        "digest": subject.digest,
        "design": subject.design,
        "label": subject.label,
        "seed": subject.seed,
        "split": split,
        "status": "failed" if result.failures else "complete",
        "reason": "; ".join(f"{t}: {why}" for t, why in result.failures.items()) or None,
        "steps": subject.steps,
        "total_steps": subject.total_steps,
        "seconds": seconds,
        **{field: subject.cost.get(field) for field in COST},
        "params": dict(subject.params),
        "scores": result.scores,
        "categories": result.categories,
        "failures": result.failures,
        "curve": [],
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = EvaluationConfig()
    add = parser.add_argument
    add("model", metavar="MODEL", help="a folder, a name on a hub, or the embedded decoder's name")
    add(
        "--suite",
        nargs="+",
        default=list(usual.tasks),
        metavar="NAME",
        help=f"suites or tasks, as a search's --tasks (default: {' '.join(usual.tasks)})",
    )
    add(
        "--split",
        choices=get_args(Split),
        default=usual.split,
        help=f"of the suite's two (default: {usual.split})",
    )
    add("--output", type=Path, metavar="FOLDER", help="a study's folder, as in outputs/first")
    add("--pooling", choices=READ_OUTS, help="of a bare decoder, which has none of its own")
    add("--max-tokens", type=int, metavar="N", help="that texts are cut at (the model's own)")
    add(
        "--prompts",
        nargs="+",
        default=[],
        metavar="ROLE=TEXT",
        help="before a query, a document or another text (the model's own)",
    )
    add("--revision", metavar="NAME", help="of a model on a hub")
    add("--batch-size", type=int, default=32, metavar="N", help="texts at a time (default: 32)")
    add(
        "--trust-remote-code",
        action="store_true",
        help="run the Python files that a model brings, as exports of designs of our own do",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
