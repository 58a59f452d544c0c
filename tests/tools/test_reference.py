"""The pages that the code writes are what the code says, and a thing without a text is found."""

import shutil
from pathlib import Path

import pytest

from tools.reference import settings
from tools.reference.__main__ import FOLDER, ROOT, pages, stale


def test_every_page_is_what_the_code_says():
    assert stale(ROOT, FOLDER) == []


def test_a_page_that_was_edited_or_that_nothing_writes_is_named(tmp_path):
    folder = tmp_path / "reference"
    shutil.copytree(FOLDER, folder)
    (folder / "settings.md").write_text("edited")
    (folder / "gone.md").write_text("of a service that was removed")

    assert stale(ROOT, folder) == ["gone.md", "settings.md"]


def test_a_setting_without_a_comment_is_named(tmp_path, monkeypatch):
    module = _settings_module(tmp_path / "silent" / "others", "node: str")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ValueError, match="OTHERS_NODE has no comment"):
        settings.section(module, "OTHERS")


def test_comments_above_and_beside_a_setting_tell_what_it_means(tmp_path, monkeypatch):
    field = '# this\n    # node\'s name\n    node: str = "a|b"  # as Kubernetes has it'
    module = _settings_module(tmp_path / "told" / "others", field)
    monkeypatch.syspath_prepend(tmp_path)

    page = settings.section(module, "OTHERS")

    assert "| `OTHERS_NODE` | `a\\|b` | this node's name as Kubernetes has it |" in page


def test_every_metric_that_a_service_shows_has_its_row():
    text = pages(ROOT)["metrics.md"]

    assert "| `nsm_messages_total` | counter | `kind`, `outcome` |" in text
    assert "| `nsm_plumber_bytes_total` | counter | `network_service`, `direction` |" in text
    assert "| `nsm_dns_seconds` | histogram |" in text


def _settings_module(place: Path, field: str) -> Path:
    place.mkdir(parents=True)
    (place / "__init__.py").touch()
    module = place / "settings.py"
    module.write_text(f"import msgspec\n\n\nclass Settings(msgspec.Struct):\n    {field}\n")
    return module
