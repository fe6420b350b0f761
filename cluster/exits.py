"""How a program that runs trials ends: its exit code, and one message for what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

from cluster.arguments import with_flags
from cluster.dispatch.slots import ClusterLostError
from trainables.assets import AssetError
from trainables.config import ConfigError


def exit_code(run: Callable[[], int]) -> int:
    """Return a program's own code, 2 for bad input, 1 for a lost cluster, 130 for Ctrl-C."""
    try:
        return run()
    except ConfigError as error:
        sys.stderr.write(f"{with_flags(str(error))}\n")
        return 2
    except AssetError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ClusterLostError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command continues where this left off.\n")
        return 130
