"""What comes from elsewhere and goes there: records that an importer made, and the versions of an export."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import Conflict, Invalid
from .exports import FOLDER, write
from .follow import Following, Progress
from .query import Place, Query
from .record import NEVER, Record, Scope, exactly, now
from .store import Batch, Store
from .versions import every, walls

CHUNK = 500  # records that are written in one transaction

Settle = Callable[[], Awaitable[None]]  # what is done after each transaction


async def keep(
    store: Store,
    following: Following,
    records: Iterable[Record],
    required: frozenset[str],
    settle: Settle,
    progress: Progress | None,
) -> list[Record]:
    """Keep records that were made elsewhere, each of which names the required levels; return those that are new."""
    kept: list[Record] = []
    for chunk in _chunks(_checked(records, required)):
        writes = await _news(store, chunk)
        await following.commit(Batch(put=tuple(writes)) + await following.ahead(writes))
        await settle()
        kept += writes
        if progress:
            progress(len(chunk))
    return kept


def _checked(records: Iterable[Record], required: frozenset[str]) -> Iterator[Record]:
    for record in records:
        levels = {"tenant": record.scope.tenant, "space": record.scope.space, **dict(record.scope.levels)}
        for level in sorted(required):
            if levels[level] is None:
                raise Invalid(f"this memory requires {level!r}, and record {record.id} names none")
        yield record


async def _news(store: Store, records: Sequence[Record]) -> list[Record]:
    """Return what the records say that the store does not know yet, as it is to be written."""
    there: dict[str, list[Record]] = {}
    for realm in {record.scope.realm for record in records}:
        mine = {record.id for record in records if record.scope.realm == realm}
        for old in await store.find(every(Scope(tenant=realm[0], space=realm[1]), mine)):
            there.setdefault(f"{realm}{old.id}", []).append(old)
    news = list[Record]()
    for record in records:
        versions = there.setdefault(f"{record.scope.realm}{record.id}", [])
        if new := _new(record, versions):
            versions.append(new)
            news.append(new)
    return news


def _new(record: Record, versions: Sequence[Record]) -> Record | None:
    """Return what to write for a record that a source says again: nothing, its first version, or its next.

    Only what the source says otherwise than before is taken over; what was corrected or organised here since, stays.
    Raise Conflict where another user's goes by that id.
    """
    if not versions:
        return record
    latest = versions[-1]
    if latest.scope.user != record.scope.user:
        raise Conflict(f"{record.id} is there already, and belongs elsewhere")
    if latest.source != record.source or any(old.valid == NEVER for old in versions):
        return None
    since = _since_said(versions)
    rewritten = any(getattr(record, name) != getattr(latest, name) for name in SAID)
    taken = {name for name in STATE if rewritten or all(_differ(name, record, old) for old in since)}
    if all(old.valid != record.valid for old in versions):
        taken.add("valid")
    changes: dict[str, Any] = {name: getattr(record, name) for name in (*SAID, *taken)}
    if not any(set(record.labels) <= set(old.labels) for old in versions):
        changes["labels"] = tuple(sorted({*latest.labels, *record.labels}))
    new = latest.revise(**changes)
    return None if dataclasses.replace(new, version=latest.version).says_the_same(latest) else new


SAID = "body", "links", "part_of"  # what nobody but its source changes of a record that has one
STATE = "status", "metadata"  # what its source says too, and is changed here as well


def _since_said(versions: Sequence[Record]) -> Sequence[Record]:
    """Return the last version that the source wrote, and those after it, which were made here.

    It wrote the first one, and every one that says something else; so it did where status and metadata change in one
    version (a branch that is abandoned, a passage that is gone), as whoever organises changes one of them.
    """
    for place in range(len(versions) - 1, 0, -1):
        before, here = versions[place - 1], versions[place]
        if any(getattr(here, name) != getattr(before, name) for name in SAID) or all(
            _differ(name, here, before) for name in STATE
        ):
            return versions[place:]
    return versions


def _differ(name: str, left: Record, right: Record) -> bool:
    return not exactly(getattr(left, name), getattr(right, name))


async def restore(
    store: Store, records: Iterable[Record], required: frozenset[str], settle: Settle, progress: Progress | None
) -> int:
    """Write versions with the clocks they had, each of which names the required levels; return how many were new."""
    written = 0
    for chunk in _chunks(_checked(records, required)):
        written += len(await store.commit(Batch(restore=tuple(chunk))))
        await settle()
        if progress:
            progress(len(chunk))
    return written


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    source = iter(records)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


class Versions(list[Record]):
    """Every version of some records, by id. `next` is where the records behind them begin; None: there are none."""

    next: Place | None = None


async def versions(store: Store, query: Query) -> Versions:
    """Return every version of the next `query.limit` records that match, by id."""
    whole = dataclasses.replace(query, newest=False, limit=query.limit + 1)
    meant = await store.find(whole)
    page = meant[: query.limit]
    found = Versions(await store.find(every(walls(query.scope), {record.id for record in page})) if page else ())
    found.next = Place.of(page[-1]) if len(meant) > len(page) else None
    return found


async def export(store: Store, query: Query, path: str | Path | None, progress: Progress | None) -> Path:
    """Write every version of the records that match; without a path, to the folder that an erase looks through.

    They are read page by page while they are written, so memory use does not grow with them.
    """
    if path is not None and not isinstance(path, str | Path):
        raise Invalid(f"the path to export to must be a string or a Path, not {path!r}")
    target = Path(path) if path else _path(store.folder)
    if target.is_dir():
        raise Invalid(f"{target} is a folder: name a file in it to export to")
    if target.exists() and not target.is_file():
        raise Invalid(f"{target} is no file, and would be replaced by one: name a file to export to")
    loop = asyncio.get_running_loop()
    query = dataclasses.replace(query, statuses=None, ended=True, limit=CHUNK)

    def pages() -> Iterator[Record]:
        place = query.after
        while True:
            page = dataclasses.replace(query, after=place)
            found = asyncio.run_coroutine_threadsafe(versions(store, page), loop).result()
            yield from found
            if (place := found.next) is None:
                return

    return await asyncio.to_thread(write, target, pages(), progress)


def _path(folder: str | None) -> Path:
    if folder is None:
        raise Invalid("this store has no folder of its own: name the file to export to")
    (Path(folder) / FOLDER).mkdir(parents=True, exist_ok=True)
    return Path(folder) / FOLDER / f"{now():%Y-%m-%dT%H%M%S.%fZ}.jsonl.gz"
