"""A store as the plainest thing that could be one: lists of versions, and a list of the lines of the log."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest

from ...errors import Conflict
from ...kinds import Note
from ...record import NEVER, TICK, Link, Record, Ref, Scope, Span, now
from ...store import Batch, Store
from ..records import bears, every, fresh
from .steps import SPRING


class Model:
    """What a store is, as lists: of the versions of each record, and of the lines of the log."""

    def __init__(self) -> None:
        self.records: dict[Ref, list[Record]] = {}
        self.log: list[tuple[Ref, int]] = []

    @property
    def everything(self) -> list[Record]:
        return [record for versions in self.records.values() for record in versions]

    def pick(self, which: int) -> Record | None:
        """Return the latest version of one of the records, if there is any."""
        latest = [versions[-1] for versions in self.records.values()]
        return latest[which % len(latest)] if latest else None

    def moment(self, which: int, ticks: int) -> datetime:
        """Return a time at which, just before which or just after which something came to be believed."""
        times = sorted(record.known.since for record in self.everything if record.known.since)
        return times[which % len(times)] + ticks * TICK if times else SPRING

    def refuses(self, batch: Batch) -> bool:
        """Whether a key is taken, or a version is not the next one."""
        records = {ref: list(versions) for ref, versions in self.records.items()}
        for record in (*batch.put, *batch.restore):
            versions = records.setdefault(record.ref, [])
            if record.version <= len(versions):
                if not record.says_the_same(versions[record.version - 1]):
                    return True
                continue
            others = [other[-1] for ref, other in records.items() if ref != record.ref and other]
            taken = {bears(other) for other in others if _live(other)}
            if record.version != len(versions) + 1 or (_live(record, batch) and bears(record) in taken):
                return True
            versions.append(record)
        return False

    def write(self, record: Record) -> None:
        """Take in a version as the store has it, and end the one before."""
        versions = self.records.setdefault(record.ref, [])
        if versions:
            assert record.known.since is not None and versions[-1].known.since is not None
            assert record.known.since > versions[-1].known.since
            versions[-1] = dataclasses.replace(versions[-1], known=versions[-1].known.ending(record.known.since))
        versions.append(record)
        self.log.append((record.ref, record.version))

    def erase(self, ref: Ref) -> None:
        if self.records.pop(ref, None):
            self.log.append((ref, 0))


def _live(record: Record, batch: Batch | None = None) -> bool:
    restored = batch is None or record in batch.restore
    return not (restored and record.known.until is not None) and not record.valid.ended(now())


def _batch(model: Model, name: str, which: int, new: Record, versions: tuple[Record, ...]) -> Batch:
    """Return what the step writes; steps that need a record write nothing while there is none."""
    old = model.pick(which)
    if name == "put":
        return Batch(put=(new,) if new.ref not in model.records else ())
    if name == "restore":
        return Batch(restore=versions if versions[0].ref not in model.records else ())
    if old is None:
        return Batch()
    if name == "revise":
        parts = ("body", "links", "valid", "labels", "folder", "status", "pinned", "metadata", "part_of")
        return Batch(put=(old.revise(**{part: getattr(new, part) for part in parts}),))
    if name == "retract":
        return Batch(put=(old.revise(valid=NEVER),))
    if name == "supersede":
        heir = dataclasses.replace(fresh(new), scope=old.scope, links=(Link("supersedes", old.id),))
        return Batch(put=(old.revise(valid=Span(old.valid.since, SPRING)), heir))
    if name == "erase":
        return Batch(erase=(old.ref, Ref(*old.scope.realm, "nothing")))
    first = model.records[old.ref][0]
    return Batch(put=(first,) if name == "again" else (dataclasses.replace(first, body=Note(text="stale")),))


async def take_step(
    store: Store, model: Model, name: str, which: int, new: Record, versions: tuple[Record, ...]
) -> None:
    """Take one step in the store and in the model."""
    batch = _batch(model, name, which, new, versions)
    if model.refuses(batch):
        with pytest.raises(Conflict):
            await store.commit(batch)
        return
    await store.commit(batch)
    for record in (*batch.put, *batch.restore):
        if record.version > len(model.records.get(record.ref, [])):
            realm = Scope(tenant=record.scope.tenant, space=record.scope.space)
            kept = await store.find(every(realm, ids=frozenset({record.id})))
            [there] = [one for one in kept if one.version == record.version]
            assert there.says_the_same(record)
            assert record in batch.put or there.known.since == record.known.since
            model.write(there)
    for ref in batch.erase:
        model.erase(ref)
