"""The log of a server: a line an event on stderr, for people or as JSON. No secret and nothing remembered is in it."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO

import structlog

from ..serving import HIDDEN, Serving, hide
from .problems import REQUEST_ID

OURS = ("simonides", "uvicorn")
FIELDS = (
    "method", "route", "status", "ms", "bytes", "client", "key", "agent", "error", "places", "request_id", "doors",
    "keys",
)  # fmt: skip

# Keys of ours and of model providers, and whatever follows the name of a scheme in a header.
_SECRETS = re.compile(
    r"\b(?:sim|simonides)_[A-Za-z0-9]+_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|(?<=Bearer )\S+", re.I
)

Event = MutableMapping[str, Any]


def as_json(serving: Serving, stream: TextIO) -> bool:
    return serving.log == "json" or (serving.log == "auto" and not stream.isatty())


@contextlib.contextmanager
def logged(serving: Serving, stream: TextIO | None = None) -> Iterator[None]:
    """Write what is logged to stderr meanwhile; what was done with it before is done again afterwards."""
    root, ours, to = logging.getLogger(), logging.getLogger("simonides"), stream or sys.stderr
    before, before_ours, level = root.handlers[:], ours.handlers[:], root.level
    made = logging.StreamHandler(to)
    made.setFormatter(formatter(as_json(serving, to), to.isatty()))
    root.handlers, ours.handlers = [made], []
    root.setLevel(logging.WARNING)
    take_level(serving)
    try:
        yield
    finally:
        root.handlers, ours.handlers = before, before_ours
        root.setLevel(level)
        ours.setLevel(logging.NOTSET)


def take_level(serving: Serving) -> None:
    logging.getLogger("simonides").setLevel(serving.log_level.upper())


def formatter(json: bool, colours: bool = False) -> logging.Formatter:
    end: Any = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(allow=FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _identified,
            _without_messages,
            _redacted,
            _in_order,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, end],
    )


def _identified(logger: Any, method: str, event: Event) -> Event:
    if id := REQUEST_ID.get():
        event.setdefault("request_id", id)
    return event


def _without_messages(logger: Any, method: str, event: Event) -> Event:
    """Say of an exception what kind it is and where it was raised: its message may hold what was remembered."""
    raised = event.pop("exc_info", None)
    if isinstance(raised, tuple) and raised[1] is not None:
        event["error"] = type(raised[1]).__qualname__
        event["places"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(raised[2])]
    return event


def _redacted(logger: Any, method: str, event: Event) -> Event:
    return {name: redacted(value) if isinstance(value, str) else value for name, value in event.items()}


def _in_order(logger: Any, method: str, event: Event) -> Event:
    """Say first what is looked for first: method, route and status."""
    return {name: event[name] for name in (*(n for n in FIELDS if n in event), *(n for n in event if n not in FIELDS))}


def redacted(text: str) -> str:
    """Return the text without what looks like a key or a password."""
    return hide(_SECRETS.sub(HIDDEN, text))
