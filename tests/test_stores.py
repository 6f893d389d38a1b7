"""Every store passes the same suite; `conftest.py` says which there are."""

from simonides.testing.stores import StoreSuite


class TestStores(StoreSuite):
    pass
