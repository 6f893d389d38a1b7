"""Backups of a whole store in a store of blobs: consistent, incremental, and encrypted where a passphrase is given.

A backup is a manifest, `backups/<id>.json`, that names the parts it is made of. A part, `parts/<id>-<kind>`, holds some
lines of the log with the versions they speak of, some vectors, the erases of a stretch of the log, what is noted beside
it (followers, last recalls), or the keys to the memory. As a version never changes, the next backup names the same
parts, and adds new ones for what the log has gained. So every manifest is whole in itself, and none needs another.

An erase reaches the backups when the next one is made: parts that hold what was erased since are written anew
without it, in all manifests that name them, and the old ones removed, before the new backup counts. A restore of an
older backup leaves out what any later backup in the same place knows to be erased.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from . import exports
from .access import Permit
from .blob import BlobStore, every
from .directory import Directory, Kept
from .directory import Key as Granted
from .errors import Conflict, Damaged, Invalid, NotFound, SimonidesError
from .record import Record, Ref, Scope, began, new_id, now
from .sealing import Key, key_of, packed, unpacked
from .store import Change, Embedding, Letter, Store
from .whole import (
    LINES,
    MARK,
    Entry,
    Progress,
    embeddings,
    erasures,
    halves,
    last_erased,
    letters,
    places,
    recalls,
    stretches,
    write,
    write_embeddings,
    write_letters,
    write_places,
)

FORMAT = 1
LOG, VECTORS, ERASED, BESIDE, KEYS = "log", "vectors", "erased", "beside", "keys"
PAGE = 1000  # keys that are read or written at a time
PART_FRAMES, PART_BYTES = 50_000, 64 << 20  # what one part holds at most, before it is packed
MANIFEST_MAX = 64 << 20  # bytes
ABANDONED = timedelta(days=1)  # after which a part that no manifest names is taken to have no writer any more
FOREVER = 2**62  # later than every line

Ask = Callable[[bool], str | None]  # asked for the passphrase; told whether the place is encrypted


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    name: str
    kind: str
    head: int  # the log's last line when it was written
    first: int  # the first and the last line, or slot, that it holds
    last: int
    group: int = 0  # of vectors
    frames: int
    held: int  # versions, or embeddings
    size: int  # bytes
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a manifest says."""

    format: int
    id: str
    at: datetime
    store: str  # the identity of what was backed up
    lineage: tuple[str, ...]  # the stores that it is a copy of
    head: int  # the log's last line that is in it
    mark: str  # a digest of that line
    base: str | None  # the backup before, whose parts it goes on from; None: it holds everything anew
    counts: Mapping[str, int]
    added: int  # bytes of the parts that are its own
    vectors: bool
    key: Mapping[str, Any] | None  # how the passphrase makes the key; None: not encrypted
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def of(self, kind: str) -> list[Part]:
        return sorted((part for part in self.parts if part.kind == kind), key=lambda part: (part.group, part.first))


class _Sealed(msgspec.Struct):
    manifest: msgspec.Raw
    seal: str


# -- the place ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Place:
    """A store of blobs with the backups in it, in the order they were made."""

    blobs: BlobStore
    key: Key | None
    backups: list[Backup] = field(default_factory=list)

    def get(self, id: str | None = None) -> Backup:
        """Return the backup of that id, or whose id ends so; the last one where none is named."""
        found = [backup for backup in self.backups if id is None or backup.id == id or backup.id.endswith(id)]
        if not found:
            raise NotFound(f"there is no backup {id!r} here" if id else "there is no backup here")
        if id is not None and len(found) > 1:
            raise Invalid(f"{id!r} is the end of {len(found)} ids: write more of it")
        return found[-1]

    def akin(self, store: str, lineage: Collection[str]) -> list[Backup]:
        """Return the backups of that store, of what it is a copy of, and of copies of it."""
        mine = {store, *lineage}
        return [backup for backup in self.backups if backup.store in mine or store in backup.lineage]

    async def frames(self, part: Part) -> AsyncIterator[bytes]:
        """Yield what a part holds; raise Damaged where it is not what was written."""
        async for frame in unpacked(self.blobs.get(part.name, digest=part.digest), part.name, self.key):
            yield frame

    async def keep(self, backup: Backup) -> None:
        raw = msgspec.json.encode(backup)
        seal = self.key.seal(raw) if self.key else hashlib.sha256(raw).hexdigest()
        await self.blobs.put(_manifest(backup.id), msgspec.json.encode(_Sealed(msgspec.Raw(raw), seal)))


def _manifest(id: str) -> str:
    return f"backups/{id}.json"


async def look(blobs: BlobStore) -> Place:
    """Return the place with what its manifests say, without the passphrase: whether it is true is not known."""
    return Place(blobs, None, [_said(sealed, name) for name, sealed in await _manifests(blobs)])


async def enter(blobs: BlobStore, ask: Ask) -> Place:
    """Return the place with its key. Raise Invalid where the passphrase is wrong or needed, Damaged where a manifest is
    not what was written.
    """
    sealed = await _manifests(blobs)
    said = [_said(each, name) for name, each in sealed]
    about = next((backup.key for backup in said if backup.key), None)
    passphrase = ask(about is not None)
    if about and not passphrase:
        raise Invalid("these backups are encrypted: give the passphrase")
    if passphrase and said and not about:
        raise Invalid("the backups here are not encrypted: name another place for encrypted ones")
    key = key_of(passphrase, about) if passphrase else None
    for (name, each), backup in zip(sealed, said, strict=True):
        raw = bytes(each.manifest)
        seal = key.seal(raw) if key else hashlib.sha256(raw).hexdigest()
        if backup.key != (about and dict(about)) or not hmac.compare_digest(seal, each.seal):
            raise Damaged(f"{name} was damaged or tampered with")
    return Place(blobs, key, said)


async def _manifests(blobs: BlobStore) -> list[tuple[str, _Sealed]]:
    found = list[tuple[str, _Sealed]]()
    async for blob in every(blobs, "backups"):
        if blob.size > MANIFEST_MAX:
            raise Damaged(f"{blob.name} is no manifest of a backup")
        content = b"".join([piece async for piece in blobs.get(blob.name)])
        try:
            found.append((blob.name, msgspec.json.decode(content, type=_Sealed)))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Damaged(f"{blob.name} is damaged, or no manifest of a backup") from None
    return found


def _said(sealed: _Sealed, name: str) -> Backup:
    try:
        backup = msgspec.json.decode(sealed.manifest, type=Backup)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Damaged(f"{name} is damaged, or no manifest of a backup") from None
    if backup.format > FORMAT:
        raise Invalid(f"{name} was made by a newer Simonides: upgrade first")
    if _manifest(backup.id) != name:
        raise Damaged(f"{name} is another backup's manifest: somebody has moved it")
    return backup


# -- create -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """What making a backup did: the backup, and how many older parts were written anew without what was erased."""

    backup: Backup
    rewritten: int


async def create(
    store: Store,
    place: Place,
    *,
    vectors: bool = True,
    full: bool = False,
    keys: Directory | None = None,
    progress: Progress | None = None,
) -> Made:
    """Make a backup of the store as it is now; writers go on meanwhile. `full` goes on from no backup before. `keys`
    are the keys to the memory, all of them, where they are to be in it, too.
    """
    async with store.snapshot() as frozen:
        base = None if full else await _base(frozen, place)
        work = _Making(frozen, place, base, await frozen.head(), progress)
        parts = await work.parts(vectors, keys)
        lines = await erasures(frozen, base.head if base else 0)
        rewritten = await _forget(frozen, place, lines)
        kept = [rewritten.get(part.name, part) for part in base.parts] if base else []
        kept = [part for part in kept if part.kind not in (BESIDE, KEYS) and part.frames]
        backup = Backup(
            format=FORMAT,
            id=new_id(),
            at=now(),
            store=frozen.identity,
            lineage=await _lineage(frozen),
            head=work.head,
            mark=await _mark(frozen, work.head),
            base=base.id if base else None,
            counts=_counts([*kept, *parts]) | {"records": (await frozen.counts())["records"]},
            added=sum(part.size for part in parts),
            vectors=vectors,
            key=place.key.about if place.key else None,
            parts=(*kept, *parts),
        )
    await place.keep(backup)
    await _check_whole(place, backup)
    place.backups.append(backup)
    await _sweep(place, base)
    return Made(backup, len(rewritten))


async def planned(store: Store, place: Place, *, full: bool = False) -> tuple[Backup | None, int, int]:
    """Return what a backup would go on from, and how many lines of the log and how many erases are new since."""
    base = None if full else await _base(store, place)
    after = base.head if base else 0
    return base, await store.head() - after, len(last_erased(await erasures(store, after)))


async def _base(store: Store, place: Place) -> Backup | None:
    """Return the last backup that this store has only grown since, and of which everything is there."""
    head, names = await store.head(), {blob.name async for blob in every(place.blobs, "parts")}
    for backup in reversed(place.backups):
        same = backup.store == store.identity and backup.head <= head
        if same and names.issuperset(part.name for part in backup.parts):
            return backup if backup.mark == await _mark(store, backup.head) else None
    return None


async def _mark(store: Store, number: int) -> str:
    lines = await store.changes(after=number - 1, limit=1) if number else []
    return hashlib.sha256(msgspec.json.encode(lines, order="deterministic")).hexdigest()


async def _lineage(store: Store) -> tuple[str, ...]:
    marks = (name.removeprefix(MARK) for name in await store.cursors(MARK))
    return tuple(sorted({mark.partition("/")[0] for mark in marks} - {store.identity}))


def _counts(parts: Iterable[Part]) -> dict[str, int]:
    counts = {"lines": 0, "versions": 0, "embeddings": 0, "keys": 0}
    for part in parts:
        counts["keys"] += part.held if part.kind == KEYS else 0
        counts["lines"] += part.frames if part.kind == LOG else 0
        counts["versions"] += part.held if part.kind == LOG else 0
        counts["embeddings"] += part.held if part.kind == VECTORS else 0
    return counts


@dataclass(frozen=True, slots=True)
class _Frame:
    place: int  # the line, or the slot
    content: bytes
    held: int = 0


@dataclass(slots=True)
class _Making:
    frozen: Store
    place: Place
    base: Backup | None
    head: int
    progress: Progress | None

    async def parts(self, vectors: bool, keys: Directory | None = None) -> list[Part]:
        """Write what is new since the base."""
        after = self.base.head if self.base else 0
        lines = await erasures(self.frozen, after)
        found = await self._written(LOG, self._log(after, last_erased(lines)))
        found += await self._written(ERASED, _of(_Frame(line.seq, msgspec.msgpack.encode(line)) for line in lines))
        if vectors:
            before = await self._extents()
            for scope in await self.frozen.realms():
                for model in await self.frozen.models(scope):
                    extent = await self.frozen.extent(scope, model)
                    start = before.get((*scope.realm, model, extent.group), 0)
                    title = msgspec.msgpack.encode((*scope.realm, model))
                    found += await self._written(VECTORS, self._embeddings(scope, model, start), title, extent.group)
        found += await self._written(KEYS, _all_keys(keys)) if keys else []
        return found + await self._written(BESIDE, self._beside())

    async def _extents(self) -> dict[tuple[str, str, str, int], int]:
        """Return how far the vectors of each realm, model and group are in the base."""
        if self.base is None or not self.base.vectors:
            return {}
        return (await _noted(self.place, self.base)).extents

    async def _log(self, after: int, gone: Mapping[Ref, int]) -> AsyncIterator[_Frame]:
        async for entries in stretches(self.frozen, after, gone):
            for line, record in entries:
                said = (line, exports.line(record) if record else None)
                yield _Frame(line.seq, msgspec.msgpack.encode(said), int(record is not None))
            if self.progress:
                self.progress(len(entries))

    async def _embeddings(self, scope: Scope, model: str, start: int) -> AsyncIterator[_Frame]:
        async for slot, each in embeddings(self.frozen, scope, model, start):
            vectors = each.vectors.astype("<f2")
            said = (slot, each.ref.id, each.version, vectors.shape[1], vectors.tobytes(), each.tokens)
            yield _Frame(slot, msgspec.msgpack.encode(said), 1)

    async def _beside(self) -> AsyncIterator[_Frame]:
        for scope in await self.frozen.realms():
            for model in await self.frozen.models(scope):
                extent = await self.frozen.extent(scope, model)
                yield _noting("extent", (*scope.realm, model, extent.group, extent.slots))
        for name, place in (await places(self.frozen)).items():
            yield _noting("follower", (name, place))
        for letter in await letters(self.frozen):
            yield _noting("letter", letter)
        for scope in await self.frozen.realms():
            async for page in recalls(self.frozen, scope):
                yield _noting("recalls", (*scope.realm, page))

    async def _written(
        self, kind: str, frames: AsyncIterator[_Frame], title: bytes | None = None, group: int = 0
    ) -> list[Part]:
        """Write frames in as many parts as it takes, each with the title in front."""
        found, source = list[Part](), _Source(frames)
        while await source.more():
            found.append(await _put(self.place, kind, source, title, group, self.head))
        return found


async def _all_keys(directory: Directory) -> AsyncIterator[_Frame]:
    after: str | None = None
    while page := await directory.kept(after=after, limit=PAGE):
        for key, own in page:
            said = {each.name: getattr(key, each.name) for each in dataclasses.fields(key)}
            said |= {"permits": list(key.permits.names), "spaces": key.spaces and sorted(key.spaces), "digest": own}
            yield _Frame(0, msgspec.msgpack.encode(said), 1)
        after = page[-1][0].id


def _noting(what: str, said: Any) -> _Frame:
    return _Frame(0, msgspec.msgpack.encode((what, said)))


async def _of(frames: Iterable[_Frame]) -> AsyncIterator[_Frame]:
    for frame in frames:
        yield frame


class _Source:
    """Frames on their way into parts, and what the part at hand has of them."""

    def __init__(self, frames: AsyncIterator[_Frame]) -> None:
        self._frames = frames
        self._begun = False
        self.first = self.last = self.count = self.held = 0
        self._next: _Frame | None = None

    async def more(self) -> bool:
        if not self._begun:
            self._begun, self._next = True, await _after(self._frames)
        self.first = self.last = self.count = self.held = 0
        return self._next is not None

    async def part(self, title: bytes | None) -> AsyncIterator[bytes]:
        size = 0
        if title is not None:
            yield title
        while self._next and self.count < PART_FRAMES and size < PART_BYTES:
            frame = self._next
            self.first, self.last = (frame.place if not self.count else self.first), frame.place
            self.count, self.held, size = self.count + 1, self.held + frame.held, size + len(frame.content)
            yield frame.content
            self._next = await _after(self._frames)


async def _after(frames: AsyncIterator[_Frame]) -> _Frame | None:
    async for frame in frames:
        return frame
    return None


async def _put(place: Place, kind: str, source: _Source, title: bytes | None, group: int, head: int) -> Part:
    name = f"parts/{new_id()}-{kind}"
    blob = await place.blobs.put(name, packed(source.part(title), name, place.key))
    return Part(
        name=name, kind=kind, head=head, first=source.first, last=source.last, group=group,
        frames=source.count, held=source.held, size=blob.size, digest=blob.digest or "",
    )  # fmt: skip


async def _check_whole(place: Place, backup: Backup) -> None:
    """Somebody who made a backup at the same time may have written parts anew that this one names."""
    names = {blob.name async for blob in every(place.blobs, "parts")}
    if not names.issuperset(part.name for part in backup.parts):
        await place.blobs.delete(_manifest(backup.id))
        raise Conflict("another backup was made here at the same time, and has replaced what this one names: try again")


async def _sweep(place: Place, base: Backup | None) -> None:
    """Remove parts that no manifest names: what a rewrite or a backup left behind that was cut off."""
    named = {part.name for backup in (await look(place.blobs)).backups for part in backup.parts}
    old = int((now() - ABANDONED).timestamp() * 1000)
    before = max(old, began(base.id) or 0) if base else old
    loose = [blob.name async for blob in every(place.blobs, "parts") if blob.name not in named]
    for name in loose:
        if (began(name.removeprefix("parts/")[:36]) or 0) < before:
            await place.blobs.delete(name)


# -- forget -------------------------------------------------------------------------------------------------------


async def _forget(store: Store, place: Place, lines: Sequence[Change]) -> dict[str, Part]:
    """Write the parts of earlier backups anew that hold what these lines erase; return the new ones by the old names.

    Every manifest that names an old part names the new one before the old is removed.
    """
    gone = last_erased(lines)
    earlier = place.akin(store.identity, await _lineage(store))
    if not gone or not earlier:
        return {}
    suspects = await _suspects(store, earlier, gone)
    anew = dict[str, Part]()
    for part, own in suspects.values():
        which = gone if own else dict.fromkeys(gone, FOREVER)
        if await _holds(place, part, which):
            anew[part.name] = await _rewritten(place, part, which)
    for number, backup in enumerate(place.backups):
        if any(part.name in anew for part in backup.parts):
            parts = tuple(anew.get(part.name, part) for part in backup.parts)
            place.backups[number] = changed = dataclasses.replace(
                backup, parts=parts, counts=dict(backup.counts) | _counts(parts)
            )
            await place.keep(changed)
    for name in anew:
        await place.blobs.delete(name)
    return anew


async def _suspects(store: Store, earlier: Sequence[Backup], gone: Mapping[Ref, int]) -> dict[str, tuple[Part, bool]]:
    """Return the parts that may hold the erased, and whether they are this store's own: of those, the ones with a line
    or a slot of theirs, of others all.
    """
    numbers, after = set[int](), 0
    while lines := await store.changes(after=after, limit=LINES * 10):
        after = lines[-1].seq
        numbers |= {line.seq for line in lines if line.ref in gone}
    slots = dict[int, set[int]]()
    for scope in await store.realms():
        for model in await store.models(scope):
            group = (await store.extent(scope, model)).group
            slots[group] = set(await store.holes(scope, model, after=0))
    found = dict[str, tuple[Part, bool]]()
    for backup in earlier:
        own = backup.store == store.identity
        for part in backup.parts:
            places = numbers if part.kind == LOG else slots.get(part.group)
            mine = own and places is not None
            held = part.kind in (LOG, VECTORS) and part.held
            if held and (not mine or any(part.first <= place <= part.last for place in places or ())):
                found[part.name] = part, own
    return found


async def _holds(place: Place, part: Part, gone: Mapping[Ref, int]) -> bool:
    async for _, held in _kept(place, part, gone):
        if held is None:
            return True
    return False


async def _kept(place: Place, part: Part, gone: Mapping[Ref, int]) -> AsyncIterator[tuple[bytes, _Frame | None]]:
    """Yield each frame of a part, and as it is without the erased: None where it changes."""
    walls: tuple[str, str] | None = None
    async for frame in place.frames(part):
        if part.kind == LOG:
            line, record = _entry(frame, part)
            if record is not None and gone.get(line.ref, 0) > line.seq:
                yield frame, None
            else:
                yield frame, _Frame(line.seq, frame, int(record is not None))
        elif walls is None:
            walls = msgspec.msgpack.decode(frame, type=tuple[str, str, str])[:2]
            yield frame, _Frame(-1, frame)
        else:
            slot, id, *_ = _embedding(frame, part)
            yield frame, None if gone.get(Ref(*walls, id), 0) > part.head else _Frame(slot, frame, 1)


async def _rewritten(place: Place, part: Part, gone: Mapping[Ref, int]) -> Part:
    title: list[bytes] = []

    async def frames() -> AsyncIterator[_Frame]:
        async for old, kept in _kept(place, part, gone):
            if kept is not None and kept.place >= 0:
                yield kept
            elif kept is not None:
                title.append(old)
            elif part.kind == LOG:
                line, _ = _entry(old, part)
                yield _Frame(line.seq, msgspec.msgpack.encode((line, None)))

    source = _Source(frames())
    await source.more()
    new = await _put(place, part.kind, source, title[0] if title else None, part.group, part.head)
    return dataclasses.replace(new, first=part.first, last=part.last)


def _entry(frame: bytes, part: Part) -> tuple[Change, bytes | None]:
    try:
        return msgspec.msgpack.decode(frame, type=tuple[Change, bytes | None])
    except msgspec.MsgspecError as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None


def _embedding(frame: bytes, part: Part) -> tuple[int, str, int, int, bytes, bytes]:
    try:
        return msgspec.msgpack.decode(frame, type=tuple[int, str, int, int, bytes, bytes])
    except msgspec.MsgspecError as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None


# -- prune --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pruned:
    """Which backups stay and which go, and the bytes of the parts that none of those that stay needs."""

    kept: tuple[Backup, ...]
    gone: tuple[Backup, ...]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def spared(place: Place, *, keep: int | None = None, keep_days: float | None = None) -> Pruned:
    """Return what pruning would do: of each store the last `keep` backups stay, and those made within `keep_days` days,
    but always the last. Raise Invalid where neither is named, NotFound where there is no backup.
    """
    if keep is None and keep_days is None:
        raise Invalid("say how many backups to keep, or for how many days")
    place.get()
    since, kept, count = now() - timedelta(days=keep_days or 0), set[str](), dict[str, int]()
    for backup in reversed(place.backups):
        count[backup.store] = nth = count.get(backup.store, 0) + 1
        if nth <= max(1, keep or 0) or (keep_days is not None and backup.at >= since):
            kept.add(backup.id)
    stay, gone = ([backup for backup in place.backups if (backup.id in kept) is so] for so in (True, False))
    needed = _parts(stay)
    return Pruned(tuple(stay), tuple(gone), tuple(p for name, p in _parts(gone).items() if name not in needed))


def _parts(backups: Iterable[Backup]) -> dict[str, Part]:
    return {part.name: part for backup in backups for part in backup.parts}


async def prune(place: Place, *, keep: int | None = None, keep_days: float | None = None) -> Pruned:
    """Remove backups as `spared` says, and the parts that no backup names any more.

    Every manifest is whole in itself, so those that stay lose nothing; and what an earlier one of a store knew to be
    erased, each later one knows, too. What is left where it is cut off, the next backup removes.
    """
    found = spared(place, keep=keep, keep_days=keep_days)
    for backup in found.gone:
        await place.blobs.delete(_manifest(backup.id))
    place.backups = list(found.kept)
    named = _parts((await look(place.blobs)).backups)  # somebody may have made one meanwhile
    loose = tuple(part for part in found.parts if part.name not in named)
    for part in loose:
        await place.blobs.delete(part.name)
    await _sweep(place, None)
    return dataclasses.replace(found, parts=loose)


# -- verify -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What reading all of a backup showed; without complaints it can be restored."""

    backup: Backup
    counts: Mapping[str, int]
    complaints: tuple[str, ...]


async def verify(place: Place, backup: Backup, progress: Progress | None = None) -> Verified:
    """Read every part of a backup: digests, encryption, every record and vector, and whether anything is missing."""
    complaints, counts, line = list[str](), {"lines": 0, "versions": 0, "embeddings": 0, "keys": 0}, 0
    for kind in (LOG, ERASED, VECTORS, BESIDE, KEYS):
        for part in backup.of(kind):
            try:
                frames, held, first, last = await _read_through(place, part)
            except (Damaged, NotFound) as error:
                complaints.append(error.message)
                continue
            if (frames, held) != (part.frames, part.held):
                complaints.append(f"{part.name} does not hold as much as the manifest says")
            if kind == LOG and (first, last, frames) != (line + 1, part.last, part.last - line):
                complaints.append(f"{part.name} does not go on from line {line} of the log")
            line = part.last if kind == LOG else line
            counts["lines"] += frames if kind == LOG else 0
            counts["keys"] += held if kind == KEYS else 0
            counts["versions"] += held if kind == LOG else 0
            counts["embeddings"] += held if kind == VECTORS else 0
            if progress:
                progress(part.size)
    if line != backup.head:
        complaints.append(f"the log ends with line {line} and not with {backup.head}")
    return Verified(backup, counts, tuple(complaints))


async def _read_through(place: Place, part: Part) -> tuple[int, int, int, int]:
    frames = held = first = last = 0
    titled = part.kind == VECTORS
    async for frame in place.frames(part):
        if titled:
            titled = False
            continue
        frames += 1
        if part.kind == LOG:
            line, record = _entry(frame, part)
            first, last, held = first or line.seq, line.seq, held + (record is not None)
            if record is not None and (found := exports.record(record)).ref != line.ref:
                raise Damaged(f"{part.name} holds {found.id} where its log speaks of {line.id}")
        elif part.kind == VECTORS:
            _, _, _, dimension, vectors, _ = _embedding(frame, part)
            halves(vectors, dimension)
            held += 1
        elif part.kind == KEYS:
            _key(frame, part)
            held += 1
    return frames, held, first, last


def _key(frame: bytes, part: Part) -> Kept:
    try:
        said = msgspec.msgpack.decode(frame, type=_Key)
        values = {name: getattr(said, name) for name in said.__struct_fields__ if name != "digest"}
        return Granted(**{**values, "permits": Permit.of(said.permits)}), said.digest
    except (msgspec.MsgspecError, SimonidesError) as error:
        raise Damaged(f"{part.name} is damaged: {error}") from None


class _Key(msgspec.Struct):
    id: str
    name: str
    tenant: str
    spaces: frozenset[str] | None
    user: str | None
    permits: list[str]
    rate: int | None
    made: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None
    digest: bytes


# -- restore ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore wrote. `erased` is how many records it left out because a later backup knows them erased."""

    backup: Backup
    lines: int
    versions: int
    embeddings: int
    erased: int


@dataclass(slots=True)
class _Noted:
    """What is noted beside the log: how far vectors reach, followers, last recalls."""

    extents: dict[tuple[str, str, str, int], int] = field(default_factory=dict)
    followers: dict[str, int] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)


async def _noted(place: Place, backup: Backup, store: Store | None = None) -> _Noted:
    """Read it; last recalls go right into the store."""
    noted = _Noted()
    for part in backup.of(BESIDE):
        async for frame in place.frames(part):
            what, said = msgspec.msgpack.decode(frame)
            if what == "extent":
                tenant, space, model, group, slots = said
                noted.extents[tenant, space, model, group] = slots
            elif what == "follower":
                noted.followers[said[0]] = said[1]
            elif what == "letter":
                noted.letters.append(msgspec.convert(said, Letter))
            elif what == "recalls" and store:
                tenant, space, page = said
                last = msgspec.convert(page, list[tuple[str, datetime]])
                await store.recalled({Ref(tenant, space, id): at for id, at in last})
    return noted


async def restore(place: Place, backup: Backup, store: Store, progress: Progress | None = None) -> Restored:
    """Write a backup into an empty store, or go on with a restore of it that was cut off; raise Conflict otherwise."""
    mark = f"{MARK}{backup.store}/{backup.id}"
    begun, head = await store.cursor(mark), await store.head()
    if begun == 0 and (head or (await store.counts())["records"]):
        raise Conflict("the store is not empty: restore into a new one, and compare or move from there")
    if begun != head:
        raise Conflict("something else was written to the store since the restore began: restore into a new one")
    own, later = await _erased(place, backup)
    gone = own | dict.fromkeys(later, FOREVER)
    lines = versions = embedded = 0
    left_out = dict[Ref, Change]()
    for part in backup.of(LOG):
        if part.last <= begun and not later:
            continue
        async for entries in _entries(place, part, gone):
            for line, _ in entries:  # what was there when the backup was made, and was erased since
                if line.version and line.ref in later and own.get(line.ref, 0) < line.seq:
                    left_out[line.ref] = later[line.ref]
            waiting = [entry for entry in entries if entry[0].seq > begun]
            if waiting:
                await write(store, waiting, mark)
            lines += len(waiting)
            versions += sum(record is not None for _, record in waiting)
            if progress:
                progress(len(entries))
    if left_out and await store.head() == backup.head:
        await write(store, await _afterwards(place, backup, left_out), mark)
    extents = (await _noted(place, backup)).extents
    for part in backup.of(VECTORS):
        embedded += await write_embeddings(store, _embeddings(place, part, gone, extents), progress)
    noted = await _noted(place, backup, store)
    await write_letters(store, [letter for letter in noted.letters if letter.change.seq <= backup.head])
    await write_places(store, noted.followers)
    return Restored(backup, lines, versions, embedded, len(left_out))


async def restore_keys(place: Place, backup: Backup, directory: Directory) -> int:
    """Write the keys of a backup into a directory; return how many were not there. What a later backup in the same
    place knows to be revoked is revoked. Raise NotFound where the backup has no keys.
    """
    if not backup.of(KEYS):
        raise NotFound(f"backup {backup.id} was made without the keys")
    revoked = dict[str, datetime]()
    for other in place.akin(backup.store, backup.lineage):
        if other.id >= backup.id:
            async for key, _ in _keys(place, other):
                if key.revoked:
                    revoked[key.id] = min(key.revoked, revoked.get(key.id, key.revoked))
    count, waiting = 0, list[Kept]()
    async for key, own in _keys(place, backup):
        waiting.append((dataclasses.replace(key, revoked=revoked.get(key.id)), own))
        if len(waiting) == PAGE:
            count, waiting = count + await directory.restore(waiting), []
    return count + await directory.restore(waiting)


async def _keys(place: Place, backup: Backup) -> AsyncIterator[Kept]:
    for part in backup.of(KEYS):
        async for frame in place.frames(part):
            yield _key(frame, part)


async def _erased(place: Place, backup: Backup) -> tuple[dict[Ref, int], dict[Ref, Change]]:
    """Return the last erase of each record as the backup's log and later backups know it, and of the latter the
    lines.
    """
    own = [line async for line in _lines(place, backup.of(ERASED))]
    known = {(line.seq, line.ref) for line in own}
    gone, later, names = last_erased(own), dict[Ref, Change](), {part.name for part in backup.parts}
    for other in place.akin(backup.store, backup.lineage):
        if other.id > backup.id:
            fresh = [part for part in other.of(ERASED) if part.name not in names]
            names |= {part.name for part in fresh}
            async for line in _lines(place, fresh):
                if line.kind != "certificate" and (line.seq, line.ref) not in known:
                    later[line.ref] = line
    return gone, later


async def _lines(place: Place, parts: Iterable[Part]) -> AsyncIterator[Change]:
    for part in parts:
        async for frame in place.frames(part):
            yield msgspec.msgpack.decode(frame, type=Change)


async def _entries(place: Place, part: Part, gone: Mapping[Ref, int]) -> AsyncIterator[list[Entry]]:
    waiting = list[Entry]()
    async for frame in place.frames(part):
        line, held = _entry(frame, part)
        record: Record | None = None
        if held is not None and gone.get(line.ref, 0) < line.seq:
            record = exports.record(held)
        waiting.append((line, record))
        if len(waiting) == LINES:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


async def _afterwards(place: Place, backup: Backup, left_out: Mapping[Ref, Change]) -> list[Entry]:
    """Return the lines of the erases, and of their certificates, that came after the backup, numbered to follow it."""
    lines, names = list(left_out.values()), {part.name for part in backup.parts}
    for other in place.akin(backup.store, backup.lineage):
        if other.id > backup.id:
            fresh = [part for part in other.of(ERASED) if part.name not in names]
            names |= {part.name for part in fresh}
            async for line in _lines(place, fresh):
                ids = (line.note or {}).get("ids", ())
                if line.kind == "certificate" and any(Ref(*line.scope.realm, id) in left_out for id in ids):
                    lines.append(line)
    return [(dataclasses.replace(line, seq=seq), None) for seq, line in enumerate(lines, backup.head + 1)]


async def _embeddings(
    place: Place, part: Part, gone: Mapping[Ref, int], extents: Mapping[tuple[str, str, str, int], int]
) -> AsyncIterator[Embedding]:
    title: tuple[str, str, str] | None = None
    async for frame in place.frames(part):
        if title is None:
            title = msgspec.msgpack.decode(frame, type=tuple[str, str, str])
            if (*title, part.group) not in extents:
                return  # the model was dropped since
            continue
        _, id, version, dimension, vectors, tokens = _embedding(frame, part)
        ref = Ref(title[0], title[1], id)
        if gone.get(ref, 0) <= part.head:
            yield Embedding(ref, version, title[2], halves(vectors, dimension), tokens)
