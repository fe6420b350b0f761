"""KubeRay: a `RayJob`, which runs one search, and a `RayCluster`, which takes submitted ones."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from cluster.manifests.deployment import USER, Deployment

Manifest = dict[str, Any]

API = "ray.io/v1"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
HEALTH = {"path": "/api/healthz", "port": 52365}  # of Ray's agent on each node; needs no token
START_S, PERIOD_S, FAILURES = 10, 10, 12  # a busy node is not a dead one


def ray_job(deployment: Deployment) -> Manifest:
    """Return the job of one search.

    A retry starts a new cluster with the same command, which continues the study on the shared
    volume. With a queue the job waits for Kueue, which admits a job of a fixed size only.
    """
    spec = {
        "entrypoint": deployment.command(),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": deployment.ttl_s,
        "backoffLimit": deployment.backoff_limit,
        "rayClusterSpec": _cluster_spec(deployment),
    }
    if deployment.time_limit_h is not None:
        spec["activeDeadlineSeconds"] = deployment.time_limit_h * 3600
    return _manifest("RayJob", deployment, spec)


def ray_cluster(deployment: Deployment) -> Manifest:
    """Return a cluster that stays until it is deleted."""
    return _manifest("RayCluster", deployment, _cluster_spec(deployment))


def volumes(deployment: Deployment) -> Manifest:
    """Return the claims of the volumes that all nodes of a search mount."""
    spec: Manifest = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{deployment.volume_gib}Gi"}},
    }
    if deployment.storage_class is not None:
        spec["storageClassName"] = deployment.storage_class
    claims = [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": deployment.namespace},
            "spec": dict(spec),
        }
        for name in (deployment.outputs_claim, deployment.cache_claim)
    ]
    return {"apiVersion": "v1", "kind": "List", "items": claims}


def _manifest(kind: str, deployment: Deployment, spec: Manifest) -> Manifest:
    labels = {"app.kubernetes.io/name": "poolsearch"}
    if deployment.queue is not None:
        labels[QUEUE_LABEL] = deployment.queue
        spec = {"suspend": True, **spec}
    metadata = {"name": deployment.name, "namespace": deployment.namespace, "labels": labels}
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec}


def _cluster_spec(deployment: Deployment) -> Manifest:
    grows = deployment.queue is None
    spec = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},  # the operator makes one and gives it to every pod
        "enableInTreeAutoscaling": grows,
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": _pod(
                "ray-head",
                deployment,
                {"cpu": str(deployment.head_cpus), "memory": f"{deployment.head_memory_gib}Gi"},
                ports=[("gcs-server", 6379), ("dashboard", 8265), ("client", 10001)],
            ),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "minReplicas": deployment.min_workers if grows else deployment.max_workers,
                "maxReplicas": deployment.max_workers,
                "replicas": deployment.min_workers if grows else deployment.max_workers,
                "rayStartParams": {},
                "template": _pod("ray-worker", deployment, _of_worker(deployment)),
            }
        ],
    }
    if grows:
        idle = deployment.idle_timeout_s
        spec["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": idle}
    return spec


def _of_worker(deployment: Deployment) -> dict[str, str]:
    gpus = {"nvidia.com/gpu": str(deployment.gpus)} if deployment.gpus else {}
    return {"cpu": str(deployment.cpus), "memory": f"{deployment.memory_gib}Gi", **gpus}


def _pod(
    name: str,
    deployment: Deployment,
    resources: dict[str, str],
    ports: list[tuple[str, int]] | None = None,
) -> Manifest:
    """Return the template of a pod; what it asks for is what it may use, so it is not evicted."""
    volumes = {
        "outputs": (deployment.outputs, deployment.outputs_claim),
        "cache": (deployment.cache, deployment.cache_claim),
    }
    container: Manifest = {
        "name": name,
        "image": deployment.image,
        "env": _environment(deployment),
        "resources": {"limits": resources, "requests": dict(resources)},
        "volumeMounts": [
            {"name": volume, "mountPath": path} for volume, (path, _) in volumes.items()
        ],
        "readinessProbe": _probe(),
        "livenessProbe": {**_probe(), "initialDelaySeconds": 3 * START_S},
    }
    if ports:
        container["ports"] = [{"name": label, "containerPort": port} for label, port in ports]
    spec: Manifest = {
        "securityContext": {"fsGroup": USER},
        "containers": [container],
        "volumes": [
            {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
            for volume, (_, claim) in volumes.items()
        ],
    }
    return {"metadata": {"labels": {"app.kubernetes.io/name": "poolsearch"}}, "spec": spec}


def _environment(deployment: Deployment) -> list[Manifest]:
    plain = [{"name": name, "value": value} for name, value in deployment.variables().items()]
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": deployment.secret, "key": name}}}
        for name in deployment.secrets
    ]


def _probe() -> Manifest:
    return {
        "httpGet": dict(HEALTH),
        "initialDelaySeconds": START_S,
        "periodSeconds": PERIOD_S,
        "timeoutSeconds": PERIOD_S // 2,
        "failureThreshold": FAILURES,
    }
