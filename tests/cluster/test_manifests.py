from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.manifests import kuberay, launcher
from cluster.manifests.__main__ import main, render
from cluster.manifests.deployment import CLOUD, KINDS, KUBERNETES, Deployment
from trainables.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMAS = "POOLSEARCH_SCHEMAS"  # a folder with KubeRay's resource definitions
FLAGS = ("--study", "big", "--trials", "200")
SECRETS = ("HF_TOKEN", "PGPASSWORD")
CLUSTER = ("spec", "rayClusterSpec")
FULL = Deployment(
    queue="research", secrets=SECRETS, environment=("A=1",), time_limit_h=4, flags=FLAGS
)
GROWING = Deployment(min_workers=2, max_workers=8, gpus=0, secrets=SECRETS)


def schema(kind: str) -> Any:
    """Return the OpenAPI schema of a kind; skip the test where there is none."""
    folder = os.environ.get(SCHEMAS)
    file = Path(folder or "") / f"ray.io_{kind}s.yaml"
    if not folder or not file.is_file():
        pytest.skip(f"{SCHEMAS} names no folder with {file.name}")
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)
    (found,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return closed(found["schema"]["openAPIV3Schema"])


def closed(node: Any) -> Any:
    """Return a schema that refuses fields it does not name, and takes Kubernetes' own types."""
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    made = {name: closed(value) for name, value in node.items()}
    open_ended = "additionalProperties" in made or "x-kubernetes-preserve-unknown-fields" in made
    if isinstance(node.get("properties"), Mapping) and not open_ended:
        made["additionalProperties"] = False
    return made


def with_metadata(resource: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a resource without its own metadata, which definitions leave to Kubernetes."""
    shown = copy.deepcopy(resource)
    return shown, shown.pop("metadata")


@pytest.mark.parametrize("kind", KUBERNETES)
@pytest.mark.parametrize("deployment", [FULL, GROWING], ids=["queue", "growing"])
def test_resources_meet_their_definitions(kind: str, deployment: Deployment) -> None:
    definition = schema(kind)
    resource, metadata = with_metadata(yaml.safe_load(render(kind, deployment)))
    definition["properties"].pop("metadata")
    jsonschema.Draft202012Validator(definition).validate(resource)
    assert metadata.keys() == {"name", "namespace", "labels"}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("spec", "backofLimit"), "backofLimit"),
        ((*CLUSTER, "workerGroupSpecs", 0, "template", "spec", "volums"), "volums"),
        ((*CLUSTER, "headGroupSpec", "replicas"), "replicas"),
    ],
)
def test_a_misspelt_field_is_found(place: tuple[Any, ...], expected: str) -> None:
    definition = schema("rayjob")
    definition["properties"].pop("metadata")
    resource, _ = with_metadata(kuberay.ray_job(FULL))
    node: Any = resource
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = 1
    with pytest.raises(jsonschema.ValidationError, match=expected):
        jsonschema.Draft202012Validator(definition).validate(resource)


def test_a_job_keeps_what_its_retries_and_its_queue_need() -> None:
    job = kuberay.ray_job(FULL)
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert (spec["suspend"], spec["shutdownAfterJobFinishes"]) == (True, True)
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (3, 3600)
    assert spec["activeDeadlineSeconds"] == 4 * 3600
    assert spec["entrypoint"].endswith("--outputs /shared/outputs --study big --trials 200")
    cluster = spec["rayClusterSpec"]
    assert kuberay.ray_cluster(FULL)["spec"] == {"suspend": True, **cluster}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is False  # Kueue admits a fixed size
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["maxReplicas"] == group["replicas"] == 4
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["resources"]["limits"] == worker["resources"]["requests"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_cluster_without_a_queue_grows() -> None:
    spec = kuberay.ray_cluster(GROWING)["spec"]
    assert "suspend" not in spec
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 300}
    (group,) = spec["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 2, 8)
    assert "nvidia.com/gpu" not in json.dumps(spec)


@pytest.mark.parametrize("deployment", [FULL, GROWING], ids=["queue", "growing"])
def test_every_pod_has_probes_volumes_and_secrets_by_reference(deployment: Deployment) -> None:
    spec = kuberay.ray_cluster(deployment)["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        mounts = {m["mountPath"]: claims[m["name"]] for m in container["volumeMounts"]}
        assert mounts == {
            "/shared/outputs": "poolsearch-outputs",
            "/shared/cache": "poolsearch-cache",
        }
        environment = {each["name"]: each for each in container["env"]}
        assert environment["POOLSEARCH_CACHE"]["value"] == "/shared/cache"
        for name in SECRETS:
            reference = {"secretKeyRef": {"name": "poolsearch", "key": name}}
            assert environment[name] == {"name": name, "valueFrom": reference}


def test_the_claims_are_those_that_pods_mount() -> None:
    deployment = Deployment(namespace="lab", storage_class="nfs", volume_gib=500)
    text = render("volumes", deployment)
    assert "&" not in text  # no anchors
    items = yaml.safe_load(text)["items"]
    mounted = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in kuberay.ray_cluster(deployment)["spec"]["headGroupSpec"]["template"]["spec"][
            "volumes"
        ]
    ]
    assert [item["metadata"] for item in items] == [
        {"name": name, "namespace": "lab"} for name in mounted
    ]
    for item in items:
        assert item["spec"] == {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "500Gi"}},
            "storageClassName": "nfs",
        }


@pytest.mark.parametrize("kind", CLOUD)
def test_ray_up_takes_the_files(kind: str) -> None:
    deployment = dataclasses.replace(
        GROWING, file_system="fs-1.example:/", hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3")
    )
    config = yaml.safe_load(render(kind, deployment))
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == (8 if kind == "aws" else 2)
    assert prepared["auth"]["ssh_user"] == "ubuntu"
    assert config["file_mounts"] == {
        launcher.TOKEN: launcher.TOKEN,
        launcher.SECRETS: launcher.SECRETS,
    }
    assert "--volume=/shared/outputs:/shared/outputs" in config["docker"]["run_options"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all(": ${HF_TOKEN:?" in c for c in commands if "ray start" in c)
        assert all("RAY_AUTH_MODE=token" in c for c in commands if "ray start" in c)
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config({**prepared, "max_wokers": 1})


def test_on_aws_all_machines_mount_one_file_system() -> None:
    config = launcher.aws(dataclasses.replace(GROWING, file_system="fs-1.example:/"))
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert head["resources"] == {"CPU": 0}
    assert (worker["min_workers"], worker["max_workers"]) == (2, 8)
    assert any(
        "mount -t nfs4 fs-1.example:/ /shared" in c for c in config["initialization_commands"]
    )


def test_the_dockerfile_installs_the_lock_and_brings_every_package() -> None:
    text = render("dockerfile", Deployment(cache="/data/cache"))
    lines = text.splitlines()
    instructions = {line.split()[0] for line in logical(lines)}
    assert instructions == {"FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "CMD"}
    assert next(logical(lines)) == "FROM nvidia/cuda:13.0.2-devel-ubuntu24.04"
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    names = [name for each in copied for name in each]
    assert all((ROOT / name).exists() for name in names)
    assert {"analysis", "cluster", "search_spaces", "trainables"} < set(names)
    assert "pip install -r /opt/poolsearch/requirements.lock" in text
    assert "POOLSEARCH_CACHE=/data/cache" in text
    user = next(line for line in logical(lines) if "useradd" in line)
    assert "--uid 1000 ray" in user  # the group that pods' volumes are given
    assert kuberay.ray_cluster(FULL)["spec"]["headGroupSpec"]["template"]["spec"][
        "securityContext"
    ] == {"fsGroup": 1000}


def logical(lines: list[str]) -> Iterator[str]:
    """Yield a Dockerfile's instructions, each on one line."""
    whole = ""
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield whole
            whole = ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_manifest_holds_a_secret(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "planted-5f1c0"
    for name in SECRETS:
        monkeypatch.setenv(name, planted)
    monkeypatch.setenv("RAY_AUTH_TOKEN", planted)
    deployment = dataclasses.replace(GROWING, file_system="h:/", hosts=("a", "b"))
    text = render(kind, deployment)
    assert planted not in text
    assert kind in ("dockerfile", "volumes") or "HF_TOKEN" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min_workers": 0}, "min_workers: expected at least 1, got 0"),
        ({"min_workers": 9}, "min_workers: expected at most max_workers 4, got 9"),
        ({"name": "Big_Job"}, "name: expected at most 47 of a-z, 0-9 and '-', a letter first"),
        ({"outputs": "outputs"}, "outputs: expected an absolute path"),
        ({"cache": "/shared/outputs"}, "cache: expected another folder than /shared/outputs"),
        ({"environment": ("HF_TOKEN=x",)}, "environment: expected no secrets, got HF_TOKEN"),
        (
            {"environment": ("MLFLOW_TRACKING_URI=https://me:pw@host",)},
            "environment: expected no secrets, got MLFLOW_TRACKING_URI",
        ),
        ({"secrets": ("HF_TOKEN=x",)}, "secrets: expected names alone, got a value for HF_TOKEN"),
        ({"flags": ("--outputs=here",)}, "flags: expected none of --address, --outputs"),
        ({"flags": ("--out", "here")}, "flags: expected none of --address, --outputs"),
        (
            {"flags": ("--storage", "postgresql://me:pw@host/db")},
            "flags: expected no password in a URL; give it as a secret, as PGPASSWORD",
        ),
        ({"cache_claim": "poolsearch-outputs"}, "cache_claim: expected another claim than"),
        ({"queue": "a\nb"}, "queue: expected a name without spaces"),
        ({"hosts": ("a", "a")}, "hosts: expected each host once"),
        ({"ttl_s": "soon"}, "ttl_s: expected a whole number, got 'soon'"),
    ],
)
def test_faults_are_named_without_the_secret(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        Deployment(**given)
    assert "pw" not in str(caught.value)


def test_all_faults_of_a_command_line_come_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rayjob", "--gpus", "-1", "--cpus", "many", "--", "--outputs", "x"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gpus: expected at least 0, got -1",
        "cpus: expected a whole number, got 'many'",
        "flags: expected none of --address, --outputs, which the manifest gives",
    ]
    assert main(["aws"]) == 2
    assert "file_system: expected an NFS export" in capsys.readouterr().err
    assert main(["hosts", "--hosts", "a"]) == 2
    assert "hosts: expected the head's and at least one worker's, got 1" in capsys.readouterr().err


def test_misspelt_flags_of_a_search_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rayjob", "--", "--trails", "3"])
    assert "unrecognized arguments: --trails 3" in capsys.readouterr().err


def test_a_manifest_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    assert main(["rayjob", "--max-workers", "2", "--output", str(file), "--", *FLAGS]) == 0
    assert capsys.readouterr().out == ""
    expected = kuberay.ray_job(Deployment(max_workers=2, flags=FLAGS))
    assert yaml.safe_load(file.read_text()) == expected
