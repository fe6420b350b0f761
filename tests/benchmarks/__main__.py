"""Run all benchmarks of a device and print one table."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings

BENCHMARKS = {"cpu": ("forward", "encode"), "cuda": ("forward",)}


def main() -> None:
    """Print a line for each ratio as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--device", choices=BENCHMARKS, default="cpu")
    device = parser.parse_args().device
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    importlib.import_module("transformers").logging.disable_progress_bar()
    sys.stdout.write(f"{_hardware(device)}; ratio = theirs / ours, median (range) of pairs\n")
    for name in BENCHMARKS[device]:
        for ratio in importlib.import_module(f"tests.benchmarks.{name}").run(device):
            sys.stdout.write(f"{ratio}\n")
            sys.stdout.flush()


def _hardware(device: str) -> str:
    import torch

    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
