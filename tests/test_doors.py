"""What no key may do, whatever it sends: each test is an attack that worked once, or nearly did."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from simonides import AsyncMemory
from simonides.access import Permit, Principal
from simonides.api import OPERATIONS, Desk
from simonides.api.operation import granted
from simonides.api.streams import Events, Export, Import, events, export, take_in
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.errors import Conflict, SimonidesError, Unauthorized
from simonides.exports import header, line
from simonides.kinds import Note
from simonides.record import Record, Scope, Span, now

MINE = Permit.READ | Permit.WRITE | Permit.ERASE
MALLORY = Principal(name="k", tenant="default", user="mallory", permits=MINE)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with AsyncMemory(":memory:", embedder="hashing:") as memory:
        yield Desk(memory)


async def imported(desk: Desk, folder: Path, *records: Record, who: Principal = MALLORY) -> dict[str, Any]:
    path = folder / "sent"
    path.write_bytes(b"\n".join([header(), *map(line, records)]) + b"\n")
    return await take_in(path, "sent", granted(desk, who, Import(), Permit.WRITE))


# -- what a file says of itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [Span(), Span(since=now())], ids=["new", "restored"])
async def test_an_import_reaches_no_record_of_another_user(desk: Desk, tmp_path: Path, known: Span) -> None:
    kept = await desk.memory.remember("what ana earns", id="salary", user="ana")
    shared = await desk.memory.remember("what all may know", id="rules")
    mine = Scope(tenant="default", space="main", user="mallory")
    for id in ("salary", "rules"):
        for version in (1, 2, 3):
            forged = Record(scope=mine, body=Note(text="forged"), id=id, version=version, known=known)
            with pytest.raises(Conflict):
                await imported(desk, tmp_path, forged)
    assert await desk.memory.history("salary", user="ana") == [kept]
    assert await desk.memory.history("rules") == [shared]
    assert [each["id"] for each in (await OPERATIONS["versions"](desk, MALLORY, {}))["results"]] == ["rules"]


async def test_an_import_brings_in_nothing_that_cannot_be_kept(desk: Desk, tmp_path: Path) -> None:
    scope = Scope(tenant="default", space="main", user="mallory")
    fine = Record(scope=scope, body=Note(text="fine"), known=Span(since=now()))
    odd = [{"importance": 2**70}, {"importance": 0}, {"status": "lost"}, {"version": 2**70}, {"version": 0}]
    found = await imported(desk, tmp_path, fine, *(dataclasses.replace(fine, id="odd", **each) for each in odd))
    assert (found["new"], found["problems_count"]) == (1, len(odd))


# -- what a permit opens -------------------------------------------------------------------------------------------


async def test_who_may_only_write_or_erase_is_shown_nothing_but_what_they_sent(desk: Desk) -> None:
    memory, secret = desk.memory, "the code of the safe"
    note = await memory.remember(secret, labels=[secret], metadata={"a": secret}, folder=secret)
    talk = await memory.remember(
        [{"role": "user", "content": secret}], title=secret, session="s", labels=[secret], folder=secret
    )
    whole = str(talk[0].part_of)
    for permits in (Permit.WRITE, Permit.ERASE, Permit.WRITE | Permit.ERASE, Permit.ADMIN):
        who = Principal(name="blind", tenant="default", permits=permits)
        for row in OPERATIONS.values():
            fields = row.takes.model_fields
            for id in (note.id, whole):
                asked: dict[str, Any] = {
                    "id": id, "ids": [id], "dry_run": True, "everything": True, "content": "x", "title": "x",
                    "messages": [{"content": "x"}], "label": "x", "folder": "x", "text": "x", "session": "s",
                    "name": "x", "texts": ["x"],
                }  # fmt: skip
                if row.name in ("remember", "begin_conversation"):
                    del asked["id"]
                if row.name == "revise":
                    del asked["text"]
                elif row.name == "get_conversation":
                    asked["messages"] = True
                elif row.destroys and "dry_run" not in fields:
                    continue
                try:
                    found = await row(desk, who, {name: value for name, value in asked.items() if name in fields})
                except SimonidesError as error:
                    found = {"error": str(error)}
                assert secret not in str(found), (row.name, permits)
    assert await memory.get(note.id) == note


async def test_who_may_only_write_hands_in_and_who_may_only_erase_erases(desk: Desk) -> None:
    writes, erases = (Principal(name=each.names[0], permits=each) for each in (Permit.WRITE, Permit.ERASE))
    talk = await OPERATIONS["begin_conversation"](desk, writes, {"messages": [{"content": "a figure"}]})
    note = (await OPERATIONS["remember"](desk, writes, {"content": "a note"}))["results"][0]
    assert (await OPERATIONS["erase"](desk, erases, {"id": note["id"]}))["certificate"]["count"] == 1
    assert (await OPERATIONS["forget"](desk, erases, {"ids": [talk["id"]]}))["certificate"]["count"] == 2


# -- what outlives a key -------------------------------------------------------------------------------------------


async def test_a_key_makes_none_that_outlives_it(desk: Desk) -> None:
    desk.directory = directory = MemoryDirectory()
    ends = now() + timedelta(days=1)
    for until, wanted in itertools.product((ends, None), (None, "2h", "90d")):
        grant = Grant(name="a", tenant="default", permits=MINE | Permit.ADMIN, expires=until)
        key, _ = await directory.make(grant)
        made = await OPERATIONS["make_key"](desk, key.principal, {"name": "b", "expires": wanted})
        expires = (await directory.get(made["key"]["id"])).expires
        assert until is None or (expires is not None and expires <= until)
        assert until is not None or (expires is None) == (wanted is None)


async def test_a_stream_ends_with_its_key(desk: Desk) -> None:
    desk.directory = directory = MemoryDirectory()
    key, _ = await directory.make(Grant(name="a", tenant="default", user="ana"))
    await desk.memory.remember([f"note {number}" for number in range(1200)], user="ana")
    told = events(asked := Events(after=0), granted(desk, key.principal, asked, Permit.READ))
    sent = export(whole := Export(), granted(desk, key.principal, whole, Permit.READ))
    assert [(await anext(told))["did"] for _ in range(500)] == ["written"] * 500
    assert [(await anext(sent)).count(b"\n") for _ in range(2)] == [33, 64]  # the header with the first
    await directory.revoke(key.id, now())
    for stream in (told, sent):
        with pytest.raises(Unauthorized):
            await anext(stream)
        await stream.aclose()
