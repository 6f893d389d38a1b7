"""The suite of every store on PostgreSQL, in a file of its own: it takes as long as all the others together."""

from __future__ import annotations

import pytest
import test_stores
from conftest import Schemas, open_store

from simonides.store import Store
from simonides.testing.stores import MakeStore


class TestStoresOnPostgres(test_stores.TestStores):
    @pytest.fixture
    def make_store(self, schemas: Schemas) -> MakeStore:
        async def make() -> Store:
            return open_store(schemas.url())

        return make
