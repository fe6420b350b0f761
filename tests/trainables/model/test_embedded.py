"""Every mask and every head on the real small model: the probes, in both precisions."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from tests.trainables.model.designs import HEADS, MASKS, Values
from trainables import designs
from trainables.build import build
from trainables.config import Precision, TrialConfig
from trainables.overlay import overlay
from trainables.probes import check_design

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EVERY_MASK: dict[str, Values] = {
    mask: {"attention.mask": mask, "attention.window": 3, "pooling.token_scope": "mean"}
    for mask in MASKS
}
EVERY_HEAD: dict[str, Values] = {
    "none": {"pooling.token_scope": "weighted_mean", "pooling.layers": "2"},
    "scalar_mix": {"pooling.layers": "all"},
    "self_attention": {"pooling.token_scope": "all_tokens"},
    "cross_attention": {"pooling.token_scope": "mean", "pooling.layers": "last_2"},
    "latent_attention": {"pooling.token_scope": "all_tokens", "pooling.layers": "every_2"},
}
DESIGNS = EVERY_MASK | {
    f"{head} head": EVERY_HEAD.get(head, made.designs[0]) | {"pooling.head": head}
    for head, made in HEADS.items()
}


@pytest.mark.embedded
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("values", DESIGNS.values(), ids=DESIGNS)
def test_the_probes_pass(values: dict[str, Any], precision: Precision) -> None:
    base = {
        "backbone.num_layers": 4,
        "engine.precision": precision,
        "instructions.query": "find: ",
    }
    config = overlay(TrialConfig(), base | values)
    designs.check_design(config, designs.shape(config.backbone))
    torch.manual_seed(0)
    check_design(build(config))
