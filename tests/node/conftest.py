from collections.abc import Iterator
from pathlib import Path

import pytest

from services._node import netns
from tests.node.sandboxes import ensure_namespaces_allowed


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    ensure_namespaces_allowed(tmp_path)
    path = tmp_path / "ns"
    netns.create(path)
    yield path
    netns.delete(path)
