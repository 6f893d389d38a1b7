"""The stores that every test of a store runs on; a URL's scheme is the name of its file in `simonides/stores/`."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from simonides.store import Store
from simonides.testing.stores import MakeStore

STORES = ("memory:", "sqlite:///<tmp>/m.db", "sqlite:///:memory:")


def open_store(url: str) -> Store:
    module = importlib.import_module(f"simonides.stores.{url.partition(':')[0]}")
    opened: Store = module.open(url)
    return opened


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Return what opens a new, empty store each time; whoever opens one closes it."""
    numbers = itertools.count()

    async def make() -> Store:
        return open_store(request.param.replace("<tmp>", f"{tmp_path}/{next(numbers)}"))

    return make


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    opened = await make_store()
    yield opened
    await opened.close()
