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
from simonides.record import Scope
from simonides.servers import proto
from simonides.servers.gate import Gate
from simonides.servers.grpc import NAMED, SERVICE, Door, address_of, start
from simonides.servers.http import app
from simonides.servers.replays import Replays
from simonides.serving import Serving

PROTO = Path(proto.__file__).parent
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
    gate = Gate(directory, require=require)
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
    message = proto.pool_of().FindServiceByName(SERVICE).methods_by_name[method].input_type
    found = set()
    for field in message.fields:
        choice = field.containing_oneof
        found.add(choice.name if choice and len(choice.fields) > 1 else field.name.removesuffix("_json"))
    alone = {"id"} if method == "StoreMany" else set()  # each message has its own
    assert found - {"data"} == ASKED[method].model_fields.keys() - alone


@pytest.mark.parametrize("method", GIVEN)
def test_a_typed_answer_says_all_that_the_operation_gives(method: str) -> None:
    message = proto.pool_of().FindServiceByName(SERVICE).methods_by_name[method].output_type
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
        pb.StoreRequest(text="Ana moved to Lisbon", user="ana", labels=["home"], metadata_json='{"n": 9007199254740993}')
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
    assert health.status == "ok" and [part.name for part in health.parts] == ["store", "vectors", "llm"]


# -- alike over HTTP ------------------------------------------------------------------------------------------------

Said = dict[str, Any]
ANA = {"user": "ana"}
STEPS: tuple[tuple[str, Callable[[Any], Said]], ...] = (
    ("remember", lambda _: {"content": "I moved to Lisbon", "labels": ["home"], "metadata": {"n": 1}, **ANA}),
    ("remember", lambda _: {"content": [{"role": "user", "content": "my boat leaks"}, "and it is old"], "session": "s"}),
    ("find", lambda _: {"labels": ["home"], "metadata": {"n": 1}}),
    ("count", lambda _: {}),
    ("versions", lambda _: {"limit": 2}),
    ("get", lambda it: {"id": it["remember"]["results"][0]["id"]}),
    ("revise", lambda it: {"id": it["get"]["id"], "text": "my boat leaks no more", "version": 1}),
    ("revise", lambda it: {"id": it["get"]["id"], "text": "too late", "version": 1}),
    ("history", lambda it: {"id": it["get"]["id"]}),
    ("organise", lambda it: {"id": it["get"]["id"], "labels": ["boat"], "pinned": True}),
    ("supersede", lambda it: {"id": it["get"]["id"], "content": "I sold the boat"}),
    ("retract", lambda it: {"id": it["supersede"]["record"]["id"]}),
    ("recall", lambda _: {"text": "where do I live? Lisbon", "explain": True, **ANA}),
    ("recall_many", lambda _: {"texts": ["Lisbon", "boat"], "limit": 2}),
    ("explain_missing", lambda it: {"id": it["get"]["id"], "text": "Lisbon"}),
    ("context", lambda _: {"text": "Lisbon", "budget": 100}),
    ("begin_conversation", lambda _: {"label": "trips", "messages": [{"role": "user", "content": "to Porto"}]}),
    ("list_conversations", lambda _: {}),
    ("count_conversations", lambda _: {}),
    ("stats", lambda _: {}),
    ("changes", lambda _: {"after": 2, "limit": 3}),
    ("position", lambda _: {}),
    ("get_task", lambda _: {"id": "log-1"}),
    ("make_key", lambda _: {"name": "a key", "permits": ["read"]}),
    ("list_keys", lambda _: {}),
    ("doctor", lambda _: {}),
    ("capabilities", lambda _: {}),
    ("health", lambda _: {}),
    ("forget", lambda _: {"labels": ["home"], "dry_run": True}),
    ("forget", lambda _: {"labels": ["home"]}),
    ("forget", lambda _: {}),
    ("certificates", lambda _: {}),
    ("rebuild", lambda _: {}),
)  # fmt: skip


async def test_every_operation_answers_as_over_http(served: Served, generated: dict[str, ModuleType]) -> None:
    """The same story is told at both doors, each to a memory of its own; then what was not in it, wrongly."""
    plain = [(name, lambda _, said=said: said) for name in OPERATIONS for said in ({}, {"id": "nobody"}, {"no": 1})]
    async with serving(generated) as other:
        grpc_side, http_side = Plain(), Plain()
        for name, arguments in (*STEPS, *plain):
            if (name, said := arguments(grpc_side.it))[0] == "rebuild" and said:
                continue
            mine = await over_grpc(served, name, said)
            theirs = await over_http(other, name, arguments(http_side.it))
            grpc_side.it[name], http_side.it[name] = mine[1], theirs[1]
            assert grpc_side.of(mine) == http_side.of(theirs), (name, said)


async def over_grpc(served: Served, name: str, said: Said) -> tuple[str, Any]:
    try:
        return "ok", await served.call(name, **said)
    except grpc.aio.AioRpcError as error:
        code = trailers(error)["simonides-code"]
        return code, None if code == "invalid" else error.details()


async def over_http(served: Served, name: str, said: Said) -> tuple[str, Any]:
    row, rest = OPERATIONS[name], dict(said)
    path = re.sub(r"{(\w+)}", lambda found: rest.pop(found[1], "nobody"), row.path)
    if row.method in ("GET", "DELETE"):
        query = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in rest.items()}
        answer = await served.http.request(row.method, path, params=query)
    else:
        answer = await served.http.request(row.method, path, json=rest)
    found = answer.json()
    if answer.is_success:
        return "ok", found
    return found["code"], None if found["code"] == "invalid" else found["detail"]


class Plain:
    """Answers without what differs from one memory to the next: ids by when they were first seen, no times."""

    def __init__(self) -> None:
        self.it: dict[str, Any] = {}
        self._ids: dict[str, str] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "…" if key in ("secret", "uptime_seconds") else self.of(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(each) for each in value]
        if isinstance(value, float):
            return round(value, 3)
        if isinstance(value, str):
            value = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+[\d:]+)?", "then", value)
            return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{16,}\b", lambda found: self._id(found[0]), value)
        return value

    def _id(self, id: str) -> str:
        return self._ids.setdefault(id, f"<{len(self._ids)}>")
