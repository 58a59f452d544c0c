"""Runs one service as a process: settings printed, health served, bus connected (if it uses it), ended in order.

SIGTERM: not ready → the service is cancelled → connection closed → exit 0. An exception anywhere, or a
connection that is closed for good, ends the process non-zero: Kubernetes (or the lab) starts it again.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from services._runtime import logs
from services._runtime.access import Access
from services._runtime.bus import Bus
from services._runtime.health import Health
from services._runtime.metrics import Metrics
from services._runtime.settings import RuntimeSettings, SettingsError, load, masked

log = structlog.get_logger()

BUS = "bus connected"
STREAMS = "streams ready"


@dataclass(frozen=True)
class Runtime:
    """What a service gets. `metrics.registry` takes its own figures."""

    name: str
    node: str
    bus: Bus
    health: Health
    settings: RuntimeSettings
    metrics: Metrics


Start = Callable[[Runtime], Awaitable[None]]


class BusClosed(Exception):
    """The connection is closed for good: only a new process gets a new one."""


@dataclass(frozen=True)
class Alone:
    """What a service gets that has no business with the bus."""

    name: str
    health: Health
    settings: RuntimeSettings
    metrics: Metrics


_Serve = Callable[[Alone], Awaitable[None]]


def run(name: str, settings: msgspec.Struct, start: Start, *, node: str = "") -> None:
    """Run `start` until it returns, fails, or SIGTERM comes; ends the process accordingly.

    Without a node the service owns the streams: it creates and corrects them. A node waits for them.
    """
    awaited = (BUS,) if node else (BUS, STREAMS)
    _run(name, settings, lambda process: _on_the_bus(process, start, node=node), awaited=awaited)


def run_alone(name: str, settings: msgspec.Struct, start: _Serve) -> None:
    """`run` for a service that does not use the bus."""
    _run(name, settings, start)


def _run(
    name: str, settings: msgspec.Struct, serve: _Serve, *, awaited: tuple[str, ...] = ()
) -> None:
    try:
        runtime_settings = load(RuntimeSettings, "NSM")
    except SettingsError as exc:
        sys.exit(f"{name}: {exc}")
    logs.configure(name, form=runtime_settings.log_format, level=runtime_settings.log_level)
    log.info("settings", runtime=masked(runtime_settings), service_settings=masked(settings))
    try:
        asyncio.run(_main(name, runtime_settings, serve, awaited))
    except SettingsError as exc:
        log.error("service failed", service_name=name, reason=str(exc))  # noqa: TRY400 the reason is all
        sys.exit(1)
    except Exception:
        log.exception("service failed", service_name=name)
        sys.exit(1)


async def _main(
    name: str, settings: RuntimeSettings, serve: _Serve, awaited: tuple[str, ...]
) -> None:
    metrics = Metrics()
    health = Health(metrics.registry)
    for each in awaited:
        health.expect(each)
    await health.start(settings.health_address)
    log.info("health served", port=health.port)
    try:
        work = asyncio.current_task()
        assert work is not None
        stopping = _stop_on_signals(health, work)
        try:
            await serve(Alone(name, health, settings, metrics))
        except asyncio.CancelledError:
            if not stopping:
                raise
            log.info("stopped")
    finally:
        await health.stop()


def _stop_on_signals(health: Health, work: asyncio.Task[None]) -> list[int]:
    """Cancel `work` on SIGTERM or SIGINT; the list holds the signals that came."""
    came: list[int] = []

    def stop(number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        health.stopping()
        if not came:  # a second cancellation would cut the orderly end short
            work.cancel()
        came.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return came


async def _on_the_bus(process: Alone, start: Start, *, node: str) -> None:
    name, settings, health = process.name, process.settings, process.health
    bus = await Bus.connect(
        settings.nats_url,
        name=f"{name}-{node}" if node else name,
        replicas=settings.nats_replicas,
        metrics=process.metrics,
        access=Access.of(name, token_file=settings.token_file, tls_ca=settings.tls_ca),
    )
    try:
        health.done(BUS)
        runtime = Runtime(name, node, bus, health, settings, process.metrics)
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(_end_when_closed(bus)),
                group.create_task(bus.keep_login()),
            ]
            if not node:
                await bus.ensure_streams()
                health.done(STREAMS)
                helpers.append(group.create_task(_keep_streams(bus)))
            await start(runtime)
            for helper in helpers:
                helper.cancel()
    finally:
        await bus.close()


async def _end_when_closed(bus: Bus) -> None:
    await bus.closed.wait()
    raise BusClosed("the connection to the bus was closed for good")


async def _keep_streams(bus: Bus) -> None:
    """Check the streams after each reconnection: the server may have come back without its disk."""
    again = asyncio.Event()
    forget = bus.on_reconnect(again.set)
    try:
        while True:
            await again.wait()
            again.clear()
            await bus.ensure_streams()
    finally:
        forget()
