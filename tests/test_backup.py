"""Backups: what is restored is what there was; what is erased is gone from every one; nothing damaged is believed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import filled_in, open_store
from engines import Schemas
from hypothesis import given, settings
from hypothesis import strategies as st
from test_blobs import bucket as bucket
from test_move import erase, fill

from simonides.access import Permit
from simonides.backup import Backup, Place, create, enter, look, prune, restore, restore_keys, spared, verify
from simonides.blobs.folder import FolderBlobs
from simonides.config import blob_url, open_backend
from simonides.directory import Directory, Grant
from simonides.errors import Conflict, Damaged, Invalid, NotFound
from simonides.forgetting import certificates
from simonides.kinds import Message
from simonides.record import Record, Scope, now
from simonides.store import Batch, Cursor, Store
from simonides.testing.records import ANA, archives, every, said
from simonides.testing.stores import rule, told
from simonides.testing.stores.steps import MAY, embedded, found_texts, put, unit
from simonides.whole import summed

SECRET = "the vault opens with 4711 0815"
PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses need not cost much here."""
    monkeypatch.setattr("simonides.sealing.COST", 2**10)


@pytest.fixture(params=["memory:", "sqlite:///<tmp>/m.db", "postgresql://<schema>"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    opened = open_store(filled_in(request.param, request))
    yield opened
    await opened.close()


def blobs(path: Path) -> FolderBlobs:
    return FolderBlobs(blob_url(str(path / "backups")))


async def place(path: Path, passphrase: str | None = None) -> Place:
    return await enter(blobs(path), lambda _: passphrase)


async def restored(path: Path, id: str | None = None, passphrase: str | None = None, url: str = "memory:") -> Store:
    inside, store = await place(path, passphrase), open_store(url)
    await restore(inside, inside.get(id), store)
    return store


def held(path: Path, text: str) -> list[str]:
    """Return the names of the files of the place that hold the text, unpacked."""

    async def look_through() -> list[str]:
        inside, found = await place(path), set[str]()
        files = {
            file.relative_to(path / "backups").as_posix() for file in (path / "backups").rglob("*") if file.is_file()
        }
        parts = {part.name: part for each in inside.backups for part in each.parts}
        assert {name for name in files if name.startswith("parts/")} == set(parts)
        for name, part in parts.items():
            async for frame in inside.frames(part):
                if text.encode() in frame:
                    found.add(name)
        return sorted(found)

    return asyncio.run(look_through())


# -- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
async def test_what_is_restored_is_what_there_was(
    store: Store, tmp_path: Path, passphrase: str | None, schemas: Schemas
) -> None:
    await fill(store)
    made = await create(store, await place(tmp_path, passphrase))
    assert made.backup.counts == {"lines": 15, "versions": 10, "embeddings": 3, "keys": 0, "records": 8}
    for url in ("memory:", f"sqlite:///{tmp_path}/new.db", schemas.url()):
        copy = await restored(tmp_path, passphrase=passphrase, url=url)
        assert await summed(copy) == await summed(store)
        assert await copy.changes() == await store.changes()
        assert await copy.find(every(ANA)) == await store.find(every(ANA))
        assert (await copy.check()).complaints == ()
        await copy.close()


@settings(rule, max_examples=25)
@given(rounds=st.lists(st.tuples(archives(), st.sets(st.integers(0, 5))), min_size=1, max_size=3), full=st.booleans())
def test_a_chain_of_backups_holds_each_state(
    rounds: list[tuple[list[tuple[Record, ...]], set[int]]], full: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("chain")

    async def story() -> None:
        store = open_store("sqlite:///:memory:")
        made = list[tuple[Backup, list[Record]]]()
        erased = set[str]()
        for archive, doomed in rounds:
            for number, versions in enumerate(archive):
                try:
                    await store.commit(Batch(restore=versions))
                except Conflict:
                    continue
                await store.commit(Batch(embeddings=(embedded(versions[0], unit(number, 1)),)))
                await store.recalled({versions[0].ref: MAY})
                if number in doomed:
                    await store.commit(Batch(erase=(versions[0].ref,)))
                    erased.add(str(versions[0].ref))
                    made = [(each, [one for one in kept if one.ref != versions[0].ref]) for each, kept in made]
            done = await create(store, await place(path), full=full)
            kept = [one for scope in await store.realms() for one in await store.find(every(scope))]
            made.append((done.backup, kept))
        last = await restored(path)
        assert await summed(last) == await summed(store)
        for each, kept in made:
            copy = await restored(path, each.id)
            there = [one for scope in await copy.realms() for one in await copy.find(every(scope))]
            assert sorted(there, key=_name) == sorted(kept, key=_name)
            assert (await copy.check()).complaints == ()
            assert not (await verify(await place(path), (await place(path)).get(each.id))).complaints
        await store.close()

    told(story())


def _name(record: Record) -> tuple[str, ...]:
    return record.scope.tenant, record.scope.space, record.id, f"{record.version:09}"


async def test_the_next_backup_adds_what_is_new(store: Store, tmp_path: Path) -> None:
    kept = await fill(store)
    first = (await create(store, await place(tmp_path))).backup
    record = kept["record"]
    await put(store, record.revise().revise(body=Message(text="bridge three")), said("later"))
    await store.commit(Batch(), cursor=Cursor("vectors/small", 5, 9))
    await store.recalled({record.ref: MAY})
    second = (await create(store, await place(tmp_path))).backup
    assert (second.base, first.base) == (first.id, None)
    assert {part.name for part in first.of("log")} < {part.name for part in second.of("log")}
    assert [(part.first, part.last) for part in second.of("log")] == [(1, 15), (16, 17)]
    assert second.added < first.added and second.size > second.added
    copy = await restored(tmp_path)
    assert await summed(copy) == await summed(store)
    old = await restored(tmp_path, first.id)
    assert "bridge three" not in await found_texts(old, every(ANA))
    ends = [version.known.until for version in await old.find(every(ANA, ids=frozenset({record.id})))]
    assert ends[0] is not None and ends[1] is None
    third = (await create(store, await place(tmp_path))).backup
    assert third.of("log") == second.of("log")


async def test_writers_go_on_and_the_backup_is_of_one_moment(store: Store, tmp_path: Path) -> None:
    await put(store, *(said(f"bridge {number}") for number in range(1200)))
    done = asyncio.Event()

    async def at_work() -> None:
        while not done.is_set():
            one, two = said("pair"), said("pair")
            await put(store, one, two)
            await put(store, one.revise(importance=9), two.revise(importance=9))
            await asyncio.sleep(0.005)

    writer = asyncio.create_task(at_work())
    try:
        made = [(await create(store, await place(tmp_path))).backup for _ in range(3)]
    finally:
        done.set()
        await writer
    for each in made:
        copy = await restored(tmp_path, each.id)
        assert await copy.head() == each.head
        assert [line.seq for line in await copy.changes(limit=10**6)] == list(range(1, each.head + 1))
        pairs = [record for record in await copy.find(every(ANA)) if record.text == "pair"]
        ended = sum(record.known.until is not None for record in pairs)
        assert ended == sum(record.version == 2 for record in pairs) and len(pairs) % 2 == 0
        assert (await copy.check()).complaints == ()


async def test_vectors_may_be_left_out(store: Store, tmp_path: Path) -> None:
    await fill(store)
    made = (await create(store, await place(tmp_path), vectors=False)).backup
    assert (made.vectors, made.counts["embeddings"]) == (False, 0)
    assert await (await restored(tmp_path)).models() == {}
    again = (await create(store, await place(tmp_path))).backup
    assert again.base == made.id and again.counts["embeddings"] == 3
    assert await summed(await restored(tmp_path)) == await summed(store)


async def test_vectors_of_a_model_that_was_dropped_do_not_come_back(store: Store, tmp_path: Path) -> None:
    kept = await fill(store)
    await create(store, await place(tmp_path))
    await store.drop_model("small")
    await store.commit(Batch(embeddings=(embedded(kept["record"], unit(4, 3)),)))
    await create(store, await place(tmp_path))
    assert await summed(await restored(tmp_path)) == await summed(store)


async def test_another_store_in_the_same_place_is_another_chain(store: Store, tmp_path: Path) -> None:
    await put(store, said("one"))
    await create(store, await place(tmp_path))
    other = open_store("memory:")
    await put(other, said("two"))
    made = (await create(other, await place(tmp_path))).backup
    assert made.base is None and len((await look(blobs(tmp_path))).backups) == 2
    assert await found_texts(await restored(tmp_path), every(ANA)) == ["two"]


# -- erases ----------------------------------------------------------------------------------------------------------


def test_what_is_erased_is_in_no_file_of_any_backup_after_the_next_one(tmp_path: Path) -> None:
    async def story() -> None:
        store = open_store(f"sqlite:///{tmp_path}/m.db")
        secret = said(SECRET)
        await put(store, said("before"), secret, said("after"))
        await store.commit(Batch(embeddings=(embedded(secret, unit(3, 4)), embedded(said("", id=secret.id)))))
        await create(store, await place(tmp_path))
        await put(store, said("between"))
        await create(store, await place(tmp_path))
        await erase(store, secret)
        await store.close()

    asyncio.run(story())
    assert len(held(tmp_path, SECRET)) == 1

    async def next_one() -> None:
        store = open_store(f"sqlite:///{tmp_path}/m.db")
        made = await create(store, await place(tmp_path))
        assert made.rewritten == 2  # the log's part, and that of the vectors
        await store.close()

    asyncio.run(next_one())
    assert held(tmp_path, SECRET) == []

    async def restored_all() -> None:
        inside = await place(tmp_path)
        texts = [["before", "after"], ["before", "after", "between"], ["before", "after", "between"]]
        for each, wanted in zip(inside.backups, texts, strict=True):
            assert not (await verify(inside, each)).complaints
            copy = await restored(tmp_path, each.id)
            assert await found_texts(copy, every(ANA)) == wanted
            assert await copy.models() == {}
            assert await copy.unfinished() == []
            [certificate] = await certificates(copy, ANA)
            assert certificate.count == 1

    asyncio.run(restored_all())


async def test_an_old_backup_is_restored_without_what_a_later_one_knows_erased(tmp_path: Path) -> None:
    """Even where the old parts could not be written anew, as in a place that only ever adds."""
    store, secret = open_store("memory:"), said(SECRET)
    await put(store, secret, said("kept"))
    await store.commit(Batch(embeddings=(embedded(secret),)))
    old = (await create(store, await place(tmp_path))).backup
    files = {path: path.read_bytes() for path in (tmp_path / "backups").rglob("*") if path.is_file()}
    await erase(store, secret)
    await create(store, await place(tmp_path))
    for path, content in files.items():
        path.write_bytes(content)
    done = open_store("memory:")
    inside = await place(tmp_path)
    report = await restore(inside, inside.get(old.id), done)
    assert report.erased == 1 and await found_texts(done, every(ANA)) == ["kept"]
    assert await done.models() == {} and len(await certificates(done, ANA)) == 1
    assert (await done.head(), [line.version for line in await done.changes()]) == (4, [1, 1, 0, 0])


async def test_a_restored_store_reaches_the_backups_of_the_one_it_came_from(tmp_path: Path) -> None:
    store, secret = open_store("memory:"), said(SECRET)
    await put(store, secret, said("kept"))
    old = (await create(store, await place(tmp_path))).backup
    heir = await restored(tmp_path)
    await erase(heir, secret)
    made = await create(heir, await place(tmp_path))
    assert made.rewritten == 1 and made.backup.lineage == (store.identity,)
    assert await found_texts(await restored(tmp_path, old.id), every(ANA)) == ["kept"]


async def test_a_record_that_began_anew_is_kept(store: Store, tmp_path: Path) -> None:
    record = said("first life", id="x")
    await put(store, record)
    await store.commit(Batch(embeddings=(embedded(record, unit(1, 0)),)))
    await create(store, await place(tmp_path))
    await erase(store, record)
    await put(store, dataclasses.replace(record, body=Message(text="second life")))
    await store.commit(Batch(embeddings=(embedded(record, unit(0, 1)),)))
    for full in (False, True):
        await create(store, await place(tmp_path), full=full)
        assert await summed(await restored(tmp_path)) == await summed(store)


# -- damage ----------------------------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _swap(path: Path) -> None:
    other = next(one for one in sorted(path.parent.iterdir()) if one.name.endswith("-log") and one != path)
    path.write_bytes(other.read_bytes())


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
@pytest.mark.parametrize("harm", [_flip, _cut, _swap, _remove])
async def test_a_harmed_part_is_seen(harm: Callable[[Path], None], passphrase: str | None, tmp_path: Path) -> None:
    store = open_store("memory:")
    for text in ("one", "two"):
        await put(store, said(text))
        await create(store, await place(tmp_path, passphrase))
    harm(next(path for path in sorted((tmp_path / "backups" / "parts").iterdir()) if path.name.endswith("-log")))
    inside = await place(tmp_path, passphrase)
    assert len((await verify(inside, inside.get())).complaints) >= 1
    with pytest.raises((Damaged, NotFound)):
        await restored(tmp_path, passphrase=passphrase)
    made = await create(store, await place(tmp_path, passphrase), full=True)
    assert made.backup.base is None and not (await verify(inside, made.backup)).complaints


@pytest.mark.parametrize("harm", ["cut", "swap", "drop a chunk", "append"])
async def test_the_stream_itself_tells_where_it_was_tampered_with(harm: str, tmp_path: Path) -> None:
    """Even where the digests in the manifest would fit."""
    store = open_store("memory:")
    await put(store, *(said(os.urandom(600).hex()) for _ in range(1000)))
    made = (await create(store, await place(tmp_path, PASSPHRASE))).backup
    [part] = made.of("log")
    path = tmp_path / "backups" / part.name
    content, chunk = path.read_bytes(), 256 * 1024 + 16
    changed = {
        "cut": content[: 38 + chunk],
        "swap": content[:38]
        + content[38 + chunk : 38 + 2 * chunk]
        + content[38 : 38 + chunk]
        + content[38 + 2 * chunk :],
        "drop a chunk": content[:38] + content[38 + chunk :],
        "append": content + content[-100:],
    }[harm]
    path.write_bytes(changed)
    inside = await place(tmp_path, PASSPHRASE)
    import hashlib

    forged = dataclasses.replace(part, digest=hashlib.sha256(changed).hexdigest(), size=len(changed))
    with pytest.raises(Damaged, match="tampered"):
        _ = [frame async for frame in inside.frames(forged)]


async def test_a_changed_manifest_is_seen(tmp_path: Path) -> None:
    for passphrase in (None, PASSPHRASE):
        store = open_store("memory:")
        await put(store, said("one"))
        here = tmp_path / str(passphrase)
        made = (await create(store, await place(here, passphrase))).backup
        path = here / "backups" / "backups" / f"{made.id}.json"
        path.write_bytes(path.read_bytes().replace(b'"head":1', b'"head":0'))
        with pytest.raises(Damaged):
            await place(here, passphrase)


async def test_a_passphrase_that_is_wrong_missing_or_not_wanted(tmp_path: Path) -> None:
    store = open_store("memory:")
    await put(store, said(SECRET))
    await create(store, await place(tmp_path / "a", PASSPHRASE))
    await create(store, await place(tmp_path / "b"))
    for path, passphrase, says in (
        ("a", "wrong", "not the passphrase"),
        ("a", None, "encrypted"),
        ("a", "", "encrypted"),
        ("b", PASSPHRASE, "not encrypted"),
    ):
        with pytest.raises(Invalid, match=says):
            await place(tmp_path / path, passphrase)
    assert [each.counts["records"] for each in (await look(blobs(tmp_path / "a"))).backups] == [1]
    files = [path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 2 and all(b"acme" not in file and b"ana" not in file for file in files)


# -- where it must not go --------------------------------------------------------------------------------------------


async def test_only_an_empty_store_is_restored_into(tmp_path: Path) -> None:
    store, other = open_store("memory:"), open_store("memory:")
    await put(store, said("one"))
    await put(other, said("two"))
    await create(store, await place(tmp_path))
    inside = await place(tmp_path)
    with pytest.raises(Conflict, match="not empty"):
        await restore(inside, inside.get(), other)
    with pytest.raises(NotFound):
        inside.get("nothing")


# -- kill -9 ---------------------------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, sys
    from simonides import backup
    from simonides.backup import frames
    from simonides.config import blob_url, open_backend
    frames.PART_FRAMES = 700

    async def main():
        what, url, path = sys.argv[1:]
        store, blobs = open_backend("stores", url), open_backend("blobs", blob_url(path))
        place = await backup.enter(blobs, lambda _: None)
        tell = lambda count: print(count, flush=True)
        if what == "create":
            await backup.create(store, place, progress=tell)
        else:
            await backup.restore(place, place.get(), store, tell)
        print("done", flush=True)

    asyncio.run(main())
"""


def killed_at(after: int, *arguments: str) -> str:
    """Run the program, kill it after so many lines of progress, and return the last of them."""
    ran = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert ran.stdout is not None
    lines = list[str]()
    while line := ran.stdout.readline():
        lines.append(line.strip())
        if len(lines) == after:
            os.kill(ran.pid, signal.SIGKILL)
    ran.wait()
    ran.stdout.close()
    return lines[-1]


@pytest.mark.parametrize("kind", ["sqlite:///<tmp>/b.db", "postgresql://<schema>"])
def test_kill_9_in_the_middle_of_a_backup_and_of_a_restore(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source, copy = (filled_in(url, request) for url in (kind.replace("b.db", "a.db"), kind))
    path = str(tmp_path / "backups")

    async def filled() -> str:
        store = open_store(source)
        for start in range(0, 3000, 1000):
            records = [said(f"bridge {number}") for number in range(start, start + 1000)]
            await put(store, *records)
            await store.commit(Batch(embeddings=tuple(embedded(record) for record in records)))
        digest = (await summed(store)).digest
        await store.close()
        return digest

    digest = asyncio.run(filled())
    assert killed_at(4, "create", source, path) != "done"
    assert asyncio.run(look(blobs(tmp_path))).backups == []
    assert killed_at(10**9, "create", source, path) == "done"
    for after in (2, 3, 8):
        assert killed_at(after, "restore", copy, path) != "done"
    assert killed_at(10**9, "restore", copy, path) == "done"

    async def looked() -> None:
        store = open_store(copy)
        assert (await summed(store)).digest == digest and (await store.check()).complaints == ()
        await store.close()

    asyncio.run(looked())


async def test_what_a_backup_that_was_cut_off_left_behind_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("memory:")
    await put(store, said("one"))
    inside = await place(tmp_path)
    await inside.blobs.put("parts/00000000-0000-7000-8000-000000000000-log", b"left behind")
    made = (await create(store, inside)).backup
    names = [blob.name for blob in await inside.blobs.list("parts")]
    assert sorted(names) == sorted(part.name for part in made.parts)


# -- S3 --------------------------------------------------------------------------------------------------------------


async def test_backups_in_s3(bucket: str) -> None:
    there = open_backend("blobs", blob_url(bucket))
    store, secret = open_store("memory:"), said(SECRET)
    await fill(store)
    await put(store, secret)
    await create(store, await enter(there, lambda _: PASSPHRASE))
    await erase(store, secret)
    made = await create(store, await enter(there, lambda _: PASSPHRASE))
    assert made.rewritten == 1
    inside, copy = await enter(there, lambda _: PASSPHRASE), open_store("sqlite:///:memory:")
    for each in inside.backups:
        assert not (await verify(inside, each)).complaints
    await restore(inside, inside.get(), copy)
    assert await summed(copy) == await summed(store)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
async def test_keys_come_along_where_they_are_asked_for(passphrase: str | None, tmp_path: Path) -> None:
    store, keys = open_store("memory:"), directory()
    await put(store, said("one"))
    grant = Grant(name="laptop", tenant="acme", spaces=frozenset({"b", "a"}), user="ana", permits=Permit.READ)
    made = [await keys.make(each) for each in (grant, Grant(name="old", tenant="acme"))]
    without = (await create(store, await place(tmp_path, passphrase))).backup
    inside = await place(tmp_path, passphrase)
    first = (await create(store, inside, keys=keys)).backup
    assert (without.counts["keys"], first.counts["keys"], first.base) == (0, 2, without.id)
    assert (await verify(inside, first)).counts["keys"] == 2 and not (await verify(inside, first)).complaints
    copy = directory()
    assert await restore_keys(inside, first, copy) == 2 and await restore_keys(inside, first, copy) == 0
    assert await copy.kept() == await keys.kept()
    for key, secret in made:
        assert await copy.find(secret) == key
        for file in (tmp_path / "backups").rglob("*-keys"):
            assert secret.encode() not in file.read_bytes()
    with pytest.raises(NotFound, match="without the keys"):
        await restore_keys(inside, without, directory())
    await keys.revoke(made[1][0].id, MAY)
    later = (await create(store, inside, keys=keys)).backup
    assert [part.name for part in later.of("keys")] != [part.name for part in first.of("keys")]
    again = directory()
    await restore_keys(inside, first, again)
    assert (await again.get(made[1][0].id)).revoked == MAY, "a later backup knows"
    assert not (await create(store, inside)).backup.of("keys"), "keys are in those alone that were asked to have them"
    _flip(tmp_path / "backups" / later.of("keys")[0].name)
    assert (await verify(inside, later)).complaints
    await store.close()


def directory() -> Directory:
    made: Directory = open_backend("directories", "memory:")
    return made


# -- pruning ---------------------------------------------------------------------------------------------------------


async def chain(store: Store, tmp_path: Path, count: int) -> list[Backup]:
    """Return so many backups, each made after one more record."""
    made = list[Backup]()
    for number in range(count):
        await put(store, said(f"record {number}"))
        was = await store.cursor("vectors/small")
        await store.commit(Batch(), cursor=Cursor("vectors/small", was, await store.head()))
        made.append((await create(store, await place(tmp_path))).backup)
    return made


def loose(tmp_path: Path, backups: Sequence[Backup]) -> set[str]:
    """Return the names of the parts that are there and in none of these backups, and the other way round."""
    there = {f"parts/{file.name}" for file in (tmp_path / "backups" / "parts").iterdir()}
    return there ^ {part.name for each in backups for part in each.parts}


async def test_what_is_kept_needs_nothing_of_what_goes(store: Store, tmp_path: Path) -> None:
    made = await chain(store, tmp_path, 4)
    dry = spared(await place(tmp_path), keep=2)
    assert (list(dry.kept), list(dry.gone)) == (made[2:], made[:2])
    assert not loose(tmp_path, made), "so far nothing is removed"
    gone = await prune(await place(tmp_path), keep=2)
    assert gone == dry and gone.size == sum(part.size for each in made[:2] for part in each.of("beside")) > 0
    inside = await place(tmp_path)
    assert inside.backups == made[2:] and not loose(tmp_path, made[2:])
    for each, count in zip(inside.backups, (3, 4), strict=True):
        assert not (await verify(inside, each)).complaints
        assert len(await found_texts(await restored(tmp_path, each.id), every(ANA))) == count
    again = (await create(store, await place(tmp_path))).backup
    assert again.base == made[3].id and not (await prune(await place(tmp_path), keep=9)).gone


async def test_days_and_numbers_each_keep_theirs_and_the_last_always_stays(store: Store, tmp_path: Path) -> None:
    made = await chain(store, tmp_path, 3)
    other = open_store("memory:")
    await put(other, said("another memory"))
    mine = (await create(other, await place(tmp_path))).backup
    await other.close()
    inside = await place(tmp_path)
    aged = [dataclasses.replace(each, at=now() - timedelta(days=9 - 3 * n)) for n, each in enumerate(made)]
    inside.backups[:] = [*aged, mine]

    def kept(**how: Any) -> list[int]:
        ids = [each.id for each in spared(inside, **how).kept]
        return [number for number, each in enumerate([*made, mine]) if each.id in ids]

    assert kept(keep=1) == kept(keep_days=0) == kept(keep_days=1) == [2, 3], "the last of each memory"
    assert kept(keep_days=7) == kept(keep=2) == [1, 2, 3]
    assert kept(keep=2, keep_days=30) == [0, 1, 2, 3]
    with pytest.raises(Invalid):
        spared(inside)
    with pytest.raises(NotFound):
        spared(Place(blobs(tmp_path / "nowhere"), None), keep=1)


async def test_what_was_erased_stays_erased_when_the_backup_that_knew_it_first_is_gone(tmp_path: Path) -> None:
    store, secret = open_store("memory:"), said(SECRET)
    await put(store, secret, said("before"))
    old = (await create(store, await place(tmp_path))).backup
    copy = await restored(tmp_path)
    await erase(copy, secret)
    knew, *_, last = await chain(copy, tmp_path, 3)
    gone = await prune(await place(tmp_path), keep=1)
    assert knew in gone.gone and [each.id for each in gone.kept] == [old.id, last.id]
    assert await found_texts(await restored(tmp_path, old.id), every(ANA)) == ["before"]


async def test_a_pruning_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("memory:")
    made = await chain(store, tmp_path, 3)
    inside, deleted = await place(tmp_path), 0
    delete = inside.blobs.delete

    async def once(name: str) -> bool:
        nonlocal deleted
        deleted += 1
        if deleted > 2:
            raise OSError("cut off")
        return await delete(name)

    monkeypatch.setattr(inside.blobs, "delete", once)
    with pytest.raises(OSError, match="cut off"):
        await prune(inside, keep=1)
    assert (await place(tmp_path)).backups == made[2:]
    assert not (await verify(await place(tmp_path), made[2])).complaints
    assert loose(tmp_path, made[2:]), "the manifests go first"
    last = await chain(store, tmp_path, 1)
    assert not loose(tmp_path, [made[2], *last])
    await store.close()


# -- the command line ------------------------------------------------------------------------------------------------


def run(*arguments: str, status: int = 0, **environment: str) -> str:
    command = [sys.executable, "-m", "simonides", *arguments]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture
def memory(home: Path) -> Iterator[Path]:
    asyncio.run(_remembered(home))
    yield home


async def _remembered(home: Path) -> None:
    store = open_store(f"sqlite:///{home}/a.db")
    await put(store, said("the bridge opens", Scope()), said("a harbour", Scope(tenant="acme")))
    await store.close()


def test_the_commands_of_a_backup(memory: Path) -> None:
    (memory / "secret").write_text(f"{PASSPHRASE}\n")
    given = ("--passphrase-file", "secret")
    assert "would write everything: 2 lines" in run("backup", "create", "bk", "--store", "a.db", "--dry-run")
    assert not (memory / "bk").exists()
    assert "2 versions" in run("backup", "create", "bk", "--store", "a.db", *given)
    assert "records erased since: 0" in run("backup", "create", "bk", "--store", "a.db", "--dry-run", *given)
    [listed] = json.loads(run("backup", "list", "bk", "--json"))
    assert (listed["records"], listed["base"], listed["encrypted"]) == (2, None, True)
    assert "none, encrypted" in run("backup", "list", "bk")
    assert "is whole" in run("backup", "verify", "bk", SIMONIDES_BACKUP_PASSPHRASE=PASSPHRASE)
    assert "is whole" in run("backup", "verify", "bk", SIMONIDES_BACKUP_PASSPHRASE_FILE="secret")
    assert "passphrase" in run("backup", "verify", "bk", status=2)
    assert "not the passphrase" in run("backup", "verify", "bk", status=2, SIMONIDES_BACKUP_PASSPHRASE="wrong")
    assert "would restore 2 versions" in run("backup", "restore", "bk", "--into", "b.db", "--dry-run", *given)
    assert not (memory / "b.db").exists()
    assert "2 versions restored" in run("backup", "restore", "bk", "--into", "b.db", *given)
    assert "bridge" in run("list", "--store", "b.db")
    assert "not empty" in run("backup", "restore", "bk", "--into", "a.db", *given, status=4)
    _flip(next((memory / "bk" / "parts").glob("*-log")))
    assert "digest" in run("backup", "verify", "bk", *given, status=6)
    assert "no backup here" in run("backup", "list", "nowhere", status=1)
    assert "no memory" in run("backup", "create", "bk", "--store", "none.db", status=3)


def test_keys_are_backed_up_and_restored(memory: Path) -> None:
    assert "no keys at" in run("backup", "create", "bk", "--store", "a.db", "--with-keys", status=3)
    assert not (memory / "a.db-keys").exists()
    run("keys", "create", "laptop", "--store", "a.db")
    assert "2 versions, 1 key, " in run("backup", "create", "bk", "--store", "a.db", "--with-keys")
    assert "key" not in run("backup", "restore", "bk", "--into", "b.db")
    assert not (memory / "b.db-keys").exists()
    restored_too = run("backup", "restore", "bk", "--into", "c.db", "--with-keys")
    assert "2 versions restored" in restored_too and "1 key restored into" in restored_too
    assert "laptop" in run("keys", "list", "--store", "c.db")
    run("backup", "create", "bk", "--store", "a.db")
    assert "without the keys" in run("backup", "restore", "bk", "--into", "d.db", "--with-keys", status=3)


def test_backups_are_pruned(memory: Path) -> None:
    for number in range(3):
        run("remember", f"number {number}", "--store", "a.db")
        run("backup", "create", "bk", "--store", "a.db")
    said_so = run("backup", "prune", "bk", "--keep", "1", "--dry-run")
    assert "2 backups would be removed, 1 stays" in said_so and "would be freed" in said_so
    assert len(json.loads(run("backup", "list", "bk", "--json"))) == 3
    assert "nothing to remove, 3 stay" in run("backup", "prune", "bk", "--keep", "1", "--keep-days", "1")
    told = json.loads(run("backup", "prune", "bk", "--keep", "2", "--json"))
    assert (len(told["kept"]), len(told["removed"]), told["dry_run"]) == (2, 1, False)
    assert "1 backup removed, 1 stays" in run("backup", "prune", "bk", "--keep", "1")
    assert "is whole" in run("backup", "verify", "bk")
    assert "how many" in run("backup", "prune", "bk", status=2)


def test_where_there_is_nothing_that_is_said(memory: Path) -> None:
    (memory / "empty").mkdir()
    for where in ("empty", "nowhere"):
        assert "no backup here" in run("backup", "list", where, status=1)
        assert run("backup", "list", where, "--json", status=1).strip() == "[]"
        for what in (["verify"], ["restore", "--into", "b.db"], ["prune", "--keep", "1"]):
            assert "no backup here" in run("backup", what[0], where, *what[1:], status=3)
        assert not (memory / "b.db").exists() and not (memory / "nowhere").exists()
    for name in ("one", "two"):
        open_store(f"sqlite:///{memory}/{name}.db")
    for how in (["--verify"], []):
        assert "both are empty" in run("move", "one.db", "two.db", *how, status=1)
        done = json.loads(run("move", "one.db", "two.db", *how, "--json", status=1))
        assert (done["empty"], done["equal"]) == (True, True)
    assert "differ" in run("move", "a.db", "two.db", "--verify", status=1)
    assert json.loads(run("move", "a.db", "two.db", "--json"))["empty"] is False


def test_the_command_that_moves(memory: Path) -> None:
    assert "would copy 2 lines" in run("move", "a.db", "b.db", "--dry-run")
    assert not (memory / "b.db").exists()
    assert "both are equal" in run("move", "a.db", "b.db")
    done = json.loads(run("move", "a.db", "b.db", "--json"))
    assert done["equal"] and done["lines"] == 0 and done["from"]["checksum"] == done["to"]["checksum"]
    assert {realm["tenant"] for realm in done["to"]["realms"]} == {"acme", "default"}
    run("remember", "something else", "--store", "b.db")
    assert "differ: default/main" in run("move", "a.db", "b.db", "--verify", status=1)
    assert "something else" in run("move", "a.db", "b.db", status=4)
    assert "no memory" in run("move", "none.db", "c.db", status=3)
