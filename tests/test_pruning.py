"""What is out of use is proposed with its reasons, archived when asked, and brought back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw
import pytest
from common import DAY, JUNE, refused, texts
from hypothesis import given
from hypothesis import strategies as st

from simonides import AsyncMemory, Forbidden, Invalid, Link, Memory, NotFound, recalls
from simonides.access import Permit, Principal
from simonides.api import OPERATIONS, Desk
from simonides.pruning import STRENGTHS, Proposal, Thresholds, Whole, reasons, weighed
from simonides.record import Scope, now

OLD = "2024-03-01"
TALK = [{"role": "user", "content": "which train to Sintra?"}, {"role": "assistant", "content": "the 9:40"}]


@pytest.fixture
def memory(home: Path) -> Iterator[Memory]:
    with Memory("me.db", embedder="hashing:") as memory:
        yield memory


def proposed(memory: Any, **which: Any) -> list[str]:
    return [each.preview for each in memory.propose(**which)]


def why(proposal: Proposal) -> set[str]:
    return {factor.name for factor in proposal.why}


# -- what is proposed -------------------------------------------------------------------------------------------------


def test_an_old_conversation_that_matters_little_is_proposed_and_says_why(memory: Memory) -> None:
    memory.remember(TALK, session="trip", title="Sintra", at=OLD, importance=2)
    memory.remember("said today", importance=1)
    [found] = memory.propose()
    assert found.record.text == "Sintra" and found.record.kind == "conversation"
    assert (found.messages, found.preview, found.importance) == (2, "which train to Sintra?", 2)
    assert found.tokens == 8 and found.last_recalled is None
    assert why(found) == {"age", "unrecalled", "unimportant"}
    days = (now() - found.said).days
    assert str(found) == f"Last said {days:,} days ago; never recalled; of importance 2."
    assert 0 < found.score < 1 and found.score == pytest.approx(sum(factor.share for factor in found.why))


def test_what_is_new_pinned_or_important_is_not_proposed(memory: Memory) -> None:
    memory.remember("new")
    memory.remember("pinned", at=OLD, pinned=True)
    memory.remember("important", at=OLD, importance=6)
    memory.remember([{**TALK[0], "pinned": True}, TALK[1]], session="with a pin in it", at=OLD)
    memory.remember([{**TALK[0], "importance": 9}, "yes"], session="with something that matters", at=OLD)
    memory.remember(TALK, session="goes on", at=OLD)
    memory.remember("and another train?", session="goes on")
    assert memory.propose() == []
    assert set(proposed(memory, importance_threshold=6)) == {"important"}
    assert "new" in proposed(memory, threshold_days=0)


def test_what_was_recalled_lately_is_in_use(memory: Memory) -> None:
    memory.remember("the spare key is with Ana", at=OLD)
    memory.remember(TALK, session="trip", at=OLD)
    assert len(memory.propose()) == 2
    memory.recall("who has the spare key", limit=1)
    assert proposed(memory) == ["which train to Sintra?"]
    assert "which train" in memory.context("which train to Sintra", limit=1).text
    assert memory.propose() == []
    [key, trip] = sorted(memory.propose(threshold_days=0), key=lambda each: each.record.kind, reverse=True)
    assert key.last_recalled and trip.last_recalled and now() - key.last_recalled < timedelta(minutes=1)
    assert "last recalled today" in str(key)


def test_what_says_the_same_as_another_is_proposed_and_the_other_stays(memory: Memory) -> None:
    kept = memory.remember("The spare key is with Ana.", importance=8)
    twin = memory.remember("the  spare key is with ANA", at=OLD, importance=7)
    memory.remember("the spare key is with Ana", at=OLD, importance=7, user="bo")  # somebody else's
    memory.remember("the spare key is with Ana 2", at=OLD, importance=7)
    [found] = memory.propose()
    assert (found.id, found.instead) == (twin.id, kept.id)
    assert f"Says the same as {kept.id}" in str(found) and "duplicate" in why(found)


def test_of_conversations_that_say_the_same_one_stays(memory: Memory) -> None:
    for session, importance in (("first", 7), ("again", 6), ("other", 7)):
        said = [*TALK, *([{"role": "user", "content": "thanks"}] if session == "other" else [])]
        memory.remember(said, session=session, at=OLD, importance=importance)
    talks = {record.text: record.id for record in memory.conversations()}
    [found] = memory.propose()
    assert (found.id, found.instead) == (talks["again"], talks["first"])


def test_what_was_superseded_retracted_or_has_ended_long_ago_is_proposed_first(memory: Memory) -> None:
    memory.remember("plain", at=OLD)
    old = memory.remember("I live in Lisbon", at=OLD, importance=9)
    new = memory.supersede(old.id, "I live in Porto", at="2024-06-01")
    never = memory.remember("I live in Faro", at=OLD, importance=9)
    memory.retract(never.id)
    over = memory.remember("the exhibition is open", at=OLD, ends="2024-07-01", importance=9)
    assert {each.id for each in memory.propose()} == {
        each.id for each in memory.find(kinds="note") if each.text == "plain"
    } | {over.id}
    # it was superseded and retracted just now, so the past may still be asked about
    found = {each.id: each for each in memory.propose(threshold_days=0, importance_threshold=5)}
    assert found[old.id].instead == new.id and "superseded" in why(found[old.id])
    assert "retracted" in why(found[never.id]) and "ended" in why(found[over.id])
    ranked = [each.id for each in memory.propose(threshold_days=0)]
    assert set(ranked[:2]) == {old.id, never.id}
    assert f"uperseded by {new.id} today" in str(found[old.id])


def test_filters_narrow_and_what_others_share_is_left_alone(memory: Memory) -> None:
    memory.remember("ana's", user="ana", at=OLD, labels=["travel"], folder="work/bridge", metadata={"n": 1})
    memory.remember("ana's too", user="ana", at="2024-05-01", source="mail")
    memory.remember("everybody's", at=OLD)
    memory.remember(TALK, user="bo", session="s", at=OLD)
    memory.remember("elsewhere", space="other", at=OLD)
    for which in ({"labels": "travel"}, {"folder": "work"}, {"until": "2024-04-01"}, {"metadata": {"n": 1}}):
        assert proposed(memory, user="ana", **which) == ["ana's"], which
    assert (
        proposed(memory, user="ana", sources="mail")
        == proposed(memory, user="ana", since="2024-04-01")
        == ["ana's too"]
    )
    assert proposed(memory, session="s") == ["which train to Sintra?"]
    assert set(proposed(memory, kinds="note")) == {"ana's", "ana's too", "everybody's"}
    assert proposed(memory, kinds="conversation", limit=1) == ["which train to Sintra?"]
    assert proposed(memory, space="other") == ["elsewhere"]


def test_it_proposes_the_same_whenever_it_is_asked_and_in_whatever_pages_it_reads(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        memory.remember(f"note {n % 9}", at=JUNE - (400 + n) * DAY, importance=1 + n % 5)
        memory.remember([{"role": "user", "content": f"turn {n}"}], session=f"s{n}", at=JUNE - (400 + n) * DAY)
    found = memory.propose()
    assert len(found) == 24
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    monkeypatch.setattr("simonides.pruning.PAGE", 2)
    monkeypatch.setattr("simonides.pruning.TALKS", 3)
    assert [each.id for each in memory.propose()] == [each.id for each in found]
    assert [each.id for each in memory.propose(limit=5)] == [each.id for each in found[:5]]


@pytest.mark.parametrize(
    "which",
    [
        {"threshold_days": -1}, {"threshold_days": "30"}, {"threshold_days": float("nan")}, {"threshold_days": True},
        {"threshold_days": 1e9}, {"importance_threshold": 11}, {"importance_threshold": None}, {"limit": 0},
        {"kinds": "message"}, {"kinds": ["note", "fact"]}, {"archived": True}, {"pinned": False}, {"shared": True},
        {"as_of": OLD}, {"known_at": OLD}, {"ended": True}, {"conversation": "x"},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(which: dict[str, Any], memory: Memory) -> None:
    assert isinstance(refused(memory.propose, **which), Invalid)


# -- the reasons ------------------------------------------------------------------------------------------------------


def a_whole(days: float, recalled: float | None = None, **more: Any) -> Whole:
    given: dict[str, Any] = {"ended": None, "retracted": False, "importance": 5, "pinned": False, **more}
    return Whole(
        id="x", scope=Scope(), kind="note", said=JUNE - days * DAY, messages=0, characters=1, preview="", digest=b"x",
        recalled=None if recalled is None else JUNE - recalled * DAY, **given,
    )  # fmt: skip


@given(
    days=st.floats(30, 1e4), more=st.floats(0, 1e4), recalled=st.none() | st.floats(30, 1e4),
    importance=st.integers(1, 5), twin=st.booleans(), pinned=st.booleans(),
)  # fmt: skip
def test_older_less_important_and_repeated_never_score_lower(
    days: float, more: float, recalled: float | None, importance: int, twin: bool, pinned: bool
) -> None:
    def score(one: Whole, twin: bool = twin) -> float:
        return weighed(reasons(one, "y" if twin else None, False, JUNE, Thresholds()))[0]

    here = score(a_whole(days, recalled, importance=importance))
    assert 0 < here < 1
    assert score(a_whole(days + more, recalled, importance=importance)) >= here - 1e-12
    assert score(a_whole(days, None, importance=importance)) >= here - 1e-12
    assert score(a_whole(days, recalled, importance=1)) >= here - 1e-12
    assert score(a_whole(days, recalled, importance=importance), twin=True) >= here - 1e-12
    assert reasons(a_whole(days, recalled, pinned=True), "y", True, JUNE, Thresholds()) == {}


@given(st.dictionaries(st.sampled_from(sorted(STRENGTHS)), st.floats(0, 1), min_size=1))
def test_shares_add_up_to_the_score(values: dict[str, float]) -> None:
    score, found = weighed(values)
    assert 0 <= score < 1
    assert sum(factor.share for factor in found) == pytest.approx(score)
    assert all(one.share >= other.share for one, other in pairwise(found))


# -- archived, and back -----------------------------------------------------------------------------------------------


def test_what_is_archived_goes_with_its_parts_and_comes_back(memory: Memory) -> None:
    kept = memory.remember(TALK, session="trip", at=OLD)
    note = memory.remember("the spare key is with Ana", at=OLD)
    ids = [each.id for each in memory.propose()]
    before = memory.archive(ids, dry_run=True)
    assert {record.status for record in before} == {"active"} and memory.count() == 4
    gone = memory.archive(ids)
    assert {record.id for record in gone} == {*ids, *(record.id for record in kept)}
    assert [record.kind for record in gone if record.part_of is None] != []
    assert {record.status for record in gone} == {"archived"}
    assert memory.propose() == memory.find() == memory.recall("which train to Sintra, and the spare key") == []
    assert memory.archive(ids) == gone  # again is no news
    for id in ids:
        memory.organise(id, archived=False)
    assert memory.count() == 4 and memory.get(note.id).version == 3
    assert "the 9:40" in texts(memory.recall("the 9:40"))


def test_one_unknown_id_among_others_archives_nothing(memory: Memory) -> None:
    note = memory.remember("ana's", user="ana", at=OLD)
    assert isinstance(refused(memory.archive, [note.id, "unknown"]), NotFound)
    assert isinstance(refused(memory.archive, [note.id], user="bo"), NotFound)
    assert memory.get(note.id).status == "active"
    for wrong in ([], None, 5, [None], [""], {"id": note.id}, "*"):
        assert isinstance(refused(memory.archive, wrong), Invalid), wrong


# -- when it was last recalled ----------------------------------------------------------------------------------------


def test_a_recall_is_kept_beyond_the_process_and_is_no_news_to_anybody(home: Path) -> None:
    with Memory("me.db", embedder="hashing:") as memory:
        kept = memory.remember("the spare key is with Ana", at=OLD)
        before = memory.position(), memory.history(kept.id)
        memory.recall("spare key")
    with Memory("me.db", embedder="hashing:") as memory:
        assert (memory.position(), memory.history(kept.id)) == before
        assert memory.propose() == [] and memory.propose(threshold_days=0)[0].last_recalled
        assert memory.doctor() == []


async def test_what_another_process_recalled_is_in_use_here_after_a_few_seconds(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalls, "EVERY_S", 0.01)
    async with AsyncMemory("me.db", embedder="hashing:") as one, AsyncMemory("me.db", embedder="hashing:") as other:
        await one.remember("the spare key is with Ana", at=OLD)
        assert len(await other.propose()) == 1
        await one.recall("spare key")
        until = time.monotonic() + 20
        while await other.propose() and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert await other.propose() == []


def test_recalls_are_written_behind_and_together(home: Path) -> None:
    with Memory("me.db", embedder="hashing:") as memory:
        memory.remember([f"note {n}" for n in range(5)], at=OLD)
        for n in range(5):
            memory.recall(f"note {n}")
        assert apsw.Connection("me.db").execute("SELECT count(*) FROM recalls").fetchall() == [(0,)]
    assert apsw.Connection("me.db").execute("SELECT count(*) FROM recalls").fetchall() == [(5,)]


def test_an_erase_takes_away_when_it_was_recalled(home: Path) -> None:
    with Memory("me.db", embedder="hashing:") as memory:
        memory.remember("the zirconium key", user="ana", id="mine", at=OLD)
        memory.recall("zirconium", user="ana")
        memory.propose()  # what waits is written
        assert apsw.Connection("me.db").execute("SELECT count(*) FROM recalls").fetchall() == [(1,)]
        memory.recall("zirconium", user="ana")
        memory.forget(user="ana")
    assert apsw.Connection("me.db").execute("SELECT count(*) FROM recalls").fetchall() == [(0,)]


def test_a_store_that_cannot_note_a_recall_answers_all_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simonides.errors import Full
    from simonides.stores.sqlite import SqliteStore

    async def full(self: SqliteStore, last: Any) -> None:
        raise Full("the disk is full")

    monkeypatch.setattr(SqliteStore, "recalled", full)
    with Memory("me.db", embedder="hashing:") as memory:
        memory.remember("the spare key is with Ana", at=OLD)
        assert texts(memory.recall("spare key")) == ["the spare key is with Ana"]
        assert len(memory.propose()) == 1


def test_what_derives_from_the_proposed_is_not_touched(memory: Memory) -> None:
    source = memory.remember("a long story", at=OLD)
    fact = memory.remember("in short", links=[Link("derived_from", source.id)])
    memory.archive(source.id)
    assert memory.get(fact.id).status == "active"


# -- at the doors -----------------------------------------------------------------------------------------------------


async def test_at_the_doors_a_prune_shows_unless_told_and_keeps_to_the_caller(home: Path) -> None:
    async with AsyncMemory("me.db", embedder="hashing:") as memory:
        mine = await memory.remember("ana's", user="ana", at=OLD)
        theirs = await memory.remember("bo's", user="bo", at=OLD)
        ana = Principal(name="ana's key", user="ana", permits=Permit.READ | Permit.WRITE)
        desk = Desk(memory)
        [found] = (await OPERATIONS["propose_prune"](desk, ana, {}))["results"]
        assert found["record"]["id"] == mine.id and "never recalled" in found["says"]
        shown = await OPERATIONS["prune"](desk, ana, {"ids": [mine.id]})
        assert shown["dry_run"] and (await memory.get(mine.id)).status == "active"
        with pytest.raises(NotFound):
            await OPERATIONS["prune"](desk, ana, {"ids": [mine.id, theirs.id], "dry_run": False})
        reader = Principal(name="reader", user="ana", permits=Permit.READ)
        with pytest.raises(Forbidden):
            await OPERATIONS["prune"](desk, reader, {"ids": [mine.id], "dry_run": False})
        done = await OPERATIONS["prune"](desk, ana, {"ids": [mine.id], "dry_run": False})
        assert [record["status"] for record in done["results"]] == ["archived"]
        assert (await memory.get(theirs.id)).status == "active"
