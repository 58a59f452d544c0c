"""Through which proxy an address is reached."""

import pytest

from services._kube.proxy import proxy_for

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", PROXY)


@pytest.mark.parametrize(
    ("url", "spared", "proxy"),
    [
        ("https://api.example:6443", "", PROXY),
        ("http://api.example:6443", "", ""),  # none for this scheme
        ("https://api.example:6443", "api.example", ""),
        ("https://api.example:6443", ".example, 10.0.0.0/8", ""),
        ("https://api.example:6443", "*", ""),
        ("https://10.96.0.1", "10.0.0.0/8", ""),
        ("https://10.96.0.1", "other.example, 10.96.0.0/12", ""),
        ("https://11.96.0.1", "10.0.0.0/8", PROXY),
        ("https://[fd00::1]:6443", "fd00::/8", ""),
        ("https://[fd00::1]:6443", "10.0.0.0/8", PROXY),
        ("https://127.0.0.1:6443", "", ""),
        ("https://[::1]:6443", "", ""),
        ("https://localhost:6443", "", ""),
    ],
)
def test_a_proxy_is_for_other_machines_that_nobody_spared(monkeypatch, url, spared, proxy):
    monkeypatch.setenv("no_proxy", spared)
    assert proxy_for(url) == proxy


def test_what_is_no_address_is_said():
    with pytest.raises(ValueError, match="IPv6"):
        proxy_for("https://[::1")
