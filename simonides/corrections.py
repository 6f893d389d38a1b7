"""What a correction writes: the next version of a record, or the record that is true instead of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Any

from .arguments import Moment, flag, folder_of, importance_of, metadata_of, moment, names_of, text_of
from .drafts import Content, Draft
from .errors import Conflict, Invalid
from .record import ACTIVE, ARCHIVED, IMPORTANCE, NEVER, Link, Record, Span, now, revised_text


def revised(
    old: Record,
    zone: tzinfo | None,
    *,
    text: str | None = None,
    labels: str | Iterable[str] | None = None,
    folder: str | None = None,
    importance: int | None = None,
    pinned: bool | None = None,
    archived: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
    at: Moment | None = None,
    ends: Moment | None = None,
) -> Record:
    """Return the next version, with what is named changed; the old one where it says all of that already."""
    changes: dict[str, Any] = {}
    if text is not None:
        changes["body"] = revised_text(old.body, text_of(text))
        changes["source"] = "caller"  # from now on it is ours: its source does not overwrite it
    if labels is not None:
        changes["labels"] = names_of("labels", labels)
    if folder is not None:
        changes["folder"] = folder_of(folder) if folder else None
    if importance is not None:
        changes["importance"] = importance_of(importance)
    if pinned is not None:
        changes["pinned"] = flag("pinned", pinned)
    if archived is not None:
        changes["status"] = ARCHIVED if flag("archived", archived) else ACTIVE
    if metadata is not None:
        changes["metadata"] = metadata_of(metadata)
    if at is not None or ends is not None:
        changes["valid"] = _span(old.valid, moment("at", at, zone), moment("ends", ends, zone))
    new = old.revise(**changes)
    return old if dataclasses.replace(new, version=old.version, source=old.source).says_the_same(old) else new


def _span(old: Span, since: datetime | None, until: datetime | None) -> Span:
    span = Span(since or old.since, until or old.until)
    if span.since and span.until and span.until <= span.since:
        raise Invalid(f"it would end at {span.until}, which is not after it begins at {span.since}")
    return span


def superseded(old: Record, content: Content, at: Moment | None, zone: tzinfo | None) -> tuple[Record, Record]:
    """Return the old record, ended where the new one begins, and the new one, which takes over what organised it."""
    draft = Draft(scope=old.scope, zone=zone, at=at)
    said = draft.one(content) if not isinstance(content, str) else None
    body = said.body if said else revised_text(old.body, text_of(content))
    since = moment("at", at, zone) or (said.valid.since if said else None) or now()
    if old.valid == NEVER:
        raise Conflict(f"{old.id} was retracted, so nothing can supersede it: remember the new text instead")
    if old.valid.ended(since) or (old.valid.since and old.valid.since >= since):
        raise Conflict(f"{old.id} is true from {old.valid.since} to {old.valid.until}: nothing of it is left then")
    new = Record(
        scope=old.scope, body=body, part_of=old.part_of, links=(Link("supersedes", old.id),),
        valid=Span(since=since), labels=old.labels, folder=old.folder, importance=old.importance,
        pinned=old.pinned, metadata=old.metadata,
    )  # fmt: skip
    return old.revise(valid=old.valid.ending(since), pinned=False), _with_more(new, said)


def _with_more(new: Record, said: Record | None) -> Record:
    """Add what a message says of itself to what the new record took over from the old."""
    if said is None:
        return new
    return dataclasses.replace(
        new,
        labels=tuple(sorted({*new.labels, *said.labels})),
        importance=new.importance if said.importance == IMPORTANCE else said.importance,
        pinned=new.pinned or said.pinned,
        metadata={**new.metadata, **said.metadata},
    )
