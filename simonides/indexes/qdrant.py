"""Vectors in Qdrant: for those who run it already, or whose vectors are to have a machine of their own.

`qdrant://host:6333/simonides` is a server, and what the names of its collections begin with. Beyond this machine it is
reached by TLS (`tls=on` and `tls=off` say otherwise); `ca_file` is a certificate to trust, `api_key_file` has the key.
With `quantization=scalar` or `binary` the server walks codes in memory, of a quarter or a 32nd of the size, and scores
the best by the vectors themselves. `qdrant:///folder` keeps everything in a folder of this machine for one process,
`qdrant::memory:` in memory: that is the client's own mode, which looks at every vector and is for trying things out.
Further: `small=2048` (groups up to so many vectors, and what came since the last catch-up, are held in memory),
`few=4096` (where no more match a filter, each is looked at), `ef=160` (how widely the graph is walked).

A model has a collection; a point is a slot: its id is made of the store, the group and the slot, so that writing it
twice changes nothing. Its group is the tenant key, so that each has a graph of its own. Qdrant has no transactions: how
far a group is filled, and emptied, is noted in a collection beside, after it was done. Whoever stops in between, or
comes at the same time as another, leaves work that is done again. Nothing here is the only copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ..errors import Full, Invalid, Unavailable
from ..query import Query
from ..record import Record, Scope
from ..store import Extent, Store
from .kernels import Floats, Slots
from .search import (
    REMEDY,
    Held,
    Joined,
    Matches,
    Proposed,
    Search,
    answered,
    checked,
    decoded,
    differing,
    everything,
    made_again,
    meant,
    nothing,
)

try:
    from qdrant_client import AsyncQdrantClient, models
    from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
except ImportError as error:  # pragma: no cover - of an installation without it
    raise Unavailable("Qdrant needs what is not installed: pip install 'simonides[qdrant]'") from error

PREFIX = "simonides"
NAME = "near"  # of the vector of a point
BLOCK = 1024  # points written at once
SAMPLE = 64  # points that are compared with the store when a group is first asked for
LARGE = 1 / 4  # share of the points from which walking the graph costs more than looking at every one
EF_MAX = 4096
OVERSAMPLING = 2.0  # times as many are chosen by codes as are scored by their vectors
TIMEOUT_S = 30
SLACK = 1e-5  # that scores may be off by: other sums of the same products
NUMBERS = {"small": 2048, "few": 4096, "ef": 160}
QUANTIZATIONS = {
    "none": None,
    "scalar": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    ),
    "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
}

T = TypeVar("T")
Realm = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    small: int
    few: int
    ef: int
    quantization: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Lot:
    """How far a group is filled and emptied: the first slot that is not here yet, and the holes that are none here."""

    number: int
    filled: int
    holes: int


class _Gone(Exception):
    """A collection is not there any more."""


class QdrantIndex:
    def __init__(self, url: str, store: Store, model: str, dimension: int) -> None:
        self._server, self._options = _parsed(url)
        self._store, self._model, self._dimension = store, model, dimension
        self._points = f"{self._options.prefix}-{_digest(model)[:16]}-{dimension}"
        self._notes = f"{self._options.prefix}-lots"
        self._held = Held(store, model, dimension, asyncio.to_thread)
        self._matches = Matches(store, model)
        self._lots: dict[Realm, Lot] = {}
        self._locks: dict[Realm, asyncio.Lock] = {}
        self._opening = asyncio.Lock()
        self._client: AsyncQdrantClient | None = None
        self._ready = self._swept = False

    async def near(self, query: Query, vector: Floats, limit: int) -> list[tuple[Record, float]]:
        query, vector = meant(query), checked(vector, self._model, self._dimension)
        extent = await self._store.extent(query.scope, self._model)
        if limit < 1 or not extent.slots:
            return []
        try:
            return await self._nearest(query, vector, limit, extent)
        except _Gone:
            self._forget_places()
            return await self._nearest(query, vector, limit, extent)

    async def _nearest(self, query: Query, vector: Floats, limit: int, extent: Extent) -> list[tuple[Record, float]]:
        lot = await self._lot(query.scope, extent)
        held = await self._held.vectors(query.scope, extent, lot.filled if lot else 0)

        async def propose(count: int, among: Slots | None) -> Proposed:
            assert lot is not None, "without one, all is held in memory"
            return await self._proposed(lot, vector, count, among)

        rows = Joined(propose if lot else nothing, lot.filled if lot else 0, held, vector, SLACK)
        search = Search(self._store, self._model, query, vector, limit, asyncio.to_thread)
        await answered(search, rows, query, extent, self._matches, self._options.few)
        return search.answer()

    async def _proposed(self, lot: Lot, vector: Floats, count: int, among: Slots | None) -> Proposed:
        exact = among is not None or count > LARGE * (lot.filled - lot.holes)
        found = await self._asked(lot, vector, count, among, exact)
        if found[2] and not exact:  # not every point can be walked to
            return await self._asked(lot, vector, count, among, True)
        return found

    async def _asked(self, lot: Lot, vector: Floats, count: int, among: Slots | None, exact: bool) -> Proposed:
        ids = None if among is None else models.HasIdCondition(has_id=self._ids(lot.number, among.tolist()))
        only = models.Filter(must=[_is("lot", self._lot_name(lot.number)), *([ids] if ids else [])])
        codes = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        params = models.SearchParams(
            exact=exact,
            hnsw_ef=min(EF_MAX, max(self._options.ef, count)),
            quantization=codes if QUANTIZATIONS[self._options.quantization] else None,
        )  # the client's own mode warns of them
        found = await self._run(
            lambda db: db.query_points(
                self._points,
                query=vector.tolist(),
                using=NAME,
                query_filter=only,
                search_params=None if self._server.local else params,
                limit=count,
                with_payload=["slot"],
            )
        )
        slots = np.fromiter((point.payload["slot"] for point in found.points if point.payload), np.int64)
        scores = np.fromiter((point.score for point in found.points), np.float32)
        if not len(slots) and lot.filled > lot.holes and await self._noted(lot.number) is None:
            raise _Gone
        return slots, scores, len(slots) < count

    async def _lot(self, scope: Scope, extent: Extent) -> Lot | None:
        """Return how far the group is filled, so far that the rest can be held in memory; None: all of it can."""
        if extent.slots <= self._options.small:
            return None
        lot = self._known(scope, extent) or await self._met(scope, extent)
        if extent.slots - (lot.filled if lot else 0) > self._options.small:
            lot = await self._filled(scope, extent)
        return lot

    def _known(self, scope: Scope, extent: Extent) -> Lot | None:
        lot = self._lots.get(scope.realm)
        return lot if lot and lot.number == extent.group else None

    async def _met(self, scope: Scope, extent: Extent) -> Lot | None:
        """Return how far another process, or an earlier one, has filled the group, if that is sound; or clear it."""
        lot = await self._noted(extent.group)
        if lot and not await self._is_sound(lot, scope):
            await self._remove(lot.number)
            lot = None
        if lot:
            self._lots[scope.realm] = lot
        return lot

    async def _is_sound(self, lot: Lot, scope: Scope) -> bool:
        """Compare points spread over the group, and the last, with the store's vectors.

        How far the group reaches is asked after the note was read: since the question began, others may have written.
        """
        extent = await self._store.extent(scope, self._model)
        if extent.group == lot.number and (lot.filled > extent.slots or lot.holes > extent.holes):
            return False
        if not lot.filled:
            return True
        spread = np.unique(np.linspace(0, lot.filled - 1, SAMPLE + 1).astype(np.int64)).tolist()
        owned = await self._store.owners(everything(scope), self._model, spread)
        found = await self._vectors(lot.number, [slot for slot, _, _ in owned])
        return all(found.get(slot) == half for slot, _, half in owned)

    async def _vectors(self, number: int, slots: Sequence[int]) -> dict[int, bytes]:
        """Return the vectors at these slots, as the store has them."""
        ids = self._ids(number, slots)
        found = await self._run(lambda db: db.retrieve(self._points, ids, with_payload=["slot"], with_vectors=[NAME]))
        return {
            point.payload["slot"]: np.array(point.vector[NAME], "<f2").tobytes()
            for point in found
            if point.payload and isinstance(point.vector, dict)
        }

    # -- writing -------------------------------------------------------------------------------------------------

    async def _filled(self, scope: Scope, extent: Extent) -> Lot:
        async with self._locks.setdefault(scope.realm, asyncio.Lock()):
            lot = self._known(scope, extent) or await self._met(scope, extent)
            lot = lot or Lot(extent.group, 0, extent.holes)
            while lot.filled < extent.slots:
                lot = self._lots[scope.realm] = await self._fill_block(lot, scope, extent)
            return lot

    async def _fill_block(self, lot: Lot, scope: Scope, extent: Extent) -> Lot:
        """Write the next of the points that are lacking."""
        before = await self._store.extent(scope, self._model)
        found = await self._store.vectors(scope, self._model, start=lot.filled, limit=BLOCK)
        found = [(slot, half) for slot, half in found if slot < extent.slots]
        reach = found[-1][0] + 1 if len(found) == BLOCK else extent.slots
        if found:
            points = await asyncio.to_thread(self._made, lot.number, found)
            await self._run(lambda db: db.upsert(self._points, points, wait=True))
        # What was erased while this was written: whoever erased it may have looked before it was here.
        await self._delete(lot.number, await self._store.holes(scope, self._model, after=before.holes))
        return await self._note(dataclasses.replace(lot, filled=reach), scope)

    def _made(self, number: int, found: Sequence[tuple[int, bytes]]) -> list[models.PointStruct]:
        vectors = decoded([half for _, half in found], self._dimension)
        slots = [slot for slot, _ in found]
        lot, store = self._lot_name(number), self._store.identity
        return [
            models.PointStruct(id=id, vector={NAME: vector}, payload={"lot": lot, "store": store, "slot": slot})
            for id, vector, slot in zip(self._ids(number, slots), vectors.tolist(), slots, strict=True)
        ]

    async def _delete(self, number: int, slots: Sequence[int]) -> None:
        for start in range(0, len(slots), BLOCK):
            gone = models.PointIdsList(points=self._ids(number, slots[start : start + BLOCK]))
            await self._run(lambda db, gone=gone: db.delete(self._points, gone, wait=True))  # type: ignore[misc]

    async def _remove(self, number: int) -> None:
        """Take away the points of a group, and its note."""
        only = models.FilterSelector(filter=models.Filter(must=[_is("lot", self._lot_name(number))]))
        await self._run(lambda db: db.delete(self._points, only, wait=True))
        note = models.PointIdsList(points=[_id(self._lot_name(number))])
        await self._run(lambda db: db.delete(self._notes, note, wait=True))

    async def _remove_of(self, scope: Scope, *, but: int | None = None) -> None:
        """Take away every group of this realm and model; of dropped vectors, the group is another than of those now."""
        whose = models.Filter(must=[_is("whose", self._whose(scope))])
        found, _ = await self._run(lambda db: db.scroll(self._notes, whose, limit=BLOCK, with_payload=["number"]))
        for number in [note.payload["number"] for note in found if note.payload]:
            if number != but:
                await self._remove(number)

    async def _note(self, lot: Lot, scope: Scope) -> Lot:
        name = self._lot_name(lot.number)
        payload = {"whose": self._whose(scope), "store": self._store.identity, **dataclasses.asdict(lot)}
        point = models.PointStruct(id=_id(name), vector={}, payload=payload)
        await self._run(lambda db: db.upsert(self._notes, [point], wait=True))
        return lot

    async def _noted(self, number: int) -> Lot | None:
        found = await self._run(lambda db: db.retrieve(self._notes, [_id(self._lot_name(number))], with_payload=True))
        payload = found[0].payload if found else None
        return Lot(number, payload["filled"], payload["holes"]) if payload else None

    # -- upkeep --------------------------------------------------------------------------------------------------

    async def catch_up(self, scope: Scope) -> None:
        try:
            await self._caught_up(scope)
        except _Gone:
            self._forget_places()
            await self._caught_up(scope)

    async def _caught_up(self, scope: Scope) -> None:
        extent = await self._store.extent(scope, self._model)
        if extent.slots <= self._options.small:
            self._lots.pop(scope.realm, None)
            await self._remove_of(scope)
        else:
            await self._remove_of(scope, but=extent.group)
            lot = await self._emptied(await self._filled(scope, extent), scope, extent)
            self._lots[scope.realm] = lot
        if scope in self._held:
            known = self._known(scope, extent)
            await self._held.vectors(scope, extent, known.filled if known else 0)
        if not self._swept:
            await self._sweep()

    async def _emptied(self, lot: Lot, scope: Scope, extent: Extent) -> Lot:
        """Take away the points of what was erased: those not noted to be gone, or all where one too many is here."""
        if lot.holes < extent.holes:
            gone = await self._store.holes(scope, self._model, after=lot.holes)
            await self._delete(lot.number, gone)
            lot = await self._note(dataclasses.replace(lot, holes=lot.holes + len(gone)), scope)
            self._matches.forget(extent.group)
            self._swept = False
        only = models.Filter(must=[_is("lot", self._lot_name(lot.number))])
        counted = await self._run(lambda db: db.count(self._points, count_filter=only, exact=True))
        if counted.count > lot.filled - lot.holes:
            await self._delete(lot.number, await self._store.holes(scope, self._model, after=0))
        return lot

    async def check(self) -> list[str]:
        complaints = list[str]()
        for scope in await self._store.realms():
            extent = await self._store.extent(scope, self._model)
            if extent.slots > self._options.small:
                complaints += await self._check_group(scope, extent)
        left = await self._left_over()
        return complaints + [f"{name} holds points of a model that is gone: {REMEDY}" for name in left]

    async def _check_group(self, scope: Scope, extent: Extent) -> list[str]:
        """Compare every point with the store's vector."""
        lot = await self._noted(extent.group)
        if lot is None:
            return []  # it is made when it is first needed
        name = f"{self._points} ({self._lot_name(lot.number)})"
        extent = await self._store.extent(scope, self._model)  # since then, others may have written both
        if lot.filled > extent.slots or lot.holes > extent.holes:
            return [f"{name} is not of this store as it is: {REMEDY}"]
        wrong, left = await differing(
            self._store, self._model, scope, lot.filled, lambda span: self._vectors(lot.number, span)
        )
        complaints = [f"{name}: {wrong} of {lot.filled} points differ from the store's vectors"] if wrong else []
        complaints += [f"{name}: {left} points of erased vectors are not taken away"] if left else []
        return [f"{complaint}: {REMEDY}" for complaint in complaints]

    async def rebuild(self) -> int:
        self._matches.clear()
        self._held.clear()
        self._forget_places()
        count = await made_again(self._store, self._model, self._options.small, self._remove_of, self.catch_up)
        await self._sweep()
        return count

    async def _sweep(self) -> None:
        """Take away the points of models that the store no longer has, and collections that are empty then."""
        ours = models.Filter(must=[_is("store", self._store.identity)])
        for name in await self._left_over():
            await self._run(lambda db, name=name: db.delete(name, models.FilterSelector(filter=ours), wait=True))  # type: ignore[misc]
            left = await self._run(lambda db, name=name: db.count(name, exact=True))  # type: ignore[misc]
            if not left.count:
                await self._run(lambda db, name=name: db.delete_collection(name))  # type: ignore[misc]
        self._swept = True

    async def _left_over(self) -> list[str]:
        """Return the collections in which this store has points of models that it no longer has."""
        known = {_digest(model)[:16] for model in (*await self._store.models(), self._model)}
        there = await self._run(lambda db: db.get_collections())
        ours = models.Filter(must=[_is("store", self._store.identity)])
        found = list[str]()
        for name in sorted(each.name for each in there.collections):
            prefix, *parts = name.rsplit("-", 2)
            if prefix == self._options.prefix and len(parts) == 2 and parts[0] not in known:
                held = await self._run(lambda db, name=name: db.count(name, count_filter=ours, exact=True))  # type: ignore[misc]
                found += [name] if held.count else []
        return found

    def _forget_places(self) -> None:
        self._lots.clear()
        self._ready = False

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _let_go(self._server, client)
        self._lots.clear()
        self._held.clear()
        self._matches.clear()

    # -- inside --------------------------------------------------------------------------------------------------

    def _lot_name(self, number: int) -> str:
        return f"{self._store.identity}/{number}/{_digest(self._model)[:16]}"

    def _whose(self, scope: Scope) -> str:
        return _digest("\0".join((self._store.identity, self._model, *scope.realm)))

    def _ids(self, number: int, slots: Iterable[int]) -> list[Any]:
        """Return the ids of the points at these slots."""
        name = self._lot_name(number)
        return [_id(f"{name}/{slot}") for slot in slots]

    async def _run(self, work: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        """Do the work; raise errors of ours, or _Gone where a collection is not there any more."""
        async with _translated(self._server):
            client = self._client or await self._opened()
            if not self._ready:
                await self._prepare(client)
            return await work(client)

    async def _opened(self) -> AsyncQdrantClient:
        async with self._opening:
            if self._client is None:
                self._client = await _taken(self._server)
            return self._client

    async def _prepare(self, client: AsyncQdrantClient) -> None:
        async with self._opening:
            if self._ready:
                return
            await _made(client, self._notes, vectors_config={})
            vector = models.VectorParams(
                size=self._dimension,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                on_disk=True if self._options.quantization != "none" else None,
            )
            await _made(
                client,
                self._points,
                vectors_config={NAME: vector},
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),  # a graph for each group, none over all
                quantization_config=QUANTIZATIONS[self._options.quantization],
            )
            if not self._server.local:
                tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
                await client.create_payload_index(self._points, "lot", tenant, wait=True)
                for place, key in ((self._points, "store"), (self._notes, "whose")):
                    await client.create_payload_index(place, key, models.PayloadSchemaType.KEYWORD, wait=True)
            self._ready = True


async def _made(client: AsyncQdrantClient, name: str, **how: Any) -> None:
    """Make a collection, unless it is there, or another process makes it now."""
    if await client.collection_exists(name):
        return
    try:
        await client.create_collection(name, **how)
    except (UnexpectedResponse, ValueError):
        if not await client.collection_exists(name):
            raise


def _is(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _id(name: str) -> str:
    return str(uuid.UUID(_digest(name)))


# -- servers and folders -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """Where the points are: a server's URL, a folder, or nowhere but in memory."""

    url: str = ""
    folder: str = ""
    api_key_file: str = ""
    ca_file: str = ""

    @property
    def local(self) -> bool:
        return not self.url

    def __str__(self) -> str:
        return self.url or self.folder or "memory"

    def connected(self) -> AsyncQdrantClient:
        if self.local:
            return AsyncQdrantClient(path=self.folder) if self.folder else AsyncQdrantClient(":memory:")
        key = Path(self.api_key_file).read_text("utf-8").strip() if self.api_key_file else None
        more: dict[str, Any] = {"verify": self.ca_file} if self.ca_file else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # as the URL says
            return AsyncQdrantClient(url=self.url, api_key=key, timeout=TIMEOUT_S, check_compatibility=False, **more)


_SHARED: dict[str, tuple[AsyncQdrantClient, int]] = {}  # folders that are open: only one client may have each


async def _taken(server: Server) -> AsyncQdrantClient:
    if not server.folder:
        return await asyncio.to_thread(server.connected)
    folder = str(Path(server.folder).absolute())
    client, users = _SHARED.get(folder, (None, 0))
    client = client or server.connected()
    _SHARED[folder] = client, users + 1
    return client


async def _let_go(server: Server, client: AsyncQdrantClient) -> None:
    if server.folder:
        folder = str(Path(server.folder).absolute())
        _, users = _SHARED.pop(folder)
        if users > 1:
            _SHARED[folder] = client, users - 1
            return
    await client.close()


@contextlib.asynccontextmanager
async def _translated(server: Server) -> AsyncIterator[None]:
    try:
        yield
    except UnexpectedResponse as error:
        said = f"{error.status_code} {error.reason_phrase}"
        if error.status_code == 404:
            raise _Gone from error
        if error.status_code in (401, 403):
            raise Unavailable(f"Qdrant at {server} does not accept the key: see api_key_file ({said})") from error
        if error.status_code == 507 or b"space left" in (error.content or b""):
            raise Full(f"the disk of Qdrant at {server} is full: {said}") from error
        raise Unavailable(f"Qdrant at {server} did not do as it was asked: {said}") from error
    except (ResponseHandlingException, ApiException, OSError) as error:
        raise Unavailable(f"Qdrant at {server} did not answer: {error}") from error
    except RuntimeError as error:  # of the client's own mode: another process has the folder
        if "already accessed" not in str(error):
            raise
        raise Unavailable(f"another process has {server} open: for several, run a server") from error
    except ValueError as error:  # of the client's own mode
        if "not found" not in str(error):
            raise
        raise _Gone from error


def _parsed(url: str) -> tuple[Server, Options]:
    place, _, query = url.partition("?")
    rest = place.removeprefix("qdrant:")
    given = dict(parse_qsl(query, keep_blank_values=True))
    numbers = {name: given.pop(name, str(default)) for name, default in NUMBERS.items()}
    quantization = given.pop("quantization", "none")
    known = {"api_key_file", "ca_file", "tls"} if rest.startswith("//") and not rest.startswith("///") else set()
    if not all(number.isdecimal() for number in numbers.values()) or not given.keys() <= known:
        raise Invalid(f"{url!r}: {WRITE}, with {', '.join(NUMBERS)}, quantization, and api_key_file, ca_file, tls")
    if quantization not in QUANTIZATIONS:
        raise Invalid(f"quantization is one of {', '.join(QUANTIZATIONS)}")
    numbers_of = {name: int(value) for name, value in numbers.items()}
    server, prefix = _server(rest, given)
    return server, Options(**numbers_of, quantization=quantization, prefix=prefix or PREFIX)


WRITE = "write qdrant://host:6333/simonides, qdrant:///folder or qdrant::memory:"


def _server(rest: str, given: dict[str, str]) -> tuple[Server, str]:
    """Return where the points are, and what the names of collections begin with."""
    if rest == ":memory:":
        return Server(), ""
    if rest.startswith("///") and rest != "///":
        return Server(folder=str(Path(rest[3:]).expanduser())), ""
    try:
        parts = urlsplit(f"qdrant:{rest}")
        port = parts.port or 6333
    except ValueError:
        raise Invalid(WRITE) from None
    prefix = parts.path.strip("/")
    if not parts.hostname or parts.username or "/" in prefix:
        raise Invalid(f"{WRITE}; a key is in the file that api_key_file names")
    tls = given.get("tls", "off" if _is_here(parts.hostname) else "on")
    if tls not in ("on", "off"):
        raise Invalid("tls is on or off")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    files = {name: given.get(name, "") for name in ("api_key_file", "ca_file")}
    return Server(f"http{'s' if tls == 'on' else ''}://{host}:{port}", **files), prefix


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


open = QdrantIndex
