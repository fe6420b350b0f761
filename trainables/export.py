"""Write a finished trial as a model that sentence-transformers loads.

The folder holds the model with its adapter merged, the adapter alone for PEFT (adapter/), and a
model card with the scores (README.md). Before it is there, sentence-transformers has loaded it and
its vectors were compared with the trial's own.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trainables.config import Precision

EXAMPLES = """examples:
  python -m trainables.export outputs/embedded/confirm/0001 my-model
      the trial that the report calls confirm-0001; a search's own are in outputs/STUDY/search
  python -m trainables.export outputs/mine/search/0007 my-model --precision bf16
      half the size, and rounded vectors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from trainables.exported.exporting import ERRORS, export  # torch takes seconds

    quiet()
    try:
        facts = export(arguments.run, arguments.folder, arguments.precision, log=_say)
    except ERRORS as error:
        sys.stderr.write(f"{error}\n")
        return 2
    trust = "" if facts.is_native else ", trust_remote_code=True"
    _say(
        f"done: its vectors differ by at most {facts.difference:.1g}; load it with\n\n"
        "    from sentence_transformers import SentenceTransformer\n"
        f'    model = SentenceTransformer("{arguments.folder}"{trust})\n\n'
        f"and read {arguments.folder / 'README.md'}"
    )
    if trust:
        _say("trust_remote_code lets it run the Python files of that folder, and no others.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished trial")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what to write; new or empty")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="fp32",
        help="of the written weights: fp32 keeps the trial's vectors to 1e-5 (default), bf16 "
        "halves the folder",
    )
    return parser


def quiet() -> None:
    """Keep other packages' progress bars and notes off the console."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
