"""`RemoteMemory`: a memory behind a server, with the methods of `Memory`. `AsyncRemoteMemory` is the core.

    from simonides.remote import RemoteMemory

    memory = RemoteMemory("http://127.0.0.1:40020", key="sim_…")

Every write bears a mark of its own, so a call that is tried again after a lost connection is still one write. Errors
are those of the library.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import date, datetime, time, tzinfo
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast
from urllib.parse import quote

import httpx

from . import exports
from .api import OPERATIONS, PREFIX, Operation
from .arguments import Given, Moment, Which, Whose, place_of, zone_of
from .calls import Calls, operation
from .drafts import Content
from .errors import Conflict, Invalid, Limited, SimonidesError, Unavailable
from .exchange import Versions
from .follow import Progress
from .forgetting import Preview
from .happened import Changes, Position
from .pruning import DAYS, IMPORTANT, Proposal
from .query import Place
from .recall import Context, Hits, Missing
from .record import Body, Link, Record, new_id
from .store import Certificate, Change
from .sync import Waiting, waiting
from .wire import (
    Json,
    certificate_of,
    change_of,
    context_of,
    hits_of,
    missing_of,
    preview_of,
    proposal_of,
    record_of,
)

PAGE = 1000  # results that one request asks for
TRIES = 4
WAIT_S = (0.2, 1.0, 3.0)  # before a second, third and fourth try, unless the server says when
HERE = frozenset({"localhost", "127.0.0.1", "::1"})  # where nobody listens at once, nobody does
LOOK_S = 0.1  # between two questions whether it is indexed
CHUNK = 2000  # records in one import


class AsyncRemoteMemory:
    """A memory behind a server. `key` is the secret that `simonides keys create` showed.

    `user`, `agent`, `session`, `space` and `tenant` go with every call that names no other. `zone` is the caller's IANA
    time zone, for dates without a time; without it, they are days of the server's zone. `timeout` is in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        space: str | None = None,
        tenant: str | None = None,
        zone: str | None = None,
        timeout: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not isinstance(url, str) or not re.match(r"https?://[^/\s]", url):
            raise Invalid(f"{url!r} is no address of a server: write one like http://127.0.0.1:40020")
        levels = {"user": user, "agent": agent, "session": session, "space": space, "tenant": tenant}
        self._whose = {name: value for name, value in levels.items() if value is not None}
        self._zone: tzinfo | None = zone_of(zone)
        self._calls = Calls()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/").removesuffix(PREFIX),
            headers=headers,
            timeout=timeout,
            transport=transport,
            follow_redirects=False,
        )

    @property
    def behind(self) -> str | None:
        """Always None here: ask `health` of the server why something is not indexed yet."""
        return None

    # -- remember ------------------------------------------------------------------------------------------------

    @operation
    async def remember(
        self,
        content: Content | list[Content] | tuple[Content, ...],
        *,
        role: str | None = None,
        name: str | None = None,
        at: Moment | None = None,
        id: str | None = None,
        title: str | None = None,
        part_of: str | None = None,
        links: Sequence[Link] = (),
        once: str | None = None,
        **given: Unpack[Given],
    ) -> Any:
        """Keep a text, a message or a list of them, as `Memory.remember` does."""
        many = isinstance(content, list | tuple)
        items = [_content(each) for each in content] if isinstance(content, list | tuple) else _content(content)
        more = {"role": role, "name": name, "at": at, "id": id, "title": title, "part_of": part_of, **given}
        said = [{"role": link.role, "target": link.target} for link in links] or None
        found = await self._ask("remember", {"content": items, **more, "links": said}, once=once)
        kept = [record_of(each) for each in found["results"]]
        return kept if many else kept[0]

    @operation
    async def keep(self, records: Iterable[Record], *, progress: Progress | None = None) -> list[Record]:
        """Keep records that were made elsewhere; return those that are new there."""
        fresh: list[Record] = []
        for chunk in _chunks(records):
            said = await self._send(chunk, ids=True)
            new = set(said["ids"])
            fresh += [record for record in chunk if record.id in new]
            if progress:
                progress(len(chunk))
        return fresh

    # -- recall --------------------------------------------------------------------------------------------------

    @operation
    async def recall(
        self,
        text: str,
        *,
        limit: int = 10,
        explain: bool = False,
        effort: str = "medium",
        min_relevance: float = 0.0,
        **which: Unpack[Which],
    ) -> Hits:
        """Return what is most worth having in mind for this text, best first."""
        more = {"limit": limit, "explain": explain, "effort": effort, "min_relevance": min_relevance, **which}
        return hits_of(await self._ask("recall", {"text": text, **more}))

    @operation
    async def explain_missing(
        self,
        id: str,
        text: str,
        *,
        limit: int = 10,
        effort: str = "medium",
        min_relevance: float = 0.0,
        **which: Unpack[Which],
    ) -> Missing:
        """Return why `recall` with these arguments does not return this record."""
        more = {"limit": limit, "effort": effort, "min_relevance": min_relevance, **which}
        return missing_of(await self._ask("explain_missing", {"id": id, "text": text, **more}))

    @operation
    async def context(
        self, text: str, *, budget: int = 1500, limit: int = 50, effort: str = "medium", **which: Unpack[Which]
    ) -> Context:
        """Return what to have in mind for this text, ready for a prompt, within a budget of tokens."""
        more = {"budget": budget, "limit": limit, "effort": effort, **which}
        return context_of(await self._ask("context", {"text": text, **more}))

    # -- look ----------------------------------------------------------------------------------------------------

    @operation
    async def get(self, id: str, **whose: Unpack[Whose]) -> Record:
        """Return the latest version of a record."""
        return record_of(await self._ask("get", {"id": id, **whose}))

    @operation
    async def find(
        self,
        *,
        limit: int = 100,
        newest: bool = True,
        after: Record | Place | str | None = None,
        **which: Unpack[Which],
    ) -> list[Record]:
        """Return the records that match, newest first or by id. `after` is what the last page ended with."""
        found, place = list[Record](), await self._place(after, which)
        while len(found) < limit or not found:
            size = min(limit - len(found), PAGE)
            more = {"limit": size, "sort": "newest" if newest else "id", "after": place, **which}
            said = await self._ask("find", more)
            found += [record_of(each) for each in said["results"]]
            if (place := said["next"]) is None or len(found) >= limit:
                break
        return found

    @operation
    async def count(self, **which: Unpack[Which]) -> int:
        """Return how many records match."""
        return int((await self._ask("count", dict(which)))["count"])

    @operation
    async def conversations(
        self, *, limit: int = 100, after: Record | Place | str | None = None, **which: Unpack[Which]
    ) -> list[Record]:
        """Return the conversations that match, newest first."""
        kinds: Any = {**which, "kinds": ["conversation"]}
        return await self.find(limit=limit, after=after, **kinds)

    @operation
    async def messages(self, id: str, *, limit: int = 1000, **whose: Unpack[Whose]) -> list[Record]:
        """Return what is part of a conversation or document, in order."""
        said = await self._ask("messages", {"id": id, "limit": limit, **whose})
        return [record_of(each) for each in said["results"]]

    @operation
    async def history(self, id: str, **whose: Unpack[Whose]) -> list[Record]:
        """Return every version of a record, the first one first."""
        said = await self._ask("history", {"id": id, **whose})
        return [record_of(each) for each in said["results"]]

    @operation
    async def changes(self, *, after: int = 0, limit: int = 1000, **whose: Unpack[Whose]) -> Changes:
        """Return the lines of the log behind `after` that this scope sees."""
        said = await self._ask("changes", {"after": after, "limit": limit, **whose})
        found = Changes(change_of(each) for each in said["results"])
        found.next = said["next"]
        return found

    async def events(self, *, after: int | None = None, **whose: Unpack[Whose]) -> AsyncIterator[Change]:
        """Yield what happens to what this scope sees, as it happens, without end; from `after` on, or from now."""
        asked = self._plain({"after": after, **whose})
        async with self._client.stream("GET", f"{PREFIX}/events", params=asked, timeout=None) as response:
            await _check(response)
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield change_of(json.loads(line.removeprefix("data:")))

    # -- correct -------------------------------------------------------------------------------------------------

    @operation
    async def revise(
        self,
        id: str,
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
        version: int | None = None,
        **whose: Unpack[Whose],
    ) -> Record:
        """Write the next version of a record and return it; what is not named stays."""
        changes = {
            "text": text, "labels": labels, "folder": folder, "importance": importance, "pinned": pinned,
            "archived": archived, "metadata": metadata, "at": at, "ends": ends, "version": version,
        }  # fmt: skip
        return record_of((await self._ask("revise", {"id": id, **changes, **whose}))["record"])

    @operation
    async def organise(
        self,
        id: str,
        *,
        labels: str | Iterable[str] | None = None,
        folder: str | None = None,
        pinned: bool | None = None,
        archived: bool | None = None,
        **whose: Unpack[Whose],
    ) -> list[Record]:
        """Label, file, pin or archive a record and everything that is part of it."""
        changes = {"labels": labels, "folder": folder, "pinned": pinned, "archived": archived}
        said = await self._ask("organise", {"id": id, **changes, **whose})
        return [record_of(each) for each in said["results"]]

    @operation
    async def propose(
        self,
        *,
        threshold_days: float = DAYS,
        importance_threshold: float = IMPORTANT,
        limit: int = 100,
        **which: Unpack[Which],
    ) -> list[Proposal]:
        """Return conversations and notes that may be archived, what most speaks for first, each with why."""
        asked = {
            "threshold_days": threshold_days, "importance_threshold": importance_threshold, "limit": limit, **which,
        }  # fmt: skip
        return [proposal_of(each) for each in (await self._ask("propose_prune", asked))["results"]]

    @operation
    async def archive(self, ids: str | Iterable[str], *, dry_run: bool = False, **whose: Unpack[Whose]) -> list[Record]:
        """Archive records with everything that is part of them, together or not at all."""
        named = [ids] if isinstance(ids, str) else list(ids)
        said = await self._ask("prune", {"ids": named, "dry_run": dry_run, **whose})
        return [record_of(each) for each in said["results"]]

    @operation
    async def supersede(
        self, id: str, content: Content, *, at: Moment | None = None, once: str | None = None, **whose: Unpack[Whose]
    ) -> Record:
        """Keep what is true instead from `at` (default: now) on, and end the old record there; return the new one."""
        said = await self._ask("supersede", {"id": id, "content": _content(content), "at": at, **whose}, once=once)
        return record_of(said["record"])

    @operation
    async def retract(self, id: str, **whose: Unpack[Whose]) -> Record:
        """Say that it was never true."""
        return record_of((await self._ask("retract", {"id": id, **whose}))["record"])

    # -- forget --------------------------------------------------------------------------------------------------

    @operation
    async def forget(
        self, *ids: str, everything: bool = False, dry_run: bool = False, **which: Unpack[Which]
    ) -> Preview | Certificate:
        """Erase what matches, and return the certificate; with `dry_run`, what would go."""
        asked = {"ids": list(ids) or None, "everything": everything, "dry_run": dry_run, **which}
        said = await self._ask("forget", asked)
        return preview_of(said["preview"]) if said["preview"] else certificate_of(said["certificate"])

    @operation
    async def certificates(self, **whose: Unpack[Whose]) -> list[Certificate]:
        """Return the certificates of what was erased, the oldest first."""
        found, after = list[Certificate](), None
        while True:
            page = await self._ask("certificates", {**whose, "limit": PAGE, "after": after})
            found += map(certificate_of, page["results"])
            if (after := page.get("next")) is None:
                return found

    @operation
    async def versions(self, *, limit: int = 500, after: Place | str | None = None, **which: Unpack[Which]) -> Versions:
        """Return every version of the next records that match, by id."""
        said = await self._ask("versions", {"limit": limit, "after": str(after) if after else None, **which})
        found = Versions(record_of(each) for each in said["results"])
        found.next = Place.read(said["next"]) if said["next"] else None
        return found

    # -- upkeep --------------------------------------------------------------------------------------------------

    @operation
    async def export(self, path: str | Path, *, progress: Progress | None = None, **which: Unpack[Which]) -> Path:
        """Write every version of the records that match to a file here (.jsonl); return its path."""
        target, partial = Path(path), Path(f"{path}.partial")
        asked = self._plain(self._query(which))
        async with self._client.stream("GET", f"{PREFIX}/export", params=asked, timeout=None) as response:
            await _check(response)
            with open(partial, "wb", opener=_private) as file:
                async for block in response.aiter_bytes():
                    await asyncio.to_thread(file.write, block)
                    if progress:
                        progress(block.count(b"\n"))
        partial.replace(target)
        return target

    @operation
    async def restore(self, records: Iterable[Record], *, progress: Progress | None = None) -> int:
        """Write versions with the clocks they had, as read from an export; return how many were new there."""
        written = 0
        for chunk in _chunks(records):
            written += (await self._send(chunk))["new"]
            if progress:
                progress(len(chunk))
        return written

    @operation
    async def stats(self, **whose: Unpack[Whose]) -> dict[str, Any]:
        """Return how much is remembered in this scope."""
        return await self._ask("stats", dict(whose))

    @operation
    async def doctor(self) -> list[str]:
        """Look the whole store over and return the complaints; it takes the key of whoever runs the server."""
        return list((await self._ask("doctor", {}))["complaints"])

    @operation
    async def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make the words and the vector index again from the records; return how many vectors there are."""
        task = await self._ask("rebuild", {})
        while task["status"] == "running":
            await asyncio.sleep(LOOK_S)
            task = await self._ask("get_task", {"id": task["id"]})
        if task["status"] == "failed":
            raise Unavailable(task["error"])
        return int(task["result"]["vectors"])

    @operation
    async def settle(self, *, progress: Progress | None = None) -> None:
        """Wait until everything remembered so far is indexed."""
        while not (said := await self._ask("stats", {}))["indexed"] and said["behind"] is None:
            await asyncio.sleep(LOOK_S)

    @operation
    async def position(self) -> Position:
        """Return how far the log goes, and up to where it can be found by meaning."""
        said = await self._ask("position", {})
        return Position(said["written"], said["indexed"])

    @operation
    async def capabilities(self) -> dict[str, Any]:
        """Return what works there, and what is a fallback."""
        return await self._ask("capabilities", {})

    @operation
    async def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call any operation of the server by its name, and return what it answers."""
        if name not in OPERATIONS:
            raise Invalid(f"there is no operation {name!r}; there are: {', '.join(OPERATIONS)}")
        return await self._ask(name, arguments)

    async def open(self) -> Self:
        return self

    async def close(self) -> None:
        """Finish the calls under way and close the connections. Closing twice is fine."""
        if not self._calls.closed:
            self._calls.closed = True
            await self._calls.ended()
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _ask(self, name: str, asked: Mapping[str, Any], *, once: str | None = None) -> Json:
        """Ask for one row of the table."""
        row = OPERATIONS[name]
        said = self._plain(self._query(asked) if row.method in ("GET", "DELETE") else asked, row)
        path = PREFIX + re.sub(r"{(\w+)}", lambda found: _in_path(said.pop(found[1], "")), row.path)
        headers = {} if row.reads else {"Idempotency-Key": once or new_id()}
        if row.method in ("GET", "DELETE"):
            return cast(Json, (await self._tried(row.method, path, params=said, headers=headers)).json())
        return cast(Json, (await self._tried(row.method, path, json=said, headers=headers)).json())

    async def _tried(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send it, and again where it may yet succeed: every write bears its mark, so that it is done once."""
        for wait in (*WAIT_S, None):
            try:
                response = await self._client.request(method, path, **request)
                await _check(response)
                return response
            except (UnicodeEncodeError, TypeError, ValueError) as error:
                raise Invalid(f"this cannot be sent: {error}") from None
            except httpx.TransportError as error:
                refused = isinstance(error, httpx.ConnectError) and self._client.base_url.host in HERE
                if wait is None or (refused and wait != WAIT_S[0]) or isinstance(error, httpx.UnsupportedProtocol):
                    raise Unavailable(
                        f"{self._client.base_url} does not answer: {error}. Does a server run there? "
                        "`simonides serve` starts one"
                    ) from None
            except (Limited, Unavailable) as error:
                if wait is None:
                    raise
                wait = max(wait, getattr(error, "retry_after", 0.0))
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _send(self, records: Sequence[Record], *, ids: bool = False) -> Json:
        """Send records as lines of an export, each realm by itself."""
        total: Json = {"new": 0, "ids": []}
        for (tenant, space), mine in groupby(records, lambda record: record.scope.realm):
            lines = b"".join([exports.header() + b"\n", *(exports.line(record) + b"\n" for record in mine)])
            asked = {"tenant": tenant, "space": space, "ids": ids}
            response = await self._tried("POST", f"{PREFIX}/import", params=_spelled(asked), content=lines)
            said = response.json()
            if said["problems"]:
                raise Conflict("; ".join(said["problems"][:3]))
            total = {"new": total["new"] + said["new"], "ids": total["ids"] + said["ids"]}
        return total

    async def _place(self, after: Record | Place | str | None, which: Which) -> str | None:
        place = place_of(after)
        if isinstance(place, str):
            try:
                return str(Place.read(place))
            except Invalid:
                whose = {name: which[name] for name in Whose.__annotations__ if name in which}  # type: ignore[literal-required]
                return str(Place.of(await self.get(place, **whose)))
        return str(place) if place else None

    def _query(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(asked)
        if found.get("metadata") is not None:
            found["metadata"] = json.dumps(found["metadata"])
        return found

    def _plain(self, asked: Mapping[str, Any], row: Operation | None = None) -> dict[str, Any]:
        """Return what was asked as JSON takes it, with the levels of this memory where none were named."""
        levels = self._whose if row is None else {k: v for k, v in self._whose.items() if k in row.takes.model_fields}
        found = {**levels, **{name: value for name, value in asked.items() if value is not None}}
        plain = {name: self._value(value) for name, value in found.items()}
        for name in ("kinds", "labels", "sources", "outside"):
            if isinstance(plain.get(name), str):
                plain[name] = [plain[name]]
        return _spelled(plain) if row is None or row.method in ("GET", "DELETE") else plain

    def _value(self, value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, date):
            midnight = datetime.combine(value, time(), self._zone) if self._zone else value
            return midnight.isoformat()
        if isinstance(value, Mapping):
            return {name: self._value(each) for name, each in value.items()}
        if isinstance(value, Iterable) and not isinstance(value, str | bytes):
            return [self._value(each) for each in value]
        return value


def _content(content: Any) -> Any:
    """Return what is to be remembered as the server takes it."""
    if isinstance(content, Body):
        return {"kind": type(content).__name__.lower(), "body": dataclasses.asdict(content)}
    if isinstance(content, Mapping):
        spelled = {"text": "content", "timestamp": "at", "created_at": "at", "speaker": "name"}
        said = {spelled.get(name, name): value for name, value in content.items() if value is not None}
        return {name: value.isoformat() if isinstance(value, date) else value for name, value in said.items()}
    return content


def _in_path(value: Any) -> str:
    if not isinstance(value, str) or not value or value in (".", ".."):
        raise Invalid(f"id must be a string, not {value!r}")
    return quote(value, safe="")


def _spelled(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as a query string says them; it cannot say an empty list."""
    for name, value in asked.items():
        if value == []:
            raise Invalid(f"{name} is empty: leave it out where it does not matter")
    return {
        name: ("true" if value else "false") if isinstance(value, bool) else value
        for name, value in asked.items()
        if value is not None
    }


def _chunks(records: Iterable[Record]) -> Iterable[list[Record]]:
    source = iter(records)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # what was said is its owner's alone


async def _check(response: httpx.Response) -> None:
    """Raise the error that the answer tells of."""
    if response.status_code < 400:
        return
    await response.aread()
    try:
        said = response.json()
        code, detail = said["code"], said["detail"]
    except (ValueError, KeyError, TypeError):
        code, detail = "", f"the server answered {response.status_code} {response.reason_phrase}"
    kind = _KINDS.get(code) or (Unavailable if response.status_code >= 500 else Invalid)
    if kind is Limited:
        raise Limited(detail, retry_after=float(response.headers.get("retry-after", 1)))
    raise kind(detail)


def _tree(kind: type[SimonidesError]) -> list[type[SimonidesError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _tree(below))]


_KINDS = {kind.code: kind for kind in _tree(SimonidesError)}


class RemoteMemory(Waiting[AsyncRemoteMemory]):
    """A memory behind a server, for code that does not await. See `AsyncRemoteMemory`, whose methods these are."""

    remember = waiting(AsyncRemoteMemory.remember)
    keep = waiting(AsyncRemoteMemory.keep)
    recall = waiting(AsyncRemoteMemory.recall)
    explain_missing = waiting(AsyncRemoteMemory.explain_missing)
    context = waiting(AsyncRemoteMemory.context)
    get = waiting(AsyncRemoteMemory.get)
    find = waiting(AsyncRemoteMemory.find)
    count = waiting(AsyncRemoteMemory.count)
    conversations = waiting(AsyncRemoteMemory.conversations)
    messages = waiting(AsyncRemoteMemory.messages)
    changes = waiting(AsyncRemoteMemory.changes)
    position = waiting(AsyncRemoteMemory.position)
    history = waiting(AsyncRemoteMemory.history)
    revise = waiting(AsyncRemoteMemory.revise)
    organise = waiting(AsyncRemoteMemory.organise)
    propose = waiting(AsyncRemoteMemory.propose)
    archive = waiting(AsyncRemoteMemory.archive)
    supersede = waiting(AsyncRemoteMemory.supersede)
    retract = waiting(AsyncRemoteMemory.retract)
    forget = waiting(AsyncRemoteMemory.forget)
    certificates = waiting(AsyncRemoteMemory.certificates)
    export = waiting(AsyncRemoteMemory.export)
    versions = waiting(AsyncRemoteMemory.versions)
    restore = waiting(AsyncRemoteMemory.restore)
    stats = waiting(AsyncRemoteMemory.stats)
    doctor = waiting(AsyncRemoteMemory.doctor)
    rebuild = waiting(AsyncRemoteMemory.rebuild)
    settle = waiting(AsyncRemoteMemory.settle)
    capabilities = waiting(AsyncRemoteMemory.capabilities)
    call = waiting(AsyncRemoteMemory.call)

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        session: str | None = None,
        space: str | None = None,
        tenant: str | None = None,
        zone: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(
            AsyncRemoteMemory(
                url, key=key, user=user, agent=agent, session=session, space=space, tenant=tenant, zone=zone,
                timeout=timeout,
            )
        )  # fmt: skip
