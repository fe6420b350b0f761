"""From a finished trial's folder to an exported one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from trainables import runs
from trainables.assets import AssetError
from trainables.build import DTYPES
from trainables.config import ConfigError, Precision
from trainables.exported import check
from trainables.exported.card import Facts, card
from trainables.exported.decoder import merge, write_adapter
from trainables.exported.folder import is_native, max_tokens, write
from trainables.exported.tokenization import ending_tokenizer

Log = Callable[[str], None]


class ExportError(ValueError):
    """A model cannot be exported to where it was asked for."""


ERRORS = (AssetError, ConfigError, ExportError, check.DifferenceError, runs.RunError)


def export(run_folder: Path, folder: Path, precision: Precision = "fp32", *, log: Log) -> Facts:
    """Write the trial of `run_folder` into `folder`, which ends complete or absent.

    Raises:
        ExportError: If `folder` exists and is not empty.
        RunError: If `run_folder` is not that of a finished trial.
        DifferenceError: If the exported model's vectors are not the trial's.
    """
    folder = folder.absolute()
    _refuse(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=folder.parent) as temporary:
        written = Path(temporary) / folder.name
        written.mkdir()
        facts = _write(run_folder, written, precision, log)
        for file in written.rglob("*.safetensors"):
            file.chmod(0o644)  # they are saved as private
        written.replace(folder)
    return facts


def _refuse(folder: Path) -> None:
    if folder.is_file():
        raise ExportError(f"{folder}: expected a folder, got a file; name another one")
    if folder.is_dir() and any(folder.iterdir()):
        raise ExportError(
            f"{folder}: expected a new or an empty folder, got one with files in it; name another "
            "one, or remove it first"
        )


def _write(run_folder: Path, folder: Path, precision: Precision, log: Log) -> Facts:
    log(f"loading {run_folder}")
    run = runs.load(run_folder)
    config, outcome, limit = run.config, run.outcome, max_tokens(run)
    decoder, native = run.embedder.backbone.decoder, is_native(run)
    num_layers = len(decoder.layers)
    expected = check.vectors(run)
    log(f"writing the model in {precision}")
    write_adapter(run, folder / "adapter")
    merge(decoder)
    run.embedder.to(DTYPES[precision])
    write(run, ending_tokenizer(config.backbone.model, limit), folder)
    del run, decoder  # before the model is loaded again
    log("comparing its vectors with the trial's")
    facts = Facts(
        name=folder.name,
        is_native=native,
        num_layers=num_layers,
        max_tokens=limit,
        precision=precision,
        difference=check.compare(folder, expected, limit, precision),
        is_local=Path(config.backbone.model).is_dir(),
    )
    (folder / "README.md").write_text(card(config, outcome, facts), encoding="utf-8")
    return facts
