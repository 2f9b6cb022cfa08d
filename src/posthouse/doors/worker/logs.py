"""Logs: one line an event, on standard error; JSON unless a person watches. Addresses are masked where an event names one."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

_ADDRESS_KEYS = frozenset({"address", "recipient", "email", "return_path"})


def configure_logs(level: str, *, mask_addresses: bool) -> None:
    """Set logging up for this process."""

    def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key in _ADDRESS_KEYS & event.keys():
            local, _at, domain = str(event[key]).rpartition("@")
            event[key] = f"{local[:1]}…@{domain}"
        return event

    watched = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if watched
        else structlog.processors.JSONRenderer(
            serializer=lambda event, **_: msgspec.json.encode(event, enc_hook=str).decode()
        )
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([mask] if mask_addresses else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
