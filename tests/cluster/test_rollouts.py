"""Rolling updates: what each Pod asks for and offers stands from its node to its end, and not longer."""

from schemas.intent import Endpoint, Request
from schemas.subjects import EndpointKey, RequestKey
from tests.cluster.rollouts import Workload
from tests.cluster.sides import a_watcher
from tests.cluster.test_stories import an_endpoint


def uids(pods):
    return {pod["metadata"]["uid"] for pod in pods}


async def test_a_deployment_of_clients_that_rolls_asks_for_each_pod_as_long_as_it_runs(
    side, nats, reader
):
    def asked():
        return {
            message.pod.uid
            for key, message in reader.mirror.items.items()
            if isinstance(key, RequestKey) and isinstance(message, Request)
        }

    withdrawn_early = []

    def may_end(pod):
        if pod["metadata"]["uid"] not in asked():
            withdrawn_early.append(pod["metadata"]["name"])
        return True

    clients = Workload(side, "Deployment", "client", replicas=3, asks="svc/nsm-1", may_end=may_end)
    async with a_watcher(side, nats), clients.deployed():
        before = uids(await clients.pods())
        await reader.until(lambda: asked() == before)
        await clients.roll()
        after = uids(await clients.pods())
        assert not before & after
        await reader.until(lambda: asked() == after)
    assert withdrawn_early == []
    told = [m.pod.uid for _, m in reader.changes if isinstance(m, Request)]
    assert {*told} >= before | after


async def test_a_stateful_set_of_endpoints_that_rolls_always_has_one_to_offer(side, nats, reader):
    keys = [EndpointKey(side.namespace, "vpn", f"vpn-{number}") for number in range(2)]

    def may_end(pod):
        found = reader.get(EndpointKey(side.namespace, "vpn", pod["metadata"]["name"]))
        return isinstance(found, Endpoint) and found.leaving

    await side.ask("POST", side.path("networkserviceendpoints"), an_endpoint(side))
    endpoints = Workload(side, "StatefulSet", "vpn", replicas=2, may_end=may_end)
    async with a_watcher(side, nats), endpoints.deployed():
        await reader.until(lambda: all((e := reader.get(key)) and e.ready for key in keys))
        begun = len(reader.changes)
        before = [reader.get(key).pod.uid for key in keys]
        await endpoints.roll()
        after = uids(await endpoints.pods())
        await reader.until(
            lambda: all((e := reader.get(key)) and e.ready and e.pod.uid in after for key in keys)
        )
    offered = dict.fromkeys(keys, True)
    leaving = []
    for key, message in reader.changes[begun:]:
        if key in offered:
            offered[key] = isinstance(message, Endpoint) and message.ready
            assert any(offered.values()), "nobody was left to connect to"
            if isinstance(message, Endpoint) and message.leaving:
                assert not message.ready
                leaving.append(message.pod.uid)
    assert sorted({*leaving}) == sorted(before)
