"""A finished trial's folder, read back: its configuration, its model and what it scored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trainables import checkpoint, designs
from trainables.assets import AssetError
from trainables.build import assemble, load_decoder
from trainables.config import ConfigError, TrialConfig
from trainables.model.embedder import Embedder
from trainables.overlay import from_dict
from trainables.tokenizer import Tokenizer
from trainables.trial import Outcome

CONFIG, WEIGHTS, OUTCOME = "config.json", "weights.safetensors", "outcome.json"
CHECKPOINTS, OURS = "checkpoints", "embedder."  # what the engine trains has the temperature too
NO_OUTCOME = Outcome(
    scores={},
    categories={},
    failures={},
    items="",
    cost={},
    adaptation={},
    seconds=0.0,
    versions={},
)
SHOWN = 5  # tensors that do not fit, before "and N more"


class RunError(ValueError):
    """A folder cannot be used as a finished trial's; one line for each fault."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished trial."""

    config: TrialConfig  # as it was trained and scored
    embedder: Embedder  # in fp32 on the CPU, LoRA beside the frozen weights
    final_norm: nn.Module  # the decoder's own, which a read-out of middle layers leaves out
    tokenizer: Tokenizer
    outcome: Outcome

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], max_tokens: int, instruction: str = ""
    ) -> Float[Tensor, "texts width"]:
        """Return the embeddings of `texts` as one batch."""
        embeddings: Tensor = self.embedder(*self.tokenizer(texts, max_tokens, instruction))
        return embeddings


def is_trial(folder: Path) -> bool:
    """Whether a folder's configuration is a trial's and not a model's.

    Raises:
        RunError: If it is no JSON object.
    """
    file = folder / CONFIG
    if not file.is_file():
        return False
    try:
        values = _read_object(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: expected a JSON object, got a damaged file ({error})") from error
    return "backbone" in values and "evaluation" in values


def trials_in(study: Path) -> list[Path]:
    """Return the folders of a study's trials; none for another folder."""
    return [folder for folder in sorted(study.glob("*/[0-9]*")) if is_trial(folder)]


def load(folder: Path) -> Run:
    """Return the trial that finished in `folder`, in fp32 whatever it was trained in.

    Raises:
        RunError: With every fault of the folder, or what keeps its model from being built.
    """
    return _build(folder, *_read(folder))


def load_unfinished(folder: Path) -> tuple[Run, int]:
    """Return the trial of a folder as its newest checkpoint has it, without scores, and the step.

    Raises:
        RunError: If there is no whole checkpoint, or its model cannot be built.
    """
    try:
        config = _read_config(folder / CONFIG)
        found = checkpoint.read_weights(folder / CHECKPOINTS)
    except (OSError, ValueError, checkpoint.CheckpointError) as error:
        raise RunError(f"{folder}: {error}") from error
    if found is None:
        raise RunError(
            f"{folder}: expected a trial that has finished ({WEIGHTS}, {OUTCOME}) or has a "
            f"checkpoint ({CHECKPOINTS}/{checkpoint.LATEST}), got neither; continue the search, "
            "or name another trial"
        )
    step, masters = found
    own = {n.removeprefix(OURS): t for n, t in masters.items() if n.startswith(OURS)}
    return _build(folder, config, own, NO_OUTCOME), step


def _build(folder: Path, config: TrialConfig, weights: dict[str, Tensor], outcome: Outcome) -> Run:
    try:
        designs.shape(config.backbone)  # says by name what cannot be found
        embedder, final_norm = _untrained(config)
        tokenizer = Tokenizer(config.backbone.model)
    except (AssetError, ConfigError, OSError) as error:
        raise RunError(f"{folder}: the model of {CONFIG} cannot be built\n{error}") from error
    _put(weights, embedder, folder)
    return Run(
        config=config,
        embedder=embedder.eval(),
        final_norm=final_norm,
        tokenizer=tokenizer,
        outcome=outcome,
    )


def _read(folder: Path) -> tuple[TrialConfig, dict[str, Tensor], Outcome]:
    """Return what the files say, with the faults of all of them in one message."""
    if not folder.is_dir():
        raise RunError(f"{folder}: expected the folder of a finished trial, got no folder")
    found: dict[str, Any] = {}
    faults = []
    readers: dict[str, Callable[[Path], Any]] = {
        CONFIG: _read_config,
        WEIGHTS: load_file,
        OUTCOME: _read_outcome,
    }
    for name, read in readers.items():
        try:
            found[name] = read(folder / name)
        except FileNotFoundError:
            faults.append(f"{name}: expected a file, got none{_reason(name)}")
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            faults += [f"{name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise RunError("\n".join([f"{folder}: expected the folder of a finished trial", *faults]))
    return found[CONFIG], found[WEIGHTS], found[OUTCOME]


def _reason(name: str) -> str:
    return "; it is written last, so the trial has not finished" if name == OUTCOME else ""


def _read_config(file: Path) -> TrialConfig:
    return from_dict(_read_object(file))


def _read_outcome(file: Path) -> Outcome:
    values = _read_object(file)
    wanted = {field.name for field in dataclasses.fields(Outcome)}
    if set(values) != wanted:
        raise ValueError(f"expected {', '.join(sorted(wanted))}, got {', '.join(sorted(values))}")
    return Outcome(**values)


def _read_object(file: Path) -> dict[str, Any]:
    values = json.loads(file.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, got {type(values).__name__}")
    return values


def _untrained(config: TrialConfig) -> tuple[Embedder, nn.Module]:
    """Return the embedder as it was built, and the final norm that its decoder had."""
    kernel = config.engine.attn_implementation
    engine = dataclasses.replace(
        config.engine,
        precision="fp32",
        attn_implementation="sdpa" if kernel == "flash_attention_2" else kernel,
    )
    decoder: Any = load_decoder(config.backbone, engine)
    final_norm = getattr(decoder, "norm", nn.Identity())
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced at once
        return assemble(dataclasses.replace(config, engine=engine), decoder), final_norm


@torch.no_grad()
def _put(weights: Mapping[str, Tensor], embedder: Embedder, folder: Path) -> None:
    """Write the trained weights into the embedder."""
    trained = {name: p for name, p in embedder.named_parameters() if p.requires_grad}
    faults = [f"{name}: expected, got none" for name in trained if name not in weights]
    for name, tensor in weights.items():
        if name not in trained:
            faults.append(f"{name}: expected none, got {list(tensor.shape)}")
        elif trained[name].shape != tensor.shape:
            shape = list(trained[name].shape)
            faults.append(f"{name}: expected {shape}, got {list(tensor.shape)}")
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        first = f"{folder}: {WEIGHTS} does not fit the design of {CONFIG}"
        raise RunError("\n".join([first, *faults[:SHOWN], *more]))
    for name, tensor in weights.items():
        trained[name].copy_(tensor)
