"""What the lab tells our services: settings that they have, and nothing else."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab.fleet import Fleet
from lab.layout import Config, Layout
from services.dns.settings import Settings as DnsSettings
from services.plumber.settings import Settings as PlumberSettings


@pytest.mark.parametrize(
    ("service", "settings"), [("plumber", PlumberSettings), ("dns", DnsSettings)]
)
def test_a_service_is_told_only_settings_that_it_has(tmp_path: Path, service: str, settings: Any):
    network: Any = SimpleNamespace(path=lambda node: tmp_path / node.name)
    fleet = Fleet(
        Config(directory=str(tmp_path)),
        Layout(tmp_path),
        network,
        cast("Any", None),
        cast("Any", None),
    )
    node: Any = SimpleNamespace(name="node1")
    known = {f"{service}_{field}".upper() for field in settings.__struct_fields__}
    assert fleet._env(service, node).keys() <= known
