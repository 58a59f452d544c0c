"""What a Pod shows of itself and what was said about it; and how a test edits and connects it."""

import asyncio
import json

from lab.api.kinds import EVENTS, PODS
from schemas.annotation import ANNOTATION
from schemas.subjects import RequestKey
from services.watcher.model import CONDITION, STATUS_ANNOTATION
from tests.watcher.builders import a_grant, a_resolver, a_status

NSM1 = RequestKey("default", "client", "nsm-1")
NSM2 = RequestKey("default", "client", "nsm-2")


def condition(pod):
    found = [each for each in pod["status"].get("conditions", []) if each["type"] == CONDITION]
    return (found[0]["status"], found[0]["reason"]) if found else None


def message(pod):
    return next(e["message"] for e in pod["status"]["conditions"] if e["type"] == CONDITION)


def shown(pod):
    return json.loads(pod["metadata"].get("annotations", {}).get(STATUS_ANNOTATION, "null"))


def is_(status, reason):
    return lambda pod: condition(pod) == (status, reason)


async def connect(cluster, reader, ipam, *, dns=None):
    """ipam grants, the node wires and serves."""
    await reader.until(lambda: reader.get(NSM1) is not None)
    grant = a_grant(reader.get(NSM1), dns=dns)
    await ipam.publish(grant)
    await ipam.bus.publish(a_status(grant))
    if dns is not None:
        await ipam.bus.publish(a_resolver(grant))
    await cluster.until(PODS, "client", is_("True", "Connected"))
    return grant


def events(cluster, name="client"):
    records = cluster.store.shelf(EVENTS).records.values()
    return {
        (r.body["reason"], r.body["type"]): r.body
        for r in records
        if r.body["involvedObject"]["name"] == name
    }


async def until_event(cluster, reason, name="client"):
    arrived = asyncio.Event()
    end = cluster.store.watch(
        EVENTS,
        lambda _, e: (
            arrived.set() if (e["reason"], e["involvedObject"]["name"]) == (reason, name) else None
        ),
    )
    async with asyncio.timeout(30):
        await arrived.wait()
    end()


def edit(cluster, text):
    patch = {"metadata": {"annotations": {ANNOTATION: text}}}
    cluster.store.patch(PODS, "default", "client", patch)
