"""The change from one embedding model to another, while recall goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from common import texts
from conftest import open_store
from engines import Postgres, Schemas

from simonides import AsyncMemory, Memory, models, worker
from simonides.cli import main
from simonides.config import settings
from simonides.derivers.vectors import Vectors
from simonides.embedders import hashing
from simonides.errors import Invalid
from simonides.store import Store

OLD, NEW = "hashing:", "hashing:?dimension=128"
OLD_NAME, NEW_NAME = "hashing/256", "hashing/128"
SAID = [f"The harbour of bridge {number} opens at {number} o'clock" for number in range(40)]


@pytest.fixture
def url(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that an older model has embedded."""
    monkeypatch.delenv("SIMONIDES_EMBEDDER")
    url = f"sqlite:///{home}/m.db"
    with Memory(url, embedder=OLD) as memory:
        memory.remember(SAID)  # type: ignore[arg-type]
    return url


@pytest.mark.parametrize("embedder", [OLD, "none"])
async def test_a_model_that_is_not_needed_does_not_stay_open(
    embedder: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, closed = list[object](), list[object]()
    make, close = hashing.HashingEmbedder.__init__, hashing.HashingEmbedder.close

    def making(self: hashing.HashingEmbedder, url: str = OLD) -> None:
        made.append(self)
        make(self, url)

    async def closing(self: hashing.HashingEmbedder) -> None:
        closed.append(self)
        await close(self)

    monkeypatch.setattr(hashing.HashingEmbedder, "__init__", making)
    monkeypatch.setattr(hashing.HashingEmbedder, "close", closing)
    monkeypatch.setenv("SIMONIDES_EMBEDDER_NEXT", OLD)
    async with AsyncMemory("m.db", embedder=embedder):
        assert len(made) - len(closed) == (embedder == OLD)
    assert len(made) == len(closed)


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = open_store(url)
    yield opened
    await opened.close()


@pytest.fixture
def both(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AsyncMemory]:
    """What opens a memory that was told of both models."""
    monkeypatch.setenv("SIMONIDES_EMBEDDER_NEXT", NEW)
    return lambda: AsyncMemory(url, embedder=OLD)


def vectors(counts: dict[str, int]) -> dict[str, int]:
    return {model.rpartition("/")[0]: count for model, count in counts.items()}


async def test_the_new_ones_are_made_beside_the_old(store: Store) -> None:
    read = list[int]()
    await models.fill(store, hashing.open(NEW), read.append)
    assert vectors(await store.models()) == {OLD_NAME: 40, NEW_NAME: 40} and sum(read) == await store.head()
    kept = {each.name: each for each in await models.kept(store)}
    assert not kept[OLD_NAME].behind and not kept[NEW_NAME].behind


async def test_what_was_cut_off_goes_on_where_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simonides.follow.STEP", 10)
    monkeypatch.setattr("simonides.follow.step.__defaults__", (10,))

    def cut(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await models.fill(store, hashing.open(NEW), cut)
    assert vectors(await store.models())[NEW_NAME] == 10
    read = list[int]()
    await models.fill(store, hashing.open(NEW), read.append)
    assert vectors(await store.models())[NEW_NAME] == 40 and sum(read) == await store.head() - 10


async def test_whoever_knows_both_turns_at_once_and_back(both: Callable[[], AsyncMemory], store: Store) -> None:
    async with both() as one, both() as other:
        assert (await one.stats())["embedder"] == OLD_NAME
        await models.fill(store, hashing.open(NEW))
        assert (await other.stats())["embedder"] == OLD_NAME
        await models.choose(store, NEW_NAME)
        for memory in (one, other):
            assert texts(await memory.recall("the harbour of bridge 7", limit=1)) == [SAID[7]]
            assert (await memory.stats())["embedder"] == NEW_NAME
        await one.remember("the ferry leaves from pier nine")
        assert vectors(await store.models()) == {OLD_NAME: 40, NEW_NAME: 41}
        await models.choose(store, OLD_NAME)
        assert (await other.stats())["embedder"] == OLD_NAME
        assert texts(await other.recall("a ferry from pier nine", limit=1)) == ["the ferry leaves from pier nine"]
        assert vectors(await store.models()) == {OLD_NAME: 41, NEW_NAME: 41}


async def test_what_was_opened_is_closed_where_the_rest_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = list[str]()

    async def close(embedder: hashing.HashingEmbedder) -> None:
        closed.append(embedder.name)

    monkeypatch.setattr(hashing.HashingEmbedder, "close", close)
    monkeypatch.setenv("SIMONIDES_EMBEDDER_NEXT", NEW)
    memory = AsyncMemory("memory:", embedder=OLD, index="nowhere:")
    for _ in range(2):
        with pytest.raises(Invalid, match="nowhere"):
            await memory.remember("the harbour")
    await memory.close()
    assert closed == [NEW_NAME, OLD_NAME] * 2


async def test_recall_never_stops(both: Callable[[], AsyncMemory], url: str) -> None:
    """It is asked and written to without a pause, while another process makes the change, turns back and drops."""
    seen, done = set[Any](), threading.Event()

    async def ask(memory: AsyncMemory) -> int:
        number = 0
        while not done.is_set() or number < 3:
            number += 1
            await memory.remember(f"page {number} of the logbook")
            assert texts(await memory.recall("the harbour of bridge 7", limit=1)) == [SAID[7]]
            assert f"page {number} of the logbook" in texts(await memory.recall(f"page {number} of the logbook"))
            seen.add((await memory.stats())["embedder"])
        return number

    def change() -> None:
        try:
            for command in (["migrate", "--to", NEW], ["use", OLD], ["use", NEW], ["drop", OLD_NAME, "--yes"]):
                ran = CliRunner().invoke(main, ["embeddings", *command, "--store", url, "--embedder", OLD])
                assert ran.exit_code == 0, ran.output
        finally:
            done.set()

    async with both() as memory:
        pages, _ = await asyncio.gather(ask(memory), asyncio.to_thread(change))
        assert (await memory.stats())["embedder"] == NEW_NAME and NEW_NAME in seen
        assert await memory.count() == 40 + pages
    opened = open_store(url)
    assert vectors(await opened.models()) == {NEW_NAME: 40 + pages}
    await opened.close()


async def test_what_is_forgotten_goes_from_both(both: Callable[[], AsyncMemory], store: Store, home: Path) -> None:
    await models.fill(store, hashing.open(NEW))
    async with both() as memory:
        [found] = await memory.recall("the harbour of bridge 7", limit=1)
        certificate = await memory.forget(found.record.id)
        assert certificate.places["vectors"] == 2
        assert vectors(await store.models()) == {OLD_NAME: 39, NEW_NAME: 39}
        await models.choose(store, NEW_NAME)
        assert SAID[7] not in texts(await memory.recall("the harbour of bridge 7", limit=50))


async def test_whoever_was_not_told_goes_on_until_the_old_is_dropped(url: str, store: Store) -> None:
    await models.fill(store, hashing.open(NEW))
    await models.choose(store, NEW_NAME)
    async with AsyncMemory(url, embedder=OLD) as memory:
        hits = await memory.recall("the harbour of bridge 7", limit=1)
        assert texts(hits) == [SAID[7]] and any(f"moved on to the embedding model {NEW_NAME}" in n for n in hits.notes)
    await models.drop(store, OLD_NAME)
    with pytest.raises(Invalid, match=f"moved on to the embedding model {NEW_NAME}"):
        await AsyncMemory(url, embedder=OLD).open()
    async with AsyncMemory(url, embedder=NEW) as memory:
        hits = await memory.recall("the harbour of bridge 7", limit=1)
        assert texts(hits) == [SAID[7]] and not hits.notes
    await models.fill(store, hashing.open(OLD))  # brought back
    async with AsyncMemory(url, embedder=OLD) as memory:
        assert texts(await memory.recall("the harbour of bridge 7", limit=1)) == [SAID[7]]


async def test_whoever_was_not_told_makes_no_more_of_what_is_dropped(url: str, store: Store) -> None:
    async with AsyncMemory(url, embedder=OLD) as memory:
        await models.fill(store, hashing.open(NEW))
        await models.choose(store, NEW_NAME)
        await models.drop(store, OLD_NAME)
        await memory.remember("A ferry nobody was told of")
        await memory.settle()
        assert vectors(await store.models()) == {NEW_NAME: 40} and memory.behind is None
        await models.fill(store, hashing.open(OLD))  # brought back
        await memory.remember("A third ferry")
        assert vectors(await store.models()) == {NEW_NAME: 40, OLD_NAME: 42}


async def test_the_one_that_answers_is_not_dropped(store: Store) -> None:
    with pytest.raises(Invalid, match="answers"):
        await models.drop(store, OLD_NAME)
    with pytest.raises(Invalid, match="nothing of a model 'x'"):
        await models.drop(store, "x")
    await models.fill(store, hashing.open(NEW))
    await models.choose(store, NEW_NAME)
    await models.choose(store, NEW_NAME)  # again changes nothing
    assert await models.turns(store, [NEW_NAME]) == {NEW_NAME: 1}
    with pytest.raises(Invalid, match="answers"):
        await models.drop(store, NEW_NAME)


def test_dropped_vectors_are_in_no_file_of_the_index(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMONIDES_INDEX", "flat:?small=0")
    with Memory(url, embedder=OLD) as memory:
        memory.recall("the harbour of bridge 7")
    folder = home / "m.db-files" / "vectors"
    before = {path.name: path.stat().st_size for path in folder.iterdir()}
    run("migrate", "--to", NEW, store=url)
    run("drop", OLD_NAME, "--yes", store=url)
    left = [path for path in folder.iterdir() if before.get(path.name) and path.stat().st_size]
    assert any(before.values()) and not any(any(path.read_bytes()[4096:]) for path in left), left


async def test_agreement_is_whole_with_oneself_and_less_with_another(store: Store) -> None:
    await models.fill(store, hashing.open(NEW))

    def at_work(url: str) -> models.Model:
        embedder = hashing.open(url)
        from simonides.indexes import exact

        return models.Model(embedder, exact.open("exact:", store, Vectors(embedder).model, embedder.dimension))

    same = await models.agreement(store, at_work(OLD), at_work(OLD), 20)
    assert (same.asked, same.shared, same.first) == (20, 1.0, 1.0)
    other = await models.agreement(store, at_work(OLD), at_work(NEW), 20)
    assert 0 < other.shared < 1


# -- on the command line ------------------------------------------------------------------------------------------


def run(*words: str, store: str, embedder: str = OLD, status: int = 0) -> Any:
    ran = CliRunner().invoke(main, ["embeddings", *words, "--store", store, "--embedder", embedder, "--json"])
    assert ran.exit_code == status, ran.output
    return json.loads(ran.stdout or ran.stderr)


def test_a_dry_run_says_what_it_would_take_and_changes_nothing(url: str) -> None:
    plan = run("migrate", "--to", NEW, "--dry-run", store=url)
    assert plan["versions"] == 40 and plan["bytes"] == 40 * 128 * 2 and plan["seconds"] > 0
    assert [each["name"] for each in run(store=url)["models"]] == [OLD_NAME]


def test_the_whole_change(url: str) -> None:
    changed = run("migrate", "--to", NEW, store=url)
    assert changed["answers"] == NEW_NAME and changed["agreement"]["asked"] == 40
    assert [(each["name"], each["answers"]) for each in run(store=url)["models"]] == [
        (NEW_NAME, True), (OLD_NAME, False)
    ]  # fmt: skip
    assert run("use", OLD, store=url) == {"answers": OLD_NAME}
    assert run("use", NEW, store=url) == {"answers": NEW_NAME}
    assert run("drop", OLD_NAME, "--yes", store=url) == {"dropped": OLD_NAME, "vectors": 40}
    assert [each["name"] for each in run(store=url)["models"]] == [NEW_NAME]


def test_what_was_dropped_is_in_no_table_of_the_index(
    schemas: Schemas, postgres: Postgres, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = schemas.url()
    schema = url.partition("schema=")[2].partition("&")[0]
    monkeypatch.setenv(
        "SIMONIDES_INDEX", f"pgvector:{url.partition('?')[0].partition(':')[2]}?schema={schema}_near&small=0"
    )
    with Memory(url, embedder=OLD) as memory:
        memory.remember(SAID)  # type: ignore[arg-type]
        assert memory.recall("the harbour of bridge 7")

    def kept() -> dict[str, int]:
        """Return how many rows each table of vectors holds."""
        columns = "information_schema.columns WHERE udt_name = 'halfvec'"
        named = postgres.sql(f"SELECT table_name FROM {columns} AND table_schema = '{schema}_near'", "memories")
        return {name: postgres.sql(f"SELECT count(*) FROM {schema}_near.{name}", "memories")[0][0] for [name] in named}

    assert sum(kept().values()) == 40
    run("migrate", "--to", NEW, store=url)
    assert sum(kept().values()) == 80
    assert run("drop", OLD_NAME, "--yes", store=url) == {"dropped": OLD_NAME, "vectors": 40}
    assert sum(kept().values()) == 40, kept()
    with Memory(url, embedder=NEW) as memory:
        assert memory.recall("the harbour of bridge 7")


def test_models_that_agree_too_little_are_not_changed_over(url: str) -> None:
    changed = run("migrate", "--to", NEW, "--least", "1.0", store=url, status=1)
    assert changed["answers"] == OLD_NAME and changed["agreement"]["shared"] < 1
    assert run("migrate", "--to", NEW, "--only-fill", store=url)["answers"] == OLD_NAME


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["migrate", "--to", OLD], "both are hashing/256"),
        (["migrate", "--to", "none"], "no embedding model"),
        (["migrate", "--to", "hashin:"], "hashing"),
        (["drop", OLD_NAME, "--yes"], "answers"),
        (["drop", "nobody", "--yes"], "keeps nothing"),
    ],
)
def test_what_cannot_be_is_refused(url: str, words: list[str], said: str) -> None:
    assert said in run(*words, store=url, status=2)["message"]


def test_nothing_is_dropped_unasked(url: str) -> None:
    run("migrate", "--to", NEW, store=url)
    assert "--yes" in run("drop", OLD_NAME, store=url, status=2)["message"]
    assert len(run(store=url)["models"]) == 2


async def test_workers_make_the_vectors_of_the_next_model_too(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So servers that leave it to workers can change over, and turn back at once."""
    told = settings({"store": url, "embedder": OLD, "embedder_next": NEW})
    monkeypatch.setenv("SIMONIDES_WORK", "elsewhere")
    monkeypatch.setenv("SIMONIDES_EMBEDDER_NEXT", NEW)
    async with worker.opened(told, followers=(worker.VECTORS,)) as working, AsyncMemory(url, embedder=OLD) as memory:
        running = asyncio.create_task(working.run(5.0))
        async with asyncio.timeout(60):
            while vectors(await store.models()).get(NEW_NAME) != 40:
                await asyncio.sleep(0.05)
        await models.choose(store, NEW_NAME)
        await memory.remember("the ferry leaves from pier nine")
        assert texts(await memory.recall("a ferry from pier nine", limit=1)) == ["the ferry leaves from pier nine"]
        assert (await memory.stats())["embedder"] == NEW_NAME
        async with asyncio.timeout(60):
            while vectors(await store.models()) != {OLD_NAME: 41, NEW_NAME: 41}:
                await asyncio.sleep(0.05)
        working.stop()
        await running
