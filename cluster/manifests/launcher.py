"""Ray's own launcher, `ray up`: a cluster in a cloud, or on hosts that are there."""

from __future__ import annotations

import shlex
from typing import Any

from cluster.manifests.deployment import Deployment
from trainables.faults import check

Config = dict[str, Any]

TOKEN = "~/.ray/auth_token"  # `ray get-auth-token --generate` makes it
SECRETS = "~/.poolsearch.env"  # lines NAME=value, made by hand, readable by its owner alone
PORT = 6379
BOOTSTRAP = "--autoscaling-config=~/ray_bootstrap_config.yaml"


def aws(deployment: Deployment) -> Config:
    """Return a cluster of virtual machines on AWS that grows and shrinks.

    Raises:
        ConfigError: If it has no file system that all machines see.
    """
    missing = "expected an NFS export that all machines mount, as HOST:/PATH, got none"
    check({"file_system": None if deployment.file_system else missing})
    worker = {"node_config": {"InstanceType": deployment.instance}, "resources": {}}
    least = {"min_workers": deployment.min_workers, "max_workers": deployment.max_workers}
    return {
        **_common(deployment),
        "max_workers": deployment.max_workers,
        "provider": {
            "type": "aws",
            "region": deployment.region,
            "cache_stopped_nodes": False,
        },
        "available_node_types": {
            "head": {
                "node_config": {"InstanceType": deployment.head_instance},
                "resources": {"CPU": 0},
                "min_workers": 0,
                "max_workers": 0,
            },
            "worker": {**worker, **least},
        },
        "head_node_type": "head",
        "initialization_commands": _mount(deployment),
    }


def hosts(deployment: Deployment) -> Config:
    """Return a cluster of given hosts, all of which have Docker and the shared folders.

    Raises:
        ConfigError: If there are not two hosts.
    """
    found = len(deployment.hosts)
    fault = f"expected the head's and at least one worker's, got {found}"
    check({"hosts": None if found > 1 else fault})
    head, *workers = deployment.hosts
    return {
        **_common(deployment),
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
    }


def _common(deployment: Deployment) -> Config:
    volumes = [f"--volume={path}:{path}" for path in (deployment.outputs, deployment.cache)]
    variables = [
        f"--env={shlex.quote(f'{name}={value}')}" for name, value in deployment.variables().items()
    ]
    auth = {"ssh_user": deployment.ssh_user}
    if deployment.ssh_key is not None:
        auth["ssh_private_key"] = deployment.ssh_key
    return {
        "cluster_name": deployment.name,
        "idle_timeout_minutes": max(1, deployment.idle_timeout_s // 60),
        "docker": {
            "image": deployment.image,
            "container_name": deployment.name,
            "pull_before_run": True,
            "run_options": ["--ulimit=nofile=65536:65536", *volumes, *variables],
        },
        "auth": auth,
        "file_mounts": {TOKEN: TOKEN} | ({SECRETS: SECRETS} if deployment.secrets else {}),
        "setup_commands": [],  # the image has all
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": _start(
            deployment, f"--head --port={PORT} --dashboard-host=127.0.0.1 {BOOTSTRAP}"
        ),
        "worker_start_ray_commands": _start(deployment, f"--address=$RAY_HEAD_IP:{PORT}"),
    }


def _start(deployment: Deployment, arguments: str) -> list[str]:
    """Return the commands that start Ray on a node, secrets in its environment only."""
    read = ""
    if deployment.secrets:
        needed = "; ".join(f": ${{{name}:?missing in {SECRETS}}}" for name in deployment.secrets)
        read = f"set -a; . {SECRETS}; set +a; {needed}; "
    return ["ray stop", f"{read}export RAY_AUTH_MODE=token; ray start {arguments}"]


def _mount(deployment: Deployment) -> list[str]:
    """Return the commands that mount the shared file system on a virtual machine."""
    top = "/" + deployment.outputs.split("/")[1]
    source, made = deployment.file_system, f"{deployment.outputs} {deployment.cache}"
    return [
        "sudo apt-get install -y nfs-common",
        f"sudo mkdir -p {top} && (mountpoint -q {top} || sudo mount -t nfs4 {source} {top})",
        f"sudo mkdir -p {made} && sudo chmod 1777 {made}",
    ]
