"""The suite of every store on PostgreSQL, in a file of its own: it takes as long as all the others together."""

from __future__ import annotations

import pytest
import test_stores


@pytest.mark.parametrize("make_store", ["postgresql://<schema>"], indirect=True)
class TestStoresOnPostgres(test_stores.TestStores):
    pass
