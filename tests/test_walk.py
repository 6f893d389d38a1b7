"""One story that uses every operation of the table, told at every door, each to a memory of its own: answers are alike.

What the function behind the row answers is compared with what comes out over HTTP, MCP, gRPC, on the command line and
from the SDK; and so is what is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from doors import DOORS as MOUNTED
from doors import ask as over_http

from simonides import AsyncMemory, SimonidesError
from simonides.access import LOCAL
from simonides.api import OPERATIONS, Desk
from simonides.cli import main
from simonides.config import keys_url, open_backend
from simonides.remote import AsyncRemoteMemory
from simonides.servers.gate import Gate
from simonides.servers.http import app
from simonides.serving import Serving

Said = dict[str, Any]
Answer = tuple[str, Any]  # "ok" and what is answered, or the code of an error and its message
Ask = Callable[[str, Said], Awaitable[Answer]]
ANA = {"user": "ana"}
OWN = {"secret", "uptime_seconds", "next"}  # what each memory has of its own
BEGUN = {"rebuild"}  # answers while it goes on, or once it is done: that differs from door to door

STEPS: tuple[tuple[str, Callable[[Any], Said]], ...] = (
    ("remember", lambda _: {"content": "I moved to Lisbon", "labels": ["home"], "metadata": {"n": 1}, **ANA}),
    ("remember", lambda _: {"content": [{"role": "user", "content": "my boat leaks"}, "it is old"], "session": "s"}),
    ("remember", lambda _: {"content": "taken", "id": "count"}),
    ("find", lambda _: {"labels": ["home"], "metadata": {"n": 1}}),
    ("find", lambda _: {"limit": 1, "sort": "id"}),
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
    ("begin_conversation", lambda _: {"id": "trip", "label": "trips", "messages": [{"role": "user", "content": "Go"}]}),
    ("append_messages", lambda _: {"id": "trip", "messages": [{"role": "assistant", "content": "To Porto, then"}]}),
    ("messages", lambda _: {"id": "trip"}),
    ("get_conversation", lambda _: {"id": "trip", "messages": True}),
    ("label_conversation", lambda _: {"id": "trip", "label": "travel"}),
    ("file_conversation", lambda _: {"id": "trip", "folder": "plans"}),
    ("pin_conversation", lambda _: {"id": "trip"}),
    ("unpin_conversation", lambda _: {"id": "trip"}),
    ("archive_conversation", lambda _: {"id": "trip"}),
    ("unarchive_conversation", lambda _: {"id": "trip"}),
    ("similar_conversations", lambda _: {"id": "trip"}),
    ("export_conversation", lambda _: {"id": "trip", "format": "markdown"}),
    ("list_conversations", lambda _: {}),
    ("count_conversations", lambda _: {}),
    ("propose_prune", lambda _: {"threshold_days": 0, "importance_threshold": 10}),
    ("prune", lambda _: {"ids": ["trip"], "dry_run": True}),
    ("prune", lambda _: {"ids": ["trip"]}),
    ("stats", lambda _: {}),
    ("changes", lambda _: {"after": 2, "limit": 3}),
    ("position", lambda _: {}),
    ("status", lambda _: {}),
    ("letters", lambda _: {}),
    ("replay_letters", lambda _: {}),
    ("drop_letters", lambda _: {"seqs": [1]}),
    ("get_task", lambda _: {"id": "log-1"}),
    ("make_key", lambda _: {"name": "a key", "permits": ["read"]}),
    ("list_keys", lambda _: {}),
    ("revoke_key", lambda it: {"id": it["make_key"]["key"]["id"]}),
    ("doctor", lambda _: {}),
    ("capabilities", lambda _: {}),
    ("health", lambda _: {}),
    ("forget", lambda _: {"labels": ["home"], "dry_run": True}),
    ("forget", lambda _: {"labels": ["home"]}),
    ("forget", lambda _: {}),
    ("erase_conversation", lambda _: {"id": "trip"}),
    ("erase", lambda it: {"id": it["get"]["id"]}),
    ("erase", lambda it: {"id": it["get"]["id"]}),
    ("certificates", lambda _: {}),
    ("rebuild", lambda _: {}),
)  # fmt: skip
WRONG = [("get", {"id": "nobody"}), ("recall", {"text": "x", "no": 1}), ("begin_conversation", {"messages": [1]})]


def test_the_story_has_every_operation() -> None:
    assert {name for name, _ in STEPS} == set(OPERATIONS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    return asyncio.run(told(itself, tmp_path_factory.mktemp("itself")))


@pytest.mark.parametrize("door", ["http", "mcp", "grpc", "call", "sdk"])
async def test_every_operation_answers_alike(door: str, expected: list[tuple[str, Any]], home: Path) -> None:
    heard = await told(globals()[door], home)
    for mine, theirs in zip(expected, heard, strict=True):
        assert mine == theirs


async def told(door: Any, folder: Path) -> list[tuple[str, Any]]:
    """Tell the story at that door, and then what is wrong; return all that was answered, in plain."""
    plain, found = Plain(), list[tuple[str, Any]]()
    async with door(folder) as ask:
        for name, arguments in (*STEPS, *((name, lambda _, said=said: said) for name, said in WRONG)):
            code, answer = await ask(name, arguments(plain.it))
            if code == "ok":
                plain.it[name] = answer
            if name in BEGUN:
                answer = answer["does"]
            found.append((name, plain.of((code, None if code == "invalid" else answer))))
    return found


class Plain:
    """Answers without what differs from one memory to the next: ids by when they were first seen, no times."""

    def __init__(self) -> None:
        self.it: dict[str, Any] = {}
        self._ids: dict[str, str] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            told = {key: self._id(each) if key == "id" else each for key, each in value.items()}
            return {key: "…" if key in OWN and each else self.of(each) for key, each in told.items()}
        if isinstance(value, list | tuple):
            return [self.of(each) for each in value]
        if isinstance(value, float):
            return round(value, 2)
        if isinstance(value, str):
            value = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+\d(Z|\+[\d:]+)?", "then", value)
            return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{16,}\b", lambda found: self._id(found[0]), value)
        return value

    def _id(self, id: str) -> str:
        return self._ids.setdefault(id, f"<{len(self._ids)}>")


# -- the doors ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def desk_in(folder: Path) -> AsyncIterator[Desk]:
    store = f"sqlite:///{folder}/m.db"
    async with AsyncMemory(store, embedder="hashing:") as memory:
        directory = open_backend("directories", keys_url(store, ""))
        desk = Desk(memory, directory, Serving())
        try:
            yield desk
        finally:
            await desk.tasks.ended()
            await directory.close()


async def tried(work: Awaitable[Any]) -> Answer:
    try:
        return "ok", await work
    except SimonidesError as error:
        return error.code, error.message


@contextlib.asynccontextmanager
async def itself(folder: Path) -> AsyncIterator[Ask]:
    async with desk_in(folder) as desk:
        yield lambda name, said: tried(OPERATIONS[name](desk, LOCAL, said))


@contextlib.asynccontextmanager
async def http(folder: Path) -> AsyncIterator[Ask]:
    import httpx

    async with desk_in(folder) as desk:
        made = app(desk, Gate(desk.directory, require=False), more=MOUNTED)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://memory.test") as client:

            async def ask(name: str, said: Said) -> Answer:
                answer = await over_http(client, name, said)
                found = answer.json()
                return ("ok", found) if answer.is_success else (found["code"], found["detail"])

            yield ask


@contextlib.asynccontextmanager
async def sdk(folder: Path) -> AsyncIterator[Ask]:
    import httpx

    async with desk_in(folder) as desk:
        made = app(desk, Gate(desk.directory, require=False), more=MOUNTED)
        async with AsyncRemoteMemory("http://memory.test", transport=httpx.ASGITransport(made)) as memory:
            yield lambda name, said: tried(memory.call(name, **said))


@contextlib.asynccontextmanager
async def mcp(folder: Path) -> AsyncIterator[Ask]:
    from mcp import Client

    from simonides.servers.mcp_server import Visitor, made
    from simonides.servers.tool import Visit
    from simonides.servers.tools import chosen

    async with desk_in(folder) as desk:
        visitor = Visitor(Visit(desk), chosen("all"))
        async with Client(made(lambda context: visitor)) as client:

            async def ask(name: str, said: Said) -> Answer:
                found = await client.call_tool(name, said)
                data: Any = found.structured_content
                return (data["error"]["code"], data["error"]["message"]) if found.is_error else ("ok", data)

            yield ask


@contextlib.asynccontextmanager
async def grpc(folder: Path) -> AsyncIterator[Ask]:
    library = pytest.importorskip("grpc")
    from google.protobuf.message_factory import GetMessageClass

    from simonides.servers import messages
    from simonides.servers.grpc import SERVICE, start

    call = messages.methods(messages.pool_of().FindServiceByName(SERVICE))["Call"]
    request, reply = GetMessageClass(call.input_type), GetMessageClass(call.output_type)
    async with desk_in(folder) as desk:
        door = await start(desk, Gate(desk.directory, require=False), host="127.0.0.1", port=0)
        try:
            async with library.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
                method = channel.unary_unary(
                    f"/{SERVICE}/Call",
                    request_serializer=request.SerializeToString,
                    response_deserializer=reply.FromString,
                )

                async def ask(name: str, said: Said) -> Answer:
                    try:
                        answer = await method(request(operation=name, arguments_json=json.dumps(said)))
                    except library.aio.AioRpcError as error:
                        return dict(error.trailing_metadata())["simonides-code"], error.details()
                    return "ok", json.loads(answer.answer_json)

                yield ask
        finally:
            await door.stop(5)


@contextlib.asynccontextmanager
async def call(folder: Path) -> AsyncIterator[Ask]:
    """The command line opens the memory anew for each call."""
    common = ["--store", f"sqlite:///{folder}/m.db", "--embedder", "hashing:", "--json"]

    async def ask(name: str, said: Said) -> Answer:
        ran = await asyncio.to_thread(CliRunner().invoke, main, ["call", name, json.dumps(said), *common])
        if not ran.exit_code:
            return "ok", json.loads(ran.stdout)
        error = json.loads(ran.stderr)
        return error["error"], error["message"]

    yield ask
