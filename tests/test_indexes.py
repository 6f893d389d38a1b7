"""Every index passes the same suite; `flat` also keeps what it promises of its files, and of many vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from simonides.index import Index
from simonides.indexes import exact, flat
from simonides.store import Store
from simonides.testing.indexes import DIMENSION, MODEL, IndexSuite, MakeIndex

URLS = (
    "exact:",
    "flat:",  # all in memory, as they are
    "flat:?small=0",  # codes, each row scored
    "flat:?small=5&exact=10&candidates=40",  # grows from one to the other, to candidates chosen by their bits
    "flat:?small=0&exact=10&candidates=40&kernels=numpy",
)


def open_index(url: str, store: Store, model: str = MODEL, dimension: int = DIMENSION) -> Any:
    return (exact if url == "exact:" else flat).open(url, store, model, dimension)


@pytest.fixture(params=URLS)
async def index_over(request: pytest.FixtureRequest) -> AsyncIterator[MakeIndex]:
    opened = list[Index]()

    def over(store: Store, *, model: str = MODEL, dimension: int = DIMENSION) -> Index:
        opened.append(open_index(request.param, store, model, dimension))
        return opened[-1]

    yield over
    for index in opened:
        await index.close()


class TestIndexes(IndexSuite):
    pass
