"""The command line, as people and scripts meet it: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from simonides import Memory, shown, terminal, wire
from simonides.cli import EXITS, main

EMBEDDER = "hashing:"
ESC = "\x1b"
Run = Callable[..., Result]


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMONIDES_STORE", str(home / "me.db"))
    monkeypatch.setenv("SIMONIDES_EMBEDDER", EMBEDDER)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return home


@pytest.fixture
def run(home: Path) -> Run:
    def run(*args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(main, args, input=input)

    return run


@pytest.fixture
def memory(home: Path) -> Iterator[Memory]:
    with Memory(home / "me.db", embedder=EMBEDDER) as memory:
        yield memory


def answer(result: Result) -> Any:
    """Return the one JSON document of a command that went well."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def shell(*args: str, **more: Any) -> subprocess.Popen[bytes]:
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "simonides", *args], **{**streams, **more})


def at_terminal(*args: str, typed: str = "") -> tuple[int, str]:
    """Run the command at a terminal, type something, and return its exit status and what was on the screen."""
    ours, theirs = pty.openpty()
    process = shell(*args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.write(ours, typed.encode())
    screen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        screen += block
    os.close(ours)
    return process.wait(60), screen.decode("utf-8", "replace")


def commands() -> list[tuple[str, ...]]:
    groups = [(name, made) for name, made in main.commands.items() if isinstance(made, click.Group)]
    return [(name,) for name in main.commands] + [(name, inside) for name, group in groups for inside in group.commands]


# -- remember and recall -----------------------------------------------------------------------------------------


def test_a_text_is_remembered_and_recalled(run: Run) -> None:
    kept = run("remember", "The", "spare key is with Ana", "--label", "home", "--user", "me")
    found = run("recall", "spare key", "--user", "me")
    assert kept.exit_code == found.exit_code == 0
    assert "Kept as note" in kept.stdout
    assert "The spare key is with Ana" in found.stdout


def test_what_is_piped_in_is_remembered_without_its_last_newline(run: Run) -> None:
    piped, dashed = run("remember", "--json", input="two\nlines\n"), run("remember", "-", "--json", input="one")
    assert (answer(piped)["text"], answer(dashed)["text"]) == ("two\nlines", "one")


def test_a_message_takes_its_speaker_time_and_session(run: Run) -> None:
    said = answer(run("remember", "Moved in", "--role", "user", "--name", "Marta", "--at", "2026-09-12 09:00",
                      "--session", "talk", "--title", "Moving", "--metadata", "room=2", "--metadata", "who=me",
                      "--importance", "8", "--pin", "--folder", "home/porto", "--json"))  # fmt: skip
    assert (said["kind"], said["body"]["name"], said["scope"]["session"]) == ("message", "Marta", "talk")
    assert said["at"] == "2026-09-12T08:00:00+00:00"
    assert said["metadata"] == {"room": 2, "who": "me"}
    assert (said["importance"], said["pinned"], said["folder"]) == (8, True, "home/porto")
    [talk] = answer(run("conversations", "--json"))
    assert (talk["text"], talk["messages"]) == ("Moving", 1)


def test_with_an_id_of_ones_own_the_same_write_twice_is_one_and_another_is_a_conflict(run: Run) -> None:
    args = ("remember", "same", "--id", "mine", "--at", "2026-01-01")
    assert run(*args).exit_code == run(*args).exit_code == 0
    other = run("remember", "other", "--id", "mine")
    assert other.exit_code == 4
    assert other.stderr.startswith("simonides: ")
    assert run("count").stdout == "1\n"


def test_quietly_remembering_prints_the_id_alone(run: Run) -> None:
    id = run("remember", "x y z", "-q").stdout.strip()
    assert answer(run("show", id, "--json"))["text"] == "x y z"


def test_recall_explains_itself_in_words(run: Run) -> None:
    run("remember", "The tender is due on 14 July")
    result = run("recall", "when is the tender due", "--explain")
    assert "found because: " in result.stdout


def test_nothing_found_is_exit_status_1_with_an_empty_answer(run: Run) -> None:
    run("remember", "something")
    for args in (("recall", "anything", "--label", "none"), ("list", "--label", "none"), ("conversations",)):
        result = run(*args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "nothing found" in result.stderr


def test_recall_in_json_has_hits_with_every_field_of_their_records(run: Run) -> None:
    run("remember", "The tender is due on 14 July")
    found = answer(run("recall", "tender", "--json", "--explain"))
    assert set(found) == {"query", "hits", "notes", "took_ms"}
    [hit] = found["hits"]
    assert set(hit) == {"score", "by", "why", "title", "also", "record"}
    assert 0 <= hit["score"] <= 1
    assert hit["why"]


def test_the_json_of_a_record_has_stable_names_and_times_with_offsets(run: Run, memory: Memory) -> None:
    record = memory.remember("a", labels=["x"], metadata={"k": [1]}, at="2026-05-02")
    said = answer(run("show", record.id, "--json"))
    assert list(said) == [
        *("id", "version", "kind", "text", "who", "at", "body", "scope", "part_of", "links", "valid", "known"),
        *("begun", "retracted", "source", "labels", "folder", "importance", "pinned", "status", "metadata"),
    ]  # fmt: skip
    assert said == json.loads(json.dumps(wire.as_json(record)))
    assert re.fullmatch(r"2026-05-0\dT\d\d:00:00\+00:00", said["valid"]["since"])


def test_context_is_ready_for_a_prompt_and_within_its_budget(run: Run) -> None:
    run("remember", "The tender is due on 14 July", "--session", "s")
    result = run("context", "tender", "--budget", "200")
    assert "The tender is due on 14 July" in result.stdout
    found = answer(run("context", "tender", "--budget", "200", "--json"))
    assert found["tokens"] <= 200
    assert found["citations"][0]["record"]["text"] == "The tender is due on 14 July"


def test_filters_hold_for_everything_that_looks(run: Run) -> None:
    run("remember", "bridge one", "--label", "a", "--folder", "work/bridge", "--at", "2026-05-01")
    run("remember", "bridge two", "--pin", "--at", "2026-06-01")
    for filters, text in (
        (["--label", "a"], "bridge one"),
        (["--folder", "work"], "bridge one"),
        (["--until", "2026-05-15"], "bridge one"),
        (["--as-of", "2026-05-15"], "bridge one"),
        (["--since", "2026-05-15"], "bridge two"),
        (["--pinned"], "bridge two"),
        (["--not-pinned"], "bridge one"),
    ):
        assert [r["text"] for r in answer(run("list", *filters, "--json"))["records"]] == [text]
        assert [h["record"]["text"] for h in answer(run("recall", "bridge", *filters, "--json"))["hits"]] == [text]
        assert answer(run("count", *filters, "--json")) == {"count": 1}
    assert run("list", "--kind", "message").exit_code == 1
    assert "did you mean 'message'" in run("list", "--kind", "mesage").stderr


def test_a_list_goes_on_after_a_record(run: Run) -> None:
    for text in ("one", "two", "three"):
        run("remember", text)
    first = answer(run("list", "-n", "2", "--json"))["records"]
    rest = answer(run("list", "--after", first[-1]["id"][-8:], "--json"))["records"]
    assert [r["text"] for r in [*first, *rest]] == ["three", "two", "one"]


def test_a_list_goes_on_where_it_was_cut_whatever_became_of_the_last_record(run: Run, memory: Memory) -> None:
    for text in ("one", "two", "three", "four"):
        memory.remember(text, id=text)
    page = answer(run("list", "-n", "2", "--json"))
    assert [r["id"] for r in page["records"]] == ["four", "three"]
    hint = run("list", "-n", "2").stderr
    assert f"--after {page['next']}," in hint
    memory.forget("three")
    rest = answer(run("list", "--after", page["next"], "--json"))
    assert ([r["id"] for r in rest["records"]], rest["next"]) == (["two", "one"], None)
    end = run("list", "-n", "2", "--after", page["next"])
    assert "one" in end.stdout and "--after" in end.stderr
    assert run("list", "--after", answer(run("list", "-n", "3", "--json"))["next"], "--json").exit_code == 1
    gone = run("list", "--after", "three")
    assert gone.exit_code == 3 and "no record 'three'" in gone.stderr


def test_what_a_question_takes_is_the_same_of_every_command_that_asks() -> None:
    recall, why, context = (
        {param.name for param in main.commands[name].params} for name in ("recall", "why", "context")
    )
    assert (recall - why, why - recall) == ({"explain"}, {"id"})
    assert (recall - context, context - recall) == ({"explain", "min_relevance"}, {"budget"})


def test_a_conversation_is_shown_with_its_messages(run: Run, memory: Memory) -> None:
    memory.remember([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}], session="s")
    [talk] = memory.conversations()
    assert "good day" in run("show", talk.id).stdout
    assert [part["text"] for part in answer(run("show", talk.id, "--json"))["parts"]] == ["hello", "good day"]


# -- ids ---------------------------------------------------------------------------------------------------------


def test_the_end_of_an_id_is_enough(run: Run, memory: Memory) -> None:
    record = memory.remember("a")
    assert answer(run("show", record.id[-8:], "--json"))["id"] == record.id
    assert shown.short(record.id) == record.id[-8:]


def test_an_ambiguous_id_lists_those_that_it_could_be(run: Run, memory: Memory) -> None:
    for id in ("note-one", "note-two"):
        memory.remember("a", id=id)
    result = run("retract", "note")
    assert result.exit_code == 2
    assert "note-one" in result.stderr and "note-two" in result.stderr


def test_an_unknown_id_is_exit_status_3(run: Run) -> None:
    run("remember", "a")
    for command in ("show", "history", "retract", "pin", "archive"):
        assert run(command, "ffffffff").exit_code == 3
    assert run("show", "f").exit_code == 3


# -- correct and forget ------------------------------------------------------------------------------------------


def test_a_revision_keeps_what_is_not_named_and_history_shows_both(run: Run, memory: Memory) -> None:
    record = memory.remember("with Ana", labels=["home"], metadata={"a": 1})
    new = answer(run("revise", record.id, "with Rui", "--metadata", "b=2", "--json"))
    assert (new["version"], new["text"], new["labels"], new["metadata"]) == (2, "with Rui", ["home"], {"a": 1, "b": 2})
    assert [version["text"] for version in answer(run("history", record.id, "--json"))] == ["with Ana", "with Rui"]
    assert "with Ana" in run("history", record.id).stdout


def test_a_revision_of_a_version_that_is_not_the_latest_is_a_conflict(run: Run, memory: Memory) -> None:
    record = memory.remember("a")
    assert run("revise", record.id, "b", "--if-version", "1").exit_code == 0
    assert run("revise", record.id, "c", "--if-version", "1").exit_code == 4
    assert run("revise", record.id).exit_code == 2


def test_what_supersedes_is_recalled_and_the_old_stays_true_before(run: Run, memory: Memory) -> None:
    record = memory.remember("I live in Lisbon", at="2026-01-01")
    run("supersede", record.id, "I live in Porto", "--at", "2026-09-12")
    assert [r["text"] for r in answer(run("list", "--json"))["records"]] == ["I live in Porto"]
    assert [r["text"] for r in answer(run("list", "--as-of", "2026-05-01", "--json"))["records"]] == [
        "I live in Lisbon"
    ]


def test_what_is_retracted_is_not_found_and_keeps_its_history(run: Run, memory: Memory) -> None:
    record = memory.remember("I am allergic to peanuts")
    result = run("retract", record.id)
    assert run("list").exit_code == 1
    assert record.id in result.stdout
    assert "retracted" in run("history", record.id).stdout


def test_what_is_forgotten_is_certified_and_gone(run: Run, memory: Memory) -> None:
    memory.remember("my secret", session="s", user="me")
    memory.remember("stays")
    certificate = answer(run("forget", "--session", "s", "--yes", "--json"))
    assert certificate["count"] == 2
    assert [r["text"] for r in answer(run("list", "--json"))["records"]] == ["stays"]
    assert [each["id"] for each in answer(run("certificates", "--json"))] == [certificate["id"]]
    assert "records" in run("certificates").stdout.lower()
    assert answer(run("certificates", "--user", "me", "--json"))[0]["id"] == certificate["id"]
    assert run("certificates", "--user", "ana").exit_code == 1


def test_a_dry_run_shows_what_would_go_and_erases_nothing(run: Run, memory: Memory) -> None:
    memory.remember("my secret", session="s")
    human, machine = (
        run("forget", "--session", "s", "--dry-run"),
        run("forget", "--session", "s", "--dry-run", "--json"),
    )
    assert human.exit_code == 0
    assert "my secret" in human.stdout and "would erase" in human.stdout
    assert answer(machine)["count"] == 2
    assert run("count").stdout == "2\n"
    assert run("certificates").exit_code == 1


def test_without_a_terminal_nothing_is_erased_unless_yes_is_said(run: Run, memory: Memory) -> None:
    memory.remember("my secret", session="s")
    result = run("forget", "--session", "s", input="y\n")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert run("count").stdout == "2\n"


def test_forget_without_a_name_erases_nothing_even_where_a_user_is_set(run: Run, memory: Memory, home: Path) -> None:
    memory.remember("mine", user="me")
    run("config", "set", "user", "me")
    result = run("forget", "--yes")
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert run("forget", "--all", "--yes").exit_code == 0
    assert memory.count() == 0


def test_what_is_shared_goes_when_it_is_named_by_its_id_alone(run: Run, memory: Memory) -> None:
    shared = memory.remember("ours")
    assert run("forget", "--user", "me", "--yes").exit_code == 3
    assert run("forget", shared.id[-8:], "--user", "me", "--yes").exit_code == 0
    assert memory.count() == 0


@pytest.mark.parametrize(("typed", "status", "left"), [("y\n", 0, 0), ("\n", 1, 1), ("no\n", 1, 1), ("\x04", 1, 1)])
def test_at_a_terminal_forget_shows_what_would_go_and_asks(
    home: Path, memory: Memory, typed: str, status: int, left: int
) -> None:
    record = memory.remember("my secret")
    ended, screen = at_terminal("forget", record.id, typed=typed)
    assert "my secret" in screen and "Erase this for good?" in screen
    assert (ended, memory.count()) == (status, left)


# -- organise ----------------------------------------------------------------------------------------------------


def test_labels_are_put_on_and_taken_off(run: Run, memory: Memory) -> None:
    record = memory.remember("a", labels=["work", "quiz"])
    [said] = answer(run("label", record.id, "+travel", "-work", "-quiz", "--json"))
    assert said["labels"] == ["travel"]
    assert run("label", record.id, "-travel", "-q").stdout == ""
    assert memory.get(record.id).labels == ()
    assert run("label", record.id, "travel").exit_code == 2


def test_a_record_is_put_into_a_folder_and_taken_out(run: Run, memory: Memory) -> None:
    record = memory.remember("a")
    assert answer(run("folder", record.id, "work/bridge", "--json"))[0]["folder"] == "work/bridge"
    assert answer(run("folder", record.id, "--none", "--json"))[0]["folder"] is None
    assert run("folder", record.id).exit_code == run("folder", record.id, "x", "--none").exit_code == 2


def test_what_has_ended_is_listed_when_asked_for_and_found_by_the_end_of_its_id(run: Run, memory: Memory) -> None:
    kept = memory.remember("never true")
    run("retract", kept.id)
    assert run("count").stdout == "0\n"
    assert run("count", "--ended").stdout == "1\n"
    assert [version["version"] for version in answer(run("history", kept.id[-8:], "--json"))] == [1, 2]


def test_records_are_pinned_and_archived_and_back(run: Run, memory: Memory) -> None:
    one, two = memory.remember("a"), memory.remember("b")
    assert all(r["pinned"] for r in answer(run("pin", one.id, two.id[-8:], "--json")))
    assert not any(r["pinned"] for r in answer(run("pin", one.id, two.id, "--off", "--json")))
    run("archive", one.id)
    assert run("count").stdout == "1\n"
    assert run("count", "--archived").stdout == "2\n"
    run("archive", one.id[-8:], "--off")
    assert run("count").stdout == "2\n"


def test_a_conversation_is_labelled_filed_and_archived_with_what_was_said_in_it_and_pinned_alone(
    run: Run, memory: Memory
) -> None:
    kept = memory.remember([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], session="s")
    talk = str(kept[0].part_of)
    run("label", talk, "+travel")
    run("folder", talk, "work/bridge")
    [said] = answer(run("archive", talk, "--json"))
    assert (said["id"], said["status"]) == (talk, "archived")
    everything = memory.find(archived=True, labels="travel", folder="work")
    assert {record.id for record in everything} == {talk, *(record.id for record in kept)} and memory.find() == []
    assert [record["id"] for record in answer(run("archive", talk[-8:], "--off", "--json"))] == [talk]
    run("pin", talk)
    assert [record.id for record in memory.find(pinned=True)] == [talk] and memory.count() == 3


def test_what_is_out_of_use_is_shown_with_why_and_archived_when_told(run: Run, memory: Memory) -> None:
    old = memory.remember("the old key \x1b[31m", at="2024-03-01")
    memory.remember("the new key")
    shown = run("prune", "--dry-run", "--older-than", "1y")
    assert shown.exit_code == 0 and "never recalled; of importance 5." in shown.stdout
    assert ESC not in shown.stdout and "1 record may be archived" in shown.stdout
    assert run("prune").exit_code == 2 and memory.get(old.id).status == "active"
    asked = answer(run("prune", "--dry-run", "--json"))
    assert not asked["archived"] and [each["record"]["id"] for each in asked["results"]] == [old.id]
    done = run("prune", "--yes")
    assert done.exit_code == 0 and f"simonides archive --off {shown_id(old.id)}" in done.stdout
    assert memory.get(old.id).status == "archived"
    assert run("prune").exit_code == 1 and "nothing is out of use" in run("prune").stderr
    nothing = run("prune", "--yes")
    assert nothing.exit_code == 1 and "nothing is out of use" in nothing.stderr
    assert answer_of(run("prune", "--yes", "--json")) == {"archived": False, "results": []}
    run("archive", "--off", old.id)
    assert memory.get(old.id).status == "active"
    assert run("prune", "--yes", "-q").stdout == f"{old.id}\n"
    assert run("prune", "--older-than", "long").exit_code == run("prune", "--kind", "fact").exit_code == 2


def test_the_overview_says_of_every_command_what_it_does_in_full(run: Run) -> None:
    assert "..." not in run("--help").stdout


def shown_id(id: str) -> str:
    return shown.short(id)


def answer_of(result: Result) -> Any:
    return json.loads(result.stdout)


def test_pruning_asks_at_a_terminal(home: Path, memory: Memory) -> None:
    old = memory.remember("the old key", at="2024-03-01")
    status, screen = at_terminal("prune", typed="n\n")
    assert status == 1 and "Archive these?" in screen and "nothing was archived" in screen
    status, screen = at_terminal("prune", typed="y\n")
    assert status == 0 and "Archived 1 record" in screen and memory.get(old.id).status == "archived"


# -- import and export -------------------------------------------------------------------------------------------


def test_an_import_says_what_came_from_where_and_twice_is_once(run: Run, home: Path) -> None:
    (home / "notes.md").write_text("# Keys\n\nThe spare key is with Ana.\n")
    first = run("import", str(home / "notes.md"), "--user", "me")
    assert first.exit_code == 0
    assert "document" in first.stdout
    again = answer(run("import", str(home / "notes.md"), "--user", "me", "--json"))
    assert (again["new"], again["problems"]) == (0, [])
    assert again["read"] > 0
    assert "Ana" in run("recall", "spare key", "--user", "me").stdout


def test_problems_of_an_import_are_told_by_file_and_line_and_the_rest_is_kept(run: Run, home: Path) -> None:
    lines = ['{"role": "user", "content": "kept"}', "{broken", '{"role": "user", "content": "kept too"}']
    (home / "talk.jsonl").write_text("\n".join(lines))
    result = run("import", str(home / "talk.jsonl"))
    assert result.exit_code == 0
    assert "talk.jsonl:2" in result.stderr
    assert "1 problem" in result.stderr
    assert int(run("count", "--kind", "message").stdout) == 2


def test_an_import_of_nothing_readable_is_exit_status_1_and_of_no_file_3(run: Run, home: Path) -> None:
    (home / "noise.bin").write_bytes(bytes(range(256)) * 10)
    result = run("import", str(home / "noise.bin"))
    assert result.exit_code == 1
    assert "noise.bin" in result.stderr
    assert run("import", str(home / "nowhere.zip")).exit_code == 3


def test_an_export_read_back_elsewhere_brings_its_history(run: Run, memory: Memory, home: Path) -> None:
    record = memory.remember("first")
    memory.revise(record.id, text="second")
    said = answer(run("export", str(home / "all.jsonl.gz"), "--json"))
    assert said == {"path": str(home / "all.jsonl.gz"), "versions": 2}
    assert run("--store", str(home / "other.db"), "import", str(home / "all.jsonl.gz")).exit_code == 0
    history = answer(run("--store", str(home / "other.db"), "history", record.id, "--json"))
    assert [version["text"] for version in history] == ["first", "second"]


def test_an_export_without_a_name_lies_beside_the_memory(run: Run, memory: Memory, home: Path) -> None:
    memory.remember("a")
    path = Path(run("export", "-q").stdout.strip())
    assert path.is_file()
    assert home in path.parents


def test_an_export_into_a_folder_that_is_not_there_is_refused(run: Run, memory: Memory, home: Path) -> None:
    memory.remember("a")
    assert run("export", str(home / "none" / "all.jsonl")).exit_code == 2


def test_an_export_replaces_nothing_that_is_no_file(run: Run, memory: Memory, home: Path) -> None:
    memory.remember("a")
    os.mkfifo(home / "pipe")
    (home / "linked").symlink_to(home / "pipe")
    for name in ("pipe", "linked"):
        assert run("export", str(home / name)).exit_code == 2
        assert (home / name).is_fifo()
    assert run("export", "-").exit_code == 2


def test_an_export_through_a_link_leaves_the_link(run: Run, memory: Memory, home: Path) -> None:
    memory.remember("a")
    (home / "linked.jsonl").symlink_to(home / "all.jsonl")
    for _ in range(2):
        assert run("export", str(home / "linked.jsonl")).exit_code == 0
        assert (home / "linked.jsonl").is_symlink() and len((home / "all.jsonl").read_text().splitlines()) == 2


def test_watching_takes_in_changes_and_archives_what_a_document_no_longer_says(run: Run, home: Path) -> None:
    notes = home / "notes"
    notes.mkdir()
    long = "It has a red ribbon and hangs behind the door. " * 30
    spare, cellar = f"# Spare\n\nIt is with Ana. {long}\n", f"\n# Cellar\n\nThe cellar key is lost. {long}\n"
    (notes / "keys.md").write_text(spare + cellar)
    assert run("watch", str(notes), "--once").exit_code == 0
    assert "cellar key is lost" in run("recall", "cellar key lost").stdout
    (notes / "keys.md").write_text(spare)
    assert answer(run("watch", str(notes), "--once", "--json"))["archived"]
    texts = [r["text"] for r in answer(run("list", "--kind", "chunk", "--json", "-n", "100"))["records"]]
    assert not any("cellar" in text for text in texts)
    assert any("Ana" in text for text in texts)
    (notes / "keys.md").write_text(spare + cellar)
    run("watch", str(notes), "--once")
    assert "cellar key is lost" in run("recall", "cellar key lost").stdout


def test_one_look_answers_in_json_even_where_nothing_is_new(run: Run, home: Path) -> None:
    (home / "notes").mkdir()
    assert answer(run("watch", str(home / "notes"), "--once", "--json"))["new"] == 0


def test_the_demo_has_no_answer_in_json(run: Run) -> None:
    result = run("demo", "--json")
    assert (result.exit_code, result.stdout, json.loads(result.stderr)["error"]) == (2, "", "invalid")


def test_ctrl_c_ends_watching_with_130(home: Path) -> None:
    (home / "notes").mkdir()
    (home / "notes" / "a.md").write_text("The spare key is with Ana.\n")
    process = shell("watch", str(home / "notes"), "--every", "60")
    assert process.stdout
    assert b"new: " in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == b"simonides: interrupted"


# -- upkeep ------------------------------------------------------------------------------------------------------


def test_stats_say_how_much_there_is(run: Run, memory: Memory) -> None:
    memory.remember("a")
    assert answer(run("stats", "--json"))["records"] == 1
    assert "records" in run("stats").stdout


def test_the_doctor_of_a_sound_memory_is_content(run: Run, memory: Memory) -> None:
    memory.remember("a")
    result = run("doctor")
    assert (result.exit_code, result.stdout) == (0, "Everything is sound.\n")
    assert answer(run("doctor", "--json")) == {"sound": True, "complaints": [], "mended": []}


def test_the_doctor_of_one_that_is_behind_complains_and_mends_it(run: Run, home: Path) -> None:
    run("--embedder", "none", "remember", "written without vectors")
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout.startswith("- ")
    assert "--repair" in result.stderr
    assert run("doctor", "--repair").exit_code == 0
    assert run("doctor").exit_code == 0


def test_a_rebuild_makes_the_vectors_again(run: Run, memory: Memory) -> None:
    memory.remember("a")
    assert answer(run("rebuild", "--json"))["vectors"] == 1


def test_config_shows_every_setting_and_where_it_comes_from(run: Run, home: Path) -> None:
    (home / "config.toml").write_text("# mine\nuser = 'marta'\n")
    rows = {row["name"]: row for row in answer(run("config", "--json", "--space", "team"))}
    assert (rows["user"]["value"], rows["user"]["from"]) == ("marta", str(home / "config.toml"))
    assert (rows["space"]["value"], rows["space"]["from"]) == ("team", "--space")
    assert (rows["embedder"]["value"], rows["embedder"]["from"]) == (EMBEDDER, "SIMONIDES_EMBEDDER")
    assert rows["index"]["from"] == "default"
    assert "marta" in run("config").stdout


def test_a_setting_is_written_in_its_place_and_used(run: Run, home: Path) -> None:
    (home / "config.toml").write_text("# mine\nuser = 'ana'\n")
    assert run("config", "set", "user", 'marta "m"').exit_code == 0
    assert (home / "config.toml").read_text() == '# mine\nuser = "marta \\"m\\""\n'
    assert answer(run("remember", "a", "--json"))["scope"]["user"] == 'marta "m"'
    run("config", "set", "user", "")
    assert (home / "config.toml").read_text() == "# mine\n"
    assert run("config", "path").stdout.strip() == str(home / "config.toml")


def test_a_setting_that_cannot_be_is_refused(run: Run, home: Path) -> None:
    for name, value in (("usr", "x"), ("zone", "Lisbon"), ("require", "everything"), ("user", "*")):
        result = run("config", "set", name, value)
        assert result.exit_code == 2
    assert "did you mean 'user'" in run("config", "set", "usr", "x").stderr
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_is_printed_with_how_to_install_it(run: Run, name: str) -> None:
    result = run("completion", name)
    assert result.exit_code == 0
    assert "_SIMONIDES_COMPLETE" in result.stdout
    assert "# To install:" in result.stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("simonides reca", "recall"),
        ("simonides list --js", "--json"),
        ("simonides letters list --us", "--user"),
        ("simonides list --kind no", "note"),
        ("simonides recall --effort h", "high"),
        ("simonides remember --role a", "assistant"),
        ("simonides config set zo", "zone"),
    ],
)
def test_the_shell_completes_commands_options_and_what_they_may_be(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    monkeypatch.setenv("_SIMONIDES_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(typed.count(" ")))
    assert run().stdout.split() == [f"plain,{meant}"]


def test_the_demo_runs_through_and_shows_its_certificate(home: Path) -> None:
    process = shell("demo", env={**os.environ, "HOME": str(home / "nobody"), "TMPDIR": str(home)})
    said, wrong = process.communicate(timeout=300)
    text = said.decode()
    assert (process.returncode, wrong) == (0, b"")
    assert "29 conversations" in " ".join(text.split())
    assert "certificate" in text and "now in 0" in text
    assert max(map(len, text.splitlines())) <= 80
    assert not (home / "nobody").exists() and not (home / "me.db").exists()
    assert not list(home.glob("simonides-demo-*"))


def test_the_demo_can_be_kept_once(run: Run, home: Path) -> None:
    assert run("demo", "--keep", str(home / "kept")).exit_code == 0
    assert run("--store", str(home / "kept" / "demo.db"), "recall", "bridge", "--user", "marta").exit_code == 0
    assert run("demo", "--keep", str(home / "kept")).exit_code == 4


# -- the frame ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert re.search(r"^Examples?:\n  .*simonides ", result.stdout, re.MULTILINE)


def test_the_overview_groups_every_command_and_says_how_it_ends(run: Run) -> None:
    text = run("--help").stdout
    for name in main.commands:
        assert re.search(rf"^  {name}  ", text, re.MULTILINE)
    assert "Remember and recall:" in text
    for status in {*EXITS.values(), 130}:
        assert re.search(rf"^  {status} ", text, re.MULTILINE)


def test_without_a_command_the_overview_is_shown(run: Run) -> None:
    assert run().stdout == run("--help").stdout


def test_help_opens_nothing_heavy(home: Path) -> None:
    heavy = {"numpy", "onnxruntime", "faiss", "apsw", "rich"}
    code = f"import simonides.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("way", ["simonides", "python -m simonides"])
def test_ctrl_c_while_it_is_still_being_loaded_is_no_traceback(home: Path, way: str) -> None:
    """What it loads is interrupted here at a moment that is sure to come: where it asks for click."""
    (home / "click.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "simonides"] if way.startswith("python") else [Path(sys.executable).parent / way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), os.environ["PYTHONPATH"]])}
    ran = subprocess.run([*command, "stats"], capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_common_options_stand_before_the_command_or_after_it(run: Run, home: Path) -> None:
    store = str(home / "other.db")
    before = answer(run("--store", store, "--user", "ana", "--json", "remember", "a"))
    after = answer(run("remember", "b", "--store", store, "--user", "ana", "--json"))
    assert before["scope"]["user"] == after["scope"]["user"] == "ana"
    assert run("count", "--store", store).stdout == "2\n"


def test_the_version_is_told(run: Run) -> None:
    assert re.fullmatch(r"simonides \d+\.\d+.*\n", run("--version").stdout)


def test_a_memory_that_is_not_there_is_not_made_by_asking_it(run: Run, home: Path) -> None:
    result = run("recall", "anything")
    assert result.exit_code == 3
    assert "no memory at" in result.stderr and "simonides remember" in result.stderr
    assert not (home / "me.db").exists()


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        (("recall",), 2, "invalid"),
        (("recal", "x"), 2, "invalid"),
        (("list", "--nope"), 2, "invalid"),
        (("list", "--since", "yesterday-ish"), 2, "invalid"),
        (("list", "-n", "0"), 2, "invalid"),
        (("remember", " "), 2, "invalid"),
        (("remember", "a", "--metadata", "novalue"), 2, "invalid"),
        (("show", "ffffffff"), 3, "not_found"),
        (("letters", "show", "99"), 3, "not_found"),
        (("list", "--user", ""), 2, "invalid"),
        (("remember", "a", "--agent", " "), 2, "invalid"),
        (("forget", "--user", "", "--label", "x", "--yes"), 2, "invalid"),
        (("import", __file__, "--user", ""), 2, "invalid"),
        (("remember", "other", "--id", "mine"), 4, "conflict"),
        (("--embedder", "nothing:", "list"), 2, "invalid"),
    ],
)
def test_an_error_is_one_line_or_an_object_and_an_exit_status(
    run: Run, memory: Memory, args: tuple[str, ...], status: int, code: str
) -> None:
    memory.remember("first", id="mine")
    human, machine = run(*args), run(*args, "--json")
    assert (human.exit_code, machine.exit_code) == (status, status)
    assert human.stdout == machine.stdout == ""
    assert re.fullmatch(r"simonides: .+\n", human.stderr)
    assert json.loads(machine.stderr)["error"] == code


def test_what_is_not_available_is_exit_status_5(run: Run, home: Path) -> None:
    (home / "file").write_text("")
    result = run("--store", str(home / "file" / "x.db"), "remember", "a")
    assert result.exit_code == 5


def test_a_damaged_memory_is_exit_status_6(run: Run, home: Path) -> None:
    (home / "me.db").write_bytes(b"this is no database, and was never one. " * 100)
    result = run("list")
    assert result.exit_code == 6
    assert result.stderr.startswith("simonides: ")


def test_a_reader_that_goes_away_ends_it_silently(home: Path, memory: Memory) -> None:
    record = memory.remember("long text " * 400_000)  # more than any pipe holds
    for args in (["show", record.id], ["list", "--json"], ["context", "long text", "--budget", "2000000"]):
        with shell(*args) as process:
            assert process.stdout and process.stderr
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141


def test_ctrl_c_while_importing_leaves_nothing_half(home: Path) -> None:
    talk = [json.dumps({"role": "user", "content": f"turn {n} " + "word " * 100}) for n in range(20_000)]
    (home / "talk.jsonl").write_text("\n".join(talk))
    process = shell("import", str(home / "talk.jsonl"))
    deadline = time.monotonic() + 60
    while not (home / "me.db").exists() and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    select.select([], [], [], 0.5)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, b"")
    assert wrong.strip() == b"simonides: interrupted"
    mended, _ = shell("doctor", "--repair").communicate(timeout=120)  # what was kept may not be embedded yet
    assert mended == b"Everything is sound.\n"


# -- hostile text ------------------------------------------------------------------------------------------------

HOSTILE = (
    f"evil {ESC}[31mred{ESC}[0m {ESC}]0;title\x07 \x9b31m [red]m[/red] :smile: \u202egnp\u202c 日本語 👩‍👩‍👧 \r gone"
)


def test_no_control_character_of_a_text_reaches_the_output(run: Run, memory: Memory) -> None:
    record = memory.remember(HOSTILE, labels=["[bold]l[/bold]"], session="[blink]s", name="[blink]x")
    talk = memory.conversations()[0]
    for args in (
        ("list",), ("recall", "evil"), ("recall", "evil", "--explain"), ("context", "evil"), ("show", record.id),
        ("show", talk.id), ("history", record.id), ("conversations",), ("forget", record.id, "--dry-run"),
    ):  # fmt: skip
        for more in ([], ["--json"]):
            said = run(*args, *more).stdout
            assert said
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said), args
    shown_text = run("list", "--kind", "message").stdout
    assert "\\x1b[31mred" in shown_text
    assert "[red]m[/red] :smile:" in run("show", record.id).stdout


def test_json_gives_a_hostile_text_back_as_it_was(run: Run, memory: Memory) -> None:
    record = memory.remember(HOSTILE)
    assert answer(run("show", record.id, "--json"))["text"] == HOSTILE


def test_a_terminal_shows_colours_of_ours_and_escapes_of_nobody_else(home: Path, memory: Memory) -> None:
    memory.remember(HOSTILE)
    _, screen = at_terminal("list")
    assert "\\x1b[31mred" in screen
    assert f"{ESC}[31m" not in screen and "\x9b" not in screen
    assert f"{ESC}[1m" in screen


def test_no_colour_is_shown_where_none_is_wanted(home: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.remember("a")
    monkeypatch.setenv("NO_COLOR", "1")
    _, screen = at_terminal("recall", "a")
    assert not re.search(rf"{ESC}\[[0-9;]*3\d", screen)


@pytest.mark.parametrize("columns", ["20", "41", "80", "300"])
def test_tables_fit_whatever_width_there_is(
    run: Run, memory: Memory, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    memory.remember("日本語の文章 👩‍👩‍👧 " * 50, session="s")
    monkeypatch.setenv("COLUMNS", columns)
    for args in (("list",), ("conversations",), ("recall", "日本語"), ("stats",), ("config",)):
        result = run(*args)
        assert result.exit_code == 0
        assert all(cell_len(row) <= int(columns) for row in result.stdout.splitlines())


def test_a_nul_and_a_megabyte_are_just_text(run: Run) -> None:
    run("remember", "-", input="before\x00after")
    assert "before\\x00after" in run("list").stdout
    big = "word " * 200_000 + "needle"
    assert answer(run("remember", "-", "--json", input=big))["text"] == big
    assert run("list").exit_code == run("recall", "word").exit_code == 0


def test_what_is_not_utf_8_is_refused(run: Run) -> None:
    result = run("remember", input=b"caf\xe9")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_an_output_that_cannot_show_a_character_is_no_failure(home: Path, memory: Memory) -> None:
    memory.remember("日本語 👍")
    said, _ = shell("list", env={**os.environ, "PYTHONIOENCODING": "ascii"}).communicate(timeout=60)
    assert b"\\u65e5" in said


def test_safe_leaves_tabs_newlines_and_every_script_alone() -> None:
    text = "tab\tnew\nline é 日本語 👩‍👩‍👧 עברית"
    assert terminal.safe(text) == text
