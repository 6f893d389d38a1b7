"""Where changes are sent, as events that any program can read: CloudEvents 1.0.

To add a sink, add one file to `sinks/`, and run the suite in `testing/follow.py` against it. What is sent, and when, is
said in `sending.py`; a sink only carries it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from .errors import Unavailable

STRUCTURED = "application/cloudevents+json; charset=UTF-8"  # the content type of an event that is one JSON object


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log, told. The same line has the same id each time it is sent: whoever reads knows it again.

    Events with the same key come in the order of their `number`.
    """

    id: str
    number: int  # the line of the log
    type: str
    source: str
    subject: str
    time: datetime
    key: str
    data: Mapping[str, Any]  # JSON

    @property
    def attributes(self) -> dict[str, str]:
        """Its context attributes, as CloudEvents names them."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "type": self.type,
            "source": self.source,
            "subject": self.subject,
            "time": self.time.isoformat(),
            "datacontenttype": "application/json",
            "partitionkey": self.key,
        }

    def structured(self) -> bytes:
        """Return it as one JSON object."""
        return packed({**self.attributes, "data": self.data})

    def content(self) -> bytes:
        """Return its data alone; its attributes go into headers."""
        return packed(self.data)


def packed(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


class SwitchedOff(Unavailable):
    """Whoever was sent to wants nothing more."""


class Later(Unavailable):
    """Whoever was sent to says when to send again: in `after_s` seconds."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class Sink(Protocol):
    name: str  # where it sends, without secrets; made of the URL alone, and names its place in the log

    async def send(self, events: Sequence[Event]) -> None:
        """Send them, those with the same key in their order, and return once all of them are acknowledged.

        Raise Unavailable where one is not: some may have been sent, and all of them will be sent again; Later where it
        says when, SwitchedOff where it is to be no more. Raise Invalid where it is one of the events that is not taken,
        and others would be. It connects when it is first needed.
        """
        ...

    async def close(self) -> None: ...
