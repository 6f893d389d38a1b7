"""What speaks for a candidate: every signal alone, on cases small enough to work out by hand; then all together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from simonides.embedder import TOKEN_DIMENSION
from simonides.kinds import Message, Note
from simonides.recall import signals
from simonides.recall.gather import Asked, Candidate, Pool
from simonides.recall.question import understand
from simonides.recall.rank import COMPANY, LEAD, Weighed, boosted, company, fuse, lead, rank, valued
from simonides.recall.signals import MANNER, NEIGHBOUR, SIGNALS, Evidence
from simonides.recall.weights import fitted
from simonides.record import Record, Scope, Span
from simonides.tokens import pack

NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)  # a Wednesday
MAY = datetime(2026, 5, 10, tzinfo=UTC)
AXES = np.eye(TOKEN_DIMENSION, dtype=np.float32)  # tokens that have nothing to do with each other


def turn(
    text: str, who: str | None = None, *, talk: str | None = "talk", role: str = "user", at: datetime = MAY
) -> Record:
    return Record(scope=Scope(), body=Message(text=text, role=role, name=who), part_of=talk, valid=Span(since=at))


def note(text: str) -> Record:
    return Record(scope=Scope(), body=Note(text=text), valid=Span(since=MAY))


def pool_of(
    *records: Record,
    cosines: Sequence[float | None] = (),
    tokens: Sequence[Sequence[int]] = (),
    asked: int = 2,
    frequencies: Mapping[str, int] | None = None,
) -> Pool:
    """Return a pool of records in this order, those of one talk after one another.

    `tokens` names the axes along which each one's tokens lie; the question has the first `asked` of them.
    """
    pool = Pool(versions=100, frequencies=dict(frequencies or {}), unrelated=0.5)
    numbered = [dataclasses.replace(record, id=f"{place:03}") for place, record in enumerate(records)]
    for place, record in enumerate(numbered):
        candidate = Candidate(record, cosines[place] if cosines else None, {"words"})
        candidate.tokens = pack(AXES[list(tokens[place])]) if tokens else b""
        pool.candidates[record.id] = candidate
    for before, after in pairwise(numbered):
        if before.part_of is not None and before.part_of == after.part_of:
            pool.after[before.id], pool.before[after.id] = after.id, before.id
    if tokens:
        pool.asked = Asked(np.zeros(3, np.float32), AXES[:asked], np.full(asked, 1 / asked, np.float32))
    return pool


def values_of(signal: Callable[[Evidence], NDArray[np.float32]], question: str, pool: Pool) -> list[float]:
    return signal(Evidence.of(understand(question, NOW, UTC), pool)).tolist()


def approx(*values: float) -> object:
    return pytest.approx(list(values), abs=1e-5)


def test_every_signal_has_a_test_of_its_own() -> None:
    for name in SIGNALS:
        assert any(test.startswith(f"test_{name}_says_") for test in globals()), name


# -- meaning ----------------------------------------------------------------------------------------------------------


def test_near_says_how_far_the_cosine_is_above_what_unrelated_texts_have() -> None:
    pool = pool_of(*(note(str(n)) for n in range(5)), cosines=[1.0, 0.75, 0.5, 0.2, None])
    assert values_of(signals.near, "x", pool) == approx(1, 0.5, 0, 0, 0)


def test_near_before_says_how_near_the_turn_before_is_or_who_stands_alone() -> None:
    pool = pool_of(turn("a"), turn("b"), turn("c", talk="other"), note("d"), cosines=[1.0, 0.5, 0.75, 0.75])
    assert values_of(signals.near_before, "x", pool) == approx(1, 1, 0.5, 0.5)


def test_near_after_says_how_near_the_turn_after_is() -> None:
    pool = pool_of(turn("a"), turn("b"), turn("c", talk="other"), note("d"), cosines=[0.5, 1.0, 0.75, 0.75])
    assert values_of(signals.near_after, "x", pool) == approx(1, 1, 0.5, 0.5)


def test_late_says_how_close_the_text_comes_to_each_token_on_average() -> None:
    pool = pool_of(*(note(str(n)) for n in range(4)), tokens=[(0, 1, 5), (0, 5), (5,), ()])
    assert values_of(signals.late, "x", pool) == approx(1, 0.5, 0, 0)


def test_late_says_more_for_one_token_that_is_there_than_for_two_that_are_vaguely_there() -> None:
    pool = pool_of(note("there"), note("vague"), tokens=[(0,), ()])
    vague = AXES[0] + AXES[1] + 7 * AXES[5]
    pool.candidates["001"].tokens = pack((vague / np.linalg.norm(vague))[None])
    there, vaguely = values_of(signals.late, "x", pool)
    assert there == pytest.approx(0.5) and vaguely == pytest.approx(1 / 51, rel=0.05)


def test_late_says_nothing_where_nothing_was_looked_at() -> None:
    assert values_of(signals.late, "x", pool_of(note("a"), note("b"))) == [0, 0]


def test_late_around_says_the_same_of_a_turn_with_the_turns_around_it() -> None:
    pool = pool_of(turn("a"), turn("b"), turn("c"), turn("d", talk="other"), tokens=[(1,), (0,), (1,), (5,)])
    beside = 0.5 * NEIGHBOUR**2
    assert values_of(signals.late_around, "x", pool) == approx(0.5 + beside, 0.5 + beside, 0.5 + beside, 0)


def test_late_around_says_nothing_of_a_text_whose_own_tokens_are_not_known() -> None:
    pool = pool_of(turn("a"), turn("b"), tokens=[(0, 1), ()])
    assert values_of(signals.late_around, "x", pool) == approx(1, 0)


# -- words ------------------------------------------------------------------------------------------------------------


def test_words_says_how_many_of_the_words_a_text_has() -> None:
    pool = pool_of(note("the bridge and the ferry"), note("a bridge, and more here"), note("nothing of it is here"))
    both, one, none = values_of(signals.words, "bridge ferry", pool)
    assert 1 > both > one > none == 0
    assert both == pytest.approx(2 * one, rel=0.05)


def test_words_says_more_for_rare_words_and_short_texts() -> None:
    often = {"bridg": 50, "ferri": 1}
    common, rare = values_of(signals.words, "bridge ferry", pool_of(note("bridge"), note("ferry."), frequencies=often))
    assert rare > 3 * common
    short, long = values_of(signals.words, "bridge", pool_of(note("bridge"), note("bridge" + " and so on" * 40)))
    assert short > long > 0


def test_words_says_who_and_when_too() -> None:
    assert values_of(signals.words, "Ana", pool_of(turn("hello", "Ana"), turn("hello", "Bo")))[1] == 0
    assert values_of(signals.words, "Ana", pool_of(turn("hello", "Ana"), turn("hello", "Bo")))[0] > 0


def test_words_before_says_the_words_of_the_turn_before() -> None:
    pool = pool_of(turn("x"), turn("bridge"), turn("y"), turn("z", talk="other"))
    before, itself, after, other = values_of(signals.words_before, "bridge", pool)
    assert before == other == 0 and 0 < after < itself


def test_passage_says_the_words_of_the_turns_around() -> None:
    pool = pool_of(turn("v"), turn("w"), turn("bridge"), turn("x"), turn("y"), turn("z", talk="other"))
    first, before, itself, after, last, other = values_of(signals.passage, "bridge", pool)
    assert first == last == other == 0 and 0 < before == after < itself


def test_answered_says_the_words_of_the_question_that_somebody_else_asked() -> None:
    asked = turn("A new bridge! Nice. Where did you buy the boat?", "Ana")
    by_another = pool_of(asked, turn("In Porto.", "Bo"))
    assert values_of(signals.answered, "boat", by_another)[1] > 0
    assert values_of(signals.answered, "bridge", by_another)[1] == 0  # it is told, not asked
    assert values_of(signals.answered, "boat", pool_of(asked, turn("In Porto.", "Ana")))[1] == 0
    assert values_of(signals.answered, "boat", pool_of(asked, turn("In Porto.", "Bo", talk="other")))[1] == 0


def test_exact_says_which_share_of_the_literals_stands_there() -> None:
    pool = pool_of(note('PR-2291 says "low tide"'), note("pr-2291"), note("PR-22910"), note("low, tide"), note("x"))
    assert values_of(signals.exact, 'is PR-2291 "low tide"?', pool) == approx(1, 0.5, 0, 0, 0)
    assert values_of(signals.exact, "is it so?", pool) == [0] * 5


# -- the conversation -------------------------------------------------------------------------------------------------


def test_session_near_says_what_the_nearest_turn_of_the_conversation_says() -> None:
    pool = pool_of(turn("a"), turn("b"), turn("c", talk="other"), note("d"), cosines=[0.5, 1.0, 0.75, 0.5])
    assert values_of(signals.session_near, "x", pool) == approx(1, 1, 0.5, 0)


def test_session_late_says_how_close_the_conversation_comes_in_whichever_turn() -> None:
    pool = pool_of(turn("a"), turn("b"), turn("c", talk="other"), note("d"), tokens=[(0,), (1,), (0,), (5,)])
    assert values_of(signals.session_late, "x", pool) == approx(1, 1, 0.5, 0)


def test_session_words_says_which_share_of_the_words_the_conversation_says() -> None:
    pool = pool_of(turn("bridge bridge"), turn("ferry"), turn("bridge", talk="other"), note("nothing"))
    assert values_of(signals.session_words, "bridge ferry", pool) == approx(1, 1, 0.5, 0)
    often = pool_of(turn("bridge"), turn("ferry", talk="other"), frequencies={"bridg": 99, "ferri": 1})
    common, rare = values_of(signals.session_words, "bridge ferry", often)
    assert rare > 0.9 and common + rare == pytest.approx(1)


def test_speaker_words_says_which_share_of_the_words_is_said_there_by_whom_the_question_names() -> None:
    pool = pool_of(turn("bridge", "Ana"), turn("ferry", "Bo"), turn("ferry", "Ana", talk="b"), note("bridge"))
    assert values_of(signals.speaker_words, "Ana bridge ferry", pool) == approx(2 / 3, 2 / 3, 2 / 3, 0)
    assert values_of(signals.session_words, "Ana bridge ferry", pool) == approx(1, 1, 2 / 3, 1 / 3)
    for nobody in ("bridge ferry", "Ana and Bo: bridge, ferry"):
        both = (values_of(signal, nobody, pool) for signal in (signals.speaker_words, signals.session_words))
        assert next(both) == next(both)


# -- who, when, and what kind of text ---------------------------------------------------------------------------------


def test_when_says_what_was_said_then_and_half_what_was_said_soon_after() -> None:
    days = [-1, 0, 30, 31, 40, 41]  # from the first of May
    pool = pool_of(*(turn("x", at=datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=n)) for n in days))
    assert values_of(signals.when, "in May 2026", pool) == approx(0, 1, 1, 0.5, 0.5, 0)
    assert values_of(signals.when, "whenever", pool) == [0] * 6


def test_speaker_says_who_is_named_alone() -> None:
    pool = pool_of(turn("x", "Ana Lopes"), turn("Ana Lopes said so", "Bo"), turn("y"), note("Ana Lopes"))
    assert values_of(signals.speaker, "what does Ana Lopes like?", pool) == [1, 0, 0, 0]
    assert values_of(signals.speaker, "what does Ana like?", pool) == [0, 0, 0, 0]
    assert values_of(signals.speaker, "do Ana Lopes and Bo agree?", pool) == [0, 0, 0, 0]


def test_person_says_what_no_assistant_said_where_one_spoke() -> None:
    pool = pool_of(turn("x"), turn("y", role="assistant"), note("z"))
    assert values_of(signals.person, "x", pool) == [1, 0, 1]
    assert values_of(signals.person, "x", pool_of(turn("x"), turn("y", "Bo"))) == [0, 0]


def test_tells_says_what_does_not_end_in_a_question() -> None:
    pool = pool_of(note("So it is."), note("Is it so? "), note("それは何ですか？"), note("What? That."))
    assert values_of(signals.tells, "x", pool) == [1, 0, 0, 1]


def test_figures_says_what_holds_one() -> None:
    assert values_of(signals.figures, "x", pool_of(note("46.5 m"), note("long"), note("٣"))) == [1, 0, 1]


@pytest.mark.parametrize(
    ("question", "yes", "no"),
    [
        ("When did she move?", "She moved last week", "She moved to Porto"),
        ("How many children has she?", "She has two", "She has children"),
        ("Where does she live?", "She lives in Porto", "She lives there"),
    ],
)
def test_answer_says_what_holds_the_kind_of_thing_that_is_asked_for(question: str, yes: str, no: str) -> None:
    assert values_of(signals.answer, question, pool_of(note(yes), note(no))) == [1, 0]
    assert values_of(signals.answer, "Does she like it?", pool_of(note(yes), note(no))) == [0, 0]


def test_long_says_how_much_a_text_says() -> None:
    none, some, enough, more = values_of(signals.long, "x", pool_of(*(note("x" * n) for n in (1, 110, 550, 5500))))
    assert 0 < none < 0.05 and 0.6 < some < 0.7 and enough == pytest.approx(1) and more == 1


def test_short_says_how_far_a_text_is_from_a_treatise() -> None:
    pool = pool_of(*(note("x" * n) for n in (1, 82, 500, 2_200, 9_000)))
    one, brief, middle, treatise, more = values_of(signals.short, "x", pool)
    assert one == brief == 1 > middle > treatise == pytest.approx(0, abs=1e-6) and more == 0


# -- all together -----------------------------------------------------------------------------------------------------


def together(question: str, pool: Pool) -> dict[str, list[float]]:
    names, values = valued(Evidence.of(understand(question, NOW, UTC), pool))
    return {name: values[:, place].tolist() for place, name in enumerate(names)}


def test_what_is_on_a_scale_of_its_own_goes_from_the_least_to_the_best() -> None:
    found = together("x", pool_of(note("a"), note("b"), note("c"), cosines=[0.6, 0.7, 0.8]))
    assert found["near"] == approx(0, 0.5, 1)
    alike = together("x", pool_of(note("a"), note("b"), cosines=[0.7, 0.7]))
    assert alike["near"] == [1, 1]  # they say something, and no more for one than for the other
    nothing = together("x", pool_of(note("a"), note("b"), cosines=[0.2, 0.1]))
    assert nothing["near"] == [0, 0]


def test_what_means_the_same_everywhere_is_left_as_it_is() -> None:
    pool = pool_of(turn("a bridge"), turn("a bridge, too", talk="other"))
    assert together("bridge ferry", pool)["session_words"] == approx(0.5, 0.5)


def test_manner_counts_as_far_as_it_is_about_what_is_asked() -> None:
    telling = "Of the 14 things that one could tell, this is the longest by far, and it says nothing of what is meant. "
    pool = pool_of(note("the bridge, 14 m"), note(telling), note(telling + "2"), cosines=[0.55, 0.9, 0.5])
    found = together("bridge", pool)
    assert found["words"] == approx(1, 0, 0) and found["near"] == approx(0.125, 1, 0)
    for name in MANNER:
        assert found[name][2] == 0
    assert found["figures"] == approx(0.75, 0.75, 0) and found["tells"] == approx(0.75, 0.75, 0)


def test_late_interaction_says_more_of_what_a_text_is_about_than_its_conversation_does() -> None:
    pool = pool_of(turn("14 birds"), turn("14 bees"), turn("14 bridges", talk="b"), tokens=[(0,), (), (1,)], asked=1)
    assert together("nothing of it", pool)["figures"] == approx(1, 0.25, 0)


def test_nothing_is_found_for_its_manner_alone() -> None:
    pool = pool_of(note("On 14 May 2026 she moved to Porto with two dogs. " * 5), note("hm"))
    assert rank(understand("when and where did the zeppelin land?", NOW), pool, 5) == []


TALK = [turn("x", "Ana"), turn("y", "Bo")]
CHAT = [turn("x", talk="chat"), turn("y", talk="chat", role="assistant")]
LONG = "\n".join(
    f"This is sentence {n} of a whole dialogue that is asked for as one, with line breaks." for n in range(6)
)


@pytest.mark.parametrize(
    ("records", "question", "shares"),
    [
        (TALK, "x", {"talk": 1}),
        (CHAT, "x", {"chat": 1}),
        ([*TALK, *CHAT], "x", {"talk": 0.5, "chat": 0.5}),
        ([note("x"), *CHAT, note("y")], "x", {"notes": 0.5, "chat": 0.5}),
        ([note("x"), turn("y", talk=None)], "x", {"notes": 1}),
        ([note("x")], LONG, {"dialogue": 1}),
        ([note("x"), *TALK, *CHAT, *TALK[:1]], LONG, {"dialogue": 1 / 6, "talk": 0.5, "chat": 1 / 3}),
    ],
)
def test_company_is_the_share_of_each_kind(records: list[Record], question: str, shares: dict[str, float]) -> None:
    found = company(Evidence.of(understand(question, NOW), pool_of(*records)))
    assert dict(zip(COMPANY, found.tolist(), strict=True)) == pytest.approx(dict.fromkeys(COMPANY, 0) | shares)


texts = st.lists(st.text(alphabet="abcde xyz.?14", min_size=1, max_size=30), min_size=1, max_size=8)


def weighed(question: str, pool: Pool) -> Weighed:
    return fuse(Evidence.of(understand(question, NOW), pool))


@given(texts, st.text(alphabet="abcde xyz 14", min_size=1, max_size=20), st.data())
def test_the_shares_of_an_explanation_add_up_to_the_relevance(said: list[str], asked: str, data: st.DataObject) -> None:
    cosines = [data.draw(st.none() | st.floats(-1, 1, width=32)) for _ in said]
    axes = st.lists(st.integers(0, 3), max_size=3)
    tokens = [data.draw(axes) for _ in said] if data.draw(st.booleans()) else ()
    pool = pool_of(
        *(turn(text, talk=data.draw(st.sampled_from("ab"))) for text in said), cosines=cosines, tokens=tokens
    )
    found = weighed(asked, pool)
    for id, relevance in zip(found.ids, found.relevance.tolist(), strict=True):
        factors = found.factors(id)
        assert sum(factor.share for factor in factors) == pytest.approx(relevance, abs=1e-5)
        assert [factor.share for factor in factors] == sorted((factor.share for factor in factors), reverse=True)
        assert all(0 <= factor.value <= 1 + 1e-6 and factor.share >= 0 for factor in factors)
        assert bool(factors) == (relevance > 0)
    assert 0 <= found.relevance.min() <= found.relevance.max() < 1


@pytest.mark.parametrize("tokens", [[(0, 1)], ()])
def test_a_single_hit_has_an_explanation(tokens: list[tuple[int, ...]]) -> None:
    [hit] = rank(understand("bridge", NOW), pool_of(note("the bridge"), cosines=[0.8], tokens=tokens), 5, explain=True)
    named = {factor.name for factor in hit.why}
    assert "near" in named and not named.isdisjoint({"words", "session_words"})
    assert sum(factor.share for factor in hit.why) <= hit.score


def test_the_relevance_of_the_best_says_how_well_it_fits_in_itself() -> None:
    well = weighed("bridge ferry", pool_of(note("the bridge and the ferry"), note("x"), cosines=[0.95, 0.6]))
    badly = weighed("bridge ferry", pool_of(note("the bridge of sighs"), note("x"), cosines=[0.6, 0.55]))
    assert well.relevance[0] > badly.relevance[0] > badly.relevance[1]


def test_what_another_said_lowers_the_relevance_where_the_question_names_one() -> None:
    hers, his = turn("my kayak is red", "Ana"), turn("so is my red kayak", "Bo")
    of_her, of_him = weighed("what colour is the kayak of Ana?", pool_of(hers, his)), pool_of(turn("x", "Ana"), his)
    assert of_her.relevance.max() > weighed("what colour is the kayak of Ana?", of_him).relevance.max()
    assert weighed("what colour is the kayak?", of_him).relevance.max() > 0


def test_a_lead_is_what_the_one_who_is_named_has_over_the_others() -> None:
    sums, voices = np.array([5.0, 1.0, 4.0]), np.array([1, 1, -1], np.int8)
    assert lead(sums, voices) == 1 - LEAD and lead(sums, -voices) == -1 - LEAD
    assert lead(np.array([9.0, 1.0, 4.0]), voices) == 0  # as clear as can be
    for nobody in ([0, 0, 0], [1, 1, 0], [-1, -1, 0]):
        assert lead(sums, np.array(nobody, np.int8)) == 0


def test_a_note_is_no_other_voice() -> None:
    pool = pool_of(turn("x", "Ana"), turn("y", "Bo"), turn("z"), note("Ana"))
    assert signals.voices(Evidence.of(understand("Ana", NOW), pool)).tolist() == [1, -1, 0, 0]
    assert signals.voices(Evidence.of(understand("Ana and Bo", NOW), pool)).tolist() == [0, 0, 0, 0]


def test_weights_are_those_of_the_tokens_where_any_are_known() -> None:
    records = [turn("the bridge"), turn("the ferry")]
    with_tokens, without = weighed("bridge", pool_of(*records, tokens=[(0,), ()])), weighed("bridge", pool_of(*records))
    model, _ = fitted()
    for found, of in ((with_tokens, model.late), (without, model.plain)):
        talk = {name: of.weights.get(name, (0.0,))[0] for name in found.names}
        assert dict(zip(found.names, found.weights.tolist(), strict=True)) == pytest.approx(talk)


def test_what_is_below_the_least_is_left_out_and_the_rest_keeps_its_order() -> None:
    cosines = [0.9, 0.8, 0.7, 0.6, 0.55]
    pool = pool_of(*(note(f"bridge {'and so on ' * n}") for n in range(5)), cosines=cosines)
    question = understand("bridge", NOW)
    whole = rank(question, pool, 10)
    for least in (0.0, *(hit.score for hit in whole), 1.0):
        kept = rank(question, pool, 10, least=least)
        assert [hit.id for hit in kept] == [hit.id for hit in whole if hit.score >= least]


def test_a_boost_is_never_out_of_bounds() -> None:
    question = understand("x", NOW)
    for importance in (1, 5, 10):
        record = dataclasses.replace(note("x"), importance=importance, pinned=True)
        assert all(0 <= boosted(relevance, record, question) <= 1 for relevance in (0.0, 0.5, 1.0))


def test_a_signal_that_others_build_on_is_worked_out_once_for_each_evidence() -> None:
    calls = list[Evidence]()

    @signals.once
    def counted(evidence: Evidence) -> NDArray[np.float32]:
        calls.append(evidence)
        return np.zeros(len(evidence.records), np.float32)

    first, second = (Evidence.of(understand("dogs", NOW), pool_of(note("dogs"))) for _ in range(2))
    for evidence in (first, second, first):
        counted(evidence)
    assert [id(evidence) for evidence in calls] == [id(first), id(second)]
    assert dataclasses.replace(first).kept == {}
