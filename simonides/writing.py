"""Writes what one call remembers, as parts of its conversation, and returns it as the store keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .errors import Conflict
from .record import NEVER, Record, Span, known_as
from .store import Batch, Change, Store
from .versions import every, latest, walls


async def write(
    store: Store, talk: Record | None, records: Sequence[Record], timeless: frozenset[str] = frozenset()
) -> list[Record]:
    """Write the records, as parts of their conversation, which is written before them where it is new.

    `timeless` are ids of the caller's own, for which the caller named no time.
    """
    records = await _with_first_times(store, records, timeless)
    there = await _conversation(store, talk) if talk else None
    try:
        new = (talk,) if talk and not there else ()
        parts = _parts_of(there or talk, records)
        changes = await store.commit(Batch(put=(*new, *parts)))
    except Conflict:
        if talk is None or there or not (there := await _conversation(store, talk)):
            raise
        parts = _parts_of(there, records)  # somebody else has just begun the conversation
        changes = await store.commit(Batch(put=tuple(parts)))
    return await _as_kept(store, parts, changes)


async def _with_first_times(store: Store, records: Sequence[Record], timeless: frozenset[str]) -> Sequence[Record]:
    """Give records that are there already, and for which the caller named no time, the time they got at first: the
    same write twice is one.
    """
    if not timeless:
        return records
    found = await store.find(every(walls(records[0].scope), timeless))
    first = {record.id: record.valid for record in reversed(found)}
    return [
        dataclasses.replace(record, valid=first.get(record.id, record.valid)) if record.id in timeless else record
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
