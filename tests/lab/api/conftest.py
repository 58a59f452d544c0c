"""A server per test, on a free port."""

import pytest

from lab.api.client import Client
from lab.api.server import LabApi
from lab.api.store import Store


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def api(store):
    server = LabApi(store)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(api):
    async with Client(api.url) as client:
        yield client
