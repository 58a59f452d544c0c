"""One lab for all stories; each story has a namespace of its own."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, namespace_of
from tests.e2e.witness import testify

LABS = ("cluster", "brief")  # fixtures that are a lab


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Not pytest's own directory: a socket's path may have 107 bytes, and failed runs would pile up.
    directory = Path(tempfile.mkdtemp(prefix="nsm-e2e-"))
    lab = Cluster(directory)
    lab.nsm("lab", "up", "--detach")
    try:
        yield lab
    finally:
        lab.nsm("lab", "down")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def without_conflict(request: pytest.FixtureRequest) -> Iterator[None]:
    """At the end of a test the bus of its lab holds nothing that conflicts."""
    names = [name for name in LABS if name in request.fixturenames]
    labs = [request.getfixturevalue(name) for name in names]
    yield
    for lab in labs:
        testify(lab)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    # Long names begin alike where a test has parameters.
    name = f"{plain[:43].strip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"
    cluster.apply(namespace_of(name))
    return name
