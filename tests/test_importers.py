"""Importing: every format read as it is written, whatever is broken told and stepped over, our own export exact."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simonides import exports, importers
from simonides.drafts import Draft
from simonides.errors import Damaged, Invalid, Unavailable
from simonides.importer import Problem
from simonides.importers import archive, elements
from simonides.kinds import KINDS
from simonides.record import Link, Record, Scope, Span
from simonides.testing import records as drawn

ME = Scope(user="me")
OPEN = Scope()
AT = datetime(2026, 5, 2, 9, tzinfo=UTC)
DATA = Path(__file__).parents[2] / "shared" / "data"
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# -- what the tests read -----------------------------------------------------------------------------------------------


def turn(key: str, parent: str | None, text: Any, role: str = "user", at: float | None = None, **more: Any) -> Any:
    content = more.pop("content", {"content_type": "text", "parts": [text]})
    message = {"id": key, "author": {"role": role}, "create_time": at, "content": content, "metadata": {}, **more}
    return {key: {"id": key, "parent": parent, "children": [], "message": message}}


def chatgpt(id: str = "c1", **more: Any) -> dict[str, Any]:
    """A conversation whose question was asked again: q2 was edited into q2b."""
    return {
        "title": "Moving to Lisbon", "create_time": 1777712400.0, "conversation_id": id, "current_node": "a2b",
        "mapping": {
            "root": {"id": "root", "parent": None, "children": ["q1"], "message": None},
            **turn("q1", "root", "I move to Lisbon in May.", at=1777712400.5),
            **turn("a1", "q1", "How nice! ☀️", "assistant", at=1777712401.25),
            **turn("q2", "a1", "Where do I live?", at=1777712402.0),
            **turn("a2", "q2", "In Porto.", "assistant", at=1777712403.0),
            **turn("q2b", "a1", "Where will I live?", at=1777712410.0),
            **turn("a2b", "q2b", "In Lisbon.", "assistant", at=1777712411.0),
        },
    } | more  # fmt: skip


def claude(id: str = "t1", **more: Any) -> dict[str, Any]:
    return {
        "uuid": id, "name": "Seasickness", "created_at": "2026-05-02T09:00:00Z", "updated_at": "2026-05-02T10:00:00Z",
        "account": {"uuid": "me"},
        "chat_messages": [
            {"uuid": f"{id}-1", "text": "What helps?", "sender": "human", "created_at": "2026-05-02T09:00:01.5Z",
             "content": [{"type": "text", "text": "What helps?"}], "files": [{"file_name": "boat.png"}],
             "attachments": [{"file_name": "log.txt", "file_type": "txt", "extracted_content": "Day 1: sick."}]},
            {"uuid": f"{id}-2", "text": "", "sender": "assistant", "created_at": "2026-05-02T09:00:05Z",
             "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "name": "search", "input": {}},
                         {"type": "tool_result", "name": "search", "content": [{"type": "text", "text": "Ginger!"}]},
                         {"type": "text", "text": "Ginger helps."}], "attachments": [], "files": []},
        ],
    } | more  # fmt: skip


def locomo(id: str = "conv-1", **more: Any) -> dict[str, Any]:
    return {
        "qa": [{"question": "Secret question?", "answer": "Secret", "evidence": ["D1:1"], "category": 1}],
        "conversation": {
            "speaker_a": "Ana", "speaker_b": "Bo", "session_2_date_time": "12:05 am on 9 May, 2023",
            "session_2": [{"speaker": "Ana", "dia_id": "D2:1", "text": "Back again."}],
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ana", "dia_id": "D1:1", "text": "Look!", "blip_caption": "a photo of a dog"},
                {"speaker": "Bo", "dia_id": "D1:2", "text": "Lovely."},
            ],
        },
        "session_summary": {"session_1_summary": "Secret summary"}, "sample_id": id,
    } | more  # fmt: skip


def longmemeval(id: str = "q1", **more: Any) -> dict[str, Any]:
    return {
        "question_id": id, "question_type": "single", "question": "Secret question?", "answer": "Secret",
        "question_date": "2023/05/30 (Tue) 23:40", "haystack_dates": ["2023/05/20 (Sat) 02:21"],
        "haystack_session_ids": [f"answer_{id}"], "answer_session_ids": [f"answer_{id}"],
        "haystack_sessions": [[{"role": "user", "content": "I adopted a cat.", "has_answer": True},
                               {"role": "assistant", "content": "Congratulations!"}]],
    } | more  # fmt: skip


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def talk(session: str = "s1") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "I move in May.", "at": "2026-05-02T09:00:00Z", "session": session},
        {"role": "assistant", "content": "Where to?", "at": "2026-05-02T09:00:01Z", "session": session},
        {"role": "user", "content": "Lisbon", "at": "2026-05-02T09:00:02Z", "session": session},
    ]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, Any], Path]:
    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


Written = Callable[[str, Any], Path]


def zipped(**files: Any) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name.replace("__", "."), content if isinstance(content, bytes) else json.dumps(content))
    return held.getvalue()


def both(path: Path, scope: Scope = ME) -> tuple[list[Record], list[Problem]]:
    found = list(importers.read([path], scope))
    return split(found)


def split(found: list[Record | Problem]) -> tuple[list[Record], list[Problem]]:
    return [f for f in found if isinstance(f, Record)], [f for f in found if isinstance(f, Problem)]


def records(path: Path, scope: Scope = ME) -> list[Record]:
    found, problems = both(path, scope)
    assert not problems
    return found


def messages(path: Path, scope: Scope = ME) -> list[Record]:
    return [record for record in records(path, scope) if record.kind == "message"]


# -- ChatGPT -----------------------------------------------------------------------------------------------------------


def test_the_live_branch_of_a_chatgpt_conversation_is_kept_in_order_and_the_abandoned_one_archived(
    written: Written,
) -> None:
    whole, *said = records(written("conversations.json", [chatgpt()]))
    assert (whole.kind, whole.text, whole.scope.session) == ("conversation", "Moving to Lisbon", "c1")
    live = [record for record in said if record.status == "active"]
    assert [(r.body.who, r.text) for r in live] == [
        ("user", "I move to Lisbon in May."), ("assistant", "How nice! ☀️"),
        ("user", "Where will I live?"), ("assistant", "In Lisbon."),
    ]  # fmt: skip
    left = [record for record in said if record.status == "archived"]
    assert [r.text for r in left] == ["Where do I live?", "In Porto."]
    assert {r.metadata["branch"] for r in left} == {"abandoned"}
    assert all(r.part_of == whole.id and r.scope == whole.scope == dataclasses.replace(ME, session="c1") for r in said)
    assert {r.source for r in said} == {"import/chatgpt"}
    assert live[1].at == datetime(2026, 5, 2, 9, 0, 1, 250000, tzinfo=UTC)


def test_hidden_empty_and_thought_messages_are_skipped_and_tools_are_archived(written: Written) -> None:
    mapping = {
        **turn("s", None, "", "system"),
        **turn("h", "s", "custom instructions", metadata={"is_visually_hidden_from_conversation": True}),
        **turn("q", "h", "  Draw a dog \n"),
        **turn("t", "q", None, "assistant", content={"content_type": "thoughts", "thoughts": [{"summary": "hm"}]}),
        **turn("c", "t", None, "assistant", content={"content_type": "code", "text": "draw()"}, recipient="python"),
        **turn("o", "c", None, "tool", content={"content_type": "execution_output", "text": "done"}),
        **turn("w", "o", " \n\t"),
        **turn("a", "w", "Here it is.", "assistant", recipient="all"),
    }
    said = messages(written("conversations.json", [chatgpt(mapping=mapping, current_node="a")]))
    assert [(r.text, r.body.role, r.status) for r in said] == [  # type: ignore[attr-defined]
        ("  Draw a dog \n", "user", "active"), ("draw()", "assistant", "archived"),
        ("done", "tool", "archived"), ("Here it is.", "assistant", "active"),
    ]  # fmt: skip


def test_pictures_in_a_message_are_placeholders_and_their_names_metadata(written: Written) -> None:
    parts = [{"content_type": "image_asset_pointer", "asset_pointer": "file-service://f1"}, "Who is this?", {"x": 1}]
    mapping = turn("q", None, None, content={"content_type": "multimodal_text", "parts": parts})
    [said] = messages(written("conversations.json", [chatgpt(mapping=mapping)]))
    assert said.text == "[image]\nWho is this?"
    assert said.metadata == {"content_type": "multimodal_text", "assets": ["file-service://f1"]}


def test_messages_without_a_time_follow_the_one_before_by_a_microsecond(written: Written) -> None:
    mapping = {**turn("1", None, "one"), **turn("2", "1", "two", at=1777712500), **turn("3", "2", "three")}
    said = messages(written("conversations.json", [chatgpt(mapping=mapping, current_node="3")]))
    assert [r.valid.since and r.valid.since.timestamp() for r in said] == [1777712400, 1777712500, 1777712500.000001]


@pytest.mark.parametrize(
    "tree",
    [
        {"current_node": "nowhere"},
        {"current_node": None},
        {"mapping": chatgpt()["mapping"] | {"q1": chatgpt()["mapping"]["q1"] | {"parent": "a2b"}}},  # a cycle
        {"mapping": chatgpt()["mapping"] | {"q1": chatgpt()["mapping"]["q1"] | {"parent": "gone"}}},
        {"mapping": chatgpt()["mapping"] | {"root": None}},
    ],
)
def test_a_damaged_tree_of_edits_loses_no_message(written: Written, tree: Any) -> None:
    said = messages(written("conversations.json", [chatgpt(**tree)]))
    assert [r.text for r in said if r.status == "active"][-1] == "In Lisbon."
    assert len(said) == 6


def test_a_broken_node_costs_only_itself_and_does_not_cut_the_branch(written: Written) -> None:
    tree = chatgpt()
    tree["mapping"]["a1"]["message"]["content"] = 7
    found, [problem] = both(written("conversations.json", [tree]))
    assert [r.text for r in found[1:] if r.status == "active"] == [
        "I move to Lisbon in May.", "Where will I live?", "In Lisbon.",
    ]  # fmt: skip
    assert "a1" in problem.message


def test_an_export_that_has_grown_gives_what_was_there_the_same_ids(written: Written) -> None:
    old, new = chatgpt(), chatgpt(title="Lisbon", current_node="q3")
    old["mapping"]["q1"]["message"]["create_time"] = None
    new["mapping"]["q1"]["message"]["create_time"] = None
    new["mapping"] = {**turn("q3", "a2b", "Thanks", at=1777719999), **new["mapping"]}
    before, after = records(written("a.json", [old])), records(written("b.json", [new]))
    assert {r.id for r in before} < {r.id for r in after}
    assert {r.text: r.id for r in before[1:]}.items() < {r.text: r.id for r in after[1:]}.items()


def test_a_single_conversation_a_zip_a_gzip_and_numbered_parts_read_alike(written: Written) -> None:
    wanted = records(written("plain.json", [chatgpt()]))
    assert records(written("single.json", chatgpt())) == wanted
    assert records(written("packed.json.gz", gzip.compress(json.dumps([chatgpt()]).encode()))) == wanted
    files = {"conversations__json": [chatgpt()], "user__json": {"messages": []}}
    assert records(written("export.zip", zipped(**files))) == wanted
    parts = {"x/conversations-001__json": [chatgpt("c2")], "x/conversations-000__json": [chatgpt()]}
    wholes = [r for r in records(written("parts.zip", zipped(**parts))) if r.kind == "conversation"]
    assert [r.scope.session for r in wholes] == ["c1", "c2"]


def test_the_same_conversation_of_two_users_is_two(written: Written) -> None:
    path = written("conversations.json", [chatgpt()])
    assert not {r.id for r in records(path, ME)} & {r.id for r in records(path, Scope(user="you"))}


def test_an_imported_conversation_can_be_continued_under_its_session(written: Written) -> None:
    whole = records(written("conversations.json", [chatgpt()]))[0]
    assert whole.id == Draft(scope=dataclasses.replace(ME, session="c1"), zone=None).conversation(None).id


# -- Claude ------------------------------------------------------------------------------------------------------------


def test_a_claude_conversation_keeps_what_was_said_and_what_was_attached(written: Written) -> None:
    whole, question, document, chunk, answer, tool = records(written("conversations.json", [claude()]))
    assert (whole.text, whole.scope.session) == ("Seasickness", "t1")
    assert (question.text, question.body.who, question.status) == ("What helps?", "user", "active")
    assert question.metadata == {"files": ["boat.png"]}
    assert (document.kind, document.text, document.part_of) == ("document", "log.txt", whole.id)
    assert (chunk.kind, chunk.text, chunk.part_of) == ("chunk", "Day 1: sick.", document.id)
    assert (answer.text, answer.body.who, answer.metadata) == ("Ginger helps.", "assistant", {"tools": ["search"]})
    assert (tool.text, tool.status, tool.at and answer.at and tool.at > answer.at) == ("Ginger!", "archived", True)


def test_a_claude_message_without_parts_says_its_text(written: Written) -> None:
    message = {"uuid": "m", "text": " as it is \n", "sender": "human"}
    [said] = messages(written("x.zip", zipped(conversations__json=[claude(chat_messages=[message])])))
    assert (said.text, said.at) == (" as it is \n", AT)


# -- Markdown and text -------------------------------------------------------------------------------------------------


def test_a_markdown_file_is_a_document_and_chunks_that_know_their_headings(written: Written) -> None:
    text = "Intro.\n\n# Boat\n\n## Sails\n\nTwo of them.\n\n```\n# no heading\n```\n\nMast\n====\n\nTall.\n"
    document, *chunks = records(written("notes/boat.md", text.encode()))
    assert document.kind == "document" and document.text == "boat.md"
    assert document.body.key == os.path.abspath(str(document.body.key))
    assert [(c.body.who, c.text) for c in chunks] == [
        (None, "Intro.\n\n"),
        ("Boat > Sails", "# Boat\n\n## Sails\n\nTwo of them.\n\n```\n# no heading\n```\n\n"),
        ("Mast", "Mast\n====\n\nTall.\n"),
    ]
    assert {c.part_of for c in chunks} == {document.id}


def test_front_matter_says_title_date_and_labels(written: Written) -> None:
    text = '---\ntitle: "The boat"\ndate: 2026-05-02\ntags: [sea, home]\nauthor: Ana\nkeywords:\n  - wood\n---\nIt.\n'
    document, front, body = records(written("boat.md", text.encode()))
    assert (document.text, document.labels) == ("The boat", ("home", "sea", "wood"))
    assert (document.valid.since, body.labels) == (datetime(2026, 5, 2, tzinfo=UTC), document.labels)
    assert document.metadata == {"title": "The boat", "author": "Ana"}
    assert front.text + body.text == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_text_is_read_in_its_encoding(written: Written, encoding: str) -> None:
    found, problems = both(written("x.txt", "Café “à la carte”\r\n".encode(encoding)))
    assert found[1].text == "Café “à la carte”\r\n"
    assert ["Windows-1252" in problem.message for problem in problems] == ([True] if encoding == "cp1252" else [])


PIECES = ["# A", "## B", "---", "===", "```", "\n", "\n\n", "\r\n", " ", "Word. ", "no end ", "。你好", "- x\n"]
words = st.sampled_from([*PIECES, "x" * 700])
anything = st.lists(words | st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=30).map("".join)


@relaxed
@given(text=anything, name=st.sampled_from(["x.md", "x.txt"]))
@example(text="# A\n" + "word " * 3000, name="x.md")
@example(text=" " * 5000 + "x" + " " * 5000, name="x.md")
@example(text="---\na: b\n---\n   ", name="x.md")
def test_every_character_of_a_text_is_in_its_chunks_in_order(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    chunks = [r for r in importers.formats()["markdown"].read(path, ME) if isinstance(r, Record)][1:]
    text = text.removeprefix("\ufeff")
    assert "".join(c.text for c in chunks) == (text if text.strip() else "")
    assert all(len(c.text.strip()) <= 1200 and c.text.strip() for c in chunks)
    assert [c.id for c in chunks] == sorted({c.id for c in chunks})


def test_a_long_text_is_in_order_and_says_again_what_it_says_again(written: Written) -> None:
    found = records(written("long.txt", b"x" * 3_600_000))[1:]
    assert [r.id for r in found] == sorted({r.id for r in found}) and len(found) == 3000


def test_a_sentence_is_not_cut_where_that_can_be_avoided(written: Written) -> None:
    sentence = "This is one sentence of the book, e.g. a short one. "
    _, *chunks = records(written("book.txt", (sentence * 200).encode()))
    assert len(chunks) < 12 and all(len(c.text) <= 1200 and len(c.text) % len(sentence) == 0 for c in chunks)


def test_a_changed_file_is_the_same_document_with_new_chunks_for_what_changed(written: Written) -> None:
    before = records(written("x.md", b"# A\n\nOne.\n\n# B\n\nTwo.\n"))
    after = records(written("x.md", b"# A\n\nOne.\n\n# B\n\nThree.\n"))
    assert [b.id == a.id for b, a in zip(before, after, strict=True)] == [True, True, False]


# -- JSON lines --------------------------------------------------------------------------------------------------------


def test_json_lines_of_several_sessions_are_their_conversations(written: Written) -> None:
    found = records(written("x.jsonl", lines(talk("s1")[0], talk("s2")[0], talk("s1")[1], *talk("s1")[2:])))
    assert [(r.kind, r.scope.session) for r in found] == [
        ("conversation", "s1"), ("message", "s1"), ("conversation", "s2"), ("message", "s2"),
        ("message", "s1"), ("message", "s1"),
    ]  # fmt: skip
    assert found[1].part_of == found[0].id == found[4].part_of
    assert records(written("list.json", [talk("s1")[0], talk("s2")[0], *talk("s1")[1:]])) == found


def test_the_usual_spellings_are_known_and_what_is_not_known_is_metadata(written: Written) -> None:
    line = {
        "speaker": "Ana", "text": "Hallo", "timestamp": 1777712400, "conversation_id": 7, "id": 12, "user": "ana",
        "labels": ["b", "a"], "metadata": {"x": [1]}, "mood": "good", "title": "Greetings",
    }  # fmt: skip
    whole, said = records(written("x.jsonl", lines(line)), OPEN)
    assert (whole.text, said.scope) == ("Greetings", Scope(user="ana", session="7"))
    assert (said.text, said.body.who, said.at) == ("Hallo", "Ana", AT)
    assert (said.labels, said.metadata) == (("a", "b"), {"x": [1], "mood": "good"})


def test_a_file_cannot_name_another_user_than_the_caller_did(written: Written) -> None:
    [said] = messages(written("x.jsonl", lines(talk()[0] | {"user": "you"})), ME)
    assert (said.scope.user, said.metadata) == ("me", {"user": "you"})


def test_lines_of_whole_conversations_are_read_as_such(written: Written) -> None:
    call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{}]}
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, call]
    more = {"messages": said[1:], "id": "b", "split": "dev"}
    found = records(written("train.jsonl", lines({"messages": said}, more)))
    assert [(r.kind, r.text, r.status) for r in found] == [
        ("conversation", "Conversation", "active"), ("message", "Be kind.", "archived"), ("message", "Hi", "active"),
        ("conversation", "Conversation", "active"), ("message", "Hi", "active"),
    ]  # fmt: skip
    assert (found[3].scope.session, found[3].metadata) == ("b", {"split": "dev"})


def test_times_without_a_zone_are_utc_and_said_so_once_a_file(written: Written) -> None:
    found, [problem] = both(written("x.jsonl", lines(*({**m, "at": "2026-05-02T09:00:00"} for m in talk()))))
    assert {r.at for r in found} == {AT} and "UTC" in problem.message


@pytest.mark.parametrize("at", ["12026-05-02", 1e20, -1e20, "soon", True, [], "0001-01-01T00:00:00+10:00"])
def test_a_time_out_of_range_is_a_problem_and_the_message_is_kept_without(written: Written, at: Any) -> None:
    found, [problem] = both(written("x.jsonl", lines(talk()[0] | {"at": at})))
    assert (found[-1].text, found[-1].valid) == ("I move in May.", Span())
    assert "no time that can be read" in problem.message


def test_messages_without_any_time_are_ordered_by_their_ids(written: Written) -> None:
    said = messages(written("x.jsonl", lines(*({"role": "user", "content": "ok"} for _ in range(50)))))
    assert [r.id for r in said] == sorted({r.id for r in said}) and len(said) == 50


def test_the_same_said_twice_at_one_time_is_two_messages(written: Written) -> None:
    assert len({r.id for r in messages(written("x.jsonl", lines(talk()[0], talk()[0])))}) == 2


def test_two_messages_under_one_id_are_two_and_the_same_one_twice_is_one(written: Written) -> None:
    one, two = (talk()[0] | {"id": "1", "session": "s", "content": text} for text in ("Yes", "No"))
    found = messages(written("x.jsonl", lines(one, two, one, one | {"session": "other"})))
    assert [r.text for r in found] == ["Yes", "No", "Yes", "Yes"]
    yes, no, again, other = (r.id for r in found)
    assert yes == again and len({yes, no, other}) == 3
    assert messages(written("y.jsonl", lines(one)))[0].id == yes


@pytest.mark.parametrize("at", [1767225600, 1767225600.0, 1767225600000, "2026-01-01T00:00:00Z"])
def test_a_number_is_seconds_or_milliseconds_since_1970(written: Written, at: Any) -> None:
    assert messages(written("x.jsonl", lines(talk()[0] | {"at": at})))[0].at == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_is_added_or_put_before_changes_no_other_id(written: Written) -> None:
    before = messages(written("x.jsonl", lines(*talk())))
    more = talk()[0] | {"at": "2020-01-01T00:00:00Z", "content": "Earlier"}
    assert {r.id for r in before} < {r.id for r in messages(written("x.jsonl", lines(more, *talk())))}


# -- LoCoMo and LongMemEval --------------------------------------------------------------------------------------------


def test_a_locomo_sample_is_a_memory_of_its_own(written: Written) -> None:
    found = records(written("locomo.json", [locomo(), locomo("conv-2")]), OPEN)
    assert {r.scope.user for r in found} == {"conv-1", "conv-2"}
    mine = [r for r in found if r.scope.user == "conv-1"]
    assert [(r.scope.session, r.body.who, r.text, r.metadata) for r in mine if r.kind == "message"] == [
        ("conv-1/session_1", "Ana", "Look! [image: a photo of a dog]", {"dia_id": "D1:1"}),
        ("conv-1/session_1", "Bo", "Lovely.", {"dia_id": "D1:2"}),
        ("conv-1/session_2", "Ana", "Back again.", {"dia_id": "D2:1"}),
    ]
    assert [r.at for r in mine[1:3]] == [datetime(2023, 5, 8, 13, 56, second, tzinfo=UTC) for second in (0, 1)]
    assert mine[-1].at == datetime(2023, 5, 9, 0, 5, tzinfo=UTC)


def test_a_longmemeval_question_brings_its_chats_and_nothing_of_the_answer(written: Written) -> None:
    whole, *said = records(written("lme.json", [longmemeval()]), OPEN)
    assert whole.scope == Scope(user="q1", session="answer_q1")
    assert [(r.body.who, r.text) for r in said] == [("user", "I adopted a cat."), ("assistant", "Congratulations!")]
    assert said[0].at == datetime(2023, 5, 20, 2, 21, tzinfo=UTC) and said[0].at < (said[1].at or AT)
    for path in ("lme.json", "locomo.json"):
        value = [longmemeval()] if path == "lme.json" else [locomo()]
        for record in records(written(path, value), OPEN):
            said_of_it = repr((record.body, record.metadata))
            assert not [mark for mark in ("Secret", "has_answer", "question") if mark in said_of_it]


@pytest.mark.skipif(not (DATA / "locomo").is_dir(), reason="the development data is not here")
def test_the_development_data_is_read_without_problems() -> None:
    path = DATA / "locomo" / "locomo-dev.json"
    found = records(path, OPEN)
    samples = json.loads(path.read_text("utf-8"))
    turns = [t for s in samples for name, value in s["conversation"].items() if isinstance(value, list) for t in value]
    assert len([r for r in found if r.kind == "message"]) == len(turns)
    assert len({r.id for r in found}) == len(found) and all(r.at for r in found)


def test_the_sample_archive_is_read_without_problems() -> None:
    path = Path(importers.__file__).parents[1] / "demo" / "archive.json"
    if path.exists():
        found = records(path)
        assert len(found) > 100 and len({r.id for r in found}) == len(found)


# -- which format it is ------------------------------------------------------------------------------------------------

ONE = Record(scope=OPEN, body=KINDS["note"](text="x"), known=Span(AT))
FORMATS: list[tuple[str, Any, str | None]] = [
    ("a.json", [chatgpt()], "ChatGPT export"),
    ("a.json", chatgpt(), "ChatGPT export"),
    ("a.md", [chatgpt()], "ChatGPT export"),
    ("a.zip", zipped(conversations__json=[chatgpt()]), "ChatGPT export"),
    ("noname", gzip.compress(json.dumps([chatgpt()]).encode()), "ChatGPT export"),
    ("a.json", json.dumps([None, {}, chatgpt()], indent=1).encode("utf-16"), "ChatGPT export"),
    ("a.json", [claude()], "Claude export"),
    ("a.zip", zipped(conversations__json=[claude()], projects__json=[], __hidden__json=[chatgpt()]), "Claude export"),
    ("a.json", [locomo()], "LoCoMo"),
    ("a.json", [locomo(qa=[{"question": "?" * 99, "evidence": [], "category": 1}] * 999)], "LoCoMo"),
    ("a.json", [longmemeval()], "LongMemEval"),
    ("a.jsonl", exports.header() + b"\n" + exports.line(ONE), "Simonides export"),
    ("a.gz", gzip.compress(exports.header() + b"\n"), "Simonides export"),
    ("a.jsonl", lines(*talk()), "JSON lines"),
    ("a.txt", lines(*talk()), "JSON lines"),
    ("a.zip", zipped(talk__jsonl=lines(*talk())), "JSON lines"),
    ("a.json", {"messages": talk()}, "JSON lines"),
    ("a.jsonl", b'{broken\n{"text": "x"}\n', "JSON lines"),
    ("a.md", b"# Hello", "Markdown or text"),
    ("A.TXT.gz", gzip.compress(b"Hello"), "Markdown or text"),
    ("a.txt", "Hello".encode("utf-16"), "Markdown or text"),
    ("a.txt", b"\0\1\2", None),
    ("a.json", {"name": "package", "version": 1}, None),
    ("a.py", b"print()", None),
    ("a.zip", zipped(a__txt=b"x"), None),
    ("a.zip", b"PK\3\4 broken", None),
    ("a.json", b'{"' + b'\\"' * 99999, None),
    ("a.json", b"", None),
]


@pytest.mark.parametrize(("name", "content", "format"), FORMATS, ids=[f"{n}-{f[0]}" for n, f in enumerate(FORMATS)])
def test_a_format_is_told_by_what_the_file_holds(written: Written, name: str, content: Any, format: str | None) -> None:
    importer = importers.detect(written(name, content))
    assert (importer.name if importer else None) == format


def test_exactly_one_particular_format_recognises_each_file(written: Written) -> None:
    particular = [f for f in importers.formats().values() if not getattr(f, "generality", 0)]
    for name, content, format in FORMATS:
        path = written(name, content)
        start = archive.head(path)
        assert [f.name for f in particular if f.recognises(path, start)] in ([], [format])


# -- files and folders -------------------------------------------------------------------------------------------------


def test_folders_are_read_in_order_without_hidden_files_and_what_nothing_knows_is_told(written: Written) -> None:
    written("in/b/2.md", b"two")
    written("in/a.md", b"one")
    written("in/.secret.md", b"hidden")
    written("in/.git/x.md", b"hidden")
    written("in/code.py", b"print()")
    written("in/z.png", b"\x89PNG\0\0")
    folder = written("in/y.bin", b"\0").parent
    found, problems = both(folder)
    assert [r.text for r in found if r.kind == "chunk"] == ["one", "two"]
    assert [str(p) for p in problems] == [
        f"{folder / 'code.py'}: no importer knows it", f"{folder}: 2 binary files were passed over",
    ]  # fmt: skip


def test_what_is_named_and_cannot_be_read_is_a_problem(written: Written, tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "nowhere", "no such file"),
        (written("x.bin", b"\0"), "binary"),
        (written("notes.zip", zipped(notes__md=b"# Notes")), "unpack it"),
        (written("x.zip", b"PK\3\4 broken"), "broken zip"),
        (written("x.gz", b"\x1f\x8b broken"), "cannot be read"),
    ):
        found, [problem] = both(path)
        assert not found and words in problem.message and problem.file == str(path)


def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.jsonl"
    try:
        Path(os.fsdecode(name)).write_bytes(lines({"role": "user", "content": "hi"}))
    except OSError:
        pytest.skip("this file system takes no such names")
    found, _ = both(tmp_path)
    assert [r.text for r in found][1:] == ["hi"] and found[0].scope.session


def test_progress_grows_to_the_size_that_was_told(written: Written) -> None:
    large = written("a.json", [chatgpt(str(n)) for n in range(900)])
    paths = [large, written("b.md", b"hello"), written("c.bin", b"\0")]
    told: list[int] = []
    found = list(importers.read(paths, ME, told.append))
    assert len(found) > 900 and told == sorted(told) and len(told) > 5
    assert told[-1] == importers.size(paths) == sum(path.stat().st_size for path in paths)


def test_a_conversation_that_two_files_begin_is_begun_once(written: Written) -> None:
    written("in/a.jsonl", lines(talk()[0]))
    found = records(written("in/b.jsonl", lines(talk()[1])).parent)
    assert [r.kind for r in found] == ["conversation", "message", "message"]


def test_an_archive_that_lists_too_much_is_not_opened(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zipped(**{f"conversations_{number}__json": b"[]" for number in range(100)})
    monkeypatch.setattr(archive, "DIRECTORY_MAX", 1000)
    assert "unpack it yourself" in both(written("x", packed))[1][-1].message
    monkeypatch.undo()
    assert "unpack it yourself" not in str(both(written("y", packed))[1])


@pytest.mark.parametrize("packed", ["zip", "gzip"])
def test_a_zip_bomb_is_refused(written: Written, packed: str) -> None:
    bomb = b'[{"mapping": {}, "id": "x"},' + json.dumps(chatgpt()).encode() + b',"' + b" " * 80_000_000
    path = written("x", zipped(conversations__json=bomb) if packed == "zip" else gzip.compress(bomb))
    assert path.stat().st_size < 1_000_000
    found, problems = both(path)
    assert "zip bomb" in problems[-1].message
    assert [r.text for r in found][-1] == "In Porto."  # what precedes it is read


# -- what is broken ----------------------------------------------------------------------------------------------------

Build = Callable[[str], dict[str, Any]]
LISTED: list[tuple[str, Build]] = [
    ("chatgpt", chatgpt), ("claude", claude), ("locomo", locomo), ("longmemeval", longmemeval),
    ("jsonl", lambda id: {"id": id, "messages": talk(id)}),
]  # fmt: skip


def read_as(format: str, path: Path) -> tuple[list[Record], list[Problem]]:
    return split(list(importers.formats()[format].read(path, OPEN)))


def listed(format: str, build: Build, folder: Path) -> tuple[list[bytes], list[list[Record]]]:
    """Return the elements of a list as they are written, and the records that each is alone."""
    values = [json.dumps(build(f"id{number}"), indent=1).encode() for number in range(4)]
    path, alone = folder / "alone.json", []
    for value in values:
        path.write_bytes(b"[" + value + b"]")
        alone.append(read_as(format, path)[0])
    return values, alone


@pytest.mark.parametrize(("format", "build"), LISTED)
@relaxed
@given(draw=st.data())
def test_a_cut_list_gives_all_that_precedes_the_cut(tmp_path: Path, format: str, build: Build, draw: Any) -> None:
    values, alone = listed(format, build, tmp_path)
    whole = b"[" + b", ".join(values) + b"]"
    cut = draw.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "cut.json"
    path.write_bytes(whole[:cut])
    found, problems = read_as(format, path)
    ends = [1 + sum(map(len, values[: n + 1])) + 2 * n for n in range(4)]
    expected = [record for end, records in zip(ends, alone, strict=True) if end <= cut for record in records]
    assert found == expected and (len(problems) == 1 or cut == 0)
    if problems:
        assert problems[0].file == str(path) and 1 <= (problems[0].line or 0) <= whole[:cut].count(b"\n") + 1


@pytest.mark.parametrize(("format", "build"), LISTED)
@relaxed
@given(draw=st.data())
def test_flipped_bytes_cost_nothing_that_precedes_them(tmp_path: Path, format: str, build: Build, draw: Any) -> None:
    values, alone = listed(format, build, tmp_path)
    whole = bytearray(b"[" + b", ".join(values) + b"]")
    places = draw.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3))
    for place in places:
        whole[place] ^= draw.draw(st.integers(1, 255))
    path = tmp_path / "flipped.json"
    path.write_bytes(whole)
    found, _ = read_as(format, path)
    ends = [1 + sum(map(len, values[: n + 1])) + 2 * n for n in range(4)]
    expected = [record for end, records in zip(ends, alone, strict=True) if end <= min(places) for record in records]
    assert found[: len(expected)] == expected


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("harm", ["colon", "quote", "end", "comma"])
@pytest.mark.parametrize(("format", "build"), LISTED)
def test_a_list_is_read_on_behind_what_is_broken(
    tmp_path: Path, format: str, build: Build, harm: str, place: int
) -> None:
    values, alone = listed(format, build, tmp_path)
    head, quote, tail = values[place].rpartition(b'"')
    broken = {
        "colon": b'"'.join(values[place].rsplit(b'":', 1)),
        "quote": head + quote * 2 + tail,
        "end": values[place].rstrip()[:-1],
        "comma": values[place],
    }[harm]
    between = [b"" if harm == "comma" and n == place else b",\n" for n in range(3)] + [b"]"]
    path = tmp_path / "broken.json"
    whole = zip([*values[:place], broken, *values[place + 1 :]], between, strict=True)
    path.write_bytes(b"[" + b"".join(value + comma for value, comma in whole))
    found, problems = read_as(format, path)
    kept = [records for n, records in enumerate(alone) if n != place or harm == "comma"]
    assert found == [record for records in kept for record in records]
    assert len(problems) == (harm != "comma" or place < 3)
    assert all(("read on from line" in problem.message) == (place < 3) for problem in problems)


@pytest.mark.parametrize("deep", ['{"a":', ', {"a": [1', ', {"a": "', " {", ', {"a": [{}'])
def test_where_a_list_goes_on_is_not_sought_for_ever(deep: str) -> None:
    began = time.process_time()
    text = '[{"a": 1, "b": 2}, x' + deep * 400_000
    assert len(list(elements.elements("x", [text.encode()]))) == 2
    assert time.process_time() - began < 20  # of minutes


def mutated(value: Any, draw: Any) -> Any:
    """Return the value with something else in one place of it."""
    value, odd = copy.deepcopy(value), st.sampled_from([[], {}, 1e99, 10**30, "\ud800", "*", " "])
    junk = draw.draw(drawn.json | odd)
    spot, key = value, None
    while isinstance(spot, dict | list) and spot:
        inner = spot
        key = draw.draw(st.sampled_from(sorted(spot)) if isinstance(spot, dict) else st.integers(0, len(spot) - 1))
        spot = inner[key]
        if draw.draw(st.booleans()):
            break
    if key is not None:
        inner[key] = junk
    return value


@pytest.mark.parametrize(("format", "build"), LISTED)
@relaxed
@given(draw=st.data())
def test_something_else_in_any_place_costs_only_its_own_element(
    tmp_path: Path, format: str, build: Build, draw: Any
) -> None:
    first, last = build("first"), build("last")
    path = tmp_path / "x.json"
    path.write_text(json.dumps([first]))
    before = read_as(format, path)[0]
    path.write_text(json.dumps([last]))
    after = read_as(format, path)[0]
    path.write_text(json.dumps([first, mutated(build("middle"), draw), last]))
    found, _ = read_as(format, path)
    assert found[: len(before)] == before and found[-len(after) :] == after
    for record in found:
        exports.line(record)  # all of it can be stored


@pytest.mark.parametrize("format", sorted(importers.formats()))
@relaxed
@given(value=drawn.json)
def test_no_json_at_all_makes_an_importer_raise(tmp_path: Path, format: str, value: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([value, value]))
    for found in importers.formats()[format].read(path, OPEN):
        assert isinstance(found, Record | Problem)


@relaxed
@given(draw=st.data(), packed=st.booleans())
def test_flipped_or_cut_archives_never_raise(tmp_path: Path, draw: Any, packed: bool) -> None:
    content = [chatgpt(), chatgpt("c2")]
    whole = bytearray(zipped(conversations__json=content) if packed else gzip.compress(json.dumps(content).encode()))
    for _ in range(draw.draw(st.integers(0, 3))):
        whole[draw.draw(st.integers(0, len(whole) - 1))] ^= draw.draw(st.integers(1, 255))
    path = tmp_path / "x.zip"
    path.write_bytes(whole[: draw.draw(st.integers(0, len(whole)))])
    for found in importers.read([path], ME):
        assert isinstance(found, Record | Problem)


@relaxed
@given(content=st.binary(max_size=300), name=st.sampled_from(["x.md", "x.json", "x.jsonl", "x.zip", "x"]))
def test_no_bytes_at_all_make_reading_raise(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    for found in importers.read([tmp_path / name], ME):
        assert isinstance(found, Record | Problem)
    (tmp_path / name).unlink()


def test_a_broken_line_is_told_with_its_number_and_the_others_are_read(written: Written) -> None:
    good = lines(*talk()).splitlines(keepends=True)
    bad = b'[]\n7\n{"role": "user"}\n{"content": 5}'
    found, problems = both(written("x.jsonl", b'{"role": "us\n'.join(good) + bad))
    assert [r.text for r in found[1:]] == [m["content"] for m in talk()]
    assert [p.line for p in problems] == [2, 4, 6, 7, 8, 9]


def test_a_broken_element_is_told_with_its_line(written: Written) -> None:
    text = json.dumps([chatgpt(), "no conversation", {"mapping": {}}, chatgpt("c2")], indent=1)
    found, problems = both(written("conversations.json", text.encode()))
    assert [r.scope.session for r in found if r.kind == "conversation"] == ["c1", "c2"]
    places = [text.index(mark) for mark in ('"no conv', '{\n  "mapping": {}')]
    assert [p.line for p in problems] == [text.count("\n", 0, place) + 1 for place in places]


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xff"', b'"\\udcff x"'])
def test_a_text_that_no_encoding_can_store_is_a_problem_and_never_altered(written: Written, text: bytes) -> None:
    bad = b'{"role": "user", "session": "s1", "content": ' + text + b"}\n"
    found, [problem] = both(written("x.jsonl", lines(talk()[0]) + bad + lines(talk()[2])))
    assert [r.text for r in found[1:]] == ["I move in May.", "Lisbon"]
    assert problem.line == 2 and "surrogate" in problem.message


def test_a_title_that_cannot_be_stored_costs_only_the_title(written: Written) -> None:
    found, [problem] = both(written("x.json", [chatgpt(title="\ud800")]))
    assert len(found) == 7 and found[0].text == "Conversation" and "title" in problem.message


@pytest.mark.parametrize("depth", [2_000, 1_000_000])
def test_json_nested_without_end_is_a_problem(written: Written, depth: int) -> None:
    deep = b'{"content": "x", "y": ' + b"[" * depth + b"\n"
    found, problems = both(written("x.jsonl", lines(talk()[0]) + deep + lines(talk()[1])))
    assert [r.text for r in found[1:]] == ["I move in May.", "Where to?"] and [p.line for p in problems] == [2]
    found, problems = both(written("x.json", b"[" + lines(chatgpt()) + b"," + b"[" * depth))
    assert len(found) == 7 and len(problems) == 1


def test_text_is_never_altered(written: Written) -> None:
    text = "  \x00\u2028\u200b e\u0301 \U0010ffff\r\n\ufeff "
    [said] = messages(written("x.jsonl", lines({"role": "user", "content": text})))
    assert said.text == text


@relaxed
@given(st.lists(drawn.json, max_size=8), st.integers(1, 40), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_a_list_is_read_alike_however_it_comes_from_the_disk(values: list[Any], size: int, encoding: str) -> None:
    data = json.dumps(values, ensure_ascii=False, indent=1).encode(encoding)
    blocks = [data[:4], *(data[start : start + size] for start in range(4, len(data), size))]
    found = list(elements.elements("x", blocks))
    assert [element.value for element in found if isinstance(element, elements.Element)] == values


def test_reading_a_long_list_holds_little_of_it_at_once() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"["
        for _ in range(2_000):
            yield lines(chatgpt())[:-1] + b","
            assert len(held) < 100
        yield b"{}]"

    held: list[Any] = []
    count = 0
    for element in elements.elements("x", blocks()):
        held.append(element)
        count += 1
        if len(held) > 10:
            held.clear()
    assert count == 2_001


@pytest.mark.parametrize(
    "content",
    [[chatgpt()], [claude()], [locomo()], [longmemeval()], lines(*talk()), b"# A\n\nText.", [{"messages": talk()}]],
)
def test_reading_twice_yields_equal_records(written: Written, content: Any) -> None:
    path = written("x.md", content)
    assert records(path) == records(path) != []


# -- our own export ----------------------------------------------------------------------------------------------------


@relaxed
@given(drawn.records(body=drawn.bodies(drawn.texts), known=drawn.spans))
def test_a_line_of_an_export_says_all_of_a_record(record: Record) -> None:
    line = exports.line(record)
    assert exports.record(line) == record and exports.line(exports.record(line)) == line and b"\n" not in line


@relaxed
@given(archived=drawn.archives(), packed=st.booleans())
def test_an_export_is_read_back_as_it_was_written(tmp_path: Path, archived: Any, packed: bool) -> None:
    versions = [version for history in archived for version in history]
    told: list[int] = []
    path = exports.write(tmp_path / ("x.jsonl.gz" if packed else "x.jsonl"), versions, told.append)
    assert list(exports.read(path)) == versions and sum(told) == len(versions)
    for tenant in ("acme", "other"):
        for space in ("main", "team"):
            scope = Scope(tenant=tenant, space=space)
            found, problems = split(list(importers.read([path], scope)))
            assert found == [version for version in versions if version.scope.realm == scope.realm]
            assert bool(problems) == (len(found) < len(versions))


def test_an_export_has_every_kind_and_every_plane() -> None:
    for kind in KINDS.values():
        names = {"name": "n", "digest": "d"}
        more = {f.name: names[f.name] for f in dataclasses.fields(kind) if f.name in names}
        body = kind(text="\0\U0001f600\ue000\U000e0001\U0010fffd\u2028", **more)
        record = Record(scope=ME, body=body, metadata={"x": 2**63})
        assert exports.record(exports.line(record)) == record


def exported(path: Path, *texts: str) -> list[Record]:
    versions = [Record(scope=ME, body=KINDS["note"](text=text), known=Span(AT)) for text in texts]
    exports.write(path, versions)
    return versions


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_what_is_erased_is_in_no_byte_of_the_export(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kept, gone, last = exported(path, "kept", "GONE" * 50, "last")
    revised = dataclasses.replace(gone, version=2, body=KINDS["note"](text="GONE too"))
    exports.write(path, [kept, gone, revised, last])
    with path.open("rb") as old:
        assert exports.without(path, {gone.ref}) == 2
        assert not old.read().strip(b"\0")  # the bytes it had on the disk are overwritten
    assert list(exports.read(path)) == [kept, last]
    assert [p.name for p in tmp_path.iterdir()] == [name]
    content = path.read_bytes()
    assert exports.without(path, {gone.ref}) == 0 and path.read_bytes() == content


def test_what_cannot_be_read_is_erased_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    kept, gone = exported(path, "kept", "GONE")
    path.write_bytes(path.read_bytes() + b'{"text": "GONE"\n\xff\n')
    assert exports.without(path, {gone.ref}) == 3 and list(exports.read(path)) == [kept]
    packed = tmp_path / "y.jsonl.gz"
    more = exported(packed, "kept", *(os.urandom(99).hex() for _ in range(999)))
    packed.write_bytes(packed.read_bytes()[:-5000])
    assert isinstance(list(exports.read(packed))[-1], Problem)
    exports.without(packed, {gone.ref})
    found = list(exports.read(packed))
    assert found == more[: len(found)] and 100 < len(found) < 1000


def test_what_a_dead_write_left_behind_is_destroyed_by_an_erase(tmp_path: Path) -> None:
    for ending in (exports.PARTIAL, exports.ERASING):
        left = tmp_path / f".x.jsonl{ending}"
        left.write_bytes(b"GONE")
        assert exports.without(left, ()) == 0 and not left.exists()


def test_a_file_that_is_no_export_is_left_alone_by_an_erase(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "mine"}\n')
    assert exports.without(path, ()) == 0 and path.read_bytes() == b'{"text": "mine"}\n'
    assert exports.without(tmp_path / "nowhere.jsonl", ()) == 0


def test_an_export_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    kept = exported(path, "kept")
    bad = dataclasses.replace(kept[0], body=KINDS["note"](text="\ud800"))
    with pytest.raises(Invalid):
        exports.write(path, [*kept, bad])
    assert list(exports.read(path)) == kept and [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    with pytest.raises(Unavailable):
        exports.write(tmp_path / "no folder" / "x.jsonl", kept)


def test_an_export_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    exported(tmp_path / "x.jsonl", "mine")
    assert os.name == "nt" or (tmp_path / "x.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_export_of_a_newer_version_says_so_and_broken_lines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    kept = exported(path, "one", "two")
    header, first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([header, first[:-1], b"{}", second]))
    found, problems = split(list(exports.read(path)))
    assert found == kept[1:] and [p.line for p in problems] == [2, 3]
    path.write_bytes(header.replace(b'"simonides":1', b'"simonides":2') + b"\n" + first)
    [problem] = exports.read(path)
    assert isinstance(problem, Problem) and "newer" in problem.message
    path.write_bytes(b"")
    assert [p.message for p in split(list(exports.read(path)))[1]] == ["is empty"]
    assert isinstance(next(iter(exports.read(tmp_path / "nowhere"))), Problem)


@relaxed
@given(draw=st.data())
def test_flipped_bytes_of_an_export_cost_their_own_lines_only(tmp_path: Path, draw: Any) -> None:
    path = tmp_path / "x.jsonl"
    kept = exported(path, "one", "two", "three", "four")
    content = bytearray(path.read_bytes())
    place = draw.draw(st.integers(content.index(b"\n") + 1, len(content) - 1))
    content[place] ^= draw.draw(st.integers(1, 255))
    path.write_bytes(content)
    hit = content[:place].count(b"\n") - 1
    safe = [record for number, record in enumerate(kept) if number not in (hit, hit + 1)]
    found = [f for f in exports.read(path) if isinstance(f, Record)]
    assert [f for f in found if f in safe] == safe


@relaxed
@given(line=st.binary(max_size=60) | drawn.json.map(lambda value: json.dumps(value).encode()))
def test_a_line_that_is_no_record_is_damaged(line: bytes) -> None:
    with pytest.raises(Damaged):
        exports.record(line)


def test_links_and_clocks_come_back_through_the_importer(tmp_path: Path) -> None:
    record = Record(
        scope=ME,
        body=KINDS["fact"](text="x"),
        version=3,
        links=(Link("supersedes", "y"),),
        known=Span(AT, AT.replace(year=2027)),
    )
    path = exports.write(tmp_path / "x.jsonl", [record])
    assert records(path) == [record]


def test_versions_of_others_and_of_other_spaces_are_left_out_and_it_is_said_how_they_come(tmp_path: Path) -> None:
    def note(user: str, space: str) -> Record:
        scope = Scope(tenant=ME.tenant, space=space, user=user)
        return Record(scope=scope, body=KINDS["note"](text="x"), known=Span(AT))

    mine = note(ME.user or "", ME.space)
    path = exports.write(
        tmp_path / "x.jsonl", [mine, note("eve", ME.space), note("eve", "plans"), note("eve", "plans")]
    )
    found, problems = both(path)
    assert found == [mine]
    assert [problem.message for problem in problems] == [
        f"1 version of tenant {ME.tenant!r}, space {ME.space!r} left out: belongs to others than were named",
        f"2 versions of tenant {ME.tenant!r}, space 'plans' left out: can be imported with these named",
    ]


def test_a_cut_export_gives_the_versions_that_precede_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    versions = exported(path, *(os.urandom(99).hex() for _ in range(999)))
    path.write_bytes(path.read_bytes()[:-5000])
    found, problems = both(path)
    assert found == versions[: len(found)] and len(found) > 100
    assert problems and problems[-1].file == str(path)


# -- other people's formats --------------------------------------------------------------------------------------------

THEIRS = """
from simonides.kinds import Note
from simonides.record import Record
name = "Diary"
def recognises(path, head): return head.startswith(b"DIARY")
def read(path, scope):
    with path.open("rb") as file:
        yield Record(scope=scope, id="d", body=Note(text=file.read().decode()))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Make a package of somebody else's that names an importer, the way an installed one does."""

    def put(module: str) -> None:
        site = tmp_path / "site"
        (site / "diary-1.dist-info").mkdir(parents=True)
        (site / "diary_format.py").write_text(THEIRS)
        (site / "diary-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: diary\nVersion: 1\n")
        entry = f"[simonides.importers]\ndiary = {module}\n"
        (site / "diary-1.dist-info" / "entry_points.txt").write_text(entry)
        monkeypatch.syspath_prepend(str(site))
        importers.formats.cache_clear()

    yield put
    importers.formats.cache_clear()


def test_an_importer_of_another_package_is_found_and_shows_progress(
    written: Written, install: Callable[[str], None]
) -> None:
    install("diary_format")
    told: list[int] = []
    [found] = importers.read([written("x.md", b"DIARY of me")], ME, told.append)
    assert isinstance(found, Record) and found.text == "DIARY of me" and told[-1] == 11


def test_an_importer_that_cannot_be_loaded_says_which(install: Callable[[str], None]) -> None:
    install("no_such_module")
    with pytest.raises(Unavailable, match="diary"):
        importers.formats()
