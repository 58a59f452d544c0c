"""Logs: constant text, data in keys. For people on a terminal, JSON elsewhere; libraries come out the same way."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Literal, TextIO, cast

import structlog
from structlog.typing import Processor


class _Lossy(io.TextIOBase):
    """stderr, whose reader may be gone and whose disk may be full: no line is worth a service."""

    def write(self, text: str) -> int:
        with _whatever_happens():
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with _whatever_happens():
            sys.stderr.flush()


@contextlib.contextmanager
def _whatever_happens() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Nobody will read it any more; what is left in buffers would make the exit code that of a failure.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)
    except OSError:
        pass


Format = Literal["auto", "json", "console"]


def configure(service: str, *, form: Format = "auto", level: str = "info") -> None:
    """Set up structlog and the standard library's logging for this process."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    output = cast("TextIO", _Lossy())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [_tracebacks(), structlog.processors.JSONRenderer()]
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    _libraries(shared, last, output)
    structlog.contextvars.bind_contextvars(service=service)


def _tracebacks() -> Processor:
    """Without the values of local variables: they hold tokens and whole messages."""
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return structlog.processors.ExceptionRenderer(transformer)


def _libraries(shared: list[Processor], last: list[Processor], output: TextIO) -> None:
    """What nats-py and aiohttp say, from WARNING on, in our form."""
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(_is_news)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _is_news(record: logging.LogRecord) -> bool:
    """False of what asyncio says of every TLS connection that the server ends: each try, while logins are refused."""
    return not (record.name == "asyncio" and "eof_received() has no effect" in record.getMessage())
