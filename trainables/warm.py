"""What a worker keeps from one trial to the next: what is frozen, or read and never written."""

from __future__ import annotations

import copy
import logging
from collections.abc import Hashable

from torch import nn
from transformers import PreTrainedModel

from trainables import engine
from trainables.build import load_decoder
from trainables.config import BackboneConfig, EngineConfig
from trainables.fingerprint import fingerprint
from trainables.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class Warm:
    """A decoder, a tokenizer and the names of the probes that were passed; of each the newest."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._key: Hashable = None
        self._decoder: PreTrainedModel | None = None
        self._fingerprint = ""
        self._tokenizer: tuple[str, Tokenizer] | None = None
        self.passed: set[str] = set()

    def decoder(self, backbone: BackboneConfig, settings: EngineConfig) -> PreTrainedModel:
        """Return a decoder that is the caller's: new modules and parameters over kept numbers.

        Whatever is hung on it, put into it or cut off goes with it. The numbers themselves are
        compared with what was loaded each time. Stage 3 takes parameters apart, so there they are
        loaded each time.
        """
        if settings.zero_stage == 3:
            return load_decoder(backbone, settings)
        key = (backbone, settings)
        if key != self._key or fingerprint(self._kept()) != self._fingerprint:
            if key == self._key:
                _log.warning("the frozen weights in memory were changed: loading them again")
            self._key, self._decoder = None, None  # frees it before the next is there
            self._decoder = load_decoder(backbone, settings)
            nn.Module.to(self._decoder, engine.device())
            self._key, self._fingerprint = key, fingerprint(self._decoder)
        return over_same_numbers(self._kept())

    def _kept(self) -> PreTrainedModel:
        assert self._decoder is not None
        return self._decoder

    def tokenizer(self, model: str) -> Tokenizer:
        """Return the tokenizer of a model, which texts do not change."""
        if self._tokenizer is None or self._tokenizer[0] != model:
            self._tokenizer = model, Tokenizer(model)
        return self._tokenizer[1]


def over_same_numbers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a frozen model, all of it new but for the numbers of its parameters."""
    fresh = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, fresh)
