"""How long the training texts are, against how long they may be."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from trainables.config import TrainingConfig

if TYPE_CHECKING:
    from trainables.data import TrainingData

SAMPLED = 8  # steps whose texts are counted


def filling(data: TrainingData, training: TrainingConfig) -> float:
    """Return the tokens that some steps' texts have over those that they may have.

    The steps are spread over the training, so that every data set of a mix is likely among them.
    """
    steps = range(0, training.steps, max(1, -(-training.steps // SAMPLED))) or range(1)
    texts = list(chain.from_iterable(data.batch_at(step).texts for step in steps))
    passages = 1 + training.num_hard_negatives
    longest = training.max_query_tokens + passages * training.max_passage_tokens
    return sum(len(ids) for ids, _ in texts) / (len(texts) / (1 + passages) * longest)
