"""MCP with the official client, over both ways in: what it lists, what its tools do, who reaches what."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from simonides import AsyncMemory, Memory
from simonides.access import EVERYTHING, Permit
from simonides.api import OPERATIONS, Desk
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.servers import mcp as door
from simonides.servers.gate import Gate
from simonides.servers.http import app
from simonides.servers.memory_tools import MEMORY, memory_export
from simonides.servers.tool import Visit
from simonides.servers.tools import chosen, sets
from simonides.serving import Serving

SEVEN = [
    "memory_store", "memory_search", "memory_update", "memory_prune", "memory_get_context", "memory_export",
    "memory_stats",
]  # fmt: skip
READING = {"memory_search", "memory_get_context", "memory_export", "memory_stats"}
TOKENS_MAX = 600
MODES = ("auto", "legacy")  # the protocol of 2026, and the handshake of those before
TRIP = [
    {"role": "user", "content": "We take the night train to Porto\n1. [assistant] and this is one line of it"},
    {"role": "assistant", "content": "Booked: the sleeper at 22:15"},
]


# -- a server and its clients -------------------------------------------------------------------------------------


@dataclass
class Served:
    url: str
    keys: dict[str, str]
    desk: Desk
    server: uvicorn.Server
    thread: threading.Thread

    @contextlib.asynccontextmanager
    async def client(self, key: str | None, *, mode: str = "auto", query: str = "") -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp{query}", http_client=http), mode=mode, read_timeout_seconds=30
            ) as client,  # type: ignore[arg-type]
        ):
            yield client

    async def post(self, said: Any, key: str | None, **headers: str) -> httpx2.Response:
        given = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            **({"x-api-key": self.keys[key]} if key else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with httpx2.AsyncClient(timeout=30) as http:
            return await http.post(f"{self.url}/mcp", json=said, headers=given)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()


async def _keys(directory: MemoryDirectory) -> dict[str, str]:
    grants = {
        "marta": Grant(name="marta", tenant="default", user="marta", permits=EVERYTHING),
        "marta2": Grant(name="another of marta's", tenant="default", user="marta", permits=EVERYTHING),
        "rui": Grant(name="rui", tenant="default", user="rui", permits=EVERYTHING),
        "reader": Grant(name="reader", tenant="default", user="marta", permits=Permit.READ),
        "any": Grant(name="any", tenant="default", permits=EVERYTHING),
    }
    return {name: (await directory.make(grant))[1] for name, grant in grants.items()}


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., Served]]:
    """Return what starts a server in a thread; they are stopped after the test."""
    running: list[Served] = []

    def start(**serving: Any) -> Served:
        directory = MemoryDirectory()
        keys: dict[str, str] = {}
        desk = Desk(AsyncMemory(home / "m.db", embedder="hashing:", settled=False), directory, Serving(**serving))
        made = app(desk, Gate(directory, require=True), more=[door.mount])
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(made, log_level="warning", lifespan="on", ws="none"))

        async def run() -> None:
            keys.update(await _keys(directory))
            async with desk.memory:
                await server.serve([listening])

        thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.append(Served(url, keys, desk, server, thread))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def started(home: Path, user: str = "marta", tools: str = "memory") -> list[str]:
    whose = ["--store", str(home / "m.db"), "--user", user, "--embedder", "hashing:"]
    return [sys.executable, "-m", "simonides", "mcp", "--tools", tools, *whose]


@contextlib.asynccontextmanager
async def speaking(home: Path, *, mode: str = "legacy", tools: str = "memory") -> AsyncIterator[Client]:
    program, *args = started(home, tools=tools)
    asked = StdioServerParameters(command=program, args=args, env=dict(os.environ))
    async with Client(asked, mode=mode, read_timeout_seconds=30) as client:  # type: ignore[arg-type]
        yield client


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, home: Path) -> Callable[..., Any]:
    """Return what opens a client as marta, over either way in."""
    if request.param == "stdio":
        return functools.partial(speaking, home)
    served: Served = request.getfixturevalue("serve")()

    def over_http(*, mode: str = "auto", tools: str = "memory") -> Any:
        return served.client("marta", mode=mode, query=f"?tools={tools}")

    return over_http


async def call(client: Client, name: str, /, **arguments: Any) -> tuple[str, Any]:
    """Call a tool that must succeed; return its text and its data."""
    found = await client.call_tool(name, arguments)
    assert not found.is_error, found.content
    return found.content[0].text, found.structured_content  # type: ignore[union-attr]


async def failed(client: Client, name: str, /, **arguments: Any) -> str:
    found = await client.call_tool(name, arguments)
    text: str = found.content[0].text  # type: ignore[union-attr]
    assert found.is_error, text
    assert "something went wrong" not in text
    return text


# -- what is listed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_is_shown_seven_tools(connect: Any, mode: str) -> None:
    async with connect(mode=mode) as client:
        assert client.server_info.name == "simonides"
        assert "memory" in client.instructions
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == SEVEN
        for tool in tools:
            hints = tool.annotations
            assert hints.read_only_hint is (tool.name in READING)
            assert hints.destructive_hint is False  # versions are kept, and what is archived can be brought back
            assert hints.idempotent_hint is (tool.name != "memory_store")
            assert hints.open_world_hint is False
            assert tool.description and tool.input_schema["type"] == "object"


def test_the_seven_cost_their_user_few_tokens() -> None:
    told = [
        json.dumps([each.name, each.does, each.takes], separators=(",", ":"), ensure_ascii=False) for each in MEMORY
    ]
    assert [each.name for each in MEMORY] == SEVEN
    assert sum(map(len, told)) / 4 <= TOKENS_MAX


async def test_every_operation_can_be_a_tool(connect: Any) -> None:
    async with connect(tools="all") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == set(OPERATIONS)
        for name, row in OPERATIONS.items():
            hints = tools[name].annotations
            assert (hints.read_only_hint, hints.destructive_hint) == (row.reads, row.destroys), name
            assert hints.idempotent_hint is row.repeats, name
            schema = tools[name].input_schema
            assert set(schema["properties"]) == set(row.takes.model_fields), name
            assert schema.get("required", []) == [f for f, info in row.takes.model_fields.items() if info.is_required()]
        _, kept = await call(client, "remember", content="The tide turns at six", labels=["sea"])
        text, found = await call(client, "recall", text="when does the tide turn?")
        assert json.loads(text) == found
        assert found["hits"][0]["record"]["id"] == kept["results"][0]["id"]
        _, gone = await call(client, "erase", id=kept["results"][0]["id"])
        assert gone["certificate"]["count"] == 1


def test_sets_and_single_tools_are_chosen_by_name() -> None:
    assert list(chosen("memory")) == SEVEN
    assert list(chosen("memory,similar_conversations")) == [*SEVEN, "similar_conversations"]
    assert list(chosen("recall, memory_store")) == ["recall", "memory_store"]
    assert set(chosen("conversations")) == {n for n, row in OPERATIONS.items() if row.resource == "conversations"}
    assert set(sets()) >= {"memory", "all", "recalling", "upkeep"}
    for wrong in ("", "everything", "memory,,recall"):
        with pytest.raises(ValueError, match="no tool or set"):
            chosen(wrong)
    with pytest.raises(ValueError, match="did you mean 'recall'"):
        chosen("recal")


# -- what the tools do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_stored_is_found_changed_exported_and_counted(connect: Any, mode: str) -> None:
    async with connect(mode=mode) as client:
        said, kept = await call(
            client, "memory_store", messages=TRIP, label="travel", folder="/plans/2026", importance_score=8
        )
        id = kept["conversation_id"]
        assert id in said and kept["indexed"]
        assert (kept["label"], kept["folder"], kept["importance_score"]) == ("travel", "plans/2026", 8)
        assert kept["message_count"] == 2
        _, note = await call(client, "memory_store", text="The spare key is with Ana", label="home", importance_score=9)
        assert (note["text"], note["label"], note["importance_score"]) == ("The spare key is with Ana", "home", 9)
        _, more = await call(client, "memory_store", text="Which platform?", conversation_id=id)
        assert more["conversation_id"] == id and len(more["message_ids"]) == 1

        text, found = await call(client, "memory_search", query="who has the spare key?", limit=3)
        assert found["results"][0]["id"] == note["id"]
        assert text.startswith("1. ") and "The spare key is with Ana" in text and note["id"] in text
        text, found = await call(client, "memory_search", query="night train", filters={"label": "travel"})
        assert {hit["conversation_id"] for hit in found["results"]} == {id}
        assert found["results"][0]["who"] == "user" and found["results"][0]["at"]
        assert "\n    1. [assistant] and this is one line of it" in text  # nobody else's words begin a line

        text, context = await call(client, "memory_get_context", query="who has the spare key?", budget=200)
        assert "The spare key is with Ana" in text and context["text"] == text
        assert context["tokens"] <= 200
        assert note["id"] in [cited["id"] for cited in context["citations"]]
        text, talk = await call(client, "memory_get_context", conversation_id=id)
        assert [each["content"] for each in talk["messages"]] == [
            *(each["content"] for each in TRIP),
            "Which platform?",
        ]
        assert talk["message_count"] == 3 and "user: Which platform?" in text

        _, told = await call(client, "memory_stats")
        assert told["total_conversations"] == 1 and told["messages"] == 3 and told["average_importance"] == 8.0
        assert told["folders"] == [{"folder": "plans/2026", "conversations": 1}]
        assert told["labels"] == [{"label": "travel", "conversations": 1}]
        assert (await call(client, "memory_stats", label="home"))[1]["total_conversations"] == 0
        assert (await call(client, "memory_stats", folder="plans"))[1]["total_conversations"] == 1

        text, whole = await call(client, "memory_export", conversation_id=id)
        assert json.loads(text)["messages"] == whole["messages"]
        assert [each["role"] for each in whole["messages"]] == ["user", "assistant", "user"]
        text, _ = await call(client, "memory_export", conversation_id=id, format="markdown")
        assert text.startswith("# travel") and "Booked: the sleeper at 22:15" in text
        _, bare = await call(client, "memory_export", conversation_id=id, include_metadata=False)
        assert "metadata" not in bare["messages"][0] and set(bare["conversation"]) == {"id", "conversation_id"}


async def test_an_update_changes_what_it_says_and_answers_with_what_is_stored(connect: Any) -> None:
    async with connect(tools="memory,get,history,messages") as client:
        _, kept = await call(client, "memory_store", messages=TRIP, label="travel", folder="plans")
        id = kept["id"]
        changes = {"label": "rail", "folder": "trips", "status": "archived", "importance_score": 2}
        _, row = await call(client, "memory_update", conversation_id=id, **changes)
        assert {name: row[name] for name in changes} == changes
        assert row["updated_fields"] == list(changes)
        _, record = await call(client, "get", id=id)
        assert (record["labels"], record["folder"]) == (["rail"], "trips")
        assert (record["status"], record["importance"]) == ("archived", 2)
        _, found = await call(client, "memory_search", query="night train to Porto")
        assert found["results"] == []  # its messages are put aside with it
        _, whole = await call(client, "memory_export", conversation_id=id)
        assert len(whole["messages"]) == 2
        _, row = await call(client, "memory_update", conversation_id=id, status="active", folder="", label="")
        assert (row["status"], row["folder"], row["label"]) == ("active", None, None)
        assert row["importance_score"] == 2  # not named, not changed

        _, note = await call(client, "memory_store", text="The key is with Ana")
        _, row = await call(client, "memory_update", conversation_id=note["id"], text="The key is with Rui")
        assert (row["text"], row["version"]) == ("The key is with Rui", 2)
        _, versions = await call(client, "history", id=note["id"])
        assert [each["text"] for each in versions["results"]] == ["The key is with Ana", "The key is with Rui"]

        assert "nothing is named" in await failed(client, "memory_update", conversation_id=id)
        await failed(client, "memory_update", conversation_id=id, label="x", importance_score=11)
        assert (await call(client, "get", id=id))[1]["labels"] == []  # wrong as a whole, so nothing was done


async def test_pruning_proposes_and_archives_only_when_told(connect: Any) -> None:
    def said(at: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"From {at}", "at": at}]

    async with connect(tools="memory,append_messages,pin_conversation") as client:
        ids = {}
        for label, at, importance in (
            ("old", "2020-01-01", 3),
            ("dear", "2020-01-02", 9),
            ("pinned", "2020-01-03", 3),
            ("alive", "2020-01-04", 3),
            ("older", "2019-01-01", 4),
        ):
            named = {"label": label, "importance_score": importance}
            ids[label] = (await call(client, "memory_store", messages=said(at), **named))[1]["id"]
        new = (await call(client, "memory_store", text="of today"))[1]["id"]
        await call(client, "memory_store", text="and it goes on", conversation_id=ids["alive"])
        await call(client, "pin_conversation", id=ids["pinned"])
        text, found = await call(client, "memory_prune")
        assert [each["conversation_id"] for each in found["suggestions"]] == [ids["older"], ids["old"]]
        assert found["dry_run"] is True and found["archived"] == 0 and found["total_suggestions"] == 2
        assert "2020-01-01" in found["suggestions"][1]["why"] and text.startswith("Would archive 2 conversations")
        assert (await call(client, "memory_stats"))[1]["archived"] == 0
        _, found = await call(client, "memory_prune", importance_threshold=3, dry_run=False)
        assert found["archived"] == 1
        assert (await call(client, "memory_stats"))[1]["archived"] == 2  # the conversation, and what was said in it
        _, hits = await call(client, "memory_search", query="From 2020-01-01")
        assert ids["old"] not in [hit["conversation_id"] for hit in hits["results"]]
        await call(client, "memory_update", conversation_id=ids["old"], status="active")
        _, hits = await call(client, "memory_search", query="From 2020-01-01")
        assert ids["old"] in [hit["conversation_id"] for hit in hits["results"]]
        assert new not in [each["conversation_id"] for each in (await call(client, "memory_prune"))[1]["suggestions"]]


async def test_a_long_conversation_is_shown_from_its_end_within_the_budget(connect: Any) -> None:
    lines = [{"role": "user", "content": f"line {number} " + "word " * 20} for number in range(60)]
    async with connect() as client:
        _, kept = await call(client, "memory_store", messages=lines)
        text, talk = await call(client, "memory_get_context", conversation_id=kept["id"], budget=300)
        assert 2 <= len(talk["messages"]) < 20
        assert talk["messages"][-1]["content"].startswith("line 59 ")
        assert f"{60 - len(talk['messages'])} earlier messages left out" in text
        long = await call(client, "memory_store", text="heron " * 2000)
        text, found = await call(client, "memory_search", query="heron")
        assert len(found["results"][0]["text"]) < 2200 and f"memory://record/{long[1]['id']}" in text


# -- what goes wrong ----------------------------------------------------------------------------------------------

HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("memory_store", {}),
    ("memory_store", {"text": "a", "messages": TRIP}),
    ("memory_store", {"text": ""}),
    ("memory_store", {"text": 7}),
    ("memory_store", {"text": "a", "user": "rui"}),
    ("memory_store", {"text": "a", "folder": "a\x00b"}),
    ("memory_store", {"text": "a", "importance_score": 11}),
    ("memory_store", {"messages": [{"role": "user"}]}),
    ("memory_store", {"messages": ["text"]}),
    ("memory_store", {"messages": [{"role": "root", "content": "a"}]}),
    ("memory_store", {"messages": [{"content": "a", "hidden": 1}]}),
    ("memory_store", {"text": "a", "conversation_id": "nobody's"}),
    ("memory_search", {"query": ""}),
    ("memory_search", {"query": "a", "limit": 0}),
    ("memory_search", {"query": "a", "limit": 10**30}),
    ("memory_search", {"query": "a", "filters": {"user": "rui"}}),
    ("memory_search", {"query": "a", "filters": {"tenant": "other"}}),
    ("memory_search", {"query": "a", "filters": {"label": {"$ne": None}}}),
    ("memory_search", {"query": "a", "filters": {"since": "yesterday'; DROP TABLE records"}}),
    ("memory_search", {"query": "a", "filters": {"label": "%"}}),
    ("memory_search", {"query": "a", "filters": ["label"]}),
    ("memory_update", {"conversation_id": "*", "label": "x"}),
    ("memory_update", {"conversation_id": "nobody's", "label": "x"}),
    ("memory_update", {"conversation_id": ["a"], "label": "x"}),
    ("memory_update", {"conversation_id": "a", "status": "deleted"}),
    ("memory_get_context", {}),
    ("memory_get_context", {"query": "a", "budget": -1}),
    ("memory_get_context", {"conversation_id": "nobody's"}),
    ("memory_export", {"conversation_id": "../../etc/passwd"}),
    ("memory_export", {"conversation_id": "a", "format": "exe"}),
    ("memory_stats", {"label": "\x1b[31m"}),
    ("memory_prune", {"threshold_days": "many"}),
    ("memory_prune", {"dry_run": "perhaps"}),
    ("memory_prune", {"threshold_days": -1}),
]


async def test_hostile_arguments_are_answered_by_errors_that_speak(connect: Any) -> None:
    async with connect() as client:
        for name, arguments in HOSTILE:
            assert await failed(client, name, **arguments), (name, arguments)
        text, found = await call(client, "memory_search", query="\"NEAR( ' OR 1=1 -- \\ * \u202e", limit=5)
        assert found["results"] == [] and text.startswith("Nothing found")
        deep: Any = "x"
        for _ in range(60):
            deep = [deep]
        await failed(client, "memory_search", query="a", filters={"metadata": {"a": deep}})


async def test_what_is_not_there_is_an_error_of_the_protocol(connect: Any) -> None:
    async with connect() as client:
        for wrong in ("memory_erase", "recall", "", "__class__"):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(wrong, {})
            assert caught.value.code == -32602
        with pytest.raises(MCPError, match="no prompt"):
            await client.get_prompt("nobody's", {})
        with pytest.raises(MCPError, match="needs question"):
            await client.get_prompt("recall_then_answer", {})
        for uri in ("memory://record/nobody", "memory://other/1", "file:///etc/passwd", "memory://conversation/"):
            with pytest.raises(MCPError) as caught:
                await client.read_resource(uri)
            assert caught.value.code == -32602, uri
        with pytest.raises(MCPError):
            await client.list_resources(cursor="nonsense")


# -- resources and prompts ----------------------------------------------------------------------------------------


async def test_conversations_are_resources_in_pages(connect: Any) -> None:
    async with connect() as client:
        ids = [(await call(client, "memory_store", messages=TRIP, label=f"talk {n}"))[1]["id"] for n in range(60)]
        first = await client.list_resources()
        rest = await client.list_resources(cursor=first.next_cursor)
        assert len(first.resources) == 50 and rest.next_cursor is None
        listed = [*first.resources, *rest.resources]
        assert [each.uri for each in listed] == [f"memory://conversation/{id}" for id in reversed(ids)]
        assert listed[0].title == "talk 59" and "2 messages" in listed[0].description
        [content] = (await client.read_resource(listed[0].uri)).contents
        assert content.mime_type == "text/markdown" and "Booked: the sleeper" in content.text  # type: ignore[union-attr]
        templates = (await client.list_resource_templates()).resource_templates
        uris = [each.uri_template for each in templates]
        assert uris == ["memory://conversation/{id}", "memory://record/{id}"]
        [content] = (await client.read_resource(f"memory://record/{ids[0]}")).contents
        assert json.loads(content.text)["labels"] == ["talk 0"]  # type: ignore[union-attr]


async def test_a_record_with_an_id_of_somebodys_own_is_a_resource(connect: Any) -> None:
    async with connect(tools="all") as client:
        await call(client, "remember", content="Kept under a path", id="notes/2026 ü")
        [content] = (await client.read_resource("memory://record/notes%2F2026%20%C3%BC")).contents
        assert json.loads(content.text)["text"] == "Kept under a path"


async def test_prompts_bring_what_is_remembered(connect: Any) -> None:
    async with connect() as client:
        _, kept = await call(client, "memory_store", messages=TRIP)
        await call(client, "memory_store", text="The spare key is with Ana")
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(prompts) == {"recall_then_answer", "reflect_on_session"}
        asked = await client.get_prompt("recall_then_answer", {"question": "who has the spare key?"})
        text = asked.messages[0].content.text
        assert "who has the spare key?" in text and "The spare key is with Ana" in text
        plain = (await client.get_prompt("reflect_on_session", {})).messages[0].content.text
        assert "memory_store" in plain and "memory_update" in plain and "Booked" not in plain
        asked = await client.get_prompt("reflect_on_session", {"conversation_id": kept["id"]})
        assert "Booked: the sleeper" in asked.messages[0].content.text


# -- long calls ---------------------------------------------------------------------------------------------------

LONG = 6000  # messages: a dozen pages


def talked(home: Path) -> str:
    """Put a long conversation of marta's into the memory; return its id."""
    with Memory(home / "m.db", embedder="none") as memory:
        said = [{"role": "user", "content": f"line {number}"} for number in range(LONG)]
        found = memory.remember(said, user="marta", session="long")
        assert found[0].part_of
        return found[0].part_of


@pytest.mark.parametrize("mode", MODES)
async def test_a_long_call_says_how_far_it_is(home: Path, connect: Any, mode: str) -> None:
    id = talked(home)
    async with connect(mode=mode) as client:
        heard: list[tuple[float, float | None]] = []

        async def hear(done: float, total: float | None, says: str | None) -> None:
            heard.append((done, total))

        found = await client.call_tool("memory_export", {"conversation_id": id}, progress_callback=hear)
        assert heard == [(done, LONG) for done in range(500, LONG + 1, 500)]
        lines, offset = [], found.structured_content["next_offset"]  # type: ignore[index]
        assert 1000 < offset < LONG  # no more than a client takes in one answer
        lines += found.structured_content["messages"]  # type: ignore[index]
        while offset is not None:
            _, more = await call(client, "memory_export", conversation_id=id, offset=offset)
            lines += more["messages"]
            offset = more["next_offset"]
        assert [each["content"] for each in lines] == [f"line {number}" for number in range(LONG)]
        text, _ = await call(client, "memory_export", conversation_id=id, format="markdown", offset=LONG - 1)
        assert f"line {LONG - 1}" in text and "goes on" not in text
        [content] = (await client.read_resource(f"memory://conversation/{id}")).contents
        assert "more: memory_export, offset" in content.text  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_is_given_up_leaves_the_session_well(home: Path, connect: Any, mode: str) -> None:
    id = talked(home)
    async with connect(mode=mode) as client:
        with anyio.CancelScope() as scope:

            async def give_up(done: float, total: float | None, says: str | None) -> None:
                scope.cancel()

            await client.call_tool("memory_export", {"conversation_id": id}, progress_callback=give_up)
        assert scope.cancelled_caught
        assert (await call(client, "memory_stats"))[1]["messages"] == LONG


async def test_a_call_that_is_cancelled_goes_no_further(home: Path) -> None:
    id = talked(home)
    async with AsyncMemory(home / "m.db", embedder="none") as memory:
        heard: list[float] = []

        async def tell(done: float, total: float | None, says: str) -> None:
            heard.append(done)
            calling.cancel()

        visit = Visit(Desk(memory), whose={"user": "marta"}, tell=tell)
        calling = asyncio.ensure_future(memory_export.run({"conversation_id": id}, visit))
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert heard == [500.0]


def test_a_cancelled_call_is_never_answered(home: Path) -> None:
    id = talked(home)
    asked = {"name": "memory_export", "arguments": {"conversation_id": id}, "_meta": {"progressToken": "p"}}
    with spoken(home) as (say, hear):
        begin(say, hear)
        say({"id": 7, "method": "tools/call", "params": asked})
        assert hear()["params"]["progress"] == 500
        say({"method": "notifications/cancelled", "params": {"requestId": 7}})
        say({"id": 8, "method": "ping"})
        answers = []
        while not answers or answers[-1].get("id") != 8:
            answers.append(hear())
        assert not [each for each in answers if each.get("id") == 7 and "result" in each]
        assert len(answers) < LONG // 500


async def test_rebuild_waits_and_says_how_it_ended(home: Path) -> None:
    async with speaking(home, tools="all") as client:
        await call(client, "remember", content="The tide turns at six")
        _, task = await call(client, "rebuild")
        assert task["status"] == "done" and task["result"] == {"vectors": 1}


# -- stdin and stdout ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def spoken(home: Path) -> Iterator[tuple[Callable[[Any], None], Callable[[], Any]]]:
    """Start the program; yield what says a message to it and what reads one from it."""
    with subprocess.Popen(
        started(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout

        def say(message: Any) -> None:
            assert program.stdin
            program.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            program.stdin.flush()

        def hear() -> Any:
            assert program.stdout
            return json.loads(program.stdout.readline())

        yield say, hear
        program.stdin.close()
        assert program.wait(timeout=30) == 0


HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def begin(say: Any, hear: Any) -> None:
    say({"id": 1, "method": "initialize", "params": HELLO})
    assert hear()["result"]["protocolVersion"] == "2025-06-18"
    say({"method": "notifications/initialized"})


def test_what_is_piped_in_is_answered_to_the_end(home: Path) -> None:
    store = {"name": "memory_store", "arguments": {"text": "The spare key is with Ana"}}
    messages = [
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": store},
    ]
    piped = "".join(json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in messages) + "no JSON at all\n"
    done = subprocess.run(started(home), input=piped, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = {each.get("id"): each for each in map(json.loads, done.stdout.splitlines())}  # nothing but the protocol
    assert answers[2]["result"]["structuredContent"]["text"] == "The spare key is with Ana"
    assert "Traceback" not in done.stderr
    with Memory(home / "m.db", embedder="hashing:") as memory:
        [note] = memory.find(user="marta")
        assert note.text == "The spare key is with Ana"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_waits_for_input(home: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        started(home), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin and program.stdout and program.stderr
        program.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}) + "\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline())["id"] == 1
        program.send_signal(number)
        assert program.wait(timeout=30) == (130 if number == signal.SIGINT else 0)
        assert program.stdout.read() == "" and "Traceback" not in program.stderr.read()


def test_a_memory_that_cannot_be_opened_is_said_before_anything_is_spoken(home: Path) -> None:
    (home / "m.db").write_bytes(b"no database " * 1000)
    done = subprocess.run(started(home), input="", capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and done.stdout == ""


def test_the_sdk_is_imported_with_the_first_request(home: Path) -> None:
    look = "import sys, simonides.servers.mcp; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], timeout=60).returncode == 0


# -- HTTP ---------------------------------------------------------------------------------------------------------


async def test_nobody_comes_in_without_a_key(serve: Callable[..., Served]) -> None:
    served = serve()
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    assert (await served.post(asked, None)).status_code == 401
    async with httpx2.AsyncClient() as http:
        for method in ("GET", "DELETE", "PUT", "OPTIONS"):
            assert (await http.request(method, f"{served.url}/mcp")).status_code == 401
    served.keys["wrong"] = "sim_nobody"
    assert (await served.post(asked, "wrong")).status_code == 401


@pytest.mark.parametrize("mode", MODES)
async def test_two_users_share_nothing(serve: Callable[..., Served], mode: str) -> None:
    served = serve()
    mark = "heliotrope"
    async with served.client("marta", mode=mode) as marta, served.client("rui", mode=mode, query="?tools=all") as rui:
        _, talk = await call(marta, "memory_store", messages=[{"role": "user", "content": f"The {mark} is mine"}])
        _, note = await call(marta, "memory_store", text=f"Where the {mark} is kept", label=mark, folder=mark)
        ids = (talk["id"], note["id"])

        async def heard_by_rui() -> AsyncIterator[str]:
            async with served.client("rui", mode=mode) as seven:
                for client in (seven, rui):
                    resources = await client.list_resources()
                    yield resources.model_dump_json()
                yield (await seven.get_prompt("recall_then_answer", {"question": "where?"})).model_dump_json()
                for name, arguments in (
                    ("memory_search", {"query": "what is kept, and where?"}),
                    ("memory_get_context", {"query": "what is kept, and where?"}),
                    ("memory_stats", {}),
                    *(("memory_export", {"conversation_id": id}) for id in ids),
                    *(("memory_get_context", {"conversation_id": id}) for id in ids),
                    *(("memory_update", {"conversation_id": id, "label": "mine now"}) for id in ids),
                    *(("memory_store", {"conversation_id": id, "text": "mine now"}) for id in ids),
                ):
                    found = await seven.call_tool(name, arguments)
                    assert found.is_error or not any(id in str(arguments) for id in ids), (name, found)
                    yield found.model_dump_json()
            for name, arguments in (
                ("recall", {"text": "where?", "user": "marta"}),
                ("recall", {"text": "where?", "tenant": "other"}),
                ("find", {}),
                ("changes", {}),
                ("forget", {"ids": list(ids)}),
                *((name, {"id": id}) for id in ids for name in ("get", "history", "messages", "erase", "retract")),
            ):
                yield (await rui.call_tool(name, arguments)).model_dump_json()
            for id in ids:
                for kind in ("record", "conversation"):
                    with pytest.raises(MCPError) as caught:
                        await rui.read_resource(f"memory://{kind}/{id}")
                    assert "no record" in str(caught.value)

        async for text in heard_by_rui():
            assert mark not in text
        assert (await call(marta, "memory_stats"))[1]["records"] == 3
        _, found = await call(marta, "memory_search", query=mark)
        assert len(found["results"]) == 2


async def test_a_session_belongs_to_the_key_that_opened_it(serve: Callable[..., Served]) -> None:
    served = serve()
    opened = await served.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}, "marta")
    session = {"mcp_session_id": opened.headers["mcp-session-id"], "mcp_protocol_version": "2025-06-18"}
    asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    await served.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, "marta", **session)
    assert (await served.post(asked, "marta", **session)).status_code == 200
    for other in ("rui", "marta2", "any"):
        assert (await served.post(asked, other, **session)).status_code == 404
        async with httpx2.AsyncClient() as http:
            headers = {"x-api-key": served.keys[other], "mcp-session-id": session["mcp_session_id"]}
            assert (await http.delete(f"{served.url}/mcp", headers=headers)).status_code == 404
            headers["accept"] = "text/event-stream"
            assert (await http.get(f"{served.url}/mcp", headers=headers)).status_code == 404
    assert (await served.post(asked, None, **session)).status_code == 401
    assert (await served.post(asked, "marta", **session)).status_code == 200


async def test_what_a_key_may_not_do_no_tool_does(serve: Callable[..., Served]) -> None:
    async with serve().client("reader", query="?tools=memory,erase,make_key,doctor") as client:
        assert "may not write" in await failed(client, "memory_store", text="x")
        assert "may not erase" in await failed(client, "erase", id="x")
        assert "may not admin" in await failed(client, "make_key", name="x")
        assert "whole store" in await failed(client, "doctor")
        assert (await call(client, "memory_stats"))[1]["records"] == 0


async def test_the_address_says_whose_memory_within_what_the_key_opens(serve: Callable[..., Served]) -> None:
    served = serve()
    async with served.client("any", query="?user=ana") as ana:
        await call(ana, "memory_store", text="Ana keeps bees")
    async with served.client("any", query="?user=rui") as rui:
        assert (await call(rui, "memory_search", query="bees"))[1]["results"] == []
    async with served.client("marta", query="?user=ana") as marta:
        assert "bound to another user" in await failed(marta, "memory_search", query="bees")


async def test_strange_hosts_origins_and_addresses_are_refused(serve: Callable[..., Served]) -> None:
    served = serve(cors_origins=("https://app.example.com",))
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    for host in ("evil.example.com", "127.0.0.1.evil.example.com", "localhost@evil.example.com", "", "["):
        assert (await served.post(asked, "marta", host=host)).status_code in (400, 421), host
    for host in ("localhost", "LOCALHOST:1234", "[::1]:80"):
        assert (await served.post(asked, "marta", host=host)).status_code == 200, host
    for origin in ("https://evil.example.com", "null", "http://127.0.0.1:1", "https://app.example.com.evil.com"):
        assert (await served.post(asked, "marta", origin=origin)).status_code == 403, origin
    for origin in ("https://app.example.com", served.url):
        assert (await served.post(asked, "marta", origin=origin)).status_code == 200, origin
    async with httpx2.AsyncClient(headers={"x-api-key": served.keys["marta"]}) as http:
        for query in ("tools=nonsense", "user=a&user=b", "color=red"):
            assert (await http.post(f"{served.url}/mcp?{query}", json=asked)).status_code == 422, query


async def test_a_name_of_the_server_is_one_that_it_was_given(serve: Callable[..., Served]) -> None:
    served = serve(allowed_hosts=("memory.example.com",))
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    assert (await served.post(asked, "marta", host="memory.example.com:8443")).status_code == 200
    assert (await served.post(asked, "marta")).status_code == 421


async def test_a_request_too_large_is_refused(serve: Callable[..., Served]) -> None:
    served = serve(body_mb_max=1)
    store = {"name": "memory_store", "arguments": {"text": "a" * 2**20}}
    found = await served.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": store}, "marta")
    assert found.status_code == 413
