"""Writes what one call remembers, as parts of its conversation, and returns it as the store keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .errors import Conflict
from .follow import Following
from .record import NEVER, Record, Span, known_as
from .store import Batch, Change, Store
from .versions import every, latest, walls


async def write(
    store: Store, following: Following, talk: Record | None, records: Sequence[Record], own: Mapping[str, bool]
) -> list[Record]:
    """Write the records, as parts of their conversation, which is written before them where it is new.

    `own` are ids of the caller's own, each with whether the caller named a time for it.
    """
    asked = {id for id, timed in own.items() if following.waits or not timed}
    first = await _first_times(store, records, asked)
    records = _with_first_times(records, first, own)
    there = await _conversation(store, talk) if talk else None
    new = (talk,) if talk and not there else ()
    ahead = Batch() if first else await following.ahead((*new, *records))
    try:
        parts = _parts_of(there or talk, records)
        changes = await following.commit(Batch(put=(*new, *parts)) + ahead)
    except Conflict:
        if talk is None or there or not (there := await _conversation(store, talk)):
            raise
        parts = _parts_of(there, records)  # somebody else has just begun the conversation
        changes = await following.commit(Batch(put=tuple(parts)) + ahead)
    return await _as_kept(store, parts, changes)


async def _first_times(store: Store, records: Sequence[Record], ids: set[str]) -> dict[str, Span]:
    """Return when those of the ids that are there already were true at first."""
    if not ids:
        return {}
    found = await store.find(every(walls(records[0].scope), ids))
    return {record.id: record.valid for record in reversed(found)}


def _with_first_times(
    records: Sequence[Record], first: Mapping[str, Span], own: Mapping[str, bool]
) -> Sequence[Record]:
    """Give records that are there already, and for which the caller named no time, the time they got at first: the
    same write twice is one.
    """
    return [
        dataclasses.replace(record, valid=first[record.id]) if record.id in first and not own[record.id] else record
        for record in records
    ]


async def _conversation(store: Store, talk: Record) -> Record | None:
    """Return the conversation that goes by this session, whoever began it."""
    same = latest(talk.scope, {talk.id})
    if found := await store.find(same):
        return found[0]
    if talk.body.key is None:
        return None
    keyed = dataclasses.replace(same, ids=None, kinds=frozenset({talk.kind}), keys=frozenset({talk.body.key}))
    live = [record for record in await store.find(keyed) if record.scope == talk.scope and record.valid != NEVER]
    return live[0] if live else None


def _parts_of(talk: Record | None, records: Sequence[Record]) -> list[Record]:
    if talk is None:
        return list(records)
    return [record if record.part_of == talk.id else dataclasses.replace(record, part_of=talk.id) for record in records]


async def _as_kept(store: Store, records: Sequence[Record], changes: Sequence[Change]) -> list[Record]:
    """Return the records with the clock that the store gave them; a write that was there already is read back."""
    at = {(change.id, change.version): change.at for change in changes}
    if all((record.id, record.version) in at for record in records):
        spans = {since: Span(since=since) for since in at.values()}
        return [known_as(record, spans[at[record.id, record.version]]) for record in records]
    found = await store.find(every(walls(records[0].scope), {record.id for record in records}))
    kept = {(record.id, record.version): record for record in found}
    return [kept[record.id, record.version] for record in records]
