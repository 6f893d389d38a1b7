"""What the proxy promises, with OpenAI's own client before it and a server that speaks its wire format behind it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette
from upstream import LIMITED, Upstream, served

from simonides import AsyncMemory
from simonides.access import LOCAL, Permit, Principal
from simonides.errors import Limited, Unauthorized
from simonides.servers.openai.turns import marked, nothing_new, unmarked
from simonides.servers.proxy import Proxy

FERRY = "The ferry to Barreiro leaves at 8:15"
QUESTION = "When does the ferry leave?"
ASK = [{"role": "user", "content": QUESTION}]
MARKED = re.compile(r"<simonides-memory ([0-9a-f]{16})>\n.*?\n\n(.*)\n</simonides-memory \1>", re.DOTALL)
READ_WRITE = Permit.READ | Permit.WRITE


@dataclass(frozen=True)
class Told:
    """The settings of a server."""

    upstream: str = ""
    upstream_key: str = ""
    upstream_seconds: float = 20.0
    proxy_budget: int = 500
    proxy_user: str = ""
    body_mb_max: int = 1


@dataclass
class Keys:
    """Who comes in with which key; without one, whoever sits at this machine."""

    keys: dict[str, Principal] = field(default_factory=dict)
    limited: bool = False

    async def enter(self, headers: Mapping[str, str], client: str) -> Principal:
        assert client == "127.0.0.1"
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        key = bearer or headers.get("x-api-key")
        if self.limited:
            raise Limited(retry_after=2.5)
        if key and key not in self.keys:
            raise Unauthorized("nobody is known by this key")
        return self.keys[key] if key else LOCAL


@dataclass
class Place:
    memory: AsyncMemory
    upstream: Upstream
    proxy: Proxy
    keys: Keys
    told: Told
    http: httpx.AsyncClient
    url: str = ""

    def client(self, key: str = "sk-theirs", **headers: str) -> AsyncOpenAI:
        named = {f"X-Simonides-{name}": value for name, value in headers.items()}
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, default_headers=named, max_retries=0)

    async def ask(self, messages: Any = ASK, *, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        async with self.client() as client:
            asked = {"model": "m", "messages": messages, **more}
            return await client.chat.completions.create(**asked, extra_headers=headers or {"X-Simonides-User": "ana"})

    async def post(self, body: bytes | Any, path: str = "chat/completions", **headers: str | bytes) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return await self.http.post(f"{self.url}/v1/{path}", content=content, headers=named)

    async def kept(self, **which: Any) -> list[tuple[str, str]]:
        """Return who said what, once all is remembered, in order."""
        await self.proxy.drain()
        found = await self.memory.find(kinds="message", **which)
        return [(record.body.role, record.text) for record in found[::-1]]

    def context(self) -> str:
        """Return the context that the last call brought to the upstream."""
        found = [MARKED.fullmatch(_text(message)) for message in self.upstream.seen[-1].json["messages"]]
        return next((match[2] for match in found if match), "")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


@pytest.fixture
async def place(home: Path) -> AsyncIterator[Place]:
    upstream, keys = Upstream(), Keys()
    async with (
        AsyncMemory(":memory:", embedder="hashing:", settled=False) as memory,
        served(upstream.app) as behind,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        proxy = Proxy(memory, keys, lambda: here.told)
        here = Place(memory, upstream, proxy, keys, Told(upstream=f"{behind}/base"), http)
        async with served(Starlette(routes=here.proxy.routes())) as url:
            here.url = url
            yield here
        await here.proxy.drain()


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 20)


# -- what a chat is given --------------------------------------------------------------------------------------------


async def test_a_chat_is_given_what_was_remembered(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "No lists.", "name": "house"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}], "made_up": 1.0},
    ]

    def ask() -> Any:  # the client for code that does not await
        with OpenAI(base_url=f"{place.url}/v1", api_key="sk-theirs") as client:
            return client.chat.completions.with_raw_response.create(
                model="m", messages=messages, extra_headers={"X-Simonides-User": "ana"}, extra_body={"odd": {"a": []}}
            )

    raw = await asyncio.to_thread(ask)
    assert raw.parse().choices[0].message.content == place.upstream.says
    sent = place.upstream.seen[-1].json
    assert sent["messages"][:2] == messages[:2] and sent["messages"][3:] == messages[2:]
    assert sent["messages"][2]["role"] == "developer" and FERRY in place.context()
    assert sent["odd"] == {"a": []} and sent["model"] == "m"
    assert raw.headers["x-simonides-context-count"] == "1"
    assert int(raw.headers["x-simonides-context-tokens"]) > 0


async def test_without_instructions_the_context_comes_first(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    await place.ask()
    first, *rest = place.upstream.seen[-1].json["messages"]
    assert first["role"] == "system" and FERRY in first["content"] and rest == ASK


async def test_a_context_keeps_its_budget(place: Place) -> None:
    for number in range(30):
        await place.memory.remember(f"The ferry number {number} leaves the harbour at {number} past eight", user="ana")
    count = place.memory._engine.embedder.tokens  # type: ignore[union-attr]
    sizes = []
    for budget in ("40", "120", ""):
        given = {"X-Simonides-Budget": budget} if budget else {}
        await place.ask(headers={"X-Simonides-User": "ana", "X-Simonides-Memory": "read", **given})
        sizes.append(count(place.context()))
        assert 0 < sizes[-1] <= int(budget or place.told.proxy_budget)
    assert sizes == sorted(set(sizes))
    await place.ask(headers={"X-Simonides-User": "ana", "X-Simonides-Budget": "0"})
    assert place.context() == "" and place.upstream.seen[-1].json["messages"] == ASK


async def test_what_the_client_sends_anyway_takes_no_room(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    await place.ask([{"role": "user", "content": f" {FERRY}\n"}, {"role": "assistant", "content": "Noted."}, *ASK])
    assert place.context() == ""


async def test_settings_are_read_at_every_call(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    place.told = dataclasses.replace(place.told, proxy_budget=0)
    await place.ask()
    assert place.context() == ""
    place.told = dataclasses.replace(place.told, proxy_budget=200)
    await place.ask()
    assert FERRY in place.context()


async def test_the_fields_of_the_first_seed_are_ours_and_go_no_further(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana", folder="travel/river")
    await place.memory.remember("The ferry ticket is in the drawer", user="ana", folder="home")
    await place.ask(extra_body={"folder": "/chats", "excluded_folders": ["travel"], "context_budget": 300})
    assert "drawer" in place.context() and FERRY not in place.context()
    assert set(place.upstream.seen[-1].json) == {"model", "messages"}
    await place.proxy.drain()
    [question] = await place.memory.find(
        folder="chats", metadata=None, kinds="message", since=None, limit=1, user="ana"
    )
    assert question.folder == "chats"
    await place.ask(extra_body={"context_budget": 0})
    assert place.context() == ""
    for odd in ({"context_budget": "many"}, {"folder": 7}, {"excluded_folders": {"a": 1}}, {"context_budget": True}):
        with pytest.raises(openai.BadRequestError):
            await place.ask(extra_body=odd)


# -- whose memory ----------------------------------------------------------------------------------------------------


async def test_a_chat_sees_the_memory_of_its_user_alone(place: Place) -> None:
    await place.memory.remember("The ferry of Ana leaves at 8:15", user="ana")
    await place.memory.remember("The ferry of Bo leaves at 9:40", user="bo")
    place.keys.keys["sim_bo"] = Principal(name="k1", user="bo", permits=READ_WRITE)
    await place.ask()
    assert "8:15" in place.context() and "9:40" not in place.context()
    await place.ask(headers={"X-Simonides-Memory": "on"}, user="ana")  # OpenAI's own field, where nothing else says
    assert "8:15" in place.context() and "9:40" not in place.context()
    place.told = dataclasses.replace(place.told, proxy_user="bo")
    await place.ask(headers={"X-Simonides-Memory": "on"})
    assert "9:40" in place.context() and "8:15" not in place.context()
    async with place.client("sim_bo") as client:
        await client.chat.completions.create(model="m", messages=ASK, user="ana")  # the key says whose it is
        assert "9:40" in place.context() and "8:15" not in place.context()
    async with place.client("sim_bo", User="ana") as client:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.chat.completions.create(model="m", messages=ASK)
    assert refused.value.code == "forbidden" and refused.value.type == "permission_error"
    calls = len(place.upstream.seen)
    async with place.client("sim_wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="m", messages=ASK)
    place.keys.limited = True
    with pytest.raises(openai.RateLimitError) as limited:
        await place.ask()
    assert limited.value.response.headers["retry-after"] == "3"
    assert len(place.upstream.seen) == calls, "who was refused has reached the upstream"


async def test_two_keys_without_a_user_do_not_share_a_conversation(place: Place) -> None:
    for name in ("one", "two"):
        place.keys.keys[f"sim_{name}"] = Principal(name=name, permits=READ_WRITE)
        async with place.client(f"sim_{name}") as client:
            await client.chat.completions.create(model="m", messages=ASK)
    await place.proxy.drain()
    assert len(await place.memory.conversations()) == 2


async def test_no_odd_name_means_everyone(place: Place) -> None:
    for name in ("", "*", "%", "a\tb"):
        answer = await place.post({"model": "m", "messages": ASK}, X_Simonides_User=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
        assert (await place.post({"model": "m", "messages": ASK, "user": name})).status_code == 400
    assert place.upstream.seen == []


async def test_a_memory_that_requires_a_user_refuses_a_chat_of_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("SIMONIDES_REQUIRE", "user")
    async with AsyncMemory(":memory:") as memory:
        proxy = Proxy(memory, place.keys, lambda: place.told)
        async with served(Starlette(routes=proxy.routes())) as place.url:
            with pytest.raises(openai.BadRequestError, match="X-Simonides-User"):
                await place.ask(headers={"X-Simonides-Memory": "on"})
            await place.ask()
        await proxy.drain()


async def test_a_key_does_what_it_may(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    permits = {"reads": Permit.READ, "writes": Permit.WRITE, "erases": Permit.ERASE}
    place.keys.keys = {f"sim_{name}": Principal(name=name, user="ana", permits=each) for name, each in permits.items()}
    for name, found, kept in (("reads", True, 0), ("writes", False, 2)):
        async with place.client(f"sim_{name}") as client:
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK)
        assert ("may not" in raw.headers["x-simonides-notes"], FERRY in place.context()) == (True, found)
        assert len(await place.kept()) == kept
    for name, mode in (("reads", "write"), ("writes", "on"), ("erases", "off"), ("erases", "on")):
        async with place.client(f"sim_{name}", Memory=mode) as client:
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model="m", messages=ASK)


# -- what is remembered ----------------------------------------------------------------------------------------------


async def test_a_turn_is_remembered_once(place: Place) -> None:
    """Also when the request is tried again, and when the client sends the whole history with the next one."""
    await place.ask()
    await place.ask()
    turn = [("user", QUESTION), ("assistant", place.upstream.says)]
    assert await place.kept(user="ana") == turn
    history = [
        *ASK,
        {"role": "assistant", "content": place.upstream.says},
        {"role": "user", "content": "And on Sundays?"},
    ]
    place.upstream.says = "On Sundays it leaves an hour later."
    await place.ask(history)
    await place.ask([{"role": "system", "content": "It is 10:31."}, *history])  # instructions may change
    assert await place.kept() == [*turn, ("user", "And on Sundays?"), ("assistant", place.upstream.says)]
    [talk] = await place.memory.conversations(user="ana")
    assert talk.text == QUESTION and len(await place.memory.messages(talk.id, user="ana")) == 4


async def test_an_answer_that_is_made_anew_takes_the_place_of_the_old(place: Place) -> None:
    await place.ask()
    place.upstream.says = "It leaves at 9:40."
    await place.ask()
    assert await place.kept() == [("user", QUESTION), ("assistant", "It leaves at 9:40.")]
    [answer] = [record for record in await place.memory.find(kinds="message") if record.body.role == "assistant"]
    assert len(await place.memory.history(answer.id)) == 2


async def test_the_same_words_in_two_sessions_are_said_twice(place: Place) -> None:
    for session in ("monday", "friday"):
        raw = await place.post(
            {"model": "m", "messages": ASK},
            X_Simonides_User="ana",
            X_Simonides_Session=session,
            X_Simonides_Memory="write",
        )
        assert raw.headers["x-simonides-session"] == session
    assert await place.kept(session="monday", shared=False) == [("user", QUESTION), ("assistant", place.upstream.says)]
    assert len(await place.kept()) == 4


async def test_another_session_knows_what_was_said(place: Place) -> None:
    await place.ask([{"role": "user", "content": "My ferry leaves from Cacilhas"}])
    await place.proxy.drain()
    await place.ask()
    assert "Cacilhas" in place.context()


async def test_what_was_recalled_is_never_learned(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    place.upstream.says = f"[1] (2026-05-02) {FERRY.upper()}."
    await place.ask()
    assert await place.kept() == [("user", QUESTION)]
    context = place.upstream.seen[-1].json["messages"][0]["content"]
    place.upstream.says = f"{context} Early, then."  # a model that repeats its instructions
    told = [{"role": "user", "content": f"Is that early?\n{context}"}]  # a client that sends back what it was sent
    await place.ask(told)
    assert (await place.kept())[1:] == [("user", "Is that early?"), ("assistant", "Early, then.")]
    assert place.upstream.seen[-1].json["messages"][-1:] == told, "the caller's own message was changed"
    await place.ask([{"role": "user", "content": context}])  # nothing else is said
    assert len(await place.kept(sources="proxy")) == 4, "the answer alone is new"


async def test_memory_off_touches_nothing(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    sent = b'{ "model":"m", "messages": [{"role":"user","content":"When does the ferry\\u0020leave?"}], "x": 1.0 }'
    answer = await place.post(sent, X_Simonides_User="ana", X_Simonides_Memory="off")
    assert place.upstream.seen[-1].body == sent
    assert not [name for name in answer.headers if name.startswith("x-simonides")]
    assert await place.kept() == []
    await place.post({"model": "m", "messages": ASK, "folder": "x"}, X_Simonides_Memory="off")
    assert "folder" not in place.upstream.seen[-1].json


async def test_memory_read_or_write_does_that_alone(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    await place.ask(headers={"X-Simonides-User": "ana", "X-Simonides-Memory": "write"})
    assert place.context() == "" and len(await place.kept()) == 2
    await place.ask(headers={"X-Simonides-User": "ana", "X-Simonides-Memory": "read", "X-Simonides-Session": "s"})
    assert FERRY in place.context() and len(await place.kept()) == 2
    with pytest.raises(openai.BadRequestError):
        await place.ask(headers={"X-Simonides-Memory": "maybe"})


async def test_nothing_is_remembered_that_was_not_answered(place: Place) -> None:
    for model in ("limited", "broken"):
        with pytest.raises(openai.APIStatusError):
            await place.ask(model=model)
    assert await place.kept() == []


async def test_of_several_choices_nobody_knows_which_was_taken(place: Place) -> None:
    answer = await place.ask(n=3)
    assert len(answer.choices) == 3
    assert await place.kept() == [("user", QUESTION)]


async def test_a_turn_with_tools_is_remembered_as_what_was_said(place: Place) -> None:
    for stream in (False, True):
        headers = {"X-Simonides-User": "ana", "X-Simonides-Session": f"stream {stream}", "X-Simonides-Memory": "write"}
        first = await place.ask(model="tools", headers=headers, stream=stream)
        if stream:
            deltas = [chunk.choices[0].delta async for chunk in first]
            [call] = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
        else:
            [call] = first.choices[0].message.tool_calls
        assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Lisbon"}
        called = {"role": "assistant", "content": None, "tool_calls": [call.model_dump(exclude={"index"})]}
        given = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        second = await place.ask([*ASK, called, given], model="tools", headers=headers, stream=stream)
        if stream:
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in second]) == place.upstream.says
        kept = await place.kept(session=f"stream {stream}", shared=False)
        assert kept == [("user", QUESTION), ("assistant", place.upstream.says)]


async def test_what_is_said_between_calls_of_tools_is_another_answer(place: Place) -> None:
    headers = {"X-Simonides-User": "ana", "X-Simonides-Session": "s", "X-Simonides-Memory": "write"}
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    called = {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}
    place.upstream.says = "Let me look."
    await place.ask(headers=headers)
    place.upstream.says = "It is sunny."
    await place.ask([*ASK, called, {"role": "tool", "tool_call_id": "c", "content": "sunny"}], headers=headers)
    assert [text for _, text in await place.kept()] == [QUESTION, "Let me look.", "It is sunny."]


async def test_a_part_whose_type_is_no_name_is_passed_on(place: Place) -> None:
    odd = {"role": "user", "content": [{"type": [], "text": "x"}, {"type": "text", "text": QUESTION}]}
    await place.ask([odd])
    assert place.upstream.seen[-1].json["messages"] == [odd]
    assert (await place.kept())[0] == ("user", QUESTION)


async def test_a_question_is_remembered_when_it_is_asked_not_with_each_call_of_a_tool(place: Place) -> None:
    """Though the client drops its oldest messages on the way, so that the history is another each time."""
    headers = {"X-Simonides-User": "ana", "X-Simonides-Session": "s", "X-Simonides-Memory": "write"}
    older = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    given = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    await place.ask([*older, *ASK], model="tools", headers=headers)
    await place.ask([*ASK, called, given], model="tools", headers=headers)
    assert await place.kept() == [("user", QUESTION), ("assistant", place.upstream.says)]


async def test_nothing_is_lost_when_the_server_stops(place: Place) -> None:
    async def one(number: int) -> None:
        await place.post({"model": "m", "messages": [{"role": "user", "content": f"Question {number}"}]})

    await asyncio.gather(*(one(number) for number in range(40)))
    await place.proxy.drain()
    assert await place.memory.count(kinds="message") == 80


class Slow(AsyncMemory):
    """A memory that writes when it is told to."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.go = asyncio.Event()

    async def remember(self, *content: Any, **said: Any) -> Any:
        await self.go.wait()
        return await super().remember(*content, **said)


async def test_an_answer_does_not_wait_to_be_remembered_but_the_next_question_does(place: Place) -> None:
    async with Slow(":memory:", embedder="hashing:", settled=False) as memory:
        place.memory, place.proxy = memory, Proxy(memory, place.keys, lambda: place.told)
        async with served(Starlette(routes=place.proxy.routes())) as place.url:
            await place.ask([{"role": "user", "content": "My ferry leaves from Cacilhas"}])
            second = asyncio.create_task(place.ask())
            await place.ask(headers={"X-Simonides-User": "bo"})  # whom it does not concern
            draining = asyncio.create_task(place.proxy.drain())
            await place.ask(headers={"X-Simonides-User": "bo", "X-Simonides-Memory": "off"})
            assert len(place.upstream.seen) == 3 and not second.done() and not draining.done()
            place.upstream.says = "At nine."
            memory.go.set()
            await second
            assert "Cacilhas" in place.context()
            await draining
            assert await memory.count(kinds="message", user="ana") == 4


async def test_a_failing_memory_never_breaks_a_chat(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    await place.memory.remember(FERRY, user="ana")
    await place.memory.close()
    with caplog.at_level(logging.DEBUG, "simonides"):
        answer = await place.post({"model": "m", "messages": ASK}, X_Simonides_User="ana")
        await place.proxy.drain()
    assert answer.json()["choices"][0]["message"]["content"] == place.upstream.says
    assert "did not answer" in answer.headers["x-simonides-notes"]
    assert answer.headers["x-simonides-context-count"] == "0"
    said = [record for record in caplog.records if record.name.startswith("simonides")]
    assert [record.levelname for record in said] == ["WARNING", "ERROR"]
    assert not [record for record in said if "ferry" in record.getMessage() or record.exc_info]


# -- streaming -------------------------------------------------------------------------------------------------------


async def test_a_stream_passes_through_as_it_is_sent(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    said = []
    async with place.client(User="ana") as client:
        stream = await client.chat.completions.create(
            model="slow", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                said.append(chunk.choices[0].delta.content)
                if len(said) == 1:
                    await soon(place.upstream.waiting)
                    assert not place.upstream.go.is_set()  # the rest has not been sent, and the first word is here
                    place.upstream.go.set()
        assert chunk.usage and chunk.usage.total_tokens == 10
    assert "".join(said) == place.upstream.says and FERRY in place.context()
    assert await place.kept() == [("user", QUESTION), ("assistant", place.upstream.says)]


async def test_a_stream_is_the_bytes_that_were_sent(place: Place) -> None:
    answer = await place.post({"model": "m", "messages": ASK, "stream": True})
    assert answer.content == bytes(place.upstream.sent)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("stream", [True, False])
async def test_when_the_client_goes_the_upstream_is_told(place: Place, stream: bool) -> None:
    async def ask() -> None:
        answer = await place.ask(model="slow", stream=stream)
        async for _ in answer:
            pass

    asking = asyncio.create_task(ask())
    await soon(place.upstream.waiting)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await soon(place.upstream.left)
    # What was asked and heard in part was asked; an answer that broke off is none.
    assert await place.kept() == ([("user", QUESTION)] if stream else [])


async def test_an_answer_that_breaks_off_is_not_passed_off_as_whole(place: Place) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await place.post({"model": "breaks", "messages": ASK, "stream": True})
    assert await place.kept() == [("user", QUESTION)]


# -- what is passed on -----------------------------------------------------------------------------------------------


async def test_an_answer_that_is_compressed_is_passed_on_so(place: Place) -> None:
    answer = await place.post({"model": "zipped", "messages": ASK}, Accept_Encoding="gzip")
    assert place.upstream.seen[-1].headers["accept-encoding"] == "identity"
    assert answer.headers["content-encoding"] == "gzip" and answer.json()["object"] == "chat.completion"
    assert await place.kept() == [("user", QUESTION)]


async def test_an_answer_is_passed_on_with_all_that_it_says(place: Place) -> None:
    answer = await place.post({"model": "m", "messages": ASK})
    assert answer.json()["made_up"] == {"a": 1} and answer.json()["choices"][0]["odd"] == [1.0, None]
    assert answer.headers["x-odd"] == "kept" and answer.headers["x-request-id"] == "req_1"
    assert "set-cookie" not in answer.headers and len(answer.headers.get_list("date")) == 1


async def test_errors_of_the_upstream_are_its_own(place: Place) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await place.ask(model="limited")
    assert limited.value.response.json() == LIMITED and limited.value.request_id == "req_429"
    with pytest.raises(openai.InternalServerError) as broken:
        await place.ask(model="broken")
    assert broken.value.response.text == "<html>no</html>"


async def test_an_upstream_that_is_not_there_is_said_to_be(place: Place) -> None:
    there = place.told
    for upstream, status, code in (
        ("http://127.0.0.1:1/v1", 502, "upstream_unavailable"),
        ("", 503, "unavailable"),
    ):
        place.told = dataclasses.replace(there, upstream=upstream)
        answer = await place.post({"model": "m", "messages": ASK})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    place.told = dataclasses.replace(there, upstream_seconds=0.05)
    answer = await place.post({"model": "slow", "messages": ASK})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert await place.kept() == []


async def test_everything_else_is_passed_on_untouched(place: Place) -> None:
    async with place.client() as client:
        assert (await client.embeddings.create(model="e", input="x", encoding_format="float")).data[0].embedding == [
            0.25, -1.0,
        ]  # fmt: skip
        assert [model.id async for model in client.models.list()] == ["m"]
    assert place.upstream.seen[-1].path == "/base/models"
    sent = b'{"prompt" : "When does the ferry leave?"}'
    await place.post(sent, "completions?api-version=1%202")
    assert (
        place.upstream.seen[-1].body == sent and place.upstream.seen[-1].path == "/base/completions?api-version=1%202"
    )
    await place.post(b"", "models/meta%2Fllama:8b")
    assert place.upstream.seen[-1].path == "/base/models/meta%2Fllama:8b"
    await place.post(b"\xff\x00", "audio/transcriptions", content_type="multipart/form-data; boundary=x")
    assert place.upstream.seen[-1].body == b"\xff\x00"
    assert await place.kept() == []


async def test_no_path_leads_out_of_the_upstream(place: Place) -> None:
    host, port = place.url.removeprefix("http://").split(":")
    for path in (
        "/v1/../admin", "/v1/models/../../admin", "/v1/%2e%2e/admin", "/v1/%252e%252e/admin", "/v1/a/%2E./b",
        "/v1/..%5cadmin", "/v1//admin", "/v1/a%00b", "/v1/./a", "/v1/a%0d%0aX:y", "/v1/a/..%2f..", "/v1/",
    ):  # fmt: skip
        reader, writer = await asyncio.open_connection(host, int(port))  # a client would tidy the path
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.read()).split(b" ", 2)[1]
        writer.close()
        assert status in (b"400", b"404"), path
    assert place.upstream.seen == []


async def test_only_the_methods_of_the_api_are_passed_on(place: Place) -> None:
    for method in ("PUT", "PATCH"):
        answer = await place.http.request(method, f"{place.url}/v1/models")
        assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"
        assert "GET" in answer.headers["allow"]
    assert place.upstream.seen == []
    for method in ("GET", "HEAD", "DELETE"):
        assert (await place.http.request(method, f"{place.url}/v1/models/m")).status_code == 200
    assert [seen.method for seen in place.upstream.seen] == ["GET", "HEAD", "DELETE"]


async def test_no_key_of_ours_goes_upstream(place: Place) -> None:
    place.keys.keys["sim_secret"] = Principal(name="k", user="ana")
    extra = {
        "Cookie": "a=1",
        "X-Forwarded-For": "10.0.0.1",
        "OpenAI-Project": "pé".encode("latin-1"),
        "Keep-Alive": "1",
        "X-Odd": "1",
    }
    for path in ("chat/completions", "embeddings"):
        body = {"model": "m", "messages": ASK}
        await place.post(body, path, Authorization="Bearer sim_secret", Connection="close, X-Odd", **extra)
        headers = place.upstream.seen[-1].headers
        assert "sim_secret" not in str(headers) and "authorization" not in headers
        assert headers["openai-project"] == "pé"
        assert not {"cookie", "x-forwarded-for", "keep-alive", "x-odd"} & set(headers)
        await place.post(body, path, X_API_Key="sim_secret", Authorization="Bearer sk-theirs", X_Simonides_User="ana")
        headers = place.upstream.seen[-1].headers
        assert "sim_secret" not in str(headers) and headers["authorization"] == "Bearer sk-theirs"
        assert not [name for name in headers if name.startswith("x-simonides")]
    place.told = dataclasses.replace(place.told, upstream_key="sk-house")
    await place.post(body, X_API_Key="sim_secret", Authorization="Bearer sk-theirs")
    assert place.upstream.seen[-1].headers["authorization"] == "Bearer sk-house"


async def test_a_shared_account_shows_nobody_what_others_keep_there(place: Place) -> None:
    place.keys.keys = {
        "sim_user": Principal(name="u", user="ana", permits=READ_WRITE),
        "sim_admin": Principal(name="a", permits=Permit.ADMIN),
    }
    there = (
        "GET files",
        "GET responses/resp_1",
        "GET chat/completions",
        "DELETE models/m",
        "POST files",
        "POST batches",
    )
    fine = ("GET models", "GET models/a/b", "POST embeddings", "POST completions", "POST images/generations")

    async def status(call: str, key: str) -> int:
        method, path = call.split()
        return (await place.http.request(method, f"{place.url}/v1/{path}", headers={"X-API-Key": key})).status_code

    assert [await status(call, "sim_user") for call in (*there, *fine)] == [200] * 11  # it is their own account
    place.told = dataclasses.replace(place.told, upstream_key="sk-house")
    assert [await status(call, "sim_user") for call in there] == [403] * 6
    assert [await status(call, "sim_user") for call in fine] == [200] * 5
    assert [await status(call, "sim_admin") for call in there] == [200] * 6


async def test_a_path_that_is_spelt_oddly_leads_to_nothing_that_others_keep(place: Place) -> None:
    place.keys.keys = {"sim_user": Principal(name="u", user="ana", permits=READ_WRITE)}
    place.told = dataclasses.replace(place.told, upstream_key="sk-house")
    port = int(place.url.rpartition(":")[2])
    for path in ("/%761/models/v1/files", "/%76%31/models/v1/files/f/content", "/v%31/models", "/%2e/v1/files"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = (f"GET {path} HTTP/1.1", "Host: localhost", "X-API-Key: sim_user", "Connection: close", "", "")
        writer.write("\r\n".join(lines).encode())
        assert (await reader.read()).split()[1] in (b"400", b"404"), path
        writer.close()
        await writer.wait_closed()
    assert place.upstream.seen == []


async def test_what_is_no_request_is_refused_in_their_own_shape(place: Place) -> None:
    for body, status in (
        (b"{", 400),
        (b"[]", 400),
        (b'{"messages": "\xff"}', 400),
        (b'{"a": NaN}', 400),
        (b'{"a":' + b"[" * 100_000, 400),
        (b'{"a":"' + b"x" * 2**20 + b'"}', 413),
    ):
        for path in ("chat/completions", "responses"):
            answer = await place.post(body, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert (await place.post(b"{}", content_encoding="gzip")).status_code == 400
    assert place.upstream.seen == []


# -- what the guide shows ---------------------------------------------------------------------------------------------


async def test_the_guide_does_what_it_says(place: Place) -> None:
    guide = Path(__file__).parents[1] / "docs" / "guides" / "proxy.md"
    shown = guide.read_text("utf-8").replace("http://127.0.0.1:40020", place.url)
    [code] = re.findall(r"^```python no-run\n(.*?)^```", shown, re.DOTALL | re.MULTILINE)
    [curl] = [block for block in re.findall(r"^```sh\n(.*?)^```", shown, re.DOTALL | re.MULTILINE) if "curl" in block]
    place.upstream.says = "Tapas, without cashews."

    def run() -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(guide), "exec"), namespace)
        return printed.getvalue()

    namespace: dict[str, Any] = {}
    assert await asyncio.to_thread(run) == "Tapas, without cashews.\n"
    namespace["client"].close()
    assert len(place.upstream.seen) == 2 and "allergic to cashews" in place.context()
    if shutil.which("curl"):
        ran = await asyncio.create_subprocess_shell(curl, stdout=asyncio.subprocess.PIPE)
        said, _ = await ran.communicate()
        assert b"x-simonides-context-count: " in said and b"Tapas, without cashews." in said
        assert place.upstream.seen[-1].headers["authorization"] == "Bearer the-key-of-your-model"


# -- responses -------------------------------------------------------------------------------------------------------


async def test_responses_have_a_memory_too(place: Place) -> None:
    await place.memory.remember(FERRY, user="ana")
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
    ]
    async with place.client(User="ana", Session="one") as client:
        assert (await client.responses.create(model="m", input=QUESTION)).output_text == place.upstream.says
        [ours, theirs] = place.upstream.seen[-1].json["input"]
        assert FERRY in ours["content"] and theirs == {"role": "user", "content": QUESTION}
        assert await place.kept() == [("user", QUESTION), ("assistant", place.upstream.says)]
    place.upstream.says = "At a quarter past eight."
    async with place.client(User="ana", Session="two") as client:
        stream = await client.responses.create(model="m", input=items, instructions="No lists.", stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        first, ours, theirs = place.upstream.seen[-1].json["input"]
        assert [first, theirs] == items and ours["role"] == "developer" and FERRY in ours["content"]
        assert place.upstream.seen[-1].json["instructions"] == "No lists."
    assert await place.kept(session="two", shared=False) == [("user", QUESTION), ("assistant", place.upstream.says)]


async def test_a_conversation_that_the_upstream_keeps_stays_one(place: Place) -> None:
    async with place.client(User="ana") as client:
        first = await client.responses.create(model="m", input=QUESTION)
        await place.proxy.drain()
        place.upstream.says = "An hour later."
        await client.responses.create(model="m", input="And on Sundays?", previous_response_id=first.id)
        await place.proxy.drain()
        place.upstream.says = "Not at all."
        result = {"type": "function_call_output", "call_id": "c", "output": "closed"}
        await client.responses.create(model="m", input=[result], previous_response_id="resp_2")
    assert [text for _, text in await place.kept()] == [
        QUESTION, "It leaves at 8:15.", "And on Sundays?", "An hour later.", "Not at all.",
    ]  # fmt: skip
    assert len(await place.memory.conversations()) == 1


async def test_what_the_upstream_calls_an_answer_leads_nobody_to_anothers_session(place: Place) -> None:
    async with place.client(User="ana", Session="the divorce") as client:
        first = await client.responses.create(model="m", input=QUESTION)
    await place.proxy.drain()
    for headers in ({"X_Simonides_User": "bo"}, {"X_Simonides_User": "ana", "X_Simonides_Agent": "other"}):
        body = {"model": "m", "input": "And on Sundays?", "previous_response_id": first.id}
        answer = await place.post(body, "responses", **headers)
        assert answer.headers["x-simonides-session"].startswith("chat-")
    await place.proxy.drain()
    assert len(await place.memory.find(session="the divorce", shared=False, kinds="message")) == 2


# -- whatever is sent ------------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
ODD = st.recursive(
    SCALARS,
    lambda more: st.lists(more, max_size=3) | st.dictionaries(st.text(max_size=5), more, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", ""]) | ODD
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "image_url"]) | ODD}, optional={"text": ODD}
)
MESSAGES = st.fixed_dictionaries(
    {}, optional={"role": ROLES, "content": ODD | st.lists(PARTS | ODD, max_size=3), "type": ODD, "output": ODD}
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": st.lists(MESSAGES | ODD, max_size=4) | ODD,
        "input": st.lists(MESSAGES | ODD, max_size=4) | ODD,
        "previous_response_id": ODD,
        "conversation": ODD,
        "user": ODD,
        "folder": ODD,
        "excluded_folders": ODD,
        "context_budget": ODD,
        "stream": ODD,
    },
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=BODIES | ODD, path=st.sampled_from(["chat/completions", "responses"]))
async def test_no_shape_of_a_request_breaks_the_proxy(place: Place, body: Any, path: str) -> None:
    """The upstream takes anything here, so what is not passed on was refused by us, and said why."""
    place.told = dataclasses.replace(place.told, upstream=place.told.upstream.removesuffix("/base") + "/any")
    raw = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    answer = await place.post(raw, path)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        sent = place.upstream.seen.pop().json
        ours = {"folder", "excluded_folders", "context_budget"}
        assert {name: sent[name] for name in sent if name != "input" and name != "messages"} == {
            name: body[name] for name in body if name not in ours | {"input", "messages"}
        }
    await place.proxy.drain()


@given(before=st.text(), context=st.text(min_size=1), after=st.text())
def test_a_context_is_taken_out_whatever_it_holds(before: str, context: str, after: str) -> None:
    held = f"{marked(context)}\n</simonides-memory 0123456789abcdef>"
    for inside in (context, held):
        assert unmarked(f"{before}{marked(inside)}{after}") == f"{before}{after}".strip()
    assert unmarked(f"{before}{marked(context)[:-3]}").strip() == before.strip()
    assert unmarked(before) == before


@pytest.mark.parametrize(
    ("answer", "quotes"),
    [
        ("The ferry leaves at 8:15.", True),
        ("- the FERRY leaves\n  at 8:15 [1]", False),  # a line break inside a sentence makes two short ones
        ("[1] (2026-05-02, user) The ferry leaves at 8:15", True),
        ("The ferry leaves at 8:15. Tickets are in the drawer!", True),
        ("The ferry leaves at 9:15.", False),
        ("The ferry never leaves at 8:15.", False),
        ("The ferry leaves at 8:15. Run!", False),
        ("Yes.", True),
        ("Leaves", False),
        ("", False),
        ("!", False),
    ],
)
def test_only_a_quotation_is_nothing_new(answer: str, quotes: bool) -> None:
    passages = ["The ferry leaves at 8:15, and the tickets are sold on board", "Tickets are in the drawer", "Yes"]
    assert nothing_new(answer, passages) is quotes
    assert not nothing_new(answer, ())
