"""Print what puts a search on a cluster: a manifest, a launcher's file, a script, a Dockerfile.

All are made from the same settings; flags after `--` are those of cluster.search.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.arguments import value
from cluster.command_line import parser as search_parser
from cluster.manifests import image, kuberay, launcher, slurm
from cluster.manifests.deployment import KINDS, RUNS, Deployment
from trainables.config import ConfigError

EXAMPLES = """examples:
  python -m cluster.manifests dockerfile --output Dockerfile
  python -m cluster.manifests volumes --storage-class nfs --volume-gib 500
  python -m cluster.manifests rayjob --image registry/poolsearch:1 --max-workers 8 \\
      --secrets HF_TOKEN --queue research -- --study big --trials 200
      one search: apply it with kubectl; a lost cluster is replaced, and the study goes on
  python -m cluster.manifests raycluster --image registry/poolsearch:1 --output cluster.yaml
      a cluster that takes searches: python -m cluster.submit --address http://HEAD:8265 ...
  python -m cluster.manifests slurm --max-workers 4 --gpus 8 --cpus 64 --memory-gib 480 \\
      --outputs /scratch/me/outputs --cache /scratch/me/cache --output search.sbatch -- --study big
  python -m cluster.manifests aws --file-system fs-1.efs.us-west-2.amazonaws.com:/ \\
      --output aws.yaml
  python -m cluster.manifests hosts --hosts 10.0.0.1 10.0.0.2 10.0.0.3 --output hosts.yaml
      for ray up; it takes searches as raycluster does
"""
HELP = {
    "rayjob": "KubeRay: one search on a cluster of its own",
    "raycluster": "KubeRay: a cluster that takes searches",
    "volumes": "Kubernetes: claims of the volumes that these two mount",
    "aws": "ray up: virtual machines on AWS",
    "hosts": "ray up: hosts that are there",
    "slurm": "a batch script",
    "dockerfile": "the image for KubeRay and ray up",
}


def render(kind: str, deployment: Deployment) -> str:
    """Return the text of one kind of manifest.

    Raises:
        ConfigError: If the kind needs a setting that is not there.
    """
    texts: dict[str, Callable[[Deployment], str]] = {
        "slurm": slurm.batch_script,
        "dockerfile": image.dockerfile,
    }
    if kind in texts:
        return texts[kind](deployment)
    makers: dict[str, Callable[[Deployment], dict[str, Any]]] = {
        "rayjob": kuberay.ray_job,
        "raycluster": kuberay.ray_cluster,
        "volumes": kuberay.volumes,
        "aws": launcher.aws,
        "hosts": launcher.hosts,
    }
    made = json.loads(json.dumps(makers[kind](deployment)))  # no part twice: no anchors
    return str(yaml.safe_dump(made, sort_keys=False, width=1000))


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition: each kind has the settings that it reads."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.manifests",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = made.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in KINDS:
        of_kind = kinds.add_parser(kind, help=HELP[kind], description=HELP[kind])
        for field in dataclasses.fields(Deployment):
            if kind in field.metadata.get("kinds", ()):
                _add(of_kind, field)
        of_kind.add_argument("--output", type=Path, metavar="FILE", help="default: the console")
        if kind in RUNS:
            of_kind.add_argument("flags", nargs="*", help="of cluster.search, after --")
    return made


def _add(made: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    several = isinstance(field.default, tuple)
    shown = "none" if field.default in ((), None) else field.default
    made.add_argument(
        f"--{field.name.replace('_', '-')}",
        nargs="+" if several else None,
        metavar="X",
        default=argparse.SUPPRESS,
        help=f"{field.metadata['help']} (default: {shown})",
    )


def deployment_of(arguments: argparse.Namespace) -> Deployment:
    """Return the settings that a command line gives.

    Raises:
        ConfigError: With every fault of them.
    """
    given = {k: v for k, v in vars(arguments).items() if k not in ("kind", "output")}
    numbers = {f.name for f in dataclasses.fields(Deployment) if "int" in str(f.type)}
    read = {name: value(v) if name in numbers else v for name, v in given.items()}
    made: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in read.items()}
    return Deployment(**made)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        deployment = deployment_of(arguments)
        search_parser().parse_args(deployment.flags)  # a misspelt flag ends the program here
        text = render(arguments.kind, deployment)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
