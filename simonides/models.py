"""The embedding models of a store: which one answers, and the change from one to another while recall goes on.

A store keeps the vectors of several models beside each other, each made by a follower of its own that starts at 0. The
one that answers is the one that was chosen last: a place `model/<name>` in the store holds the number of its choice. A
process that knows two (the settings `embedder` and `embedder_next`) looks there before each call, so all of them turn
to the other at once, without a restart, and back again. What was dropped is noted in a place `dropped/<name>`, so that
a process that was never told does not make it all again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .derivers.vectors import LOOKS_S, Vectors, dropped
from .embedder import Embedder
from .errors import Conflict, Invalid
from .follow import Progress, reached, settle
from .index import Index
from .passes import Elsewhere, Passes
from .query import Query
from .record import Record, Scope
from .store import Batch, Cursor, Store

NEAREST = 10  # neighbours of each text that two models are compared by
ASKED = 300  # characters of a text that its neighbours are looked for with
POOL = 2_000  # newest records of a realm from which some are drawn
TRIED = 64  # texts that are embedded to tell how long all will take
DROPPED = 1_000  # vectors that one transaction removes, while others wait to write


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model and the index of what it made."""

    embedder: Embedder
    index: Index

    @property
    def name(self) -> str:
        return self.embedder.name


@dataclass(frozen=True, slots=True)
class Working(Model):
    """A model that embeds what is written, too."""

    vectors: Vectors
    passes: Passes | Elsewhere


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store keeps of a model. `behind` is how many lines of the log its follower has not read."""

    name: str
    vectors: int
    behind: int
    answers: bool  # it was chosen last
    dropped: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change to another model would take: the versions it embeds, and about how long and how many bytes."""

    versions: int
    behind: int
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two models find the same: of `asked` texts, the mean share of the ten nearest that both name, and how
    often both name the same one first. It says how much will change, not which of them is right.
    """

    asked: int
    shared: float
    first: float


async def turns(store: Store, names: Iterable[str]) -> dict[str, int]:
    """Return the number of the choice that made each of these the one that answers; 0: it never was chosen."""
    found = await store.cursors("model/")
    return {name: found.get(f"model/{name}", 0) for name in names}


async def is_dropped(store: Store, name: str) -> bool:
    return bool(await store.cursor(dropped(name)))


async def answering(store: Store, names: Iterable[str]) -> str:
    """Return which of these was chosen last; where none was, the first."""
    chosen = await turns(store, names)
    return max(chosen, key=lambda name: chosen[name])


async def check_told(store: Store, name: str) -> str | None:
    """Return a remark where the store has moved on to another model; raise Invalid where this one was dropped."""
    chosen = await turns(store, [name, *_names(await store.models())])
    latest = max(chosen, key=lambda other: chosen[other])
    if latest == name:
        return None
    if await is_dropped(store, name):
        raise Invalid(
            f"this store has moved on to the embedding model {latest}, and what {name} had made is dropped: set the"
            " embedder to that model (SIMONIDES_EMBEDDER), or bring this one back with `simonides embeddings migrate`"
        )
    return f"this store has moved on to the embedding model {latest}: set the embedder to it (SIMONIDES_EMBEDDER)"


async def kept(store: Store) -> list[Kept]:
    """Return the models whose vectors the store keeps, and those it dropped, by name; recipes of one are one."""
    head, counted = await store.head(), await store.models()
    chosen = await turns(store, _names(counted))
    latest = max(chosen.values(), default=0)
    found = []
    for name in chosen:
        recipes = [model for model in counted if _embedder_of(model) == name]
        place = max([await _place(store, f"vectors/{model}") for model in recipes])
        vectors = sum(counted[model] for model in recipes)
        answers = chosen[name] == latest and (latest > 0 or len(chosen) == 1)
        found.append(Kept(name, vectors, head - place, answers, await is_dropped(store, name)))
    return found


async def _place(store: Store, follower: str) -> int:
    return reached(follower, await store.cursors(follower))


def _names(models: Iterable[str]) -> list[str]:
    return sorted({_embedder_of(model) for model in models})


def _embedder_of(model: str) -> str:
    return model.rpartition("/")[0]


async def planned(store: Store, embedder: Embedder) -> Plan:
    """Return what it would take to embed what this model has not embedded yet. Some texts are embedded to see."""
    place, head = await _place(store, Vectors(embedder).name), await store.head()
    counts = await store.counts()
    share = (head - place) / head if head else 0.0
    versions = round(counts["versions"] * share)
    texts = [record.text for record in await _drawn(store, TRIED)]
    began = time.perf_counter()
    if texts:
        await embedder.embed(texts)
    each = (time.perf_counter() - began) / len(texts) if texts else 0.0
    return Plan(versions, head - place, each * versions, versions * embedder.dimension * 2)


async def fill(store: Store, embedder: Embedder, progress: Progress | None = None) -> None:
    """Make the vectors that this model has not made yet, beside those of others; where it is cut off, it goes on."""
    vectors = Vectors(embedder)
    if await is_dropped(store, embedder.name):
        await _move(store, dropped(embedder.name), 0)  # first: nobody passes over anything from here on
        for place in [vectors.name, *await store.cursors(f"{vectors.name}#")]:
            await _move(store, place, 0)
    await settle([vectors], store, progress)


async def choose(store: Store, name: str) -> None:
    """Make this the model that answers, in every process that knows it, from its next call on."""
    chosen = await turns(store, {*_names(await store.models()), name})
    latest = max(chosen.values())
    if not latest or chosen[name] < latest:
        await _move(store, f"model/{name}", latest + 1)


async def drop(store: Store, name: str, indexes: Iterable[Index] = (), progress: Progress | None = None) -> int:
    """Remove every vector of a model, from the store and from these indexes; return how many there were."""
    found = await kept(store)
    if not any(each.name == name for each in found):
        raise Invalid(f"the store keeps nothing of a model {name!r}; it has {', '.join(each.name for each in found)}")
    if any(each.answers and each.name == name for each in found):
        raise Invalid(f"{name} is the model that answers: choose another first, with `simonides embeddings use`")
    await _move(store, dropped(name), 1)
    await asyncio.sleep(1.2 * LOOKS_S)  # by then whoever follows with it has seen this
    count = 0
    for model in [model for model in await store.models() if _embedder_of(model) == name]:
        for place in [f"vectors/{model}", *await store.cursors(f"vectors/{model}#")]:
            await _move(store, place, await store.head())  # what a follower is about to write finds its place moved
        while gone := await store.drop_model(model, limit=DROPPED):
            count += gone
            if progress:
                progress(gone)
    for index in indexes:
        await index.rebuild()
    return count


async def _move(store: Store, place: str, to: int) -> None:
    while (was := await store.cursor(place)) != to:
        try:
            await store.commit(Batch(), cursor=Cursor(place, was, to))
        except Conflict:
            continue


async def agreement(store: Store, old: Model, new: Model, sample: int = 200) -> Agreement:
    """Ask both models for what lies nearest to some of the texts remembered, the same texts each time."""
    drawn = await _drawn(store, sample)
    shared = first = 0.0
    asked = 0
    for record in drawn:
        theirs, ours = [await _nearest(model, record) for model in (old, new)]
        if theirs and ours:
            asked += 1
            shared += len(set(theirs) & set(ours)) / max(len(theirs), len(ours))
            first += theirs[0] == ours[0]
    return Agreement(asked, shared / asked if asked else 1.0, first / asked if asked else 1.0)


async def _nearest(model: Model, record: Record) -> list[str]:
    [vector] = await model.embedder.embed([record.text[:ASKED]], query=True)
    realm = Scope(tenant=record.scope.tenant, space=record.scope.space)
    found = await model.index.near(Query(scope=realm, limit=NEAREST + 1), vector, NEAREST + 1)
    return [near.id for near, _ in found if near.id != record.id][:NEAREST]


async def _drawn(store: Store, count: int) -> list[Record]:
    """Return up to so many records, drawn at random from the newest of each realm, the same each time."""
    pool = list[Record]()
    for realm in await store.realms():
        query = Query(scope=realm, newest=True, limit=POOL)
        pool += [record for record in await store.find(query) if record.text.strip()]
    return random.Random(len(pool)).sample(pool, min(count, len(pool)))
