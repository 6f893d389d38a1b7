"""Moves a whole memory into another store: copies it while it is in use, catches up, and proves both sides equal.

What is copied has the same ids, versions, clocks and lines of the log, so whatever somebody noted of the one store
means the same in the other. How far a copy has come is kept in the target, in the transaction that writes it: a move
that was cut off goes on there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass

from .errors import Conflict, Invalid
from .follow import letters
from .record import Ref, Scope
from .store import Change, Embedding, Store
from .whole import (
    MARK,
    Progress,
    Sums,
    embeddings,
    erasures,
    last_erased,
    places,
    recalls,
    stretches,
    summed,
    write,
    write_embeddings,
    write_letters,
    write_places,
)

CLOSE = 200  # lines that may be written meanwhile, without another round
ROUNDS_MAX = 6  # after which a source that gains faster than it is copied is left to the next move


@dataclass(frozen=True, slots=True)
class Plan:
    """What a move would do: lines of the log that are left to copy, and how many are there already."""

    lines: int
    there: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did. `behind` is how many lines the source gained since the snapshot that was compared."""

    lines: int
    versions: int
    embeddings: int
    rounds: int
    behind: int
    source: Sums
    target: Sums

    @property
    def equal(self) -> bool:
        return self.source == self.target


async def plan(source: Store, target: Store) -> Plan:
    """Return what is left to do; raise Conflict where the target holds something that a move of this source did not
    bring.
    """
    if source.identity == target.identity:
        raise Invalid("both are the same store")
    place, head = await target.cursor(_mark(source)), await target.head()
    if place == 0 and (head or (await target.counts())["records"]):
        raise Conflict("the target is not empty, and what it holds is no move of this source: name an empty store")
    if head != place:
        raise Conflict(
            f"something else was written to the target since line {place} came there: it is no copy any more"
        )
    behind = await source.head() - place
    if behind < 0 or (place and await _line(source, place) != await _line(target, place)):
        raise Conflict("the source is not what it was when the move began: an older copy of it, perhaps")
    return Plan(behind, place)


async def _line(store: Store, number: int) -> list[Change]:
    return await store.changes(after=number - 1, limit=1)


async def move(source: Store, target: Store, progress: Progress | None = None) -> Moved:
    """Copy the source into the target, or go on with it, until both are equal as of a moment; return the proof."""
    await plan(source, target)
    copy = _Copy(source, target, progress)
    while True:
        async with source.snapshot() as frozen:
            await copy.round(frozen)
            behind = await source.head() - await frozen.head()
            if behind <= CLOSE or copy.rounds == ROUNDS_MAX:
                await copy.finish(frozen)
                sums = await summed(frozen, progress), await summed(target, progress)
                return Moved(copy.lines, copy.versions, copy.embeddings, copy.rounds, behind, *sums)


async def compare(source: Store, target: Store, progress: Progress | None = None) -> tuple[Sums, Sums]:
    """Return the sums of both, each as of one moment."""
    async with source.snapshot() as one, target.snapshot() as other:
        return await summed(one, progress), await summed(other, progress)


class _Copy:
    def __init__(self, source: Store, target: Store, progress: Progress | None) -> None:
        self.lines = self.versions = self.embeddings = self.rounds = 0
        self._target, self._progress, self._mark = target, progress, _mark(source)
        self._erased = False
        self._slots: dict[tuple[tuple[str, str], str, int], int] = {}  # the next one of each realm, model and group

    async def round(self, frozen: Store) -> None:
        self.rounds += 1
        after = await self._target.cursor(self._mark)
        gone = last_erased(await erasures(frozen, after))
        async for entries in stretches(frozen, after, gone):
            self._erased |= await write(self._target, entries, self._mark)
            self.lines += len(entries)
            self.versions += sum(record is not None for _, record in entries)
            if self._progress:
                self._progress(len(entries))
        for scope in await frozen.realms():
            for model in await frozen.models(scope):
                await self._embed(frozen, scope, model)

    async def _embed(self, frozen: Store, scope: Scope, model: str) -> None:
        name = (scope.realm, model, (await frozen.extent(scope, model)).group)

        async def rest() -> AsyncIterator[Embedding]:
            async for slot, embedding in embeddings(frozen, scope, model, self._slots.get(name, 0)):
                self._slots[name] = slot + len(embedding.vectors)
                yield embedding

        self.embeddings += await write_embeddings(self._target, rest(), self._progress)

    async def finish(self, frozen: Store) -> None:
        """Bring over what is noted beside the log, and take away what the source has dropped meanwhile."""
        for scope in await frozen.realms():
            for model in {**await frozen.models(scope), **await self._target.models(scope)}:
                if (await frozen.models(scope)).get(model) != (await self._target.models(scope)).get(model):
                    await self._again(frozen, model)
            async for page in recalls(frozen, scope):
                await self._target.recalled({Ref(*scope.realm, id): at for id, at in page})
        await write_letters(self._target, await letters(frozen))
        await write_places(self._target, await places(frozen))
        if self._erased:
            await self._target.scrub()

    async def _again(self, frozen: Store, model: str) -> None:
        await self._target.drop_model(model)
        self._slots = {name: slot for name, slot in self._slots.items() if name[1] != model}
        for scope in await frozen.realms():
            if model in await frozen.models(scope):
                await self._embed(frozen, scope, model)


def _mark(source: Store) -> str:
    return f"{MARK}{source.identity}"


def differing(moved: tuple[Sums, Sums]) -> list[Scope]:
    """Return the realms in which the two differ."""
    one, other = ({(realm.tenant, realm.space): realm for realm in sums.realms} for sums in moved)
    names = sorted(name for name in {**one, **other} if one.get(name) != other.get(name))
    return [dataclasses.replace(Scope(), tenant=tenant, space=space) for tenant, space in names]
