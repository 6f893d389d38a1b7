"""The embedded default: every vector is looked at, by codes small enough that this takes a millisecond or two.

`flat:` takes `?small=2048` (groups up to so many vectors need no files), `exact=20000` (up to so many, every vector is
scored by its bytes; beyond, those that its sign bits propose), `candidates=2000` (that so many are proposed at least,
at 100,000 vectors) and `kernels=numpy` (do without faiss).

A group is what one model made of one tenant and space. A small group is read from the store and kept in memory as it
is. A larger one has codes in files beside the store, filled by catching up with the store: by whoever comes first, of
however many processes. Nothing in them is the only copy, so whatever is missing, damaged or another's is made again.

Where the files cannot be written (a full disk, a folder that is not ours) the codes are made in memory instead, and
`check` says so. Only `catch_up` fails then, and only if something erased may still be in those files.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

import numpy as np
from filelock import FileLock, Timeout

from ..errors import Invalid, Unavailable
from ..query import Query
from ..record import Record, Scope
from ..store import Extent, Store
from . import kernels
from .flat_codes import BLOCK, ENDINGS, FileCodes, GroupCodes, Head, MemoryCodes, Owner, Rows, model_name, stem
from .flat_search import Candidates, Coded, Whole, tuned
from .kernels import Floats
from .search import REMEDY, Held, Matches, Rank, Search, checked, decoded, everything, made_again, meant

FOLDER = "vectors"
WORKERS = 4
LOCK_S = 30.0  # how long another process may write before its files are done without
LOCK_POLL_S = 0.005
LOCK_REST_S = 0.011  # between two blocks, for others to come in: they may be waiting to empty a row
CLOSE_S = 1.0  # how long closing waits for another process; what is not flushed is only written again some day
OPEN_MAX = 32  # groups whose files are kept open: six descriptors each
SAMPLE = 64  # rows that are compared with the store when files are opened
TUNING = 20  # vectors that the number of candidates is tuned with

UNWRITABLE = (OSError, NotImplementedError)  # Timeout is one, too; NotImplementedError: no locks on this file system

T = TypeVar("T")
Realm = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    small: int = 2048
    exact: int = 20_000
    candidates: int = 2000
    faiss: bool = True


class FlatIndex:
    def __init__(self, url: str, store: Store, model: str, dimension: int) -> None:
        self._options = _parsed(url)
        self._store, self._model, self._dimension = store, model, dimension
        self._folder = Path(store.folder) / FOLDER if store.folder else None
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="simonides-flat")
        self._small = Held(store, model, dimension, self._run)
        self._codes: OrderedDict[Realm, GroupCodes] = OrderedDict()
        self._locks: dict[Realm, asyncio.Lock] = {}
        self._matches = Matches(store, model)
        self._troubles: dict[Realm, str] = {}  # why the codes of a realm are not in files
        self._swept = False

    async def near(self, query: Query, vector: Floats, limit: int) -> list[tuple[Record, float]]:
        query, vector = meant(query), checked(vector, self._model, self._dimension)
        extent = await self._store.extent(query.scope, self._model)
        if limit < 1 or not extent.slots:
            return []
        candidates = await self._candidates(query.scope, extent)
        search = Search(self._store, self._model, query, vector, limit, self._run)
        if query.ids is not None:
            slots = await self._store.slots(query, self._model)
            await search.through(self._rank(candidates.among(slots), vector), patient=True)
        elif self._matches.remembers(query, extent) or not await search.through(
            self._rank(candidates, vector), patient=False
        ):
            slots = await self._matches.slots(query, extent)
            await search.through(self._rank(candidates.among(slots), vector), patient=True)
        return search.answer()

    def _rank(self, candidates: Candidates, vector: Floats) -> Rank:
        return lambda wide: self._run(candidates.rank, vector, wide)

    async def _candidates(self, scope: Scope, extent: Extent) -> Candidates:
        if extent.slots <= self._options.small:
            return Whole(await self._small.vectors(scope, extent))
        return self._coded(await self._rows(scope, extent), extent.slots)

    def _coded(self, rows: Rows, n: int) -> Coded:
        return Coded(rows, n, self._options.exact, self._options.candidates, self._options.faiss)

    # -- larger groups: codes ------------------------------------------------------------------------------------

    async def _rows(self, scope: Scope, extent: Extent) -> Rows:
        """Return the codes filled up to the extent at least."""
        rows = self._open_rows(scope, extent)
        if rows and rows.head.filled >= extent.slots:
            self._codes.move_to_end(scope.realm)
            return rows
        try:
            return await self._filled(scope, extent)
        except UNWRITABLE as error:
            return await self._filled_in_memory(scope, extent, error)

    def _open_rows(self, scope: Scope, extent: Extent) -> Rows | None:
        """Return the group's codes as they are; None where they must be opened first."""
        codes = self._codes.get(scope.realm)
        return codes.rows() if codes and codes.owner.group == extent.group else None

    async def _filled(self, scope: Scope, extent: Extent) -> Rows:
        while True:
            async with self._writing(scope.realm):
                codes = await self._opened(scope, extent)
                rows = await self._fill_block(codes, scope, extent)
            if rows.head.filled >= extent.slots:
                return rows
            await asyncio.sleep(LOCK_REST_S)

    async def _filled_in_memory(self, scope: Scope, extent: Extent, error: Exception) -> Rows:
        self._troubles[scope.realm] = str(error)
        async with self._lock(scope.realm):
            codes = self._codes.get(scope.realm)
            if not isinstance(codes, MemoryCodes) or codes.owner.group != extent.group:
                codes = MemoryCodes(self._owner(extent.group))
                self._replace(scope.realm, codes)
            while (rows := await self._fill_block(codes, scope, extent)).head.filled < extent.slots:
                pass
            return rows

    async def _fill_block(self, codes: GroupCodes, scope: Scope, extent: Extent) -> Rows:
        """Write the next of the rows that are lacking. The lock is held, so that nothing is emptied in between."""
        rows = codes.rows()
        if rows is not None and rows.head.filled < extent.slots:
            found = await self._store.vectors(scope, self._model, start=rows.head.filled, limit=BLOCK)
            await self._surely(self._write, codes, found, extent.slots)
            rows = codes.rows()
        if rows is None:
            raise OSError("the files were taken away while they were written")
        return rows

    def _write(self, codes: GroupCodes, found: list[tuple[int, bytes]], slots: int) -> Head:
        last = found[-1][0] + 1 if found else 0
        reach = last if len(found) == BLOCK else max(last, slots)  # a block that is not full reaches to the end
        at = np.array([slot for slot, _ in found], np.int64)
        return codes.write(at, decoded([half for _, half in found], self._dimension), reach)

    async def _opened(self, scope: Scope, extent: Extent) -> GroupCodes:
        """Return the group's codes, opened (again) where need be. The lock is held."""
        if self._open_rows(scope, extent) and not self._is_refuge(scope.realm):
            return self._codes[scope.realm]
        owner = self._owner(extent.group)
        codes = FileCodes(self._path(scope.realm), owner) if self._folder else MemoryCodes(owner)
        try:
            rows: Rows = await self._surely(codes.open)
            if not await self._is_sound(rows, scope):
                await self._surely(functools.partial(codes.open, anew=True))
        except BaseException:
            codes.close()
            raise
        self._troubles.pop(scope.realm, None)
        self._replace(scope.realm, codes)
        return codes

    def _is_refuge(self, realm: Realm) -> bool:
        """Whether the codes are in memory only because their files could not be written: those are tried again."""
        return self._folder is not None and isinstance(self._codes.get(realm), MemoryCodes)

    def _replace(self, realm: Realm, codes: GroupCodes) -> None:
        if old := self._codes.pop(realm, None):
            old.close()
        self._codes[realm] = codes
        for other in list(self._codes)[: max(0, len(self._codes) - OPEN_MAX)]:
            if isinstance(self._codes[other], FileCodes) and not self._lock(other).locked():
                self._codes.pop(other).close()

    async def _is_sound(self, rows: Rows, scope: Scope) -> bool:
        """Compare rows spread over the files, and the last, with the store's vectors."""
        if not rows.head.filled:
            return True
        spread = np.unique(np.linspace(0, rows.head.filled - 1, SAMPLE + 1).astype(np.int64))
        owned = await self._store.owners(everything(scope), self._model, spread.tolist())
        found = [(slot, half) for slot, _, half in owned if slot < rows.head.filled]
        return not await self._run(_differing, rows, found, self._dimension)

    def _owner(self, group: int) -> Owner:
        return Owner(self._store.identity, self._model, group, self._dimension)

    def _path(self, realm: Realm) -> Path:
        assert self._folder is not None, "a store without a folder has no files"
        return self._folder / stem(self._model, realm)

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def catch_up(self, scope: Scope) -> None:
        extent = await self._store.extent(scope, self._model)
        if extent.slots <= self._options.small:
            await self._catch_up_small(scope, extent)
        else:
            await self._catch_up_codes(scope, extent)
        if not self._swept:
            await self._sweep()

    async def _catch_up_small(self, scope: Scope, extent: Extent) -> None:
        await self._remove(scope.realm)
        if scope in self._small:
            await self._small.vectors(scope, extent)

    async def _catch_up_codes(self, scope: Scope, extent: Extent) -> None:
        self._small.forget(scope)
        try:
            await self._empty(scope, extent)
            rows = self._open_rows(scope, extent)
            if rows is None or rows.head.filled < extent.slots:
                rows = await self._filled(scope, extent)
            if rows.head.durable < rows.head.filled and self._codes[scope.realm].is_flush_due:
                await self._flush(scope.realm)
        except UNWRITABLE as error:
            rows = await self._filled_in_memory(scope, extent, error)
        if rows.head.filled > self._options.exact and rows.head.filled >= 2 * rows.head.tuned:
            await self._tune(scope, rows)

    async def _empty(self, scope: Scope, extent: Extent) -> None:
        """Empty the rows of what was erased. That needs no room on the disk, so it comes before the filling."""
        rows = self._open_rows(scope, extent)
        if rows and rows.head.holes >= extent.holes and not self._is_refuge(scope.realm):
            return
        try:
            async with self._writing(scope.realm):
                codes = await self._opened(scope, extent)
                rows = codes.rows()
                if rows and rows.head.holes < extent.holes:
                    gone = await self._store.holes(scope, self._model, after=rows.head.holes)
                    await self._surely(codes.zero, gone)
        except UNWRITABLE as error:
            if extent.holes and self._has_files(scope.realm):
                place = f"{self._path(scope.realm)}.*"
                raise Unavailable(f"what was erased may still be in {place}, which is not writable: {error}") from error
            raise
        self._matches.forget(extent.group)
        self._swept = False

    async def _flush(self, realm: Realm, patience: float = LOCK_S) -> None:
        async with self._writing(realm, patience):
            codes = self._codes.get(realm)
            if codes and codes.rows() is not None:
                await self._surely(codes.flush)

    async def _tune(self, scope: Scope, rows: Rows) -> None:
        """Find how many candidates these vectors need. It takes seconds for millions, so the lock is not held."""
        n = rows.head.filled
        spread = np.linspace(0, n - 1, TUNING + 2)[1:-1].astype(np.int64).tolist()
        owned = await self._store.owners(everything(scope), self._model, spread)
        if not owned:
            return
        vectors = decoded([half for _, _, half in owned], self._dimension)
        factor: float = await self._run(tuned, self._coded(rows, n), vectors)
        with contextlib.suppress(*UNWRITABLE):  # it is tried again with the next catch-up
            async with self._writing(scope.realm):
                if codes := self._codes.get(scope.realm):
                    await self._surely(codes.tune, factor, n)

    async def check(self) -> list[str]:
        complaints = [
            f"the vector codes are kept in memory, until their files can be written: {why}"
            for why in sorted(set(self._troubles.values()))
        ]
        for scope in await self._store.realms():
            extent = await self._store.extent(scope, self._model)
            if extent.slots > self._options.small:
                complaints += await self._check_group(scope, extent)
        left = await self._left_over()
        return complaints + [f"{path} is left over from a model or a format that is gone: {REMEDY}" for path in left]

    async def _check_group(self, scope: Scope, extent: Extent) -> list[str]:
        """Compare every row with the store's vector, with the lock held, so that nobody writes meanwhile."""
        if self._folder and not self._has_files(scope.realm):
            return []  # they are made when they are first needed
        name = self._path(scope.realm) if self._folder else "the codes in memory"
        try:
            async with self._writing(scope.realm):
                rows = self._open_rows(scope, extent) or await self._looked_at(scope, extent)
                if rows is None:
                    return [f"{name}.* are not this store's, or not whole: {REMEDY}"] if self._folder else []
                return [f"{name}.*: {one}: {REMEDY}" for one in await self._compare(rows, scope)]
        except UNWRITABLE as error:
            return [f"{name}.* cannot be checked: {error}"]

    async def _looked_at(self, scope: Scope, extent: Extent) -> Rows | None:
        """Return the rows of files that are not open; None where they would have to be made anew."""
        if self._folder is None:
            return None
        codes = FileCodes(self._path(scope.realm), self._owner(extent.group))
        rows = await self._run(codes.look)
        if rows is not None:
            rows = await self._surely(codes.open)
        codes.close()
        return rows

    async def _compare(self, rows: Rows, scope: Scope) -> list[str]:
        wrong, present, filled = 0, np.zeros(rows.head.filled, np.bool_), rows.head.filled
        start = 0
        while start < filled:
            found = await self._store.vectors(scope, self._model, start=start, limit=BLOCK)
            start = found[-1][0] + 1 if len(found) == BLOCK else filled
            found = [(slot, half) for slot, half in found if slot < filled]
            present[[slot for slot, _ in found]] = True
            wrong += await self._run(_differing, rows, found, self._dimension)
        left: int = await self._run(_not_empty, rows, np.flatnonzero(~present))
        complaints = [f"{wrong} of {filled} rows differ from the store's vectors"] if wrong else []
        if left:
            complaints.append(f"{left} rows of erased vectors are not emptied")
        return complaints

    async def rebuild(self) -> int:
        self._matches.clear()
        self._small.clear()
        small, remove = self._options.small, self._remove
        count = await made_again(self._store, self._model, small, lambda scope: remove(scope.realm), self.catch_up)
        await self._sweep()
        return count

    async def _remove(self, realm: Realm) -> None:
        """Throw the codes of a realm away, in memory and on the disk."""
        if realm not in self._codes and not self._has_files(realm):
            return
        try:
            async with self._writing(realm):
                if codes := self._codes.pop(realm, None):
                    codes.close()
                if self._folder:
                    for ending in ENDINGS:
                        Path(f"{self._path(realm)}{ending}").unlink(missing_ok=True)
        except UNWRITABLE as error:
            raise Unavailable(f"{self._path(realm)}.* cannot be removed: {error}") from error

    def _has_files(self, realm: Realm) -> bool:
        return self._folder is not None and any(Path(f"{self._path(realm)}{ending}").exists() for ending in ENDINGS)

    async def _sweep(self) -> None:
        """Remove the files of models that the store no longer has, and of other formats."""
        for path in await self._left_over():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._swept = True

    async def _left_over(self) -> list[Path]:
        if self._folder is None or not self._folder.is_dir():
            return []
        known = {model_name(model) for model in (*await self._store.models(), self._model)}
        paths = await self._run(lambda: sorted(self._folder.iterdir()) if self._folder else [])
        return [path for path in paths if path.suffix in ENDINGS and path.name.partition("-")[0] not in known]

    async def close(self) -> None:
        for realm, codes in list(self._codes.items()):
            with contextlib.suppress(*UNWRITABLE):
                await self._flush(realm, CLOSE_S)
            codes.close()
        self._codes.clear()
        self._small.clear()
        self._matches.clear()
        await asyncio.to_thread(self._pool.shutdown)

    # -- inside --------------------------------------------------------------------------------------------------

    def _lock(self, realm: Realm) -> asyncio.Lock:
        return self._locks.setdefault(realm, asyncio.Lock())

    @contextlib.asynccontextmanager
    async def _writing(self, realm: Realm, patience: float = LOCK_S) -> AsyncIterator[None]:
        """Be the only one, of all tasks and processes, who writes the realm's codes. Raise Timeout, OSError."""
        async with self._lock(realm):
            if self._folder is None:
                yield
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(f"{self._path(realm)}.lock", thread_local=False)
            await _acquire(lock, patience)
            try:
                yield
            finally:
                lock.release()

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _surely(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what writes. It is waited for even when the caller gives up, because a lock is held for it."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise


async def _acquire(lock: FileLock, patience: float) -> None:
    """Wait for the lock without a thread: waiting threads could keep those from running that would release it."""
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(LOCK_POLL_S)
        else:
            return


def _parsed(url: str) -> Options:
    scheme, _, options = url.partition("?")
    given = {name: values[-1] for name, values in parse_qs(options, keep_blank_values=True).items()}
    chosen = given.pop("kernels", "faiss")
    numbers = {name: int(value) for name, value in given.items() if value.isdecimal()}
    if scheme != "flat:" or numbers.keys() != given.keys() or not numbers.keys() <= {"small", "exact", "candidates"}:
        raise Invalid(f"{url!r}: write flat: or flat:?small=2048&exact=20000&candidates=2000&kernels=numpy")
    if chosen not in ("faiss", "numpy"):
        raise Invalid(f"{url!r}: kernels are faiss or numpy")
    return Options(**numbers, faiss=chosen == "faiss")


def _differing(rows: Rows, found: list[tuple[int, bytes]], dimension: int) -> int:
    """Return how many of the rows are not what the vectors at their slots make them."""
    at = np.array([slot for slot, _ in found], np.int64)
    vectors = decoded([half for _, half in found], dimension)
    bits = (rows.bits[at] != kernels.sign_bits(vectors)).any(axis=1)
    codes = _bytes(rows.codes[at]) != _bytes(kernels.int8(vectors))
    return int(np.count_nonzero(bits | codes.any(axis=1)))


def _not_empty(rows: Rows, slots: kernels.Slots) -> int:
    """Return how many of the rows hold anything but zeros."""
    count = 0
    for start in range(0, len(slots), BLOCK):
        at = slots[start : start + BLOCK]
        count += int(np.count_nonzero(rows.bits[at].any(axis=1) | _bytes(rows.codes[at]).any(axis=1)))
    return count


def _bytes(rows: kernels.Codes) -> kernels.Bytes:
    return rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


open = FlatIndex
