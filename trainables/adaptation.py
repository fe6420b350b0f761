"""The warm-up before the contrastive training: masked next-token prediction.

Some tokens of the training passages are hidden, and each is predicted from the state of the
position before it (BehnamGhader et al., arXiv 2404.05961, section 2.1). Other than in their code:

* All chosen tokens are hidden; none is swapped for a random one or left as it is.
* The adapters that the warm-up trains go on in the contrastive training instead of being merged,
  so that checkpoints and exports hold the whole difference to the decoder in one adapter.
* The decoder is adapted as the design cuts it. The language model's final norm and output
  embeddings, both frozen, read its last state, also where that is the state of a middle layer;
  there the first steps mostly teach that layer to be read so.

The attention is that of the finished model: under a `gradual` mask the warm-up is bidirectional,
and only the contrastive training starts causal. With `two_stream` the second stream predicts;
hidden tokens are hidden from both.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast

from trainables import checkpoint, engine, probes
from trainables.build import DTYPES, assemble
from trainables.config import ConfigError, TrainingConfig, TrialConfig
from trainables.data import TrainingData, permuted
from trainables.heartbeat import beat
from trainables.model.backbone import Backbone
from trainables.model.decoder import keep_layers
from trainables.model.tokens import Padded
from trainables.tokenizer import Tokenizer, locate, pad

WEIGHTS = "adapted.safetensors"
CHECKPOINTS = "adaptation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """What a warm-up came to."""

    first_loss: float  # mean cross-entropy of the hidden tokens, in nats
    last_loss: float
    seconds: float  # of training, over all attempts


@dataclass(kw_only=True, slots=True)
class _Progress:
    """What a checkpoint has to remember besides weights and RNG."""

    step: int = 0
    seconds: float = 0.0
    first_loss: float = 0.0
    last_loss: float = 0.0


class Predictor(nn.Module):
    """A backbone below the language model's own final norm and output embeddings."""

    def __init__(self, backbone: Backbone, norm: nn.Module, language_model: nn.Module) -> None:
        """Join a backbone with what makes logits of its last state.

        Args:
            backbone: What is adapted; it reads the last layer that it keeps.
            norm: The final norm, or the identity where the backbone has it.
            language_model: Of transformers; its decoder hands `inputs_embeds` on as they are.
        """
        super().__init__()
        self.backbone = backbone
        self.norm = norm
        self.language_model = language_model

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        instruction: Bool[Tensor, "batch tokens"],
        hidden: Bool[Tensor, "batch tokens"],
        substitute: int,
    ) -> Float[Tensor, ""]:
        """Return the summed cross-entropy of the hidden tokens, which are read as `substitute`."""
        states, _ = self.backbone.states(ids.masked_fill(hidden, substitute), real, instruction)
        before = self.norm(states[-1][:, :-1][hidden[:, 1:]])
        logits = self.language_model(inputs_embeds=before.unsqueeze(0), use_cache=False).logits
        return functional.cross_entropy(logits[0].float(), ids[hidden], reduction="sum")


class _Given(nn.Module):
    """Stands where a language model has its decoder, so that its own code makes the logits."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> BaseModelOutputWithPast:
        """Return the states that were given."""
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


def build_predictor(config: TrialConfig) -> Predictor:
    """Return the backbone that `config` describes, probed, below its language model's head.

    Raises:
        ConfigError: If the model was saved without output embeddings.
        ProbeError: If the built model does not do what the design says.
    """
    language_model = _load_language_model(config)
    prefix = language_model.base_model_prefix
    decoder = getattr(language_model, prefix)
    setattr(language_model, prefix, _Given())
    norm = decoder.norm
    keep_layers(decoder, config.backbone.num_layers or decoder.config.num_hidden_layers)
    embedder = assemble(config, decoder).to(engine.device())
    probes.check_design(embedder)
    is_cut = decoder.norm is not norm
    return Predictor(embedder.backbone, norm if is_cut else nn.Identity(), language_model)


def _load_language_model(config: TrialConfig) -> Any:
    name = config.backbone.model
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        locate(name),
        dtype=DTYPES[config.engine.precision],
        attn_implementation=config.engine.attn_implementation,
        output_loading_info=True,
    )
    model, loading = loaded
    if loading["missing_keys"]:
        raise ConfigError(
            f"adaptation.kind: expected 'none', as {name!r} was saved without "
            f"{', '.join(sorted(loading['missing_keys'])[:3])}, got 'mntp'"
        )
    return model.requires_grad_(False)


def choose(
    batch: Padded, share: float, *, first_row: int, seed: Sequence[int]
) -> Bool[Tensor, "batch tokens"]:
    """Return which tokens to hide: the share of each text, at least one, by seed and row alone.

    Never chosen are the first token, as nothing stands before it; the end-of-text token, which
    ends every text; the instruction, which is the same for all. A text of one token keeps it.

    Args:
        batch: Texts padded on the right.
        share: Of the tokens that may be chosen.
        first_row: Number of the batch's first text in the batch of all workers.
        seed: What else decides.
    """
    allowed = batch.real & ~batch.instruction
    allowed[:, 0] = False
    allowed[torch.arange(len(allowed)), batch.real.sum(1) - 1] = False
    hidden = torch.zeros_like(allowed)
    for row, places in enumerate(mask.nonzero().flatten().numpy() for mask in allowed):
        count = min(len(places), max(1, round(share * len(places))))
        generator = np.random.default_rng([*seed, first_row + row])
        hidden[row, generator.choice(places, count, replace=False)] = True
    return hidden


def warm_up(
    config: TrialConfig, data: TrainingData, *, rank: int, folder: Path, seed: int
) -> Adapted:
    """Write the warmed-up adapters into `folder`; every worker of the trial calls this.

    What an earlier attempt has finished is not done again; what it began is continued.

    Raises:
        TrainingError: If the loss is not finite.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        torch.manual_seed(seed)
        predictor = build_predictor(config)
        torch.manual_seed(seed + 1 + rank)  # dropout differs between workers
        warmup = _Warmup(config, data, rank, predictor)
        del predictor
        try:
            warmup.train(folder / CHECKPOINTS)
            warmup.save(file)
        finally:
            warmup.close()
    if rank == 0:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    with safe_open(file, "pt") as saved:
        return Adapted(**json.loads(saved.metadata()["adapted"]))


class _Warmup:
    """The state of a warm-up on one worker."""

    def __init__(
        self, config: TrialConfig, data: TrainingData, rank: int, predictor: Predictor
    ) -> None:
        self.config = config
        self.rank = rank
        self.tokenizer = Tokenizer(config.backbone.model)
        self.passages = data.passages()
        self.engine = engine.initialize(predictor, config.engine, _training(config))
        self.progress = _Progress()

    def train(self, checkpoints: Path) -> None:
        """Take the steps that are left after those of a checkpoint in the trial's folder."""
        saved = checkpoint.load(self.engine, checkpoints)
        progress = self.progress = _Progress(**(saved or {}))
        while progress.step < self.config.adaptation.steps:
            if progress.step and progress.step % self.config.training.report_every == 0:
                checkpoint.save(self.engine, checkpoints, progress.step, asdict(progress))
            beat(checkpoints.parent)
            started = time.perf_counter()
            progress.last_loss = self._step(progress.step)
            if progress.step == 0:
                progress.first_loss = progress.last_loss
            progress.step += 1
            progress.seconds += time.perf_counter() - started

    def _step(self, step: int) -> float:
        """Take one optimiser step on what the texts of all workers hide; return the loss."""
        settings, workers = self.config.adaptation, self.config.engine.num_workers
        share = settings.batch_size // workers
        first = self.rank * share
        batch = self._batch(step, first, share)
        seed = [self.config.seed, step]
        hidden = choose(batch, settings.masked_share, first_row=first, seed=seed)
        self.engine.train()
        where = self.engine.device
        loss = self.engine(*batch.to(where), hidden.to(where), self.tokenizer.hidden)
        count = engine.sum_over_workers(hidden.sum().to(where))
        # The engine takes the mean over workers, which hide different numbers of tokens.
        mean = loss * workers / count.clamp(min=1)
        return engine.take_step(self.engine, mean, f"step {step + 1} of the warm-up")

    def _batch(self, step: int, first: int, count: int) -> Padded:
        """Return this worker's texts of a step, given by `seed` and `step` alone."""
        number, size = len(self.passages), self.config.adaptation.batch_size
        epoch, place = divmod(step, max(number // size, 1))
        start = place * size + first
        order = np.arange(start, start + count) % number
        chosen = permuted(order, number, (self.config.seed, epoch))
        return pad(self.passages.rows(chosen), self.tokenizer.padding)

    def save(self, file: Path) -> None:
        """Write the adapters, and with them what the warm-up came to."""
        values = asdict(self.progress)
        values.pop("step")
        engine.save_weights(self.engine.module, file, {"adapted": json.dumps(values)})

    def close(self) -> None:
        """Let go of the engine and of all that it holds."""
        engine.release(self.engine)
        del self.engine
        engine.free_memory()


def _training(config: TrialConfig) -> TrainingConfig:
    """Return the warm-up's numbers in the terms of a training; its rate falls from the start."""
    settings = config.adaptation
    return replace(
        config.training,
        steps=settings.steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=0,
        schedule="linear",
    )
