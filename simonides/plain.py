"""Records and lines of the log as plain JSON, and back. Times are ISO 8601 in UTC.

Whatever carries them elsewhere writes them so: every door, every sink, every feed. What `as_json` writes of a record,
`record_of` reads back equal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from datetime import datetime
from typing import Any, cast

from .errors import Damaged
from .kinds import KINDS
from .record import NEVER, Link, Record, Scope, Span
from .store import Change

Json = dict[str, Any]


def as_json(record: Record) -> Json:
    """Return every field of a record, and what follows from them: text, who, at, retracted."""
    body, scope = record.body, record.scope
    return {
        "id": record.id,
        "version": record.version,
        "kind": record.kind,
        "text": record.text,
        "who": body.who,
        "at": iso(record.at),
        "body": {name: getattr(body, name) for name in _fields(cast(Hashable, type(body)))},
        "scope": {name: getattr(scope, name) for name in _fields(Scope)},
        "part_of": record.part_of,
        "links": [{"role": link.role, "target": link.target} for link in record.links],
        "valid": _span(record.valid),
        "known": _span(record.known),
        "begun": iso(record.begun),
        "retracted": record.valid == NEVER,
        "source": record.source,
        "labels": list(record.labels),
        "folder": record.folder,
        "importance": record.importance,
        "pinned": record.pinned,
        "status": record.status,
        "metadata": dict(record.metadata),
    }


def change_as_json(change: Change) -> Json:
    """Return a line of the log; what happened is "written", "erased" or "certified"."""
    did = "certified" if change.kind == "certificate" else "written" if change.version else "erased"
    return {
        "seq": change.seq,
        "at": iso(change.at),
        "did": did,
        "id": change.id,
        "version": change.version,
        "kind": change.kind,
        "scope": dataclasses.asdict(change.scope),
    }


def record_of(said: Mapping[str, Any]) -> Record:
    """Return the record that `as_json` wrote. Raise Damaged where it is none, or of a kind not known here."""
    try:
        return Record(
            id=said["id"],
            version=said["version"],
            body=KINDS[said["kind"]](**said["body"]),
            scope=Scope(**said["scope"]),
            part_of=said["part_of"],
            links=tuple(Link(**link) for link in said["links"]),
            valid=_span_of(said["valid"]),
            known=_span_of(said["known"]),
            begun=time_of(said["begun"]),
            source=said["source"],
            labels=tuple(said["labels"]),
            folder=said["folder"],
            importance=said["importance"],
            pinned=said["pinned"],
            status=said["status"],
            metadata=dict(said["metadata"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a record of ours: {error!r}") from None


def change_of(said: Mapping[str, Any]) -> Change:
    """Return the line of the log, without its note."""
    at = time_of(said["at"])
    assert at is not None
    return Change(said["seq"], at, said["id"], said["version"], said["kind"], Scope(**said["scope"]))


def iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def time_of(said: Any) -> datetime | None:
    return datetime.fromisoformat(said) if said else None


def _span(span: Span) -> dict[str, str | None]:
    return {"since": iso(span.since), "until": iso(span.until)}


def _span_of(said: Mapping[str, Any]) -> Span:
    return Span(time_of(said["since"]), time_of(said["until"]))


@functools.cache
def _fields(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cast(Any, kind)))
