"""The routes that clients of three other memories know: their shapes, and what went wrong with them elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from simonides import AsyncMemory
from simonides.access import EVERYTHING
from simonides.api import Desk, conversations
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.servers import streams
from simonides.servers.gate import Gate
from simonides.servers.http import app
from simonides.servers.seeds import layer, sekha, soma

V1 = "/api/v1"
OLD = "2024-03-01"
ODD = [
    'say "when"', '"', "''", "NEAR(a b)", "a AND NOT b", "walnut*", "-walnuts", "col:walnuts", "(", "🥜 allergic?",
    "%", "\\", "é" * 5000, "a\u0000b", "SELECT * FROM records; --", "…", "日本語のクルミ",
]  # fmt: skip


@dataclasses.dataclass
class House:
    """A server without a socket: what each caller asks goes through the whole application."""

    memory: AsyncMemory
    clients: dict[str, httpx.AsyncClient]

    def __getattr__(self, name: str) -> httpx.AsyncClient:
        return self.clients[name]


@pytest.fixture
async def house(home: Path) -> AsyncIterator[House]:
    memory = AsyncMemory("me.db", settled=False, embedder="hashing:")
    directory = MemoryDirectory()
    gate = Gate(directory, require=True)
    desk = Desk(memory, directory)
    made = app(desk, gate, more=[sekha.mount, layer.mount, soma.mount, streams.mount])

    def client(headers: dict[str, str]) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(made, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://house", headers=headers, timeout=120)

    clients = {"nobody": client({})}
    for name in ("ana", "bo", "operator"):
        user = None if name == "operator" else name
        _, secret = await directory.make(Grant(name=name, tenant="default", user=user, permits=EVERYTHING))
        clients[name] = client({"X-API-Key": secret} if name == "bo" else {"Authorization": f"Bearer {secret}"})
    yield House(memory, clients)
    for each in clients.values():
        await each.aclose()
    await gate.close()
    await memory.close()


def fine(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def refused(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    return response.json()


async def begun(client: httpx.AsyncClient, **more: Any) -> Any:
    said = [{"role": "user", "content": "I am allergic to walnuts"}, {"role": "assistant", "content": "No walnuts."}]
    asked = {"label": "health", "folder": "/private", "messages": said, **more}
    return fine(await client.post(f"{V1}/conversations", json=asked), 201)


async def queried(client: httpx.AsyncClient, query: str = "walnuts", **more: Any) -> list[Any]:
    return list(fine(await client.post(f"{V1}/query", json={"query": query, **more}))["results"])


# -- the first: conversations -------------------------------------------------------------------------------------


async def test_a_conversation_is_stored_shown_listed_and_counted(house: House) -> None:
    made = await begun(house.ana)
    shape = {"id", "conversation_id", "label", "folder", "status", "message_count", "created_at"}
    assert shape <= made.keys() and made["id"] == made["conversation_id"]
    assert (made["label"], made["folder"], made["status"], made["message_count"]) == ("health", "private", "active", 2)
    shown = fine(await house.ana.get(f"{V1}/conversations/{made['id']}"))
    assert {name: shown[name] for name in shape} == {name: made[name] for name in shape}
    await begun(house.ana, label="travel", folder="")
    listed = fine(await house.ana.get(f"{V1}/conversations"))
    assert {"results", "total", "page", "page_size"} <= listed.keys()
    assert (listed["total"], listed["page"], listed["page_size"]) == (2, 1, 50)
    first = listed["results"][-1]
    assert first["message_id"] == "00000000-0000-0000-0000-000000000000" and first["score"] == 1.0
    assert first["content"] == first["label"] == "health"
    for asked, count in (({}, 2), ({"label": "health"}, 1), ({"folder": "/private"}, 1), ({"label": "none"}, 0)):
        counted = fine(await house.ana.get(f"{V1}/conversations/count", params=asked))
        assert counted["count"] == count and {"label", "folder"} <= counted.keys()
        assert fine(await house.ana.get(f"{V1}/conversations", params=asked))["total"] == count, asked


async def test_pages_hold_everything_once(house: House) -> None:
    ids = {(await begun(house.ana, label=f"n{n}"))["id"] for n in range(7)}
    found = []
    for number in (1, 2, 3, 4):
        page = fine(await house.ana.get(f"{V1}/conversations", params={"page": number, "page_size": 3}))
        assert (page["page"], page["page_size"], page["total"]) == (number, 3, 7)
        found += [each["id"] for each in page["results"]]
    assert len(found) == 7 and set(found) == ids
    refused(await house.ana.get(f"{V1}/conversations", params={"page": 0}), 422)
    refused(await house.ana.get(f"{V1}/conversations", params={"page_size": 0}), 422)


async def test_whoever_counts_pages_comes_to_the_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "PAGE", 2)  # a store gives 10,000 at once
    ids = {(await begun(house.ana, label=f"n{n}", messages=[]))["id"] for n in range(7)}
    pages = [
        fine(await house.ana.get(f"{V1}/conversations", params={"page": number, "page_size": 3}))
        for number in (1, 2, 3, 4, 9_999)
    ]
    assert [len(page["results"]) for page in pages] == [3, 3, 1, 0, 0]
    assert {each["id"] for page in pages for each in page["results"]} == ids
    assert [page["next"] is None for page in pages] == [False, False, True, True, True]


async def test_a_conversation_is_shown_and_exported_to_its_beginning(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "PAGE", 2)
    said = [{"role": "user", "content": f"line {n}"} for n in range(5)]
    url = f"{V1}/conversations/{(await begun(house.ana, messages=said))['id']}"
    for archived in (False, True):
        if archived:
            fine(await house.ana.put(f"{url}/archive"))
        exported = fine(await house.ana.get(f"{url}/export"))["messages"]
        shown = fine(await house.ana.get(url, params={"messages": True}))["messages"]
        assert exported == shown and [each["text"] for each in shown] == [f"line {n}" for n in range(5)]
    assert "line 0" in fine(await house.ana.get(f"{url}/export", params={"format": "markdown"}))["text"]


async def test_a_folder_leaves_the_label_alone_and_a_label_the_folder(house: House) -> None:
    id = (await begun(house.ana))["id"]
    fine(await house.ana.put(f"{V1}/conversations/{id}/folder", json={"folder": "/jobs/bridge"}))
    shown = fine(await house.ana.get(f"{V1}/conversations/{id}"))
    assert (shown["label"], shown["folder"]) == ("health", "jobs/bridge")
    fine(await house.ana.put(f"{V1}/conversations/{id}/label", json={"label": "nuts", "folder": "/food"}))
    shown = fine(await house.ana.get(f"{V1}/conversations/{id}"))
    assert (shown["label"], shown["folder"]) == ("nuts", "food")
    [hit] = await queried(house.ana, "allergic", filters={"label": "nuts", "folder": "/food"}, limit=1)
    assert (hit["label"], hit["folder"]) == ("nuts", "food")
    assert await queried(house.ana, filters={"label": "health"}) == []


async def test_importance_and_pin_are_kept_and_are_two_things(house: House) -> None:
    id = (await begun(house.ana, importance=3))["id"]
    fine(await house.ana.put(f"{V1}/conversations/{id}/pin"))
    shown = fine(await house.ana.get(f"{V1}/conversations/{id}"))
    assert (shown["pinned"], shown["importance"]) == (True, 3)
    fine(await house.ana.patch(f"{V1}/memories/{id}", json={"importance": 8}))
    assert fine(await house.ana.get(f"{V1}/conversations/{id}"))["importance"] == 8
    for pinned, count in (("true", 1), ("false", 0)):
        assert fine(await house.ana.get(f"{V1}/conversations", params={"pinned": pinned}))["total"] == count


async def test_what_is_archived_is_returned_only_when_asked_for(house: House) -> None:
    id = (await begun(house.ana))["id"]
    fine(await house.ana.put(f"{V1}/conversations/{id}/archive"))
    assert fine(await house.ana.get(f"{V1}/conversations/{id}"))["status"] == "archived"
    assert fine(await house.ana.get(f"{V1}/conversations"))["total"] == 0
    assert fine(await house.ana.get(f"{V1}/conversations", params={"archived": "true"}))["total"] == 1
    assert await queried(house.ana) == []
    assert len(await queried(house.ana, filters={"archived": True})) == 2
    for path in ("search/fts", "search/exact"):
        assert fine(await house.ana.post(f"{V1}/{path}", json={"query": "walnuts"})) == {"results": [], "total": 0}
    asked = {"query": "walnuts", "preferred_labels": [], "context_budget": 500}
    assert fine(await house.ana.post(f"{V1}/context/assemble", json=asked)) == []


async def test_a_delete_deletes_everywhere(house: House) -> None:
    id = (await begun(house.ana))["id"]
    assert (await house.memory.stats())["vectors"] > 0
    fine(await house.ana.delete(f"{V1}/conversations/{id}"))
    refused(await house.ana.get(f"{V1}/conversations/{id}"), 404)
    refused(await house.ana.delete(f"{V1}/conversations/{id}"), 404)
    assert await queried(house.ana, filters={"archived": True}) == []
    stats = await house.memory.stats()
    assert stats["records"] == stats["vectors"] == stats["versions"] == 0
    assert b"walnuts" not in Path("me.db").read_bytes()


async def test_a_question_is_answered_with_scores_that_are_higher_for_better(house: House) -> None:
    made = await begun(house.ana)
    said = [{"role": "user", "content": "the bridge is closed"}]
    await begun(house.ana, label="work", folder="/jobs", messages=said)
    answer = fine(await house.ana.post(f"{V1}/query", json={"query": "allergic to walnuts", "limit": 2, "offset": 0}))
    assert answer.keys() == {"results", "total", "page", "page_size"}
    assert (answer["page"], answer["page_size"]) == (1, 2)
    best = answer["results"][0]
    assert best.keys() == {
        "conversation_id", "message_id", "score", "content", "metadata", "label", "folder", "timestamp"
    }  # fmt: skip
    assert best["content"] == "I am allergic to walnuts" and best["conversation_id"] == made["id"]
    scores = [each["score"] for each in answer["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    later = fine(await house.ana.post(f"{V1}/query", json={"query": "allergic to walnuts", "limit": 2, "offset": 2}))
    assert later["page"] == 2
    seen = [each["message_id"] for each in (*answer["results"], *later["results"])]
    assert len(seen) == len(set(seen))


async def test_every_filter_holds(house: House) -> None:
    made = await begun(house.ana)
    await begun(house.ana, label="food", folder="/private/food", messages=[{"role": "user", "content": "walnuts!"}])
    every = await queried(house.ana, "walnuts", limit=50)
    assert {each["label"] for each in every} == {"health", "food"}
    for filters, labels in (
        ({"label": "food"}, {"food"}), ({"folder": "/private"}, {"health", "food"}),
        ({"folder": "/private/food"}, {"food"}), ({"conversation_id": made["id"]}, {"health"}),
        ({"since": "2999-01-01"}, set()), ({"until": "2000-01-01"}, set()), ({"importance_min": 9}, set()),
        ({"pinned": True}, set()), ({"labels": ["health", "food"]}, set()),
    ):  # fmt: skip
        found = await queried(house.ana, "walnuts", limit=50, filters=filters)
        assert {each["label"] for each in found} == labels, filters
    refused(await house.ana.post(f"{V1}/query", json={"query": "x", "filters": {"labl": "food"}}), 422)


async def test_null_is_as_good_as_nothing(house: House) -> None:
    """So clients write what they leave open."""
    await begun(house.ana)
    nothing = {"filters": None, "limit": None, "offset": None}
    assert len(await queried(house.ana, **nothing)) == len(await queried(house.ana)) > 0
    nothing = {"query": "walnuts", "top_k": None, "session_id": None}
    assert fine(await house.ana.post("/memory/search", json=nothing))["results"]
    nothing = {"query": "walnuts", "memory_type": None, "filters": None}
    assert fine(await house.ana.post("/memories/search", json=nothing)) == {"memories": []}
    assembled = {"query": "walnuts", "preferred_labels": [], "context_budget": 100, "excluded_folders": None}
    assert fine(await house.ana.post(f"{V1}/context/assemble", json=assembled))
    text = {"text": "a text", "session_id": None, "id": None, "metadata": None}
    fine(await house.ana.post("/memory", json=text), 202)


@pytest.mark.parametrize("query", ODD, ids=ascii)
async def test_any_text_may_be_asked_for(house: House, query: str) -> None:
    await begun(house.ana)
    for path in ("query", "search/fts", "search/exact"):
        fine(await house.ana.post(f"{V1}/{path}", json={"query": query}))
    asked = {"query": query, "preferred_labels": ["health"], "context_budget": 200, "excluded_folders": ["/x"]}
    fine(await house.ana.post(f"{V1}/context/assemble", json=asked))
    fine(await house.ana.post("/memory/search", json={"query": query}))
    fine(await house.ana.post("/memories/search", json={"query": query}))


async def test_nothing_and_too_much_are_refused_and_ten_megabytes_are_answered(house: House) -> None:
    await begun(house.ana)
    for path in (f"{V1}/query", f"{V1}/search/fts", "/memory/search", "/memories/search"):
        for query in ("", "  \n"):
            refused(await house.ana.post(path, json={"query": query}), 422)
        refused(await house.ana.post(path, json={}), 422)
    huge = "walnuts and other nuts " * (10 * 1024 * 1024 // 23)
    response = await house.ana.post(f"{V1}/query", json={"query": huge})
    assert response.status_code in (200, 413), response.text[:200]


async def test_words_and_letters_are_searched(house: House) -> None:
    await begun(house.ana)
    words = fine(await house.ana.post(f"{V1}/search/fts", json={"query": '"walnuts" AND (', "limit": 5}))
    assert words["total"] == len(words["results"]) == 2
    for message in words["results"]:
        assert {"id", "conversation_id", "role", "content", "timestamp", "metadata"} <= message.keys()
    assert {message["role"] for message in words["results"]} == {"user", "assistant"}
    exact = fine(await house.ana.post(f"{V1}/search/exact", json={"query": "TO WALNUTS"}))
    assert [message["content"] for message in exact["results"]] == ["I am allergic to walnuts"]


async def test_a_context_cites_keeps_its_budget_and_leaves_out_folders(house: House) -> None:
    await begun(house.ana)
    for n in range(120):
        said = [{"role": "user", "content": f"walnuts walnuts walnuts {n}"}]
        await house.memory.remember(said, user="ana", session=f"n{n}", folder="noise", labels=["noise"])
    asked = {"query": "walnuts", "preferred_labels": ["health"], "context_budget": 60, "excluded_folders": ["/noise"]}
    found = fine(await house.ana.post(f"{V1}/context/assemble", json=asked))
    assert {message["content"] for message in found} == {"I am allergic to walnuts", "No walnuts."}
    for message in found:
        citation = message["metadata"]["citation"]
        assert citation.keys() == {"label", "folder", "timestamp"}
        assert (citation["label"], citation["folder"]) == ("health", "private")
    small = {"query": "walnuts", "preferred_labels": [], "context_budget": 1}
    assert fine(await house.ana.post(f"{V1}/context/assemble", json=small)) == []


async def test_an_old_session_of_low_value_is_suggested_and_archived_and_comes_back(house: House) -> None:
    old = await begun(house.ana, importance=2, at=OLD, messages=[{"role": "user", "content": "hm", "at": OLD}])
    await begun(house.ana)
    pinned = await begun(house.ana, at=OLD, messages=[{"role": "user", "content": "pinned", "at": OLD}], pinned=True)
    said = fine(await house.ana.post(f"{V1}/prune/dry-run", json={"threshold_days": 30}))
    assert said["total"] == 1
    [suggestion] = said["suggestions"]
    assert {
        "conversation_id", "conversation_label", "last_accessed", "message_count", "token_estimate",
        "importance_score", "preview", "recommendation",
    } <= suggestion.keys()  # fmt: skip
    assert (suggestion["conversation_id"], suggestion["conversation_label"]) == (old["id"], "health")
    assert (suggestion["message_count"], suggestion["importance_score"], suggestion["preview"]) == (1, 2, "hm")
    assert suggestion["token_estimate"] == 1 and suggestion["recommendation"] == "archive"
    assert suggestion["last_accessed"].startswith(OLD) and "never recalled" in suggestion["reason"]
    refused(await house.ana.post(f"{V1}/prune/execute", json={"conversation_ids": [old["id"], "unknown"]}), 404)
    assert fine(await house.ana.get(f"{V1}/conversations"))["total"] == 3
    done = fine(await house.ana.post(f"{V1}/prune/execute", json={"conversation_ids": [old["id"]]}))
    assert done == {"archived": [old["id"]]}
    assert fine(await house.ana.get(f"{V1}/conversations/{old['id']}"))["status"] == "archived"
    assert fine(await house.ana.post(f"{V1}/prune/dry-run", json={"threshold_days": 30}))["total"] == 0
    fine(await house.ana.delete(f"{V1}/conversations/{old['id']}/archive"))
    assert fine(await house.ana.get(f"{V1}/conversations"))["total"] == 3 and pinned["pinned"]


async def test_a_rebuild_does_what_it_says(house: House) -> None:
    await begun(house.operator)
    said = fine(await house.operator.post(f"{V1}/rebuild-embeddings", json={}), 202)
    assert said.keys() == {"success", "message", "estimated_completion_seconds"}
    task = said["message"].partition("task ")[2].partition(":")[0]
    for _ in range(200):
        found = fine(await house.operator.get(f"{V1}/tasks/{task}"))
        if found["status"] != "running":
            break
        await asyncio.sleep(0.02)
    assert (found["status"], found["result"]["vectors"]) == ("done", 3)
    refused(await house.ana.post(f"{V1}/rebuild-embeddings", json={}), 403)


# -- the second: texts ----------------------------------------------------------------------------------------------


async def test_a_text_is_added_searched_and_in_the_history_of_its_session(house: House) -> None:
    for n in range(3):
        added = fine(
            await house.ana.post("/memory", json={"text": f"step {n} of the walnuts", "session_id": "s1"}), 202
        )
        assert added["task_id"]
    await house.memory.settle()
    task = fine(await house.ana.get(f"{V1}/tasks/{added['task_id']}"))
    assert task["status"] == "done"
    found = fine(await house.ana.post("/memory/search", json={"query": "walnuts", "top_k": 2}))["results"]
    assert len(found) == 2 and all(0 <= hit["score"] <= 1 for hit in found)
    history = fine(await house.ana.get("/sessions/s1/history"))
    assert [message["text"] for message in history["messages"]] == [f"step {n} of the walnuts" for n in range(3)]
    shape = {"id", "session_id", "user_id", "text", "created_at", "metadata"}
    assert all(message.keys() == shape and message["user_id"] == "ana" for message in history["messages"])
    assert fine(await house.ana.get("/sessions/none/history"))["messages"] == []


async def test_the_same_id_is_one_memory_and_another_text_under_it_is_its_next(house: House) -> None:
    for text in ("walnuts", "walnuts", "hazelnuts", "walnuts", "almonds"):
        added = fine(await house.ana.post("/memory", json={"text": text, "id": "doc-1", "metadata": {"n": 1}}), 202)
        assert added["id"] == "doc-1"
        await house.memory.settle()
        [hit] = fine(await house.ana.post("/memory/search", json={"query": text}))["results"]
        assert (hit["id"], hit["text"], hit["metadata"]) == ("doc-1", text, {"n": 1})
    assert await house.memory.count(user="ana") == 1


async def test_a_retry_of_an_add_is_one_memory(house: House) -> None:
    for _ in range(2):
        body = {"text": "only once", "session_id": "s"}
        fine(await house.ana.post("/memory", json=body, headers={"Idempotency-Key": "k-1"}), 202)
    assert len(fine(await house.ana.get("/sessions/s/history"))["messages"]) == 1
    body = {"label": "once", "folder": "/", "messages": [{"role": "user", "content": "once"}]}
    headers = {"Idempotency-Key": "k-2"}
    made = [fine(await house.ana.post(f"{V1}/conversations", json=body, headers=headers), 201) for _ in range(2)]
    assert made[0]["id"] == made[1]["id"]
    named = [fine(await house.ana.post(f"{V1}/conversations", json={**body, "id": "mine"}), 201) for _ in range(2)]
    assert named[0]["id"] == named[1]["id"] == "mine" and named[1]["message_count"] == 1
    assert fine(await house.ana.get(f"{V1}/conversations/count", params={"label": "once"}))["count"] == 2


# -- the fourth: coordinates ----------------------------------------------------------------------------------------


async def test_a_payload_is_kept_under_its_coordinate(house: House) -> None:
    payload = {"task": "crack the walnuts", "n": 3, "deep": {"x": [1, None]}, "text": "walnuts are cracked"}
    stored = fine(await house.ana.post("/memories", json={"coord": "1,2,3", "payload": payload}))
    assert stored == {"coord": "1,2,3", "memory_type": "episodic"}
    for spelling in ("1,2,3", "1.0, 2.0,3.00"):
        memory = fine(await house.ana.get(f"/memories/{spelling}"))["memory"]
        assert memory.keys() == {
            "coordinate", "payload", "memory_type", "metadata", "importance", "created_at", "updated_at"
        }  # fmt: skip
        assert memory["coordinate"] == [1, 2, 3] and memory["payload"] == payload
        assert memory["memory_type"] == "episodic" and memory["created_at"] == memory["updated_at"]
    refused(await house.ana.get("/memories/1,2,4"), 404)
    for wrong in ("a,b", "nan,1", "1,,2", "inf"):
        refused(await house.ana.get(f"/memories/{wrong}"), 422)
        refused(await house.ana.post("/memories", json={"coord": wrong, "payload": {}}), 422)


async def test_a_payload_is_replaced_as_often_as_it_is_stored_and_deleted_for_good(house: House) -> None:
    for text in ("walnuts", "hazelnuts", "walnuts", "walnuts"):
        asked = {"coord": "0,0", "payload": {"text": text}, "memory_type": "semantic"}
        fine(await house.ana.post("/memories", json=asked))
        memory = fine(await house.ana.get("/memories/0,0"))["memory"]
        assert memory["payload"] == {"text": text} and memory["memory_type"] == "semantic"
    assert memory["created_at"] < memory["updated_at"]
    await house.memory.settle()
    [hit] = fine(await house.ana.post("/memories/search", json={"query": "walnuts", "top_k": 5}))["memories"]
    assert hit["payload"] == {"text": "walnuts"} and 0 <= hit["score"] <= 1
    assert fine(await house.ana.delete("/memories/0,0")) == {"coord": "0,0", "deleted": True}
    assert fine(await house.ana.delete("/memories/0,0")) == {"coord": "0,0", "deleted": False}
    refused(await house.ana.get("/memories/0,0"), 404)
    assert fine(await house.ana.post("/memories/search", json={"query": "walnuts"}))["memories"] == []
    assert (await house.memory.stats())["vectors"] == 0


async def test_payloads_are_searched_with_filters_and_nothing_else_is_found(house: House) -> None:
    for n in range(6):
        kind = "semantic" if n % 2 else "episodic"
        asked = {"coord": f"{n},0", "payload": {"text": f"walnut {n}", "n": n, "ok": n > 3}, "memory_type": kind}
        fine(await house.ana.post("/memories", json=asked))
    await house.memory.remember([f"walnut walnut {n}" for n in range(20)], user="ana")
    asked = {"query": "walnut", "top_k": 50}
    every = fine(await house.ana.post("/memories/search", json=asked))["memories"]
    assert sorted(each["coordinate"][0] for each in every) == [0, 1, 2, 3, 4, 5]
    semantic = fine(await house.ana.post("/memories/search", json={**asked, "memory_type": "semantic"}))["memories"]
    assert {each["memory_type"] for each in semantic} == {"semantic"} and len(semantic) == 3
    for filters, count in (({"n": 2}, 1), ({"ok": True}, 2), ({"n": 2, "ok": True}, 0), ({"none": 1}, 0)):
        found = fine(await house.ana.post("/memories/search", json={**asked, "filters": filters}))["memories"]
        assert len(found) == count, filters
    by_url = {"query": "walnut", "top_k": "2", "filters": '{"ok": true}', "memory_type": "semantic"}
    assert len(fine(await house.ana.get("/memories/search", params=by_url))["memories"]) == 1
    refused(await house.ana.get("/memories/search", params={"query": "x", "filters": "[1]"}), 422)
    refused(await house.ana.get("/memories/search", params={"query": "x", "filters": "{"}), 422)
    pages = [
        fine(await house.ana.post("/memories/search", json={"query": "walnut", "top_k": 3, "offset": offset}))
        for offset in (0, 3, 6)
    ]
    assert [len(page["memories"]) for page in pages] == [3, 3, 0]
    assert len({each["coordinate"][0] for page in pages for each in page["memories"]}) == 6


# -- whose it is ------------------------------------------------------------------------------------------------------


async def test_two_users_have_coordinates_ids_and_sessions_of_their_own(house: House) -> None:
    for name, client in (("ana", house.ana), ("bo", house.bo)):
        for _ in range(2):
            fine(await client.post("/memories", json={"coord": "1,1", "payload": {"text": f"marked by {name}"}}))
            said = {"text": f"note marked by {name}", "id": "1", "session_id": "s"}
            assert fine(await client.post("/memory", json=said), 202)["id"] == "1"
    fine(await house.operator.post("/memories", json={"coord": "1,1", "payload": {"text": "marked by operator"}}))
    await house.memory.settle()
    asked = {"query": "marked", "top_k": 50}
    assert "operator" not in (await house.ana.post("/memories/search", json=asked)).text  # 1,1 is hers alone
    for name, client, other in (("ana", house.ana, "bo"), ("bo", house.bo, "ana")):
        answers = [
            await client.get("/memories/1,1"),
            await client.post("/memories/search", json={"query": "marked", "top_k": 50}),
            await client.post("/memory/search", json={"query": "marked", "top_k": 50}),
            await client.get("/sessions/s/history"),
            await client.post(f"{V1}/query", json={"query": "marked", "limit": 50}),
            await client.post(f"{V1}/search/fts", json={"query": "marked", "limit": 50}),
        ]
        for answer in answers:
            fine(answer)
            assert f"marked by {name}" in answer.text and f"marked by {other}" not in answer.text
    assert fine(await house.ana.delete("/memories/1,1"))["deleted"]
    assert "marked by bo" in (await house.bo.get("/memories/1,1")).text


async def test_what_is_anothers_is_not_there(house: House) -> None:
    id = (await begun(house.ana))["id"]
    fine(await house.ana.post("/memories", json={"coord": "5,5", "payload": {"text": "ana's"}}))
    refused(await house.bo.get("/memories/5,5"), 404)
    assert fine(await house.bo.delete("/memories/5,5"))["deleted"] is False
    at = f"{V1}/conversations/{id}"
    for answer in (
        await house.bo.get(at),
        await house.bo.delete(at),
        await house.bo.put(f"{at}/label", json={"label": "x", "folder": "/x"}),
        await house.bo.put(f"{at}/folder", json={"folder": "/x"}),
        await house.bo.put(f"{at}/pin"),
        await house.bo.put(f"{at}/archive"),
        await house.bo.post(f"{V1}/prune/execute", json={"conversation_ids": [id]}),
    ):
        assert "walnuts" not in str(refused(answer, 404))
    assert fine(await house.bo.get(f"{V1}/conversations"))["total"] == 0
    assert fine(await house.bo.post(f"{V1}/prune/dry-run", json={"threshold_days": 0}))["total"] == 0
    assert await queried(house.bo) == []
    refused(await house.bo.post(f"{V1}/query", json={"query": "x", "filters": {"user": "ana"}}), 403)
    shown = fine(await house.ana.get(at))
    assert (shown["label"], shown["pinned"], shown["status"]) == ("health", False, "active")


async def test_nobody_gets_in_without_a_key(house: House) -> None:
    id = (await begun(house.ana))["id"]
    at = f"{V1}/conversations/{id}"
    for method, path in (
        ("POST", f"{V1}/conversations"), ("GET", at), ("GET", f"{V1}/conversations"), ("PUT", f"{at}/label"),
        ("PUT", f"{at}/folder"), ("PUT", f"{at}/pin"), ("PUT", f"{at}/archive"), ("DELETE", at),
        ("GET", f"{V1}/conversations/count"), ("POST", f"{V1}/query"), ("POST", f"{V1}/rebuild-embeddings"),
        ("POST", f"{V1}/search/fts"), ("POST", f"{V1}/context/assemble"), ("POST", f"{V1}/prune/dry-run"),
        ("POST", f"{V1}/prune/execute"), ("POST", "/memory"), ("POST", "/memory/search"),
        ("GET", "/sessions/s/history"),
        ("POST", "/memories"), ("GET", "/memories/1,2"), ("DELETE", "/memories/1,2"), ("POST", "/memories/search"),
        ("GET", "/memories/search"),
    ):  # fmt: skip
        for headers in ({}, {"Authorization": "Bearer sim_" + "a" * 12}):
            if headers and method != "GET":
                continue  # wrong keys are counted: a few will do
            answer = await house.nobody.request(method, path, headers=headers)
            assert answer.status_code in ((401,) if not headers else (401, 429)), (method, path, answer.text)
            assert "walnuts" not in answer.text
