"""The table over HTTP: every row has its route, is described as it is, and does what the contract of HTTP owes."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from doors import House, ask, house, request_of

from simonides import AsyncMemory, Note, exports
from simonides.access import LOCAL, Permit
from simonides.api import OPERATIONS, Operation
from simonides.api.shapes import ADDRESSES
from simonides.record import Record, Scope, Span
from simonides.servers.problems import MEDIA_TYPE, Problem
from simonides.servers.replays import Replays, Reply
from simonides.serving import Serving

ROWS = pytest.mark.parametrize("row", OPERATIONS.values(), ids=list(OPERATIONS))
TALK = [
    {"role": "user", "content": "I am allergic to walnuts", "at": "2026-05-02T09:00:00+01:00"},
    {"role": "assistant", "content": "No walnuts, then.", "name": "Ida"},
]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "m.db") as made:
        yield made


@pytest.fixture
async def client(home: House) -> AsyncIterator[httpx.AsyncClient]:
    async with home.client() as made:
        yield made


def problem(response: httpx.Response, status: int, code: str | None = None) -> Problem:
    """Check that the answer is a problem document of that status, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    found = Problem.model_validate(response.json())
    assert found.status == status
    assert code is None or found.code == code
    assert found.detail.strip()
    return found


async def written(client: httpx.AsyncClient, content: Any = "something", **more: Any) -> Any:
    answer = await ask(client, "remember", {"content": content, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()["results"]


# -- the table and what is said of it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openapi() -> Any:
    async def made() -> Any:
        async with house() as home:
            return home.made.openapi()

    return asyncio.run(made())


def resolved(openapi: Any, schema: Any) -> Any:
    return openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


@ROWS
def test_every_row_is_described(openapi: Any, row: Operation) -> None:
    said = openapi["paths"][row.route][row.method.lower()]
    assert said["operationId"] == row.name
    assert said["summary"] == row.does.strip() and row.does.endswith(".")
    assert said["description"] == row.tells
    answer = said["responses"][str(row.status)]["content"]["application/json"]["schema"]
    assert answer["$ref"].endswith(row.gives.__name__)
    for status in ("401", "403", "404", "422", "429", "500", "503", "504"):
        assert said["responses"][status]["content"] == {
            MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
    assert said["security"]
    names = {parameter["name"] for parameter in said.get("parameters", ())}
    assert ("Idempotency-Key" in names) == (not row.reads)
    assert ("fields" in names) == row.reads
    body = said.get("requestBody")
    assert (body is not None) == (row.method in ("POST", "PUT", "PATCH"))
    if body and body.get("required"):
        [content] = body["content"].values()
        example = content["example"]
        path = dict.fromkeys(re.findall(r"{(\w+)}", row.path), "01890a5d-ac96-774b-bcce-b302099a8057")
        row.read({**example, **path})


@ROWS
def test_what_a_row_reads_is_read_by_its_method(row: Operation) -> None:
    assert row.reads or row.method != "GET"
    assert not (
        row.reads and (row.destroys or (row.needs is not Permit.READ and not row.whole and row.name[-4:] != "keys"))
    )


# Arguments for a real call of each, made from a record, a conversation and a key that are there.
CALLS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "remember": lambda ids: {"content": TALK, "session": "kitchen", "user": "ana", "wait": "stored"},
    "find": lambda ids: {"user": "ana", "kinds": ["message", "note"], "limit": 1, "metadata": {"n": 1}},
    "count": lambda ids: {"labels": ["food"], "archived": True},
    "versions": lambda ids: {"limit": 2},
    "get": lambda ids: {"id": ids["record"]},
    "history": lambda ids: {"id": ids["record"]},
    "messages": lambda ids: {"id": ids["talk"]},
    "revise": lambda ids: {"id": ids["record"], "text": "otherwise", "wait": "stored"},
    "organise": lambda ids: {"id": ids["talk"], "labels": ["home"], "folder": "private"},
    "supersede": lambda ids: {"id": ids["record"], "content": "now this"},
    "retract": lambda ids: {"id": ids["record"]},
    "forget": lambda ids: {"ids": [ids["record"]], "dry_run": True},
    "erase": lambda ids: {"id": ids["record"]},
    "certificates": lambda ids: {},
    "recall": lambda ids: {"text": "walnuts", "explain": True},
    "recall_many": lambda ids: {"texts": ["walnuts", "allergic"]},
    "explain_missing": lambda ids: {"id": ids["record"], "text": "walnuts"},
    "context": lambda ids: {"text": "walnuts", "budget": 100},
    "begin_conversation": lambda ids: {"title": "Supper", "messages": TALK, "id": "supper"},
    "append_messages": lambda ids: {"id": ids["talk"], "messages": TALK},
    "list_conversations": lambda ids: {"limit": 1},
    "count_conversations": lambda ids: {"label": "food"},
    "get_conversation": lambda ids: {"id": ids["talk"], "messages": True},
    "similar_conversations": lambda ids: {"id": ids["talk"]},
    "export_conversation": lambda ids: {"id": ids["talk"], "format": "markdown"},
    "label_conversation": lambda ids: {"id": ids["talk"], "label": "home", "folder": "/private"},
    "file_conversation": lambda ids: {"id": ids["talk"], "folder": ""},
    "pin_conversation": lambda ids: {"id": ids["talk"]},
    "unpin_conversation": lambda ids: {"id": ids["talk"]},
    "archive_conversation": lambda ids: {"id": ids["talk"]},
    "unarchive_conversation": lambda ids: {"id": ids["talk"]},
    "erase_conversation": lambda ids: {"id": ids["talk"]},
    "stats": lambda ids: {},
    "propose_prune": lambda ids: {"threshold_days": 0, "limit": 5},
    "prune": lambda ids: {"ids": [ids["talk"]], "dry_run": True},
    "changes": lambda ids: {"limit": 2},
    "position": lambda ids: {},
    "get_task": lambda ids: {"id": "log-1"},
    "doctor": lambda ids: {},
    "status": lambda ids: {},
    "letters": lambda ids: {"limit": 1},
    "replay_letters": lambda ids: {},
    "drop_letters": lambda ids: {"follower": "nobody"},
    "rebuild": lambda ids: {},
    "make_key": lambda ids: {"name": "an agent", "permits": ["read"]},
    "list_keys": lambda ids: {"limit": 1},
    "revoke_key": lambda ids: {"id": ids["key"]},
    "health": lambda ids: {},
    "capabilities": lambda ids: {},
}  # fmt: skip


@ROWS
async def test_every_row_answers_as_it_says(home: House, client: httpx.AsyncClient, row: Operation) -> None:
    assert row.name in CALLS, f"say in CALLS how {row.name} is called"
    [record] = await written(client, "walnuts and figs", user="ana", metadata={"n": 1})
    talk = (await ask(client, "begin_conversation", {"title": "Kitchen", "messages": TALK, "label": "food"})).json()
    await ask(client, "begin_conversation", {"title": "Larder", "messages": TALK, "label": "food"})
    made = (await ask(client, "make_key", {"name": "old"})).json()
    ids = {"record": record["id"], "talk": talk["id"], "key": made["key"]["id"]}
    answer = await ask(client, row.name, CALLS[row.name](ids))
    assert answer.status_code in {row.status, 202}, answer.text
    assert answer.headers["content-type"] == "application/json"
    row.gives.model_validate_json(answer.content, strict=True)


@ROWS
async def test_what_no_row_takes_is_refused(client: httpx.AsyncClient, row: Operation) -> None:
    asked = request_of(row, {**CALLS[row.name]({"record": "x", "talk": "x", "key": "x"}), "bogus": "1"})
    assert "bogus" in problem(await client.request(**asked), 422, "invalid").detail
    asked = request_of(row, CALLS[row.name]({"record": "x", "talk": "x", "key": "x"}))
    asked["params"] = {**asked["params"], "bogus": "1"}
    assert "bogus" in problem(await client.request(**asked), 422, "invalid").detail


async def test_the_server_asked_for_keys_says_so(home: House) -> None:
    async with house(require=True) as strict:
        said = strict.made.openapi()
        assert {} not in said["paths"]["/api/v1/memories"]["get"]["security"]
        assert "security" not in said["paths"]["/health/live"]["get"]
        assert set(said["components"]["securitySchemes"]) == {"Bearer", "X-API-Key"}
    assert {} in home.made.openapi()["paths"]["/api/v1/memories"]["get"]["security"]


# -- fields, sort, pages ------------------------------------------------------------------------------------------


async def test_only_the_fields_asked_for_come(client: httpx.AsyncClient) -> None:
    [record] = await written(client, "walnuts", user="ana")
    found = (await client.get("/api/v1/memories", params={"fields": "id,scope.user"})).json()
    assert found == {"results": [{"id": record["id"], "scope": {"user": "ana"}}], "next": None}
    found = (await client.get(f"/api/v1/memories/{record['id']}", params={"fields": " text , version"})).json()
    assert found == {"text": "walnuts", "version": 1}
    found = (await client.post("/api/v1/recall", params={"fields": "record.text"}, json={"text": "walnuts"})).json()
    assert found["hits"] == [{"record": {"text": "walnuts"}}]
    for fields in ("nothing", "text.x", "", ",", "scope.nothing", "id..", "scope.user.x"):
        problem(await client.get("/api/v1/memories", params={"fields": fields}), 422, "invalid")


async def test_what_is_asked_of_no_result_is_still_checked(client: httpx.AsyncClient) -> None:
    problem(await client.get("/api/v1/memories", params={"fields": "nothing"}), 422, "invalid")


async def test_pages_hold_everything_once_though_it_is_erased_meanwhile(client: httpx.AsyncClient) -> None:
    ids = [(await written(client, f"note {n}", wait="stored" if n else "indexed"))[0]["id"] for n in range(1)]
    ids += [each["id"] for each in await written(client, [f"note {n}" for n in range(1, 30)])]
    for sort in ("newest", "id"):
        seen, after, gone = list[str](), None, set[str]()
        while True:
            more = {"after": after} if after else {}
            page = (await ask(client, "find", {"limit": 4, "sort": sort, **more})).json()
            seen += [each["id"] for each in page["results"]]
            if (after := page["next"]) is None:
                break
            assert (await ask(client, "erase", {"id": seen[-1]})).status_code == 200
            gone.add(seen[-1])
        assert seen == sorted(ids, reverse=sort == "newest")
        ids = [id for id in ids if id not in gone]
    problem(await client.get("/api/v1/memories", params={"after": "nonsense"}), 422, "invalid")


# -- versions -----------------------------------------------------------------------------------------------------


async def test_certificates_come_in_pages() -> None:
    async with house() as home, home.client() as client:
        for number in range(3):
            [kept] = (await ask(client, "remember", {"content": f"text {number}"})).json()["results"]
            await ask(client, "erase", {"id": kept["id"]})
        first = (await ask(client, "certificates", {"limit": 2})).json()
        last = (await ask(client, "certificates", {"limit": 2, "after": first["next"]})).json()
        assert (len(first["results"]), len(last["results"]), last["next"]) == (2, 1, None)
        everything = (await ask(client, "certificates", {})).json()
        assert everything == {"results": [*first["results"], *last["results"]], "next": None}
        assert (await ask(client, "certificates", {"after": "nobody"})).status_code == 404


async def test_an_etag_guards_what_it_was_read_from(client: httpx.AsyncClient) -> None:
    [record] = await written(client, "one")
    url = f"/api/v1/memories/{record['id']}"
    got = await client.get(url)
    assert got.headers["etag"] == '"1"'
    for known in ('"1"', 'W/"1"', '"7", "1"', "*"):
        same = await client.get(url, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", '"1"')
    new = await client.patch(url, json={"text": "two"}, headers={"If-Match": '"1"'})
    assert (new.status_code, new.headers["etag"]) == (200, '"2"')
    assert (await client.get(url, headers={"If-None-Match": '"1"'})).status_code == 200
    problem(await client.patch(url, json={"text": "three"}, headers={"If-Match": '"1"'}), 412, "conflict")
    problem(await client.patch(url, json={"text": "three", "version": 1}), 409, "conflict")
    problem(await client.patch(url, json={"text": "three"}, headers={"If-Match": "2"}), 422, "invalid")
    assert (await client.patch(url, json={"text": "three"}, headers={"If-Match": "*"})).status_code == 200
    assert (await client.get(url)).json()["version"] == 3


async def test_of_many_who_revise_one_version_one_wins(client: httpx.AsyncClient) -> None:
    [record] = await written(client, "one")
    url = f"/api/v1/memories/{record['id']}"
    answers = await asyncio.gather(
        *(client.patch(url, json={"text": f"two {n}"}, headers={"If-Match": '"1"'}) for n in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    assert (await client.get(url)).json()["version"] == 2


# -- the same write twice -----------------------------------------------------------------------------------------


async def test_a_marked_write_is_done_once_and_answered_again(home: House, client: httpx.AsyncClient) -> None:
    mark = {"Idempotency-Key": "once"}
    first = await ask(client, "remember", {"content": "one"}, headers=mark)
    again = await ask(client, "remember", {"content": "one"}, headers=mark)
    assert first.json() == again.json() and first.status_code == again.status_code == 201
    assert "idempotency-replayed" not in first.headers and again.headers["idempotency-replayed"] == "true"
    problem(await ask(client, "remember", {"content": "two"}, headers=mark), 422, "invalid")
    problem(await ask(client, "supersede", {"id": "x", "content": "one"}, headers=mark), 422, "invalid")
    problem(await ask(client, "remember", {"content": "x"}, headers={"Idempotency-Key": " "}), 422, "invalid")
    problem(await ask(client, "remember", {"content": "x"}, headers={"Idempotency-Key": "x" * 201}), 422, "invalid")
    assert await home.memory.count() == 1


async def test_many_at_once_with_one_mark_are_one_write(home: House, client: httpx.AsyncClient) -> None:
    asked = {"content": TALK, "session": "kitchen"}
    answers = await asyncio.gather(
        *(ask(client, "remember", asked, headers={"Idempotency-Key": "once"}) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert await home.memory.count(kinds=["message"]) == 2


async def test_a_mark_outlives_the_server(tmp_path: Path) -> None:
    ids = set[str]()
    for _ in range(2):
        async with house(tmp_path / "kept.db") as home, home.client() as client:
            for name, asked in (
                ("remember", {"content": ["a", "b"]}),
                ("remember", {"content": TALK, "session": "kitchen"}),
                ("begin_conversation", {"title": "Supper", "messages": TALK}),
            ):
                headers = {"Idempotency-Key": f"mark of {name} {asked.get('session')}"}
                assert (await ask(client, name, asked, headers=headers)).status_code == 201
            ids |= {record.id for record in await home.memory.find()}
            assert await home.memory.count() == len(ids) == 2 + 3 + 3


async def test_two_keys_may_use_the_same_mark(home: House) -> None:
    keys = [await home.key(), await home.key()]
    for number, key in enumerate(keys):
        async with home.client(key) as client:
            asked = {"content": f"note {number}"}
            assert (await ask(client, "remember", asked, headers={"Idempotency-Key": "1"})).status_code == 201
    assert await home.memory.count() == 2


async def test_a_retried_erase_is_answered_with_its_certificate(home: House, client: httpx.AsyncClient) -> None:
    [record] = await written(client, "gone soon")
    mark = {"Idempotency-Key": "erase"}
    first = await ask(client, "erase", {"id": record["id"]}, headers=mark)
    again = await ask(client, "erase", {"id": record["id"]}, headers=mark)
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert first.json()["certificate"]["ids"] == [record["id"]]


async def test_an_erase_at_any_door_leaves_no_answer_behind(home: House, client: httpx.AsyncClient) -> None:
    mark = {"Idempotency-Key": "kept"}
    asked = {"content": "a secret of mine", "id": "mine"}
    for erase in (
        lambda: ask(client, "erase", {"id": "mine"}),
        lambda: OPERATIONS["erase"](home.desk, LOCAL, {"id": "mine"}),
    ):
        assert (await ask(client, "remember", asked, headers=mark)).status_code == 201
        assert await ask(client, "forget", {"ids": ["mine"], "dry_run": True}, headers={"Idempotency-Key": "dry"})
        await erase()
        answer = await ask(client, "remember", asked, headers=mark)
        assert "idempotency-replayed" not in answer.headers
        await ask(client, "erase", {"id": "mine"})


async def test_a_failure_is_not_kept(home: House, client: httpx.AsyncClient) -> None:
    mark = {"Idempotency-Key": "late"}
    asked = {"id": "later", "content": "now this"}
    problem(await ask(client, "supersede", asked, headers=mark), 404, "not_found")
    await written(client, "before", id="later")
    assert (await ask(client, "supersede", asked, headers=mark)).status_code == 201


async def test_who_waited_for_a_call_that_was_cut_off_does_it_himself() -> None:
    replays, begun, done, said = Replays(), asyncio.Event(), list[int](), Reply(b"done", 200)

    async def never() -> Any:
        begun.set()
        await asyncio.Event().wait()

    async def work() -> Reply:
        done.append(1)
        return said

    first = asyncio.create_task(replays.once("ana", "mark", b"", never))
    await begun.wait()
    others = [asyncio.create_task(replays.once("ana", "mark", b"", work)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    answers = await asyncio.gather(*others)
    assert sorted(replayed for reply, replayed in answers if reply is said) == [False, True, True] and done == [1]


# -- later --------------------------------------------------------------------------------------------------------


async def test_what_is_stored_and_not_indexed_yet_has_a_task_that_ends(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "remember", {"content": "walnuts", "wait": "stored"})
    said = answer.json()
    assert (answer.status_code, said["indexed"]) in {(202, False), (201, True)}
    if said["task"]:
        async with asyncio.timeout(20):
            while (task := (await ask(client, "get_task", {"id": said["task"]})).json())["status"] != "done":
                assert task["status"] == "running"
    assert (await ask(client, "stats", {})).json()["indexed"]


async def test_a_write_that_cannot_be_indexed_is_accepted(tmp_path: Path) -> None:
    class Slow:
        name, dimension = "slow:", 4

        def __init__(self) -> None:
            self.free = asyncio.Event()

        async def embed(self, texts: Any, **_: Any) -> Any:
            import numpy

            await self.free.wait()
            return numpy.ones((len(texts), 4), "f4")

        def tokens(self, text: str) -> int:
            return len(text.split())

        def clear_cache(self) -> None: ...

        async def close(self) -> None: ...

    slow = Slow()
    async with house(tmp_path / "slow.db", embedder=slow) as home, home.client() as client:
        answer = await ask(client, "remember", {"content": "walnuts", "wait": "stored"})
        assert answer.status_code == 202
        task = answer.json()["task"]
        assert (await ask(client, "get_task", {"id": task})).json()["status"] == "running"
        slow.free.set()
        await home.memory.settle()
        assert (await ask(client, "get_task", {"id": task})).json()["status"] == "done"


async def test_a_rebuild_is_a_task_of_whoever_began_it(home: House) -> None:
    admin = await home.key(permits=Permit.of(["admin", "read"]))
    other = await home.key(permits=Permit.of(["admin", "read"]))
    async with home.client(admin) as client:
        task = (await ask(client, "rebuild", {})).json()
        await home.desk.tasks.ended()
        assert (await ask(client, "get_task", {"id": task["id"]})).json()["status"] == "done"
    async with home.client(other) as client:
        problem(await ask(client, "get_task", {"id": task["id"]}), 404, "not_found")


# -- whose --------------------------------------------------------------------------------------------------------


async def test_a_scope_is_named_in_every_call_and_never_outgrows_the_key(home: House) -> None:
    key = await home.key(user="ana", spaces=frozenset({"main", "work"}))
    async with home.client(key) as ana, home.client() as local:
        [record] = await written(ana, "mine", space="work")
        assert (record["scope"]["user"], record["scope"]["space"]) == ("ana", "work")
        assert (await ask(ana, "find", {})).json()["results"] == []
        assert len((await ask(ana, "find", {"space": "work"})).json()["results"]) == 1
        for asked in ({"user": "bo"}, {"space": "else"}, {"tenant": "else"}):
            problem(await ask(ana, "find", asked), 403, "forbidden")
            problem(await ask(ana, "remember", {"content": "x", **asked}), 403, "forbidden")
        problem(await ask(ana, "get", {"id": record["id"]}), 404, "not_found")
        problem(await ask(ana, "erase", {"id": record["id"], "space": "work"}), 403, "forbidden")
        assert (await ask(local, "count", {"space": "work", "user": "ana"})).json() == {"count": 1}
        assert (await ask(local, "count", {"space": "work", "user": "bo", "shared": False})).json() == {"count": 0}


# -- what a client may send, and no answer is 5xx -----------------------------------------------------------------

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b'"text"', b"[]", b"null", b"1", b"NaN", b"\x00", b'{"content": "\xff"}',
        b'{"content": ' * 100_000, b"[" * 100_000 + b"]" * 100_000,
        b'{"content": "x", "metadata": ' + b'{"a":' * 50 + b"1" + b"}" * 50 + b"}",
        b'{"content": "x", "metadata": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b'{"content": "x", "metadata": {"n": ' + b"9" * 5000 + b"}}",
        b'{"content": "x", "metadata": {"n": ' + b"9" * 30 + b"}}",
        b'{"content": "x", "metadata": {"n": NaN}}', b'{"content": "x", "metadata": {"n": 1e999}}',
        b'{"content": "x", "metadata": {"n": "\\ud800"}}', b'{"content": "x", "metadata": {"\\ud800": 1}}',
        b'{"content": "\\ud800"}', b'{"content": "x", "\\ud800": 1}', b'{"content": "x", "user": "\\ud800"}',
        b'{"content": "x", "id": "a\\u0000b"}', b'{"content": "x", "user": "\\u0000"}', b'{"content": "x", "user": ""}',
        b'{"content": "x", "user": "*"}', b'{"content": {"kind": "fact", "body": {"\\ud800": "x"}}}',
        b'{"content": {"kind": "fact", "body": {"nothing": "x"}}}', b'{"content": {"kind": "note", "body": {}}}',
        b'{"content": {"kind": "message", "body": {"text": "x", "role": null}}}',
        b'{"content": [], "user": "ana"}', b'{"content": [[["x"]]]}', 
        b'{"content": [{"content": [{"type": "image"}]}]}',
        b'{"content": "x", "at": "9999-12-31T23:59:59-14:00"}', b'{"content": "x", "at": "2026-13-45"}',
        b'{"content": "x", "importance": 11}', b'{"content": "x", "importance": true}',
        b'{"content": "x", "importance": 1.5}',
        b'{"content": "x", "folder": "../x"}', b'{"content": "x", "links": [{"role": "x", "target": "nothing"}]}',
        b'{"content": "x", "part_of": "nothing"}', b'{"content": " "}', b'{"content": "x", "wait": "stored"}',
    ],
)  # fmt: skip
async def test_no_body_breaks_the_door(home: House, client: httpx.AsyncClient, content: bytes) -> None:
    for url in ("/api/v1/memories", "/api/v1/conversations", "/api/v1/recall", "/memory", "/memories"):
        answer = await client.post(url, content=content, headers={**JSON, "Idempotency-Key": "x"})
        if url.endswith("/conversations") and content in (b"", b"null"):
            assert answer.status_code == 201  # one with nothing in it yet
            continue
        problem(answer, answer.status_code)
        assert answer.status_code in {404, 413, 422}
    assert await home.memory.count(kinds=["note", "message", "fact"]) == 0


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", "1", "null", '"x"', "{}", '{"a": [1]}', '{"a": {}}', "[" * 5000, '{"a":' * 1500, '{"a": "\\ud800"}',
     '{"a": NaN}', '{"\\ud800": 1}', '{"a": ' + "9" * 400 + "}", '{"a": ' + "9" * 5000 + "}", '{"a": 1e999}'],
)  # fmt: skip
async def test_no_metadata_in_the_url_breaks_the_door(client: httpx.AsyncClient, metadata: str) -> None:
    for name in ("find", "count", "list_conversations"):
        asked = {**request_of(OPERATIONS[name], {}), "params": {"metadata": metadata}}
        answer = await client.request(**asked)
        assert answer.status_code in {200, 422}, answer.text
        if answer.status_code == 422:
            problem(answer, 422, "invalid")


@pytest.mark.parametrize(
    "type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
        "",
        "application/xml",
    ],
)
async def test_another_media_type_is_refused(client: httpx.AsyncClient, type: str) -> None:
    headers = {"content-type": type}
    for url in ("/api/v1/memories", "/api/v1/recall", "/api/v1/conversations", "/memory"):
        answer = await client.post(url, content=b'{"content": "x", "text": "x"}', headers=headers)
        problem(answer, 415, "media_type")


@pytest.mark.parametrize(
    "path",
    ["%00", "%ff%fe", "%0a", "a%2f%2e%2e%2fb", "..%2f..%2fhealth", "%ef%b7%90", "x" * 5000, "%", "%zz", "a%2Fb", "é"],
)
async def test_no_path_breaks_the_door(client: httpx.AsyncClient, path: str) -> None:
    for under in ("memories", "conversations", "tasks", "keys", "nothing"):
        for method in ("GET", "DELETE", "PATCH"):
            answer = await client.request(method, f"/api/v1/{under}/{path}", json={} if method == "PATCH" else None)
            problem(answer, answer.status_code)
            assert answer.status_code in {404, 405, 422}


@pytest.mark.parametrize(
    "query",
    ["user=a&user=b", "limit=1&limit=2", "limit=x", "limit=", "limit=1e3", "user=%00", "user=%ff", "archived=maybe",
     "kinds=", "kinds=x&kinds=note", "after=%00", "&&&==&", "after=" + "x" * 999, "since=2026",
     "labels=" + "&labels=".join("x" * 101)],
)  # fmt: skip
async def test_no_query_breaks_the_door(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/api/v1/memories?{query}")
    assert answer.status_code in {200, 422}
    if answer.status_code == 422:
        problem(answer, 422, "invalid")


async def test_a_scope_named_twice_is_refused(client: httpx.AsyncClient) -> None:
    for query in ("user=ana&user=bo", "space=a&space=b", "limit=1&limit=2", "metadata={}&metadata={}"):
        problem(await client.get(f"/api/v1/memories?{query}"), 422, "invalid")


async def test_another_method_is_told_which_there_are(client: httpx.AsyncClient) -> None:
    for method in ("PUT", "TRACE", "OPTIONS", "PROPFIND"):
        answer = await client.request(method, "/api/v1/memories")
        problem(answer, 405, "method")
        assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}


async def test_head_is_get_without_what_it_says(client: httpx.AsyncClient) -> None:
    [record] = await written(client, "x")
    got, head = await client.get(url := f"/api/v1/memories/{record['id']}"), await client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type"):
        assert head.headers[name] == got.headers[name]
    assert (await client.head("/api/v1/memories/nothing")).status_code == 404


async def test_a_call_that_takes_too_long_is_told_so(tmp_path: Path) -> None:
    async with house(tmp_path / "m.db") as home, home.client() as client:
        home.desk.serving = Serving(seconds_max=0.001)
        answer = await ask(client, "recall", {"text": "x"})
        assert problem(answer, 504, "timeout").retryable


async def test_fifty_writers_with_keys_lose_nothing_and_mix_nothing_up(tmp_path: Path) -> None:
    async with house(tmp_path / "m.db", require=True) as home:
        keys = [await home.key(user=f"user-{n}") for n in range(50)]

        async def write(number: int) -> None:
            async with home.client(keys[number]) as client:
                for turn in range(4):
                    asked = {"content": f"note {number} {turn}", "wait": "stored"}
                    answer = await ask(client, "remember", asked, headers={"Idempotency-Key": str(turn)})
                    assert answer.status_code in {201, 202}

        await asyncio.gather(*map(write, range(50)))
        for number, key in enumerate(keys):
            async with home.client(key) as client:
                found = (await ask(client, "find", {"sort": "id"})).json()["results"]
                assert {each["text"] for each in found} == {f"note {number} {turn}" for turn in range(4)}


# -- streams ------------------------------------------------------------------------------------------------------


async def test_an_import_refuses_what_it_cannot_read(client: httpx.AsyncClient) -> None:
    for content in (b"", b"\xff" * 1000, b"not json", b"{" * 100_000, b"\x00" * 1000, b'{"format": "x"}\n'):
        answer = await client.post("/api/v1/import", content=content)
        assert answer.status_code in {200, 201, 202, 422}, answer.text
        if answer.status_code == 422:
            problem(answer, 422, "invalid")


async def test_an_export_refuses_what_it_does_not_take(client: httpx.AsyncClient) -> None:
    for query in (
        "metadata=[",
        "metadata=[]",
        'metadata={"a":[]}',
        "kinds=nothing",
        "since=yesterday",
        "bogus=1",
        "labels=",
    ):
        problem(await client.get(f"/api/v1/export?{query}"), 422, "invalid")
    got = await client.get("/api/v1/export")
    assert got.headers["content-type"].startswith("application/x-ndjson")
    assert json.loads(got.text.splitlines()[0])


@pytest.mark.parametrize("url", ["/api/v1/memories", "/api/v1/import", "/api/v1/conversations"])
async def test_who_hangs_up_in_the_middle_of_a_body_has_written_nothing(home: House, url: str) -> None:
    before = set(Path(tempfile.gettempdir()).glob("simonides-import-*"))
    coming = [
        {"type": "http.request", "body": b'{"content": "half of', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = list[Any]()

    async def receive() -> Any:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": url, "raw_path": url.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json")], "client": ("127.0.0.1", 1), "server": ("memory.test", 80),
    }  # fmt: skip
    await home.made(scope, receive, send)
    assert all(message.get("status", 400) < 500 for message in sent), sent
    assert await home.memory.count() == 0
    assert set(Path(tempfile.gettempdir()).glob("simonides-import-*")) <= before


# -- what others erase, and others' ids ---------------------------------------------------------------------------


async def test_an_answer_is_forgotten_once_another_process_has_erased_something(tmp_path: Path) -> None:
    mark, gone = {"Idempotency-Key": "1"}, {"Idempotency-Key": "2"}
    async with house(tmp_path / "m.db") as made, AsyncMemory(tmp_path / "m.db", embedder="hashing:") as other:
        replays: Replays = made.made.state.replays
        async with made.client() as client:
            for id in ("a", "b", "c"):
                await written(client, f"the mark of {id}", id=id)
            assert (await ask(client, "forget", {"ids": ["b"]}, headers=gone)).status_code == 200
            first = await ask(client, "remember", {"content": "xylophone"}, headers=mark)
            again = await ask(client, "remember", {"content": "xylophone"}, headers=mark)
            assert again.headers["idempotency-replayed"] == "true"
            await other.remember("what others write changes nothing")
            again = await ask(client, "remember", {"content": "xylophone"}, headers=mark)
            assert again.headers["idempotency-replayed"] == "true"
            await other.forget(first.json()["results"][0]["id"])
            await ask(client, "remember", {"content": "another"}, headers={"Idempotency-Key": "3"})
            assert not any(b"xylophone" in each.coming.result().content for each in replays._all.values())
            again = await ask(client, "remember", {"content": "xylophone"}, headers=mark)
            assert again.status_code == 201 and "idempotency-replayed" not in again.headers
            certificate = await ask(client, "forget", {"ids": ["b"]}, headers=gone)
            assert certificate.json()["certificate"]["count"] == 1
            assert certificate.headers["idempotency-replayed"] == "true"


async def test_whose_a_taken_id_is_cannot_be_told(home: House) -> None:
    ana, rui = await home.key(user="ana"), await home.key(user="rui")
    async with home.client(ana) as client:
        await written(client, "Rui must not know of this", id="hers")
    async with home.client(rui) as client:
        await written(client, "mine", id="mine")
        for send in (
            lambda id: ask(client, "remember", {"content": "something else", "id": id}),
            lambda id: client.post("/api/v1/import", content=crafted(id, 1)),
            lambda id: client.post("/api/v1/import", content=crafted(id, 3)),
        ):
            taken, own = await send("hers"), await send("mine")
            assert taken.status_code == own.status_code == 409
            told = [{**answer.json(), "request_id": ""} for answer in (taken, own)]
            assert json.dumps(told[0]).replace("hers", "mine") == json.dumps(told[1])
        problem(await ask(client, "get", {"id": "hers"}), 404, "not_found")


def crafted(id: str, version: int) -> bytes:
    """Return an export that somebody has made up: a version of a record of that id."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    scope = Scope(tenant="default", space="main", user="rui")
    record = Record(id=id, scope=scope, body=Note(text="made up"), version=version, known=Span(since=at))
    return exports.header() + b"\n" + exports.line(record) + b"\n"


@pytest.mark.parametrize("id", ["count", "versions"])
async def test_an_id_that_is_an_address_is_refused(client: httpx.AsyncClient, id: str) -> None:
    for name, said in (
        ("remember", {"content": "x", "id": id}),
        ("begin_conversation", {"label": "x", "id": id}),
        ("begin_conversation", {"label": "x", "messages": [{"content": "x", "id": id}]}),
    ):
        assert "choose another id" in problem(await ask(client, name, said), 422, "invalid").detail
    problem(await ask(client, "remember", {"content": [{"content": "x", "id": id}]}), 422, "invalid")


def test_what_stands_at_the_place_of_an_id_is_known() -> None:
    addresses = set()
    for row in OPERATIONS.values():
        pattern = re.sub(r"{\w+}", "[^/]+", row.path)
        others = [each for each in OPERATIONS.values() if each.method == row.method and "{" not in each.path]
        addresses |= {
            each.path.rpartition("/")[2] for each in others if "{" in row.path and re.fullmatch(pattern, each.path)
        }
    assert addresses == set(ADDRESSES)


async def test_models_have_names_of_their_own_in_openapi(client: httpx.AsyncClient) -> None:
    names = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert "Found" in names and not [name for name in names if "__" in name]
