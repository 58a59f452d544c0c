"""The world of the auth tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.auth.world import World, a_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """API server, nats-server and auth, ready."""
    async with a_world(tmp_path) as world:
        yield world
