"""The Dockerfile: the locked environment and this checkout, on CUDA."""

from __future__ import annotations

from cluster.manifests.deployment import USER, Deployment

DOCKERFILE = """\
# In the checkout's root: docker build --file Dockerfile --tag poolsearch:latest .
# With the compiler (devel), as DeepSpeed looks for it wherever there is a GPU.
FROM {base_image}

ENV DEBIAN_FRONTEND=noninteractive \\
    PYTHONUNBUFFERED=1 \\
    PIP_NO_CACHE_DIR=1 \\
    UV_PYTHON_INSTALL_DIR=/opt/python \\
    PATH=/opt/venv/bin:$PATH \\
    PYTHONPATH=/opt/poolsearch \\
    POOLSEARCH_CACHE={cache} \\
    HF_HOME={cache}/huggingface

# Ray's launcher copies files with rsync.
RUN apt-get update \\
    && apt-get install -y --no-install-recommends \\
        build-essential ca-certificates python3-pip rsync \\
    && rm -rf /var/lib/apt/lists/* \\
    && pip install --break-system-packages uv \\
    && uv venv --seed --python 3.11 /opt/venv

# From PyPI on Linux, torch's locked version is its CUDA build. The lock also has what tests need;
# boto3 is for the head that `ray up` starts on AWS.
COPY requirements.lock /opt/poolsearch/requirements.lock
RUN pip install -r /opt/poolsearch/requirements.lock boto3

COPY pyproject.toml README.md LICENSE /opt/poolsearch/
COPY analysis /opt/poolsearch/analysis
COPY cluster /opt/poolsearch/cluster
COPY search_spaces /opt/poolsearch/search_spaces
COPY trainables /opt/poolsearch/trainables

# Ubuntu's image has a user of this number.
RUN (userdel --remove ubuntu || true) && useradd --create-home --uid {user} ray \\
    && mkdir -p {outputs} {cache} && chown ray {outputs} {cache}
USER ray
WORKDIR /opt/poolsearch
RUN python -c "import ray, cluster.search, trainables.config"
CMD ["python", "-m", "cluster.search", "--help"]
"""


def dockerfile(deployment: Deployment) -> str:
    """Return the text of a Dockerfile."""
    return DOCKERFILE.format(
        base_image=deployment.base_image,
        outputs=deployment.outputs,
        cache=deployment.cache,
        user=USER,
    )
