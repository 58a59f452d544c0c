"""Auth as a process: settings printed, health served, ended in order.

As `run` of the runtime does it for services with a bus; but who lets others in cannot ask to be let in.
"""

import asyncio
import signal
from pathlib import Path

import structlog

from services._runtime import logs
from services._runtime.health import Health
from services._runtime.metrics import Metrics
from services._runtime.settings import RuntimeSettings, SettingsError, load, masked
from services.auth import keyring
from services.auth.adapters.kube import Kube
from services.auth.model import Keys
from services.auth.service import Auth
from services.auth.settings import Settings

log = structlog.get_logger()


def serve() -> int | str:
    """Until SIGTERM or a failure; the exit code, or what is wrong with the settings. Raises BadKeys."""
    try:
        runtime, settings = load(RuntimeSettings, "NSM"), load(Settings, "AUTH")
    except SettingsError as exc:
        return f"auth: {exc}"
    logs.configure("auth", form=runtime.log_format, level=runtime.log_level)
    log.info("settings", runtime=masked(runtime), service_settings=masked(settings))
    keys = keyring.read(Path(settings.keys_file))
    try:
        asyncio.run(_main(runtime, settings, keys))
    except Exception:
        log.exception("service failed", service_name="auth")
        return 1
    return 0


async def _main(runtime: RuntimeSettings, settings: Settings, keys: Keys) -> None:
    metrics = Metrics()
    health = Health(metrics.registry)
    await health.start(runtime.health_address)
    log.info("health served", port=health.port)
    stopping = _stop_on_signals(health)
    try:
        async with Kube(settings.kubeconfig) as kube:
            auth = Auth(
                keys,
                settings,
                kube,
                health=health,
                registry=metrics.registry,
                tls_ca=runtime.tls_ca,
            )
            await auth.run(runtime.nats_url)
    except asyncio.CancelledError:
        if not stopping:
            raise
        log.info("stopped")
    finally:
        await health.stop()


def _stop_on_signals(health: Health) -> list[int]:
    """Cancel the current task on SIGTERM or SIGINT; the list holds the signals that came."""
    work = asyncio.current_task()
    assert work is not None
    came: list[int] = []

    def stop(number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        health.stopping()
        if not came:  # a second cancellation would cut the orderly end short
            work.cancel()
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return came
