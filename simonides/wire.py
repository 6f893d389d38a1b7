"""What was remembered, as programs read it over a wire, and back. Times are ISO 8601 in UTC.

What `as_json` writes of a record, `record_of` reads back equal; so for hits, contexts, previews and certificates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .forgetting import Preview
from .happened import Status
from .plain import Json as Json
from .plain import as_json as as_json
from .plain import change_as_json as change_as_json
from .plain import change_of as change_of
from .plain import iso, time_of
from .plain import record_of as record_of
from .pruning import Proposal
from .query import Factor, Hit
from .recall import Citation, Context, Hits, Missing
from .record import Scope
from .store import Certificate, Letter

# -- out ----------------------------------------------------------------------------------------------------------


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
    times = {"since": iso(missing.since), "until": iso(missing.until)}
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
        "at": iso(certificate.at),
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
        "at": iso(proposal.at),
        "said": iso(proposal.said),
        "last_recalled": iso(proposal.last_recalled),
        "ended": iso(proposal.ended),
        "instead": proposal.instead,
    }


def letter_as_json(letter: Letter) -> Json:
    change = letter.change
    return {
        "follower": letter.follower,
        **{name: getattr(change, name) for name in ("seq", "id", "version", "kind")},
        "scope": dataclasses.asdict(change.scope),
        "tries": letter.tries,
        "at": iso(letter.at),
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


# -- in -----------------------------------------------------------------------------------------------------------


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
        "since": time_of(said["since"]),
        "until": time_of(said["until"]),
    })  # fmt: skip


def preview_of(said: Mapping[str, Any]) -> Preview:
    return Preview(tuple(map(record_of, said["records"])), frozenset(said["derived"]), said["versions"])


def certificate_of(said: Mapping[str, Any]) -> Certificate:
    at = time_of(said["at"])
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
    at, last = time_of(said["at"]), time_of(said["said"])
    assert at is not None and last is not None
    return Proposal(
        record=record_of(said["record"]),
        score=said["score"],
        why=tuple(Factor(**factor) for factor in said["why"]),
        at=at,
        said=last,
        last_recalled=time_of(said["last_recalled"]),
        ended=time_of(said["ended"]),
        importance=said["importance"],
        messages=said["messages"],
        tokens=said["tokens"],
        preview=said["preview"],
        instead=said["instead"],
    )
