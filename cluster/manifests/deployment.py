"""What every manifest is made from: the machines, the folders that they share, the search."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trainables.faults import check, whole, whole_or_none

KUBERNETES = ("rayjob", "raycluster")
CLOUD = ("aws", "hosts")  # what `ray up` starts
CONTAINERS = (*KUBERNETES, *CLOUD)
NODES = (*KUBERNETES, "aws", "slurm")  # where the size of a node is ours to choose
RUNS = ("rayjob", "slurm")  # what runs the search, and not only a cluster for it
CLAIMS = (*KUBERNETES, "volumes")
KINDS = (*CLAIMS, *CLOUD, "slurm", "dockerfile")
FOLDERS = (*CONTAINERS, "slurm", "dockerfile")

USER = 1000  # in the image; its group owns the volumes' files
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")  # KubeRay adds some characters
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z0-9._:/@+-]+")
PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
LOGIN = re.compile(r"://[^/@\s]*:[^/@\s]*@")  # a URL with a password in it
OWN_FLAGS = ("--address", "--outputs")  # of the search; a manifest gives them


def setting(default: Any, help: str, kinds: Iterable[str]) -> Any:  # noqa: A002
    """Return a field that the command line of some kinds of manifests has."""
    return dataclasses.field(default=default, metadata={"help": help, "kinds": tuple(kinds)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A search on a cluster; no field holds a secret, only names of them."""

    name: str = setting("poolsearch", "of the cluster and the job", (*CONTAINERS, "slurm"))
    image: str = setting("poolsearch:latest", "container image, from the Dockerfile", CONTAINERS)
    min_workers: int = setting(1, "nodes with workers, at least", (*KUBERNETES, "aws"))
    max_workers: int = setting(4, "nodes with workers, at most", NODES)
    gpus: int = setting(1, "of a node with workers", (*KUBERNETES, "slurm"))
    cpus: int = setting(8, "of a node with workers", (*KUBERNETES, "slurm"))
    memory_gib: int = setting(64, "of a node with workers", (*KUBERNETES, "slurm"))
    head_cpus: int = setting(4, "of the head, which runs no trials", KUBERNETES)
    head_memory_gib: int = setting(16, "of the head", KUBERNETES)
    outputs: str = setting("/shared/outputs", "folder of the studies; all nodes see it", FOLDERS)
    cache: str = setting("/shared/cache", "folder of models and data; all nodes see it", FOLDERS)
    outputs_claim: str = setting("poolsearch-outputs", "volume claim of the studies", CLAIMS)
    cache_claim: str = setting("poolsearch-cache", "volume claim of models and data", CLAIMS)
    volume_gib: int = setting(200, "of each of the two volumes", ("volumes",))
    storage_class: str | None = setting(None, "that many nodes can mount", ("volumes",))
    environment: tuple[str, ...] = setting(
        (), "NAME=VALUE ..., no secrets", (*CONTAINERS, "slurm")
    )
    secrets: tuple[str, ...] = setting((), "names of secret variables", (*CONTAINERS, "slurm"))
    secret: str = setting("poolsearch", "Secret object that has them", KUBERNETES)
    namespace: str = setting("default", "of Kubernetes", CLAIMS)
    queue: str | None = setting(None, "Kueue's or Slurm's", (*KUBERNETES, "slurm"))
    backoff_limit: int = setting(3, "new clusters after failures", ("rayjob",))
    ttl_s: int = setting(3600, "until a finished cluster is deleted", ("rayjob",))
    time_limit_h: int | None = setting(None, "hours that the search may take", RUNS)
    idle_timeout_s: int = setting(300, "until an idle node goes", (*KUBERNETES, *CLOUD))
    region: str = setting("us-west-2", "of AWS", ("aws",))
    instance: str = setting("g6.2xlarge", "type of a node with workers", ("aws",))
    head_instance: str = setting("m7i.xlarge", "type of the head", ("aws",))
    file_system: str | None = setting(None, "NFS export to mount, as HOST:/PATH", ("aws",))
    hosts: tuple[str, ...] = setting((), "addresses, the head's first", ("hosts",))
    ssh_user: str = setting("ubuntu", "who logs in", CLOUD)
    ssh_key: str | None = setting(None, "path of the private key", CLOUD)
    base_image: str = setting(
        "nvidia/cuda:13.0.2-devel-ubuntu24.04", "to build on", ("dockerfile",)
    )
    flags: tuple[str, ...] = ()  # of cluster.search

    def __post_init__(self) -> None:
        """Check the fields."""
        check(
            {
                "name": _label(self.name),
                "image": _word(self.image),
                "min_workers": self._min_workers_fault(),
                "max_workers": whole(self.max_workers, at_least=1),
                "gpus": whole(self.gpus, at_least=0),
                "cpus": whole(self.cpus, at_least=1),
                "memory_gib": whole(self.memory_gib, at_least=1),
                "head_cpus": whole(self.head_cpus, at_least=1),
                "head_memory_gib": whole(self.head_memory_gib, at_least=1),
                "outputs": _whole_path(self.outputs),
                "cache": _whole_path(self.cache) or self._cache_fault(),
                "outputs_claim": _label(self.outputs_claim),
                "cache_claim": _label(self.cache_claim) or self._claims_fault(),
                "volume_gib": whole(self.volume_gib, at_least=1),
                "storage_class": None if self.storage_class is None else _word(self.storage_class),
                "environment": _environment_fault(self.environment),
                "secrets": _secrets_fault(self.secrets, self.environment),
                "secret": _label(self.secret),
                "namespace": _label(self.namespace),
                "queue": None if self.queue is None else _word(self.queue),
                "backoff_limit": whole(self.backoff_limit, at_least=0),
                "ttl_s": whole(self.ttl_s, at_least=0),
                "time_limit_h": whole_or_none(self.time_limit_h, at_least=1),
                "idle_timeout_s": whole(self.idle_timeout_s, at_least=60),
                "region": _word(self.region),
                "instance": _word(self.instance),
                "head_instance": _word(self.head_instance),
                "ssh_user": _word(self.ssh_user),
                "base_image": _word(self.base_image),
                "file_system": self._file_system_fault(),
                "hosts": self._hosts_fault(),
                "flags": self._flags_fault(),
            }
        )

    def _min_workers_fault(self) -> str | None:
        """Return the fault of the least number of nodes; a search needs room for a trial."""
        fault = whole(self.min_workers, at_least=1)
        if fault or whole(self.max_workers, at_least=1) or self.min_workers <= self.max_workers:
            return fault
        return f"expected at most max_workers {self.max_workers}, got {self.min_workers}"

    def _cache_fault(self) -> str | None:
        return (
            f"expected another folder than {self.outputs}" if self.cache == self.outputs else None
        )

    def _claims_fault(self) -> str | None:
        """Return the fault of one claim for both; a pod does not mount one twice so."""
        same = self.cache_claim == self.outputs_claim
        return f"expected another claim than {self.outputs_claim}" if same else None

    def _file_system_fault(self) -> str | None:
        if self.file_system is None or re.fullmatch(r"[\w.-]+:/[\w./-]*", self.file_system):
            return None
        return f"expected HOST:/PATH, got {self.file_system!r}"

    def _hosts_fault(self) -> str | None:
        bad = [host for host in self.hosts if not re.fullmatch(r"[A-Za-z0-9.:-]+", host)]
        if bad:
            return f"expected names or addresses of hosts, got {bad[0]!r}"
        repeated = len(set(self.hosts)) < len(self.hosts)
        return "expected each host once" if repeated else None

    def _flags_fault(self) -> str | None:
        names = [flag.partition("=")[0] for flag in self.flags]
        if any(own.startswith(name) for own in OWN_FLAGS for name in names if len(name) > 3):
            return f"expected none of {', '.join(OWN_FLAGS)}, which the manifest gives"
        if any(LOGIN.search(flag) for flag in self.flags):
            return "expected no password in a URL; give it as a secret, as PGPASSWORD"
        return None

    def variables(self) -> dict[str, str]:
        """Return the environment of every process, secrets apart."""
        return {
            "POOLSEARCH_CACHE": self.cache,
            "HF_HOME": f"{self.cache}/huggingface",
            **dict(text.split("=", 1) for text in self.environment),
        }

    def command(self) -> str:
        """Return the command of the search, which continues a study that it finds.

        >>> Deployment(flags=("--study", "big one")).command()
        "python -m cluster.search --address auto --outputs /shared/outputs --study 'big one'"
        """
        own = ["--address", "auto", "--outputs", self.outputs]
        return shlex.join(["python", "-m", "cluster.search", *own, *self.flags])


def secret_value(text: str) -> bool:
    """Return whether NAME=VALUE has the looks of a secret.

    >>> [secret_value(t) for t in ("HF_TOKEN=x", "A=sqlite:///f", "A=https://me:x@host", "KEYS=1")]
    [True, False, True, False]
    """
    name, _, value = text.partition("=")
    return bool(SECRET.search(name) or LOGIN.search(value))


def _label(value: object) -> str | None:
    if isinstance(value, str) and DNS_LABEL.fullmatch(value):
        return None
    return f"expected at most 47 of a-z, 0-9 and '-', a letter first, got {value!r}"


def _word(value: object) -> str | None:
    good = isinstance(value, str) and WORD.fullmatch(value)
    return None if good else f"expected a name without spaces, got {value!r}"


def _whole_path(value: object) -> str | None:
    if isinstance(value, str) and PATH.fullmatch(value) and ".." not in value:
        return None
    return f"expected an absolute path of plain letters, which all nodes see, got {value!r}"


def _environment_fault(given: tuple[str, ...]) -> str | None:
    for text in given:
        name, equals, _ = text.partition("=")
        if not equals or not VARIABLE.fullmatch(name):
            return f"expected NAME=VALUE, got {name!r}"
        if secret_value(text):
            return f"expected no secrets, got {name}; give its name alone with --secrets"
    return None


def _secrets_fault(names: tuple[str, ...], environment: tuple[str, ...]) -> str | None:
    for name in names:
        if "=" in name:
            return f"expected names alone, got a value for {name.partition('=')[0]}"
        if not VARIABLE.fullmatch(name):
            return f"expected names of variables, got {name!r}"
        if any(text.partition("=")[0] == name for text in environment):
            return f"expected none of the environment's, got {name}"
    return "expected each name once" if len(set(names)) < len(names) else None
