"""`nsm lab misbehave` and `nsm lab behave`, against the lab's API server."""

import asyncio
from typing import get_args

import pytest

from cli import main
from cli.lab import misbehaving
from cli.problems import Problem
from lab.api.client import Client, ClientError
from lab.api.kinds import PODS
from lab.api.misbehaving import What
from tests.cli.standin import lab_api


@pytest.fixture
async def api(monkeypatch):
    async with lab_api(monkeypatch) as server:
        yield server


@pytest.fixture
def nsm(capsys):
    """As somebody types it: what was printed."""

    async def typed(*words):
        await asyncio.to_thread(main.NSM.main, ["lab", *words], standalone_mode=False)
        return capsys.readouterr().out

    return typed


async def test_a_fault_stands_until_its_times_are_over_or_behave_is_said(api, nsm):
    assert await nsm("misbehave") == "nothing is to go wrong any more\n"
    words = ("refuse", "--code", "503", "--kind", "pods", "--verb", "list", "--times", "2")
    assert await nsm("misbehave", *words) == "refuse: list pods, 2 more\n"
    async with Client(api.url) as client:
        with pytest.raises(ClientError) as refused:
            await client.objects(PODS)
        assert refused.value.code == 503
        assert await nsm("misbehave") == "refuse: list pods, 1 more\n"
        assert await nsm("behave") == "nothing is to go wrong any more\n"
        assert await client.objects(PODS) == []


async def test_a_fault_may_be_written_as_json(api, nsm):
    told = await nsm("misbehave", '{"what": "drop", "times": 0, "lasts": 60}')
    assert told == "drop: any request, for 60 s at most\n"
    (fault,) = api.faults.to_come
    assert (fault.what, fault.lasts) == ("drop", 60)


@pytest.mark.parametrize("fault", ["cut-all", "restore"])
async def test_who_has_all_connections_cut_gets_an_answer_and_nobody_else(api, nsm, fault):
    async def watched(client):
        return [event async for event in client.watch(PODS)]

    async with Client(api.url) as client, asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(cut(watched(client)))
        while not api._watches:
            await asyncio.sleep(0.005)
        assert await nsm("misbehave", fault) == "nothing is to go wrong any more\n"
        assert await watching


async def cut(asking):
    with pytest.raises(ClientError):
        await asking
    return True


async def test_behave_lets_in_again_whom_a_rotation_shut_out(api, nsm):
    await nsm("misbehave", "rotate", "--token", "other")
    async with Client(api.url) as client:
        with pytest.raises(ClientError):
            await client.objects(PODS)
        await nsm("behave")
        assert await client.objects(PODS) == []


@pytest.mark.parametrize("wrong", ["sulk", '{"what": "sulk"}', "{", '{"what": "drop", "x": 1}'])
async def test_what_is_no_fault_is_told_with_what_there_is(api, nsm, wrong):
    with pytest.raises(Problem) as told:
        await nsm("misbehave", wrong)
    assert told.value.exit_code == 2
    assert wrong == "{" or "refuse, hang, drop" in str(told.value)


def test_help_tells_every_fault():
    text = misbehaving.misbehave.__doc__
    assert text is not None
    assert not [what for what in get_args(What) if what not in text]
