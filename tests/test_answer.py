"""One recall, from question to hits: what holds in every arm, and what never depends on chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import DAY, JUNE, refused, texts
from numpy.typing import NDArray

import simonides.memory
from simonides import Invalid, Memory
from simonides.embedder import TOKEN_DIMENSION
from simonides.embedders.hashing import HashingEmbedder
from simonides.recall import EFFORTS, Hits
from simonides.record import Record
from simonides.stores.memory import MemoryStore
from simonides.tokens import pack

pytestmark = pytest.mark.usefixtures("home")


class Telling(HashingEmbedder):
    """An embedder that has a token for every word, and no model."""

    def __init__(self) -> None:
        super().__init__(f"hashing:?dimension={TOKEN_DIMENSION}")

    async def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[bytes]]:
        tokens = [pack(await self.embed(text.split())) if text.split() else b"" for text in texts]
        return await self.embed(texts), tokens


@pytest.fixture(params=["tokens", "no tokens", "sqlite", "words"])
def memory(request: pytest.FixtureRequest, home: Path) -> Iterator[Memory]:
    url = str(home / "me.db") if request.param == "sqlite" else "memory:"
    embedder: Any = {"no tokens": "hashing:", "words": "none"}.get(request.param) or Telling()
    with Memory(url, embedder=embedder) as opened:
        yield opened


TALK = (
    ("Ana", "Good morning, how are you?"),
    ("Bo", "Fine! Do you know where the old ferry PR-2291 lies?"),
    ("Ana", "At the north pier, since last week."),
    ("Bo", "And who is its captain now?"),
    ("Ana", "Her sister Carla, they say."),
    ("Bo", "I would rather walk over the bridge."),
    ("Ana", "The bridge is closed until 14 June."),
)
LATE = {"late", "late_around", "session_late"}
QUESTIONS = (
    "where does the old ferry lie?",
    "who is the captain?",
    '"PR-2291"',
    "when does the bridge open?",
    "what did Ana say in June 2026?",
    "zeppelins over Lisbon",
)


def turns(memory: Memory, session: str = "s", **more: Any) -> list[Record]:
    return [
        memory.remember(text, session=session, name=who, role="user", at=JUNE + timedelta(minutes=n), **more)
        for n, (who, text) in enumerate(TALK)
    ]


def every_way(memory: Memory, question: str, **which: Any) -> list[Hits]:
    return [memory.recall(question, limit=50, effort=effort, **which) for effort in EFFORTS]


# -- filters, supersessions and erases, in every arm ------------------------------------------------------------------

ODD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what the others bear, and what is asked for
    "labels": ({"labels": ["x"]}, {"labels": "x"}),
    "folder": ({"folder": "work/bridge"}, {"folder": "work"}),
    "importance": ({"importance": 9}, {"importance_min": 8}),
    "pinned": ({"pinned": True}, {"pinned": True}),
    "metadata": ({"metadata": {"k": 1}}, {"metadata": {"k": 1}}),
    "source": ({"source": "mail"}, {"sources": "mail"}),
    "user": ({"user": "ana"}, {"user": "ana", "shared": False}),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("left_out", range(len(TALK)))
def test_what_a_filter_leaves_out_comes_back_by_no_arm(name: str, left_out: int, memory: Memory) -> None:
    borne, asked = ODD[name]
    for n, (who, text) in enumerate(TALK):
        mine: dict[str, Any] = {} if n == left_out else borne
        memory.remember(text, session="s", name=who, role="user", at=JUNE + timedelta(minutes=n), **mine)
    for question in QUESTIONS[:4]:
        for hits in every_way(memory, question, **asked):
            assert TALK[left_out][1] not in texts(hits)
            assert not any(hit.also for hit in hits)


def test_an_arm_of_neighbours_brings_what_stands_around_and_nothing_else_that_is_filtered(memory: Memory) -> None:
    kept = turns(memory)
    hits = memory.recall("where does the old ferry lie?", explain=True, until=JUNE + timedelta(minutes=2))
    assert set(texts(hits)) <= {text for _, text in TALK[:2]}
    assert {hit.id for hit in memory.recall("where does the old ferry lie?")} >= {kept[1].id, kept[2].id}


def test_what_was_superseded_or_retracted_comes_back_by_no_arm(memory: Memory) -> None:
    kept = turns(memory)
    new = memory.supersede(kept[2].id, "At the south pier, after all.", at=JUNE + DAY)
    memory.retract(kept[4].id)
    for question in QUESTIONS:
        for hits in every_way(memory, question):
            assert not {kept[2].id, kept[4].id} & {hit.id for hit in hits}
    assert new.id in {hit.id for hit in memory.recall("at which pier does the old ferry lie?")}
    then = memory.recall("where does the old ferry lie?", as_of=JUNE + DAY / 2, limit=50)
    assert kept[2].id in {hit.id for hit in then} and new.id not in {hit.id for hit in then}


def test_what_was_revised_is_recalled_as_it_is_or_as_it_was_believed(memory: Memory) -> None:
    kept = turns(memory)
    believed = memory.get(kept[-1].id).known.since
    memory.revise(kept[2].id, text="At the south pier, after all.")
    for question in QUESTIONS[:4]:
        for hits in every_way(memory, question):
            assert TALK[2][1] not in texts(hits)
        for hits in every_way(memory, question, known_at=believed):
            assert "At the south pier, after all." not in texts(hits)
    assert TALK[2][1] in texts(memory.recall("where does the old ferry lie?", known_at=believed))


def test_what_was_erased_comes_back_by_no_arm(memory: Memory) -> None:
    kept = turns(memory)
    for question in QUESTIONS:
        every_way(memory, question)  # whatever keeps anything has kept it
    memory.forget(kept[2].id)
    for question in QUESTIONS:
        for hits in every_way(memory, question):
            assert kept[2].id not in {hit.id for hit in hits} and TALK[2][1] not in texts(hits)
    assert TALK[3][1] in texts(memory.recall("who is the captain?"))


def test_no_arm_reaches_over_a_wall(memory: Memory) -> None:
    turns(memory, user="ana")
    memory.remember("The ferry is Bo's, and the bridge too", session="s", user="bo", at=JUNE)
    for question in QUESTIONS:
        for hits in every_way(memory, question, user="bo"):
            assert {hit.record.scope.user for hit in hits} <= {"bo"}
        for hits in every_way(memory, question, user="ana", space="other"):
            assert hits == []


# -- no chance --------------------------------------------------------------------------------------------------------


def archive() -> list[dict[str, Any]]:
    """Return what there is to remember: three talks and some notes, many of them alike, some said at once."""
    talks = [
        {
            "content": f"{text} {'' if n % 2 else n}",
            "name": who,
            "session": session,
            "role": "user",
            "id": f"{session}{n}",
        }
        | {"at": JUNE + timedelta(days=place, minutes=n // 2)}
        for place, session in enumerate(("s", "t", "u"))
        for n, (who, text) in enumerate(TALK)
    ]
    notes = [{"content": f"The ferry and the bridge, {n // 2}", "id": f"n{n}", "at": JUNE} for n in range(10)]
    return [*talks, *notes]


def answers(memory: Memory, **more: Any) -> list[list[tuple[str, tuple[str, ...]]]]:
    asked = [hits for question in QUESTIONS for hits in every_way(memory, question, **more)]
    return [[(hit.id, hit.also) for hit in hits] for hits in asked]


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the questions stands still."""
    monkeypatch.setattr(simonides.memory, "now", lambda: JUNE + 100 * DAY)


@pytest.mark.usefixtures("noon")
@pytest.mark.parametrize("url", ["memory:", "sqlite:///:memory:"])
def test_the_order_of_remembering_changes_nothing(url: str) -> None:
    found, scores = [], []
    for seed in range(4):
        kept = archive()
        random.Random(seed).shuffle(kept)
        with Memory(url, embedder=Telling()) as memory:
            for given in kept:
                memory.remember(given.pop("content"), **given)
            found.append(answers(memory))
            scores.append([hit.score for question in QUESTIONS for hit in memory.recall(question)])
    assert found[1:] == found[:-1]
    assert scores[1:] == [pytest.approx(first, abs=1e-6) for first in scores[:-1]]


@pytest.mark.usefixtures("noon")
def test_the_same_question_twice_has_the_same_answer(memory: Memory) -> None:
    for given in archive():
        memory.remember(given.pop("content"), **given)
    once = [hits for question in QUESTIONS for hits in every_way(memory, question, explain=True)]
    again = [hits for question in QUESTIONS for hits in every_way(memory, question, explain=True)]
    for first, second in zip(once, again, strict=True):
        assert list(first) == list(second) and first.notes == second.notes


# -- effort, and the least relevance ----------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of those methods of the store that recall has called, of those that cost something."""
    called = list[str]()

    def counting(name: str) -> Callable[..., Any]:
        original = getattr(MemoryStore, name)

        async def method(self: MemoryStore, *given: Any) -> Any:
            called.append(name)
            return await original(self, *given)

        return method

    for name in ("tokens", "around"):
        monkeypatch.setattr(MemoryStore, name, counting(name))
    return called


def test_low_effort_reads_no_tokens_and_no_neighbours(read: list[str]) -> None:
    with Memory("memory:", embedder=Telling()) as memory:
        turns(memory)
        low = memory.recall(QUESTIONS[0], effort="low", explain=True)
        assert low and read == []
        assert LATE.isdisjoint(factor.name for hit in low for factor in hit.why)
        medium = memory.recall(QUESTIONS[0], explain=True)
        assert medium and sorted(read) == ["around", "tokens"]
        assert not LATE.isdisjoint(factor.name for hit in medium for factor in hit.why)


def test_the_answer_to_a_question_is_found_by_what_stands_before_it(memory: Memory) -> None:
    kept = turns(memory)
    memory.remember([f"Something else entirely, number {n}" for n in range(200)])
    for effort in ("medium", "high"):
        assert kept[2].id in {hit.id for hit in memory.recall(QUESTIONS[0], effort=effort)[:5]}


def test_a_higher_effort_finds_what_lies_further_down(memory: Memory) -> None:
    memory.remember([f"ferry and bridge, number {n} of many" for n in range(300)])
    counts = [len(memory.recall("ferry", effort=effort, limit=400)) for effort in ("low", "medium", "high")]
    assert counts[0] < counts[1] < counts[2] <= 300


@pytest.mark.parametrize("effort", ["", "LOW", "most", None, 3, True, ["low"]])
def test_an_effort_that_there_is_not_is_refused(effort: Any, memory: Memory) -> None:
    error = refused(memory.recall, "x", effort=effort)
    assert isinstance(error, Invalid) and "'low', 'medium', 'high'" in str(error)


@pytest.mark.parametrize("least", [-0.001, 1.001, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_a_relevance_out_of_bounds_is_refused(least: Any, memory: Memory) -> None:
    error = refused(memory.recall, "x", min_relevance=least)
    assert isinstance(error, Invalid) and "min_relevance" in str(error)


@pytest.mark.usefixtures("noon")
def test_the_least_relevance_leaves_out_what_is_below_it_and_keeps_the_order(memory: Memory) -> None:
    turns(memory)
    for question in QUESTIONS:
        whole = memory.recall(question, limit=50)
        for least in (0, *(hit.score for hit in whole), 1):
            kept = memory.recall(question, limit=50, min_relevance=least)
            assert list(kept) == [hit for hit in whole if hit.score >= least] and kept.notes == whole.notes
