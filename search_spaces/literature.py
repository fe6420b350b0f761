"""Designs of the literature by name, so that each is a cell that can be trained and compared.

Sizes are those of the papers, for a backbone of width 4096; `scaled` brings them to another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from search_spaces.drawing import CONTROL, Overlay, Trial, instructed
from trainables.config import TrialConfig
from trainables.shape import Shape

WIDTH = 4096  # of Mistral-7B
SCALED = ("pooling.head_size", "pooling.num_latents")
FEWEST = 2  # over one latent the softmax is constant
CONTROL_PRESET = "tang_yang_1"

TRAINABLE: Overlay = {
    "pooling.head": "cross_attention",
    "pooling.hidden_size": None,
    "pooling.num_heads": 32,
    "pooling.head_size": 2048,
    "pooling.num_latents": 768,
    "pooling.ffn_size": None,
}
BIDIRECTIONAL: Overlay = {"attention.mask": "bidirectional"}
TOKENS: Overlay = {"pooling.token_scope": "all_tokens"}
MEAN: Overlay = {"pooling.token_scope": "mean"}
LAYERS: Overlay = {"pooling.layers": "all"}
SELF_ATTENTION: Overlay = {
    "pooling.head": "self_attention",
    "pooling.hidden_size": None,
    "pooling.num_heads": 8,
    "pooling.head_size": 4096,
    "pooling.ffn_size": None,
}
LATENT_ATTENTION: Overlay = SELF_ATTENTION | {
    "pooling.head": "latent_attention",
    "pooling.num_latents": 512,
}


@dataclass(frozen=True, slots=True)
class Preset:
    """A named design: what it changes of the control, where it is from and what it needs."""

    source: str
    changes: Overlay
    _: KW_ONLY
    skips_instruction: bool = False  # its tokens are seen, but not read, where there is one
    needs_instruction: bool = False  # without one it is another preset, or nobody's

    @property
    def design(self) -> Overlay:
        """The whole overlay, of a text with an instruction, for a backbone of width 4096."""
        reads = {"pooling.include_instruction": not self.skips_instruction}
        return CONTROL | self.changes | reads


_TANG_YANG = "Tang & Yang, arXiv 2409.02727, model"
PRESETS: dict[str, Preset] = {
    "tang_yang_1": Preset(f"{_TANG_YANG} 1", {}),
    # Their public code gives the head one key, over which the softmax is constant; here it has
    # the last layer's tokens, as the paper's text and model 4 have it.
    "tang_yang_2": Preset(f"{_TANG_YANG} 2", TRAINABLE | TOKENS),
    "tang_yang_3": Preset(f"{_TANG_YANG} 3", TRAINABLE | LAYERS),
    "tang_yang_4": Preset(f"{_TANG_YANG} 4", BIDIRECTIONAL | TRAINABLE | TOKENS),
    "tang_yang_5": Preset(f"{_TANG_YANG} 5", BIDIRECTIONAL | TRAINABLE | LAYERS | MEAN),
    "nv_embed": Preset(
        "Lee et al., arXiv 2405.17428",
        BIDIRECTIONAL | LATENT_ATTENTION | TOKENS,
        skips_instruction=True,
    ),
    "nv_embed_self_attention": Preset(
        "Lee et al., arXiv 2405.17428, the ablation; sizes as in nv_embed",
        BIDIRECTIONAL | SELF_ATTENTION | TOKENS,
        skips_instruction=True,
    ),
    "llm2vec": Preset(
        "BehnamGhader et al., arXiv 2404.05961",
        BIDIRECTIONAL | MEAN | {"adaptation.kind": "mntp"},
        skips_instruction=True,
    ),
    "sgpt": Preset("Muennighoff, arXiv 2202.08904", {"pooling.token_scope": "weighted_mean"}),
    "e5_mistral": Preset("Wang et al., arXiv 2401.00368", {}, needs_instruction=True),
    "gritlm": Preset(
        "Muennighoff et al., arXiv 2402.09906",
        BIDIRECTIONAL | MEAN,
        skips_instruction=True,
        needs_instruction=True,
    ),
}


def literature(trial: Trial, base: TrialConfig, shape: Shape) -> Overlay:
    """One design of the literature, its head in proportion to the backbone."""
    name = trial.suggest_categorical("preset", offered(base, shape))
    design = scaled(PRESETS[name].design, shape)
    return design if instructed(base) else design | {"pooling.include_instruction": True}


def offered(base: TrialConfig, shape: Shape) -> Sequence[str]:
    """Return the presets that have a meaning with the base's texts and on the backbone."""
    return tuple(
        name
        for name, preset in PRESETS.items()
        if (instructed(base) or not preset.needs_instruction)
        and (shape.depth > 1 or preset.design["pooling.layers"] == "last")
    )


def scaled(preset: Overlay, shape: Shape) -> Overlay:
    """Return a preset whose head's sizes have the same ratio to the backbone's width as at 4096.

    The number of heads stays.

    >>> small = Shape(depth=6, width=576, num_heads=9, num_key_value_heads=3)
    >>> scaled({"pooling.num_heads": 32, "pooling.head_size": 2048}, small)
    {'pooling.num_heads': 32, 'pooling.head_size': 288}
    """
    ratio = shape.width / WIDTH
    sizes = {name: preset[name] for name in SCALED if name in preset}
    return preset | {name: max(FEWEST, round(ratio * size)) for name, size in sizes.items()}
