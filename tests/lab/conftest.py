"""One lab without our services for the tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from tests.lab.labs import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    world = Lab()
    world.up("--services", "nats")
    yield world
    world.remove()


@pytest.fixture
def own_lab() -> Iterator[Lab]:
    """A lab that the test starts, breaks and ends itself."""
    world = Lab()
    yield world
    world.remove()
