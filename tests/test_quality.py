"""How well it recalls: measures against values worked out by hand, formats on files made for them, and whole runs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from simonides import Memory
from simonides.cli import main
from simonides.commands.bench import WORSE
from simonides.errors import Damaged, Invalid, NotFound
from simonides.quality import Costs, DataSet, Measured, Plan, compare, find, lost, read_run, run, table
from simonides.quality import measure as m
from simonides.quality.compare import interval
from simonides.quality.hidden import unrelated
from simonides.quality.locomo import evidence
from simonides.quality.measure import Answer, Found, measures
from simonides.quality.sets import Conversation, Imported
from simonides.recall import EFFORTS, weights

ROOT = Path(__file__).resolve().parent.parent
RANKING = ["a", "b", "c", "d", "e", "f"]
QUICK = Plan(embedder="hashing:", quick=True)


# -- measures ----------------------------------------------------------------------------------------------------------


def test_recall_hit_and_all_of_the_first_k() -> None:
    gold = {"b", "e", "x"}
    assert [m.recall(RANKING, gold, k) for k in (1, 2, 5, 50)] == [0, 1 / 3, 2 / 3, 2 / 3]
    assert [m.any_of(RANKING, gold, k) for k in (1, 2)] == [0, 1]
    assert [m.all_of(RANKING, {"b", "e"}, k) for k in (4, 5)] == [0, 1]
    assert m.all_of(RANKING, gold, 50) == 0


def test_reciprocal_rank_is_of_the_first_one_within_fifty() -> None:
    assert m.reciprocal_rank(RANKING, {"c", "e"}) == 1 / 3
    assert m.reciprocal_rank(RANKING, {"x"}) == 0
    far = [str(place) for place in range(60)]
    assert m.reciprocal_rank(far, {"49"}) == 1 / 50
    assert m.reciprocal_rank(far, {"50"}) == 0


def test_ndcg_discounts_by_the_logarithm_of_the_place() -> None:
    assert m.ndcg(RANKING, {"a", "b"}, 10) == 1
    # b at place 2 and d at place 4, of the best: places 1 and 2
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert m.ndcg(RANKING, {"b", "d"}, 10) == pytest.approx(expected)
    assert m.ndcg(RANKING, {"f"}, 5) == 0
    assert m.ndcg(RANKING, set(RANKING), 3) == 1  # more are gold than have room


def test_the_ndcg_of_longmemeval_does_not_discount_the_second_place() -> None:
    assert m.lme_ndcg(RANKING, {"b"}, 10) == 1
    assert m.lme_ndcg(RANKING, {"d"}, 10) == pytest.approx(1 / 2)  # 1 / log2(4)
    assert m.lme_ndcg(RANKING, {"a", "d"}, 10) == pytest.approx(1.5 / 2)


def test_the_ndcg_of_longmemeval_is_that_of_its_own_code() -> None:
    def theirs(relevances: list[int], gold: int, k: int) -> float:  # eval_utils.dcg, written out
        def dcg(values: list[int]) -> float:
            found = np.asarray(values, float)[:k]
            return float(found[0] + np.sum(found[1:] / np.log2(np.arange(2, found.size + 1))))

        return dcg(relevances) / dcg([1] * gold + [0] * len(relevances))

    for seed in range(20):
        ranking = list(np.random.default_rng(seed).permutation(list("abcdefghijklmnop")))
        gold = set(ranking[seed % 3 : 16 : 4])
        for k in (5, 10, 50):
            relevances = [int(name in gold) for name in ranking]
            assert m.lme_ndcg(ranking, gold, k) == pytest.approx(theirs(relevances, len(gold), k))


def test_sessions_stand_in_the_order_of_their_first_hit() -> None:
    assert m.distinct(["s2", "s1", "s2", "s3", "s1"]) == ["s2", "s1", "s3"]


def test_the_tokens_to_all_evidence_are_those_of_everything_read_until_then() -> None:
    hits = [Found("a", "s", 1, 10), Found("b", "s", 1, 20), Found("c", "s", 1, 30)]
    assert m.tokens_to_all(hits, {"b"}) == 30
    assert m.tokens_to_all(hits, {"a", "c"}) == 60
    assert m.tokens_to_all(hits, {"x"}) == math.inf


def test_auroc_is_how_often_the_answerable_one_scores_higher() -> None:
    assert m.auroc([0.9, 0.8], [0.1, 0.2]) == 1
    assert m.auroc([0.1], [0.9]) == 0
    assert m.auroc([0.5, 0.5], [0.5]) == 0.5
    assert m.auroc([0.9, 0.3, 0.5], [0.4, 0.5]) == pytest.approx((2 + 0 + 1.5) / 6)
    assert m.auroc([], [0.5]) is None and m.auroc([0.5], []) is None


def test_a_quantile_is_one_of_the_values() -> None:
    assert [m.quantile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.95, 1)] == [1, 2, 4, 4]
    assert m.quantile([1, 2, math.inf], 0.9) == math.inf


def answer(**more: Any) -> Answer:
    hits = tuple(Found(turn, session, 0.5, 100) for turn, session in zip("abcdef", "112233", strict=True))
    whole = {
        "set": "set", "id": "q", "category": "c", "answerable": True, "gold": ("b", "e"), "sessions": ("1", "3"),
        "hits": hits, "latency_ms": 1.0, "held": {500: True, 1000: True},
    }  # fmt: skip
    return Answer(**(whole | more))


def test_an_answer_has_every_measure_that_its_question_allows() -> None:
    found = measures(answer())
    assert found["recall@5"] == 1 and found["mrr"] == 0.5
    assert found["session_recall@1"] == 0.5 and found["session_any@1"] == 1 and found["session_all@3"] == 1
    assert found["tokens"] == 500 and found["plain@500"] == 1
    assert measures(answer(hits=answer().hits[:4]))["plain@1000"] == 0
    assert "recall@5" not in measures(answer(gold=())) and "session_any@1" in measures(answer(gold=()))
    assert measures(answer(gold=(), sessions=())) == {}
    assert "tokens" not in measures(answer(held={}))  # a quick run


def test_means_are_over_the_questions_that_have_the_measure() -> None:
    found = m.means([{"mrr": 1.0, "tokens": 10.0}, {"mrr": 0.0, "tokens": math.inf}, {"session_any@1": 1.0}])
    assert found == {"mrr": 0.5, "tokens_p50": 10.0, "tokens_p90": math.inf, "session_any@1": 1.0}


# -- comparing ---------------------------------------------------------------------------------------------------------


def measured(hit: Callable[[int], bool], questions: int = 60) -> Measured:
    """A run in which each question has one gold turn, found at the first place or not at all."""
    answers = [
        answer(id=str(number), gold=("a",) if hit(number) else ("x",), sessions=(), held={})
        for number in range(questions)
    ]
    asked = [replace(each, gold=("gold",), hits=(Found("gold", "1", 1.0),) if "a" in each.gold else each.hits)
             for each in answers]  # fmt: skip
    return Measured({"date": "2026-05-21 10:00 UTC"}, {"set": "Set"}, asked, {"set": Costs()})


def test_a_run_against_itself_differs_in_nothing() -> None:
    found = compare(measured(lambda n: n % 2 == 0), measured(lambda n: n % 2 == 0))
    assert {each.measure for each in found} == {"recall@10", "recall@50", "mrr"}
    assert all((each.mean, each.low, each.high) == (0, 0, 0) for each in found)
    assert not lost(found) and not any(each.significant for each in found)


def test_a_clear_loss_is_one_and_a_clear_gain_is_none() -> None:
    good, bad = measured(lambda n: n % 10 != 0), measured(lambda n: n % 2 == 0)
    down, up = compare(bad, good), compare(good, bad)
    assert lost(down) and not lost(up)
    assert all(each.significant for each in up)
    assert down[0].mean == pytest.approx(-0.4)
    assert down[0].low < -0.4 < down[0].high < 0


def test_a_loss_that_chance_explains_is_none() -> None:
    found = compare(measured(lambda n: n > 1), measured(lambda n: n > 0))
    assert found[0].mean < 0 and not lost(found)


def test_the_interval_is_the_same_every_time_and_as_wide_as_theory_says() -> None:
    differences = np.random.default_rng(3).normal(0.1, 1, 400)
    low, high = interval(differences)
    assert (low, high) == interval(differences)
    half = 1.96 * differences.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.015)


def test_only_the_same_questions_are_compared() -> None:
    old = measured(lambda n: True)
    with pytest.raises(Invalid, match="no question in common"):
        compare(replace(old, answers=[replace(each, gold=("other",)) for each in old.answers]), old)
    more = [*old.answers, answer(id="new", gold=("z",))]
    assert compare(replace(old, answers=more), old)[0].questions == 60
    unanswerable = [replace(each, answerable=False) for each in old.answers[1:]]
    assert compare(replace(old, answers=[old.answers[0], *unanswerable]), old)[0].questions == 1


# -- formats -----------------------------------------------------------------------------------------------------------


LOCOMO = {
    "sample_id": "talk-1",
    "conversation": {
        "speaker_a": "Ana", "speaker_b": "Bo",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "My new kayak is yellow.", "blip_caption": "a boat on a lake"},
            {"speaker": "Bo", "dia_id": "D1:2", "text": "I have planted three fig trees."},
            {"speaker": "Ana", "dia_id": "D1:3", "text": ""},
        ],
        "session_2_date_time": "9:05 am on 2 June, 2023",
        "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "The oboe lesson was cancelled."}],
    },
    "qa": [
        {"question": "What colour is the kayak?", "answer": "yellow", "evidence": ["D1:1"], "category": 4},
        {"question": "Which trees and lesson?", "answer": "…", "evidence": ["D1:02; D:2:1", "D9:9"], "category": 1},
        {"question": "What did Bo paddle?", "adversarial_answer": "…", "evidence": ["D1:1"], "category": 5},
        {"question": "Who?", "answer": "…", "evidence": [], "category": 3},
    ],
}  # fmt: skip
LONGMEMEVAL = {
    "question_id": "q1", "question_type": "multi-session", "question": "Where is the spare key?", "answer": "Secret",
    "question_date": "2023/05/30 (Tue) 23:40",
    "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/22 (Mon) 10:00"],
    "haystack_session_ids": ["chat_9", "answer_1"], "answer_session_ids": ["answer_1"],
    "haystack_sessions": [
        [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Vistula."}],
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"},
         {"role": "user", "content": "The spare key is under the fern.", "has_answer": True}],
    ],
}  # fmt: skip
CHAT = [
    {"batch_number": 1, "time_anchor": None, "turns": [
        [{"role": "user", "id": 0, "time_anchor": "March-15-2024", "content": "My sprint ends on a Friday. ->-> 1,1"},
         {"role": "assistant", "id": 1, "content": "Noted: Friday."}],
        [{"role": "user", "id": 2, "content": "The budget is forty crowns. ->-> 1,2"}],
    ]},
    {"batch_number": 2, "time_anchor": None, "turns": [
        [{"role": "user", "id": 3, "time_anchor": "April-05-2024", "content": "The sprint ends on a Monday now."}],
    ]},
]  # fmt: skip
PROBES = {
    "knowledge_update": [
        {"question": "When does the sprint end?", "source_chat_ids": {"old": [0], "new": [[3], "77"]}}
    ],
    "abstention": [{"question": "Who paid?", "source_chat_ids": None}],
}
MEMORIES = (
    {"1": {"time": "2023-12-25", "scene": "s", "emotion": "e", "event": "Bart danced at the party."}},
    {"4": {"time": "2023-05-15", "scene": "s", "emotion": "e", "event": "Bart ate mango ice cream."}},
)
DIALOGUES = [{
    "dialogue": ["<BOD>\n", '<Bart>: "Shall I dance tonight?"\n', '<Assistant>: "Why not!"\n', '<Bart>: "More."\n'],
    "test-turn": [3], "relevant-id": [1, 99], "user-id": 1,
}]  # fmt: skip


def write(path: Path, *values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(value) for value in values), "utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a small set of each format, and what belongs to none."""
    folder = tmp_path / "data"
    write(folder / "locomo" / "any-name.json", [LOCOMO, LOCOMO | {"sample_id": "talk-2"}])
    write(folder / "longmemeval_tiny.json", [LONGMEMEVAL, LONGMEMEVAL | {"question_id": "q2_abs"}])
    for number in ("10", "2"):
        write(folder / "beam-tiny" / number / "chat.json", CHAT)
        write(folder / "beam-tiny" / number / "probing_questions.json", PROBES)
    write(folder / "madial-en" / "memory.json", *MEMORIES)
    write(folder / "madial-en" / "dialogue.json", *DIALOGUES)
    write(folder / "madial-en" / "ranking.json", {"test-turn": [3], "relevant-id": [1], "top-20-ids": [1]})
    write(folder / "package.json", {"name": "something else"})
    (folder / "notes.txt").write_text("nothing")
    return folder


def sets(folder: Path, *only: str) -> dict[str, DataSet]:
    return {made.name: made for made in find(folder, only)}


def conversations(folder: Path, name: str) -> list[Conversation]:
    return list(sets(folder)[name].read("space"))


def test_sets_are_known_by_what_they_hold(data: Path) -> None:
    assert sorted(sets(data)) == ["beam-tiny", "locomo", "longmemeval_tiny", "madial-en"]
    assert list(sets(data, "beam", "madial-en")) == ["beam-tiny", "madial-en"]


def test_what_is_not_there_is_said(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no data set in"):
        find(tmp_path / "empty")
    with pytest.raises(NotFound, match="no folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(Invalid, match="did you mean 'locomo'"):
        find(data, ["lokomo"])


def test_locomo_is_what_its_importer_makes_of_it(data: Path) -> None:
    first, second = conversations(data, "locomo")
    assert (first.user, second.user) == ("talk-1", "talk-2")
    [said] = first.said
    assert isinstance(said, Imported)
    assert sorted(said.turns.values()) == ["D1:1", "D1:2", "D2:1"]
    shown = next(record for record in said.records if said.turns.get(record.id) == "D1:1")
    assert shown.text == "My new kayak is yellow. [image: a boat on a lake]"
    assert (shown.body.who, shown.scope.space, shown.scope.user) == ("Ana", "space", "talk-1")
    assert f"{shown.at:%Y-%m-%d %H:%M}" == "2023-05-08 13:56"


def test_locomo_asks_by_category_and_its_last_has_no_answer(data: Path) -> None:
    single, several, adversarial, without = conversations(data, "locomo")[0].questions
    assert (single.id, single.category, single.gold) == ("talk-1/0", "4 single-hop", {"D1:1"})
    assert single.answerable and single.sessions == {"talk-1/session_1"}
    assert several.gold == {"D1:2", "D2:1"} and len(several.sessions) == 2
    assert adversarial.gold == {"D1:1"} and not adversarial.answerable
    assert not without.gold


@pytest.mark.parametrize(
    ("cited", "found"),
    [
        (["D8:6; D9:17"], ["D8:6", "D9:17"]),
        (["D:11:26"], ["D11:26"]),
        (["D30:05"], ["D30:5"]),
        (["D1:18 D1:20", "D1:18"], ["D1:18", "D1:20", "D1:18"]),
        (["D", "D7:7", None], []),
        (None, []),
    ],
)
def test_evidence_is_read_however_it_was_written(cited: Any, found: list[str]) -> None:
    there = dict.fromkeys(("D8:6", "D9:17", "D11:26", "D30:5", "D1:18", "D1:20"), "session")
    assert list(evidence(cited, there)) == found


def test_longmemeval_has_turns_and_sessions_that_answer(data: Path) -> None:
    first, absent = conversations(data, "longmemeval_tiny")
    [said], [question] = first.said, first.questions
    assert isinstance(said, Imported)
    assert list(said.turns.values()) == ["chat_9_1", "chat_9_2", "answer_1_1", "answer_1_2", "answer_1_3"]
    key = next(record for record in said.records if said.turns.get(record.id) == "answer_1_3")
    assert key.text == "The spare key is under the fern." and key.scope.session == "answer_1"
    assert question.gold == {"answer_1_3"} and question.sessions == {"answer_1"}
    assert (question.category, question.answerable) == ("multi-session", True)
    assert (absent.questions[0].category, absent.questions[0].answerable) == ("abstention", False)


def test_beam_chats_come_in_their_order_without_the_generators_marks(data: Path) -> None:
    second, tenth = conversations(data, "beam-tiny")
    assert (second.user, tenth.user) == ("2", "10")
    groups = [(said.session, said.names) for said in second.said if not isinstance(said, Imported)]
    assert groups == [("2/1", ("0", "1")), ("2/2", ("2",)), ("2/3", ("3",))]
    contents = [each for said in second.said if not isinstance(said, Imported) for each in said.contents]
    assert contents[0]["content"] == "My sprint ends on a Friday."
    assert [f"{each['at']:%m-%d %S}" for each in contents] == ["03-15 00", "03-15 01", "03-15 02", "04-05 00"]
    update, abstention = second.questions
    assert (update.gold, update.sessions) == ({"0", "3"}, {"2/1", "2/3"})
    assert not abstention.gold and not abstention.answerable


def test_madial_asks_with_the_dialogue_so_far(data: Path) -> None:
    [all] = conversations(data, "madial-en")
    [question] = all.questions
    assert question.text == '"Shall I dance tonight?" "Why not!"'
    assert question.gold == {"1"}
    [said] = all.said
    assert not isinstance(said, Imported) and said.names == ("1", "4")


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("locomo/any-name.json", json.dumps([LOCOMO])[:-9], "too soon|not JSON|comma"),
        ("locomo/any-name.json", json.dumps([LOCOMO]).replace('"dia_id": "D1:2", ', ""), "turn 2"),
        ("locomo/any-name.json", json.dumps([LOCOMO]).replace('"category": 4', '"category": "x"'), "qa"),
        ("longmemeval_tiny.json", json.dumps([LONGMEMEVAL | {"haystack_sessions": "?"}]), "haystack_sessions"),
        ("longmemeval_tiny.json", json.dumps([LONGMEMEVAL | {"haystack_dates": ["?", "?"]}]), "time"),
        ("beam-tiny/2/chat.json", "[{", "JSON"),
        ("beam-tiny/2/chat.json", json.dumps(CHAT).replace("March-15-2024", "soon"), "no date"),
        ("beam-tiny/2/probing_questions.json", "{", "cannot be read"),
        ("beam-tiny/2/probing_questions.json", '{"a": [{"source_chat_ids": [1]}]}', "a question of a"),
        ("madial-en/dialogue.json", json.dumps(DIALOGUES[0]) + "\n{", "JSON"),
        ("madial-en/dialogue.json", json.dumps(DIALOGUES[0] | {"test-turn": [1]}), "nothing before"),
    ],
)  # fmt: skip
def test_a_broken_file_is_not_measured(data: Path, path: str, content: str, message: str) -> None:
    (data / path).write_text(content)
    with pytest.raises(Damaged, match=message):
        for made in find(data):
            list(made.read("space"))


# -- what they are hidden in -------------------------------------------------------------------------------------------


def test_what_they_are_hidden_in_is_the_same_every_time_and_varied() -> None:
    chats = list(unrelated(3_000))
    assert chats == list(unrelated(3_000))
    assert chats[:10] == list(unrelated(9_000))[:10]
    messages = [message for _, chat in chats for message in chat]
    assert len(messages) == 3_000 == len({message["id"] for message in messages})
    assert len({message["content"] for message in messages}) > 2_900
    assert len({word for message in messages for word in message["content"].split()}) > 2_000
    assert len({session for session, _ in chats}) == len(chats)
    assert list(unrelated(0)) == []


# -- a run -------------------------------------------------------------------------------------------------------------


def test_every_question_is_asked_of_its_own_conversation(data: Path) -> None:
    found = run(find(data), QUICK)
    summary = found.summary()
    assert {name: figures["questions"] for name, figures in summary.items()} == {
        "locomo": 8, "longmemeval_tiny": 2, "beam-tiny": 4, "madial-en": 1,
    }  # fmt: skip
    kayak = next(each for each in found.answers if each.id == "talk-2/0")
    assert kayak.turns[0] == "D1:1" and {hit.session for hit in kayak.hits} <= {f"talk-2/session_{n}" for n in (1, 2)}
    assert summary["locomo"]["answerable"]["questions"] == 4  # two of each conversation have evidence
    assert summary["locomo"]["categories"]["5 adversarial"]["questions"] == 2
    assert summary["locomo"]["all"]["questions"] == 6
    assert summary["longmemeval_tiny"]["answerable"]["session_any@1"] == 1
    assert summary["madial-en"]["answerable"]["mrr"] == 1
    assert summary["madial-en"]["auroc"] is None and 0 <= summary["locomo"]["auroc"] <= 1
    assert summary["locomo"]["users"] == ["talk-1", "talk-2"] and summary["locomo"]["records"] == 6
    assert summary["locomo"]["remembered_per_s"] > 0 and summary["locomo"]["recall_ms"]["p95"] > 0


def test_everything_is_remembered_before_anything_is_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = list[int]()
    recall = Memory.recall

    def counted(memory: Memory, *args: Any, **more: Any) -> Any:
        there.append(memory.count(space=more["space"], kinds="message"))
        return recall(memory, *args, **more)

    monkeypatch.setattr(Memory, "recall", counted)
    run(find(data, ["locomo"]), QUICK)
    assert len(there) >= 8 and set(there) == {6}


def test_contexts_are_measured_beside_the_plain_list(data: Path) -> None:
    found = run(find(data, ["locomo"]), replace(QUICK, quick=False))
    figures = found.summary()["locomo"]["answerable"]
    assert figures["context@4000"] == figures["plain@4000"] == 1
    assert 0 < figures["tokens_p50"] < 500
    assert all(hit.tokens > 3 for each in found.answers for hit in each.hits)


def test_a_context_holds_a_turn_only_if_it_holds_the_whole_of_it(data: Path) -> None:
    long = " ".join(f"word{number}" for number in range(5_000))
    chat = json.loads(json.dumps(CHAT).replace("My sprint ends on a Friday.", f"My sprint ends on a Friday. {long}"))
    for number in ("2", "10"):
        write(data / "beam-tiny" / number / "chat.json", chat)
    found = run(find(data, ["beam"]), replace(QUICK, quick=False))
    update = next(each for each in found.answers if each.gold)
    assert set(update.gold) <= set(update.turns) and not any(update.held.values())


def test_a_limit_of_conversations_and_hidden_records(data: Path) -> None:
    hidden = run(find(data, ["locomo"]), replace(QUICK, embedder="none", conversations=1, hidden=200))
    assert hidden.summary()["locomo"]["users"] == ["talk-1"]
    assert any(hit.turn.startswith("hidden/") for each in hidden.answers for hit in each.hits)
    kayak = hidden.answers[0]
    assert "D1:1" in kayak.turns[:3]  # the made-up talk has kayaks too


def test_what_is_kept_is_used_again_and_never_mixed_with_what_is_hidden(data: Path, tmp_path: Path) -> None:
    plan = replace(QUICK, store=tmp_path / "kept.db")
    first, hidden, again = (run(find(data), each) for each in (plan, replace(plan, hidden=50), plan))
    assert [(each.id, each.turns) for each in first.answers] == [(each.id, each.turns) for each in again.answers]
    assert any(hit.turn.startswith("hidden/") for each in hidden.answers for hit in each.hits)
    assert again.summary()["locomo"]["remembered_per_s"] is None  # nothing was remembered
    run(find(data), replace(plan, hidden=50))
    with Memory(plan.store, embedder="hashing:") as memory:
        assert memory.count(space="locomo-hidden-50", sources="made up", kinds="message") == 50
        assert memory.count() == 0  # of the space that everybody has


def test_what_hides_is_kept_on_with_where_it_was_broken_off(data: Path, tmp_path: Path) -> None:
    plan = replace(QUICK, store=tmp_path / "kept.db", hidden=50)
    with Memory(plan.store, embedder="hashing:") as memory:
        (session, messages), *_ = unrelated(50)
        memory.remember([*messages[:3]], session=session, space="locomo-hidden-50", source="made up")
    broken_off = run(find(data, ["locomo"]), plan)
    with Memory(plan.store, embedder="hashing:") as memory:
        assert memory.count(space="locomo-hidden-50", sources="made up", kinds="message") == 50
    whole = run(find(data, ["locomo"]), replace(plan, store=tmp_path / "other.db"))
    assert [each.turns for each in broken_off.answers] == [each.turns for each in whole.answers]


def test_a_saved_run_is_read_back_as_it_was(data: Path, tmp_path: Path) -> None:
    found = run(find(data), replace(QUICK, quick=False))
    found.save(tmp_path / "run.json")
    back = read_run(tmp_path / "run.json")
    assert back.answers == found.answers and back.summary() == found.summary()
    assert not lost(compare(back, found))
    saved = (tmp_path / "run.json").read_text()
    for text in ("kayak", "fern", "Friday", "danced"):
        assert text not in saved  # names and figures, no text of the data
    (tmp_path / "broken.json").write_text('{"conditions": 1}')
    with pytest.raises(Damaged, match="no run"):
        read_run(tmp_path / "broken.json")
    with pytest.raises(NotFound):
        read_run(tmp_path / "none.json")


def test_what_each_effort_takes_is_measured_on_the_first_questions(data: Path) -> None:
    found = run(find(data, ["locomo"]), QUICK)
    assert {effort: len(taken) for effort, taken in found.costs["locomo"].efforts_ms.items()} == dict.fromkeys(
        EFFORTS, 8
    )
    spread = found.summary()["locomo"]["efforts_ms"]
    assert all(0 < each["p50"] <= each["p95"] for each in spread.values())
    assert "Milliseconds of a recall with each effort" in table(found.summary())


def test_the_table_has_a_row_for_each_set_and_category(data: Path) -> None:
    text = table(run(find(data), replace(QUICK, quick=False)).summary())
    for title in ("LoCoMo", "LongMemEval (longmemeval_tiny)", "BEAM (beam-tiny)", "MADial-Bench (madial-en)"):
        assert f"| **{title}** |" in text
    assert "… 5 adversarial | 2 |" in text and "recall_all@10" in text and "AUROC" in text
    for section in text.split("### ")[1:]:
        rows = [line.count("|") for line in section.splitlines() if line.startswith("|")]
        assert len(set(rows)) == 1, section


# -- the command -------------------------------------------------------------------------------------------------------


Run = Callable[..., Result]


@pytest.fixture
def bench(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("SIMONIDES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMONIDES_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("SIMONIDES_EMBEDDER", "hashing:")
    monkeypatch.delenv("SIMONIDES_STORE", raising=False)

    def bench(*args: str) -> Result:
        return CliRunner().invoke(main, ["bench", "quality", "--data", str(data), *args])

    return bench


def test_the_command_measures_saves_and_compares(bench: Run, tmp_path: Path) -> None:
    out, markdown = tmp_path / "run.json", tmp_path / "run.md"
    first = bench("--quick", "--out", str(out), "--markdown", str(markdown))
    assert first.exit_code == 0, first.stderr
    assert first.stdout.strip() == markdown.read_text().strip() and "**LoCoMo**" in first.stdout
    again = bench("--quick", "--only", "locomo,madial", "--against", str(out), "--json")
    assert again.exit_code == 0, again.stderr
    told = json.loads(again.stdout)
    assert list(told["sets"]) == ["locomo", "madial-en"]
    assert {each["difference"] for each in told["differences"]} == {0}
    assert not (tmp_path / "home").exists()  # nobody's memory was touched


def test_a_significant_loss_has_a_status_of_its_own(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    assert bench("--quick", "--only", "locomo", "--out", str(out)).exit_code == 0
    saved = json.loads(out.read_text())
    for each in saved["answers"]:  # a run that had found everything at once
        each["hits"] = [{"turn": turn, "session": "", "score": 1.0, "tokens": 0} for turn in each["gold"]]
    out.write_text(json.dumps(saved))
    worse = bench(
        "--quick", "--only", "locomo", "--against", str(out), "--embedder", "none", "--ask", 'since="2024-01-01"'
    )
    assert worse.exit_code == WORSE == 7
    assert "| worse |" in worse.stdout


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--only", "lokomo"], 2, "did you mean"),
        (["--against", "none.json"], 3, "no file"),
        (["--out", "nowhere/run.json"], 2, "no folder"),
        (["--store", "me.db"], 2, "memory of its own"),
        (["--limit-conversations", "0"], 2, "--limit-conversations"),
        (["--ask", "effrt=low"], 2, "effrt"),
        (["--embedder", "nonesuch:"], 2, "embedders"),
    ],
)
def test_what_the_command_refuses(bench: Run, args: list[str], status: int, message: str) -> None:
    refused = bench("--quick", *args)
    assert refused.exit_code == status and message in refused.stderr, refused.stderr


# -- the page ----------------------------------------------------------------------------------------------------------


def script(name: str = "quality") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_results_come_from_a_saved_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(find(data), replace(QUICK, quick=False)).save(tmp_path / "run.json")
    page, made = tmp_path / "page.md", script()
    given = [str(tmp_path / "run.json"), "--page", str(page), "--results", str(tmp_path), "--note", "A half of it."]
    monkeypatch.setattr(sys, "argv", ["quality.py", *given])
    made.main()
    text = page.read_text()
    assert "- A half of it.\n" in text and "2 conversations (talk-1, talk-2), 6 turns, 8 questions" in text
    assert "| LoCoMo turns, categories 1–4: Recall@10 |" in text
    assert str(tmp_path) not in text
    [results] = tmp_path.glob("quality-*.json")
    assert json.loads(results.read_text())["sets"]["locomo"]["questions"] == 8
    assert results.with_suffix(".md").read_text().startswith("# How well it recalls")


def test_the_page_in_the_documentation_is_generated() -> None:
    """It says what this script says, whatever the figures of the run were."""
    text, made = (ROOT / "docs" / "recall-quality.md").read_text("utf-8"), script()
    fixed = [line for line in made.PAGE.splitlines() if line and "{" not in line]
    assert [line for line in fixed if line not in text.splitlines()] == []
    assert all(f"| {bar.what} |" in text for bar in made.BARS)


# -- the fit of the weights --------------------------------------------------------------------------------------------


@pytest.fixture
def fit_weights(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("SIMONIDES_EMBEDDER", "hashing:")
    return script("fit_weights")


async def test_every_question_is_asked_for_the_fit_and_some_of_strangers(data: Path, fit_weights: ModuleType) -> None:
    asked = await fit_weights.collected(data, None)
    counts = {
        family: sum(each.family == family and not each.stranger for each in asked) for family in ("locomo", "beam")
    }
    assert counts == {"locomo": 8, "beam": 4}
    strangers = [each for each in asked if each.stranger]
    assert {each.family for each in strangers} == {"locomo", "beam"}
    assert not any(each.answerable or each.right.any() for each in strangers)
    [first] = [each for each in asked if each.family == "locomo" and each.group == "talk-1"][:1]
    assert first.late.signals.shape == (len(first.right), len(fit_weights.NAMES)) and first.right.any()
    seen = [fit_weights.Seen(each, "talk", each.late) for each in asked if each.family == "locomo"]
    found = fit_weights.measured(seen, [each.values.signals.sum(axis=1) for each in seen])
    assert found["questions"] == 4 and 0 < found["mrr"] <= found["recall@10"] == 1


def test_a_note_has_nothing_around_it_and_no_speaker(data: Path, fit_weights: ModuleType) -> None:
    asked = asyncio.run(fit_weights.collected(data, None))
    notes = next(each.notes["plain"] for each in asked if each.family == "locomo")
    column = dict(zip(fit_weights.NAMES, notes.signals.T, strict=True))
    assert not column["speaker"].any() and not column["speaker_words"].any() and not notes.voices.any()
    assert (column["near_before"] == column["near"]).all() and (column["passage"] == column["words"]).all()


def test_fitted_weights_are_ones_that_recall_can_use(data: Path, tmp_path: Path, fit_weights: ModuleType) -> None:
    pytest.importorskip("scipy")
    fit_weights.main(["--data", str(data), "--out", str(tmp_path / "weights.json")])
    assert weights.read((tmp_path / "weights.json").read_bytes()).late.scale > 0
