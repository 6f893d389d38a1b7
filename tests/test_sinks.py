"""Sinks on real brokers and a real receiver: the suite of all sinks, and what each does when its server fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import hmac
import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import redis
import trustme
import uvicorn
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from engines import Kafka, Machine, Valkey, free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simonides import AsyncMemory, worker
from simonides.config import Settings, open_backend, settings
from simonides.errors import Invalid, Unavailable
from simonides.follow import Patience
from simonides.record import now
from simonides.sending import WAIT_MAX_S, event, pause_s
from simonides.sink import Event, Later, Sink, SwitchedOff
from simonides.sinks import webhook
from simonides.sinks.webhook import wait_of
from simonides.store import Batch, Change, Store
from simonides.stores.memory import MemoryStore
from simonides.testing.follow import ANA, BO, Ear, Heard, SinkSuite, in_order, numbers, sending, told, until
from simonides.testing.records import said

COUNT = itertools.count()
PARTITIONS = 3


# -- Redis -------------------------------------------------------------------------------------------------------


class RedisEar:
    def __init__(self, url: str, stream: str) -> None:
        self._client, self._stream = redis.Redis.from_url(url), stream

    async def heard(self) -> list[Heard]:
        entries: Any = self._client.xrange(self._stream)
        return [
            Heard(json.loads(fields[b"event"]), fields[b"key"].decode(), b"".join(fields.values()))
            for _, fields in entries
        ]


class TestRedis(SinkSuite):
    @pytest.fixture
    def stream(self) -> str:
        return f"events-{next(COUNT)}"

    @pytest.fixture
    def sink_url(self, valkey: Valkey, stream: str) -> str:
        return f"{valkey.url}?stream={stream}"

    @pytest.fixture
    def ear(self, valkey: Valkey, stream: str) -> Ear:
        return RedisEar(valkey.url, stream)

    async def test_the_stream_is_cut(self, valkey: Valkey) -> None:
        store = MemoryStore()
        await store.commit(Batch(put=tuple(said(f"{number}") for number in range(1000))))
        async with sending(store, f"{valkey.url}?stream=cut&maxlen=100&from=start"):
            pass
        assert 100 <= redis.Redis.from_url(valkey.url).xlen("cut") < 300


async def test_redis_gone_and_back_misses_nothing(engines: Machine) -> None:
    server = engines.valkey()
    ear, store = RedisEar(server.url, "kept"), MemoryStore()
    async with sending(store, f"{server.url}?stream=kept") as sent:
        await store.commit(Batch(put=(said("before"),)))
        await told(ear, 1)
        server.kill()
        await store.commit(Batch(put=(said("meanwhile"), said("meanwhile, too"))))
        sent.notice()
        await until(lambda: _so(bool(sent.behind)))
        assert "does not take events" in next(iter(sent.behind.values()))
        server.start()
        await until(lambda: _so(not sent.behind))
        assert numbers(await told(ear, 3)) == [1, 2, 3]
    server.stop()


# -- Kafka -------------------------------------------------------------------------------------------------------


class KafkaEar:
    def __init__(self, port: int, topic: str) -> None:
        self._port, self._topic = port, topic
        self._consumer: AIOKafkaConsumer | None = None
        self._found: list[Heard] = []

    async def heard(self) -> list[Heard]:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{self._port}", auto_offset_reset="earliest")
            await self._consumer.start()
            self._consumer.assign([TopicPartition(self._topic, number) for number in range(PARTITIONS)])
        for messages in (await self._consumer.getmany(timeout_ms=100)).values():
            self._found += [self._heard(message) for message in messages]
        return self._found

    def _heard(self, message: Any) -> Heard:
        headers = {name: value.decode() for name, value in message.headers}
        raw = message.value + message.key + b"".join(value for _, value in message.headers)
        if headers.pop("content-type").startswith("application/cloudevents+json"):
            return Heard(json.loads(message.value), message.key.decode(), raw)
        attributes = {name.removeprefix("ce_"): value for name, value in headers.items()}
        data = json.loads(message.value)
        return Heard({**attributes, "datacontenttype": "application/json", "data": data}, message.key.decode(), raw)

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()


async def make_topic(port: int, topic: str, partitions: int = PARTITIONS) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


class TestKafka(SinkSuite):
    mode = "binary"

    @pytest.fixture
    async def topic(self, kafka: Kafka) -> str:
        name = f"events-{next(COUNT)}"
        await make_topic(kafka.port, name)
        return name

    @pytest.fixture
    def sink_url(self, kafka: Kafka, topic: str) -> str:
        return f"{kafka.url}/{topic}?mode={self.mode}"

    @pytest.fixture
    async def ear(self, kafka: Kafka, topic: str) -> AsyncIterator[Ear]:
        made = KafkaEar(kafka.port, topic)
        yield made
        await made.close()


class TestKafkaStructured(TestKafka):
    mode = "structured"


async def _so(what: bool) -> bool:
    return what


async def test_a_broker_that_forgets_everything_is_sent_what_comes_next(engines: Machine) -> None:
    server, store = engines.kafka(), MemoryStore()
    await make_topic(server.port, "events")
    name = f"sink/{server.url}/events"
    async with sending(store, f"{server.url}/events") as sent:
        await store.commit(Batch(put=(said("before"),)))
        await until(lambda: _place(store, name, 1))
        server.kill()
        await store.commit(Batch(put=(said("meanwhile"),)))
        sent.notice()
        await until(lambda: _so(bool(sent.behind)))
        server.start()
        await make_topic(server.port, "events")
        await until(lambda: _place(store, name, 2))
    ear = KafkaEar(server.port, "events")
    assert numbers(await told(ear, 1)) == [2]
    await ear.close()
    server.stop()


async def _place(store: MemoryStore, name: str, place: int) -> bool:
    return await store.cursor(name) >= place


# -- webhooks ------------------------------------------------------------------------------------------------------

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


class Receiver:
    """A server that takes webhooks. What it answers is what stands first in `says`, or else 204."""

    def __init__(self) -> None:
        self.found: list[Heard] = []
        self.sent: list[tuple[dict[str, str], bytes]] = []  # every request, whatever became of it
        self.says: list[Response] = []
        self.slow_s, self.refuses = 0.0, ""
        self.busy = self.busy_max = 0
        self.port = free_port()

    async def take(self, request: Request) -> Response:
        headers, body = dict(request.headers), await request.body()
        self.sent.append((headers, body))
        self.busy += 1
        self.busy_max = max(self.busy, self.busy_max)
        await asyncio.sleep(self.slow_s)
        self.busy -= 1
        if self.says:
            return self.says.pop(0)
        if self.refuses and self.refuses.encode() in body:
            return Response(status_code=422)
        self.found.append(self._heard(headers, body))
        return Response(status_code=204)

    def _heard(self, headers: dict[str, str], body: bytes) -> Heard:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        made = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert f"v1,{made}" in headers["webhook-signature"].split(" ")
        assert abs(time.time() - int(headers["webhook-timestamp"])) < 60
        raw = body + "".join(headers.values()).encode()
        if headers["content-type"].startswith("application/cloudevents+json"):
            event = json.loads(body)
        else:
            event = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
            event |= {"datacontenttype": headers["content-type"], "data": json.loads(body)}
        assert event["id"] == headers["webhook-id"]
        return Heard(event, event["partitionkey"], raw)

    async def heard(self) -> list[Heard]:
        return self.found

    def url(self, more: str = "") -> str:
        return f"webhook:http://127.0.0.1:{self.port}/hook?their=own&secret={SECRET}&private=1{more}"


@contextlib.contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    made = Receiver()
    app = Starlette(routes=[Route("/hook", made.take, methods=["POST"])])
    server = uvicorn.Server(
        uvicorn.Config(app, port=made.port, log_level="error", lifespan="off", ssl_certfile=certificate)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield made
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class TestWebhook(SinkSuite):
    mode = "structured"

    @pytest.fixture
    def ear(self, receiver: Receiver) -> Ear:
        return receiver

    @pytest.fixture
    def sink_url(self, receiver: Receiver) -> str:
        return receiver.url(f"&mode={self.mode}")


class TestWebhookBinary(TestWebhook):
    mode = "binary"


def line(number: int, scope: Any = ANA) -> Event:
    return event(Change(number, now(), f"r{number}", 1, "note", scope), "store")


def sink(url: str) -> Sink:
    opened: Sink = open_backend("sinks", url)
    return opened


async def test_what_failed_is_sent_again_and_what_was_taken_is_not(receiver: Receiver) -> None:
    receiver.says = [Response(status_code=500), Response(status_code=503)]
    made, events = sink(receiver.url("&parallel=1")), [line(1), line(2, BO), line(3)]
    with pytest.raises(Unavailable, match="answered 500"):
        await made.send(events[:1])
    with pytest.raises(Unavailable, match="answered 503"):
        await made.send(events)
    await made.send(events)
    await made.close()
    assert sorted(numbers(receiver.found)) == [1, 2, 3]
    assert in_order(receiver.found)
    assert len(receiver.sent) == 5
    assert len({headers["webhook-id"] for headers, _ in receiver.sent}) == 3


async def test_after_errors_it_goes_on_by_itself(receiver: Receiver) -> None:
    store = MemoryStore()
    receiver.says = [Response(status_code=500), Response(status_code=429, headers={"retry-after": "1"})]
    begun = time.monotonic()
    async with sending(store, receiver.url()) as sent:
        await store.commit(Batch(put=(said("one"), said("two"))))
        sent.notice()
        assert numbers(await told(receiver, 2)) == [1, 2]
        await until(lambda: _so(not sent.behind))
    assert time.monotonic() - begun > 1.2, "it waited after each"


async def test_whoever_answers_gone_is_sent_no_more(receiver: Receiver) -> None:
    store = MemoryStore()
    receiver.says = [Response(status_code=410)]
    async with sending(store, receiver.url()) as sent:
        await store.commit(Batch(put=(said("one"),)))
        sent.notice()
        await until(lambda: _so(bool(sent.behind)))
        await store.commit(Batch(put=(said("two"),)))
        sent.notice()
        await asyncio.sleep(0.3)
        assert len(receiver.sent) == 1
        assert "410" in next(iter(sent.behind.values()))
    async with sending(store, receiver.url()):  # it was opened again: nothing is lost
        assert numbers(await told(receiver, 2)) == [1, 2]


async def test_it_is_told_how_long_to_wait(receiver: Receiver) -> None:
    assert wait_of("7") == 7.0
    assert wait_of("999999999") == 3600.0
    later = wait_of(format_datetime(now() + timedelta(seconds=30), usegmt=True))
    assert later is not None and 25 < later <= 30
    assert wait_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert wait_of("9" * 400) == wait_of("Fri, 31 Dec 9999 23:59:59 -1200") == 3600.0
    nowhere = wait_of(format_datetime(now() + timedelta(seconds=30)).replace("+0000", "-0000"))
    assert nowhere is not None and 25 < nowhere <= 30
    assert wait_of(None) is wait_of("") is wait_of("soon") is wait_of("-3") is None
    receiver.says = [Response(status_code=429, headers={"retry-after": "12"}), Response(status_code=410)]
    made = sink(receiver.url())
    with pytest.raises(Later) as caught:
        await made.send([line(1)])
    assert caught.value.after_s == 12.0
    with pytest.raises(SwitchedOff):
        await made.send([line(1)])
    await made.close()


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    with receiving() as other:
        receiver.says = [Response(status_code=307, headers={"location": f"http://127.0.0.1:{other.port}/hook"})]
        made = sink(receiver.url())
        with pytest.raises(Unavailable, match="answered 307"):
            await made.send([line(1)])
        await made.close()
        assert other.sent == []


async def test_a_slow_receiver_is_not_waited_for_forever(receiver: Receiver) -> None:
    receiver.slow_s = 3
    made, begun = sink(receiver.url("&seconds=1")), time.monotonic()
    with pytest.raises(Unavailable, match="TimeoutError"):
        await made.send([line(1)])
    assert time.monotonic() - begun < 2.5
    await made.close()


async def test_scopes_are_sent_side_by_side_and_each_in_order(receiver: Receiver) -> None:
    receiver.slow_s = 0.05
    made = sink(receiver.url("&parallel=4"))
    scopes = [ANA, BO, *(dataclasses.replace(ANA, user=f"u{number}") for number in range(6))]
    await made.send([line(number, scopes[number % 8]) for number in range(1, 33)])
    await made.close()
    assert receiver.busy_max == 4
    assert in_order(receiver.found) and len(receiver.found) == 32


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.9", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "0.0.0.0",
     "[64:ff9b::7f00:1]", "[fd00::1]", "[fe80::1]", "100.64.0.1", "2130706433", "224.0.0.1", "[2002:7f00:1::]"],
)  # fmt: skip
async def test_addresses_that_are_not_public_are_refused(host: str) -> None:
    made = sink(f"webhook:https://{host}/hook?secret={SECRET}")
    with pytest.raises(Unavailable, match="not public"):
        await made.send([line(1)])
    await made.close()


async def test_a_name_that_leads_inside_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up once for each sending: what is connected to is what was looked at."""
    loop = asyncio.get_running_loop()
    real, asked = loop.getaddrinfo, list[str]()

    async def lookup(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return await real("127.0.0.1", *rest, **more)

    monkeypatch.setattr(loop, "getaddrinfo", lookup, raising=False)
    made = sink(f"webhook:https://hooks.example.com:{receiver.port}/hook?secret={SECRET}")
    with pytest.raises(Unavailable, match="not public"):
        await made.send([line(1)])
    await made.close()
    assert asked == ["hooks.example.com"] and receiver.sent == []


async def test_the_certificate_must_be_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was looked at; the certificate is asked of the name all the same."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def lookup(host: str, *rest: Any, **more: Any) -> Any:
        return await real("127.0.0.1", *rest, **more)

    monkeypatch.setattr(loop, "getaddrinfo", lookup, raising=False)
    authority.issue_cert("right.example.com").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with receiving(tmp_path / "server.pem") as receiver:
        for host, taken in (("right.example.com", True), ("wrong.example.com", False)):
            made = webhook.WebhookSink(f"webhook:https://{host}:{receiver.port}/hook?secret={SECRET}&private=1")
            made._client = httpx.AsyncClient(trust_env=False, verify=trusting)
            with contextlib.nullcontext() if taken else pytest.raises(Unavailable, match="ConnectError"):
                await made.send([line(1)])
            await made.close()
    assert [headers["host"] for headers, _ in receiver.sent] == [f"right.example.com:{receiver.port}"]


async def test_while_a_secret_is_replaced_both_sign(receiver: Receiver, tmp_path: Path) -> None:
    other = f"whsec_{base64.b64encode(b'x' * 24).decode()}"
    (tmp_path / "secrets").write_text(f"{other}\n{SECRET}\n")
    made = sink(f"webhook:http://127.0.0.1:{receiver.port}/hook?private=1&secret_file={tmp_path / 'secrets'}")
    await made.send([line(1)])
    await made.close()
    assert len(receiver.found) == 1  # it knows one of them
    assert receiver.sent[0][0]["webhook-signature"].count("v1,") == 2


@pytest.mark.parametrize(
    "url",
    [
        "webhook:https://example.com/hook",
        f"webhook:http://example.com/hook?secret={SECRET}",
        f"webhook:ftp://example.com/hook?secret={SECRET}",
        f"webhook:https://me:secret@example.com/hook?secret={SECRET}",
        "webhook:https://example.com/hook?secret=whsec_c2hvcnQ=",
        "webhook:https://example.com/hook?secret=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        f"webhook:https://example.com/hook?mode=other&secret={SECRET}",
        f"webhook:https://example.com/hook?seconds=0&secret={SECRET}",
        "kafka:///topic",
        "kafka://host:9092/topic?acks=0",
        "kafka://ana:secret@kafka.example.com/topic",
        "kafka://host/topic?mode=avro",
        "redis://one,two/0",
        "redis://host/zero",
        "redis://:secret@redis.example.com/0",
        "carrier-pigeon://loft",
    ],
)
def test_what_cannot_be_a_sink_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        sink(url)
    assert "whsec_c2" not in str(caught.value) and "secret@" not in str(caught.value)


def test_no_secret_is_in_a_setting_that_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, hook = "kafka://ana:pa55@a:1,b:2/t?tls=1", f"webhook:https://e.com/?secret={SECRET}&x=1"
    monkeypatch.setenv("SIMONIDES_SINKS", f"{kafka}, {hook}")
    found = settings()
    assert found.sinks == (kafka, hook)
    assert "pa55" not in repr(found) and SECRET not in repr(found) and "x=1" in repr(found)


def test_the_waits_grow_and_never_all_end_together() -> None:
    assert all(0.25 <= pause_s(1) <= 0.5 for _ in range(20))
    assert all(2 <= pause_s(4) <= 4 for _ in range(20))
    assert all(WAIT_MAX_S / 2 <= pause_s(1000) <= WAIT_MAX_S for _ in range(20))
    assert len({pause_s(3) for _ in range(20)}) > 1


# -- in a memory ---------------------------------------------------------------------------------------------------


async def test_a_sink_that_hangs_delays_no_write_and_no_other_sink(receiver: Receiver, tmp_path: Path) -> None:
    with receiving() as stuck:
        stuck.slow_s = 60
        sinks = [stuck.url(), receiver.url()]
        async with AsyncMemory(tmp_path / "m.db", embedder="hashing:", sinks=sinks) as memory:
            begun = time.monotonic()
            kept = await memory.remember("the spare key is with Ana", user="me")
            await memory.settle()
            assert [hit.record.id for hit in await memory.recall("who has the key?", user="me")] == [kept.id]
            assert numbers(await told(receiver, 1)) == [1]
            assert time.monotonic() - begun < 5
            ending = time.monotonic()
        assert time.monotonic() - ending < 10  # nor for ever the end


WRITER = """
import asyncio, sys
from simonides import AsyncMemory, worker

async def main(path, url):
    async with AsyncMemory(path, embedder="none", sinks=[url]) as memory:
        print("open", flush=True)
        for number in range(100_000):
            await memory.remember(f"number {number}", user=f"user {number % 5}")
            print(number + 1, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def test_what_was_written_is_sent_though_the_process_is_killed(receiver: Receiver, tmp_path: Path) -> None:
    store, written = str(tmp_path / "m.db"), 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, store, receiver.url()], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for _ in range(40):
            written += bool(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    async def finish() -> None:
        async with AsyncMemory(store, embedder="none", sinks=[receiver.url()]) as memory:
            await until(lambda: _all_of(memory, receiver))

    asyncio.run(finish())
    assert written == 120
    assert set(range(1, written + 1)) <= set(numbers(receiver.found))
    assert in_order(receiver.found)
    assert len({each.event["id"] for each in receiver.found}) == len(set(numbers(receiver.found)))


async def _all_of(memory: AsyncMemory, receiver: Receiver) -> bool:
    return set(range(1, (await memory.position()).written + 1)) <= set(numbers(receiver.found))


async def test_what_is_refused_is_put_aside_and_the_rest_goes_on(receiver: Receiver) -> None:
    store = MemoryStore()
    receiver.refuses = "r2"
    async with sending(store, receiver.url()) as sent:
        await store.commit(Batch(put=tuple(said("x", id=f"r{number}") for number in range(1, 6))))
        sent.notice()
        assert sorted(numbers(await told(receiver, 4))) == [1, 3, 4, 5]
    assert [letter.change.id for letter in await store.letters()] == ["r2"]


async def test_of_several_processes_one_sends(receiver: Receiver) -> None:
    store = MemoryStore()
    receiver.slow_s = 0.002
    async with sending(store, receiver.url()) as one, sending(store, receiver.url()) as other:
        for _ in range(50):
            await store.commit(Batch(put=(said("one"), said("other", BO))))
            one.notice()
            other.notice()
            await asyncio.sleep(0.002)
        found = await told(receiver, 100)
    assert sorted(numbers(found)) == list(range(1, 101)), "each of them once"


# -- what docs/operate/events.md shows -------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "operate" / "events.md"
SHOWN: dict[str, Any] = {}
exec("".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)), SHOWN)


async def test_the_consumers_that_are_shown_read_what_is_sent(valkey: Valkey, kafka: Kafka) -> None:
    await make_topic(kafka.port, "shown")
    store = MemoryStore()
    async with sending(store, f"{valkey.url}?stream=shown", f"{kafka.url}/shown"):
        await store.commit(Batch(put=tuple(said(f"{number}") for number in range(5))))
    for _ in range(2):  # the first one ends before it acknowledged the last
        events = SHOWN["from_redis"](valkey.url, "shown", "readers", "one")
        found = [next(events) for _ in range(3)]
        assert [each["type"] for each in found] == ["simonides.record.written"] * 3
    assert [each["data"]["seq"] for each in found] == [3, 4, 5]
    reading = SHOWN["from_kafka"](f"127.0.0.1:{kafka.port}", "shown", "readers")
    async with contextlib.aclosing(reading) as told_of:
        ids = [(await anext(told_of))["id"] for _ in range(5)]
    assert ids == [f"{store.identity}/{number}" for number in range(1, 6)]


async def test_the_check_that_is_shown_knows_our_signature(receiver: Receiver) -> None:
    made = sink(receiver.url())
    await made.send([line(1)])
    await made.close()
    [(headers, body)] = receiver.sent
    assert SHOWN["verified"](SECRET, headers, body)
    assert not SHOWN["verified"](SECRET, headers, body + b" ")
    assert not SHOWN["verified"](SECRET, {**headers, "webhook-timestamp": "1700000000"}, body)


@pytest.mark.parametrize("carried", [False, True])
async def test_workers_send_where_the_work_is_done_elsewhere(
    receiver: Receiver, valkey: Valkey, home: Path, carried: bool
) -> None:
    store, feed = f"sqlite:///{home}/m.db", valkey.url if carried else ""
    told_to = Settings(store=store, embedder="none", work="elsewhere", feed=feed, sinks=(receiver.url(),))
    async with contextlib.AsyncExitStack() as parts:
        crew = [await parts.enter_async_context(worker.opened(told_to, followers=("sinks",))) for _ in range(2)]
        running = [asyncio.create_task(each.run()) for each in crew]
        opened = open_backend("stores", store)
        for number in range(60):
            await opened.commit(Batch(put=(said("x", dataclasses.replace(ANA, user=f"u{number % 9}")),)))
        found = await told(receiver, 60)
        for each in crew:
            each.stop()
        await asyncio.gather(*running)
        await opened.close()
    assert sorted(numbers(found)) == list(range(1, 61))
    assert in_order(found)


@contextlib.asynccontextmanager
async def working(store: Path, receiver: Receiver) -> AsyncIterator[Store]:
    """Yield a store whose changes a worker sends to the receiver."""
    told_to = Settings(store=f"sqlite:///{store}", embedder="none", work="elsewhere", sinks=(receiver.url(),))
    impatient = Patience(first_s=0.01, most_s=0.01)
    async with worker.opened(told_to, followers=("sinks",), patience=impatient) as made:
        running, opened = asyncio.create_task(made.run()), open_backend("stores", told_to.store)
        yield opened
        made.stop()
        await running
        await opened.close()


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "a date"])
async def test_a_worker_sends_again_when_it_was_told_to(receiver: Receiver, home: Path, dated: bool) -> None:
    async with working(home / "m.db", receiver) as store:
        when = format_datetime(now() + timedelta(seconds=3), usegmt=True) if dated else "2"
        receiver.says = [Response(status_code=429, headers={"retry-after": when})]
        begun = time.monotonic()
        await store.commit(Batch(put=(said("one"),)))
        assert numbers(await told(receiver, 1)) == [1]
    assert time.monotonic() - begun > 1.5 and len(receiver.sent) == 2


async def test_a_worker_asks_nobody_again_who_wants_no_more(receiver: Receiver, home: Path) -> None:
    async with working(home / "m.db", receiver) as store:
        receiver.says = [Response(status_code=410)]
        await store.commit(Batch(put=(said("one"),)))
        await until(lambda: _so(bool(receiver.sent)))
        await asyncio.sleep(0.5)
        assert len(receiver.sent) == 1
    async with working(home / "m.db", receiver):
        assert numbers(await told(receiver, 1)) == [1]
