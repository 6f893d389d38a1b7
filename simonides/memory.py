"""The front door: remember, recall, revise, forget. `AsyncMemory` is the core; `sync.Memory` is its thin face."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from . import exchange, happened
from .arguments import (
    Given,
    Moment,
    Which,
    Whose,
    budget_of,
    check_names,
    flag,
    hits_of,
    id_of,
    ids_of,
    levels_of,
    limit_of,
    line_of,
    links_of,
    named,
    number_of,
    one_of,
    place_of,
    query_of,
    records_of,
    relevance_of,
    scope_of,
    text_of,
    zone_of,
)
from .cache import Cache
from .calls import Calls, operation
from .config import ELSEWHERE, OFF, WORK, Settings, open_cache, settings, store_url
from .corrections import revised, superseded
from .drafts import Content, Draft, marked
from .embedder import Embedder
from .engine import Engine, opened
from .errors import Conflict, Invalid, NotFound, Unavailable
from .follow import Progress, lagging, letters, replay
from .forgetting import Preview, certificates, doomed, erase, narrow
from .happened import Changes, Position, Status, status
from .pruning import DAYS, IMPORTANT, KINDS, Proposal, Thresholds, propose
from .query import Hit, Place, Query
from .recall import EFFORTS, Context, Effort, Hits, Means, Missing, Question, answer, fitted, missing, understand
from .record import ACTIVE, NEVER, Link, Record, Scope, Span, now
from .serving import hide
from .store import Batch, Certificate, Letter, Store
from .versions import every, existing, latest, page, with_parts
from .writing import write

T = TypeVar("T")

WHOSE, WHICH = frozenset(Whose.__annotations__), frozenset(Whose.__annotations__) | frozenset(Which.__annotations__)
GIVEN = WHOSE | frozenset(Given.__annotations__)

NOBODYS: Mapping[str, bool] = {}


class AsyncMemory:
    """A memory over one store. Opened at the first call; close it, or use it in `async with`.

    `url` names the store: a URL, a path, or ":memory:"; without it, the user's own. `settled` (default) embeds what is
    remembered before a call returns; otherwise that happens in the background. `require` names levels that every call
    must name ("user"). `embedder` is a URL ("local:", "none" for words alone) or an Embedder of your own. `zone` is the
    IANA time zone of the caller, for dates without a time; default, the system's. `cache` is the URL of what keeps
    answers for a while; by default there is none, unless the settings name one that other processes share. `sinks`
    are URLs that are sent what happens, as events.
    """

    _caches = False  # whether to keep answers in this process, too, where nobody asked for it
    _patience_s: float | None = None  # what closing gives a pass of the embedder to end; None: all that it takes

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
        cache: str | None = None,
        sinks: Sequence[str] | None = None,
        zone: str | None = None,
    ) -> None:
        if url is not None and (not isinstance(url, str | Path) or not str(url).strip() or "\0" in str(url)):
            raise Invalid(f"{url!r} names no store: write a URL, the path of a file, or ':memory:'")
        if embedder is not None and not isinstance(embedder, str) and not hasattr(embedder, "embed"):
            raise Invalid(f"embedder must be a URL such as 'local:' or an Embedder, not {embedder!r}")
        given = {"store": None if url is None else str(url), "tenant": tenant, "space": space, "zone": zone}
        named_embedder = embedder if isinstance(embedder, str) or embedder is None else embedder.name
        named_sinks = None if sinks is None else tuple(sinks)
        self.settings: Settings = settings(
            {**given, "embedder": named_embedder, "index": index, "cache": cache, "sinks": named_sinks}
        )
        one_of("work", self.settings.work, {name: name for name in WORK})
        self._url = store_url(self.settings.store_url)
        self._home = Scope(
            tenant=named("tenant", self.settings.tenant) or "", space=named("space", self.settings.space) or ""
        )
        self._require = frozenset(levels_of(self.settings.require.split(",") if require is None else require))
        self._zone = zone_of(self.settings.zone)
        self._settled = flag("settled", settled)
        self._embedder: Embedder | None = None if isinstance(embedder, str) else embedder  # that the caller made
        self.cache: Cache | None = self._opened_cache(self._caches or cache is not None)
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._calls = Calls()

    @property
    def behind(self) -> str | None:
        """Why something remembered has no vectors yet; None where everything has."""
        return self._engine.passes.behind if self._engine else None

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
        once: str | None = None,
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
        once: str | None = None,
        **given: Unpack[Given],
    ) -> list[Record]: ...
    async def remember(self, *content: Any, **said: Any) -> Any:
        """Keep a text, a message {"role", "content", "at", …}, or a list of them, together or not at all.

        Return its record; of a list, the records. A text is a Note; one that names a session, a role or a speaker is a
        Message of that session's conversation, which is made when it is new. `at` is when it was said or began to be
        true. With an `id` of the caller's own the same write twice is one; other content under it raises Conflict. So
        with `once`, a mark of the caller's for the whole call, for what has no id of its own.
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
        once: str | None = None,
        **given: Unpack[Given],
    ) -> Record | list[Record]:
        check_names("remember", given, GIVEN)
        scope = self._scope(given)
        draft = Draft(
            scope=scope, zone=self._zone, role=role, name=name, at=at, id=id, given=given,
            part_of=named("part_of", part_of), links=links_of(links), once=named("once", once),
        )  # fmt: skip
        named("title", title)
        if hung := {link.target for link in draft.links} | ({draft.part_of} if draft.part_of else set()):
            await existing(await self._ready(), scope, sorted(hung))  # which the caller must be able to see
        if isinstance(content, list | tuple):
            talk, records = draft.many(content, title)
            return await self._write(talk, records, draft.own(content))
        record = draft.one(content)
        talk = None
        if scope.session is not None and part_of is None:
            talk = dataclasses.replace(draft.conversation(title), valid=Span(since=record.valid.since))
        [kept] = await self._write(talk, [record], draft.own([content]))
        return kept

    async def _write(
        self, talk: Record | None, records: Sequence[Record], own: Mapping[str, bool] = NOBODYS
    ) -> list[Record]:
        engine = await self._running()
        kept = await write(engine.store, engine.passes, talk, records, own)
        await engine.follow(told=True)
        return kept

    @operation
    async def keep(self, records: Iterable[Record], *, progress: Progress | None = None) -> list[Record]:
        """Keep records that were made elsewhere (by an importer), in the order given; return those that are new here.

        One that is there already with the same content is left alone. One whose source wrote it before, and now says
        something else, is revised; one that was corrected here since is not.
        """
        engine, given = await self._running(), records_of("keep", records)
        followed = partial(engine.follow, told=True)
        return await exchange.keep(engine.store, engine.passes, given, self._require, followed, progress)

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
        """Return what is most worth having in mind for this text, best first, at most `limit` hits.

        What was superseded, retracted, ended or archived is left out unless asked for (`as_of`, `known_at`,
        `archived`). `explain` fills `Hit.why`. `effort` is "low" (vectors and words alone), "medium", or "high" (looks
        further). A hit's score says how likely it is what was asked for; those below `min_relevance` are left out.
        `Hits.notes` says so when something fell back.
        """
        text, limit = text_of(text), limit_of(limit, 1000)
        least, looks = relevance_of(min_relevance), one_of("effort", effort, EFFORTS)
        query = dataclasses.replace(self._query("recall", which), limit=limit)
        hits = await self._recall(text, query, looks, explain=flag("explain", explain), least=least)
        self._note(hits)
        return hits

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
        """Return why `recall` with these very arguments does not return this record, or where it does. It prints as a
        sentence.
        """
        text, limit = text_of(text), limit_of(limit, 1000)
        least, looks = relevance_of(min_relevance), one_of("effort", effort, EFFORTS)
        query = dataclasses.replace(self._query("explain_missing", which), limit=limit)
        _, question, means = await self._asking(text)
        versions = await means.store.find(every(query.scope, {id_of(id)}))
        why = await missing(id, versions, question, query, means, looks, least)
        return dataclasses.replace(why, notes=(*why.notes, self.behind)) if self.behind else why

    @operation
    async def context(
        self, text: str, *, budget: int = 1500, limit: int = 50, effort: str = "medium", **which: Unpack[Which]
    ) -> Context:
        """Return what to have in mind for this text, ready for a prompt, within a budget of tokens.

        `.text` is grouped by conversation and ordered by time, every passage with its number; `.citations` maps the
        numbers to records; `.tokens` is counted with the embedding model's tokenizer. `effort` is as in `recall`.
        """
        text, limit, budget = text_of(text), limit_of(limit, 1000), budget_of(budget)
        looks = one_of("effort", effort, EFFORTS)
        query = dataclasses.replace(self._query("context", which), limit=limit)
        return self._packed(await self._recall(text, query, looks), text, budget)

    @operation
    async def pack(self, hits: Iterable[Hit], text: str, *, budget: int = 1500) -> Context:
        """Return the context for this text made of hits of your own choice, the best first, as `context` makes one."""
        text, budget = text_of(text), budget_of(budget)
        chosen = hits if isinstance(hits, Hits) else Hits(hits_of(hits))
        await self._ready()
        return self._packed(chosen, text, budget)

    def _packed(self, hits: Hits, text: str, budget: int) -> Context:
        asked = understand(text, now(), self._zone).terms
        embedder = self._engine.embedder if self._engine else None
        found = fitted(hits, budget, embedder.tokens if embedder else None, asked)
        self._note(citation.hit for citation in found.citations)
        return found

    def _note(self, hits: Iterable[Hit]) -> None:
        """Note that these were recalled, in the background."""
        assert self._engine is not None
        self._engine.recalls.note(hit.record for hit in hits)

    async def _recall(
        self, text: str, query: Query, effort: Effort, *, explain: bool = False, least: float = 0.0
    ) -> Hits:
        engine, question, means = await self._asking(text)
        answers = engine.answers
        if answers is None:
            hits = await answer(question, query, means, effort, explain=explain, least=least)
            return hits.noting(self.behind, engine.remark)
        if means.embedder:
            means = dataclasses.replace(means, embedder=answers.embedder(means.embedder, query.scope))
        hits = await answers.of(
            question, query, means.model, (effort, explain, least),
            lambda: answer(question, query, means, effort, explain=explain, least=least),
        )  # fmt: skip
        return hits.noting(self.behind, engine.remark)

    async def _asking(self, text: str) -> tuple[Engine, Question, Means]:
        """Return the text as a question, and what answers it, as far as anybody has written by now."""
        engine = await self._running()
        await engine.keep_up()
        model = engine.model.vectors.model if engine.model else ""
        return engine, understand(text, now(), self._zone), Means(engine.store, engine.index, engine.embedder, model)

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
        return await page(await self._ready(), query, place_of(after))

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
        talks = dataclasses.replace(query, kinds=frozenset({"conversation"}))
        return await page(await self._ready(), talks, place_of(after))

    @operation
    async def messages(self, id: str, *, limit: int = 1000, **whose: Unpack[Whose]) -> list[Record]:
        """Return what is part of a conversation or document, in order; of an archived one, what is archived too."""
        check_names("messages", whose, WHOSE)
        scope = self._scope(whose)
        whole = await self._latest(id, scope)
        statuses = frozenset({ACTIVE, whole.status})
        parts = frozenset({whole.id})
        query = Query(scope=scope, part_of=parts, statuses=statuses, newest=True, limit=limit_of(limit))
        return (await (await self._ready()).find(query))[::-1]

    @operation
    async def history(self, id: str, **whose: Unpack[Whose]) -> list[Record]:
        """Return every version of a record, the first one first."""
        check_names("history", whose, WHOSE)
        found = await (await self._ready()).find(every(self._scope(whose), {id_of(id)}))
        if not found:
            raise NotFound(f"no record {id!r} in this scope")
        return found

    @operation
    async def changes(self, *, after: int = 0, limit: int = 1000, **whose: Unpack[Whose]) -> Changes:
        """Return what happened to what this scope sees, in order: the lines of the log behind `after`, at most so many.

        `Changes.next` goes into the next call's `after`.
        """
        check_names("changes", whose, WHOSE)
        return await happened.changes(await self._ready(), self._scope(whose), line_of(after), limit_of(limit))

    @operation
    async def position(self) -> Position:
        """Return how far the log goes, and up to where it can be found by meaning."""
        engine = await self._running()
        return await happened.position(engine.store, engine.followers)

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
        new = revised(
            old, self._zone, text=text, labels=labels, folder=folder, importance=importance, pinned=pinned,
            archived=archived, metadata=metadata, at=at, ends=ends,
        )  # fmt: skip
        if new is old:
            return old
        [kept] = await self._write(None, [new])
        return kept

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
        """Label, file, pin or archive a record and everything that is part of it, together or not at all.

        Return them as they are then, the whole first. What is not named stays; a folder of "" takes them out of theirs.
        """
        check_names("organise", whose, WHOSE)
        changes = {"labels": labels, "folder": folder, "pinned": pinned, "archived": archived}
        return await self._organise([id_of(id)], self._scope(whose), changes)

    async def _organise(
        self, ids: Sequence[str], scope: Scope, changes: Mapping[str, Any], dry_run: bool = False
    ) -> list[Record]:
        olds = {record.id: record for record in await with_parts(await self._ready(), scope, ids)}
        news = [revised(old, self._zone, **changes) for old in olds.values()]
        changed = [new for new in news if new is not olds[new.id]]
        if dry_run or not changed:
            return list(olds.values())
        return list((olds | {record.id: record for record in await self._write(None, changed)}).values())

    @operation
    async def propose(
        self,
        *,
        threshold_days: float = DAYS,
        importance_threshold: float = IMPORTANT,
        limit: int = 100,
        **which: Unpack[Which],
    ) -> list[Proposal]:
        """Return conversations and notes that may be archived, what most speaks for first, each with why.

        Nothing that was said or recalled in the last `threshold_days`, and nothing pinned or with something pinned in
        it. Of the rest: what is at most so important, what says the same as another that stays, and what was
        superseded, retracted or has ended. The filters narrow what is looked at; what others share is not.
        """
        for name in ("as_of", "known_at", "archived", "ended", "shared", "pinned", "conversation"):
            if name in which:
                raise Invalid(f"propose() takes no {name!r}: it looks at what is active and not pinned, as it is now")
        days = number_of("threshold_days", threshold_days, 0, 36_500)
        important = number_of("importance_threshold", importance_threshold, 0, 10)
        query = dataclasses.replace(self._query("propose", which), limit=limit_of(limit))
        if query.kinds and not query.kinds <= KINDS:
            raise Invalid(f"only these kinds are proposed: {', '.join(sorted(KINDS))}")
        engine = await self._running()
        await engine.recalls.settle()
        return await propose(engine.store, query, Thresholds(days, important), now())

    @operation
    async def archive(self, ids: str | Iterable[str], *, dry_run: bool = False, **whose: Unpack[Whose]) -> list[Record]:
        """Archive records with everything that is part of them, together or not at all; return them as they are then.

        Each whole comes before its parts. `dry_run=True` changes nothing. `organise(id, archived=False)` brings one
        back.
        """
        check_names("archive", whose, WHOSE)
        return await self._organise(ids_of(ids), self._scope(whose), {"archived": True}, flag("dry_run", dry_run))

    @operation
    async def supersede(
        self, id: str, content: Content, *, at: Moment | None = None, once: str | None = None, **whose: Unpack[Whose]
    ) -> Record:
        """Keep what is true instead from `at` (default: now) on, and end the old record there; return the new one.

        The old one stays the answer to what was true before. The new one takes over its scope, kind, labels, folder,
        importance and pin, and links to it by `supersedes`. With `once`, the same call twice is one.
        """
        check_names("supersede", whose, WHOSE)
        scope = self._scope(whose)
        old = await self._latest(id, scope)
        mark = marked(old.scope, named("once", once), 0, "supersede", old.id)
        if mark and (done := await (await self._ready()).find(latest(scope, {mark}))):
            return done[0]
        ended, new = superseded(old, content, at, self._zone)
        new = dataclasses.replace(new, id=mark) if mark else new
        [_, kept] = await self._write(None, [ended, new])
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
        for name in ("as_of", "known_at", "archived", "ended", "shared", "outside"):
            if name in which:
                raise Invalid(f"forget() takes no {name!r}: what is erased is erased from every version and status")
        query, everything = self._query("forget", which), flag("everything", everything)
        if not (ids or everything or narrow(query)):
            raise Invalid(
                "nothing is named to forget: give ids, a user, a session, labels or a time span, or say everything=True"
            )
        engine = await self._running()
        wanted = frozenset(id_of(id) for id in ids) if ids else None
        preview = await doomed(engine.store, dataclasses.replace(query, ids=wanted))
        if wanted and (missing := wanted - {record.id for record in preview.records}):
            raise NotFound(f"no record {sorted(missing)[0]!r} in this scope; nothing was erased")
        if flag("dry_run", dry_run):
            return preview
        if not preview.records:
            raise NotFound("nothing matches: nothing was erased")
        indexes, embedders = [each.index for each in engine.models], [each.embedder for each in engine.models]
        certificate = await erase(preview, query.scope, engine.store, indexes, embedders, engine.forgets)
        await engine.follow()
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
        return await exchange.export(await self._ready(), query, path, progress)

    @operation
    async def versions(
        self, *, limit: int = 500, after: Place | str | None = None, **which: Unpack[Which]
    ) -> exchange.Versions:
        """Return every version of the next records that match, by id: what an export is made of, page by page.

        `Versions.next` goes into `after` for the page behind it; None: there is none.
        """
        query = self._query("versions", {"archived": True, "ended": True, **which})
        place = Place.read(after) if isinstance(after, str) else after
        whole = dataclasses.replace(query, statuses=None, after=place, limit=limit_of(limit))
        return await exchange.versions(await self._ready(), whole)

    @operation
    async def restore(self, records: Iterable[Record], *, progress: Progress | None = None) -> int:
        """Write versions with the clocks they had, as read from an export; return how many were new here."""
        engine = await self._running()
        given = records_of("restore", records)
        return await exchange.restore(engine.store, given, self._require, engine.follow, progress)

    @operation
    async def stats(self) -> dict[str, Any]:
        """Return what is kept and how much: counts by kind, versions, vectors, lines of the log, spaces; settings."""
        engine = await self._running()
        return {
            "store": hide(self._url),
            "embedder": engine.embedder.name if engine.embedder else OFF,
            "index": hide(self.settings.index_url) if engine.index else OFF,
            "behind": self.behind,
            **await engine.store.counts(),
        }

    @operation
    async def doctor(self) -> list[str]:
        """Look everything over and return the complaints, each with what to do; an empty list is a healthy memory."""
        engine = await self._running()
        complaints = list((await engine.store.check()).complaints)
        if engine.index:
            complaints += await engine.index.check()
        if self.cache:
            try:
                await self.cache.ping()
            except Unavailable as error:
                complaints.append(f"{error}: start it, or set `cache` to process:")
        return complaints + [
            f"some of what is remembered is not in {name} yet: recall something, or run `simonides rebuild`"
            for name in await lagging(engine.followers, engine.store)
        ]

    @operation
    async def status(self) -> Status:
        """Return how far each follower of the store is, which workers share it, and how many letters there are."""
        engine = await self._running()
        return await status(engine.store, engine.followers)

    @operation
    async def backlog(self, most: int = 0) -> tuple[int, float]:
        """Return how many changes wait to be indexed, seen a moment ago at most; and in about how many seconds no
        more than `most` will.
        """
        backlog = (await self._running()).backlog
        return await backlog.count(), backlog.clears_s(most)

    @operation
    async def letters(self, follower: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        """Return what followers could not follow and put aside, in the order of the log."""
        store = await self._ready()
        return await store.letters(named("follower", follower), after=line_of(after), limit=limit_of(limit))

    @operation
    async def replay_letters(self, seqs: Iterable[int] | None = None, *, follower: str | None = None) -> int:
        """Have letters tried again: those about these lines of the log, or all, of one follower or of all. Return how
        many. Here that happens at once; where workers follow, some seconds later.
        """
        engine = await self._running()
        chosen = await self._chosen(seqs, follower)
        again = tuple(dataclasses.replace(letter, tries=0) for letter in chosen)
        await engine.store.commit(Batch(letters=again))
        if self.settings.work != ELSEWHERE:
            for each in (*engine.followers, *engine.sending.senders):
                await replay(each, engine.store)
        return len(again)

    @operation
    async def drop_letters(self, seqs: Iterable[int] | None = None, *, follower: str | None = None) -> int:
        """Throw letters away: what they are about is not followed. Return how many."""
        chosen = await self._chosen(seqs, follower)
        answered = tuple((letter.follower, letter.change.seq) for letter in chosen)
        await (await self._ready()).commit(Batch(answered=answered))
        return len(answered)

    async def _chosen(self, seqs: Iterable[int] | None, follower: str | None) -> list[Letter]:
        """Return the letters about these lines; raise NotFound where there is none about one of them."""
        found = await letters(await self._ready(), named("follower", follower))
        if seqs is None:
            return found
        lines = {line_of(seq) for seq in seqs}
        if missing := lines - {letter.change.seq for letter in found}:
            raise NotFound(f"no letter about line {min(missing)} of the log: see `simonides letters`")
        return [letter for letter in found if letter.change.seq in lines]

    @operation
    async def rebuild(self, *, progress: Progress | None = None) -> int:
        """Make the full-text words and the vector index again from the records; return how many vectors there are."""
        engine = await self._running()
        await engine.store.rebuild()
        await engine.follow(progress)
        return await engine.index.rebuild() if engine.index else 0

    @operation
    async def settle(self, *, progress: Progress | None = None) -> None:
        """Wait until everything remembered so far is indexed."""
        await (await self._running()).follow(progress, wait=True)

    async def open(self) -> Self:
        """Open the store now rather than at the first call."""
        if self._calls.closed:
            raise Invalid("this memory is closed")
        with self._calls:
            await self._ready()
        return self

    async def close(self) -> None:
        """Finish the calls under way and what runs in the background, and close everything. Closing twice is fine."""
        if self._calls.closed:
            return
        self._calls.closed = True
        await self._calls.ended()
        if self._engine:
            await self._engine.close(self._patience_s)
        elif self._embedder:
            await self._embedder.close()
        if self.cache:
            await self.cache.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    async def _erased_behind(self, place: int | None) -> tuple[bool, int]:
        """See `happened.erased`: for whoever keeps answers outside of this memory."""
        return await happened.erased(await self._ready(), place)

    async def _ready(self) -> Store:
        return (await self._running()).store

    async def _running(self) -> Engine:
        """Return what this runs on, opened by the first call."""
        if self._engine is None:
            async with self._opening:
                if self._engine is None:
                    self._engine = await opened(
                        self.settings, self._url, self._home, embedder=self._embedder, cache=self.cache,
                        waits=self._settled, around=self._opened,
                    )  # fmt: skip
        await self._engine.turn()
        return self._engine

    async def _grown(self, after: int, wait_s: float) -> int:
        """Return the last line of the log once it is beyond `after`, or when so many seconds are over."""
        return await (await self._ready()).grown(after, wait_s)

    def _opened_cache(self, whatever: bool) -> Cache | None:
        """Return the cache of the settings; where not `whatever` they name is wanted, only one that others share."""
        found = open_cache(self.settings.cache)
        return self._opened("cache", found) if found and (whatever or found.shared) else None

    def _opened(self, part: str, what: T) -> T:
        """Return what a store, index or embedder is used through: itself, unless somebody measures it."""
        return what

    def _scope(self, given: Mapping[str, Any]) -> Scope:
        return scope_of(given, self._home, self._require)

    def _query(self, call: str, which: Mapping[str, Any]) -> Query:
        check_names(call, which, WHICH)
        return query_of(which, self._scope(which), self._zone)

    async def _latest(self, id: str, scope: Scope) -> Record:
        [record] = (await existing(await self._ready(), scope, [id_of(id)])).values()
        return record


# What the overloads say to a type checker, for whoever asks the function itself.
setattr(AsyncMemory.remember, "__signature__", inspect.signature(AsyncMemory._remember))  # noqa: B010
setattr(AsyncMemory.forget, "__signature__", inspect.signature(AsyncMemory._forget))  # noqa: B010
