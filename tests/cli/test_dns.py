"""`nsm dns explain`: what it says where there is nobody to ask about."""

import pytest

from cli import dns, pods
from cli.output import OutputFormat
from cli.problems import Problem


def explain(pod: str, at: str = "") -> None:
    dns.explain(pod, ".", "default", at, OutputFormat.TABLE)


def test_a_pod_that_is_not_there_is_told_apart_from_one_without_dns(monkeypatch):
    monkeypatch.setattr(pods, "exists", lambda *place: place != ("team", "nosuch"))
    with pytest.raises(Problem, match="no such Pod: team/nosuch; see: nsm lab get pods -n team"):
        explain("team/nosuch")


def test_where_a_node_is_named_its_service_alone_is_asked(monkeypatch):
    monkeypatch.setattr(pods, "exists", lambda *_: False)
    with pytest.raises(Problem, match=r"dns service at 127\.0\.0\.1:1: .*--at HOST:PORT"):
        explain("nosuch", at="127.0.0.1:1")
