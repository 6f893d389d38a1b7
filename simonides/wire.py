"""What was remembered, as programs read it over a wire, and back. Times are ISO 8601 in UTC.

What `as_json` writes of a record, `record_of` reads back equal; so for hits, contexts, previews and certificates.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping
from datetime import datetime
from typing import Any, cast

from .errors import Damaged
from .forgetting import Preview
from .happened import Status
from .kinds import KINDS
from .pruning import Proposal
from .query import Factor, Hit
from .recall import Citation, Context, Hits, Missing
from .record import NEVER, Link, Record, Scope, Span
from .store import Certificate, Change, Letter

Json = dict[str, Any]


# -- out ----------------------------------------------------------------------------------------------------------


def as_json(record: Record) -> Json:
    """Return every field of a record, and what follows from them: text, who, at, retracted."""
    body, scope = record.body, record.scope
    return {
        "id": record.id,
        "version": record.version,
        "kind": record.kind,
        "text": record.text,
        "who": body.who,
        "at": _iso(record.at),
        "body": {name: getattr(body, name) for name in _names(cast(Hashable, type(body)))},
        "scope": {name: getattr(scope, name) for name in _names(Scope)},
        "part_of": record.part_of,
        "links": [{"role": link.role, "target": link.target} for link in record.links],
        "valid": _span(record.valid),
        "known": _span(record.known),
        "begun": _iso(record.begun),
        "retracted": record.valid == NEVER,
        "source": record.source,
        "labels": list(record.labels),
        "folder": record.folder,
        "importance": record.importance,
        "pinned": record.pinned,
        "status": record.status,
        "metadata": dict(record.metadata),
    }


def hit_as_json(hit: Hit) -> Json:
    return {
        "score": hit.score,
        "by": list(hit.by),
        "why": [{"name": factor.name, "value": factor.value, "share": factor.share} for factor in hit.why],
        "title": hit.title,
        "also": list(hit.also),
        "record": as_json(hit.record),
    }


def citation_as_json(citation: Citation) -> Json:
    return {"number": citation.number, "cut": citation.cut, **hit_as_json(citation.hit)}


def context_as_json(context: Context) -> Json:
    return {
        "text": context.text,
        "tokens": context.tokens,
        "citations": [citation_as_json(citation) for citation in context.citations],
        "notes": list(context.notes),
    }


def missing_as_json(missing: Missing) -> Json:
    times = {"since": _iso(missing.since), "until": _iso(missing.until)}
    return {"says": str(missing), **dataclasses.asdict(missing), **times}


def preview_as_json(preview: Preview) -> Json:
    return {
        "count": preview.count,
        "versions": preview.versions,
        "derived": sorted(preview.derived),
        "records": [as_json(record) for record in preview.records],
    }


def certificate_as_json(certificate: Certificate) -> Json:
    return {
        "id": certificate.id,
        "at": _iso(certificate.at),
        "scope": dataclasses.asdict(certificate.scope),
        "count": certificate.count,
        "ids": list(certificate.ids),
        "derived": list(certificate.derived),
        "places": dict(certificate.places),
        "method": certificate.method,
    }


def proposal_as_json(proposal: Proposal) -> Json:
    return {
        "says": str(proposal),
        "score": proposal.score,
        "why": [{"name": factor.name, "value": factor.value, "share": factor.share} for factor in proposal.why],
        "record": as_json(proposal.record),
        "preview": proposal.preview,
        "messages": proposal.messages,
        "tokens": proposal.tokens,
        "importance": proposal.importance,
        "at": _iso(proposal.at),
        "said": _iso(proposal.said),
        "last_recalled": _iso(proposal.last_recalled),
        "ended": _iso(proposal.ended),
        "instead": proposal.instead,
    }


def change_as_json(change: Change) -> Json:
    """Return a line of the log; what happened is "written", "erased" or "certified"."""
    did = "certified" if change.kind == "certificate" else "written" if change.version else "erased"
    return {
        "seq": change.seq,
        "at": _iso(change.at),
        "did": did,
        "id": change.id,
        "version": change.version,
        "kind": change.kind,
        "scope": dataclasses.asdict(change.scope),
    }


def letter_as_json(letter: Letter) -> Json:
    change = letter.change
    return {
        "follower": letter.follower,
        **{name: getattr(change, name) for name in ("seq", "id", "version", "kind")},
        "scope": dataclasses.asdict(change.scope),
        "tries": letter.tries,
        "at": _iso(letter.at),
        "error": letter.error,
    }


def status_as_json(status: Status) -> Json:
    followers = [
        {
            **{name: getattr(each, name) for name in ("name", "place", "lag", "letters", "shared")},
            "lag_seconds": round(each.lag_s, 3),
            "workers": dict(each.workers),
        }
        for each in status.followers
    ]
    return {"head": status.head, "followers": followers}


def _span(span: Span) -> dict[str, str | None]:
    return {"since": _iso(span.since), "until": _iso(span.until)}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


@functools.cache
def _names(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cast(Any, kind)))


# -- in -----------------------------------------------------------------------------------------------------------


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
            begun=_time(said["begun"]),
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


def hit_of(said: Mapping[str, Any]) -> Hit:
    return Hit(
        record=record_of(said["record"]),
        score=said["score"],
        by=tuple(said["by"]),
        why=tuple(Factor(**factor) for factor in said["why"]),
        title=said["title"],
        also=tuple(said["also"]),
    )


def hits_of(said: Mapping[str, Any]) -> Hits:
    return Hits(hit_of(hit) for hit in said["hits"]).noting(*said["notes"])


def context_of(said: Mapping[str, Any]) -> Context:
    cited = tuple(Citation(each["number"], hit_of(each), each["cut"]) for each in said["citations"])
    return Context(said["text"], said["tokens"], cited, tuple(said["notes"]))


def missing_of(said: Mapping[str, Any]) -> Missing:
    plain = {name: value for name, value in said.items() if name != "says"}
    return Missing(**{
        **plain,
        "why": tuple(Factor(**factor) for factor in said["why"]),
        "filters": tuple(said["filters"]),
        "notes": tuple(said["notes"]),
        "since": _time(said["since"]),
        "until": _time(said["until"]),
    })  # fmt: skip


def preview_of(said: Mapping[str, Any]) -> Preview:
    return Preview(tuple(map(record_of, said["records"])), frozenset(said["derived"]), said["versions"])


def certificate_of(said: Mapping[str, Any]) -> Certificate:
    at = _time(said["at"])
    assert at is not None
    return Certificate(
        id=said["id"],
        at=at,
        scope=Scope(**said["scope"]),
        ids=tuple(said["ids"]),
        derived=tuple(said["derived"]),
        places=dict(said["places"]),
        method=said["method"],
    )


def proposal_of(said: Mapping[str, Any]) -> Proposal:
    at, last = _time(said["at"]), _time(said["said"])
    assert at is not None and last is not None
    return Proposal(
        record=record_of(said["record"]),
        score=said["score"],
        why=tuple(Factor(**factor) for factor in said["why"]),
        at=at,
        said=last,
        last_recalled=_time(said["last_recalled"]),
        ended=_time(said["ended"]),
        importance=said["importance"],
        messages=said["messages"],
        tokens=said["tokens"],
        preview=said["preview"],
        instead=said["instead"],
    )


def change_of(said: Mapping[str, Any]) -> Change:
    """Return the line of the log, without its note."""
    at = _time(said["at"])
    assert at is not None
    return Change(said["seq"], at, said["id"], said["version"], said["kind"], Scope(**said["scope"]))


def _span_of(said: Mapping[str, Any]) -> Span:
    return Span(_time(said["since"]), _time(said["until"]))


def _time(said: Any) -> datetime | None:
    return datetime.fromisoformat(said) if said else None
