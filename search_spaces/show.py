"""Show what a space varies, how many designs that makes, and what running all of them would cost.

Nothing is loaded: the decoder's numbers are the embedded one's, or those that are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from search_spaces.factorial import Cell, cells, factors_of
from search_spaces.fraction import num_effects
from search_spaces.spaces import SPACES
from trainables.config import BackboneConfig, ConfigError, InstructionConfig, TrialConfig
from trainables.faults import check, number_or_none, one_of, whole
from trainables.shape import EMBEDDED, Shape

EXAMPLES = """examples:
  python -m search_spaces.show joint
      both ablations at once, on the embedded model
  python -m search_spaces.show attention --layers 32 --width 4096 --heads 32 --key-value-heads 8 \\
      --instruction "Retrieve: " --trial-hours 0.5 --seeds 5 --gpu-price 2.5
      the first one on a model of 7 billion parameters, and what all of it would cost
  python -m search_spaces.show attention --factors attention.mask pooling.token_scope
      two of its factors; the others as in the control
`python -m cluster.search --space NAME --mode factorial --dry-run` measures what a trial takes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    given = _parser().parse_args(argv)
    try:
        check(
            {
                "space": one_of(given.space, tuple(SPACES)),
                "seeds": whole(given.seeds, at_least=1),
                "trial-hours": number_or_none(given.trial_hours, at_least=0, at_most=1e6),
                "gpu-price": number_or_none(given.gpu_price, at_least=0, at_most=1e6),
                **{name: whole(getattr(given, name), at_least=1) for name in _SIZES},
            }
        )
        found = _cells(given)
        for line in [*describe(given.space, found), *price(len(found), given)]:
            sys.stdout.write(f"{line}\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def describe(name: str, found: Sequence[Cell]) -> list[str]:
    """Return a space's factors with their levels and conditions, and its numbers of designs."""
    factors = factors_of(found)
    width = max((len(factor) for factor in factors), default=0) + 2
    lines = [f"{name}: {len(found):,} designs; factors: {len(factors)}", ""]
    for factor, levels in factors.items():
        shown = ", ".join("null" if level is None else str(level) for level in levels)
        lines.append(f"  {factor:{width}}{len(levels):3}  {shown}")
        if wanted := conditions(factor, found):
            lines.append(f"  {'':{width}}     if {' and '.join(wanted)}")
    main_effects = num_effects(found, interactions=False)
    pairs = num_effects(found, interactions=True)
    return [
        *lines,
        "",
        f"  --fraction main: {main_effects:,} designs tell the main effects",
        f"  --fraction pairs: {pairs:,} tell the interactions of two factors too",
    ]


def conditions(factor: str, found: Sequence[Cell]) -> list[str]:
    """Return what other factors must be for one to have a meaning: of each, the fewest levels."""
    having = [cell for cell in found if factor in cell.levels]
    if len(having) == len(found):
        return []
    said = []
    for other, levels in factors_of(found).items():
        needed = list(dict.fromkeys(c.levels[other] for c in having if other in c.levels))
        always = other != factor and all(other in c.levels for c in having)
        if always and len(needed) < len(levels):
            barred = [level for level in levels if level not in needed]
            few = len(barred) < len(needed)
            said.append(f"{other} is {'not ' if few else ''}{_either(barred if few else needed)}")
    return said


def _either(levels: Sequence[Any]) -> str:
    return " or ".join("null" if level is None else str(level) for level in levels)


def price(num_cells: int, given: argparse.Namespace) -> list[str]:
    """Return what all designs with all seeds would take, as far as a trial's hours are given."""
    if given.trial_hours is None:
        return []
    hours = num_cells * given.seeds * given.trial_hours
    line = (
        f"  {num_cells:,} designs x {given.seeds} seeds x {given.trial_hours:g} h = {hours:,.0f}"
    )
    cost = "" if given.gpu_price is None else f", {hours * given.gpu_price:,.0f} in money"
    return ["", f"{line} GPU-hours{cost}"]


_SIZES = ("layers", "width", "heads", "key_value_heads")


def _cells(given: argparse.Namespace) -> list[Cell]:
    shape = Shape(
        depth=given.layers,
        width=given.width,
        num_heads=given.heads,
        num_key_value_heads=given.key_value_heads,
    )
    base = TrialConfig(
        backbone=BackboneConfig(num_layers=given.layers),
        instructions=InstructionConfig(query=given.instruction),
    )
    found = cells(SPACES[given.space], base, shape, given.factors)
    known = factors_of(cells(SPACES[given.space], base, shape))
    check({f: one_of(f, tuple(known)) for f in given.factors})
    return found


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m search_spaces.show",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("space", metavar="SPACE", help=", ".join(SPACES))
    made.add_argument("--factors", nargs="+", default=[], metavar="NAME", help="vary only these")
    made.add_argument("--instruction", default="", metavar="TEXT", help="before queries")
    sizes = made.add_argument_group("the decoder (default: the embedded one)")
    sizes.add_argument("--layers", type=int, default=EMBEDDED.depth, metavar="N")
    sizes.add_argument("--width", type=int, default=EMBEDDED.width, metavar="N")
    sizes.add_argument("--heads", type=int, default=EMBEDDED.num_heads, metavar="N")
    sizes.add_argument(
        "--key-value-heads", type=int, default=EMBEDDED.num_key_value_heads, metavar="N"
    )
    costs = made.add_argument_group("the price")
    costs.add_argument("--trial-hours", type=float, metavar="H", help="GPU-hours of one trial")
    costs.add_argument("--seeds", type=int, default=3, metavar="N", help="of each (default: 3)")
    costs.add_argument("--gpu-price", type=float, metavar="P", help="of one GPU-hour")
    return made


if __name__ == "__main__":
    sys.exit(main())
