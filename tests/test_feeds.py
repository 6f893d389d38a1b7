"""Feeds on real brokers: the suite of all feeds, and what workers do when the broker or one of them fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from engines import Kafka, Valkey

from simonides.config import open_backend
from simonides.feed import FeedSource
from simonides.store import Store
from simonides.stores.memory import MemoryStore
from simonides.testing.follow import (
    FOLLOWER,
    FeedSuite,
    MakeSource,
)

QUIET_S = 2.0


def source(url: str, store: Store) -> FeedSource:
    made: FeedSource = open_backend("feeds", url, store, FOLLOWER)
    made._quiet_s = QUIET_S
    return made


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = MemoryStore()
    yield made
    await made.close()


class TestRedis(FeedSuite):
    @pytest.fixture
    def make_source(self, valkey: Valkey) -> MakeSource:
        return lambda store: source(f"{valkey.url}?ttl=2", store)


class TestKafka(FeedSuite):
    @pytest.fixture
    def make_source(self, kafka: Kafka) -> MakeSource:
        return lambda store: source(kafka.url, store)
