"""Why recall did not return a record: every reason, on both stores, and that it agrees with recall itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from common import DAY, JUNE

from simonides import AsyncMemory, Invalid, Memory
from simonides.cli import main
from simonides.query import Query
from simonides.recall import Missing
from simonides.recall.missing import FILTERS, SENTENCES, left_out
from simonides.record import ARCHIVED, Scope

ASKED = "when is the tender due?"


@pytest.fixture(params=(":memory:", "m.db"))
def memory(request: pytest.FixtureRequest, home: Path) -> Iterator[Memory]:
    with Memory(request.param, embedder="hashing:") as memory:
        yield memory


def kept(memory: Memory, text: str = "The tender is due on 14 July", **given: Any) -> str:
    return memory.remember(text, **{"at": JUNE, **given}).id


def test_what_is_returned_is_said_to_be_and_where(memory: Memory) -> None:
    ids = [kept(memory, f"The tender of bridge {n} is due in July", at=JUNE + n * DAY) for n in range(8)]
    hits = memory.recall(ASKED, limit=5, explain=True)
    for place, hit in enumerate(hits, 1):
        found = memory.explain_missing(hit.id, ASKED, limit=5)
        assert (found.reason, found.place, found.returned) == ("returned", place, True)
        assert found.score == pytest.approx(hit.score, abs=1e-3)
        assert [factor.name for factor in found.why] == [factor.name for factor in hit.why]
    left = set(ids) - {hit.id for hit in hits}
    assert sorted(memory.explain_missing(id, ASKED, limit=5).place or 0 for id in left) == [6, 7, 8]
    assert {memory.explain_missing(id, ASKED, limit=5).reason for id in left} == {"limit"}


def test_never_there_erased_and_somebody_elses_are_the_same_answer(memory: Memory) -> None:
    erased, others, walled = kept(memory), kept(memory, user="bo"), kept(memory, space="work")
    memory.forget(erased)
    found = [memory.explain_missing(id, ASKED, user="ana") for id in ("never-there", erased, others, walled)]
    assert {each.reason for each in found} == {"absent"}
    assert len({str(each).replace(each.id, "ID") for each in found}) == 1


def test_what_is_retracted_superseded_ended_or_archived_says_so_and_by_what(memory: Memory) -> None:
    retracted, old, archived = kept(memory), kept(memory, "It is due on 14 July"), kept(memory, "The tender folder")
    ended = kept(memory, "The tender office is open", ends=JUNE + DAY)
    memory.retract(retracted)
    new = memory.supersede(old, "It is due on 28 July", at=JUNE + DAY)
    memory.revise(archived, archived=True)
    reasons = {id: memory.explain_missing(id, ASKED) for id in (retracted, old, ended, archived)}
    assert [each.reason for each in reasons.values()] == ["retracted", "superseded", "ended", "archived"]
    assert reasons[old].by == new.id
    assert new.id in str(reasons[old]) and "2026-06-02" in str(reasons[old])
    assert memory.explain_missing(old, ASKED, as_of=JUNE).returned
    assert memory.explain_missing(old, ASKED, ended=True).reason in ("returned", "repeated")
    assert memory.explain_missing(archived, ASKED, archived=True).returned


def test_the_clocks_that_were_asked_about_are_those_that_count(memory: Memory) -> None:
    later = kept(memory, "The tender opens", at=JUNE + 30 * DAY)
    assert memory.explain_missing(later, ASKED).returned
    assert memory.explain_missing(later, ASKED, as_of=JUNE).reason == "not_yet"
    assert memory.explain_missing(later, ASKED, known_at=JUNE - 10_000 * DAY).reason == "unknown"
    first = memory.get(later)
    memory.revise(later, labels="late")
    assert memory.explain_missing(later, ASKED, labels="late").returned
    then = memory.explain_missing(later, ASKED, labels="late", known_at=first.known.since)
    assert (then.reason, then.filters) == ("filtered", ("labels",))


@pytest.mark.parametrize(
    ("filters", "which"),
    [
        (("shared",), {"user": "ana", "shared": False}),
        (("kinds",), {"kinds": "fact"}),
        (("labels",), {"labels": ["home", "work"]}),
        (("folder",), {"folder": "work"}),
        (("outside",), {"outside": ["work", "home"]}),
        (("since",), {"since": JUNE + timedelta(seconds=1)}),
        (("until",), {"until": JUNE}),
        (("pinned",), {"pinned": True}),
        (("importance_min",), {"importance_min": 6}),
        (("metadata",), {"metadata": {"page": 2}}),
        (("sources",), {"sources": "chatgpt"}),
        (("conversation",), {"conversation": "another"}),
        (("labels", "folder"), {"labels": "work", "folder": "home/kitchen", "since": JUNE}),
    ],
)
def test_the_filters_that_leave_it_out_are_named(
    memory: Memory, filters: tuple[str, ...], which: dict[str, Any]
) -> None:
    id = kept(memory, labels="home", folder="home", metadata={"page": 1})
    found = memory.explain_missing(id, ASKED, **which)
    assert (found.reason, found.filters) == ("filtered", filters)
    assert all(name in str(found) for name in filters)
    assert not memory.recall(ASKED, **which)


def test_every_filter_of_a_query_has_its_name() -> None:
    """A new field of Query that leaves records out must be explained too."""
    clocks = {"statuses", "valid_at", "known_at", "ended", "any_time"}
    others = {"scope", "ids", "keys", "linked", "newest", "after", "limit"}  # recall has no argument for these
    assert set(FILTERS.values()) == set(Query.__dataclass_fields__) - clocks - others


def test_a_title_is_left_out_unless_it_is_asked_for(memory: Memory) -> None:
    memory.remember([{"role": "user", "content": "hello", "at": JUNE}], session="talk", title="The tender")
    [talk] = memory.conversations()
    assert memory.explain_missing(talk.id, ASKED).filters == ("kinds",)
    assert memory.explain_missing(talk.id, ASKED, kinds="conversation").returned


def test_what_no_way_of_finding_brings_up_says_how_far_it_is(memory: Memory) -> None:
    far = kept(memory, "Sea urchins graze on kelp, and it is due to them", at=JUNE - DAY)
    memory.remember([f"The tender of bridge {n} is due" for n in range(400)], at=JUNE)
    found = memory.explain_missing(far, ASKED, effort="low")
    assert (found.reason, found.place, found.score) == ("unfound", None, None)
    assert found.words is not None and 0 < found.words < 1
    assert found.cosine is not None and -1 <= found.cosine < 0.9
    assert "% of the question's words" in str(found) and f"{found.cosine:.2f}" in str(found)


def test_without_an_embedder_there_is_no_cosine_and_a_note_says_so(home: Path) -> None:
    with Memory(":memory:", embedder="none") as memory:
        far = kept(memory, "Sea urchins graze on kelp")
        memory.remember([f"Bridge {n}" for n in range(40)], at=JUNE + DAY)
        found = memory.explain_missing(far, ASKED)
    assert (found.reason, found.words, found.cosine) == ("unfound", 0, None)
    assert "no embedder" in found.notes[0]


def test_what_was_brought_up_but_nothing_speaks_for_is_irrelevant(home: Path) -> None:
    with Memory(":memory:", embedder="none") as memory:
        kept(memory)
        beside = kept(memory, "Sea urchins graze on kelp")
        found = memory.explain_missing(beside, ASKED)
    assert (found.reason, found.score, found.words) == ("irrelevant", 0, 0)


def test_a_repetition_names_the_hit_that_stands_for_it(memory: Memory) -> None:
    twice = [kept(memory), kept(memory, "the tender  is due on 14 July")]
    [hit] = memory.recall(ASKED)
    [other] = set(twice) - {hit.id}
    found = memory.explain_missing(other, ASKED)
    assert (found.reason, found.by, found.place) == ("repeated", hit.id, 1)
    assert memory.explain_missing(other, ASKED, min_relevance=1).reason == "min_relevance"


def test_below_the_relevance_asked_for(memory: Memory) -> None:
    id = kept(memory)
    score = memory.recall(ASKED)[0].score
    found = memory.explain_missing(id, ASKED, min_relevance=min(1.0, score + 0.01))
    assert (found.reason, found.place) == ("min_relevance", 1)
    assert memory.explain_missing(id, ASKED, min_relevance=score - 0.01).returned


def test_every_reason_has_a_sentence_and_prints_as_one() -> None:
    for reason in SENTENCES:
        text = str(
            Missing(id="x", reason=reason, place=1, score=0.5, by="y", filters=("labels",), since=JUNE, until=JUNE)
        )
        assert text.endswith(".") and text[0].isupper() and "None" not in text and "{" not in text


@pytest.mark.parametrize(
    "call",
    [
        lambda memory: memory.explain_missing("x", " "),
        lambda memory: memory.explain_missing("", ASKED),
        lambda memory: memory.explain_missing("x", ASKED, limit=0),
        lambda memory: memory.explain_missing("x", ASKED, effort="most"),
        lambda memory: memory.explain_missing("x", ASKED, min_relevance=2),
        lambda memory: memory.explain_missing("x", ASKED, usr="ana"),
    ],
)
def test_what_makes_no_sense_is_refused(memory: Memory, call: Callable[[Memory], Any]) -> None:
    with pytest.raises(Invalid):
        call(memory)


def test_a_filter_alone_leaves_out_what_the_whole_query_does(memory: Memory) -> None:
    record = memory.get(kept(memory, labels="home"))
    assert left_out(Query(scope=Scope(), labels=frozenset({"home"})), record) == ()
    assert (
        left_out(Query(scope=Scope(), statuses=frozenset({ARCHIVED}), valid_at=JUNE - DAY), record) == ()
    )  # no filters


async def test_with_await_it_is_the_same() -> None:
    async with AsyncMemory(":memory:", embedder="hashing:") as memory:
        record = await memory.remember("The tender is due on 14 July", at=JUNE)
        assert (await memory.explain_missing(record.id, ASKED)).returned


# -- on the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("SIMONIDES_STORE", str(home / "me.db"))
    monkeypatch.setenv("SIMONIDES_EMBEDDER", "hashing:")
    return lambda *args: CliRunner().invoke(main, args)


def test_why_says_it_in_a_sentence_and_in_json(run: Callable[..., Any]) -> None:
    id = run("remember", "The tender is due on 14 July", "-q").stdout.strip()
    assert run("why", id[-8:], ASKED).stdout.startswith("It was returned, in place 1")
    assert "left out by what was asked for: labels" in run("why", id, ASKED, "--label", "none").stdout
    found = json.loads(run("why", id, ASKED, "--min-relevance", "1", "--effort", "low", "--json").stdout)
    assert (found["reason"], found["least"], found["says"][:12]) == ("min_relevance", 1.0, "Its score is")
    assert run("why", "nothing-like-it", ASKED).exit_code == 3


def test_recall_and_context_take_an_effort_and_recall_a_relevance(run: Callable[..., Any]) -> None:
    run("remember", "The tender is due on 14 July")
    for effort in ("low", "medium", "high"):
        assert run("recall", "tender", "--effort", effort).exit_code == 0
        assert run("context", "tender", "--effort", effort).exit_code == 0
    assert run("recall", "tender", "--min-relevance", "1").exit_code == 1
    for args in (("recall", "x", "--effort", "most"), ("context", "x", "--effort", "most"),
                 ("recall", "x", "--min-relevance", "2")):  # fmt: skip
        assert run(*args).exit_code == 2
