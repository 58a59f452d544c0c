"""Logs of libraries: in our form, from WARNING on, without what tells nobody anything."""

import logging
import os
import signal
import subprocess
import sys

import pytest
import structlog

from services._runtime import logs


@pytest.fixture(autouse=True)
def as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_the_end_of_a_tls_connection_is_no_news_and_what_else_asyncio_warns_of_is(capsys):
    logs.configure("ipam", form="json")
    asyncio = logging.getLogger("asyncio")
    asyncio.warning("returning true from eof_received() has no effect when using ssl")
    asyncio.warning("socket.send() raised exception.")
    asyncio.info("below the level")
    (line,) = capsys.readouterr().err.splitlines()
    assert "socket.send() raised exception." in line
    assert '"service": "ipam"' in line


def test_a_service_whose_logs_nobody_takes_any_more_ends_in_order():
    ours, its = os.pipe()
    environ = {**os.environ, "DNS_NODE": "node1", "NSM_NATS_URL": "nats://127.0.0.1:1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.dns"], env=environ, stdout=its, stderr=its
    )
    try:
        os.close(its)
        with os.fdopen(ours) as lines:
            for line in lines:
                if "trying on" in line:
                    break
            else:
                pytest.fail("it ended before it tried to reach the bus")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
