import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services._node import links, netns


def test_a_new_namespace_is_another_one(place: Path) -> None:
    assert netns.identity(place) != netns.own()
    assert netns.cookie(place) != netns.cookie("/proc/self/ns/net")


def test_a_cookie_is_never_reused(tmp_path: Path, place: Path) -> None:
    cookies = set()
    for at in range(40):
        path = tmp_path / f"ns{at}"
        netns.create(path)
        cookies.add(netns.cookie(path))
        netns.delete(path)

    assert len(cookies) == 40


def test_a_name_in_use_is_refused_and_left_alone(place: Path) -> None:
    before = netns.identity(place)

    with pytest.raises(FileExistsError):
        netns.create(place)

    assert netns.identity(place) == before


def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    netns.delete(tmp_path / "never")
    (tmp_path / "plain").touch()
    netns.delete(tmp_path / "plain")

    assert not (tmp_path / "plain").exists()


def test_actions_run_inside_and_the_caller_stays_outside(place: Path) -> None:
    inside = netns.in_netns(place, lambda: netns.identity("/proc/thread-self/ns/net"))

    assert inside == netns.identity(place)
    assert netns.identity("/proc/thread-self/ns/net") == netns.own()


def test_what_is_opened_in_a_new_namespace_keeps_it_and_we_stay_outside(place: Path) -> None:
    before = netns.own()
    with netns.in_new_netns(lambda: socket.socket(socket.AF_UNIX)) as made:
        assert netns.cookie_of(made) not in {netns.cookie("/proc/self/ns/net"), netns.cookie(place)}

    assert netns.own() == before


def test_a_thread_that_entered_is_thrown_away(place: Path) -> None:
    names: list[threading.Thread] = []
    netns.in_netns(place, lambda: names.append(threading.current_thread()))

    assert not names[0].is_alive()


def test_a_worker_visits_and_comes_back(place: Path) -> None:
    def there() -> tuple[netns.Identity, netns.Identity]:
        return netns.identity(netns.OWN), netns.own()

    def fail() -> None:
        raise LookupError("inside")

    def visit() -> tuple[threading.Thread, tuple[netns.Identity, netns.Identity], netns.Identity]:
        found = netns.visit(place, there)
        thread = netns.visit(place, threading.current_thread)
        with pytest.raises(LookupError, match="inside"):
            netns.visit(place, fail)
        with pytest.raises(OSError, match="setns"):
            netns.visit("/proc/self/ns/mnt", fail)
        return thread, found, netns.identity(netns.OWN)

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.current_thread).result()
        thread, (inside, of_process), afterwards = pool.submit(visit).result()

    is_user_namespace = Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    assert thread is worker or is_user_namespace
    assert inside == netns.identity(place)
    assert of_process == afterwards == netns.own()


def test_the_main_thread_never_moves(place: Path) -> None:
    """Its namespace is what other threads take for the process's."""
    names: list[threading.Thread] = []
    netns.visit(place, lambda: names.append(threading.current_thread()))

    assert names[0] is not threading.main_thread()


def test_an_error_inside_is_raised_outside(place: Path) -> None:
    def fail() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        netns.in_netns(place, fail)


def test_entering_what_is_no_namespace_says_what(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()

    with pytest.raises(OSError, match="setns") as caught:
        netns.in_netns(plain, lambda: None)

    assert caught.value.filename == str(plain)


def test_sockets_live_where_they_were_opened(place: Path) -> None:
    with netns.open_socket(place, socket.AF_INET, socket.SOCK_DGRAM) as opened:
        assert netns.cookie_of(opened) == netns.cookie(place)
        assert not os.get_inheritable(opened.fileno())


def test_descriptors_are_not_inherited(place: Path) -> None:
    fd = netns.open_fd(place)
    copy = netns.open_fd(fd)
    try:
        assert not os.get_inheritable(fd)
        assert not os.get_inheritable(copy)
    finally:
        os.close(fd)
        os.close(copy)


def test_nothing_is_left_open(place: Path) -> None:
    def held() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    before = held()
    netns.cookie(place)
    netns.in_netns(place, lambda: None)
    with links.Netlink(place) as netlink:
        netlink.find_link("lo")

    assert held() == before


def test_guard_lets_a_pods_namespace_pass(place: Path) -> None:
    assert netns.guard(place) == netns.identity(place)


def test_guard_refuses_our_own_and_forbidden_namespaces(place: Path) -> None:
    with pytest.raises(netns.WrongNamespace):
        netns.guard("/proc/self/ns/net")
    with pytest.raises(netns.WrongNamespace):
        netns.guard(place, place)


def test_sysctls_are_written_inside(place: Path) -> None:
    netns.write_sysctls(place, {"ipv4/conf/lo/rp_filter": "2"})

    read = netns.in_netns(place, Path("/proc/sys/net/ipv4/conf/lo/rp_filter").read_text)
    assert read.strip() == "2"


def test_sysctls_of_our_own_namespace_are_refused() -> None:
    before = Path("/proc/sys/net/ipv4/conf/lo/rp_filter").read_text()

    with pytest.raises(netns.WrongNamespace):
        netns.write_sysctls("/proc/self/ns/net", {"ipv4/conf/lo/rp_filter": before})


def test_a_sysctl_that_the_kernel_lacks_is_passed_over_on_request(place: Path) -> None:
    unknown = {"ipv6/conf/none0/accept_ra": "0"}

    netns.write_sysctls(place, {}, where_known=unknown)

    with pytest.raises(FileNotFoundError):
        netns.write_sysctls(place, unknown)


def test_no_thread_is_an_os_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)

    with pytest.raises(BlockingIOError, match="can't start new thread"):
        netns.cookie(place)
