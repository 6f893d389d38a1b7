"""The log in a topic of Kafka, or of any broker that speaks its protocol. `kafka://one:9092,two:9092/topic`
The path is the topic; where there is none, it is named after the store, so that no two stores share one. It is made
with `partitions` (default 16) and `replicas` (default 1) where it is not there. A consumer group for each follower
(`simonides`, the store's identity, the follower) shares the partitions; a worker commits its offsets once what it made
of the changes is in the store. Also `user:password@` before the hosts, `sasl`, `tls=1`, `ca`, `cert` and `cert_key` as
for a sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..address import Address
from ..errors import Damaged, Unavailable
from ..feed import Arrival, FeedSource, Parcel, ended
from ..follow import SHARDS
from ..sinks.kafka import PORT, REQUEST_S, given, started, stop
from ..store import Store

PARTITIONS, REPLICAS = 16, 1
READ = 64  # parcels that are read at a time
COMMIT_S, COMMIT_MAX_S = 1.0, 5.0  # between two commits of offsets, and what one may take
PATIENCE_S = 0.5  # with a client that does not come back in time
OPTIONS = ("sasl", "partitions", "replicas")


class KafkaCarrier:
    def __init__(self, url: str, identity: str) -> None:
        try:
            import aiokafka  # noqa: F401
        except ImportError:
            raise Unavailable("a feed in Kafka needs: pip install 'simonides[kafka]'") from None
        self._address = Address.of(url, PORT, OPTIONS)
        self._wanted = min(self._address.number("partitions", PARTITIONS), SHARDS)
        self._replicas = self._address.number("replicas", REPLICAS)
        self._topic = self._address.path or f"simonides-{identity}"
        self._identity = identity
        self.name = f"{self._address.name}/{self._topic}"
        self.count = 0
        self._held: dict[int, int] = {}
        self._gains = 0
        self._producer: Any = None
        self._consumer: Any = None
        self._offsets: dict[Any, int] = {}  # to be committed
        self._committed = 0.0
        self._reading: asyncio.Task[Any] | None = None
        self._committing: asyncio.Task[None] | None = None

    # -- in --------------------------------------------------------------------------------------------------------

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        from aiokafka.errors import KafkaError

        try:
            assert self._producer is not None
            sent = [await self._producer.send(self._topic, each.packed(), partition=each.partition) for each in parcels]
            await self._producer.flush()
            for each in sent:
                each.result()
        except (TimeoutError, KafkaError, AssertionError, OSError) as error:
            await self._stop_producer()
            raise Unavailable(f"{self.name} does not take the log: {type(error).__name__}: {error}") from None

    async def partitions(self) -> int:
        from aiokafka.errors import KafkaError

        try:
            if self._producer is None:
                await self._make_topic()
                self._producer = await started(given(self._address) | {"acks": "all"})
            found = await asyncio.wait_for(self._producer.partitions_for(self._topic), REQUEST_S)
        except (TimeoutError, KafkaError, OSError) as error:
            await self._stop_producer()
            raise Unavailable(f"{self.name} does not answer: {type(error).__name__}: {error}") from None
        return min(len(found), SHARDS)

    async def _make_topic(self) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        told = given(self._address)
        admin = AIOKafkaAdminClient(**told)
        try:
            await admin.start()
            await admin.create_topics([NewTopic(self._topic, self._wanted, self._replicas)])  # or it is there
        finally:
            await admin.close()

    async def _stop_producer(self) -> None:
        producer, self._producer = self._producer, None
        await stop(producer)

    # -- out -------------------------------------------------------------------------------------------------------

    async def join(self, follower: str) -> None:
        from aiokafka import AIOKafkaConsumer
        from aiokafka.errors import KafkaError

        self.count = await self.partitions()
        consumer = AIOKafkaConsumer(
            **given(self._address),
            group_id=f"simonides-{self._identity}-{follower}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=900_000,
            metadata_max_age_ms=30_000,
        )
        consumer.subscribe([self._topic], listener=_listener(self))
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise Unavailable(f"{self.name} does not answer: {type(error).__name__}: {error}") from None
        self._consumer = consumer

    @property
    def held(self) -> Mapping[int, int]:
        return self._held

    def gained(self, partitions: Iterable[Any]) -> None:
        self._gains += 1
        if self._consumer is not None and (known := self._consumer.partitions_for_topic(self._topic)):
            self.count = min(len(known), SHARDS)
        self._held |= {each.partition: self._gains for each in partitions if each.partition < SHARDS}

    async def lost(self, partitions: Iterable[Any]) -> None:
        """What was followed is committed; what is under way is not, and comes to whoever has the partition next."""
        await self._commit()
        self._offsets = {}
        for each in partitions:
            self._held.pop(each.partition, None)

    async def read(self, wait_s: float) -> Sequence[Arrival]:
        """Read in a task of its own, which the client ends when it can: without a broker that may take long."""
        from aiokafka.errors import KafkaError

        if self._consumer is None:
            await asyncio.sleep(wait_s)
            return []
        if self._reading is None:
            again = self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=READ)
            self._reading = asyncio.create_task(again)
        await asyncio.wait({self._reading}, timeout=wait_s + PATIENCE_S)
        if not self._reading.done():
            return []
        done, self._reading = self._reading, None
        try:
            found = done.result()
        except (KafkaError, OSError) as error:
            raise Unavailable(f"{self.name} brings nothing: {type(error).__name__}: {error}") from None
        arrivals = list[Arrival]()
        for place, messages in found.items():
            for message in messages:
                with contextlib.suppress(Damaged):  # what is not ours is passed over
                    parcel = Parcel.unpacked(message.value)
                    arrivals.append(Arrival(place.partition, (place, message.offset + 1), parcel))
        self._commit_soon()
        return arrivals

    async def taken(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            place, offset = arrival.token
            if arrival.partition in self._held:
                self._offsets[place] = offset
        self._commit_soon()

    def _commit_soon(self) -> None:
        """Commit in the background, one commit at a time."""
        idle = self._committing is None or self._committing.done()
        if idle and self._offsets and time.monotonic() - self._committed >= COMMIT_S:
            self._committed = time.monotonic()
            self._committing = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        from aiokafka.errors import KafkaError

        offsets, self._offsets = self._offsets, {}
        if offsets and self._consumer is not None:  # what is not committed is brought again, and left out
            with contextlib.suppress(KafkaError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(self._consumer.commit(offsets), COMMIT_MAX_S)

    async def close(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            await ended(*(task for task in (self._reading, self._committing) if task))
            await self._commit()
            self._consumer = None
            with contextlib.suppress(Exception):  # the group notices by itself
                await asyncio.wait_for(consumer.stop(), REQUEST_S)
        self._held = {}
        await self._stop_producer()


def _listener(carrier: KafkaCarrier) -> Any:
    from aiokafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
            await carrier.lost(revoked)

        async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
            carrier.gained(assigned)

    return Listener()


def source(url: str, store: Store, follower: str) -> FeedSource:
    return FeedSource(store, follower, KafkaCarrier(url, store.identity))


open = source
