"""A service's life as a process: readiness, the orderly end, and no half-alive state."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from lab.nats import NatsServer
from services._runtime.health import Health

ROOT = Path(__file__).parents[2]
Process = asyncio.subprocess.Process


@asynccontextmanager
async def a_service(url: str, *arguments: str, **environ: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.service_process",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "NSM_NATS_URL": url, "NSM_LOG_FORMAT": "json", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode().strip()


async def port_of(process: Process) -> int:
    return int((await line_of(process)).removeprefix("port "))


async def end_of(process: Process) -> tuple[int | None, str, list[dict[str, object]]]:
    """(exit code, output, logs)"""
    async with asyncio.timeout(20):
        output, errors = await process.communicate()
    logs = [json.loads(line) for line in errors.decode().splitlines()]
    return process.returncode, output.decode(), logs


async def test_sigterm_ends_a_service_in_order(nats_server: NatsServer) -> None:
    async with a_service(nats_server.url, "wait") as process:
        port = await port_of(process)
        assert await line_of(process) == "waiting"
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/livez") as answer:
                assert answer.status == 200
            async with http.get("/readyz") as answer:
                assert answer.status == 503
                assert (await answer.json())["awaited"] == ["the thing"]
            async with http.get("/metrics") as answer:
                assert "nsm_messages_total" in await answer.text()
        process.terminate()
        code, output, logs = await end_of(process)
        assert code == 0
        assert output.strip() == "cancelled"
        assert [entry["event"] for entry in logs][-2:] == ["stopping", "stopped"]
        printed = next(entry for entry in logs if entry["event"] == "settings")
        assert printed["service_settings"] == {"word": "hello", "password": "***"}
        assert {entry["service"] for entry in logs} == {"example"}


async def test_an_exception_ends_the_process_non_zero(nats_server: NatsServer) -> None:
    async with a_service(nats_server.url, "fail") as process:
        code, _, logs = await end_of(process)
        assert code == 1
        assert "ZeroDivisionError" in json.dumps(logs[-1])


async def test_a_connection_closed_for_good_ends_the_process_non_zero(
    nats_server: NatsServer,
) -> None:
    async with a_service(nats_server.url, "closed") as process:
        code, _, logs = await end_of(process)
        assert code == 1
        assert "BusClosed" in json.dumps(logs[-1])


async def test_a_service_that_returns_ends_well(nats_server: NatsServer) -> None:
    async with a_service(nats_server.url, "return") as process:
        assert (await end_of(process))[0] == 0


async def test_a_node_does_not_make_the_streams(nats_server: NatsServer) -> None:
    async with a_service(nats_server.url, "wait", "node1") as process:
        await port_of(process)
        process.terminate()
        _, _, logs = await end_of(process)
        assert "stream created" not in [entry["event"] for entry in logs]


async def test_a_bad_setting_ends_the_process_with_its_name(nats_server: NatsServer) -> None:
    async with a_service(nats_server.url, "wait", NSM_NATS_REPLICAS="two") as process:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            text = (await process.stderr.read()).decode()
        assert "NSM_NATS_REPLICAS='two'" in text
        assert await process.wait() == 1


async def test_a_service_waits_for_the_bus_and_can_be_stopped_meanwhile() -> None:
    async with a_service("nats://127.0.0.1:1", "wait") as process:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"cannot be reached" not in await process.stderr.readline():
                pass
        process.terminate()
        assert (await end_of(process))[0] == 0


async def test_readiness_names_what_is_awaited_until_all_is_done() -> None:
    health = Health(CollectorRegistry())
    health.expect("snapshot")
    health.expect("kernel")
    health.done("snapshot")
    assert health.awaited == ["kernel"]
    health.done("kernel")
    health.done("never expected")
    assert health.ready
    health.stopping()
    assert not health.ready


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", ":0"])
async def test_health_listens_where_it_is_told(address: str) -> None:
    health = Health(CollectorRegistry())
    try:
        await health.start(address)
        assert health.port > 0
    finally:
        await health.stop()


async def test_a_service_answers_questions_of_its_own() -> None:
    health = Health(CollectorRegistry())

    async def greet(parameters: Mapping[str, str]) -> dict[str, str]:
        return {"hello": parameters["name"]}

    health.answer("/greeting", greet)
    await health.start("127.0.0.1:0")
    url = f"http://127.0.0.1:{health.port}"
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/greeting?name=you") as answer:
                assert await answer.json() == {"hello": "you"}
            async with http.get(f"{url}/greeting") as answer:
                assert answer.status == 404
            async with http.get(f"{url}/nothing") as answer:
                assert answer.status == 404
                assert "/greeting" in (await answer.json())["paths"]
    finally:
        await health.stop()
