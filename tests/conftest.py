"""The machine that tests run on, and the stores that every test of a store runs on.

A store's URL begins with the name of its file in `simonides/stores/`; <schema> is a new one of PostgreSQL each time.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engines import S3, Kafka, Machine, Postgres, Schemas, Valkey, machine
from hypothesis import is_hypothesis_test

import simonides
from simonides.config import open_backend
from simonides.store import Store
from simonides.testing.stores import MakeStore

# Whoever starts the tests in the background may have them pass over Ctrl-C, and so every program that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(simonides.__file__).parents[1]
# The files that take longest, so that no process is left alone with one of them in the end.
LONGEST = (
    "test_cluster", "test_indexes", "test_isolation", "test_durability", "test_mcp", "test_schemathesis", "test_feeds",
    "test_memory", "test_api", "test_sinks", "test_stores_postgres", "test_stores", "test_embedders", "test_worker",
    "test_backup", "test_journeys", "test_docs", "test_erase",
)  # fmt: skip
# Whether a line is met is told by other tests; measuring takes these half as long again.
UNMEASURED = ("test_cluster", "test_isolation", "test_durability", "test_schemathesis", "test_worker", "test_feeds")

STORES = ("memory:", "sqlite:///<tmp>/m.db", "sqlite:///:memory:")  # on PostgreSQL: test_stores_postgres.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    for item in items:
        if item.path.stem in UNMEASURED or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("no_cover")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine where nobody has used this yet; what its processes run is what is tested, installed or not."""
    for name in [name for name in os.environ if name.startswith("SIMONIDES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SIMONIDES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMONIDES_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("SIMONIDES_EMBEDDER", "none")
    monkeypatch.setenv("SIMONIDES_ZONE", "Europe/Lisbon")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def open_store(url: str) -> Store:
    opened: Store = open_backend("stores", url)
    return opened


def filled_in(url: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a new store: with a folder of its own for <tmp>, or of a new schema."""
    if "<schema>" in url:
        schemas: Schemas = request.getfixturevalue("schemas")
        return schemas.url()
    return url.replace("<tmp>", str(request.getfixturevalue("tmp_path"))) if "<tmp>" in url else url


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Return what opens a new, empty store each time; whoever opens one closes it."""
    numbers = itertools.count()
    schemas: Schemas | None = request.getfixturevalue("schemas") if "<schema>" in request.param else None

    async def make() -> Store:
        if schemas:
            return open_store(schemas.url())
        return open_store(request.param.replace("<tmp>", f"{tmp_path}/{next(numbers)}"))

    return make


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    opened = await make_store()
    yield opened
    await opened.close()


# -- real servers, each started when a test first asks for it, and shared by the tests of one process ----------------


@pytest.fixture(scope="session")
def engines() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture(scope="session")
def postgres(engines: Machine) -> Postgres:
    return engines.postgres()


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> str:
    """Return the URL of a database with pgvector, whose owner is an ordinary role: no superuser, whom no wall holds."""
    postgres.sql("CREATE ROLE simonides LOGIN")
    postgres.sql("CREATE DATABASE memories OWNER simonides")
    postgres.sql("CREATE EXTENSION vector", "memories")
    return postgres.url("memories", user="simonides")


@pytest.fixture
def schemas(postgres: Postgres, database: str) -> Iterator[Schemas]:
    """What gives each store a schema of its own, and drops them after the test."""
    made = Schemas(postgres, database)
    yield made
    made.drop()


@pytest.fixture(scope="session")
def valkey(engines: Machine) -> Valkey:
    return engines.valkey()


@pytest.fixture(scope="session")
def kafka(engines: Machine) -> Kafka:
    return engines.kafka()


@pytest.fixture(scope="session")
def s3(engines: Machine) -> S3:
    return engines.s3()
