"""Run all benchmarks of a device and print one table."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "cpu": ("forward", "encode", "evaluation", "training", "engine", "dispatch", "statistics"),
    "cuda": ("forward", "training"),
}
FILES = {"statistics": ("statistics_speed", "statistics_truth")}  # others: of the same name


def main() -> None:
    """Print each line as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--device", choices=BENCHMARKS, default="cpu")
    parser.add_argument("--only", choices=BENCHMARKS["cpu"])
    given = parser.parse_args()
    device = given.device
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    importlib.import_module("transformers").logging.disable_progress_bar()
    sys.stdout.write(f"{_hardware(device)}; ratio = theirs / ours, median (range) of pairs\n")
    for name in [given.only] if given.only else BENCHMARKS[device]:
        for file in FILES.get(name, (name,)):
            for line in importlib.import_module(f"tests.benchmarks.{file}").run(device):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()


def _hardware(device: str) -> str:
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
