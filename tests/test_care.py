"""The care around the server: who may call it from where, how much it takes, what it logs and counts."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import inspect
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from prometheus_client.parser import text_string_to_metric_families
from serving import Served, served, until
from starlette.responses import Response

from simonides import AsyncMemory, observe
from simonides.access import Permit
from simonides.directory import Grant
from simonides.errors import Conflict, Unavailable
from simonides.kinds import Conversation
from simonides.servers import care, logs, proxy
from simonides.servers.http import OPEN
from simonides.serving import Serving

TEXT = "The lighthouse keeper is called Ursula."


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    """A server that asks for keys: one of whoever runs it, and others."""
    grants = (
        Grant(name="runs it", tenant="default", permits=Permit.READ | Permit.WRITE | Permit.ADMIN),
        Grant(name="a guest", tenant="other", permits=Permit.READ | Permit.ADMIN),
        Grant(name="reads", tenant="default", permits=Permit.READ),
        Grant(name="of one space", tenant="default", spaces=frozenset({"main"}), permits=Permit.READ | Permit.ADMIN),
    )
    with served(serving=Serving(port=0, require_key=True, directory="memory:"), grants=grants) as found:
        yield found


def get(server: Served, path: str, **more: Any) -> httpx.Response:
    return httpx.get(server.url + path, **more)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


# -- ids and errors -----------------------------------------------------------------------------------------------


def test_every_answer_has_an_id_which_is_the_callers_where_it_is_one(server: Served) -> None:
    assert re.fullmatch("[0-9a-f]{32}", get(server, "/health/live").headers["x-request-id"])
    assert get(server, "/health/live", headers={"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
    for wrong in ("a" * 129, "two words", "<script>"):
        assert get(server, "/health/live", headers={"X-Request-ID": wrong}).headers["x-request-id"] != wrong


def test_a_problem_names_the_request(server: Served) -> None:
    for path in ("/nowhere", "/api/v1/memories/nobody", "/api/v1/memories?limit=0"):
        answer = get(server, path, headers={"X-Request-ID": "mine-8"})
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == "mine-8"


async def test_what_nobody_foresaw_is_answered_and_logged_without_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError(TEXT)

    with caplog.at_level(logging.INFO, "simonides"):
        answer = await asked(care.around(broken, Serving), "/x")
    assert answer.status_code == 500 and answer.json()["request_id"] == answer.headers["x-request-id"]
    failed = next(each for each in caplog.records if each.message == "unforeseen")
    assert failed.error == "RuntimeError" and any("broken" in each for each in failed.places)  # type: ignore[attr-defined]
    assert TEXT not in "".join(map(str, (vars(each) for each in caplog.records)))


async def asked(app: Any, path: str = "/", method: str = "GET", **more: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:40020") as client:
        return await client.request(method, path, **more)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await Response(str(size), media_type="text/plain")(scope, receive, send)


# -- hosts and origins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:40020", "localhost", "[::1]:40020", "me.localhost:1", "LOCALHOST:40020"])
async def test_this_machine_answers_by_its_own_names(host: str) -> None:
    assert (await asked(care.around(echo, Serving), headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::2]"])
async def test_a_name_that_somebody_makes_point_here_is_refused(host: str) -> None:
    answer = await asked(care.around(echo, Serving), headers={"Host": host})
    assert answer.status_code == 421 and answer.json()["code"] == "host"


async def test_only_the_names_that_are_allowed() -> None:
    app = care.around(echo, lambda: Serving(host="0.0.0.0", allowed_hosts=("mem.example", "*.in.example")))
    statuses = [
        (await asked(app, headers={"Host": host})).status_code
        for host in ("mem.example:443", "a.in.example", "in.example", "localhost", "other.example")
    ]
    assert statuses == [200, 200, 421, 421, 421]
    anywhere = care.around(echo, lambda: Serving(host="0.0.0.0"))
    assert (await asked(anywhere, headers={"Host": "any.example"})).status_code == 200


async def test_cors_obeys_its_switch() -> None:
    serving = Serving()
    app = care.around(echo, lambda: serving)
    page, ours = {"Origin": "https://app.example"}, "access-control-allow-origin"
    preflight = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    assert ours not in (await asked(app, headers=page)).headers
    assert ours not in (await asked(app, method="OPTIONS", headers=preflight)).headers
    serving = Serving(cors_origins=("https://app.example",))
    assert (await asked(app, headers=page)).headers[ours] == "https://app.example"
    asked_first = await asked(app, method="OPTIONS", headers=preflight)
    assert asked_first.status_code == 200 and "x-api-key" in asked_first.headers["access-control-allow-headers"]
    assert ours not in (await asked(app, headers={"Origin": "https://other.example"})).headers
    serving = Serving()
    assert ours not in (await asked(app, headers=page)).headers


async def test_a_page_may_read_what_the_proxy_says_in_headers() -> None:
    app = care.around(echo, lambda: Serving(cors_origins=("https://app.example",)))
    answer = await asked(app, headers={"Origin": "https://app.example"})
    shown = set(answer.headers["access-control-expose-headers"].split(", "))
    said = set(re.findall(r'"(X-Simonides-[A-Za-z-]+)"', inspect.getsource(proxy._told)))
    assert len(said) >= 4 and said <= shown


async def test_a_page_cannot_send_to_a_server_that_asks_for_no_key() -> None:
    app, page = care.around(echo, Serving), {"Origin": "https://evil.example"}
    assert (await asked(app, method="POST", headers=page)).json()["code"] == "origin"
    assert (await asked(app, method="POST", headers={"Origin": "null"})).status_code == 403
    assert (await asked(app, method="POST", headers={"Origin": "http://127.0.0.1:40020"})).status_code == 200
    assert (await asked(app, method="POST")).status_code == 200
    with_keys = care.around(echo, lambda: Serving(require_key=True))
    assert (await asked(with_keys, method="POST", headers=page)).status_code == 200


async def test_only_a_trusted_proxy_says_who_the_client_is(caplog: pytest.LogCaptureFixture) -> None:
    said = {"X-Forwarded-For": "203.0.113.9"}
    with caplog.at_level(logging.INFO, "simonides"):
        await asked(care.around(echo, Serving), headers=said)
        await asked(care.around(echo, lambda: Serving(trusted_proxies=("10.0.0.0/8",))), headers=said)
        await asked(care.around(echo, lambda: Serving(trusted_proxies=("127.0.0.1",))), headers=said)
    clients = [each.client for each in caplog.records if each.message == "request"]  # type: ignore[attr-defined]
    assert clients == ["127.0.0.1", "127.0.0.1", "203.0.113.9"]


def test_answers_are_marked(server: Served) -> None:
    headers = get(server, "/api/v1/stats").headers
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"] and "server" not in headers
    assert "script-src 'self'" in get(server, "/docs").headers["content-security-policy"]


def test_no_route_of_the_whole_server_opens_without_a_key(locked: Served) -> None:
    made = locked.house.made
    routes = {(method, route.path) for route in made.routes for method in getattr(route, "methods", None) or ("GET",)}
    routes |= {(method.upper(), path) for path, methods in made.openapi()["paths"].items() for method in methods}
    there = {path for _, path in routes}
    assert {"/mcp", "/metrics", "/v1/{path:path}", "/health", "/capabilities", "/memory", "/memories/{coord}"} <= there
    with httpx.Client(base_url=locked.url) as client:
        for method, path in sorted(routes):
            status = client.request(method, re.sub(r"{[^}]*}", "x", path)).status_code
            assert status == (200 if path in OPEN else 401), (method, path)


# -- bodies -------------------------------------------------------------------------------------------------------


async def test_no_more_of_a_body_is_read_than_is_allowed() -> None:
    app = care.around(echo, lambda: Serving(body_mb_max=1))
    megabyte = b"x" * 2**20

    async def pieces(*them: bytes) -> Any:
        for each in them:
            yield each

    assert (await asked(app, method="POST", content=megabyte)).text == str(2**20)
    assert (await asked(app, method="POST", content=pieces(megabyte))).text == str(2**20)
    for content in (megabyte + b"x", pieces(megabyte, b"x")):
        answer = await asked(app, method="POST", content=content)
        assert answer.status_code == 413 and answer.json()["code"] == "too_large"
    streamed = await asked(app, "/api/v1/import", "POST", content=pieces(megabyte, b"x"))
    assert streamed.text == str(2**20 + 1)


PACKED = {"gzip": gzip.compress, "zstd": zstandard.compress}


@pytest.mark.parametrize("coding", PACKED)
def test_a_body_may_come_compressed(server: Served, coding: str) -> None:
    pack, headers = PACKED[coding], {"Content-Encoding": coding, "Content-Type": "application/json"}
    url, text = f"{server.url}/api/v1/memories", f"The boat came by {coding}"
    said = json.dumps({"content": text}).encode()
    kept = httpx.post(url, content=pack(said), headers=headers)
    assert kept.status_code == 201 and kept.json()["results"][0]["text"] == text
    first, *rest = get(server, "/api/v1/export").text.splitlines()
    [own] = [line for line in rest if text in line]
    lines = b"".join(pack(f"{line}\n".encode()) for line in (first, own))  # one behind the other
    other = httpx.post(f"{server.url}/api/v1/import", content=lines, headers={"Content-Encoding": coding})
    assert other.status_code == 200 and (other.json()["read"], other.json()["problems_count"]) == (1, 0), other.text
    for broken in (pack(said)[:-3], said, b"\x00"):
        refused = httpx.post(url, content=broken, headers=headers)
        assert refused.status_code == 422 and coding in refused.json()["detail"]
        refused = httpx.post(f"{server.url}/api/v1/import", content=broken, headers=headers)
        assert refused.status_code == 422 and coding in refused.json()["detail"]
    assert httpx.post(url, content=said, headers=headers | {"Content-Encoding": "identity"}).status_code == 201


def test_another_compression_is_refused_with_those_there_are(server: Served, locked: Served) -> None:
    headers = {"Content-Encoding": "br", "Content-Type": "application/json"}
    refused = httpx.post(f"{server.url}/api/v1/memories", content=b"x", headers=headers)
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip, zstd")
    assert refused.json()["code"] == "media_type"
    nobody = httpx.post(f"{locked.url}/api/v1/memories", content=b"x", headers=headers)
    assert nobody.status_code == 401  # nothing is read of a stranger


@pytest.mark.parametrize("coding", PACKED)
async def test_a_small_body_that_unpacks_to_a_large_one_is_as_large(coding: str) -> None:
    app, headers = care.around(echo, lambda: Serving(body_mb_max=1)), {"Content-Encoding": coding}
    fits = PACKED[coding](b"x" * 2**20)
    assert (await asked(app, method="POST", content=fits, headers=headers)).text == str(2**20)
    answer = await asked(app, method="POST", content=PACKED[coding](b"x" * (2**20 + 1)), headers=headers)
    assert answer.status_code == 413 and answer.json()["code"] == "too_large"
    onward = await asked(app, "/v1/files", "POST", content=fits, headers=headers)
    assert onward.text == str(len(fits))  # the proxy passes on what it is sent


@pytest.mark.parametrize("coding", PACKED)
async def test_what_unpacks_to_much_is_unpacked_piece_by_piece(coding: str) -> None:
    largest = 0

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        nonlocal largest
        while True:
            message = await receive()
            largest = max(largest, len(message["body"]))
            if not message["more_body"]:
                break
        await Response("fine")(scope, receive, send)

    bomb = PACKED[coding](b"x" * 200 * 2**20)
    headers = {"Content-Encoding": coding}
    answer = await asked(care.around(listen, Serving), "/api/v1/import", "POST", content=bomb, headers=headers)
    assert answer.text == "fine" and 0 < largest <= 32 * 2**20


def test_a_body_that_is_too_long_is_refused_at_every_route(server: Served) -> None:
    text = json.dumps({"content": "x" * (9 * 2**20)})
    answer = httpx.post(f"{server.url}/api/v1/memories", content=iter([text.encode()]))
    assert answer.status_code == 413 and answer.json()["code"] == "too_large"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with served(serving=Serving(port=0, directory="memory:", seconds_max=0.2)) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            head = f"POST /api/v1/memories HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 20\r\n\r\n{{".encode())
            said = slow.makefile("rb").read().decode()
    assert said.startswith("HTTP/1.1 408") and '"code":"timeout"' in said


def test_long_answers_are_compressed_as_the_client_likes(server: Served) -> None:
    plain = get(server, "/openapi.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for name in ("gzip", "zstd"):
        with httpx.stream("GET", f"{server.url}/openapi.json", headers={"Accept-Encoding": name}) as answer:
            assert answer.headers["content-encoding"] == name
            assert len(b"".join(answer.iter_raw())) < len(plain.content) / 4


def test_an_export_is_compressed_and_events_are_not(server: Served) -> None:
    assert get(server, "/api/v1/export", headers={"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"
    with httpx.stream("GET", f"{server.url}/api/v1/events", headers={"Accept-Encoding": "gzip"}) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in events.headers


# -- too many calls -----------------------------------------------------------------------------------------------


def test_who_calls_too_often_is_told_when_to_come_again() -> None:
    grants = (
        Grant(name="often", tenant="default", permits=Permit.READ, rate=2),
        Grant(name="another", tenant="default", permits=Permit.READ),
    )
    with served(serving=Serving(port=0, require_key=True, directory="memory:"), grants=grants) as server:
        often, another = (bearer(secret) for secret in server.keys)
        calls = [get(server, path, headers=often) for path in ("/api/v1/stats", "/sessions/s/history", "/api/v1/stats")]
        assert [each.status_code for each in calls] == [200, 200, 429]
        assert [each.headers["ratelimit-remaining"] for each in calls] == ["1", "0", "0"]
        assert {each.headers["ratelimit-limit"] for each in calls} == {"2"}
        assert 1 <= int(calls[2].headers["retry-after"]) <= 62 and calls[2].json()["code"] == "limited"
        assert get(server, "/v1/models", headers=often).status_code == 429
        assert get(server, "/api/v1/stats", headers=another).status_code == 200


# -- the log ------------------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [each for each in caplog.records if each.name == "simonides.requests"]


def test_a_request_is_a_line_that_tells_nothing_of_what_is_remembered(
    locked: Served, caplog: pytest.LogCaptureFixture
) -> None:
    everything = locked.keys[0]
    with caplog.at_level(logging.DEBUG):
        made = httpx.post(
            f"{locked.url}/api/v1/memories", json={"content": TEXT, "id": "ursulas-id"}, headers=bearer(everything)
        )
        assert made.status_code in (201, 202), made.text
        query = {"folder": "ursulas-folder"}
        get(locked, "/api/v1/memories/ursulas-id", headers={"X-API-Key": everything})
        get(locked, "/api/v1/memories", params=query, headers=bearer(everything) | {"X-Ursula": "a-header"})
        get(locked, "/ursulas-path")
        until(lambda: len(logged(caplog)) == 4)  # a line is written when the answer is out
    lines = logged(caplog)
    assert [each.route for each in lines] == [
        "/api/v1/memories", "/api/v1/memories/{id}", "/api/v1/memories", "none",
    ]  # fmt: skip
    assert all(each.key and each.key in everything and len(each.key) < 20 for each in lines[:3])
    told = json.dumps([vars(each) for each in lines], default=str)
    for secret in (everything, "rsula", "a-header", "lighthouse"):
        assert secret not in told


@pytest.mark.parametrize("as_json", [True, False])
def test_the_log_leaves_out_secrets_and_what_errors_say(as_json: bool) -> None:
    stream, secret = io.StringIO(), "sim_abcdefgh_" + "x" * 32
    with logs.logged(Serving(log="json" if as_json else "pretty"), stream):
        log = logging.getLogger("simonides.test")
        log.warning("somebody showed %s, Bearer hunter2 and https://me:hunter2@example.com", secret)
        try:
            raise ValueError(TEXT)
        except ValueError:
            log.exception("it failed")
        log.debug("not this")
    said = stream.getvalue()
    assert "ValueError" in said and "test_care.py" in said
    for hidden in (secret, "hunter2", "lighthouse", "not this"):
        assert hidden not in said
    if as_json:
        assert [json.loads(line)["level"] for line in said.splitlines()] == ["warning", "error"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_says_first_what_is_looked_for_first(as_json: bool) -> None:
    stream = io.StringIO()
    with logs.logged(Serving(log="json" if as_json else "pretty"), stream):
        about = {"agent": "curl", "request_id": "abc", "status": 201, "route": "/here", "method": "POST"}
        logging.getLogger("simonides.test").info("request", extra=about)
    said = stream.getvalue()
    assert sorted(about, key=said.index) == ["method", "route", "status", "agent", "request_id"]


# -- what is counted ----------------------------------------------------------------------------------------------


def metrics(server: Served, **more: Any) -> dict[str, float]:
    answer = get(server, "/metrics", **more)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_change_after_traffic(server: Served) -> None:
    before = metrics(server)
    messages = [{"role": "user", "content": f"{TEXT} {n}"} for n in range(3)]
    made = httpx.post(f"{server.url}/api/v1/conversations?wait=indexed", json={"messages": messages})
    assert made.status_code == 201, made.text
    httpx.post(f"{server.url}/api/v1/recall", json={"text": "who keeps the lighthouse?"})
    get(server, "/api/v1/memories/nobody")
    after = metrics(server)

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more("simonides_api_requests_total['/api/v1/conversations', '201', 'POST']") == 1
    assert more("simonides_api_requests_total['/api/v1/memories/{id}', '404', 'GET']") == 1
    assert more("simonides_api_request_duration_seconds_count['/api/v1/recall', 'POST']") == 1
    assert more("simonides_conversations_total[]") == 1 and more("simonides_messages_total[]") == 3
    assert more("simonides_db_query_duration_seconds_count['commit']") >= 1
    assert more("simonides_index_query_duration_seconds_count['near']") >= 1
    assert more("simonides_embedding_requests_total['ok']") >= 2
    assert more("simonides_embedding_texts_total[]") >= 4 and more("simonides_embedding_tokens_total[]") > 12
    assert any(more(name) for name in after if name.startswith("simonides_embedding_duration_seconds_sum"))
    assert after["simonides_memory_rss_bytes[]"] > after["simonides_memory_heap_bytes[]"] > 2**24
    assert after["simonides_health_status['store']"] == 1
    assert after["simonides_collections_total[]"] == 1, "one space"
    assert {"simonides_db_connections_active[]", "simonides_db_connections_idle[]"} < after.keys()
    assert after["simonides_api_requests_active[]"] == 1, "the one that reads them"


def test_labels_hold_nothing_that_callers_write(server: Served) -> None:
    for path in ("/ursulas-path", "/api/v1/memories/ursulas-id", "/v1x/ursula"):
        get(server, path)
        httpx.request("URSULA", server.url + path)
    assert "rsula" not in get(server, "/metrics").text and "URSULA" not in get(server, "/metrics").text


def test_what_is_in_the_store_is_told_to_whoever_runs_it(locked: Served) -> None:
    everything, *others = locked.keys
    assert get(locked, "/metrics").status_code == 401
    assert "simonides_storage_bytes_total[]" in metrics(locked, headers=bearer(everything))
    for key in others:
        told = metrics(locked, headers=bearer(key))
        assert any(name.startswith("simonides_api_requests_total") for name in told)
        assert not any(re.match("simonides_(conv|mess|rec|vers|stor|embeddings|index_lag)", name) for name in told)


def test_each_server_counts_for_itself(server: Served) -> None:
    get(server, "/api/v1/certificates")
    with served() as other:
        assert not any("/api/v1/certificates" in name for name in metrics(other))


def test_what_is_switched_off_is_off() -> None:
    off = Serving(port=0, directory="memory:", metrics=False, rate=0)
    with served(serving=off) as server:
        assert get(server, "/metrics").status_code == 404
        answer = get(server, "/api/v1/stats", headers={"Origin": "https://app.example"})
        assert answer.status_code == 200, "no key is asked for"
        assert not [name for name in answer.headers if name.startswith(("access-control", "ratelimit"))]
        assert type(server.house.desk.memory._engine.store).__name__ == "SqliteStore", "nothing is measured"


async def test_what_is_measured_is_what_it_was() -> None:
    from simonides.embedder import TokenEmbedder
    from simonides.embedders.hashing import HashingEmbedder
    from simonides.stores.sqlite import SqliteStore

    observer = observe.Observer()
    store = observer.around("store", SqliteStore("sqlite:///:memory:"))
    assert await store.head() == 0 and store.folder is None
    assert await store.grown(0, 0.01) == 0  # a wait, which says nothing about the store
    embedder = observer.around("embedder", HashingEmbedder())
    assert isinstance(embedder, TokenEmbedder) == isinstance(HashingEmbedder(), TokenEmbedder)
    assert (await embedder.embed(["a"])).shape == (1, embedder.dimension)
    await store.close()
    with pytest.raises(Exception):  # noqa: B017
        await store.head()
    assert 'simonides_part_errors_total{operation="head",part="store"} 1.0' in observer.told([]).decode()
    assert "grown" not in observer.told([]).decode()


# -- traces -------------------------------------------------------------------------------------------------------


async def test_a_trace_goes_from_the_request_to_the_store() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = sdk.InMemorySpanExporter()
    provider = observe.provider("http://127.0.0.1:1/v1/traces", exporter)
    observer = observe.Observer(provider.get_tracer("simonides"))

    class Part:
        async def find(self, text: str) -> None: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await observer.around("store", Part()).find(TEXT)
        await echo(scope, receive, send)

    outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await asked(care.around(app, Serving, observer), "/ursula", headers={"traceparent": outer})
    provider.force_flush()
    inner, request = exporter.get_finished_spans()
    assert (inner.name, request.name) == ("store.find", "GET none")
    assert inner.parent.span_id == request.context.span_id
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert "rsula" not in request.to_json() + inner.to_json()
    await asyncio.to_thread(provider.shutdown)


async def test_a_trace_says_of_an_error_what_kind_it_is_and_nothing_that_was_remembered() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = sdk.InMemorySpanExporter()
    provider = observe.provider("http://127.0.0.1:1/v1/traces", exporter)
    observer = observe.Observer(provider.get_tracer("simonides"))

    class Watched(AsyncMemory):
        def _opened(self, part: str, what: Any) -> Any:
            return observer.around(part, what)

    async with Watched(":memory:", embedder="none") as memory:
        await memory.remember(TEXT, id="a")
        with pytest.raises(Conflict):
            await memory.remember("another text", session=TEXT, id="a")
        await memory.remember("one", session=TEXT)
        with pytest.raises(Conflict):
            await memory.remember(Conversation(text=TEXT, session=TEXT), session=TEXT, id="b")
    provider.force_flush()
    spans = exporter.get_finished_spans()
    assert [span.attributes["error.type"] for span in spans if "error.type" in span.attributes][-1] == "Conflict"
    assert not [span.to_json() for span in spans if "rsula" in span.to_json()]
    await asyncio.to_thread(provider.shutdown)


class Collector:
    """An OTLP endpoint: keeps the spans that are sent to it."""

    def __init__(self) -> None:
        self.spans, self.bodies = list[Any](), list[bytes]()
        service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                asked = service.ExportTraceServiceRequest.FromString(body)
                collector.bodies.append(body)
                scopes = (scope for resource in asked.resource_spans for scope in resource.scope_spans)
                collector.spans += (span for scope in scopes for span in scope.spans)
                answer = service.ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *said: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def __enter__(self) -> Collector:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_spans_arrive_at_a_collector_within_the_callers_trace() -> None:
    outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Collector() as collector:
        told = Serving(port=0, directory="memory:", tracing=collector.url)
        with served(serving=told) as server:
            for path, body in (("memories", {"content": TEXT, "id": "keeper"}), ("recall", {"text": "who is Ursula?"})):
                url = f"{server.url}/api/v1/{path}"
                answer = httpx.post(url, json=body, headers={"traceparent": outer}, timeout=60)
                assert answer.is_success, answer.text
        spans = [span for span in collector.spans if span.trace_id.hex() == outer.split("-")[1]]
        requests = {span.name: span for span in spans if span.parent_span_id.hex() == outer.split("-")[2]}
        assert {"POST /api/v1/memories", "POST /api/v1/recall"} == set(requests)
        inside = {
            name: {span.name for span in spans if span.parent_span_id == request.span_id}
            for name, request in requests.items()
        }
        assert "store.commit" in inside["POST /api/v1/memories"]
        assert {"store.words", "embedder.embed"} <= {span.name for span in spans}
        assert not [body for body in collector.bodies if b"rsula" in body or b"ighthouse" in body]


def test_traces_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(Unavailable, match=r"pip install 'simonides\[tracing\]'"):
        observe.provider("http://127.0.0.1:4318/v1/traces")


# -- new settings -------------------------------------------------------------------------------------------------


def test_a_running_server_goes_on_with_new_settings(server: Served) -> None:
    before = server.house.serving
    try:
        new = dataclasses.replace(before, rate=1000, cors_origins=("*",), port=1, metrics=False)
        taken, restart = server.house.take(new)
        assert set(taken) == {"rate", "cors_origins"} and set(restart) == {"port", "metrics"}
        answer = get(server, "/api/v1/stats", headers={"Origin": "https://app.example"})
        assert answer.headers["ratelimit-limit"] == "1000" and answer.headers["access-control-allow-origin"] == "*"
        assert server.house.serving.port == before.port
    finally:
        server.house.take(before)
    assert "ratelimit-limit" not in get(server, "/api/v1/stats").headers


# -- the docs -----------------------------------------------------------------------------------------------------


def test_the_docs_load_nothing_from_elsewhere(server: Served) -> None:
    pytest.importorskip("fastapi_swagger")
    page = get(server, "/docs").text
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert "//" not in path
        assert get(server, f"/{path}").status_code == 200, path


def test_a_browser_opens_the_docs_shows_its_key_and_makes_a_call(locked: Served, tmp_path: Path) -> None:
    pytest.importorskip("fastapi_swagger")
    playwright = pytest.importorskip("playwright.sync_api")
    browsers = [Path(f"/usr/bin/{name}") for name in ("chromium", "chromium-browser", "google-chrome")]
    found = next((each for each in browsers if each.exists()), None)
    if found is None:
        pytest.skip("there is no browser here: install chromium")
    elsewhere, complaints = [], []
    with playwright.sync_playwright() as here:
        browser = here.chromium.launch(
            executable_path=str(found), args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((locked.url, "data:")) else elsewhere.append(asked.url),
        )
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{locked.url}/docs")
        page.locator("button.authorize").first.click()
        page.locator(".auth-container input").first.fill(locked.keys[0])
        page.locator(".auth-container button[type=submit]").first.click()
        page.locator("button.btn-done").first.click()
        page.locator("#operations-upkeep-stats .opblock-summary-control").click()
        page.locator("#operations-upkeep-stats button.execute").click()
        answer = page.locator("#operations-upkeep-stats .live-responses-table tbody .response-col_status").first
        answer.wait_for()
        assert answer.inner_text().startswith("200")
        body = page.locator("#operations-upkeep-stats .live-responses-table .highlight-code").first.inner_text()
        assert '"records"' in body
        page.screenshot(path=str(tmp_path / "docs.png"))
        browser.close()
    assert elsewhere == [] and complaints == []


# -- connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[b""], [b"GET /health/live HTTP/1.1\r\nHost: local"], [b"G", b"E", b"T", b" "]])
@pytest.mark.parametrize("before", [b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_who_connects_and_asks_nothing_is_let_go(before: bytes, parts: list[bytes]) -> None:
    with served(serving=Serving(port=0, directory="memory:", idle_seconds=1)) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            if before:
                connection.sendall(before)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            for part in parts:
                if part:
                    connection.sendall(part)
                    time.sleep(0.1)
            while connection.recv(65536):  # until it is closed
                pass
