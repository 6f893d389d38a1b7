"""Text becomes the same terms however it is written, in every language."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simonides import words
from simonides.kinds import Message
from simonides.record import Record, Scope, Span


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("São João", "sao joao"),
        ("STRASSE", "straße"),
        ("running", "runs"),
        ("cities", "city"),
        ("ﬁne", "fine"),
        ("Ａｂｃ", "abc"),
        ("Zoë", "ZOE\u0308"),
        ("don't", "don’t"),
        ("Ελλάδα", "ΕΛΛΑΔΑ"),
    ],
)
def test_spellings_of_one_word_are_one_term(one: str, other: str) -> None:
    assert words.terms(one) == words.terms(other)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("東京に引っ越しました", "東京"),
        ("我搬到了里斯本", "里斯本"),
        ("서울로 이사했어요", "서울"),
        ("ย้ายไปกรุงเทพแล้ว", "กรุงเทพ"),
    ],
)
def test_scripts_without_spaces_are_found_by_their_parts(text: str, part: str) -> None:
    assert set(words.terms(part)) <= set(words.terms(text))


def test_japanese_voicing_marks_are_not_accents() -> None:
    assert words.terms("かき") != words.terms("がき")


def test_hindi_words_stay_whole() -> None:
    assert words.terms("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


def test_stop_words_are_not_asked_for_unless_there_is_nothing_else() -> None:
    assert words.asked("where is the bridge") == ["bridg"]
    assert words.asked("who are you") == ["who", "are", "you"]


@given(st.text(max_size=300))
def test_any_text_has_terms_that_a_tokenizer_leaves_alone(text: str) -> None:
    for term in words.terms(text):
        assert term
        assert len(term) <= words.TERM_MAX * 3
        assert not any(character.isspace() or character in '"*()' for character in term)


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=200))
@example("why cry")
@example("dying")
def test_a_text_without_the_traces_of_a_term_does_not_say_it(text: str) -> None:
    said = words.terms(text)
    for term in set(said):
        assert any(trace in words.fold(text) for trace in words.traces([term]))


@given(st.text(max_size=60), st.none() | st.text(max_size=20), st.none() | st.datetimes(timezones=st.just(UTC)))
@example("\u0301a", "e", None)
@example("\u1161", "\u1100", None)
def test_what_is_searched_has_the_terms_of_its_heading_and_of_its_text(
    text: str, who: str | None, at: datetime | None
) -> None:
    said = Record(scope=Scope(), body=Message(text=text, name=who), valid=Span(since=at))
    assert words.searched_terms(said.body, said.at) == words.terms(words.searched(said))


@given(st.text(st.characters(codec="ascii"), max_size=100))
def test_a_text_in_ascii_has_the_terms_it_has_beside_other_letters(text: str) -> None:
    assert [*words.terms(text), "ω"] == words.terms(f"{text} ω")


def test_who_and_when_are_searched_too() -> None:
    said = Record(
        scope=Scope(), body=Message(text="hello", name="Ana Lopes"), valid=Span(since=datetime(2026, 5, 2, tzinfo=UTC))
    )
    assert {"lope", "may", "2026"} <= set(words.terms(words.searched(said)))


SPOKEN = ("Bridge", "bridges", "bridging", "cry", "cries", "dying", "die", "San", "Sanna", "don't", "café", "東京", "é")


@given(st.text(max_size=100) | st.lists(st.sampled_from(SPOKEN), max_size=8).map(" ".join))
@example("dying_die-DIE")
@example("Sanna and San, sans")
@example("Bridge " * 3 + "東京タワー")
def test_a_counter_counts_the_terms_of_a_text(text: str) -> None:
    said = words.terms(text)
    asked = words.terms(" ".join(SPOKEN)) + said
    counter = words.Counter(asked)
    counted = {counter.terms[place]: often for place, often in counter.counts(text)}
    assert counted == {term: said.count(term) for term in set(said)}
    assert counter.terms == tuple(dict.fromkeys(asked))
    assert words.Counter(()).counts(text) == []
