"""Every command takes a Pod's name in the same forms."""

import pytest

from cli import pods
from cli.problems import Problem


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("app", ("here", "app")),
        ("pod/app", ("here", "app")),
        ("pods/app-0.x", ("here", "app-0.x")),
        ("team/app", ("team", "app")),
        ("pod/1.2.3", ("here", "1.2.3")),
    ],
)
def test_a_pod_is_named_alone_with_its_kind_or_with_its_namespace(what, place):
    assert pods.place_of(what, "here") == place


@pytest.mark.parametrize("what", ["", "/app", "team/", "pod/", "a/b/c", "A", "te.am/app"])
def test_what_is_no_name_is_refused_with_the_forms(what):
    with pytest.raises(Problem, match="NAMESPACE/NAME") as caught:
        pods.place_of(what, "here")
    assert caught.value.exit_code == 2


def test_without_a_lab_nobody_knows_whether_a_pod_exists(monkeypatch, tmp_path):
    monkeypatch.setenv("NSM_LAB_DIR", str(tmp_path / "none"))
    assert pods.exists("default", "app") is None
