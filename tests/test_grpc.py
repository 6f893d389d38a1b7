"""The memory over gRPC: a real client, made of the .proto files as any client is, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc_tools
import httpx
import pytest
from google.protobuf import empty_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from simonides import AsyncMemory
from simonides.access import Permit
from simonides.api import OPERATIONS, Desk
from simonides.api.streams import Events, Export, Import, Imported
from simonides.config import open_backend
from simonides.directory import Directory, Grant
from simonides.servers import messages
from simonides.servers.gate import Gate
from simonides.servers.grpc import NAMED, SERVICE, Door, address_of, start
from simonides.servers.http import app
from simonides.servers.replays import Replays
from simonides.servers.seeds import soma as soma_http
from simonides.servers.seeds import soma_grpc
from simonides.serving import Serving

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path(messages.__file__).parent / "proto"
FILES = ("simonides.proto", "soma.proto")
PATIENCE_S = 60


def compile(*arguments: str) -> None:
    standard = Path(grpc_tools.__file__).parent / "_proto"  # what protoc itself brings along
    assert protoc.main(["protoc", f"-I{PROTO}", f"-I{standard}", *arguments, *FILES]) == 0


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModuleType]]:
    """What a client's author makes of the .proto files."""
    folder = tmp_path_factory.mktemp("client")
    compile(f"--python_out={folder}", f"--grpc_python_out={folder}")
    sys.path.insert(0, str(folder))
    names = [f"{file.removesuffix('.proto')}{end}" for file in FILES for end in ("_pb2", "_pb2_grpc")]
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(folder))


@dataclass
class Served:
    desk: Desk
    gate: Gate
    door: Door
    replays: Replays
    directory: Directory
    channel: grpc.aio.Channel
    memory: Any  # the client
    pb: Any  # its messages
    http: httpx.AsyncClient

    async def key(self, **grant: Any) -> tuple[tuple[str, str], ...]:
        """Return the metadata that shows a new key."""
        _, secret = await self.directory.make(Grant(**{"name": "somebody", "tenant": "default", **grant}))
        return (("authorization", f"Bearer {secret}"),)

    async def call(self, operation: str, beside: Any = (), **arguments: Any) -> Any:
        request = self.pb.CallRequest(operation=operation, arguments_json=json.dumps(arguments))
        return json.loads((await self.memory.Call(request, metadata=beside)).answer_json)


@contextlib.asynccontextmanager
async def serving(generated: dict[str, ModuleType], *, require: bool = False, **told: Any) -> AsyncIterator[Served]:
    memory = AsyncMemory(":memory:", embedder="hashing:", settled=False)
    directory: Directory = open_backend("directories", "memory:")
    desk = Desk(memory, directory, Serving(**told))
    gate = Gate(directory, require=require, failures_max=1000)
    made = app(desk, gate)
    replays = made.state.replays
    door = await start(desk, gate, host="127.0.0.1", port=0, replays=replays)
    transport = httpx.ASGITransport(made)
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel,
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1") as http,
        ):
            stub = generated["simonides_pb2_grpc"].MemoryStub(channel)
            pb = generated["simonides_pb2"]
            yield Served(desk, gate, door, replays, directory, channel, stub, pb, http)
    finally:
        await door.stop(5)
        await desk.tasks.ended()
        await gate.close()
        await directory.close()
        await memory.close()


@pytest.fixture
async def served(home: Path, generated: dict[str, ModuleType]) -> AsyncIterator[Served]:
    async with serving(generated) as made:
        yield made


@contextlib.asynccontextmanager
async def refused(status: StatusCode, match: str = "") -> AsyncIterator[list[grpc.aio.AioRpcError]]:
    found: list[grpc.aio.AioRpcError] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield found
    found.append(caught.value)
    assert caught.value.code() == status, caught.value
    assert re.search(match, caught.value.details() or ""), caught.value


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(error.trailing_metadata())


# -- the files ----------------------------------------------------------------------------------------------------


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.binpb"
    compile(f"--descriptor_set_out={fresh}", "--include_imports")
    kept = (PROTO / "simonides.binpb").read_bytes()
    same = FileDescriptorSet.FromString(fresh.read_bytes()) == FileDescriptorSet.FromString(kept)
    assert same, "stale: the head of simonides.proto says how it is made"


ASKED = {
    **{method: OPERATIONS[row].takes for method, row in NAMED.items()},
    "Events": Events,
    "Export": Export,
    "Import": Import,
}
GIVEN = {**{method: OPERATIONS[row].gives for method, row in NAMED.items()}, "Import": Imported}


@pytest.mark.parametrize("method", ASKED)
def test_a_typed_request_says_all_that_the_operation_takes(method: str) -> None:
    message = messages.pool_of().FindServiceByName(SERVICE).methods_by_name[method].input_type
    found = set()
    for field in message.fields:
        choice = field.containing_oneof
        found.add(choice.name if choice and len(choice.fields) > 1 else field.name.removesuffix("_json"))
    alone = {"id"} if method == "StoreMany" else set()  # each message has its own
    assert found - {"data"} == ASKED[method].model_fields.keys() - alone


@pytest.mark.parametrize("method", GIVEN)
def test_a_typed_answer_says_all_that_the_operation_gives(method: str) -> None:
    message = messages.pool_of().FindServiceByName(SERVICE).methods_by_name[method].output_type
    agree(message, GIVEN[method].model_json_schema(), GIVEN[method].model_json_schema().get("$defs", {}))


def agree(message: Any, schema: Any, shapes: Any) -> None:
    fields = {field.name.removesuffix("_json"): field for field in message.fields}
    assert fields.keys() == schema["properties"].keys(), message.full_name
    for name, said in schema["properties"].items():
        refers = re.search(r"#/\$defs/(\w+)", json.dumps(said))
        if refers and "properties" in shapes[refers[1]]:
            agree(fields[name].message_type, shapes[refers[1]], shapes)


# -- what is asked most -------------------------------------------------------------------------------------------


async def test_what_is_stored_is_recalled_and_erased_with_a_certificate(served: Served) -> None:
    pb, memory = served.pb, served.memory
    stored = await memory.Store(
        pb.StoreRequest(
            text="Ana moved to Lisbon", user="ana", labels=["home"], metadata_json='{"n": 9007199254740993}'
        )
    )
    (record,) = stored.results
    assert stored.indexed and not stored.HasField("task")
    assert record.text == "Ana moved to Lisbon" and record.scope.user == "ana" and list(record.labels) == ["home"]
    assert json.loads(record.metadata_json) == {"n": 9007199254740993}
    found = await memory.Recall(pb.RecallRequest(text="where does Ana live? Lisbon", user="ana", explain=True, limit=3))
    assert [hit.record.id for hit in found.hits] == [record.id]
    assert 0 <= found.hits[0].score <= 1 and found.hits[0].why
    shown = await memory.Delete(pb.DeleteRequest(id=record.id, user="ana", dry_run=True))
    assert shown.preview.count == 1 and not shown.HasField("certificate")
    gone = await memory.Delete(pb.DeleteRequest(id=record.id, user="ana"))
    assert list(gone.certificate.ids) == [record.id] and gone.certificate.places
    assert not (await memory.Recall(pb.RecallRequest(text="Lisbon", user="ana"))).hits


async def test_several_are_stored_together_in_every_form(served: Served) -> None:
    pb = served.pb
    stored = await served.memory.StoreMany(
        pb.StoreManyRequest(
            session="s1",
            user="ana",
            content=[
                pb.Content(text="a text"),
                pb.Content(message=pb.Message(text="a message", role="assistant", at="2026-05-02", importance=7)),
                pb.Content(message=pb.Message(parts_json='[{"type": "text", "text": "in parts"}]', role="user")),
                pb.Content(body=pb.Body(kind="fact", body={"text": "Ana owns a boat", "predicate": "owns"})),
            ],
        )
    )
    assert [record.text for record in stored.results][:3] == ["a text", "a message", "in parts"]
    assert [record.kind for record in stored.results] == ["message", "message", "message", "fact"]
    assert stored.results[1].importance == 7 and stored.results[1].body["role"] == "assistant"
    assert stored.results[3].body["predicate"] == "owns"
    async with refused(StatusCode.INVALID_ARGUMENT):
        await served.memory.StoreMany(pb.StoreManyRequest(content=[pb.Content(text="fine"), pb.Content()]))
    assert (await served.call("count"))["count"] == 5  # and its conversation: of the last nothing was kept


async def test_filters_hold_in_a_typed_recall(served: Served) -> None:
    pb = served.pb
    for label, year in (("a", 2020), ("b", 2024)):
        await served.memory.Store(
            pb.StoreRequest(
                text=f"the boat in {year}", labels=[label], at=f"{year}-01-01", metadata_json=json.dumps({"y": year})
            )
        )
    for more in ({"labels": ["b"]}, {"since": "2023-01-01"}, {"metadata_json": '{"y": 2024}'}):
        found = await served.memory.Recall(pb.RecallRequest(text="the boat", **more))
        assert [hit.record.text for hit in found.hits] == ["the boat in 2024"], more


async def test_health_says_how_each_part_is(served: Served) -> None:
    health = await served.memory.Health(served.pb.HealthRequest())
    assert health.status == "ok" and [part.name for part in health.parts] == ["store", "vectors", "cache", "llm"]


# -- who may come in ----------------------------------------------------------------------------------------------


async def test_a_key_is_asked_for_at_every_method_but_health_and_reflection(
    home: Path, generated: dict[str, ModuleType]
) -> None:
    async with serving(generated, require=True) as served:
        pb, memory = served.pb, served.memory
        requests = {name: getattr(pb, m.input_type.name)() for name, m in served.door._methods.items()}
        for beside in ((), (("authorization", "Bearer nonsense"),), (("x-api-key", ""),)):
            for name, request in requests.items():
                call = getattr(memory, name)
                async with refused(StatusCode.UNAUTHENTICATED) as found:
                    if name == "Import":
                        await call(iter([request]), metadata=beside)
                    elif name in ("Events", "Export"):
                        [each async for each in call(request, metadata=beside)]
                    else:
                        await call(request, metadata=beside)
                assert trailers(found[0])["simonides-code"] == "unauthorized"
        for method in soma_grpc.METHODS:
            async with refused(StatusCode.UNAUTHENTICATED):
                await served.channel.unary_unary(f"/{soma_grpc.SERVICE}/{method}")(b"")
        for service in ("", SERVICE):
            asked = health_pb2.HealthCheckRequest(service=service)
            answer = await health_pb2_grpc.HealthStub(served.channel).Check(asked)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        shown = await served.key()
        for beside in (shown, (("x-api-key", shown[0][1].removeprefix("Bearer ")),)):
            assert (await memory.Health(pb.HealthRequest(), metadata=beside)).status == "ok"


async def test_nothing_is_read_of_a_stranger(home: Path, generated: dict[str, ModuleType]) -> None:
    async with serving(generated, require=True) as served:
        raw = served.channel.unary_unary(f"/{SERVICE}/Store")
        async with refused(StatusCode.UNAUTHENTICATED):
            await raw(b"\xff\xff")
        async with refused(StatusCode.INVALID_ARGUMENT, "no simonides.v1.StoreRequest"):
            await raw(b"\xff\xff", metadata=await served.key())


async def test_keys_never_reach_what_is_anothers(home: Path, generated: dict[str, ModuleType]) -> None:
    async with serving(generated, require=True) as served:
        pb, memory = served.pb, served.memory
        everything = Permit.READ | Permit.WRITE | Permit.ERASE | Permit.ADMIN
        ana = await served.key(user="ana", permits=everything)
        ben = await served.key(user="ben", permits=everything)
        far = await served.key(tenant="elsewhere", permits=everything)
        kept = await memory.Store(pb.StoreRequest(text="the mark is xylophone"), metadata=ana)
        id = kept.results[0].id
        assert kept.results[0].scope.user == "ana"
        for other in (ben, far):
            recalled = await memory.Recall(pb.RecallRequest(text="xylophone"), metadata=other)
            assert not recalled.hits
            async with refused(StatusCode.NOT_FOUND):
                await memory.Delete(pb.DeleteRequest(id=id), metadata=other)
            pieces = [piece.data async for piece in memory.Export(pb.ExportRequest(), metadata=other)]
            assert b"xylophone" not in b"".join(pieces)
            for row in OPERATIONS.values():
                said = {name: id for name in ("id",) if name in row.takes.model_fields}
                said |= {
                    name: "xylophone" for name in ("text", "label") if name in row.takes.model_fields and row.reads
                }
                if row.name == "explain_missing" or row.whole:
                    continue
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert "the mark" not in json.dumps(await served.call(row.name, other, **said))
        for said in ({"user": "ana"}, {"user": "ana", "tenant": "default"}):
            async with refused(StatusCode.PERMISSION_DENIED):
                await memory.Recall(pb.RecallRequest(text="xylophone", **said), metadata=ben)
        async with refused(StatusCode.PERMISSION_DENIED, "another tenant"):
            await memory.Recall(pb.RecallRequest(text="xylophone", tenant="default"), metadata=far)
        reads = await served.key(permits=Permit.READ)
        async with refused(StatusCode.PERMISSION_DENIED, "may not write"):
            await memory.Store(pb.StoreRequest(text="no"), metadata=reads)
        async with refused(StatusCode.PERMISSION_DENIED, "may not write"):
            await memory.Import(iter([pb.ImportRequest(data=b"x")]), metadata=reads)
        events = memory.Events(pb.EventsRequest(after=0), metadata=ben)
        await memory.Store(pb.StoreRequest(text="of ben"), metadata=ben)
        first = await asyncio.wait_for(events.read(), PATIENCE_S)
        assert first.scope.user == "ben" and first.id != id
        events.cancel()


async def test_whoever_comes_too_often_is_told_when_to_come_again(served: Served) -> None:
    pb, memory, shown = served.pb, served.memory, await served.key(rate=2)
    call = memory.Health(pb.HealthRequest(), metadata=shown)
    await call
    beside = dict(await call.trailing_metadata())
    assert (beside["ratelimit-limit"], beside["ratelimit-remaining"]) == ("2", "1")
    await memory.Health(pb.HealthRequest(), metadata=shown)
    async with refused(StatusCode.RESOURCE_EXHAUSTED, "more than 2 calls a minute") as found:
        await memory.Health(pb.HealthRequest(), metadata=shown)
    told = trailers(found[0])
    assert told["simonides-retryable"] == "true" and 1 <= int(told["retry-after"]) <= 62
    assert int(told["grpc-retry-pushback-ms"]) == int(told["retry-after"]) * 1000


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50514", "127.0.0.1"),
        ("ipv6:%5B::1%5D:50514", "::1"),
        ("ipv6:[2001:db8::7]:1", "2001:db8::7"),
        ("unix:/tmp/x", "unix:/tmp/x"),
    ],
)
def test_wrong_keys_are_counted_by_the_address_they_come_from(peer: str, address: str) -> None:
    assert address_of(peer) == address


# -- what goes wrong ----------------------------------------------------------------------------------------------


async def test_errors_keep_their_codes(served: Served) -> None:
    pb, memory = served.pb, served.memory
    async with refused(StatusCode.NOT_FOUND, "no record") as found:
        await memory.Delete(pb.DeleteRequest(id="nobody"))
    assert trailers(found[0]) == {"simonides-code": "not_found", "simonides-retryable": "false"}
    async with refused(StatusCode.INVALID_ARGUMENT, "text: "):
        await memory.Recall(pb.RecallRequest())
    async with refused(StatusCode.INVALID_ARGUMENT, "metadata_json must be JSON"):
        await memory.Recall(pb.RecallRequest(text="x", metadata_json="{"))
    async with refused(StatusCode.INVALID_ARGUMENT, "must be an object"):
        await memory.Call(pb.CallRequest(operation="recall", arguments_json="[1]"))
    async with refused(StatusCode.NOT_FOUND, "no operation 'fly'; there are: remember"):
        await served.call("fly")
    await memory.Store(pb.StoreRequest(id="one", text="one thing"))
    async with refused(StatusCode.ABORTED) as found:
        await memory.Store(pb.StoreRequest(id="one", text="another"))
    assert trailers(found[0])["simonides-code"] == "conflict"
    async with refused(StatusCode.INVALID_ARGUMENT) as found:
        await served.call("recall", **{"é" * 100_000: 1})
    assert len(found[0].details() or "") <= 1000


async def test_what_nobody_foresaw_says_nothing_of_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(served.desk.memory, "count", fails)
    async with refused(StatusCode.INTERNAL) as found:
        await served.call("count")
    assert "secret" not in (found[0].details() or "")


async def test_a_request_that_is_too_large_is_refused_and_the_next_is_answered(
    home: Path, generated: dict[str, ModuleType]
) -> None:
    async with serving(generated, body_mb_max=1, batch_max=3) as served:
        pb, memory = served.pb, served.memory
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "larger than max"):
            await memory.Store(pb.StoreRequest(text="x" * 2**20))
        async with refused(StatusCode.INVALID_ARGUMENT, "more than 3 in one batch"):
            await memory.StoreMany(pb.StoreManyRequest(content=[pb.Content(text=f"{n}") for n in range(4)]))
        assert (await served.call("count"))["count"] == 0
        stored = await memory.Store(pb.StoreRequest(text="x" * (2**20 - 100)))
        assert stored.results


async def test_the_same_mark_is_one_write_at_both_doors(served: Served) -> None:
    pb, memory = served.pb, served.memory
    beside = (("idempotency-key", "once"),)
    first = await memory.Store(pb.StoreRequest(text="said once"), metadata=beside)
    call = memory.Store(pb.StoreRequest(text="said once"), metadata=beside)
    assert await call == first
    assert dict(await call.trailing_metadata())["idempotency-replayed"] == "true"
    answer = await served.http.post("/memories", json={"content": "said once"}, headers={"Idempotency-Key": "once"})
    assert answer.json()["results"][0]["id"] == first.results[0].id
    assert (await served.call("count"))["count"] == 1
    async with refused(StatusCode.INVALID_ARGUMENT, "used for another request"):
        await memory.Store(pb.StoreRequest(text="something else"), metadata=beside)
    await memory.Delete(pb.DeleteRequest(id=first.results[0].id))
    assert not served.replays._all  # answers hold what was said: an erase takes them along


# -- deadlines ----------------------------------------------------------------------------------------------------


async def test_a_deadline_that_passes_leaves_the_memory_well(served: Served) -> None:
    pb, memory = served.pb, served.memory
    passed = 0
    for number in range(40):
        try:
            await memory.Store(pb.StoreRequest(text=f"thing {number}", id=f"n{number}"), timeout=0.0005 * number)
        except grpc.aio.AioRpcError as error:
            assert error.code() == StatusCode.DEADLINE_EXCEEDED
            passed += 1
    assert passed
    for number in range(40):  # whatever was kept of them: the same again is one
        await memory.Store(pb.StoreRequest(text=f"thing {number}", id=f"n{number}"))
    assert (await served.call("count"))["count"] == 40
    assert (await served.call("doctor")) == {"healthy": True, "complaints": []}


async def test_the_server_too_gives_up_what_takes_too_long(
    home: Path, generated: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(generated, seconds_max=0.05) as served:
        ended = asyncio.Event()

        async def slow(*_: Any, **__: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        monkeypatch.setattr(served.desk.memory, "count", slow)
        async with refused(StatusCode.DEADLINE_EXCEEDED, "longer than 0.05 s") as found:
            await served.call("count")
        assert trailers(found[0])["simonides-code"] == "timeout" and ended.is_set()


async def test_a_retry_does_what_was_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, enter = [], served.gate.admit

    async def counted(*args: Any) -> Any:
        entered.append(await enter(*args))
        return entered[-1]

    remember, tried = served.desk.memory.remember, []

    async def slow(*given: Any, **named: Any) -> Any:
        tried.append(named)
        return await (asyncio.Event().wait() if len(tried) == 1 else remember(*given, **named))

    monkeypatch.setattr(served.gate, "admit", counted)
    monkeypatch.setattr(served.desk.memory, "remember", slow)
    request, beside = served.pb.StoreRequest(text="said"), (("idempotency-key", "m"),)
    first = served.memory.Store(request, metadata=beside)
    await until(lambda: len(entered) == 1)
    again = served.memory.Store(request, metadata=beside, timeout=PATIENCE_S)
    await until(lambda: len(entered) == 2)
    first.cancel()
    assert (await again).results[0].text == "said"
    assert len(tried) == 2


# -- streams ------------------------------------------------------------------------------------------------------


async def test_a_key_has_so_many_streams_and_imports_open(home: Path, generated: dict[str, ModuleType]) -> None:
    async with serving(generated, streams_max=1, imports_max=1) as served:
        pb, first = served.pb, served.memory.Events(served.pb.EventsRequest())
        await first.initial_metadata()
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "1 streams") as found:
            [each async for each in served.memory.Events(pb.EventsRequest())]
        assert trailers(found[0])["simonides-code"] == "limited"
        importing = served.memory.Import()
        await importing.write(pb.ImportRequest(data=b'{"role": "user", "content": "one"}'))
        await until(lambda: bool(served.gate._held["local", "imports"]))
        async with refused(StatusCode.RESOURCE_EXHAUSTED, "1 imports"):
            await served.memory.Import(iter([pb.ImportRequest(data=b"{}")]))
        await importing.done_writing()
        assert (await importing).new == 2
        first.cancel()
        await until(lambda: not +served.gate._held)


async def test_events_come_as_they_happen_and_go_on_from_where_one_was(served: Served) -> None:
    pb, memory = served.pb, served.memory
    await memory.Store(pb.StoreRequest(text="before"))
    seen = memory.Events(pb.EventsRequest(after=0))
    first = await asyncio.wait_for(seen.read(), PATIENCE_S)
    assert (first.seq, first.did, first.kind) == (1, "written", "note")
    kept = await memory.Store(pb.StoreRequest(text="after"))
    second = await asyncio.wait_for(seen.read(), PATIENCE_S)
    assert second.id == kept.results[0].id
    seen.cancel()
    again = memory.Events(pb.EventsRequest(after=first.seq))
    assert (await asyncio.wait_for(again.read(), PATIENCE_S)) == second
    again.cancel()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_stream_that_nobody_reads_any_more_is_freed(served: Served) -> None:
    watch = served.desk.watch
    streams = [served.memory.Events(served.pb.EventsRequest()) for _ in range(20)]
    for stream in streams:
        await stream.wait_for_connection()
    await until(lambda: watch._waiting == 20)
    for stream in streams:
        stream.cancel()
    await until(lambda: watch._waiting == 0 and not served.door._endless)
    await until(lambda: watch._looking is None or watch._looking.done())


async def test_a_server_that_stops_ends_its_streams_and_finishes_its_calls(served: Served) -> None:
    pb, memory = served.pb, served.memory
    stream = memory.Events(pb.EventsRequest())
    await until(lambda: served.desk.watch._waiting == 1)
    writes = [asyncio.ensure_future(_store(memory, pb.StoreRequest(text=f"write {n}"))) for n in range(20)]
    reading = asyncio.ensure_future(_drained(stream))
    await until(lambda: any(write.done() for write in writes))
    async with asyncio.timeout(PATIENCE_S):
        await served.door.stop(PATIENCE_S)
        ended = await reading
        outcomes = await asyncio.gather(*writes)
    assert ended.code() == StatusCode.UNAVAILABLE and "last seq" in (ended.details() or "")
    kept = await served.desk.memory.count()
    assert kept >= sum(outcome is None for outcome in outcomes) > 0


async def _store(memory: Any, request: Any) -> StatusCode | None:
    try:
        await memory.Store(request)
    except grpc.aio.AioRpcError as error:
        code: StatusCode = error.code()
        return code
    return None


async def _drained(stream: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    return caught.value


async def test_an_export_is_taken_in_elsewhere_as_it_was(served: Served, generated: dict[str, ModuleType]) -> None:
    pb, memory = served.pb, served.memory
    texts = [f"thing {number} {'x' * 2000}" for number in range(300)]
    await memory.StoreMany(pb.StoreManyRequest(content=[pb.Content(text=text) for text in texts]))
    pieces = [piece.data async for piece in memory.Export(pb.ExportRequest())]
    assert len(pieces) > 1 and max(map(len, pieces)) <= 256 * 1024
    data = b"".join(pieces)
    async with serving(generated) as other:
        requests = [pb.ImportRequest(data=data[:1000]), pb.ImportRequest(data=data[1000:])]
        taken = await other.memory.Import(iter(requests))
        assert (taken.read, taken.new, taken.problems_count) == (300, 300, 0)
        assert (await other.memory.Import(iter(requests))).new == 0
        async with refused(StatusCode.INVALID_ARGUMENT, "nothing was sent"):
            await other.memory.Import(iter([]))


# -- the service of the last seed -----------------------------------------------------------------------------------


async def test_payloads_lie_under_their_coordinates(served: Served, generated: dict[str, ModuleType]) -> None:
    pb: Any = generated["soma_pb2"]
    soma = generated["soma_pb2_grpc"].MemoryServiceStub(served.channel)

    def at(*values: float) -> Any:
        return pb.Coordinate(values=values)

    async def store(place: Any, payload: Any, kind: str = "") -> Any:
        memory = pb.Memory(coord=place, payload_json=json.dumps(payload), memory_type=kind)
        return await soma.Store(pb.StoreRequest(memory=memory))

    first = await store(at(1, 2, 3), {"text": "the bridge", "n": 1})
    assert first.ok and (await store(at(1, 2, 3), {"text": "the new bridge"})).id == first.id
    await store(at(1, 2, 9), {"fact": "far away"}, "semantic")
    await store(at(1, 2, 4), {"text": "close by"})
    await store(at(7), {"text": "in another space"})
    await served.call("remember", content="no payload", labels=["episodic"], metadata={"coordinate": "1,2,x"})
    found = await soma.Recall(pb.RetrieveRequest(query=at(1, 2, 3), top_k=2))
    assert [json.loads(each.payload_json)["text"] for each in found.memories] == ["the new bridge", "close by"]
    assert list(found.memories[0].coord.values) == [1, 2, 3] and found.memories[0].memory_type == "episodic"
    found = await soma.Recall(pb.RetrieveRequest(query=at(1, 2, 3), memory_type="semantic"))
    assert [json.loads(each.payload_json) for each in found.memories] == [{"fact": "far away"}]
    assert (await served.call("get", id=first.id))["version"] == 2
    assert (await soma.Delete(pb.DeleteRequest(coord=at(1, 2, 3)))).ok
    assert not (await soma.Delete(pb.DeleteRequest(coord=at(1, 2, 3)))).ok
    assert (await soma.Health(empty_pb2.Empty())).status == "ok"
    for wrong in ({"payload_json": "[1]"}, {"payload_json": "{"}, {"payload_json": "{}", "memory_type": "odd"}):
        async with refused(StatusCode.INVALID_ARGUMENT):
            await soma.Store(pb.StoreRequest(memory=pb.Memory(coord=at(1), **wrong)))
    async with refused(StatusCode.INVALID_ARGUMENT, "coordinate"):
        await soma.Recall(pb.RetrieveRequest())


async def test_a_payload_is_the_same_by_url(served: Served, generated: dict[str, ModuleType]) -> None:
    pb: Any = generated["soma_pb2"]
    soma = generated["soma_pb2_grpc"].MemoryServiceStub(served.channel)
    memory = pb.Memory(coord=pb.Coordinate(values=[1, 2.5]), payload_json='{"text": "both ways", "n": 1}')
    await soma.Store(pb.StoreRequest(memory=memory))
    made = app(served.desk, served.gate, more=[soma_http.mount])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://127.0.0.1") as http:
        kept = (await http.get("/memories/1,2.5")).json()["memory"]
        assert (kept["payload"], kept["coordinate"]) == ({"text": "both ways", "n": 1}, [1, 2.5])
        asked = {"query": "both ways", "filters": {"n": 1}}
        assert len((await http.post("/memories/search", json=asked)).json()["memories"]) == 1
        await http.post("/memories", json={"coord": "1,3", "payload": {"text": "by URL"}})
    found = await soma.Recall(pb.RetrieveRequest(query=pb.Coordinate(values=[1, 3]), top_k=1))
    assert json.loads(found.memories[0].payload_json) == {"text": "by URL"}


# -- what tools ask -----------------------------------------------------------------------------------------------


async def test_reflection_shows_every_service_and_its_methods(served: Served) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)

    async def asked(**request: str) -> Any:
        sent = iter([reflection_pb2.ServerReflectionRequest(**request)])
        return await anext(aiter(stub.ServerReflectionInfo(sent)))

    listed = await asked(list_services="")
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    for name in names:
        described = await asked(file_containing_symbol=name)
        assert described.file_descriptor_response.file_descriptor_proto, name


async def test_health_follows_the_store(served: Served) -> None:
    stub = health_pb2_grpc.HealthStub(served.channel)
    asked = health_pb2.HealthCheckRequest(service=SERVICE)
    assert (await stub.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
    async with refused(StatusCode.NOT_FOUND):
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    await served.desk.memory.close()
    assert (await stub.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_port_that_is_taken_is_said_to_be(served: Served) -> None:
    from simonides.errors import Unavailable

    with pytest.raises(Unavailable, match="cannot listen"):
        await start(served.desk, served.gate, host="127.0.0.1", port=served.door.port)


async def test_the_client_of_the_reference_works(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands there as its reader runs it; only the port and the key are others here."""
    page = (ROOT / "docs" / "reference" / "grpc.md").read_text("utf-8")
    (code,) = re.findall(r"^```python no-run\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shown = dict(await served.key())["authorization"]
    code = code.replace("localhost:50051", f"127.0.0.1:{served.door.port}").replace("Bearer sim_…", shown)
    await asyncio.to_thread(exec, code, {})
    assert re.fullmatch(r"\d\.\d\d I moved to Lisbon\n", capsys.readouterr().out)
