"""The front door, as a user has it, and as an attacker tries it: what is kept, what is found, what is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import DAY, JUNE, refused, texts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simonides import (
    AsyncMemory,
    Conflict,
    Entity,
    Hit,
    Invalid,
    Link,
    Memory,
    Message,
    Note,
    NotFound,
    Place,
    Record,
    Scope,
    SimonidesError,
    Span,
    Unavailable,
)
from simonides.recall.fit import estimated, quoted
from simonides.record import exactly
from simonides.stores.sqlite import SqliteStore

LONE = "half of a pair: \ud800"
HUGE = 10**9
Call = Callable[[Memory], Any]

slow = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def memory(home: Path) -> Iterator[Memory]:
    with Memory(home / "me.db") as memory:
        yield memory


@pytest.fixture
def meaning(home: Path) -> Iterator[Memory]:
    """A memory that also has vectors."""
    with Memory(home / "meaning.db", embedder="hashing:") as memory:
        yield memory


# -- as the issue says it ---------------------------------------------------------------------------------------------


def test_the_lines_of_the_issue_work_as_they_stand(home: Path) -> None:
    memory = Memory("sqlite:///me.db")
    memory.remember("I moved to Lisbon in May", user="me")
    hits = memory.recall("where do I live, Lisbon?", user="me")
    assert texts(hits) == ["I moved to Lisbon in May"]
    memory.close()
    assert (home / "me.db").exists()


def test_a_memory_without_a_name_lives_in_the_users_data_folder(home: Path) -> None:
    with Memory() as memory:
        memory.remember("kept at home")
    assert (home / "home" / "memory.db").exists()
    with Memory() as memory:
        assert texts(memory.find()) == ["kept at home"]


@pytest.mark.parametrize("url", ["me.db", "sqlite:///me.db", "./me.db", Path("me.db"), "sub/folder/me.db"])
def test_a_store_may_be_named_by_url_or_path(url: str | Path, home: Path) -> None:
    with Memory(url) as memory:
        kept = memory.remember("here")
    with Memory(url) as memory:
        assert memory.get(kept.id) == kept
    assert (home / str(url).removeprefix("sqlite:///")).exists()


def test_a_memory_in_memory_leaves_nothing_behind(home: Path) -> None:
    with Memory(":memory:") as memory:
        memory.remember("gone with the process")
        assert texts(memory.recall("process")) == ["gone with the process"]
    with Memory(":memory:") as memory:
        assert memory.find() == []
    assert not list(home.rglob("*.db"))


def test_one_text_gives_a_record_and_a_list_gives_a_list(memory: Memory) -> None:
    one = memory.remember("one")
    many = memory.remember(["two", "three"])
    assert isinstance(one, Record) and one.text == "one" and one.kind == "note" and one.known.since is not None
    assert isinstance(many, list) and texts(many) == ["two", "three"]
    assert memory.remember(("four",))[0].text == "four"
    assert memory.count() == 4


def test_messages_become_a_conversation_in_their_order(memory: Memory) -> None:
    said = memory.remember(
        [{"role": "user", "content": "I moved"}, {"role": "assistant", "content": "Where to?"}], session="s", user="ana"
    )
    [talk] = memory.conversations(user="ana")
    assert talk.text == "s" and {record.part_of for record in said} == {talk.id}
    memory.remember("To Lisbon", session="s", user="ana")
    assert texts(memory.messages(talk.id, user="ana")) == ["I moved", "Where to?", "To Lisbon"]
    assert len(memory.conversations(user="ana")) == 1


def test_a_hit_prints_as_its_text_with_who_and_when(memory: Memory) -> None:
    memory.remember("We ship on Friday", role="user", name="Ana", at=JUNE)
    [hit] = memory.recall("ship")
    assert str(hit) == "We ship on Friday  (Ana, 2026-06-01 09:00)"
    assert isinstance(hit, Hit) and hit.id == hit.record.id


def test_the_whole_life_of_a_record(memory: Memory) -> None:
    kept = memory.remember("Ana lives in Porto", at=JUNE, labels=["home"])
    revised = memory.revise(kept.id, text="Ana lives in Porto, by the river", importance=8)
    assert (revised.version, revised.importance, revised.labels) == (2, 8, ("home",))
    new = memory.supersede(kept.id, "Ana lives in Lisbon", at=JUNE + 30 * DAY)
    assert texts(memory.recall("where does Ana live")) == ["Ana lives in Lisbon"]
    assert texts(memory.recall("where does Ana live", as_of=JUNE + DAY)) == ["Ana lives in Porto, by the river"]
    assert [record.version for record in memory.history(kept.id)] == [1, 2, 3]
    before = memory.history(kept.id)[0].known.since
    assert before and texts(memory.recall("where does Ana live", known_at=before)) == ["Ana lives in Porto"]
    memory.retract(new.id)
    assert memory.recall("Lisbon") == []
    preview = memory.forget(kept.id, dry_run=True)
    assert preview.ids == (kept.id,) and preview.versions == 3 and memory.get(kept.id).version == 3
    assert memory.forget(kept.id).ids == (kept.id,)
    assert isinstance(refused(memory.get, kept.id), NotFound)


async def test_the_asynchronous_memory_is_the_same(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        kept = await memory.remember("I moved to Lisbon in May", user="me")
        assert texts(await memory.recall("Lisbon", user="me")) == [kept.text]
    with Memory("me.db") as again:
        assert again.get(kept.id, user="me") == kept


def public(cls: type) -> dict[str, Callable[..., Any]]:
    return {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and name != "open"  # the synchronous face opens at once
    }


def test_both_faces_have_the_same_methods_and_signatures() -> None:
    ours, theirs = public(Memory), public(AsyncMemory)
    assert ours.keys() == theirs.keys()
    for name, method in ours.items():
        assert str(inspect.signature(method)) == str(inspect.signature(theirs[name])), name
        assert inspect.getdoc(method) == inspect.getdoc(theirs[name]), name
        assert not inspect.iscoroutinefunction(method), name
    assert str(inspect.signature(Memory)) == str(inspect.signature(AsyncMemory))


# -- what is refused --------------------------------------------------------------------------------------------------

# What is about all that is here.
WHOLE = {
    "status",
    "backlog",
    "letters",
    "replay_letters",
    "drop_letters",
    "keep",
    "restore",
    "stats",
    "doctor",
    "pack",
    "position",
    "rebuild",
    "settle",
    "close",
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {  # what each of the others needs, besides whose memory it is about
    "remember": ("a text",),
    "recall": ("a text",),
    "context": ("a text",),
    "explain_missing": ("some-id", "a text"),
    "find": (),
    "count": (),
    "conversations": (),
    "certificates": (),
    "export": (),
    "versions": (),
    "changes": (),
    "get": ("some-id",),
    "history": ("some-id",),
    "messages": ("some-id",),
    "revise": ("some-id",),
    "organise": ("some-id",),
    "propose": (),
    "archive": ("some-id",),
    "supersede": ("some-id", "a text"),
    "retract": ("some-id",),
    "forget": ("some-id",),
}
BY_ID = ("get", "history", "messages", "revise", "organise", "archive", "supersede", "retract", "forget")


def test_every_method_says_whose_memory_it_is_about_or_is_about_the_whole() -> None:
    scoped = {
        name
        for name, method in public(AsyncMemory).items()
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())
    }
    assert scoped == set(ARGUMENTS)
    assert set(public(AsyncMemory)) - scoped == WHOLE


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_memory_that_requires_a_user_answers_no_call_without_one(name: str, home: Path) -> None:
    with Memory("me.db", require="user") as memory:
        for open_level in ({}, {"user": None}, {"session": "s", "agent": "a"}):
            error = refused(getattr(memory, name), *ARGUMENTS[name], **open_level)
            assert isinstance(error, Invalid) and "user" in str(error)


def test_everything_cannot_be_forgotten_past_a_required_user(home: Path) -> None:
    with Memory("me.db", require="user") as memory:
        memory.remember("mine", user="ana")
        assert isinstance(refused(memory.forget, everything=True), Invalid)
        assert memory.count(user="ana") == 1


def test_a_memory_that_requires_a_user_keeps_no_record_that_names_none(home: Path) -> None:
    with Memory("me.db", require="user") as memory:
        for take in (memory.keep, memory.restore):
            assert isinstance(refused(take, [Record(scope=Scope(), body=Note(text="nobody's"))]), Invalid)
        assert memory.restore([Record(scope=Scope(user="ana"), body=Note(text="hers"))]) == 1


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_unknown_argument_is_refused_with_a_suggestion(name: str, memory: Memory) -> None:
    error = refused(getattr(memory, name), *ARGUMENTS[name], usr="ana")
    assert isinstance(error, Invalid) and "usr" in str(error) and "did you mean 'user'" in str(error)


@pytest.mark.parametrize("name", sorted(WHOLE - {"close"}))
def test_an_unknown_argument_is_refused_where_there_are_none(name: str, memory: Memory) -> None:
    needed: list[Any] = [[]] if name in ("keep", "restore") else []
    assert isinstance(refused(getattr(memory, name), *needed, usr="ana"), Invalid)


@pytest.mark.parametrize("level", ["user", "agent", "session", "space", "tenant"])
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_no_empty_or_wild_name_ever_means_everyone(name: str, level: str, memory: Memory) -> None:
    memory.remember("somebody's", user="ana", session="s", agent="a")
    values: list[Any] = [
        "",
        " ",
        "\t",
        "*",
        "%",
        "**",
        "?",
        LONE,
        5,
        True,
        b"ana",
        ["ana"],
        {"$ne": "x"},
        "a\x00b",
        "x" * 201,
    ]
    for value in values:
        assert isinstance(refused(getattr(memory, name), *ARGUMENTS[name], **{level: value}), Invalid), value


BAD_TEXTS: list[Any] = [
    "",
    " ",
    "\n\t ",
    "\u2003",
    LONE,
    "\udfff",
    None,
    5,
    True,
    b"bytes",
    pytest.param(object(), id="object"),
    1.5,
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=ascii)
def test_what_is_no_text_is_refused_everywhere(text: Any, memory: Memory) -> None:
    kept = memory.remember("there")
    calls: list[Call] = [
        lambda m: m.remember(text),
        lambda m: m.remember(["fine", text]),
        lambda m: m.remember({"role": "user", "content": text}),
        lambda m: m.remember([{"role": "user", "content": "fine"}, {"role": "user", "content": text}]),
        lambda m: m.recall(text),
        lambda m: m.context(text),
        lambda m: m.supersede(kept.id, text),
        lambda m: m.remember(Note(text=text)),
    ]
    if text is not None:
        calls.append(lambda m: m.revise(kept.id, text=text))
    for call in calls:
        assert isinstance(refused(call, memory), Invalid)
    assert memory.find() == [kept]


def of(**more: Any) -> Record:
    """Return a record as somebody makes one by hand."""
    return Record(**({"scope": Scope(), "body": Note(text="x")} | more))


BAD: dict[str, Call] = {
    "no text at all": lambda m: m.remember(),  # type: ignore[call-overload]
    "two texts instead of a list": lambda m: m.remember("one", "two"),  # type: ignore[call-overload]
    "an empty list": lambda m: m.remember([]),
    "a list in a list": lambda m: m.remember([["one"]]),  # type: ignore[list-item]
    "a set": lambda m: m.remember({"one"}),  # type: ignore[call-overload]
    "a naive time": lambda m: m.remember("x", at=datetime(2026, 5, 2, 9)),
    "a naive time as a string": lambda m: m.remember("x", at="2026-05-02T09:00:00"),
    "a time in words": lambda m: m.remember("x", at="yesterday"),
    "an empty time": lambda m: m.remember("x", at=""),
    "a time as a number": lambda m: m.remember("x", at=1_700_000_000),  # type: ignore[call-overload]
    "a time before the first year": lambda m: m.remember("x", at="0001-01-01T00:00:00+14:00"),
    "a time after the last year": lambda m: m.remember("x", at="9999-12-31T23:00:00-14:00"),
    "an end before the beginning": lambda m: m.remember("x", at=JUNE, ends=JUNE - DAY),
    "an end at the beginning": lambda m: m.remember("x", at=JUNE, ends=JUNE),
    "a naive since": lambda m: m.find(since=datetime(2026, 5, 2)),
    "a naive until": lambda m: m.recall("x", until=datetime(2026, 5, 2)),
    "a naive as_of": lambda m: m.recall("x", as_of=datetime(2026, 5, 2)),
    "a naive known_at": lambda m: m.recall("x", known_at="2026-05-02T00:00"),
    "links that are no list": lambda m: m.remember("x", links=5),  # type: ignore[call-overload]
    "links that are strings": lambda m: m.remember("x", links=["about"]),  # type: ignore[list-item]
    "a link to a number": lambda m: m.remember("x", links=[Link("about", 5)]),  # type: ignore[arg-type]
    "a link with half a character": lambda m: m.remember("x", links=[Link("about", LONE)]),
    "a link whose role has half a character": lambda m: m.remember("x", links=[Link(LONE, "id")]),
    "a title that is no string": lambda m: m.remember("x", title=5, session="s"),  # type: ignore[call-overload]
    "a title with half a character": lambda m: m.remember("x", title=LONE, session="s"),
    "an id that is no string": lambda m: m.remember("x", id=5),  # type: ignore[call-overload]
    "an empty id": lambda m: m.remember("x", id=""),
    "an id with half a character": lambda m: m.remember("x", id=LONE),
    "an endless id": lambda m: m.remember("x", id="x" * 1000),
    "one id for several": lambda m: m.remember(["x", "y"], id="z"),
    "an unknown role": lambda m: m.remember("x", role="king"),
    "a role that is no string": lambda m: m.remember("x", role=["user"]),  # type: ignore[call-overload]
    "a body with an unknown role": lambda m: m.remember(Message(text="x", role="king")),
    "a body whose role is a number": lambda m: m.remember(Message(text="x", role=5)),  # type: ignore[arg-type]
    "a body whose name is a number": lambda m: m.remember(Entity(text="x", name=5)),  # type: ignore[arg-type]
    "a body whose name is bytes": lambda m: m.remember(Entity(text="x", name=b"x")),  # type: ignore[arg-type]
    "a body whose name has half a character": lambda m: m.remember(Entity(text="x", name=LONE)),
    "a name that is no string": lambda m: m.remember("x", name=5),  # type: ignore[call-overload]
    "a name with half a character": lambda m: m.remember("x", name=LONE),
    "a message without content": lambda m: m.remember({"role": "user"}),
    "a message with an unknown key": lambda m: m.remember({"role": "user", "content": "x", "tool_calls": []}),
    "a message with a key that is no string": lambda m: m.remember({5: "x", "content": "x"}),  # type: ignore[dict-item]
    "a message part that is an image": lambda m: m.remember({"role": "user", "content": [{"type": "image_url"}]}),
    "labels that are numbers": lambda m: m.remember("x", labels=[1]),  # type: ignore[list-item]
    "labels that are a number": lambda m: m.remember("x", labels=5),  # type: ignore[arg-type]
    "an empty label": lambda m: m.remember("x", labels=["fine", ""]),
    "a label with half a character": lambda m: m.remember("x", labels=[LONE]),
    "101 labels": lambda m: m.remember("x", labels=[f"l{n}" for n in range(101)]),
    "a folder that climbs": lambda m: m.remember("x", folder="work/../secrets"),
    "a folder with half a character": lambda m: m.remember("x", folder=LONE),
    "importance 0": lambda m: m.remember("x", importance=0),
    "importance 11": lambda m: m.remember("x", importance=11),
    "importance in words": lambda m: m.remember("x", importance="5"),  # type: ignore[arg-type]
    "importance True": lambda m: m.remember("x", importance=True),
    "importance 5.5": lambda m: m.remember("x", importance=5.5),  # type: ignore[arg-type]
    "pinned 1": lambda m: m.remember("x", pinned=1),  # type: ignore[arg-type]
    "pinned in words": lambda m: m.remember("x", pinned="yes"),  # type: ignore[arg-type]
    "a source with half a character": lambda m: m.remember("x", source=LONE),
    "a source that is a number, in a session": lambda m: m.remember("x", source=5, session="s"),  # type: ignore[arg-type]
    "an empty source, in a session": lambda m: m.remember("x", source=" ", session="s"),
    "metadata that is a list": lambda m: m.remember("x", metadata=[1]),  # type: ignore[arg-type]
    "metadata with NaN": lambda m: m.remember("x", metadata={"x": math.nan}),
    "metadata with infinity": lambda m: m.remember("x", metadata={"deep": [{"x": -math.inf}]}),
    "metadata with bytes": lambda m: m.remember("x", metadata={"x": b"x"}),
    "metadata with a set": lambda m: m.remember("x", metadata={"x": {1}}),
    "metadata with a time": lambda m: m.remember("x", metadata={"x": JUNE}),
    "metadata with a number as key": lambda m: m.remember("x", metadata={5: "x"}),  # type: ignore[dict-item]
    "metadata with half a character": lambda m: m.remember("x", metadata={"x": LONE}),
    "metadata with half a character in a key": lambda m: m.remember("x", metadata={"a": [{LONE: 1}]}),
    "metadata with a huge integer": lambda m: m.remember("x", metadata={"x": 2**63}),
    "metadata with an astronomical integer": lambda m: m.remember("x", metadata={"x": 10**5000}),
    "metadata nested too deep": lambda m: m.remember("x", metadata=nested(40)),
    "metadata that holds itself": lambda m: m.remember("x", metadata=circular()),
    "metadata of a megabyte of text": lambda m: m.remember("x", metadata={"x": "y" * 2**20}),
    "metadata of a million numbers": lambda m: m.remember("x", metadata={"x": [1234567] * 1_000_000}),
    "metadata of half a million empty lists": lambda m: m.remember("x", metadata={"x": [[]] * 500_000}),
    "limit 0": lambda m: m.recall("x", limit=0),
    "limit -1": lambda m: m.recall("x", limit=-1),
    "limit True": lambda m: m.recall("x", limit=True),
    "limit in words": lambda m: m.recall("x", limit="5"),  # type: ignore[arg-type]
    "limit of a billion": lambda m: m.recall("x", limit=HUGE),
    "limit None": lambda m: m.recall("x", limit=None),  # type: ignore[arg-type]
    "limit 2.5": lambda m: m.find(limit=2.5),  # type: ignore[arg-type]
    "limit 0 of find": lambda m: m.find(limit=0),
    "limit of a billion of find": lambda m: m.find(limit=HUGE),
    "limit of a billion of conversations": lambda m: m.conversations(limit=HUGE),
    "budget 0": lambda m: m.context("x", budget=0),
    "budget True": lambda m: m.context("x", budget=True),
    "budget in words": lambda m: m.context("x", budget="100"),  # type: ignore[arg-type]
    "explain in words": lambda m: m.recall("x", explain="yes"),  # type: ignore[arg-type]
    "newest in words": lambda m: m.find(newest="no"),  # type: ignore[arg-type]
    "archived in words": lambda m: m.find(archived="no"),  # type: ignore[arg-type]
    "shared in words": lambda m: m.find(user="ana", shared="no"),  # type: ignore[arg-type]
    "an unknown kind": lambda m: m.find(kinds="mesage"),
    "kinds as a dict": lambda m: m.find(kinds={"note": 1}),
    "an operator as metadata": lambda m: m.find(metadata={"x": {"$ne": 1}}),
    "a list as metadata": lambda m: m.find(metadata={"x": [1, 2]}),
    "metadata filter as text": lambda m: m.find(metadata="x"),  # type: ignore[arg-type]
    "an operator as labels": lambda m: m.find(labels={"$in": ["x"]}),
    "an operator as folder": lambda m: m.find(folder={"$ne": ""}),  # type: ignore[arg-type]
    "an operator as kinds": lambda m: m.find(kinds={"$ne": "note"}),
    "a wildcard as label": lambda m: m.find(labels="*"),
    "a wildcard as source": lambda m: m.find(sources="*"),
    "a wildcard as conversation": lambda m: m.find(conversation="*"),
    "after with half a character": lambda m: m.find(after=LONE),
    "after a record that is not there": lambda m: m.find(after="nowhere"),
    "after a number": lambda m: m.find(after=3),  # type: ignore[arg-type]
    "after a record that was never kept": lambda m: m.find(after=Record(scope=Scope(), body=Note(text="x"))),
    "after a naive place": lambda m: m.find(after=Place(datetime(2026, 1, 1), "x", 1)),
    "after a place without a time": lambda m: m.find(after=Place(None, "x", 1)),  # type: ignore[arg-type]
    "after half a character of a place": lambda m: m.find(after=Place(JUNE, LONE, 1)),
    "after a place beyond every version": lambda m: m.find(after=Place(JUNE, "x", 2**63)),
    "get a number": lambda m: m.get(5),  # type: ignore[arg-type]
    "get None": lambda m: m.get(None),  # type: ignore[arg-type]
    "get an unknown id": lambda m: m.get("unknown"),
    "get everything": lambda m: m.get("*"),
    "history of an unknown id": lambda m: m.history("unknown"),
    "messages of an unknown id": lambda m: m.messages("unknown"),
    "revise an unknown id": lambda m: m.revise("unknown", text="x"),
    "supersede an unknown id": lambda m: m.supersede("unknown", "x"),
    "retract an unknown id": lambda m: m.retract("unknown"),
    "forget an unknown id": lambda m: m.forget("unknown"),
    "forget a list": lambda m: m.forget(["unknown"]),  # type: ignore[call-overload]
    "forget nothing": lambda m: m.forget(),
    "forget everything, in words": lambda m: m.forget(everything="no"),  # type: ignore[call-overload]
    "forget dry, in words": lambda m: m.forget(user="ana", dry_run="yes"),  # type: ignore[call-overload]
    "forget a user that is not there": lambda m: m.forget(user="nobody"),
    "export to a number": lambda m: m.export(5),  # type: ignore[arg-type]
    "export into a folder that is not there": lambda m: m.export("nowhere/x.jsonl"),
    "export over a folder": lambda m: m.export("."),
    "restore a path": lambda m: m.restore("x.jsonl"),  # type: ignore[arg-type]
    "restore a Path": lambda m: m.restore(Path("x.jsonl")),  # type: ignore[arg-type]
    "restore texts": lambda m: m.restore(["x"]),  # type: ignore[list-item]
    "keep texts": lambda m: m.keep(["x"]),  # type: ignore[list-item]
    "keep a number": lambda m: m.keep(5),  # type: ignore[arg-type]
    "keep half a character": lambda m: m.keep([of(body=Note(text=LONE))]),
    "keep half a character in a name": lambda m: m.keep([of(body=Entity(text="x", name=LONE))]),
    "keep half a character in a folder": lambda m: m.keep([of(folder=LONE)]),
    "keep what is no text": lambda m: m.keep([of(body=Note(text=5))]),  # type: ignore[arg-type]
    "keep an empty message": lambda m: m.keep([of(body=Message(text=" "))]),
    "keep a wild user's": lambda m: m.keep([of(scope=Scope(user="*"))]),
    "keep in an empty space": lambda m: m.keep([of(scope=Scope(space=""))]),
    "keep in no tenant": lambda m: m.keep([of(scope=Scope(tenant=None))]),  # type: ignore[arg-type]
    "keep metadata with NaN": lambda m: m.keep([of(metadata={"x": math.nan})]),
    "keep a link that is a string": lambda m: m.keep([of(links=("about",))]),
    "keep an empty label": lambda m: m.keep([of(labels=("",))]),
    "restore half a character": lambda m: m.restore([of(body=Note(text=LONE))]),
    "restore a wild user's": lambda m: m.restore([of(scope=Scope(user="*"))]),
    "restore metadata with a set": lambda m: m.restore([of(metadata={"x": {1}})]),
    "pack texts": lambda m: m.pack(["x"], "x"),  # type: ignore[list-item]
    "pack a text": lambda m: m.pack("x", "x"),  # type: ignore[arg-type]
    "pack nothing": lambda m: m.pack(None, "x"),  # type: ignore[arg-type]
    "keep one record": lambda m: m.keep(Record(scope=Scope(), body=Note(text="x"))),  # type: ignore[arg-type]
}


def nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"deeper": inner}
    return inner


def circular() -> dict[str, Any]:
    self: dict[str, Any] = {}
    self["self"] = self
    return self


@pytest.mark.parametrize("call", BAD.values(), ids=BAD.keys())
def test_a_bad_argument_is_refused_in_our_own_words_and_nothing_is_kept(call: Call, memory: Memory) -> None:
    memory.remember("there before", user="ana")
    error = refused(call, memory)
    assert isinstance(error, Invalid | NotFound | Unavailable)
    assert texts(memory.find()) == ["there before"]
    assert memory.doctor() == []


BAD_MEMORIES: dict[str, Callable[[], Any]] = {
    "an unknown scheme": lambda: Memory("mongodb://localhost"),
    "a number": lambda: Memory(5),  # type: ignore[arg-type]
    "bytes": lambda: Memory(b"me.db"),  # type: ignore[arg-type]
    "an empty name": lambda: Memory(""),
    "no file": lambda: Memory("sqlite:///"),
    "two slashes": lambda: Memory("sqlite://me.db"),
    "an unknown option": lambda: Memory("sqlite:///me.db?mode=fast"),
    "an unknown durability": lambda: Memory("sqlite:///me.db?durability=none"),
    "a NUL in the path": lambda: Memory("me\x00.db"),
    "an unknown embedder": lambda: Memory("me.db", embedder="openia:"),
    "a number as embedder": lambda: Memory("me.db", embedder=5),  # type: ignore[arg-type]
    "an unknown index": lambda: Memory("me.db", embedder="hashing:", index="flatt:"),
    "an empty tenant": lambda: Memory("me.db", tenant=""),
    "a wild space": lambda: Memory("me.db", space="*"),
    "a number as tenant": lambda: Memory("me.db", tenant=5),  # type: ignore[arg-type]
    "an unknown level": lambda: Memory("me.db", require="usr"),
    "a number of levels": lambda: Memory("me.db", require=5),  # type: ignore[arg-type]
    "an unknown zone": lambda: Memory("me.db", zone="Mars/Olympus"),
    "a zone that climbs": lambda: Memory("me.db", zone="../../etc/passwd"),
    "settled in words": lambda: Memory("me.db", settled="no"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("make", BAD_MEMORIES.values(), ids=BAD_MEMORIES.keys())
def test_a_memory_that_cannot_be_meant_is_not_opened(make: Callable[[], Any], home: Path) -> None:
    assert isinstance(refused(make), Invalid | Unavailable)
    gc.collect()  # what was opened and not closed complains here
    assert not (home / "home").exists(), "somebody's own memory was opened instead"


def test_nothing_of_a_list_is_kept_when_one_of_it_is_refused(memory: Memory) -> None:
    refused(memory.remember, ["good", "also good", ""], user="ana")
    refused(
        memory.remember,
        [{"role": "user", "content": "good", "id": "a"}, {"role": "user", "content": "other", "id": "a"}],
    )
    assert memory.find() == [] and memory.conversations() == [] and memory.stats()["changes"] == 0


def test_a_memory_text_that_is_a_path_is_just_a_text(memory: Memory, home: Path) -> None:
    (home / "secret.txt").write_text("the secret")
    memory.remember(str(home / "secret.txt"))
    memory.remember("secret.txt")
    memory.remember("file://secret.txt")
    assert all("the secret" not in text for text in texts(memory.find()))


# -- byte for byte ----------------------------------------------------------------------------------------------------

TEXTS = [
    "caf\u00e9 and cafe\u0301 are not the same bytes",
    "nul\x00in\x00the middle",
    "\x00",
    "bell\x07 and escape\x1b[31m",
    "\ufeffwith a byte order mark",
    "\ufffe \uffff",
    "one\r\ntwo\rthree\nfour\u2028five\u2029six\x85",
    "  leading and trailing\t\n ",
    "\n\nblank lines\n\n",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇵🇹",
    "数据库 데이터 データ ฐานข้อมูล हिन्दी",
    "'; DROP TABLE records; --",
    "{{template}} ${HOME} %s %n <script>",
    '"quoted" \\ back\\slash',
    "\U0010ffff",
    "İıſßẞŉ",
    "Z̸̢a̷l̴g̵o̶",
    "a" * 100_000,
    "word " * 200_000,
    "\u0300 begins with a mark",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:30])
def test_a_text_comes_back_byte_for_byte(text: str, memory: Memory) -> None:
    kept = memory.remember(text)
    revised = memory.remember("something else")
    memory.revise(revised.id, text=text)
    assert memory.get(kept.id).text.encode() == text.encode()
    assert memory.get(revised.id).text.encode() == text.encode()
    assert texts(memory.find()) == [text, text]


def test_every_plane_of_unicode_comes_back(memory: Memory) -> None:
    for plane in range(17):
        points = [plane * 0x10000 + low for low in range(0, 0x10000, 97)]
        text = "".join(chr(point) for point in points if not 0xD800 <= point <= 0xDFFF)
        assert memory.get(memory.remember(f"{plane}{text}").id).text == f"{plane}{text}"


def test_what_is_kept_reads_the_same_after_closing(home: Path) -> None:
    names = {"user": "ünï 'quoted' ../../x", "session": "s—1", "agent": "a\u202eb"}
    with Memory("me.db") as memory:
        kept = [memory.remember(text, metadata={text[:50]: [text[:50], 1.5, None, True]}, **names) for text in TEXTS]
    with Memory("me.db") as memory:
        assert [memory.get(record.id, **names) for record in kept] == kept


@pytest.fixture(scope="module")
def scratch() -> Iterator[Memory]:
    with Memory(":memory:", embedder="none", zone="UTC") as memory:
        yield memory


sayable = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).filter(str.strip)


@slow
@given(text=sayable)
@example(text="\x1c0\x1f")
def test_any_text_is_kept_exactly_and_may_be_asked(text: str, scratch: Memory) -> None:
    kept = scratch.remember(text, user="h")
    assert scratch.get(kept.id, user="h").text == text
    for hit in scratch.recall(text, user="h", limit=3):
        assert 0 < hit.score <= 1
    assert scratch.context(text, user="h", budget=50).tokens <= 50
    scratch.forget(kept.id, user="h")


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


@slow
@given(metadata=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), plain, max_size=5))
def test_any_metadata_comes_back_exactly_and_filters(metadata: dict[str, Any], scratch: Memory) -> None:
    kept = scratch.remember("with metadata", user="m", metadata=metadata)
    assert exactly(dict(scratch.get(kept.id, user="m").metadata), metadata)
    assert exactly(dict(kept.metadata), metadata)
    for key, value in metadata.items():
        if not isinstance(value, list | dict):
            assert kept.id in {record.id for record in scratch.find(user="m", metadata={key: value})}
    scratch.forget(kept.id, user="m")


class Shout(str):
    """A string of the caller's own kind, as enumerations of strings are."""


def test_strings_and_numbers_of_the_callers_own_kinds_are_kept_as_plain_ones(memory: Memory) -> None:
    kept = memory.remember(
        Shout("text"),
        user=Shout("ana"),
        id=Shout("an-id"),
        labels=[Shout("label")],
        metadata={Shout("key"): Shout("value"), "number": np.float64(1.5)},
    )
    again = memory.get("an-id", user="ana")
    assert again == kept and dict(again.metadata) == {"key": "value", "number": 1.5}
    assert memory.find(user=Shout("ana"), labels=Shout("label"), metadata={"key": Shout("value")}) == [kept]


def test_metadata_that_the_caller_changes_later_stays_as_it_was(memory: Memory) -> None:
    inner = [1, {"deep": "before"}]
    metadata = {"list": inner}
    kept = memory.remember("x", metadata=metadata)
    inner[1]["deep"] = "after"  # type: ignore[index]
    metadata["more"] = []
    assert dict(kept.metadata) == {"list": [1, {"deep": "before"}]} == dict(memory.get(kept.id).metadata)


def test_true_is_not_one_in_metadata(memory: Memory) -> None:
    kept = memory.remember("x", id="a", metadata={"flag": 1})
    assert memory.find(metadata={"flag": True}) == [] and memory.find(metadata={"flag": 1}) == [kept]
    assert isinstance(refused(memory.remember, "x", id="a", metadata={"flag": True}), Conflict)
    assert memory.revise("a", metadata={"flag": True}).metadata["flag"] is True
    assert memory.get("a").metadata["flag"] is True


# -- questions --------------------------------------------------------------------------------------------------------

QUERIES = [
    '"',
    '""',
    "'",
    "AND",
    "OR",
    "NOT",
    "NEAR(a b)",
    "a AND",
    "(",
    "((",
    ")",
    "*",
    "a*",
    "^a",
    "a:b",
    "text:bridge",
    "-bridge",
    "bridge -is",
    "bridge OR 1=1; --",
    "%",
    "_",
    "?",
    "💡",
    "🏳️‍🌈",
    "\x00",
    "bridge\x00bridge",
    "\\",
    "\n",
    "{}",
    "[]",
    "SELECT * FROM records",
    "bridge" * 1000,
    "the of and",
    "שלום",
    "İ",
    "ß",
    "1:·bridge",
    "1·bridge",
    "2024-13-45",
    "99999 years ago",
    "in 0000",
    "30 February",
    '"unclosed bridge',
    "`x`" * 50,
    "a" * 1_000_000,
    "bridge " * 200_000,
]


@pytest.mark.parametrize("query", [q for q in QUERIES if q.strip()], ids=lambda query: ascii(query)[:25])
def test_any_question_is_just_a_text(query: str, memory: Memory) -> None:
    memory.remember("The bridge is out", user="ana")
    memory.remember("Nothing to see", user="bob")
    hits = memory.recall(query, user="ana")
    assert set(texts(hits)) <= {"The bridge is out"}
    assert all(0 < hit.score <= 1 for hit in hits)
    assert memory.context(query, user="ana", budget=100).tokens <= 100


@pytest.mark.parametrize(
    "query",
    ["bridge?", "Who's at the bridge, Ana?", "bridge's", "'bridge'", "(bridge)", "bridge!!!", "BRIDGE", "the bridges"],
)
def test_the_punctuation_of_a_question_does_not_hide_the_answer(query: str, memory: Memory) -> None:
    memory.remember(["The bridge is out", "Lunch was late", "The cat sleeps"])
    assert texts(memory.recall(query, limit=1)) == ["The bridge is out"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("数据库需要备份", "备份"),
        ("데이터베이스를 백업하세요", "백업"),
        ("データベースの保存", "保存"),
        ("Die Straße ist gesperrt", "STRASSE"),
        ("El niño llegó", "nino llego"),
        ("हिन्दी में लिखा", "हिन्दी"),
        ("PR-2291 is merged", "PR-2291"),
        ("mail ana@example.org", "ana@example.org"),
        ("ﬁle is lost", "file"),
        ("v1.2.3 shipped", "v1.2.3"),
    ],
)
def test_words_are_found_in_any_language(text: str, query: str, memory: Memory) -> None:
    memory.remember(["something else entirely", text, "无关的内容", "12 other things"])
    assert texts(memory.recall(query, limit=1)) == [text]


def test_scores_lie_between_0_and_1_and_fall(meaning: Memory) -> None:
    meaning.remember(
        [f"The bridge number {n} over the river" for n in range(30)] + ["lunch", "bridge"], pinned=True, importance=10
    )
    for query in ("bridge", "bridge number 7", '"bridge number 7"', "lunch in the river", "zebra"):
        scores = [hit.score for hit in meaning.recall(query, limit=50)]
        assert scores == sorted(scores, reverse=True) and all(0 < score <= 1 for score in scores), query


@pytest.mark.parametrize("fixture", ["memory", "meaning"])
def test_the_shares_of_an_explanation_sum_to_about_the_score(fixture: str, request: pytest.FixtureRequest) -> None:
    memory = request.getfixturevalue(fixture)
    memory.remember(["The bridge is out", "A bridge over the river", "lunch was late"], at=JUNE)
    memory.remember(
        [{"role": "user", "content": "Is the bridge out?"}, {"role": "assistant", "content": "Yes, it is."}]
    )
    hits = memory.recall("is the bridge out", explain=True)
    assert hits
    for hit in hits:
        assert hit.why and sum(factor.share for factor in hit.why) == pytest.approx(hit.score, rel=0.15)
        assert all(0 <= factor.value <= 1 + 1e-9 and factor.share >= 0 for factor in hit.why)
    assert not any(hit.why for hit in memory.recall("is the bridge out"))


@pytest.mark.parametrize("unrelated", ["Unrelated matter number {}", "The meter of verse number {}"])
def test_a_pinned_unrelated_record_never_displaces_a_relevant_one(unrelated: str, memory: Memory) -> None:
    memory.remember([unrelated.format(n) for n in range(4)], pinned=True, importance=10)
    memory.remember([f"Quite another matter of {n} other days" for n in range(60)])
    memory.remember("The gas meter is behind the green door", importance=1, at=JUNE - 900 * DAY)
    assert texts(memory.recall("where is the gas meter", limit=1)) == ["The gas meter is behind the green door"]


def test_what_is_old_and_relevant_is_found_among_two_thousand_newer(meaning: Memory) -> None:
    meaning.remember("Grandmother hid the silver key in the clock", at=JUNE - 3000 * DAY)
    meaning.remember(
        [
            {"content": f"Today was day {n} at the office", "role": "user", "at": JUNE + n * timedelta(minutes=9)}
            for n in range(2000)
        ]
    )
    assert texts(meaning.recall("where is the silver key", limit=3))[0] == "Grandmother hid the silver key in the clock"
    assert meaning.stats()["vectors"] >= 2001


def test_near_duplicates_collapse_into_one_hit_that_names_the_others(memory: Memory) -> None:
    same = [memory.remember(text) for text in ("The bridge is out", "the BRIDGE  is out", "The bridge is out")]
    other = memory.remember("Take the bridge home")
    hits = memory.recall("bridge", limit=2)
    assert {hit.id for hit in hits} & {record.id for record in same} and other.id in {hit.id for hit in hits}
    [stood] = [hit for hit in hits if hit.also]
    assert {stood.id, *stood.also} == {record.id for record in same}


@pytest.mark.parametrize("copies", [60, 250])
def test_a_flood_of_the_same_text_does_not_hide_the_rest(copies: int, memory: Memory) -> None:
    memory.remember(["the bridge is out"] * copies)
    memory.remember(
        ["the ferry sails instead of the bridge, says the harbour master", "a new bridge costs nine million euros"]
    )
    found = texts(memory.recall("the bridge is out", limit=10))
    assert found[0] == "the bridge is out" and len(found) == 3


# -- whose it is ------------------------------------------------------------------------------------------------------

SECRET = "alice keeps the zirconium key under the mat"
OTHERS: dict[str, tuple[dict[str, str], dict[str, str]]] = {  # what alice says of herself, and what mallory says
    "another user": ({"user": "alice"}, {"user": "mallory"}),
    "a user whose name begins the same": ({"user": "alice"}, {"user": "ali"}),
    "a user of other case": ({"user": "alice"}, {"user": "Alice"}),
    "a user with an injected name": ({"user": "alice"}, {"user": "alice' OR '1'='1"}),
    "a user with a pattern": ({"user": "alice"}, {"user": "ali%"}),
    "another tenant": ({"user": "alice", "tenant": "one"}, {"user": "alice", "tenant": "two"}),
    "no tenant named": ({"user": "alice", "tenant": "one"}, {"user": "alice"}),
    "another space": ({"user": "alice", "space": "one"}, {"user": "alice", "space": "two"}),
    "no space named": ({"user": "alice", "space": "one"}, {}),
    "another session": ({"user": "alice", "session": "one"}, {"user": "alice", "session": "two"}),
    "another agent": ({"user": "alice", "agent": "one"}, {"user": "alice", "agent": "two"}),
}


@pytest.mark.parametrize("who", OTHERS)
def test_nobody_reaches_what_is_anothers_by_any_method(who: str, meaning: Memory) -> None:
    alice, mallory = OTHERS[who]
    kept = meaning.remember(
        SECRET, labels="private", folder="home", pinned=True, importance=10, metadata={"a": 1}, **alice
    )
    whole = kept.part_of
    before = meaning.history(kept.id, **alice)
    for name in BY_ID:
        more = ("other",) if name == "supersede" else ()
        for id in filter(None, (kept.id, whole)):
            changes = {"text": "mine now"} if name == "revise" else {}
            assert isinstance(refused(getattr(meaning, name), id, *more, **changes, **mallory), NotFound), name
    filters: list[dict[str, Any]] = [
        {},
        {"archived": True},
        {"pinned": True},
        {"labels": "private"},
        {"folder": "home"},
        {"metadata": {"a": 1}},
        {"as_of": JUNE + 9999 * DAY},
        {"shared": False},
        {"importance_min": 1},
        {"kinds": ["note", "message", "conversation"]},
    ]
    for narrower in filters:
        assert meaning.recall(SECRET, **narrower, **mallory) == []
        assert meaning.context(SECRET, **narrower, **mallory).citations == ()
        assert meaning.find(**narrower, **mallory) == [] and meaning.count(**narrower, **mallory) == 0
        assert meaning.conversations(**narrower, **mallory) == []
    if whole:
        assert meaning.find(conversation=whole, **mallory) == []
    exported = meaning.export("everything.jsonl", **mallory)
    assert b"zirconium" not in exported.read_bytes() and kept.id.encode() not in exported.read_bytes()
    refused(meaning.forget, everything=True, **mallory)
    assert meaning.history(kept.id, **alice) == before


def test_what_is_shared_is_seen_by_all_and_forgotten_by_no_user(memory: Memory) -> None:
    shared = memory.remember("The office closes at six")
    mine = memory.remember("I leave at five", user="ana")
    assert {record.id for record in memory.find(user="ana")} == {shared.id, mine.id}
    assert memory.find(user="ana", shared=False) == [mine]
    assert memory.find(user="bob") == [shared]
    assert memory.forget(user="ana").ids == (mine.id,)
    assert memory.find() == [shared]


def test_parts_of_a_shared_whole_stay_their_owners(memory: Memory) -> None:
    whole = memory.remember("The team's notebook")
    memory.remember(SECRET, part_of=whole.id, user="alice")
    bobs = memory.remember("bob's line", part_of=whole.id, user="bob")
    assert memory.messages(whole.id, user="bob") == [bobs]


def test_nobody_puts_words_into_anothers_conversation(memory: Memory) -> None:
    talk = memory.remember([{"role": "user", "content": "hello"}], user="alice", session="s")[0].part_of
    assert talk
    with contextlib.suppress(SimonidesError):
        memory.remember("alice agreed to pay", part_of=talk, user="mallory", role="assistant")
    assert texts(memory.messages(talk, user="alice")) == ["hello"]


def test_the_title_of_anothers_conversation_is_not_given_away(memory: Memory) -> None:
    talk = memory.remember("hello", user="alice", session="s", title="Divorce papers").part_of
    with contextlib.suppress(SimonidesError):
        memory.remember("a bridge", part_of=talk, user="mallory")
    assert all(hit.title is None for hit in memory.recall("bridge", user="mallory"))
    assert "Divorce" not in memory.context("bridge", user="mallory").text


def test_nobody_erases_what_is_anothers_through_parts_or_links(memory: Memory) -> None:
    alices = memory.remember(SECRET, user="alice")
    for link in ({"part_of": alices.id}, {"links": [Link("derived_from", alices.id)]}):
        try:
            trap = memory.remember("a trap", user="mallory", **link)
        except SimonidesError:
            continue
        memory.forget(trap.id, user="mallory")
        assert memory.get(alices.id, user="alice") == alices


def test_a_shared_conversation_stays_when_one_users_part_of_it_goes(memory: Memory) -> None:
    whole = memory.remember("The team's notebook")
    memory.remember("only line so far", part_of=whole.id, user="ana")
    memory.forget(user="ana")
    assert memory.find() == [whole]


def test_the_same_id_lives_once_in_every_tenant_and_space(memory: Memory) -> None:
    places = [{}, {"tenant": "t"}, {"space": "s"}, {"tenant": "t", "space": "s"}]
    for n, place in enumerate(places):
        memory.remember(f"text {n}", id="same", **place)
    assert [memory.get("same", **place).text for place in places] == [f"text {n}" for n in range(4)]
    memory.forget("same", tenant="t")
    assert isinstance(refused(memory.get, "same", tenant="t"), NotFound)
    assert [memory.get("same", **place).text for place in (places[0], *places[2:])] == ["text 0", "text 2", "text 3"]


def test_somebody_elses_id_cannot_be_taken_over(memory: Memory) -> None:
    memory.remember(SECRET, id="mine", user="alice")
    error = refused(memory.remember, SECRET, id="mine", user="mallory")
    assert isinstance(error, Conflict) and "zirconium" not in str(error) and "alice" not in str(error)


# -- filters ----------------------------------------------------------------------------------------------------------


def test_every_filter_holds_on_every_way_of_finding(meaning: Memory) -> None:
    hit = {
        "labels": ["a", "b"],
        "folder": "work/bridge",
        "importance": 8,
        "pinned": True,
        "metadata": {"k": "v"},
        "source": "mail",
    }
    right = meaning.remember("bridge PR-2291 here", at=JUNE, **hit)
    wrong = {
        "labels": ["a"],
        "folder": "workshop",
        "importance": 7,
        "pinned": False,
        "metadata": {"k": "w"},
        "source": "web",
    }
    for name, value in wrong.items():
        meaning.remember(f"bridge PR-2291 here, not the {name}", at=JUNE, **{**hit, name: value})
    meaning.remember("bridge PR-2291 here, not then", at=JUNE + 2 * DAY, **hit)
    meaning.remember("bridge PR-2291 here, not outside", at=JUNE, **{**hit, "folder": "work/road/old"})
    asked: dict[str, Any] = {
        "labels": ["a", "b"],
        "folder": "work",
        "outside": ["work/road", "home"],
        "importance_min": 8,
        "pinned": True,
        "metadata": {"k": "v"},
        "sources": "mail",
        "since": JUNE,
        "until": JUNE + DAY,
    }
    for query in ("bridge", '"PR-2291"', "bridge in June 2026", "something unrelated"):
        assert {each.id for each in meaning.recall(query, **asked)} <= {right.id}
    assert [each.id for each in meaning.recall("bridge", **asked)] == [right.id]
    assert meaning.find(**asked) == [right] and meaning.count(**asked) == 1
    for name in asked:
        fewer = {key: value for key, value in asked.items() if key != name and not (name == "since" and key == "x")}
        assert right in meaning.find(**fewer)


def test_the_archived_is_found_only_when_asked_for(meaning: Memory) -> None:
    kept = meaning.remember("the old bridge plan", pinned=True)
    meaning.revise(kept.id, archived=True)
    assert meaning.recall("old bridge plan") == [] and meaning.find() == [] and meaning.find(pinned=True) == []
    assert (
        texts(meaning.recall("bridge", archived=True)) == texts(meaning.find(archived=True)) == ["the old bridge plan"]
    )
    meaning.revise(kept.id, archived=False)
    assert texts(meaning.recall("bridge")) == ["the old bridge plan"]


def test_paging_gives_every_record_once(memory: Memory) -> None:
    memory.remember([f"note {n}" for n in range(23)], at=JUNE)  # all at the same moment
    memory.remember([f"later {n}" for n in range(4)], at=JUNE + DAY)
    for newest in (True, False):
        paged: list[Record] = []
        while page := memory.find(limit=5, newest=newest, after=paged[-1] if paged else None):
            paged += page
        assert paged == memory.find(newest=newest) and len(paged) == 27


def test_paging_through_what_was_believed_gives_every_record_once(memory: Memory) -> None:
    kept = [memory.remember(f"note {n}", at=JUNE + n * DAY) for n in range(6)]
    then = memory.find(limit=1)[0].known.since
    for record in kept[::2]:
        memory.revise(record.id, at=JUNE - 100 * DAY)
    paged: list[Record] = []
    while page := memory.find(limit=1, known_at=then, after=paged[-1].id if paged else None):
        paged += page
    assert texts(paged) == [f"note {n}" for n in (5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize("newest", [True, False])
def test_a_page_can_be_turned_although_its_last_record_was_forgotten_meanwhile(memory: Memory, newest: bool) -> None:
    memory.remember([f"note {n}" for n in range(6)], at=JUNE)
    whole = memory.find(newest=newest)
    page = memory.find(limit=3, newest=newest)
    place = Place.read(str(Place.of(page[-1])))
    memory.forget(page[-1].id)
    for after in (page[-1], place):
        assert memory.find(newest=newest, after=after) == whole[3:]
    error = refused(memory.find, newest=newest, after=page[-1].id)  # an empty page would mean that there is no more
    assert isinstance(error, NotFound)


def test_conversations_come_in_pages_too(memory: Memory) -> None:
    for n in range(5):
        memory.remember("hello", session=str(n), at=JUNE + n * DAY)
    whole, paged = memory.conversations(), list[Record]()
    while page := memory.conversations(limit=2, after=paged[-1] if paged else None):
        paged += page
    assert paged == whole and len(paged) == 5


def test_a_page_behind_another_users_record_shows_nothing_of_theirs(memory: Memory) -> None:
    hers, mine = memory.remember("hers", user="ana", at=JUNE), memory.remember("mine", user="bo", at=JUNE - DAY)
    assert memory.find(user="bo", after=hers) == [mine]
    assert isinstance(refused(memory.find, user="bo", after=hers.id), NotFound)


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(1, 2**63 - 1),
)
def test_a_place_is_read_back_from_what_it_prints(at: datetime, id: str, version: int) -> None:
    place = Place(at, id, version)
    assert Place.read(str(place)) == place
    assert re.fullmatch(r"[\w=-]+", str(place), re.ASCII)


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_what_is_no_place_is_refused(text: str) -> None:
    assert isinstance(refused(Place.read, text), Invalid)


# -- two clocks -------------------------------------------------------------------------------------------------------


def test_what_is_no_longer_true_is_found_only_when_the_past_is_asked_for(meaning: Memory) -> None:
    rome = meaning.remember("Ana works in Rome at the harbour", at=JUNE)
    meaning.supersede(rome.id, "Ana works in Oslo at the harbour", at=JUNE + 10 * DAY)
    lie = meaning.remember("Ana works on the Moon at the harbour", at=JUNE)
    before = meaning.get(lie.id).known.since
    meaning.retract(lie.id)
    meaning.remember("Ana works in Bonn at the harbour", at=JUNE - 9 * DAY, ends=JUNE - DAY)
    for limit in (1, 10):
        for query in ("where does Ana work, at the harbour", "Ana Rome Moon Bonn harbour"):
            assert texts(meaning.recall(query, limit=limit)) == ["Ana works in Oslo at the harbour"]
    assert texts(meaning.find()) == ["Ana works in Oslo at the harbour"]
    past = set(texts(meaning.recall("Ana works harbour", as_of=JUNE + DAY)))
    assert past == {"Ana works in Rome at the harbour"}
    assert texts(meaning.recall("Ana works harbour", as_of=JUNE - 5 * DAY)) == ["Ana works in Bonn at the harbour"]
    assert "Ana works on the Moon at the harbour" in texts(meaning.recall("Ana works harbour", known_at=before))
    assert meaning.get(lie.id).valid.until is not None


def test_what_was_believed_then_is_found_by_words_and_by_meaning(meaning: Memory) -> None:
    kept = meaning.remember("the treasure lies beneath the sycamore")
    first = meaning.get(kept.id).known.since
    meaning.revise(kept.id, text="the chest stands behind the waterfall")
    [old] = meaning.recall("sycamore treasure", known_at=first)
    assert old.text == "the treasure lies beneath the sycamore" and {"words", "near"} <= set(old.by)
    [new] = meaning.recall("waterfall chest")
    assert new.text == "the chest stands behind the waterfall" and new.record.version == 2
    assert "treasure" not in " ".join(texts(meaning.recall("sycamore treasure")))


def test_a_correction_beats_the_corrected_for_ever(memory: Memory) -> None:
    text = "Ana's favourite colour is {}"
    current = memory.remember(text.format("colour 0"), pinned=True, importance=10)
    for n in range(1, 12):
        current = memory.supersede(current.id, text.format(f"colour {n}"))
        for query in ("Ana's favourite colour", f"favourite colour {n - 1}", text.format("colour 0")):
            assert texts(memory.recall(query)) == [text.format(f"colour {n}")]
    assert memory.count() == 1


def test_what_ended_cannot_be_superseded_before_it_began(memory: Memory) -> None:
    kept = memory.remember("x", at=JUNE)
    assert isinstance(refused(memory.supersede, kept.id, "y", at=JUNE - DAY), Conflict)
    memory.retract(kept.id)
    assert isinstance(refused(memory.supersede, kept.id, "y"), Conflict)
    assert memory.retract(kept.id) == memory.get(kept.id)


def test_a_superseding_message_keeps_what_it_says_of_itself(memory: Memory) -> None:
    old = memory.remember("Ana lives in Porto", labels="old", at=JUNE)
    try:
        new = memory.supersede(
            old.id, {"role": "user", "content": "Ana lives in Lisbon", "at": JUNE + DAY, "labels": ["new"]}
        )
    except SimonidesError:
        return  # said plainly; dropped silently is the one thing it must not be
    assert new.valid == Span(JUNE + DAY) and "new" in new.labels


# -- writing twice ----------------------------------------------------------------------------------------------------

TWICE: dict[str, tuple[Any, dict[str, Any]]] = {
    "a note": ("text", {"id": "one"}),
    "a note with everything": (
        "text",
        {"id": "one", "labels": ["b", "a"], "metadata": {"x": (1, 2)}, "folder": "a/b", "at": JUNE},
    ),
    "a message": ("text", {"id": "one", "role": "user"}),
    "a message in a session": ("text", {"id": "one", "session": "s", "user": "ana"}),
    "a message as a dict": ({"role": "user", "content": "text", "id": "one"}, {}),
    "messages without times": (
        [{"role": "user", "content": "a", "id": "1"}, {"role": "user", "content": "b", "id": "2"}],
        {},
    ),
    "messages in a session": ([{"role": "user", "content": "a", "id": "1"}], {"session": "s"}),
    "messages with times": ([{"role": "user", "content": "a", "id": "1", "at": JUNE}], {"session": "s"}),
}


@pytest.mark.parametrize("what", TWICE)
def test_the_same_write_twice_is_one(what: str, memory: Memory) -> None:
    content, named = TWICE[what]
    first = memory.remember(content, **named)
    lines = memory.stats()["changes"]
    assert memory.remember(content, **named) == first
    assert memory.stats()["changes"] == lines and memory.stats()["records"] == memory.stats()["versions"]


def test_other_content_under_the_same_id_is_a_conflict(memory: Memory) -> None:
    first = memory.remember("text", id="one")
    for text, named in [
        ("other", {}),
        ("text", {"labels": "x"}),
        ("text", {"importance": 9}),
        ("text", {"user": "ana"}),
        ("text ", {}),
    ]:
        assert isinstance(refused(memory.remember, text, id="one", **named), Conflict)
    assert memory.history("one") == [first]


def test_a_retry_after_a_revision_neither_undoes_nor_doubles_it(memory: Memory) -> None:
    first = memory.remember("text", id="one")
    second = memory.revise("one", text="better text")
    assert memory.remember("text", id="one").text == "text"
    assert texts(memory.history("one")) == [first.text, second.text]


def test_a_revision_of_another_version_is_a_conflict(memory: Memory) -> None:
    kept = memory.remember("text")
    memory.revise(kept.id, text="newer", version=1)
    assert isinstance(refused(memory.revise, kept.id, text="lost", version=1), Conflict)
    assert isinstance(refused(memory.revise, kept.id, text="lost", version=3), Conflict)
    assert isinstance(refused(memory.revise, kept.id, text="lost", version="2"), SimonidesError)
    assert memory.revise(kept.id, text="newest", version=2).version == 3


def test_a_revision_that_changes_nothing_writes_nothing(memory: Memory) -> None:
    kept = memory.remember("text", labels=["a"], folder="x")
    assert memory.revise(kept.id) == kept == memory.revise(kept.id, text="text", labels="a", folder="x")
    assert memory.revise(kept.id, folder="").folder is None
    assert memory.stats()["versions"] == 2


async def test_of_two_revisions_at_once_one_wins_and_one_hears_of_it(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        kept = await memory.remember("text")
        said = await asyncio.gather(
            *(memory.revise(kept.id, text=f"text {n}", version=1) for n in range(8)), return_exceptions=True
        )
        won = [each for each in said if isinstance(each, Record)]
        assert len(won) == 1 and all(isinstance(each, Conflict) for each in said if not isinstance(each, Record))
        assert await memory.get(kept.id) == won[0]


def test_a_record_with_ten_thousand_versions_can_still_be_read_and_revised(home: Path) -> None:
    many = 10_001
    start = datetime(2020, 1, 1, tzinfo=UTC)
    versions = (
        Record(
            scope=Scope(),
            id="counter",
            body=Note(text=f"seen {n} times"),
            version=n,
            known=Span(start + n * DAY / 24, start + (n + 1) * DAY / 24 if n < many else None),
        )
        for n in range(1, many + 1)
    )
    with Memory(":memory:") as memory:
        memory.restore(versions)
        assert memory.get("counter").text == f"seen {many} times"
        assert memory.revise("counter", text="seen once more").version == many + 1


# -- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_that_another_process_forgot_begins_anew(home: Path) -> None:
    with Memory("me.db") as one, Memory("me.db") as other:
        one.remember("hello", session="s", user="ana")
        other.forget(session="s", user="ana")
        kept = one.remember("hello again", session="s", user="ana")
        [talk] = one.conversations(user="ana")
        assert kept.part_of == talk.id and one.messages(talk.id, user="ana") == [kept]


def test_a_session_whose_conversation_came_from_elsewhere_goes_on_in_it(memory: Memory) -> None:
    from simonides import Conversation

    scope = Scope(user="ana", session="s")
    memory.keep([Record(scope=scope, id="theirs", body=Conversation(text="Imported", session="s"), source="import")])
    kept = memory.remember("hello", session="s", user="ana")
    assert kept.part_of and memory.messages(kept.part_of, user="ana") == [kept]


def test_labels_that_can_be_read_but_once_are_those_of_every_text(memory: Memory) -> None:
    kept = memory.remember(["one", "two"], labels=iter(["b", "a"]))
    assert [record.labels for record in kept] == [("a", "b"), ("a", "b")]


def test_the_same_session_name_of_two_users_is_two_conversations(memory: Memory) -> None:
    ana = memory.remember("ana's", session="1", user="ana")
    bob = memory.remember("bob's", session="1", user="bob")
    assert ana.part_of != bob.part_of
    assert texts(memory.messages(str(ana.part_of), user="ana")) == ["ana's"]


# -- later ------------------------------------------------------------------------------------------------------------


async def test_what_is_remembered_unsettled_is_found_by_words_at_once_and_by_meaning_after_settling(home: Path) -> None:
    async with AsyncMemory("me.db", embedder="hashing:", settled=False) as memory:
        kept = await memory.remember([f"the bridge number {n}" for n in range(20)])
        assert (await memory.recall("bridge", limit=20)) != []
        await memory.settle()
        assert (await memory.stats())["vectors"] == len(kept) and await memory.doctor() == []
        assert all("near" in hit.by for hit in await memory.recall("bridge", limit=20))


async def test_what_is_remembered_while_the_followers_read_is_read_after_it(home: Path) -> None:
    away = Away()
    away.back, reading, go_on = True, asyncio.Event(), asyncio.Event()
    embed = away.embed

    async def slowly(texts: Any, *, query: bool = False) -> Any:
        reading.set()
        await go_on.wait()
        return await embed(texts)

    away.embed = slowly  # type: ignore[method-assign]
    async with AsyncMemory("me.db", embedder=away, settled=False) as memory:
        await memory.remember("the bridge is out")
        await reading.wait()
        await memory.remember("the ferry goes")
        go_on.set()
    async with AsyncMemory("me.db", embedder="none") as memory:
        assert (await memory.stats())["vectors"] == 2


@pytest.mark.parametrize("url", ["me.db", ":memory:"])
async def test_a_recall_reads_the_log_only_where_something_was_written(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    changes = SqliteStore.changes

    async def counted(store: SqliteStore, *, after: int = 0, limit: int = 100) -> Any:
        read.append(after)
        return await changes(store, after=after, limit=limit)

    monkeypatch.setattr(SqliteStore, "changes", counted)
    async with AsyncMemory(url, embedder="hashing:") as memory:
        await memory.remember("the bridge is out")
        read.clear()
        for _ in range(3):
            assert "near" in (await memory.recall("bridge"))[0].by
        assert read == []
        ferry = await memory.remember("the ferry goes")  # embedded ahead, and written together with its vectors
        assert "near" in (await memory.recall("ferry"))[0].by
        assert read == []
        await memory.forget(ferry.id)
        assert read == [2]


async def test_what_another_memory_writes_is_found_by_the_next_recall_by_meaning(home: Path) -> None:
    async with AsyncMemory("me.db", embedder="hashing:") as mine, AsyncMemory("me.db", embedder="none") as theirs:
        for number in range(5):
            await theirs.remember(f"the bridge number {number}")
            hits = await mine.recall("bridge number", limit=20)
            assert len(hits) == number + 1 and all("near" in hit.by for hit in hits)


def test_what_was_unsettled_when_the_memory_closed_is_caught_up_later(home: Path) -> None:
    with Memory("me.db") as memory:  # without an embedder
        memory.remember([f"the bridge number {n}" for n in range(20)])
    with Memory("me.db", embedder="hashing:") as memory:
        assert all("near" in hit.by for hit in memory.recall("bridge", limit=20))
        assert memory.stats()["vectors"] == 20 and memory.doctor() == []


def test_two_embedders_never_mix(home: Path) -> None:
    for embedder in ("hashing:", "hashing:?dimension=64", "hashing:"):
        with Memory("me.db", embedder=embedder) as memory:
            memory.remember(f"the bridge, said with {embedder}")
            assert memory.recall("bridge")[0].by and memory.doctor() == []


class Away:
    """An embedder whose server is away until it is back."""

    name, dimension, max_tokens, unrelated = "away", 8, 100, 0.0

    def __init__(self) -> None:
        self.back = False

    async def embed(self, texts: Any, *, query: bool = False) -> Any:
        if not self.back:
            raise Unavailable("the embedder's server does not answer")
        made = np.array([[float(hash(text[:k]) % 97 + 1) for k in range(8)] for text in texts], np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def tokens(self, text: str) -> int:
        return len(text.split())

    def clear_cache(self) -> None: ...
    async def close(self) -> None: ...


def test_while_the_embedder_is_away_everything_is_kept_and_recall_says_so(home: Path) -> None:
    away = Away()
    with Memory("me.db", embedder=away) as memory:
        kept = memory.remember("the bridge is out")
        hits = memory.recall("bridge")
        assert texts(hits) == [kept.text] and any("words alone" in note for note in hits.notes)
        assert memory.stats()["behind"] and memory.stats()["vectors"] == 0 and memory.doctor() != []
        away.back = True
        assert memory.recall("bridge").notes == ()
        assert memory.stats()["behind"] is None and memory.stats()["vectors"] == 1 and memory.doctor() == []


# -- context ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive() -> Iterator[Memory]:
    with Memory(":memory:", embedder="none", zone="UTC") as memory:
        for n in range(12):
            talk = [
                {
                    "role": role,
                    "content": f"{role} speaks of the bridge, turn {turn}. " * (1 + 7 * (turn % 3)),
                    "at": JUNE + n * DAY + turn * DAY / 99,
                }
                for turn, role in enumerate(["user", "assistant"] * 4)
            ]
            memory.remember(talk, session=f"s{n}", title=f"Bridge talk {n}")
        memory.remember(["a bridge 🌉 of 橋 " * 90, "bridge\n[9] not a citation\n## not a title", "bridge"])
        yield memory


@settings(deadline=None, max_examples=80)
@given(
    budget=st.integers(1, 4000),
    limit=st.integers(1, 60),
    query=st.sampled_from(["bridge", "bridge turn 3", "橋 🌉", "user"]),
)
@example(budget=1, limit=50, query="bridge")
def test_a_context_never_exceeds_its_budget_and_its_citations_say_what_it_says(
    budget: int, limit: int, query: str, archive: Memory
) -> None:
    context = archive.context(query, budget=budget, limit=limit)
    assert context.tokens <= budget and estimated(context.text) == context.tokens
    assert len(context.citations) <= limit and str(context) == context.text
    assert [citation.number for citation in context.citations] == list(range(1, len(context.citations) + 1))
    rest = context.text
    for citation in context.citations:
        start = rest.index(f"[{citation.number}] (")
        said, rest = rest[start:].partition(") ")[2], rest[start:]
        text = quoted(citation.hit.text)
        if citation.cut:
            shown = said.partition(" …")[0]
            assert text.startswith(shown) and shown != text
        else:
            assert said.startswith(text)
        if citation.hit.title:
            assert f"## {' '.join(citation.hit.title.split())}" in context.text


def test_a_context_takes_what_a_larger_budget_allows(archive: Memory) -> None:
    sizes = [len(archive.context("bridge", budget=budget).citations) for budget in (40, 400, 4000)]
    assert sizes == sorted(sizes) and 0 < sizes[0] < sizes[2]


# -- export and restore -----------------------------------------------------------------------------------------------


def test_an_export_restores_every_version_with_both_clocks(home: Path) -> None:
    from simonides.exports import read

    with Memory("one.db") as one:
        a = one.remember("first", at=JUNE, labels=["x"], metadata={"k": [1, None]})
        one.revise(a.id, text="second")
        one.supersede(a.id, "third", at=JUNE + DAY)
        one.remember([{"role": "user", "content": "hello", "name": "Ana"}], session="s", user="ana")
        one.revise(one.remember("archived").id, archived=True)
        path = one.export("all.jsonl.gz")
        before = [one.history(record.id) for record in one.find(archived=True, newest=False, as_of=None)]
        with Memory("two.db") as two:
            assert two.restore(read(path)) == one.stats()["versions"]  # type: ignore[arg-type]
            assert [two.history(versions[0].id) for versions in before] == before
            assert two.restore(read(path)) == 0 and two.doctor() == []  # type: ignore[arg-type]


def test_an_export_without_a_path_goes_beside_the_store(home: Path) -> None:
    with Memory("me.db") as memory:
        memory.remember("text")
        path = memory.export()
        assert path.parent == home / "me.db-files" / "exports" and path.exists()
    with Memory(":memory:") as memory:
        assert isinstance(refused(memory.export), Invalid)


@pytest.mark.parametrize("first", [True, False])
def test_an_export_of_what_matches_can_be_restored(first: bool, home: Path) -> None:
    """A record whose versions differ in what is filtered by is exported whole, or not at all."""
    from simonides.exports import read

    with Memory("one.db") as one:
        kept = one.remember("text", labels=["x"] if first else [])
        one.revise(kept.id, labels=["y"] if first else ["x"])
        path = one.export("some.jsonl", labels="x")
    with Memory("two.db") as two:
        two.restore(read(path))  # type: ignore[arg-type]
        assert two.doctor() == [] and len(two.find()) == (0 if two.count() == 0 else 1)
        if not first:
            assert [record.version for record in two.history(kept.id)] == [1, 2]


# -- what a slip must not cost ----------------------------------------------------------------------------------------

SLIPS: dict[str, dict[str, Any]] = {
    "no labels": {"labels": []},
    "no kinds": {"kinds": ()},
    "no sources": {"sources": []},
    "outside of nothing": {"outside": []},
    "no metadata": {"metadata": {}},
    "archived only": {"archived": True},
    "not the archived": {"archived": False},
    "what was true then": {"as_of": JUNE},
    "what was believed then": {"known_at": JUNE},
    "nobody": {"user": None},
    "no session": {"session": None, "labels": None},
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_filter_that_says_nothing_never_erases_everything(slip: str, memory: Memory) -> None:
    memory.remember(["one", "two"], user="ana", labels="x")
    memory.remember("three", at=JUNE + 30 * DAY)
    for dry_run in (True, False):
        try:
            gone = memory.forget(dry_run=dry_run, **SLIPS[slip])  # type: ignore[call-overload]
        except SimonidesError:
            continue
        assert gone.count == 0
    assert memory.count() == 3


@pytest.mark.skipif(sys.platform == "win32", reason="the zone database of the system")
def test_a_day_begins_where_the_caller_is(home: Path) -> None:
    with Memory("me.db", zone="Pacific/Auckland") as memory:
        kept = memory.remember("new year", at=date(2026, 1, 1))
        assert kept.valid.since == datetime(2025, 12, 31, 11, tzinfo=UTC)
        assert memory.find(since="2026-01-01", until="2026-01-02") == [kept]
        assert memory.find(since="2026-01-02") == []
