"""Every index passes the same suite; `flat` also keeps what it promises of its files, and of many vectors."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import STORES

import simonides
from simonides import config
from simonides.errors import Invalid, Unavailable
from simonides.index import Index
from simonides.indexes import exact, flat, flat_codes, kernels
from simonides.indexes.flat_codes import BOOT, HEAD, STEP, FileCodes, Head, Owner, stem
from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Record, Scope
from simonides.store import Batch, Embedding, Store
from simonides.stores import sqlite
from simonides.testing.indexes import (
    DIMENSION,
    MODEL,
    IndexSuite,
    MakeIndex,
    direction,
    directions,
    near_ids,
    remember,
    remember_all,
)
from simonides.testing.records import ANA, every, said

URLS = (
    "exact:",
    "flat:",  # all in memory, as they are
    "flat:?small=0",  # codes, each row scored
    "flat:?small=5&exact=10",  # grows from the one to the other
    "<pgvector>small=0",  # every row in the table of all small groups, each looked at
    "<pgvector>small=5&exact=10",  # grows from memory to a table of its own with a graph
    "qdrant::memory:?small=0",
    *filter(None, [os.environ.get("SIMONIDES_TEST_QDRANT_URL")]),  # with ?small=0
)
CODES = "flat:?small=0"
ROWS = 200
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(simonides.__file__).parents[1])}  # of other processes


def open_index(url: str, store: Store, model: str = MODEL, dimension: int = DIMENSION) -> Any:
    return config.open_backend("indexes", url, store, model, dimension)


@pytest.fixture(params=URLS)
async def index_over(request: pytest.FixtureRequest) -> AsyncIterator[MakeIndex]:
    opened, url = list[Index](), request.param
    if url.startswith("<pgvector>"):  # what they have in a schema, they tell apart by the stores
        options = url.removeprefix("<pgvector>")
        url = f"pgvector{request.getfixturevalue('postgres').url().removeprefix('postgresql')}?{options}"

    def over(store: Store, *, model: str = MODEL, dimension: int = DIMENSION) -> Index:
        opened.append(open_index(url, store, model, dimension))
        return opened[-1]

    yield over
    for index in opened:
        await index.close()


@pytest.mark.parametrize("make_store", STORES, indirect=True)
class TestIndexes(IndexSuite):
    pass


@pytest.mark.parametrize("make_store", ["postgresql://<schema>"], indirect=True)
@pytest.mark.parametrize("index_over", ["flat:?small=5&exact=10", "<pgvector>small=5&exact=10"], indirect=True)
class TestOverPostgres(IndexSuite):
    pass


# -- the files of `flat` ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Home:
    """A store in a file with some records, and where the index keeps its own files."""

    url: str
    store: Store
    records: Sequence[Record]
    vectors: Any

    @property
    def folder(self) -> Path:
        assert self.store.folder is not None
        return Path(self.store.folder) / flat.FOLDER

    def file(self, ending: str, model: str = MODEL) -> Path:
        return self.folder / f"{stem(model, ANA.realm)}{ending}"

    def row(self, ending: str, slot: int) -> bytes:
        width = kernels.bits_width(DIMENSION) if ending == ".bits" else DIMENSION + 4
        return self.file(ending).read_bytes()[slot * width : (slot + 1) * width]

    def head(self) -> Head:
        head = Head.unpack(self.file(".head").read_bytes(), Owner(self.store.identity, MODEL, 1, DIMENSION).digest)
        assert head is not None
        return head

    def open(self, url: str = CODES) -> Any:
        return open_index(url, self.store)

    async def expect(self, index: Index) -> None:
        """Assert that the index answers as the exact one does, and finds nothing wrong with itself."""
        await self.expect_answers(index)
        assert await index.check() == []

    async def expect_answers(self, index: Index) -> None:
        truth = open_index("exact:", self.store)
        for vector in self.vectors[:5]:
            found = await near_ids(index, Query(scope=ANA), vector)
            assert found == await near_ids(truth, Query(scope=ANA), vector)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    url = f"sqlite:///{tmp_path}/m.db"
    store = sqlite.open(url)
    records, vectors = [said(str(n)) for n in range(ROWS)], directions(ROWS)
    await remember_all(store, records, vectors)
    yield Home(url, store, records, vectors)
    await store.close()


async def fill(home: Home, url: str = CODES) -> None:
    index = home.open(url)
    await index.catch_up(ANA)
    await index.close()


def delete_all(home: Home) -> None:
    shutil.rmtree(home.folder)


def delete(ending: str) -> Callable[[Home], None]:
    return lambda home: home.file(ending).unlink()


def cut(ending: str, share: float = 0.5) -> Callable[[Home], None]:
    """Cut into the rows that are filled."""
    width = {".bits": kernels.bits_width(DIMENSION), ".codes": 12, ".head": HEAD.size / ROWS}[ending]
    return lambda home: os.truncate(home.file(ending), int(ROWS * width * share))


def flip(ending: str, byte: int = 0xFF) -> Callable[[Home], None]:
    def flip_all(home: Home) -> None:
        path = home.file(ending)
        path.write_bytes(bytes(one ^ byte for one in path.read_bytes()))

    return flip_all


def foreign(home: Home) -> None:
    """Bring the rows and the head of another store, which are as sound as they can be."""
    codes = FileCodes(home.file("").with_name(stem(MODEL, ANA.realm)), Owner("another store", MODEL, 1, DIMENSION))
    codes.open(anew=True)
    codes.write(np.arange(ROWS), directions(ROWS, seed=9), ROWS)
    codes.flush()
    codes.close()


def of_another_dimension(home: Home) -> None:
    codes = FileCodes(home.file("").with_name(stem(MODEL, ANA.realm)), Owner(home.store.identity, MODEL, 1, 16))
    codes.open(anew=True)
    codes.write(np.arange(ROWS), directions(ROWS, dimension=16), ROWS)
    codes.close()


def test_codes_that_are_closed_while_somebody_looks_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = (FileCodes(tmp_path / "codes", Owner("a store", MODEL, 1, DIMENSION)) for _ in range(2))
    rows = len(mine.open().bits)
    others.open()
    others.write(np.arange(rows + 1), directions(rows + 1), rows + 1)  # more than `mine` has mapped
    stat = os.stat

    def closing(path: Any, *given: Any, **named: Any) -> os.stat_result:
        found = stat(path, *given, **named)
        if Path(path).parent == tmp_path:
            mine.close()
        return found

    monkeypatch.setattr(os, "stat", closing)
    assert mine.rows() is None
    others.close()


DAMAGES = {
    "all deleted": delete_all,
    **{f"{ending} deleted": delete(ending) for ending in (".bits", ".codes", ".head")},
    **{f"{ending} cut": cut(ending) for ending in (".bits", ".codes", ".head")},
    **{f"{ending} emptied": cut(ending, 0) for ending in (".bits", ".codes", ".head")},
    **{f"{ending} flipped": flip(ending) for ending in (".bits", ".codes", ".head")},
    "foreign": foreign,
    "of another dimension": of_another_dimension,
}


class TestFlatFiles:
    async def test_small_groups_have_no_files(self, home: Home) -> None:
        await fill(home, "flat:")
        assert not home.folder.exists()
        await fill(home)
        assert home.file(".bits").exists()
        await fill(home, "flat:")
        assert not home.file(".bits").exists()

    async def test_what_one_filled_another_finds(self, home: Home) -> None:
        await fill(home)
        made = home.file(".codes").stat()
        index = home.open()
        await home.expect(index)
        await index.close()
        assert home.file(".codes").stat().st_mtime_ns == made.st_mtime_ns
        assert home.head() == Head(filled=ROWS, durable=ROWS)

    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
    async def test_damage_costs_a_rebuild_and_no_answer(self, home: Home, damage: Callable[[Home], None]) -> None:
        await fill(home)
        damage(home)
        index = home.open()
        await home.expect(index)
        await index.close()

    @pytest.mark.parametrize("name", [name for name in DAMAGES if "flipped" not in name or ".head" in name])
    async def test_files_that_are_taken_away_while_open_are_made_again(self, home: Home, name: str) -> None:
        index = home.open()
        await home.expect(index)
        DAMAGES[name](home)
        await home.expect(index)
        assert home.file(".codes").stat().st_size >= ROWS * (DIMENSION + 4)
        await index.close()

    async def test_files_of_two_formats_do_not_meet_and_those_of_another_are_swept(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else two programs would make each other's files anew for ever: one that was upgraded while the other ran."""
        with monkeypatch.context() as patched:
            patched.setattr(flat_codes, "FORMAT", flat_codes.FORMAT - 1)
            await fill(home)
            theirs = home.file(".codes")
        made = theirs.stat()
        index = home.open()
        await home.expect_answers(index)
        assert os.path.samestat(theirs.stat(), made) and home.file(".codes") != theirs
        assert "format that is gone" in (await index.check())[0]
        await home.store.commit(Batch(erase=(home.records[3].ref,)))
        await index.catch_up(ANA)
        assert not theirs.exists() and home.file(".codes").exists()
        await home.expect(index)
        await index.close()

    async def test_check_finds_a_single_damaged_row_and_rebuild_mends_it(self, home: Home) -> None:
        await fill(home)
        sound = home.file(".codes").read_bytes()
        for slot in (2, 101):
            damaged = bytearray(sound)
            damaged[slot * (DIMENSION + 4)] ^= 1
            home.file(".codes").write_bytes(damaged)
            index = home.open()
            [complaint] = await index.check()
            assert "1 of 200 rows differ" in complaint and "`simonides rebuild`" in complaint
            assert await index.rebuild() == ROWS
            await home.expect(index)
            await index.close()
        foreign(home)
        index = home.open()
        [complaint] = await index.check()
        assert "not this store's" in complaint
        await index.close()

    async def test_erased_rows_are_zeros_in_the_files(self, home: Home) -> None:
        await fill(home)
        index, gone = home.open(), (0, 7, 8, 9, ROWS - 1)
        before = {slot: home.row(".codes", slot) for slot in gone}
        assert all(any(row) for row in before.values())
        await home.store.commit(Batch(erase=tuple(home.records[slot].ref for slot in gone)))
        await index.catch_up(ANA)
        files = b"".join(path.read_bytes() for path in home.folder.iterdir())
        for slot in gone:
            assert not any(home.row(".bits", slot))
            assert not any(home.row(".codes", slot))
            assert before[slot] not in files
        assert any(home.row(".codes", 1))
        await home.expect(index)
        await index.close()

    async def test_an_erase_that_was_cut_off_is_finished_by_the_next_to_catch_up(self, home: Home) -> None:
        await fill(home)
        await home.store.commit(Batch(erase=(home.records[3].ref,)))
        index = home.open()
        [complaint] = await index.check()
        assert "1 rows of erased vectors" in complaint
        await index.catch_up(ANA)
        assert not any(home.row(".codes", 3))
        await home.expect(index)
        await index.close()

    async def test_rows_past_a_wide_gap_of_holes_are_filled(self, home: Home) -> None:
        await home.store.commit(Batch(erase=tuple(record.ref for record in home.records[10:190])))
        index = home.open()
        await home.expect(index)
        await index.catch_up(ANA)
        assert (home.head().filled, home.head().holes) == (ROWS, 180)
        await index.close()

    async def test_after_a_power_cut_what_was_not_flushed_is_written_again(self, home: Home) -> None:
        await fill(home)
        head = dataclasses.replace(home.head(), durable=150, boot=uuid.uuid4().bytes)
        home.file(".head").write_bytes(head.pack(Owner(home.store.identity, MODEL, 1, DIMENSION).digest))
        with home.file(".codes").open("r+b") as file:
            file.seek(150 * (DIMENSION + 4))
            file.write(bytes(10 * (DIMENSION + 4)))
        index = home.open()
        await home.expect(index)
        await index.close()
        assert home.head().boot == BOOT
        assert home.head().durable == ROWS

    async def test_readers_notice_that_another_made_the_files_longer(self, home: Home) -> None:
        one, other = home.open(), home.open()
        await home.expect(one)
        await home.expect(other)
        await remember_all(home.store, [said(str(n)) for n in range(STEP)], directions(STEP, seed=5))
        last = await remember(home.store, said("last"), direction(1))
        await one.catch_up(ANA)
        assert await near_ids(other, Query(scope=ANA), direction(1), 1) == [last.id]
        await other.rebuild()
        await home.expect(one)
        await one.close()
        await other.close()

    async def test_who_gives_up_leaves_the_files_sound(self, home: Home) -> None:
        await remember_all(home.store, [said(str(n)) for n in range(STEP)], directions(STEP, seed=5))
        for pause in (0, 0.001, 0.003, 0.01, 0.02):
            index = home.open()
            asking = asyncio.create_task(index.near(Query(scope=ANA), direction(1), 1))
            await asyncio.sleep(pause)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await home.expect(index)
            await index.close()
            delete_all(home)

    async def test_where_no_file_can_be_written_memory_serves_and_says_so(self, home: Home) -> None:
        home.folder.parent.mkdir(parents=True, exist_ok=True)
        home.folder.write_text("in the way")
        index = home.open()
        await home.expect_answers(index)
        assert "kept in memory" in (await index.check())[0]
        await index.catch_up(ANA)
        home.folder.unlink()
        await index.catch_up(ANA)
        await home.expect(index)
        assert home.file(".bits").exists()
        await index.close()

    async def test_an_erase_that_does_not_reach_the_files_is_no_success(self, home: Home) -> None:
        await fill(home)
        home.file(".bits").unlink()
        home.file(".bits").mkdir()
        await home.store.commit(Batch(erase=(home.records[3].ref,)))
        index = home.open()
        with pytest.raises(Unavailable):
            await index.catch_up(ANA)
        await home.expect_answers(index)
        await index.close()

    async def test_the_files_of_a_dropped_model_go(self, home: Home) -> None:
        embeddings = [Embedding(record.ref, 1, "old", direction(1)[None]) for record in home.records]
        await home.store.commit(Batch(embeddings=tuple(embeddings)))
        old, new = open_index(CODES, home.store, "old"), home.open()
        await old.catch_up(ANA)
        await home.store.drop_model("old")
        assert "left over" in (await new.check())[0]
        await new.catch_up(ANA)
        assert not home.file(".bits", "old").exists()
        await home.expect(new)
        assert await old.near(Query(scope=ANA), direction(1), 1) == []
        await old.close()
        await new.close()

    def test_what_the_url_says_must_make_sense(self, home: Home) -> None:
        for url in ("flat:?smal=1", "flat:?small=-1", "flat:?small=x", "flat:?kernels=c", "flat:/there"):
            with pytest.raises(Invalid, match="flat:"):
                home.open(url)
        with pytest.raises(Invalid, match="write exact:"):
            exact.open("exact:?a=1", home.store, MODEL, DIMENSION)


PROCESS = """
import asyncio, json, sys
from simonides.indexes import flat
from simonides.query import Query
from simonides.stores import sqlite
from simonides.testing.indexes import DIMENSION, MODEL, directions
from simonides.testing.records import ANA

async def main():
    store = sqlite.open(sys.argv[1])
    index = flat.open("flat:?small=0", store, MODEL, DIMENSION)
    print("ready", flush=True)
    sys.stdin.readline()
    near = await index.near(Query(scope=ANA), directions(1)[0], 10)
    print(json.dumps([(record.id, cosine) for record, cosine in near]), flush=True)
    sys.stdin.readline()
    await index.catch_up(ANA)
    await index.close()
    await store.close()

asyncio.run(main())
"""


class Process:
    """Another process, which opens the store and the index and asks once it is told to."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> int:
        self._process.communicate()
        return self._process.returncode


class TestProcesses:
    async def test_processes_fill_and_read_the_same_files(self, home: Home) -> None:
        await remember_all(home.store, [said(str(n)) for n in range(STEP)], directions(STEP, seed=5))
        others = [Process(home.url), Process(home.url)]
        assert [other.line() for other in others] == ["ready", "ready"]
        for other in others:
            other.go_on()
        index = home.open()
        near = await index.near(Query(scope=ANA), home.vectors[0], 10)
        found = [(record.id, cosine) for record, cosine in near]
        answers = [await asyncio.to_thread(other.line) for other in others]
        assert [[tuple(hit) for hit in json.loads(answer)] for answer in answers] == [found, found]
        await home.store.commit(Batch(erase=(home.records[0].ref,)))
        for other in others:
            other.go_on()
        await asyncio.gather(index.catch_up(ANA), *(asyncio.to_thread(other.end) for other in others))
        await home.expect(index)
        await index.close()

    async def test_who_is_killed_while_filling_costs_no_answer(self, home: Home) -> None:
        await remember_all(home.store, [said(str(n)) for n in range(4 * STEP)], directions(4 * STEP, seed=5))
        chance = random.Random(0)
        for _ in range(4):
            other = Process(home.url)
            assert other.line() == "ready"
            other.go_on()
            time.sleep(chance.uniform(0, 0.1))
            other.kill()
            index = home.open()
            await home.expect(index)
            await index.close()
            delete_all(home)


# -- many vectors ----------------------------------------------------------------------------------------------------

MANY, WIDE = 20_000, 384
PLANT = Scope(tenant="plant")


def clustered(count: int, seed: int) -> Any:
    """Return unit vectors in 200 clusters of unequal size, shape (count, 384)."""
    centres = np.random.default_rng(0).standard_normal((200, WIDE), np.float32)
    shares, rng = 1 / np.arange(1, 201), np.random.default_rng(seed)
    which = rng.choice(200, count, p=shares / shares.sum())
    vectors = centres[which] + 0.8 * rng.standard_normal((count, WIDE), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URL of a store of many vectors; every tenth has one label, seven have another."""
    url = f"sqlite:///{tmp_path_factory.mktemp('many')}/m.db?durability=normal"

    async def sow() -> None:
        store = sqlite.open(url)
        labels = [("tenth",) * (n % 10 == 0) + ("rare",) * (n % 2900 == 5) for n in range(MANY)]
        records = [Record(scope=PLANT, id=f"{n:05}", body=Note(text="n"), labels=labels[n]) for n in range(MANY)]
        await remember_all(store, records, clustered(MANY, 1))
        await store.close()

    asyncio.run(sow())
    return url


def labelled(label: str) -> Query:
    return Query(scope=PLANT, labels=frozenset({label}))


@pytest.mark.parametrize("kernels", ["faiss", "numpy"])
class TestManyVectors:
    async def test_candidates_by_their_bits_miss_next_to_nothing(self, plant: str, kernels: str) -> None:
        store, vectors, asked = sqlite.open(plant), clustered(MANY, 1), clustered(50, 2)
        index = open_index(f"flat:?exact=1000&kernels={kernels}", store, dimension=WIDE)
        await index.catch_up(PLANT)
        for query, at in ((Query(scope=PLANT), np.arange(MANY)), (labelled("tenth"), np.arange(0, MANY, 10))):
            found = 0
            for vector in asked:
                best = at[np.argsort(vectors[at] @ vector)[-10:]]
                found += len({f"{n:05}" for n in best} & set(await near_ids(index, query, vector)))
            assert found >= 0.99 * 10 * len(asked)
        await index.close()
        await store.close()

    async def test_no_filter_hides_what_matches(self, plant: str, kernels: str) -> None:
        store, asked = sqlite.open(plant), clustered(5, 3)
        index = open_index(f"flat:?exact=1000&kernels={kernels}", store, dimension=WIDE)
        few, many = [f"{n:05}" for n in range(5, MANY, 2900)], [f"{n:05}" for n in range(0, MANY, 10)]
        for vector in asked:
            assert sorted(await near_ids(index, labelled("rare"), vector, 50)) == few
            assert sorted(await near_ids(index, labelled("tenth"), vector, 10**6)) == many
            assert len(await near_ids(index, labelled("tenth"), vector, 700)) == 700
            assert sorted(await near_ids(index, every(PLANT, ids=frozenset(few[:2])), vector)) == few[:2]
        await index.close()
        await store.close()


class TestTuning:
    async def test_where_signs_tell_nothing_every_row_is_scored(self, tmp_path: Path) -> None:
        """Sparse vectors: most components are 0, whose sign is that of what is negative."""
        store, rng = sqlite.open(f"sqlite:///{tmp_path}/m.db?durability=normal"), np.random.default_rng(0)
        vectors = np.zeros((6000, 400), np.float32)
        for vector in vectors:
            vector[rng.choice(400, 5, replace=False)] = rng.random(5) - 0.5
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        await remember_all(store, [said(f"{n}") for n in range(6000)], vectors)
        index = open_index("flat:?small=0&exact=100&candidates=100", store, dimension=400)
        truth = open_index("exact:", store, dimension=400)
        await index.catch_up(ANA)
        for vector in vectors[:5]:
            nearest = await index.near(Query(scope=ANA), vector, 10)
            expected = await truth.near(Query(scope=ANA), vector, 10)
            assert [score for _, score in nearest] == pytest.approx([score for _, score in expected], abs=1e-5)
        await index.close()
        await store.close()


class TestKernels:
    @pytest.mark.parametrize("dimension", [1, 8, 13, 64, 100, 384])
    def test_faiss_and_numpy_choose_alike(self, dimension: int) -> None:
        vectors, query = directions(3000, dimension=dimension), directions(1, seed=1, dimension=dimension)
        bits, asked = kernels.sign_bits(vectors), kernels.sign_bits(query)[0]
        assert bits.shape == (3000, kernels.bits_width(dimension))
        distances = np.bitwise_count(bits ^ asked).sum(axis=1)
        odd = np.arange(2500) % 2 == 1
        for count in (1, 10, 700, 5000):
            for mask in (None, odd, np.zeros(2500, np.bool_)):
                allowed = np.flatnonzero(mask) if mask is not None else np.arange(2500)
                expected = np.sort(distances[allowed])[:count]
                for faiss in (True, False):
                    found = kernels.nearest_bits(bits, asked, 2500, count, mask, faiss=faiss)
                    assert np.isin(found, allowed).all()
                    assert (np.diff(found) > 0).all()
                    assert np.sort(distances[found]).tolist() == expected.tolist()

    @pytest.mark.parametrize("dimension", [1, 8, 13, 64, 100, 384, 768])
    def test_every_component_has_a_bit_and_what_room_is_left_tells_as_much(self, dimension: int) -> None:
        """Two vectors differ in such a share of the bits as their angle is of half a turn, whichever bits are taken."""
        near, far = directions(2000, dimension=dimension), directions(2000, seed=1, dimension=dimension)
        near[7] = 0
        signs, width = near > 0, 8 * kernels.bits_width(dimension)
        bits = np.unpackbits(kernels.sign_bits(near), axis=1)
        assert (bits[:, :dimension] == signs).all() and not bits[7].any()
        assert (kernels.sign_bits(near[3:4]) == kernels.sign_bits(near)[3:4]).all()  # in whatever batch
        further = slice(dimension, width)
        if not 0 < width - dimension <= dimension // 2:
            assert not bits[:, further].any()
            return
        between = np.delete(0.6 * near + 0.8 * far, 7, axis=0)
        there = np.unpackbits(kernels.sign_bits(between), axis=1)
        apart = float((there[:, further] != np.delete(bits, 7, axis=0)[:, further]).mean())
        cosines = (np.delete(near, 7, axis=0) * between).sum(axis=1) / np.linalg.norm(between, axis=1)
        assert apart == pytest.approx(float((np.arccos(cosines) / np.pi).mean()), abs=0.01)

    @pytest.mark.parametrize("dimension", [1, 13, 384, 5000])
    def test_bytes_are_off_by_half_a_step_at_most(self, dimension: int) -> None:
        vectors, query = directions(1500, dimension=dimension), directions(1, seed=1, dimension=dimension)[0]
        vectors[7] = 0
        codes = kernels.int8(vectors)
        read = codes["code"] * codes["step"][:, None]
        assert (np.abs(read - vectors) <= codes["step"][:, None] * 0.5001).all()
        assert not any(codes[7].tobytes())
        assert kernels.dots(codes, query) == pytest.approx(read @ query, abs=1e-5)
        at = np.array([3, 1, 1499])
        assert kernels.dots(codes, query, at) == pytest.approx(read[at] @ query, abs=1e-5)
        assert kernels.products(vectors, query) == pytest.approx(vectors @ query, abs=1e-5)
        assert kernels.products(vectors, query, at) == pytest.approx(vectors[at] @ query, abs=1e-5)

    def test_where_faiss_is_not_installed_numpy_does_the_same(self) -> None:
        program = (
            "import sys; sys.modules['faiss'] = None\n"
            "from simonides.indexes import kernels; from simonides.testing.indexes import directions\n"
            "bits = kernels.sign_bits(directions(1000, dimension=64))\n"
            "print(kernels.nearest_bits(bits, bits[5], 1000, 1).tolist())"
        )
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
        assert found.stdout.strip() == "[5]", found.stderr
