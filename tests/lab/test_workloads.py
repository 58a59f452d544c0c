"""Our services in the cluster's eyes: a Pod and a token each, kept without anybody asking."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from lab.api import kinds
from lab.api.identity import Issuer
from lab.api.store import Store
from lab.cluster import SYSTEM_NAMESPACE, Cluster
from lab.layout import Layout
from lab.network import Node
from lab.supervisor import ProcessStatus
from lab.workloads import AUDIENCE, Holder, Workloads

NODE = Node(number=1)
PLUMBER = Holder(name="plumber/node1", account="nsm-plumber", node=NODE)


class World:
    def __init__(self, tmp_path, token_seconds: float) -> None:
        self.store = Store()
        self.cluster = Cluster(self.store)
        self.cluster.seed((NODE,))
        self.issuer = Issuer(self.store)
        self.layout = Layout(tmp_path)
        self.workloads = Workloads(
            self.cluster, self.issuer, self.layout, token_seconds=token_seconds
        )
        self.path = self.workloads.add(PLUMBER)

    def review(self, token: str) -> dict[str, Any]:
        body = {"spec": {"token": token, "audiences": [AUDIENCE]}}
        return dict(self.issuer.review(body)["status"])

    def pod(self) -> dict[str, Any]:
        return self.store.get(kinds.PODS, SYSTEM_NAMESPACE, "plumber-node1")

    async def another(self, token: str) -> str:
        async with asyncio.timeout(30):
            while (found := self.path.read_text()) == token:
                await asyncio.sleep(0.01)
        return found


async def running(world: World) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as tasks:
        kept = tasks.create_task(world.workloads.run())
        await asyncio.sleep(0)
        yield world
        kept.cancel()


@pytest.fixture
async def world(tmp_path):
    async for found in running(World(tmp_path, 600)):
        yield found


@pytest.fixture
async def hasty(tmp_path):
    async for found in running(World(tmp_path, 4)):
        yield found


async def test_a_service_has_a_token_with_its_role_pod_and_node_for_its_eyes_only(world):
    status = world.review(world.path.read_text())
    assert status["user"]["username"] == "system:serviceaccount:nsm-system:nsm-plumber"
    extra = status["user"]["extra"]
    assert extra["authentication.kubernetes.io/node-name"] == ["node1"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["plumber-node1"]
    assert world.path.stat().st_mode & 0o777 == 0o600
    assert world.path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_token_is_renewed_before_its_end(hasty):
    before = hasty.path.read_text()
    after = await hasty.another(before)
    assert hasty.review(before)["authenticated"], "the old one was good still"
    claims = [jwt.decode(t, options={"verify_signature": False}) for t in (before, after)]
    assert claims[1]["exp"] > claims[0]["exp"]


async def test_a_deleted_pod_is_made_anew_and_its_old_token_ends(world):
    before, uid = world.path.read_text(), world.pod()["metadata"]["uid"]
    process = ProcessStatus(name="plumber/node1", pid=1, running=True, held=False, restarts=0)
    world.workloads.tell(process)
    world.store.delete(kinds.PODS, SYSTEM_NAMESPACE, "plumber-node1", grace_seconds=0)
    after = await world.another(before)
    assert world.pod()["metadata"]["uid"] != uid
    assert world.pod()["status"]["phase"] == "Running"
    assert "error" in world.review(before)
    assert world.review(after)["authenticated"]


async def test_an_account_that_went_gives_no_token_until_it_is_back(world):
    before = world.path.read_text()
    account = (kinds.SERVICE_ACCOUNTS, SYSTEM_NAMESPACE, "nsm-plumber")
    world.store.delete(*account)
    await asyncio.sleep(0)
    assert "error" in world.review(world.path.read_text())
    world.store.create(
        account[0], {"metadata": {"name": account[2], "namespace": SYSTEM_NAMESPACE}}
    )
    assert world.review(await world.another(before))["authenticated"]


async def test_a_pods_status_is_what_its_process_does(world):
    process = ProcessStatus(name="plumber/node1", pid=1, running=True, held=False, restarts=0)
    world.workloads.tell(process)
    conditions = {c["type"]: c["status"] for c in world.pod()["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    ended = ProcessStatus(
        name="plumber/node1",
        pid=None,
        running=False,
        held=False,
        restarts=1,
        last_exit="exit code 1",
    )
    world.workloads.tell(ended)
    status = world.pod()["status"]
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "False"
    (container,) = status["containerStatuses"]
    assert container["restartCount"] == 1
    times = {k: v for k, v in container["state"]["terminated"].items() if k.endswith("At")}
    assert times.keys() == {"finishedAt"} and all(times.values())  # kubectl reads no empty time


async def test_people_have_tokens_without_a_pod(world):
    path = world.workloads.add(Holder(name="admin", account="nsm-admin"))
    status = world.review(path.read_text())
    assert status["user"]["username"].endswith(":nsm-admin")
    assert not [key for key in status["user"]["extra"] if key.endswith("node-name")]
