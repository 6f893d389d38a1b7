"""Nobody is shown anything of another's, whatever is asked, at whatever door, with whatever key.

Hypothesis makes tenants, spaces, users and keys. Every record bears marks of its own, in every part that can hold a
text; then every operation is asked with every key, with arguments made of all ids and marks there are. What comes back
may hold the marks of what the key sees, and what the caller sent himself, and nothing else.

To test one more door, write a `Door` and add it to `DOORS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count, cycle, repeat
from pathlib import Path
from typing import Any

import grpc
import pytest
from doors import House, ask, house
from engines import Postgres, Schemas
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from simonides import Scope, SimonidesError
from simonides.access import EVERYTHING, Permit, Principal
from simonides.api import OPERATIONS, Operation
from simonides.directory import Grant
from simonides.servers import messages
from simonides.servers.grpc import SERVICE, start
from simonides.servers.http import ELSEWHERE, OPEN
from simonides.servers.tool import Visit
from simonides.servers.tools import chosen
from simonides.wire import as_json

MARK = re.compile(r"m[a-z]{3}q[0-9]{3}q")  # what marks look like, and nothing else
TENANTS, SPACES, USERS = ("default", "acme"), ("main", "work"), (None, "ana", "bo")


@dataclass(frozen=True)
class Holder:
    """A key, and what it is bound to."""

    secret: str
    principal: Principal

    def sees(self, scope: Scope) -> bool:
        mine = self.principal
        return (
            (mine.tenant is None or mine.tenant == scope.tenant)
            and (mine.spaces is None or scope.space in mine.spaces)
            and (mine.user is None or scope.user in (None, mine.user))
        )


@dataclass(frozen=True)
class Kept:
    """What was stored: where, its id and the marks in it."""

    scope: Scope
    id: str
    marks: frozenset[str]


@dataclass
class World:
    house: House
    holders: list[Holder]
    kept: list[Kept]
    extra: dict[str, list[str]]  # other names that arguments are made of: tasks, keys, places
    grpc: Any = None  # that door, while it is open, and the way to it
    channel: Any = None

    def marks_of(self, holder: Holder) -> frozenset[str]:
        return frozenset(mark for each in self.kept if holder.sees(each.scope) for mark in each.marks)

    @property
    def marks(self) -> frozenset[str]:
        return frozenset(mark for each in self.kept for mark in each.marks)


Door = Callable[[World, Holder, str, Mapping[str, Any]], Awaitable[str]]
"""Asks for an operation with a key; returns everything that came back, errors and headers too, as one text."""


async def directly(world: World, holder: Holder, name: str, arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps(await OPERATIONS[name](world.house.desk, holder.principal, arguments), ensure_ascii=False)
    except SimonidesError as error:
        return f"{error.code} {error.message}"


async def over_http(world: World, holder: Holder, name: str, arguments: Mapping[str, Any]) -> str:
    async with world.house.client(holder.secret) as client:
        answer = await ask(client, name, arguments)
    assert answer.status_code < 500, answer.text
    return f"{answer.status_code} {sorted(answer.headers.items())} {answer.text}"


async def over_mcp(world: World, holder: Holder, name: str, arguments: Mapping[str, Any]) -> str:
    """Call the tool of that name, as the one who came in with the key."""
    try:
        said = await TOOLS[name].run(arguments, Visit(world.house.desk, holder.principal))
    except SimonidesError as error:
        return f"{error.code} {error.message}"
    return f"{said.text} {json.dumps(said.data, ensure_ascii=False)}"


async def over_grpc(world: World, holder: Holder, name: str, arguments: Mapping[str, Any]) -> str:
    asked = GetMessageClass(CALL.input_type)(operation=name, arguments_json=json.dumps(arguments))
    made = world.house.made.state
    if world.grpc is None:
        replays = made.replays
        world.grpc = await start(world.house.desk, made.gate, host="127.0.0.1", port=0, replays=replays)
        world.channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.grpc.port}")
    call = world.channel.unary_unary(f"/{SERVICE}/Call")
    try:
        answer = await call(asked.SerializeToString(), metadata=(("x-api-key", holder.secret),), timeout=60)
    except grpc.aio.AioRpcError as error:
        assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), error
        return f"{error.code()} {error.details()} {list(error.trailing_metadata() or ())}"
    said = GetMessageClass(CALL.output_type)()
    said.ParseFromString(answer)
    return str(said.answer_json)


CALL = messages.methods(messages.pool_of().FindServiceByName(SERVICE))["Call"]
TOOLS = chosen("all,memory")
DOORS: dict[str, Door] = {
    "directly": directly,
    "over HTTP": over_http,
    "over MCP": over_mcp,
    "over gRPC": over_grpc,
}
IN_TURN = "in turn"  # through each door, one call after another


def ways_in(door: str) -> Iterator[Door]:
    return cycle(DOORS.values()) if door == IN_TURN else repeat(DOORS[door])


# -- a world ------------------------------------------------------------------------------------------------------


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    return Scope(
        tenant=draw(st.sampled_from(TENANTS)), space=draw(st.sampled_from(SPACES)), user=draw(st.sampled_from(USERS))
    )


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    return Grant(
        name="a key",
        tenant=draw(st.sampled_from(TENANTS)),
        spaces=draw(st.none() | st.frozensets(st.sampled_from(SPACES), min_size=1)),
        user=draw(st.sampled_from(USERS)),
        permits=draw(st.sampled_from([EVERYTHING, EVERYTHING, Permit.READ, Permit.WRITE, Permit.READ | Permit.WRITE])),
    )


WORLDS = {
    "owners": st.lists(scopes(), min_size=2, max_size=5, unique=True),
    "bound": st.lists(grants(), min_size=1, max_size=3),
}


def marked() -> Iterator[str]:
    for number in count():
        yield f"m{chr(97 + number % 26)}xzq{number:03}q"


async def peopled(home: House, owners: list[Scope], bound: list[Grant]) -> World:
    """Store something of everybody's, marked in every part that holds a text."""
    assert home.desk.directory is not None
    found, marks = list[Kept](), marked()
    for scope in owners:
        whose: Any = {"tenant": scope.tenant, "space": scope.space}
        if scope.user:
            whose["user"] = scope.user
        used = [next(marks) for _ in range(10)]
        text, label, folder, key, value, session, title, id, name, source = used
        talk = await home.memory.remember(
            [{"role": "user", "content": f"walnuts and {text}", "name": name, "id": id}, {"content": "figs, then"}],
            labels=[label], folder=folder, metadata={key: value}, session=session, title=title, source=source, **whose,
        )  # fmt: skip
        note = await home.memory.remember(
            f"a note on walnuts {text}", labels=[label], folder=folder, id=f"{id}-note", metadata={key: value}, **whose
        )
        await home.memory.revise(note.id, text=f"another note on walnuts {text}", **whose)
        gone = await home.memory.remember(f"gone {text}", id=f"{id}-gone", **whose)
        await home.memory.forget(gone.id, **whose)
        own = frozenset({*used, *(record.id for record in (*talk, note)), talk[0].part_of or ""})
        found += [Kept(scope, each, own) for each in (talk[0].id, note.id, talk[0].part_of or "", gone.id)]
        if scope.user:  # whoever may write for all hangs something on it, which all may see
            said = next(marks)
            part = await home.memory.remember(
                f"walnuts for all {said}", part_of=talk[0].part_of, tenant=scope.tenant, space=scope.space
            )
            shared = frozenset({said, part.id, talk[0].part_of or ""})  # it says itself what it is part of
            found.append(Kept(Scope(tenant=scope.tenant, space=scope.space), part.id, shared))
    await home.memory.settle()
    made = [await home.desk.directory.make(grant) for grant in bound]
    holders = [Holder(secret, key.principal) for key, secret in made]
    return World(home, holders, found, {"key": [key.id for key, _ in made], "task": ["log-1", "log-999"]})


# -- what is asked ------------------------------------------------------------------------------------------------


def asked_of(row: Operation, world: World, kept: Kept) -> list[dict[str, Any]]:
    """Return calls of an operation with what belongs to this owner as its arguments."""
    fields = row.takes.model_fields
    used = sorted((mark for mark in kept.marks if MARK.fullmatch(mark)), key=lambda mark: mark[-4:])
    [text, label, folder, key, value, session, title, _, _, source] = [*used, *["x"] * 10][:10]
    words: dict[str, Any] = {
        "text": f"walnuts {text}", "texts": [text, "walnuts"], "content": f"overwritten by a stranger {label}",
        "title": title, "name": "x", "messages": [{"role": "user", "content": "a stranger was here"}], "label": label,
        "folder": folder, "labels": [label], "session": session, "metadata": {key: value}, "sources": [source],
        "conversation": kept.id, "part_of": kept.id, "ids": [kept.id], "user": kept.scope.user or "ana",
        "space": kept.scope.space, "tenant": kept.scope.tenant, "dry_run": True, "everything": True,
    }  # fmt: skip
    ids = {"get_task": world.extra["task"], "revoke_key": ["x"]}.get(row.name, [kept.id])
    needed: dict[str, Any] = {}
    for name, info in fields.items():
        if info.is_required():
            needed[name] = ids[0] if name == "id" else words.get(name, "x")
    if row.name == "get_conversation":
        needed["messages"] = True
    elif row.name == "forget":
        needed["ids"] = [kept.id]
    calls = [needed]
    filters = ("labels", "folder", "session", "metadata", "sources", "conversation", "part_of", "label")
    calls += [{**needed, name: words[name]} for name in filters if name in fields]
    walls = (("user",), ("space",), ("tenant",), ("user", "space", "tenant"))
    calls += [{**needed, **{name: words[name] for name in named}} for named in walls]
    if "archived" in fields and "ended" in fields:
        calls.append({**needed, "archived": True, "ended": True, "shared": True})
    if row.name == "remember":
        calls += [{**needed, "id": kept.id}, {**needed, "links": [{"role": "about", "target": kept.id}]}]
    return calls


def strange(text: str, world: World, holder: Holder, sent: Any) -> set[str]:
    """Return the marks in an answer that are another's and that the caller did not send."""
    own, said = world.marks_of(holder), json.dumps(sent, ensure_ascii=False)
    return {mark for mark in world.marks - own if mark and mark in text and mark not in said}


async def dumped(world: World) -> dict[tuple[str, str, str], list[Any]]:
    """Return every version of everything, by tenant, space and id."""
    found: dict[tuple[str, str, str], list[Any]] = {}
    for tenant in TENANTS:
        for space in SPACES:
            place = None
            while True:
                page = await world.house.memory.versions(tenant=tenant, space=space, after=place)
                for record in page:
                    found.setdefault((tenant, space, record.id), []).append(as_json(record))
                if (place := page.next) is None:
                    break
    return found


async def changed_by_strangers(
    world: World, holder: Holder, before: dict[tuple[str, str, str], list[Any]]
) -> list[tuple[str, str, str]]:
    """Return what is not as it was, though this key must not reach it."""
    after = await dumped(world)
    differ = [place for place in before.keys() | after.keys() if before.get(place) != after.get(place)]
    return [place for place in differ if not holder.sees(Scope(**(before.get(place) or after[place])[0]["scope"]))]


FEW = settings(
    max_examples=3, deadline=None, derandomize=True, report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow], phases=[Phase.explicit, Phase.generate],  # an example takes seconds
)  # fmt: skip


SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
Places = Callable[[], AbstractContextManager[str]]


@contextlib.contextmanager
def in_a_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "m.db")


@pytest.fixture(scope="session", params=[SQLITE, POSTGRESQL])
def places(request: pytest.FixtureRequest) -> Places:
    """Return what gives a place for a new store. PostgreSQL knows us as an ordinary role, whom its walls hold."""
    if request.param == SQLITE:
        return in_a_folder
    postgres: Postgres = request.getfixturevalue("postgres")
    database: str = request.getfixturevalue("database")

    @contextlib.contextmanager
    def in_a_schema() -> Iterator[str]:
        schemas = Schemas(postgres, database)
        try:
            yield schemas.url()
        finally:
            schemas.drop()

    return in_a_schema


def in_a_world(
    places: Places, test: Callable[[World], Awaitable[None]], owners: list[Scope], bound: list[Grant]
) -> None:
    async def run() -> None:
        with places() as url:
            async with house(url, require=True) as home:
                world = await peopled(home, owners, bound)
                store = await home.memory._ready()
                assert (await store.check()).complaints == ()  # a role whom no wall holds is one
                try:
                    await test(world)
                finally:
                    if world.grpc is not None:
                        await world.channel.close()
                        await world.grpc.stop(0)

    asyncio.run(run())


EACH_DOOR = pytest.mark.parametrize(
    ("door", "places"), [*((door, SQLITE) for door in DOORS), (IN_TURN, POSTGRESQL)], indirect=["places"]
)

# Those that make what they name; and the tasks that wait for the log, which is one for all.
NAMING = frozenset({"remember", "begin_conversation", "get_task"})


# -- what may not happen ------------------------------------------------------------------------------------------


@EACH_DOOR
@FEW
@given(**WORLDS)
def test_no_answer_holds_anything_of_anothers(
    door: str, places: Places, owners: list[Scope], bound: list[Grant]
) -> None:
    ways = ways_in(door)

    async def test(world: World) -> None:
        for holder in world.holders:
            for kept in world.kept[::4]:
                for row in OPERATIONS.values():
                    if not row.reads:
                        continue
                    for arguments in asked_of(row, world, kept):
                        text = await next(ways)(world, holder, row.name, arguments)
                        found = strange(text, world, holder, arguments)
                        assert not found, (row.name, arguments, holder, found, text)

    in_a_world(places, test, owners, bound)


@EACH_DOOR
@FEW
@given(**WORLDS)
def test_no_write_changes_anything_of_anothers(
    door: str, places: Places, owners: list[Scope], bound: list[Grant]
) -> None:
    ways = ways_in(door)

    async def test(world: World) -> None:
        sent = list[Any]()  # what strangers wrote into their own memory comes back to them
        for holder in world.holders:
            foreign = [kept for kept in world.kept if not holder.sees(kept.scope)][:4]
            for kept in foreign:
                before = await dumped(world)
                for row in OPERATIONS.values():
                    if row.reads:
                        continue
                    for arguments in asked_of(row, world, kept):
                        sent.append(arguments)
                        text = await next(ways)(world, holder, row.name, arguments)
                        found = strange(text, world, holder, sent)
                        assert not found, (row.name, arguments, holder, found, text)
                assert await changed_by_strangers(world, holder, before) == [], (holder, kept)

    in_a_world(places, test, owners, bound)


@FEW
@given(**WORLDS)
def test_counts_are_of_what_is_seen(places: Places, owners: list[Scope], bound: list[Grant]) -> None:
    async def test(world: World) -> None:
        before = await dumped(world)
        for holder in world.holders:
            if Permit.READ not in holder.principal.permits:
                continue
            for space in sorted(holder.principal.spaces or SPACES):
                seen = [
                    versions[-1]
                    for versions in before.values()
                    if versions[-1]["scope"]["space"] == space and holder.sees(Scope(**versions[-1]["scope"]))
                ]
                async with world.house.client(holder.secret) as client:
                    said = (await ask(client, "count", {"space": space})).json()
                    assert said == {"count": len(seen)}
                    stats = (await ask(client, "stats", {"space": space})).json()
                    assert stats["records"] == len(seen)
                    assert stats["conversations"] == sum(each["kind"] == "conversation" for each in seen)
                    talks = (await ask(client, "list_conversations", {"space": space})).json()
                    assert talks["total"] == len(talks["results"]) == stats["conversations"]
                    log = (await ask(client, "changes", {"space": space, "limit": 1000})).json()["results"]
                    assert all(holder.sees(Scope(**each["scope"])) for each in log)
                    proofs = (await ask(client, "certificates", {"space": space})).json()["results"]
                    assert all(holder.sees(Scope(**each["scope"])) for each in proofs)

    in_a_world(places, test, owners, bound)


@FEW
@given(**WORLDS)
def test_what_is_anothers_and_what_is_not_there_are_answered_alike(
    places: Places, owners: list[Scope], bound: list[Grant]
) -> None:
    async def test(world: World) -> None:
        for holder in world.holders:
            foreign = [kept for kept in world.kept if not holder.sees(kept.scope)][:4]
            async with world.house.client(holder.secret) as client:
                for kept in foreign:
                    for row in OPERATIONS.values():
                        if "id" not in row.takes.model_fields or row.name in NAMING:
                            continue
                        arguments = asked_of(row, world, kept)[0]
                        absent = {**arguments, "id": "x" * len(arguments["id"])}
                        theirs, none = await ask(client, row.name, arguments), await ask(client, row.name, absent)
                        assert theirs.status_code == none.status_code, (row.name, theirs.text, none.text)
                        assert theirs.text.replace(arguments["id"], absent["id"]) == none.text
                        assert theirs.headers.keys() == none.headers.keys()

    in_a_world(places, test, owners, bound)


@FEW
@given(**WORLDS)
def test_no_other_route_tells_anything_of_anothers(places: Places, owners: list[Scope], bound: list[Grant]) -> None:
    async def test(world: World) -> None:
        sent = list[Any]()
        for holder in world.holders:
            async with world.house.client(holder.secret) as client:
                for kept in world.kept[::4]:
                    used = sorted((mark for mark in kept.marks if MARK.fullmatch(mark)), key=lambda mark: mark[-4:])
                    text, session = [*used, *["x"] * 10][0:6:5]
                    walls = {"space": kept.scope.space, "tenant": kept.scope.tenant}
                    for method, url, body in (
                        ("GET", "/api/v1/export", None),
                        ("GET", f"/api/v1/export?session={session}", None),
                        ("GET", f"/api/v1/export?space={walls['space']}&tenant={walls['tenant']}", None),
                        ("POST", "/api/v1/query", {"query": f"walnuts {text}", "limit": 100}),
                        ("POST", "/api/v1/query", {"query": "walnuts", "filters": {"conversation_id": kept.id}}),
                        ("POST", "/api/v1/query", {"query": "walnuts", "filters": {"space": walls["space"]}}),
                        ("POST", "/api/v1/search/fts", {"query": f"walnuts {text}"}),
                        ("POST", "/api/v1/search/exact", {"query": text}),
                        ("POST", "/api/v1/context/assemble", {"query": f"walnuts {text}"}),
                        ("POST", "/memory/search", {"query": "walnuts", "session_id": session}),
                        ("POST", "/memory", {"text": "a stranger", "id": kept.id, "session_id": session}),
                        ("GET", f"/sessions/{session}/history", None),
                        ("POST", "/memories/search", {"query": "walnuts"}),
                        ("GET", "/memories/1,2,3", None),
                        ("GET", "/metrics", None),
                        ("GET", "/docs", None),
                        ("GET", "/openapi.json", None),
                    ):
                        sent.append([url, body])
                        answer = await client.request(method, url, json=body)
                        assert answer.status_code < 500, answer.text
                        came = f"{answer.headers} {answer.text}"
                        found = strange(came, world, holder, sent)
                        assert not found, (method, url, body, holder, found, answer.text)

    in_a_world(places, test, owners, bound)


@FEW
@given(**WORLDS)
def test_events_are_of_what_is_seen(places: Places, owners: list[Scope], bound: list[Grant]) -> None:
    from simonides.api.operation import granted
    from simonides.api.streams import Events, events

    async def test(world: World) -> None:
        last = (await world.house.memory.position()).written
        for holder in world.holders:
            for space in sorted(holder.principal.spaces or SPACES):
                asked = Events.model_validate({"after": 0, "space": space})
                try:
                    call = granted(world.house.desk, holder.principal, asked, Permit.READ)
                except SimonidesError:
                    continue
                told = events(asked, call)
                try:
                    async with asyncio.timeout(0.5):
                        async for each in told:
                            assert holder.sees(Scope(**each["scope"])), each
                            assert not strange(json.dumps(each), world, holder, [])
                            if each["seq"] == last:
                                break
                except TimeoutError:
                    pass
                await told.aclose()  # type: ignore[attr-defined]

    in_a_world(places, test, owners, bound)


# -- without a key ------------------------------------------------------------------------------------------------


async def test_without_a_key_every_route_is_closed() -> None:
    async with house(require=True) as home, home.client() as client:
        routes = {
            (method, re.sub(r"{[^}]*}", "x", route.path))
            for route in home.made.routes
            if isinstance(route, Route)
            for method in route.methods or ()
        }
        paths = home.made.openapi()["paths"]
        routes |= {(method.upper(), re.sub(r"{[^}]*}", "x", path)) for path in paths for method in paths[path]}
        assert len(routes) > len(OPERATIONS)
        routes |= {("GET", path) for path in ("/", "/mcp", "/metrics", "/redoc", "/favicon.ico", "/nothing", "//docs")}
        routes |= {("GET", path) for path in ("/docs/", "/health/live/..", "/health/live%2f", "/docs%2f..%2fapi")}
        routes |= {(method, "/api/v1/memories") for method in ("HEAD", "OPTIONS", "TRACE", "PURGE")}
        for method, path in sorted(routes):
            answer = await client.request(method, path)
            if path in OPEN:
                assert answer.status_code == 200, path
            elif path.startswith(tuple(f"{door}/" for door in ELSEWHERE)):
                assert answer.status_code in (401, 404)
            else:
                assert answer.status_code == 401, (method, path, answer.status_code)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in OPEN:
            assert (await client.post(path)).status_code in (401, 405)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer nonsense"}, {"x-api-key": "nonsense"}, {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"}, {"x-api-key": ""}, {"authorization": ""}, {"authorization": "Bearer \xff"},
        {"cookie": "key=nonsense"}, {"x-forwarded-user": "local"},
    ],
)  # fmt: skip
async def test_a_wrong_key_opens_nothing(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with house(require=True) as home, home.client() as client:
        for url in ("/api/v1/memories", "/api/v1/export", "/sessions/x/history", "/api/v1/events"):
            assert (await client.get(url, headers=raw)).status_code == 401
