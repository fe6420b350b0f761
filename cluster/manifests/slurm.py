"""Slurm: a batch script that starts Ray on all nodes of a job, runs the search and ends all.

Ray's own `symmetric-run` ends every Ray of the user on a node, which other jobs may share.
"""

from __future__ import annotations

import shlex

from cluster.manifests.deployment import Deployment

GRACE_S = 180  # before the time is up the search is interrupted, so that it ends in order
FOR_WORKERS = 0.7  # of a node's memory; Ray's object store takes the rest
BODY = r"""
# sbatch it in the checkout's root. The same script again continues the study.
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
if [ -d .venv ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
{environment}
mkdir -p {outputs} {cache}

# Whoever has no token can neither join nor ask; it is only in the environment of this job.
export RAY_AUTH_MODE=token
made=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$made}"

ray_log={outputs}/ray-$SLURM_JOB_ID.log
port=$((20000 + SLURM_JOB_ID % 10000 * 4))
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes")
address="$(python -c 'import ray; print(ray.util.get_node_ip_address())'):$port"
step=(srun --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=0)
start=(ray start --block --num-cpus={cpus} --num-gpus={gpus} --memory={memory}
    --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0
    --temp-dir="/tmp/ray-$SLURM_JOB_ID")

end() {
    kill $(jobs -p) 2> /dev/null || true
    wait || true
    srun --overlap --ntasks-per-node=1 rm -rf "/tmp/ray-$SLURM_JOB_ID" || true
}
trap end EXIT

"${step[@]}" --nodes=1 --ntasks=1 --nodelist="$head" "${start[@]}" --head \
    --node-ip-address="${address%:*}" --port="$port" --dashboard-port="$((port + 1))" \
    --ray-client-server-port="$((port + 2))" > "$ray_log" 2>&1 &
python -m cluster.manifests.await_nodes "$address" 1
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="$head" \
        "${start[@]}" --address="$address" >> "$ray_log" 2>&1 &
fi
python -m cluster.manifests.await_nodes "$address" "$SLURM_JOB_NUM_NODES"

export RAY_ADDRESS="$address"
(trap - INT; exec {command}) &
search=$!
trap 'kill -INT "$search"' INT TERM
code=0
wait "$search" || code=$?
if kill -0 "$search" 2> /dev/null; then  # a signal ended the wait, not the search
    code=0
    wait "$search" || code=$?
fi
exit "$code"
"""


def batch_script(deployment: Deployment) -> str:
    """Return the text of a batch script."""
    lines = [f"export {n}={shlex.quote(v)}" for n, v in deployment.variables().items()]
    lines += [f': "${{{name}:?expected in the environment}}"' for name in deployment.secrets]
    body = BODY.replace("{environment}", "\n".join(lines))
    values = {
        "outputs": deployment.outputs,
        "cache": deployment.cache,
        "cpus": str(deployment.cpus),
        "gpus": str(deployment.gpus),
        "memory": str(int(deployment.memory_gib * 2**30 * FOR_WORKERS)),
        "command": deployment.command(),
    }
    for name, value in values.items():
        body = body.replace(f"{{{name}}}", value)
    return "\n".join(["#!/bin/bash", *_directives(deployment), body.lstrip("\n")])


def _directives(deployment: Deployment) -> list[str]:
    given = {
        "job-name": deployment.name,
        "nodes": deployment.max_workers,
        "ntasks-per-node": 1,
        "cpus-per-task": deployment.cpus,
        "gpus-per-node": deployment.gpus or None,
        "mem": f"{deployment.memory_gib}G",
        "partition": deployment.queue,
        "time": deployment.time_limit_h and f"{deployment.time_limit_h}:00:00",
        "signal": f"B:INT@{GRACE_S}",
        "output": "%x-%j.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in given.items() if value is not None]
    return [*lines, "#SBATCH --requeue"]
