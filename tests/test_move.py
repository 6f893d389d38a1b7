"""Moves between stores: everything arrives, whatever happens meanwhile, and both sides are proved equal."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import filled_in, open_store
from hypothesis import given
from hypothesis import strategies as st

from simonides.errors import Conflict, Invalid
from simonides.kinds import Message
from simonides.move import compare, differing, move, plan
from simonides.record import NEVER, Link, Record, Ref, Scope, Span, new_id, now
from simonides.store import Batch, Certificate, Cursor, Letter, Store
from simonides.testing.records import ANA, OTHER, TEAM, archives, entity, every, said
from simonides.testing.stores import rule, told
from simonides.testing.stores.steps import MAY, SPRING, embedded, put, unit
from simonides.whole import summed

WAYS = [
    ("memory:", "sqlite:///<tmp>/b.db"),
    ("sqlite:///<tmp>/a.db", "memory:"),
    ("sqlite:///<tmp>/a.db", "sqlite:///<tmp>/b.db"),
    ("sqlite:///<tmp>/a.db", "postgresql://<schema>"),
    ("postgresql://<schema>", "sqlite:///<tmp>/b.db"),
]


async def fill(store: Store) -> dict[str, Record]:
    """Write something of everything that a store can hold."""
    record, gone, reborn = said("bridge one", labels=("a",)), said("a secret"), said("first life", id="x")
    city, stranger = entity("Lisbon", links=(Link("about", record.id),)), said("elsewhere", OTHER, id=record.id)
    await put(store, record, gone, reborn, city, stranger, said("of the team", TEAM))
    await put(store, record.revise(body=Message(text="bridge two")), city.revise(valid=NEVER))
    await put(store, entity("Lisbon"))
    restored = said("from elsewhere", known=Span(SPRING), metadata={"b": 1, "a": [1.0, None, {"z": True}]})
    await store.commit(Batch(restore=(restored,)))
    vectors = [
        embedded(record, unit(1, 0), unit(3, 4), tokens=b"tokens"),
        embedded(gone),
        embedded(reborn),
        embedded(stranger),
    ]
    await store.commit(Batch(embeddings=tuple(vectors)), cursor=Cursor("vectors/small", 0, 5))
    await store.recalled({record.ref: MAY, gone.ref: MAY, stranger.ref: SPRING})
    for seq, name in ((1, "b"), (1, "a"), (2, "a")):
        [line] = await store.changes(after=seq - 1, limit=1)
        await store.commit(Batch(letters=(Letter(name, line, 3, MAY, "Unavailable: it does not answer"),)))
    await store.commit(Batch(), cursor=Cursor("lease/a#1", 0, 77))
    await erase(store, gone)
    await store.commit(Batch(erase=(reborn.ref,)))
    await put(store, said("second life", id="x"), said("and more"))
    await store.commit(Batch(embeddings=(embedded(said("", id="x"), unit(0, 1)),)))
    return {"record": record, "gone": gone, "city": city}


async def erase(store: Store, record: Record) -> None:
    await store.commit(Batch(erase=(record.ref,)))
    walls = Scope(tenant=record.scope.tenant, space=record.scope.space)
    certificate = Certificate(new_id(), now(), walls, (record.id,), (), {"records": 1}, "deleted")
    await store.commit(Batch(certificate=certificate))


@pytest.fixture(params=WAYS, ids=lambda way: " to ".join(url.partition(":")[0] for url in way))
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Store]]:
    stores = [open_store(filled_in(url, request)) for url in request.param]
    yield stores[0], stores[1]
    for store in stores:
        await store.close()


async def test_everything_arrives(both: tuple[Store, Store]) -> None:
    source, target = both
    await fill(source)
    moved = await move(source, target)
    assert moved.equal and moved.behind == 0
    assert await target.changes() == await source.changes()
    for scope in await source.realms():
        assert await target.find(every(scope)) == await source.find(every(scope))
        assert await target.models(scope) == await source.models(scope)
    assert await target.unfinished() == await source.unfinished() == [Ref(*ANA.realm, "x")]
    assert await target.cursor("vectors/small") == 5 and await target.cursor("lease/a#1") == 0
    assert [(letter.follower, letter.change.seq) for letter in await target.letters()] == [("a", 1), ("b", 1)]
    assert (await target.check()).complaints == ()
    assert [record.text for record, _ in await target.words(every(ANA), "second")] == ["second life"]
    [own] = await put(target, said("the first of its own"))
    assert own.seq == await source.head() + 1


@rule
@given(archive=archives(), erased=st.sets(st.integers(0, 5)), revised=st.booleans(), way=st.sampled_from([0, 1]))
def test_whatever_a_store_holds_arrives(
    archive: list[tuple[Record, ...]], erased: set[int], revised: bool, way: int
) -> None:
    async def story() -> None:
        stores = open_store("memory:"), open_store("sqlite:///:memory:")
        source, target = stores if way else stores[::-1]
        try:
            for versions in archive:
                await source.commit(Batch(restore=versions))
            made = [embedded(versions[-1], unit(number, 1)) for number, versions in enumerate(archive)]
            await source.commit(Batch(embeddings=tuple(made)))
            await source.recalled({versions[0].ref: MAY for versions in archive[::2]})
            assert (await move(source, target)).equal
            gone = [versions[0].ref for number, versions in enumerate(archive) if number in erased]
            await source.commit(Batch(erase=tuple(gone)))
            for number, versions in enumerate(archive):
                if number in erased:
                    await source.commit(Batch(restore=versions[:1]))
                elif revised:
                    await put(source, versions[-1].revise(importance=versions[-1].importance % 10 + 1))
            moved = await move(source, target)
            assert moved.equal and len(await source.changes(limit=1000)) == moved.target.head
        finally:
            for store in stores:
                await store.close()

    told(story())


async def test_a_move_goes_on_with_what_was_written_since(both: tuple[Store, Store]) -> None:
    source, target = both
    kept = await fill(source)
    await move(source, target)
    await put(source, kept["record"].revise().revise(body=Message(text="bridge three")), said("later"))
    await erase(source, kept["city"])
    await source.commit(Batch(answered=(("a", 1),)), cursor=Cursor("vectors/small", 5, 9))
    assert (await plan(source, target)).lines == 4
    moved = await move(source, target)
    assert moved.equal and moved.lines == 4
    assert await target.cursor("vectors/small") == 9


async def test_writers_go_on_while_it_moves(both: tuple[Store, Store]) -> None:
    source, target = both
    await put(source, *(said(f"bridge {number}") for number in range(1500)))
    done = asyncio.Event()

    async def at_work() -> int:
        written = 0
        while not done.is_set():
            record = said(f"written meanwhile {written}")
            await put(source, record)
            await put(source, record.revise(body=Message(text="revised")))
            if written % 5 == 0:
                await erase(source, record)
            written += 1
            await asyncio.sleep(0.01)
        return written

    writer = asyncio.create_task(at_work())
    try:
        moved = await move(source, target)
    finally:
        done.set()
    assert await writer > 0 and moved.equal
    last = await move(source, target)
    assert last.equal and last.behind == 0 and last.source.head == await source.head()


async def test_a_model_that_was_dropped_meanwhile_goes_there_too(both: tuple[Store, Store]) -> None:
    source, target = both
    kept = await fill(source)
    await source.commit(Batch(embeddings=(embedded(kept["record"], model="old"),)))
    await move(source, target)
    await source.drop_model("old")
    await source.drop_model("small")
    await source.commit(Batch(embeddings=(embedded(kept["record"], unit(4, 3)),)))
    assert (await move(source, target)).equal
    assert await target.models() == {"small": 1}


async def test_what_is_erased_during_a_move_is_in_no_byte_of_the_target(tmp_path: Path) -> None:
    source, target = open_store(f"sqlite:///{tmp_path}/a.db"), open_store(f"sqlite:///{tmp_path}/b.db")
    secret = said("the vault opens with 4711 0815")
    await put(source, secret, said("harmless"))
    await move(source, target)
    await erase(source, secret)
    await move(source, target)
    assert all(b"4711 0815" not in path.read_bytes() for path in tmp_path.glob("b.db*"))
    for store in (source, target):
        await store.close()


async def test_a_target_that_holds_something_else_is_refused(both: tuple[Store, Store]) -> None:
    source, target = both
    await put(source, said("one"))
    await put(target, said("two"))
    with pytest.raises(Conflict, match="not empty"):
        await move(source, target)
    with pytest.raises(Invalid, match="same"):
        await move(source, source)


async def test_a_target_that_somebody_else_wrote_to_is_a_copy_no_more(both: tuple[Store, Store]) -> None:
    source, target = both
    await put(source, said("one"))
    await move(source, target)
    await put(target, said("two"))
    with pytest.raises(Conflict, match="something else"):
        await move(source, target)


async def test_a_difference_is_seen_and_named(both: tuple[Store, Store]) -> None:
    source, target = both
    kept = await fill(source)
    await move(source, target)
    before = await compare(source, target)
    assert before[0] == before[1] and before[0].digest == before[1].digest and not differing(before)
    await target.recalled({kept["record"].ref: datetime(2027, 1, 1, tzinfo=UTC)})
    after = await compare(source, target)
    assert after[0] != after[1] and differing(after) == [Scope(tenant="acme", space="main")]


async def test_every_part_of_a_record_counts_in_the_sum() -> None:
    async def sum_of(record: Record) -> str:
        store = open_store("memory:")
        await store.commit(Batch(restore=(record,)))
        return next(realm.digest for realm in (await summed(store)).realms)

    record = said("one", known=Span(MAY), id="a", metadata={"a": 1, "b": 2})
    changes = [
        {"metadata": {"a": 1, "b": 2.0}}, {"metadata": {"a": True, "b": 2}}, {"labels": ("a",)}, {"pinned": True},
        {"valid": Span(SPRING)}, {"valid": Span(None, SPRING)}, {"known": Span(SPRING)}, {"begun": SPRING},
        {"links": (Link("a", "b"),)}, {"importance": 6}, {"folder": "a"}, {"part_of": "a"}, {"source": "b"},
        {"body": Message(text="one", role="assistant")}, {"scope": dataclasses.replace(ANA, session="a")},
    ]  # fmt: skip
    sums = {await sum_of(dataclasses.replace(record, **change)) for change in changes}
    assert len(sums | {await sum_of(record)}) == len(changes) + 1


@pytest.mark.parametrize("target", ["sqlite:///<tmp>/b.db", "postgresql://<schema>"])
def test_a_move_that_is_killed_goes_on_where_it_was(
    target: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    urls = [f"sqlite:///{tmp_path}/a.db", filled_in(target, request)]

    async def filled() -> None:
        source = open_store(urls[0])
        for start in range(0, 6000, 1000):
            records = [said(f"bridge {number}") for number in range(start, start + 1000)]
            await put(source, *records)
            await source.commit(Batch(embeddings=tuple(embedded(record) for record in records)))
        await source.close()

    asyncio.run(filled())
    program = """
        import asyncio, sys
        from simonides.config import open_backend
        from simonides.move import move

        async def main():
            source, target = (open_backend("stores", url) for url in sys.argv[1:])
            moved = await move(source, target, lambda count: print(count, flush=True))
            print("equal", moved.equal, flush=True)

        asyncio.run(main())
    """
    killed = 0
    for after in (1, 4, 14, 20, 10**9):
        ran = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), *urls], stdout=subprocess.PIPE, text=True
        )
        assert ran.stdout is not None
        lines = list[str]()
        while line := ran.stdout.readline():
            lines.append(line.strip())
            if len(lines) == after:
                os.kill(ran.pid, signal.SIGKILL)
        killed += ran.wait() == -signal.SIGKILL
        ran.stdout.close()
    assert killed == 4 and lines[-1] == "equal True"

    async def looked() -> None:
        target = open_store(urls[1])
        assert (await target.counts())["versions"] == (await target.counts())["vectors"] == 6000
        assert (await target.check()).complaints == ()
        await target.close()

    asyncio.run(looked())
