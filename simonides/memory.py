"""The front door: remember, recall, revise, forget. `AsyncMemory` is the core; `sync.Memory` is its thin face."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from .arguments import (
    Given,
    Moment,
    Which,
    Whose,
    budget_of,
    check_names,
    flag,
    folder_of,
    importance_of,
    levels_of,
    limit_of,
    links_of,
    metadata_of,
    moment,
    named,
    names_of,
    place_of,
    query_of,
    records_of,
    scope_of,
    text_of,
    zone_of,
)
from .config import OFF, Settings, open_backend, settings, store_url
from .derivers.vectors import Vectors
from .drafts import Content, Draft
from .embedder import Embedder
from .errors import Conflict, Invalid, NotFound, Unavailable
from .exports import write
from .follow import Follower, Progress, settle
from .forgetting import EXPORTS, Preview, certificates, doomed, erase, finish
from .index import Index
from .query import Place, Query
from .recall import Context, Hits, Means, answer, fitted, understand
from .record import ACTIVE, ARCHIVED, IMPORTANCE, NEVER, Link, Record, Scope, Span, now, revised_text
from .store import Batch, Certificate, Change, Store

log = logging.getLogger("simonides")

P = ParamSpec("P")
T = TypeVar("T")
WHOSE, WHICH = frozenset(Whose.__annotations__), frozenset(Whose.__annotations__) | frozenset(Which.__annotations__)
GIVEN = WHOSE | frozenset(Given.__annotations__)
CATCH_UP = 5_000  # changes that gather before the index takes them in
CHUNK = 500  # records of an import that are written in one transaction


def operation(
    method: Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[AsyncMemory, P], Coroutine[Any, Any, T]]:
    """Answer a call that does not fit the signature with our own error. (Calling a coroutine function only binds.)"""

    @functools.wraps(method)
    async def call(self: AsyncMemory, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Invalid("this memory is closed")
        try:
            asked = method(self, *args, **kwargs)
        except TypeError as error:
            raise Invalid(re.sub(r"\b(?:AsyncMemory\.)?_?(\w+\(\))", r"\1", str(error))) from None
        async with self._calls:
            return await asked

    return call


class _Calls:
    """How many calls are under way, so that closing can wait for them."""

    def __init__(self) -> None:
        self._count, self._none = 0, asyncio.Event()
        self._none.set()

    async def __aenter__(self) -> None:
        self._count += 1
        self._none.clear()

    async def __aexit__(self, *error: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        await self._none.wait()


class AsyncMemory:
    """A memory over one store. Opened at the first call; close it, or use it in `async with`.

    `url` names the store: a URL, a path, or ":memory:"; without it, the user's own. `settled` (default) embeds what is
    remembered before a call returns; otherwise that happens in the background. `require` names levels that every call
    must name ("user"). `embedder` is a URL ("local:", "none" for words alone) or an Embedder of your own. `zone` is the
    IANA time zone of the caller, for dates without a time; default, the system's.
    """

    def __init__(
        self,
        url: str | Path | None = None,
        *,
        tenant: str | None = None,
        space: str | None = None,
        require: str | Iterable[str] | None = None,
        settled: bool = True,
        embedder: str | Embedder | None = None,
        index: str | None = None,
        zone: str | None = None,
    ) -> None:
        if url is not None and (not isinstance(url, str | Path) or not str(url).strip() or "\0" in str(url)):
            raise Invalid(f"{url!r} names no store: write a URL, the path of a file, or ':memory:'")
        if embedder is not None and not isinstance(embedder, str) and not hasattr(embedder, "embed"):
            raise Invalid(f"embedder must be a URL such as 'local:' or an Embedder, not {embedder!r}")
        given = {"store": None if url is None else str(url), "tenant": tenant, "space": space, "zone": zone}
        named_embedder = embedder if isinstance(embedder, str) or embedder is None else embedder.name
        self.settings: Settings = settings({**given, "embedder": named_embedder, "index": index})
        self._url = store_url(self.settings.store_url)
        self._home = Scope(
            tenant=named("tenant", self.settings.tenant) or "", space=named("space", self.settings.space) or ""
        )
        self._require = frozenset(levels_of(self.settings.require.split(",") if require is None else require))
        self._zone = zone_of(self.settings.zone)
        self._settled = flag("settled", settled)
        self._store: Store | None = None
        self._embedder: Embedder | None = None if isinstance(embedder, str) else embedder
        self._index: Index | None = None
        self._followers: tuple[Follower, ...] = ()
        self._gathered = 0  # changes followed since the index last caught up
        self._opening, self._settling = asyncio.Lock(), asyncio.Lock()
        self._calls = _Calls()
        self._background: set[asyncio.Task[None]] = set()
        self._pass: asyncio.Task[None] | None = None  # of the followers, not begun yet
        self._passes: set[asyncio.Task[None]] = set()  # not done; they outlive callers that are cancelled
        self._closed = False
        self.behind: str | None = None  # why something remembered has no vectors yet; None: all have

    # -- remember ------------------------------------------------------------------------------------------------

    @overload
    async def remember(
        self,
        content: Content,
        *,
        role: str | None = None,
        name: str | None = None,
        at: Moment | None = None,
        id: str | None = None,
        title: str | None = None,
        part_of: str | None = None,
        links: Sequence[Link] = (),
        **given: Unpack[Given],
    ) -> Record: ...
    @overload
    async def remember(
        self,
        content: list[Content] | tuple[Content, ...],
        *,
        role: str | None = None,
        name: str | None = None,
        at: Moment | None = None,
        id: str | None = None,
        title: str | None = None,
        part_of: str | None = None,
        links: Sequence[Link] = (),
        **given: Unpack[Given],
    ) -> list[Record]: ...
    async def remember(self, *content: Any, **said: Any) -> Any:
        """Keep a text, a message {"role", "content", "at", …}, or a list of them, together or not at all.

        Return its record; of a list, the records. A text is a Note; one that names a session, a role or a speaker is a
        Message of that session's conversation, which is made when it is new. `at` is when it was said or began to be
        true. With an `id` of the caller's own the same write twice is one; other content under it raises Conflict.
        """
        return await self._remember(*content, **said)

    @operation
    async def _remember(
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
        **given: Unpack[Given],
    ) -> Record | list[Record]:
        check_names("remember", given, GIVEN)
        scope = self._scope(given)
        draft = Draft(
            scope=scope, zone=self._zone, role=role, name=name, at=at, id=id, given=given,
            part_of=named("part_of", part_of), links=links_of(links),
        )  # fmt: skip
        named("title", title)
        await self._check_visible(draft)
        if isinstance(content, list | tuple):
            talk, records = draft.many(content, title)
            return await self._write(talk, records, draft.timeless(content))
        record = draft.one(content)
        talk = None
        if scope.session is not None and part_of is None:
            talk = dataclasses.replace(draft.conversation(title), valid=Span(since=record.valid.since))
        [kept] = await self._write(talk, [record], draft.timeless([content]))
        return kept

    async def _check_visible(self, draft: Draft) -> None:
        """Refuse to hang something on a record that the caller cannot see."""
        wanted = {link.target for link in draft.links} | ({draft.part_of} if draft.part_of else set())
        if wanted:
            found = await (await self._ready()).find(_latest_of(draft.scope, wanted))
            if missing := wanted - {record.id for record in found}:
                raise NotFound(f"no record {sorted(missing)[0]!r} in this scope")

    async def _write(
        self, talk: Record | None, records: Sequence[Record], timeless: frozenset[str] = frozenset()
    ) -> list[Record]:
        """Write the records, as parts of their conversation, which is written before them where it is new."""
        store = await self._ready()
        records = await self._with_first_times(records, timeless)
        there = await self._conversation(talk) if talk else None
        try:
            new = (talk,) if talk and not there else ()
            parts = _parts_of(there or talk, records)
            changes = await store.commit(Batch(put=(*new, *parts)))
        except Conflict:
            if talk is None or there or not (there := await self._conversation(talk)):
                raise
            parts = _parts_of(there, records)  # somebody else has just begun the conversation
            changes = await store.commit(Batch(put=tuple(parts)))
        await self._settle()
        return await self._as_kept(parts, changes)

    async def _conversation(self, talk: Record) -> Record | None:
        """Return the conversation that goes by this session, whoever began it."""
        store, same = await self._ready(), _latest_of(talk.scope, {talk.id})
        if found := await store.find(same):
            return found[0]
        if talk.body.key is None:
            return None
        keyed = dataclasses.replace(same, ids=None, kinds=frozenset({talk.kind}), keys=frozenset({talk.body.key}))
        live = [record for record in await store.find(keyed) if record.scope == talk.scope and record.valid != NEVER]
        return live[0] if live else None

    async def _with_first_times(self, records: Sequence[Record], timeless: frozenset[str]) -> Sequence[Record]:
        """Give records that are there already, and for which the caller named no time, the time they got at first: the
        same write twice is one.
        """
        if not timeless:
            return records
        store = await self._ready()
        found = await store.find(_every(_walls(records[0].scope), ids=timeless, limit=10**9))
        first = {record.id: record.valid for record in reversed(found)}
        return [
            dataclasses.replace(record, valid=first.get(record.id, record.valid)) if record.id in timeless else record
            for record in records
        ]

    async def _as_kept(self, records: Sequence[Record], changes: Sequence[Change]) -> list[Record]:
        """Return the records with the clock that the store gave them; a write that was there already is read back."""
        at = {(change.id, change.version): change.at for change in changes}
        if all((record.id, record.version) in at for record in records):
            return [dataclasses.replace(r, known=Span(since=at[r.id, r.version])) for r in records]
        found = await (await self._ready()).find(
            _every(_walls(records[0].scope), ids=frozenset(record.id for record in records), limit=10**9)
        )
        kept = {(record.id, record.version): record for record in found}
        return [kept[record.id, record.version] for record in records]

    @operation
    async def keep(self, records: Iterable[Record], *, progress: Progress | None = None) -> list[Record]:
        """Keep records that were made elsewhere (by an importer), in the order given; return those that are new here.

        One that is there already with the same content is left alone. One whose source wrote it before, and now says
        something else, is revised; one that was corrected here since is not.
        """
        await self._ready()
        new: list[Record] = []
        chunk: list[Record] = []
        for record in records_of("keep", records):
            self._check_required(record)
            chunk.append(record)
            if len(chunk) >= CHUNK:
                new += await self._keep(chunk, progress)
                chunk = []
        return new + await self._keep(chunk, progress)

    def _check_required(self, record: Record) -> None:
        levels = {"tenant": record.scope.tenant, "space": record.scope.space, **dict(record.scope.levels)}
        for level in sorted(self._require):
            if levels[level] is None:
                raise Invalid(f"this memory requires {level!r}, and record {record.id} names none")

    async def _keep(self, records: Sequence[Record], progress: Progress | None) -> list[Record]:
        if not records:
            return []
        store = await self._ready()
        there: dict[str, list[Record]] = {}
        for realm in {record.scope.realm for record in records}:
            mine = frozenset(record.id for record in records if record.scope.realm == realm)
            for old in await store.find(_every(Scope(tenant=realm[0], space=realm[1]), ids=mine, limit=10**9)):
                there.setdefault(f"{realm}{old.id}", []).append(old)
        writes = list[Record]()
        for record in records:
            versions = there.setdefault(f"{record.scope.realm}{record.id}", [])
            if written := _imported(record, versions):
                versions.append(written)
                writes.append(written)
        await store.commit(Batch(put=tuple(writes)))
        await self._settle()
        if progress:
            progress(len(records))
        return writes

    # -- recall --------------------------------------------------------------------------------------------------

    @operation
    async def recall(self, text: str, *, limit: int = 10, explain: bool = False, **which: Unpack[Which]) -> Hits:
        """Return what is most worth having in mind for this text, best first, at most `limit` hits.

        What was superseded, retracted, ended or archived is left out unless asked for (`as_of`, `known_at`,
        `archived`). `explain` fills `Hit.why`. `Hits.notes` says so when something fell back.
        """
        text, limit = text_of(text), limit_of(limit, 1000)
        query = dataclasses.replace(self._query("recall", which), limit=limit)
        return await self._recall(text, query, flag("explain", explain))

    @operation
    async def context(self, text: str, *, budget: int = 1500, limit: int = 50, **which: Unpack[Which]) -> Context:
        """Return what to have in mind for this text, ready for a prompt, within a budget of tokens.

        `.text` is grouped by conversation and ordered by time, every passage with its number; `.citations` maps the
        numbers to records; `.tokens` is counted with the embedding model's tokenizer.
        """
        text, limit, budget = text_of(text), limit_of(limit, 1000), budget_of(budget)
        query = dataclasses.replace(self._query("context", which), limit=limit)
        hits = await self._recall(text, query, explain=False)
        return fitted(hits, budget, self._embedder.tokens if self._embedder else None)

    async def _recall(self, text: str, query: Query, explain: bool) -> Hits:
        store = await self._ready()
        if self._settled:
            await self._settle()  # another process may have written since
        question = understand(text, now(), self._zone)
        means = Means(store, self._index, self._embedder)
        hits = await answer(question, query, means, explain=explain)
        return hits.noting(self.behind)

    # -- look ----------------------------------------------------------------------------------------------------

    @operation
    async def get(self, id: str, **whose: Unpack[Whose]) -> Record:
        """Return the latest version of a record, archived, superseded or retracted as it may be."""
        check_names("get", whose, WHOSE)
        return await self._latest(id, self._scope(whose))

    @operation
    async def find(
        self,
        *,
        limit: int = 100,
        newest: bool = True,
        after: Record | Place | str | None = None,
        **which: Unpack[Which],
    ) -> list[Record]:
        """Return the records that match, newest first or by id.

        `after` is what the last page ended with: the record or its `Place`, whatever became of it since; or the id of
        a record that is still there.
        """
        query = dataclasses.replace(self._query("find", which), newest=flag("newest", newest), limit=limit_of(limit))
        return await self._page(query, after)

    @operation
    async def count(self, **which: Unpack[Which]) -> int:
        """Return how many records match."""
        return await (await self._ready()).count(self._query("count", which))

    @operation
    async def conversations(
        self, *, limit: int = 100, after: Record | Place | str | None = None, **which: Unpack[Which]
    ) -> list[Record]:
        """Return the conversations that match, newest first. `after` is what the last page ended with, as in `find`."""
        query = dataclasses.replace(self._query("conversations", which), newest=True, limit=limit_of(limit))
        return await self._page(dataclasses.replace(query, kinds=frozenset({"conversation"})), after)

    @operation
    async def messages(self, id: str, *, limit: int = 1000, **whose: Unpack[Whose]) -> list[Record]:
        """Return what is part of a conversation or document, in order."""
        check_names("messages", whose, WHOSE)
        scope = self._scope(whose)
        whole = await self._latest(id, scope)
        query = Query(scope=scope, part_of=frozenset({whole.id}), newest=True, limit=limit_of(limit))
        return (await (await self._ready()).find(query))[::-1]

    async def _page(self, query: Query, after: Record | Place | str | None) -> list[Record]:
        """Return the page; behind an id that is not there nobody knows what comes, and an empty page would be a lie."""
        store, place = await self._ready(), place_of(after)
        if isinstance(place, str):
            there = dataclasses.replace(_latest_of(query.scope, {place}), known_at=query.known_at)
            if not (found := await store.find(there)):
                raise NotFound(f"no record {place!r} in this scope to go on after")
            place = Place.of(found[0])
        return await store.find(dataclasses.replace(query, after=place))

    @operation
    async def history(self, id: str, **whose: Unpack[Whose]) -> list[Record]:
        """Return every version of a record, the first one first."""
        check_names("history", whose, WHOSE)
        found = await (await self._ready()).find(_every(self._scope(whose), ids=frozenset({_id(id)}), limit=10**9))
        if not found:
            raise NotFound(f"no record {id!r} in this scope")
        return found

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
        """Write the next version of a record and return it; what is not named stays. A folder of "" takes it out.

        The old version is kept, and found when asked what was known then. With `version` given, raise Conflict unless
        it is the latest.
        """
        check_names("revise", whose, WHOSE)
        scope = self._scope(whose)
        old = await self._latest(id, scope)
        if version is not None and version != old.version:
            raise Conflict(f"{id} is at version {old.version}, not {version}: read it again")
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
            changes["valid"] = self._span(old.valid, at, ends)
        revised = old.revise(**changes)
        if dataclasses.replace(revised, version=old.version, source=old.source).says_the_same(old):
            return old
        [kept] = await self._write(None, [revised])
        return kept

    @operation
    async def supersede(self, id: str, content: Content, *, at: Moment | None = None, **whose: Unpack[Whose]) -> Record:
        """Keep what is true instead from `at` (default: now) on, and end the old record there; return the new one.

        The old one stays the answer to what was true before. The new one takes over its scope, kind, labels, folder,
        importance and pin, and links to it by `supersedes`.
        """
        check_names("supersede", whose, WHOSE)
        old = await self._latest(id, self._scope(whose))
        draft = Draft(scope=old.scope, zone=self._zone, at=at)
        said = draft.one(content) if not isinstance(content, str) else None
        body = said.body if said else revised_text(old.body, text_of(content))
        since = moment("at", at, self._zone) or (said.valid.since if said else None) or now()
        if old.valid == NEVER:
            raise Conflict(f"{id} was retracted, so nothing can supersede it: remember the new text instead")
        if old.valid.ended(since) or (old.valid.since and old.valid.since >= since):
            raise Conflict(f"{id} is true from {old.valid.since} to {old.valid.until}: nothing of it is left then")
        new = Record(
            scope=old.scope, body=body, part_of=old.part_of, links=(Link("supersedes", old.id),),
            valid=Span(since=since), labels=old.labels, folder=old.folder, importance=old.importance,
            pinned=old.pinned, metadata=old.metadata,
        )  # fmt: skip
        ended = old.revise(valid=old.valid.ending(since), pinned=False)
        [_, kept] = await self._write(None, [ended, _with_more(new, said)])
        return kept

    @operation
    async def retract(self, id: str, **whose: Unpack[Whose]) -> Record:
        """Say that it was never true: it is not found again, but its history stays."""
        check_names("retract", whose, WHOSE)
        old = await self._latest(id, self._scope(whose))
        if old.valid == NEVER:
            return old
        [kept] = await self._write(None, [old.revise(valid=NEVER, pinned=False)])
        return kept

    # -- forget --------------------------------------------------------------------------------------------------

    @overload
    async def forget(
        self,
        *ids: str,
        everything: bool = False,
        dry_run: Literal[True],
        **which: Unpack[Which],
    ) -> Preview: ...
    @overload
    async def forget(
        self, *ids: str, everything: bool = False, dry_run: Literal[False] = False, **which: Unpack[Which]
    ) -> Certificate: ...
    async def forget(self, *ids: str, **which: Any) -> Any:
        """Erase what matches from every version, index, log, cache and file, and return the certificate.

        Named by ids, or by user, session, agent, labels, folder, kinds or a span of time (`since`, `until`), which must
        all match; what others share is never touched. The parts of a whole, and what was derived from the erased alone,
        go too. `dry_run=True` only shows what would go. To erase a whole space, say `everything=True`.
        """
        return await self._forget(*ids, **which)

    @operation
    async def _forget(
        self, *ids: str, everything: bool = False, dry_run: bool = False, **which: Unpack[Which]
    ) -> Preview | Certificate:
        for name in ("as_of", "known_at", "archived", "ended", "shared"):
            if name in which:
                raise Invalid(f"forget() takes no {name!r}: what is erased is erased from every version and status")
        query, everything = self._query("forget", which), flag("everything", everything)
        if not (ids or everything or _narrow(query)):
            raise Invalid(
                "nothing is named to forget: give ids, a user, a session, labels or a time span, or say everything=True"
            )
        store = await self._ready()
        wanted = frozenset(_id(id) for id in ids) if ids else None
        preview = await doomed(store, dataclasses.replace(query, ids=wanted))
        if wanted and (missing := wanted - {record.id for record in preview.records}):
            raise NotFound(f"no record {sorted(missing)[0]!r} in this scope; nothing was erased")
        if flag("dry_run", dry_run):
            return preview
        if not preview.records:
            raise NotFound("nothing matches: nothing was erased")
        certificate = await erase(preview, query.scope, store, self._index, self._embedder)
        await self._settle()
        return certificate

    @operation
    async def certificates(self, **whose: Unpack[Whose]) -> list[Certificate]:
        """Return the certificates of what was erased, the oldest first.

        Where levels are named, only of erases that took nothing but what bore those very names, whoever asked for them.
        """
        check_names("certificates", whose, WHOSE)
        return await certificates(await self._ready(), self._scope(whose))

    # -- upkeep --------------------------------------------------------------------------------------------------

    @operation
    async def export(
        self, path: str | Path | None = None, *, progress: Progress | None = None, **which: Unpack[Which]
    ) -> Path:
        """Write every version of the records that match to a file (.jsonl or .jsonl.gz); return its path.

        `restore` takes what `simonides.exports.read` reads of it; the command line imports it like any other file.

        Without a path it goes to the `exports` folder beside the store, which an erase looks through.
        """
        query = self._query("export", {"archived": True, **which})
        store = await self._ready()
        if path is not None and not isinstance(path, str | Path):
            raise Invalid(f"the path to export to must be a string or a Path, not {path!r}")
        target = Path(path) if path else _export_path(store.folder)
        if target.is_dir():
            raise Invalid(f"{target} is a folder: name a file in it to export to")
        meant = await store.find(dataclasses.replace(query, statuses=None, ended=True, limit=10**9))
        ids = frozenset(record.id for record in meant)
        versions = await store.find(_every(_walls(query.scope), ids=ids, limit=10**9))
        return await asyncio.to_thread(write, target, versions, progress)

    @operation
    async def restore(self, records: Iterable[Record], *, progress: Progress | None = None) -> int:
        """Write versions with the clocks they had, as read from an export; return how many were new here."""
        store = await self._ready()
        written, chunk = 0, list[Record]()
        for record in records_of("restore", records):
            chunk.append(record)
            if len(chunk) >= CHUNK:
                written += len(await store.commit(Batch(restore=tuple(chunk))))
                await self._settle()
                chunk = []
                if progress:
                    progress(CHUNK)
        written += len(await store.commit(Batch(restore=tuple(chunk))))
        await self._settle()
        return written

    @operation
    async def stats(self) -> dict[str, Any]:
        """Return what is kept and how much: counts by kind, versions, vectors, lines of the log, and the settings."""
        store = await self._ready()
        return {
            "store": self._url,
            "embedder": self._embedder.name if self._embedder else OFF,
            "behind": self.behind,
            **await store.counts(),
        }

    @operation
    async def doctor(self) -> list[str]:
        """Look everything over and return the complaints, each with what to do; an empty list is a healthy memory."""
        store = await self._ready()
        complaints = list((await store.check()).complaints)
        if self._index:
            complaints += await self._index.check()
        complaints += await self._lag()
        return complaints

    async def _lag(self) -> list[str]:
        store = await self._ready()
        return [
            f"some of what is remembered is not in {follower.name} yet: recall something, or run `simonides rebuild`"
            for follower in self._followers
            if await store.changes(after=await store.cursor(follower.name), limit=1)
        ]

    @operation
    async def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make the full-text words and the vector index again from the records; return how many vectors there are."""
        store = await self._ready()
        await store.rebuild()
        await self._settle(progress)
        return await self._index.rebuild() if self._index else 0

    @operation
    async def settle(self, *, progress: Progress | None = None) -> None:
        """Wait until everything remembered so far is indexed."""
        await self._ready()
        await self._settle(progress, wait=True)

    async def open(self) -> Self:
        """Open the store now rather than at the first call."""
        if self._closed:
            raise Invalid("this memory is closed")
        await self._ready()
        return self

    async def close(self) -> None:
        """Finish the calls under way and what runs in the background, and close everything. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        await self._calls.ended()
        await asyncio.gather(*self._background, *self._passes, return_exceptions=True)
        for part in (self._index, self._embedder, self._store):
            if part is not None:
                await part.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _ready(self) -> Store:
        if self._store is None:
            async with self._opening:
                if self._store is None:
                    await self._open()
        assert self._store is not None
        return self._store

    async def _open(self) -> None:
        if self._embedder is None and self.settings.embedder != OFF:
            embedder: Embedder = open_backend("embedders", self.settings.embedder)
            await asyncio.to_thread(embedder.tokens, "ready")  # says now, not after a write, what is missing
            self._embedder = embedder
        store: Store = await asyncio.to_thread(open_backend, "stores", self._url)
        if self._embedder:
            vectors = Vectors(self._embedder)
            self._followers = (vectors,)
            try:
                self._index = open_backend(
                    "indexes", self.settings.index, store, vectors.model, self._embedder.dimension
                )
            except BaseException:
                await store.close()
                raise
        await finish(store, self._index)
        self._store = store

    def _scope(self, given: Mapping[str, Any]) -> Scope:
        return scope_of(given, self._home, self._require)

    def _query(self, call: str, which: Mapping[str, Any]) -> Query:
        check_names(call, which, WHICH)
        return query_of(which, self._scope(which), self._zone)

    def _span(self, old: Span, at: Moment | None, ends: Moment | None) -> Span:
        span = Span(moment("at", at, self._zone) or old.since, moment("ends", ends, self._zone) or old.until)
        if span.since and span.until and span.until <= span.since:
            raise Invalid(f"it would end at {span.until}, which is not after it begins at {span.since}")
        return span

    async def _latest(self, id: str, scope: Scope) -> Record:
        found = await (await self._ready()).find(_latest_of(scope, {_id(id)}))
        if not found:
            raise NotFound(f"no record {id!r} in this scope")
        return found[0]

    async def _settle(self, progress: Progress | None = None, wait: bool = False) -> None:
        if self._settled or wait:
            await self._follow(progress)
        elif not self._background:
            task = asyncio.get_running_loop().create_task(self._follow(progress))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _catch_up(self) -> None:
        """Let the index take in what has gathered, so that no question has to wait for much of it."""
        if self._index and self._gathered >= CATCH_UP:
            self._gathered = 0
            await self._index.catch_up(self._home)

    async def _follow(self, progress: Progress | None) -> None:
        """Join the next pass of the followers: one is under way, at most one waits, and it sees what is written now."""
        if self._pass is None:
            self._pass = asyncio.get_running_loop().create_task(self._one_pass(progress))
            self._passes.add(self._pass)
            self._pass.add_done_callback(self._passes.discard)
        await asyncio.shield(self._pass)

    async def _one_pass(self, progress: Progress | None) -> None:
        """Let the followers read on. What was written stays written when one cannot; the next call tries again."""
        store = await self._ready()

        def gathered(count: int) -> None:
            self._gathered += count
            if progress:
                progress(count)

        async with self._settling:
            self._pass = None
            try:
                await settle(self._followers, store, gathered)
                self.behind = None
                await self._catch_up()
            except Unavailable as error:
                self.behind = str(error)
                log.warning("what was remembered is kept, but not embedded yet: %s", error)


# What the overloads say to a type checker, for whoever asks the function itself.
setattr(AsyncMemory.remember, "__signature__", inspect.signature(AsyncMemory._remember))  # noqa: B010
setattr(AsyncMemory.forget, "__signature__", inspect.signature(AsyncMemory._forget))  # noqa: B010


def _export_path(folder: str | None) -> Path:
    if folder is None:
        raise Invalid("this store has no folder of its own: name the file to export to")
    (Path(folder) / EXPORTS).mkdir(parents=True, exist_ok=True)
    return Path(folder) / EXPORTS / f"{now():%Y-%m-%dT%H%M%S.%fZ}.jsonl.gz"


def _parts_of(talk: Record | None, records: Sequence[Record]) -> list[Record]:
    return [dataclasses.replace(record, part_of=talk.id) if talk else record for record in records]


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


def _narrow(query: Query) -> bool:
    """Whether the query names anything besides the walls."""
    named = (query.kinds, query.labels, query.folder, query.sources, query.part_of, query.since, query.until)
    more = (query.pinned, query.importance_min, *(level for _, level in query.scope.levels))
    return bool(query.metadata) or any(name is not None for name in (*named, *more))


def _latest_of(scope: Scope, ids: Iterable[str]) -> Query:
    """Return the query for the latest version of each, archived, ended or retracted as it may be."""
    return Query(scope=scope, ids=frozenset(ids), statuses=None, ended=True, limit=10**9)


def _every(scope: Scope, **more: Any) -> Query:
    return Query(scope=scope, statuses=None, **{"any_time": True, **more})


def _walls(scope: Scope) -> Scope:
    return Scope(tenant=scope.tenant, space=scope.space)


def _id(value: Any) -> str:
    id = named("id", value)
    if id is None:
        raise Invalid("id must be a string")
    return id


def _imported(record: Record, versions: Sequence[Record]) -> Record | None:
    """Return what to write for a record that a source says again: nothing, its first version, or its next."""
    if not versions:
        return record
    latest = versions[-1]
    corrected = latest.source != record.source or any(old.valid == NEVER for old in versions)
    theirs = [old for old in versions if old.source == record.source]
    if corrected or record.says_the_same(dataclasses.replace(theirs[-1], version=record.version)):
        return None
    organised = {"labels": latest.labels, "folder": latest.folder, "pinned": latest.pinned}
    return dataclasses.replace(latest.revise(**organised), body=record.body, valid=record.valid, links=record.links,
                               part_of=record.part_of, status=record.status, metadata=record.metadata)  # fmt: skip
