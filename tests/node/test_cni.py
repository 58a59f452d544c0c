import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from services._node import cni
from services._node.cni import CniResult

REAL = b"""{"kind":"cniCacheV1","containerId":"5f3c","config":"eyJjbmlWZXJzaW9uIjoiMC4zLjEifQ==","ifName":"eth0",
"networkName":"kindnet","netns":"/var/run/netns/cni-1a2b","cniArgs":[["IgnoreUnknown","1"],
["K8S_POD_NAMESPACE","default"],["K8S_POD_NAME","web"],["K8S_POD_INFRA_CONTAINER_ID","5f3c"],
["K8S_POD_UID","1ee0-44"]],"capabilityArgs":{"dns":{}},"result":{"cniVersion":"0.3.1","dns":{},
"interfaces":[{"mac":"8a:01","name":"veth1"},{"name":"eth0","sandbox":"/var/run/netns/cni-1a2b"}],
"ips":[{"address":"10.244.1.5/24","gateway":"10.244.1.1","interface":1,"version":"4"}],
"routes":[{"dst":"0.0.0.0/0"}]}}"""


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def a_result(uid: str = "u1", container: str = "c1", **fields: object) -> CniResult:
    base = CniResult(
        uid=uid,
        namespace="default",
        name="web",
        container_id=container,
        netns="/run/netns/x",
        ips=("10.244.1.5/24",),
    )
    return msgspec.structs.replace(base, **fields)


def test_a_real_cache_file_is_understood() -> None:
    found = cni.parse(REAL)

    assert found == CniResult(
        uid="1ee0-44",
        namespace="default",
        name="web",
        container_id="5f3c",
        netns="/var/run/netns/cni-1a2b",
        network="kindnet",
        ips=("10.244.1.5/24",),
    )
    assert found.file_name == "kindnet-5f3c-eth0"


def test_a_file_of_an_older_libcni_tells_the_namespace_by_its_interface() -> None:
    """Containerd 1.6 writes no `netns`; the result names it for the end that the Pod has."""
    older = REAL.replace(b'"netns":"/var/run/netns/cni-1a2b",', b"")
    assert older != REAL
    assert cni.parse(older) == cni.parse(REAL)
    assert cni.parse(older.replace(b'"sandbox"', b'"other"')) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", REAL[:200], b"[]", b'{"kind":"cniCacheV1"}', REAL.replace(b"eth0", b"lo")],
    ids=["empty", "open", "half", "list", "no pod", "loopback"],
)
def test_what_is_no_result_of_a_pod_is_none(data: bytes) -> None:
    assert cni.parse(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"x":' + b"[" * 100_000,
        b'{"result":' * 100_000,
        REAL.replace(b"/var/run", b"/var\\u0000run"),
    ],
    ids=["nested list", "nested result", "NUL in the path"],
)
def test_a_senseless_result_is_none_and_told_once(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cni-bad-eth0"
    path.write_bytes(data)

    with capture_logs() as logs:
        assert cni.read(path) is None

    assert [line["file"] for line in logs] == [path.name]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    result = a_result()
    path = cni.write(tmp_path / "results", result)

    found = cni.read_all(tmp_path / "results")

    assert path.name == "cni-c1-eth0"
    assert msgspec.structs.replace(found["cni-c1-eth0"], written_at=0) == result

    cni.remove(tmp_path / "results", result)
    cni.remove(tmp_path / "results", result)

    assert cni.read_all(tmp_path / "results") == {}


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert cni.read_all(tmp_path / "nowhere") == {}


def test_the_newest_primary_attachment_counts() -> None:
    old = a_result(container="c1", written_at=1)
    new = a_result(container="c2", written_at=2)
    second = a_result(container="c2", written_at=3, interface="net1")

    assert cni.by_uid({"a": new, "b": second, "c": old}) == {"u1": new}


async def test_watching_starts_with_what_is_there_and_follows(tmp_path: Path) -> None:
    cni.write(tmp_path, a_result("u1", "c1"))
    watching = cni.watch(tmp_path)
    async with asyncio.timeout(20):
        assert {r.uid for r in (await anext(watching)).values()} == {"u1"}

        cni.write(tmp_path, a_result("u2", "c2"))
        while {r.uid for r in (await anext(watching)).values()} != {"u1", "u2"}:
            pass

        cni.remove(tmp_path, a_result("u1", "c1"))
        while {r.uid for r in (await anext(watching)).values()} != {"u2"}:
            pass

        draft = tmp_path / ".draft"
        draft.write_bytes(cni.render(a_result("u3", "c3")))
        draft.replace(tmp_path / "cni-c3-eth0")
        while "cni-c3-eth0" not in await anext(watching):
            pass
    await watching.aclose()


async def test_a_file_that_is_written_anew_is_not_gone(tmp_path: Path) -> None:
    path = cni.write(tmp_path, a_result())
    watching = cni.watch(tmp_path)
    async with asyncio.timeout(20):
        assert len(await anext(watching)) == 1

        path.write_bytes(b"")
        cni.write(tmp_path, a_result("u2", "c2"))
        found = await anext(watching)
        while len(found) != 2:
            found = await anext(watching)
    await watching.aclose()

    assert {result.uid for result in found.values()} == {"u1", "u2"}


async def test_watching_survives_a_replaced_directory(tmp_path: Path) -> None:
    directory = tmp_path / "results"
    watching = cni.watch(directory)
    async with asyncio.timeout(20):
        assert await anext(watching) == {}

        shutil.rmtree(directory)
        assert await anext(watching) == {}

        cni.write(directory, a_result("u1", "c1"))
        while len(await anext(watching)) != 1:
            pass
    await watching.aclose()


async def test_a_watch_that_ended_holds_nothing(tmp_path: Path) -> None:
    before = descriptors()
    watching = cni.watch(tmp_path)
    await anext(watching)
    await watching.aclose()

    assert descriptors() == before
