"""What is forgotten is gone: from every answer, every version, every file, down to the last byte."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from common import DAY, JUNE, refused, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simonides import AsyncMemory, Invalid, Link, Memory, NotFound, Record
from simonides.embedder import TOKEN_BYTES
from simonides.exports import read as exported
from simonides.store import Batch
from simonides.stores import sqlite_bytes
from simonides.stores.sqlite import open as open_store

SECRET = "the zirconium key lies beneath the tamarind"
WORDS = (b"zirconium", b"tamarind")


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(params=["small", "large"])
def memory(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """A memory with some neighbours; `large` is one whose file is not always written anew."""
    if request.param == "large":
        monkeypatch.setattr(sqlite_bytes, "SMALL", 0)
    (home / "me.db-files" / "exports").mkdir(parents=True)
    with Memory("me.db", embedder="hashing:") as memory:
        memory.remember([f"neighbour {n} tells of bridges and rivers" for n in range(40)], user="neighbour")
        yield memory


def found_in(folder: Path, *wanted: bytes) -> list[tuple[str, bytes]]:
    """Return which of these bytes are in which of the files below the folder, whatever their case, also packed."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            held = path.read_bytes()
            if held[:2] == b"\x1f\x8b":
                held += gzip.decompress(held)
            found += [(path.name, each) for each in wanted if each.lower() in held.lower()]
    return found


def gone(home: Path, *wanted: bytes) -> bool:
    assert found_in(home, *wanted) == []
    return True


# -- what goes, and what stays ----------------------------------------------------------------------------------------

TARGETS: dict[str, dict[str, Any]] = {
    "a user": {"user": "ana"},
    "a session": {"session": "s1"},
    "a session of a user": {"user": "ana", "session": "s1"},
    "an agent": {"agent": "planner"},
    "a label": {"labels": "private"},
    "two labels": {"labels": ["private", "health"]},
    "a folder and what is below it": {"folder": "home"},
    "a span of time": {"since": JUNE, "until": JUNE + DAY},
    "one end of time": {"until": JUNE - 300 * DAY},
    "a kind": {"kinds": "message"},
    "a source": {"sources": "mail"},
    "a metadata value": {"metadata": {"project": "x"}},
    "the important": {"importance_min": 9},
    "what is in a space": {"space": "other", "everything": True},
    "everything": {"everything": True},
}


def filled(memory: Memory) -> None:
    memory.remember("plain and shared", at=JUNE - 100 * DAY)
    memory.remember("ana's own", user="ana", at=JUNE - 100 * DAY)
    memory.remember("ana's private", user="ana", labels=["private"], at=JUNE - 99 * DAY)
    memory.remember("bob's private health", user="bob", labels=["private", "health"], at=JUNE - 98 * DAY)
    memory.remember("at home", folder="home", at=JUNE - 97 * DAY)
    memory.remember("in the kitchen", folder="home/kitchen", at=JUNE - 97 * DAY)
    memory.remember("homely", folder="homely", at=JUNE - 97 * DAY)
    memory.remember("in June", at=JUNE)
    memory.remember("later in June", at=JUNE + DAY)
    memory.remember("long ago", at=JUNE - 400 * DAY)
    memory.remember(["one", "two"], user="ana", session="s1", at=JUNE - 50 * DAY)
    memory.remember(["three"], user="bob", session="s1", at=JUNE - 50 * DAY)
    memory.remember("planned", user="ana", agent="planner", at=JUNE - 40 * DAY)
    memory.remember("from a mail", source="mail", metadata={"project": "x"}, importance=9, at=JUNE - 40 * DAY)
    memory.revise(memory.remember("archived", labels=["private"], at=JUNE - 40 * DAY).id, archived=True)
    memory.retract(memory.remember("never true", labels=["private"], at=JUNE - 40 * DAY).id)
    memory.remember("elsewhere", space="other", user="ana")


def everything_in(memory: Memory) -> dict[tuple[str, str], list[Record]]:
    """Return every version of every record by (space, id), as anybody may read it."""
    found = {}
    for space in ("main", "other"):
        path = memory.export(f"look-{space}.jsonl", space=space)
        for record in exported(path):
            assert isinstance(record, Record)
            found.setdefault((space, record.id), list[Record]()).append(record)
        path.unlink()
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_forgetting_takes_exactly_what_the_preview_shows(target: str, memory: Memory) -> None:
    filled(memory)
    before = everything_in(memory)
    space = TARGETS[target].get("space", "main")
    preview = memory.forget(dry_run=True, **TARGETS[target])
    assert everything_in(memory) == before and preview.count > 0
    certificate = memory.forget(**TARGETS[target])
    assert set(certificate.ids) == set(preview.ids) and set(certificate.derived) == set(preview.derived)
    left = {key: versions for key, versions in before.items() if key not in {(space, id) for id in preview.ids}}
    assert everything_in(memory) == left
    named = {key: value for key, value in TARGETS[target].items() if key != "everything"}
    labels = {named["labels"]} if isinstance(named.get("labels"), str) else set(named.get("labels", ()))
    wholes = {id for id in preview.ids if id in preview.derived}
    expected = {
        record.id
        for (where, _), versions in before.items()
        for record in versions[-1:]
        if where == space
        and all(
            getattr(record.scope, level) == named[level] for level in ("user", "session", "agent") if level in named
        )
        and labels <= set(record.labels)
        and ("folder" not in named or (record.folder or "").split("/")[0] == named["folder"])
        and ("since" not in named or (record.at is not None and record.at >= named["since"]))
        and ("until" not in named or (record.at is not None and record.at < named["until"]))
        and ("kinds" not in named or record.kind == named["kinds"])
        and ("sources" not in named or record.source == named["sources"])
        and ("metadata" not in named or record.metadata.get("project") == "x")
        and ("importance_min" not in named or record.importance >= 9)
    }
    assert set(preview.ids) - wholes == expected
    memory.settle()
    assert memory.doctor() == []


def test_a_memory_that_has_just_forgotten_is_healthy(memory: Memory) -> None:
    memory.remember(SECRET, user="ana")
    memory.forget(user="ana")
    assert memory.doctor() == []


def test_what_others_share_is_never_touched(memory: Memory) -> None:
    shared = memory.remember("shared by all")
    session = memory.remember("shared in the session", session="s")
    mine = memory.remember("mine alone", user="ana", session="s")
    assert mine.id in memory.forget(user="ana").ids
    assert memory.get(shared.id) == shared and memory.get(session.id) == session
    assert session.id in memory.forget(session="s").ids and memory.get(shared.id) == shared


def test_parts_and_what_was_derived_go_too(memory: Memory) -> None:
    whole = memory.remember("a document on " + SECRET)
    parts = memory.remember(["first part", "second part"], part_of=whole.id)
    derived = memory.remember("summary", links=[Link("derived_from", part.id) for part in parts])
    further = memory.remember("summary of the summary", links=[Link("derived_from", derived.id)])
    other = memory.remember("another source")
    mixed = memory.remember(
        "summary of both", links=[Link("derived_from", parts[0].id), Link("derived_from", other.id)]
    )
    certificate = memory.forget(whole.id)
    assert set(certificate.ids) == {whole.id, *(part.id for part in parts), derived.id, further.id}
    assert set(certificate.derived) == set(certificate.ids) - {whole.id}
    assert memory.get(mixed.id) == mixed and memory.get(other.id) == other


def test_a_conversation_goes_with_the_last_of_its_messages(memory: Memory) -> None:
    said = memory.remember([{"role": "user", "content": f"turn {n}"} for n in range(3)], session="s", title=SECRET)
    talk = str(said[0].part_of)
    assert memory.forget(said[0].id).ids == (said[0].id,)
    assert memory.get(talk).text == SECRET and texts(memory.messages(talk)) == ["turn 1", "turn 2"]
    assert set(memory.forget(*(record.id for record in said[1:])).ids) == {said[1].id, said[2].id, talk}
    assert memory.conversations() == [] and gone(Path("."), *WORDS)


def test_a_conversation_that_went_begins_anew(memory: Memory) -> None:
    memory.remember("hello", session="s", user="ana")
    memory.forget(session="s")
    kept = memory.remember("hello again", session="s", user="ana")
    assert texts(memory.messages(str(kept.part_of), user="ana")) == ["hello again"]


def test_one_unknown_id_among_others_leaves_everything_as_it_was(memory: Memory) -> None:
    kept = memory.remember(["one", "two"])
    before = everything_in(memory)
    assert isinstance(refused(memory.forget, kept[0].id, "unknown", kept[1].id), NotFound)
    assert isinstance(refused(memory.forget, kept[0].id, user="neighbour"), NotFound)
    assert everything_in(memory) == before and memory.certificates() == []


# -- what is left: nothing --------------------------------------------------------------------------------------------


def test_what_was_erased_is_found_by_no_way_of_asking(memory: Memory) -> None:
    kept = memory.remember(SECRET, user="ana", id="mine", labels="private", pinned=True, at=JUNE)
    memory.revise(kept.id, text=f"{SECRET} still", user="ana")
    known = memory.get(kept.id, user="ana").known.since
    memory.forget(user="ana")
    for name in ("get", "history", "retract", "messages", "forget"):
        assert isinstance(refused(getattr(memory, name), kept.id, user="ana"), NotFound)
    for clocks in (
        {},
        {"as_of": JUNE + DAY},
        {"known_at": known},
        {"archived": True},
        {"pinned": True},
        {"labels": "private"},
    ):
        assert memory.find(user="ana", shared=False, **clocks) == []
        assert SECRET not in " ".join(texts(memory.recall(SECRET, user="ana", **clocks)))
        assert "zirconium" not in memory.context(SECRET, **clocks).text
    assert isinstance(refused(memory.forget, user="ana"), NotFound)
    assert b"zirconium" not in memory.export("all.jsonl").read_bytes()


def test_the_same_id_may_be_used_again(memory: Memory) -> None:
    memory.remember(SECRET, id="again", metadata={"k": 1})
    memory.revise("again", text="second version of " + SECRET)
    memory.forget("again")
    new = memory.remember("quite different", id="again")
    assert (new.version, memory.history("again")) == (1, [new])
    assert memory.recall("zirconium tamarind key", limit=1)[0].id != "again"
    assert "near" in next(hit for hit in memory.recall("quite different") if hit.id == "again").by
    assert memory.doctor() == [] and memory.stats()["vectors"] == memory.stats()["versions"]


def test_the_certificate_says_what_went_and_nothing_of_what_it_said(memory: Memory) -> None:
    kept = memory.remember([SECRET, SECRET + " too"], user="ana", labels=["quartzite"], metadata={"feldspar": 1})
    memory.revise(kept[0].id, text=f"{SECRET} still", user="ana")
    memory.export()
    certificate = memory.forget(user="ana")
    assert set(certificate.ids) == {record.id for record in kept} and certificate.count == 2
    places = dict(certificate.places)
    assert (places["records"], places["versions"], places["words"], places["vectors"], places["exports"]) == (
        2,
        3,
        3,
        3,
        3,
    )
    assert certificate.scope.user == "ana" and certificate.derived == () and certificate.method
    said = repr(asdict(certificate)).lower()
    assert not any(word in said for word in ("zirconium", "tamarind", "quartzit", "feldspar", "key lies"))
    assert memory.certificates() == [certificate]


def test_certificates_outlive_the_process_in_their_order(home: Path) -> None:
    made = []
    with Memory("me.db") as memory:
        for n in range(3):
            memory.remember(f"secret {n}", user=f"u{n}")
            made.append(memory.forget(user=f"u{n}"))
    with Memory("me.db") as memory:
        assert memory.certificates() == made


def test_nobody_is_shown_the_certificate_of_anothers_erase(home: Path) -> None:
    with Memory("me.db") as memory:
        hers, his, both = (memory.remember("text", user=user) for user in ("ana", "bo", None))
        memory.remember("of the team", user="ana", space="team")
        own = memory.forget(user="bo")
        administrators = memory.forget(hers.id)  # by somebody who named no user
        shared = memory.forget(both.id)
        teams = memory.forget(user="ana", space="team")
        assert his.id in own.ids
        assert memory.certificates(user="bo") == [own]
        assert memory.certificates(user="ana") == [administrators]
        assert memory.certificates(user="carla") == []
        assert memory.certificates() == [own, administrators, shared]
        assert memory.certificates(user="ana", space="team") == memory.certificates(space="team") == [teams]
        assert memory.certificates(tenant="other") == []


def test_a_certificate_of_several_users_is_shown_to_none_of_them(home: Path) -> None:
    with Memory("me.db") as memory:
        memory.remember("hers", user="ana", labels=["x"], session="s")
        memory.remember("his", user="bo", labels=["x"], session="s")
        certificate = memory.forget(labels="x")
        assert memory.certificates(user="ana") == memory.certificates(user="bo") == []
        assert memory.certificates(session="s") == memory.certificates() == [certificate]


async def test_an_erase_that_the_next_opening_finished_is_still_its_users(home: Path) -> None:
    async with AsyncMemory("me.db") as memory:
        await memory.remember("his", user="bo")
        kept = await memory.remember("hers", user="ana")
    store = open_store("sqlite:///me.db")
    await store.commit(Batch(erase=(kept.ref,)))  # and the power went
    await store.close()
    async with AsyncMemory("me.db", require="user") as memory:
        [certificate] = await memory.certificates(user="ana")
        assert certificate.ids == (kept.id,) and await memory.certificates(user="bo") == []


# -- not one byte -----------------------------------------------------------------------------------------------------


def test_no_byte_of_anything_that_was_said_stays(memory: Memory, home: Path) -> None:
    name = "Żółć"
    kept = memory.remember(
        "the zirconium key, 鍵は木の下",
        user="ana",
        labels=["quartzite label"],
        folder="feldspar/mica",
        source="obsidian",
        metadata={"basalt": {"deep": ["gneiss"]}},
        role="user",
        name=name,
        session="s",
        title="Tamarind affair",
    )
    memory.revise(kept.id, text="no longer zirconium but porphyry", user="ana")
    memory.revise(kept.id, labels=["dolomite"], metadata={"marble": 1}, user="ana")
    memory.revise(kept.id, text="harmless", labels=[], folder="", metadata={}, user="ana")
    traces = (
        b"zirconium",
        b"porphyry",
        b"quartzite",
        b"feldspar",
        b"mica",
        b"obsidian",
        b"basalt",
        b"gneiss",
        b"tamarind",
        b"dolomite",
        b"marble",
        "鍵は木の下".encode(),
        "鍵は".encode(),
        name.encode(),
        "żółć".encode(),
        "zołc".encode(),
        b"porphyri",
        b"quartzit",
    )
    memory.forget(user="ana")
    assert gone(home, *traces)
    memory.close()
    assert gone(home, *traces)


@pytest.mark.parametrize("size", [1, 9, 300, 4_000, 5_000, 70_000, 1_000_000])
def test_no_byte_of_a_text_of_any_size_stays(size: int, memory: Memory, home: Path) -> None:
    chance = random.Random(size)
    words = ["".join(chance.choices("bcdfghjklmnpqrstvwxz", k=12)) for _ in range(max(1, size // 13))]
    kept = memory.remember(" ".join(words))
    memory.remember([f"later {n}" for n in range(20)])
    memory.forget(kept.id)
    wanted = [
        word.encode() for word in (words if len(words) < 300 else chance.sample(words, 300) + words[:20] + words[-20:])
    ]
    stems = [word[:10] for word in wanted]
    assert gone(home, *wanted, *stems)


def test_no_byte_stays_where_rows_moved_between_pages_before(memory: Memory, home: Path) -> None:
    chance, secrets = random.Random(7), list[str]()
    kept = []
    for n in range(150):
        secret = f"{chance.randbytes(6).hex()}secret"
        secrets.append(secret)
        kept.append(
            memory.remember(
                f"{secret} " + "w" * chance.randint(1, 900),
                user="gone",
                id=f"{chance.randbytes(4).hex()}-{n}",
                labels=[f"{secret}label"],
            )
        )
        memory.remember(
            f"stays {n} " + "v" * chance.randint(1, 900), user="stays", id=f"{chance.randbytes(4).hex()}-stays{n}"
        )
    for _ in range(300):
        record = chance.choice(kept)
        secrets.append(secret := f"{chance.randbytes(6).hex()}again")
        memory.revise(
            record.id, text=f"{secret} " + "z" * chance.randint(1, 2000), labels=[f"{secret}label"], user="gone"
        )
    halves = chance.sample([record.id for record in kept], 75)
    memory.forget(*halves)
    memory.forget(user="gone")
    assert gone(home, *(secret.encode() for secret in secrets))
    memory.settle()
    assert memory.count(user="stays", shared=False) == 150 and memory.doctor() == []


def test_no_byte_of_many_short_records_stays(memory: Memory, home: Path) -> None:
    """More of them than are looked for as samples, each shorter than what is looked for."""
    chance = random.Random(3)
    names = ["".join(chance.choices("bcdfghjklmnpqrstvwxz", k=9)) for _ in range(700)]
    kept = []
    for start in range(0, 700, 100):
        kept += memory.remember(names[start : start + 100], user="gone")
        memory.remember([f"stays {start} {n}" for n in range(30)], user="stays")
    for record in kept[::3]:
        memory.revise(record.id, labels=["seen"], user="gone")
    for record in kept[::7]:
        memory.forget(record.id)
    memory.forget(user="gone")
    assert gone(home, *(name.encode() for name in names), *(name[:8].encode() for name in names))


def test_no_word_stays_in_the_full_text_index_whatever_was_merged_in_it(memory: Memory, home: Path) -> None:
    chance = random.Random(5)
    words = ["".join(chance.choices("bcdfghjklmnpqrstvwxz", k=8)) for _ in range(2000)]
    for _n in range(200):  # single writes make many segments, which are merged
        memory.remember(" ".join(chance.sample(words[:1000], 12)), user="gone")
        memory.remember(" ".join(chance.sample(words[1000:], 12)), user="stays")
    memory.forget(user="gone")
    left = {word for record in memory.find(user="stays", limit=1000) for word in record.text.split()}
    assert gone(home, *(word.encode() for word in words if word not in left))


OPEN = """
import sys
from simonides import Memory
memory = Memory("me.db")
print(len(memory.recall("zirconium", user="ana")), flush=True)
for line in sys.stdin:
    print(len(memory.recall("zirconium", user="ana")), memory.count(user="ana"), flush=True)
memory.close()
"""


def test_no_byte_stays_while_another_process_has_the_store_open(memory: Memory, home: Path) -> None:
    memory.remember([f"{SECRET} {n}" for n in range(20)], user="ana")
    other = subprocess.Popen([sys.executable, "-c", OPEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin and other.stdout
    assert int(other.stdout.readline()) > 0
    memory.forget(user="ana")
    assert gone(home, *WORDS)
    out, _ = other.communicate("again\n", timeout=60)
    assert other.returncode == 0 and out.split() == ["0", "0"]
    assert gone(home, *WORDS)


def test_exports_are_rewritten_and_the_rest_of_them_stays(memory: Memory, home: Path) -> None:
    stays = memory.remember("stays for good", user="bob")
    memory.remember(SECRET, user="ana", metadata={"k": "feldspar"})
    folder = home / "me.db-files" / "exports"
    for name in ("a.jsonl", "b.jsonl.gz", "with space.jsonl"):
        memory.export(folder / name)
    (folder / "year").mkdir()
    memory.export(folder / "year" / "c.jsonl")
    memory.export(folder / "other-name.txt")
    (folder / "notes.jsonl").write_text("no export of ours\n")
    certificate = memory.forget(user="ana")
    assert certificate.places["exports"] == 5
    assert gone(home, *WORDS, b"feldspar")
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "notes.jsonl":
            assert stays in [record for record in exported(path) if isinstance(record, Record)]
    assert (folder / "notes.jsonl").read_text() == "no export of ours\n"


def test_vectors_of_the_erased_are_gone_from_every_file(home: Path) -> None:
    with Memory("me.db", embedder="hashing:") as memory:
        memory.remember([f"neighbour {n}" for n in range(30)])
        kept = memory.remember(SECRET)
        memory.recall("anything")  # the index has its files by then
        [vector] = vectors_of(home, kept.id)
        assert found_in(home, vector)
        memory.forget(kept.id)
        assert gone(home, vector)
    assert gone(home, vector)


@pytest.mark.parametrize("small", [True, False])
def test_tokens_of_the_erased_are_gone_from_every_file(
    small: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(sqlite_bytes, "SMALL", 0)
    with Memory("me.db", embedder="local:") as memory:
        memory.remember([f"neighbour {n} tells of bridges and rivers" for n in range(30)])
        kept = memory.remember(SECRET, session="s", user="ana")
        memory.revise(kept.id, text=f"{SECRET}, or does it? " + "Nobody knows. " * 50, user="ana")
        memory.recall("where is the key?", user="ana")
        versions = tokens_of(home, kept.id)
        traces = [packed[place : place + TOKEN_BYTES] for packed in versions for place in (0, TOKEN_BYTES)]
        assert len(versions) == 2 and len(found_in(home, *traces)) >= len(traces)
        memory.forget(kept.id, user="ana")
        assert gone(home, *traces) and tokens_of(home, kept.id) == []
        assert memory.doctor() == []
    assert gone(home, *traces)


def test_the_tokens_of_a_text_hold_nothing_of_the_texts_around_it(home: Path) -> None:
    with Memory("me.db", embedder="local:") as memory:
        alone = memory.remember("Shall we meet at the ferry?", user="bo", session="s", role="user", at=JUNE)
        memory.remember(SECRET, user="ana", session="s", role="user", at=JUNE)
        beside = memory.remember("Shall we meet at the ferry?", user="ana", session="s", role="user", at=JUNE)
        memory.remember(SECRET, user="ana", session="s", role="user", at=JUNE + DAY)
        assert tokens_of(home, alone.id) == tokens_of(home, beside.id) != []


def vectors_of(home: Path, id: str) -> list[bytes]:
    return blobs_of(home, "SELECT v.value FROM vectors v JOIN records r ON r.row = v.row WHERE r.id = ?", id)


def tokens_of(home: Path, id: str) -> list[bytes]:
    sql = "SELECT t.value FROM tokens t JOIN records r ON r.row = t.row & ((1 << 40) - 1) WHERE r.id = ?"
    return blobs_of(home, sql, id)


def blobs_of(home: Path, sql: str, id: str) -> list[bytes]:
    import apsw

    db = apsw.Connection(str(home / "me.db"))
    try:
        return [row[0] for row in db.execute(sql, (id,))]
    finally:
        db.close()


def test_backups_made_before_a_migration_go_too(memory: Memory, home: Path) -> None:
    (home / "me.db.before-2").write_bytes(SECRET.encode())
    memory.remember(SECRET, user="ana")
    assert memory.forget(user="ana").places["backups"] == 1
    assert gone(home, *WORDS) and not (home / "me.db.before-2").exists()


async def test_what_is_forgotten_while_it_is_being_embedded_leaves_no_vector(home: Path) -> None:
    async with AsyncMemory("me.db", embedder="hashing:", settled=False) as memory:
        for n in range(25):
            kept = await memory.remember(f"{SECRET} {n}", id="same")
            await memory.forget(kept.id)
            await memory.remember("something else", id="same")
            await memory.settle()
            stats = await memory.stats()
            assert stats["vectors"] == stats["versions"] == 1 and await memory.doctor() == []
            [hit] = await memory.recall("something else")
            assert (
                next(
                    factor
                    for factor in (await memory.recall("something else", explain=True))[0].why
                    if factor.name == "near"
                ).value
                > 0
            )
            assert hit.id == "same"
            await memory.forget("same")
    assert gone(home, *WORDS)


# -- as a rule --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.sampled_from(["remember", "remember", "revise", "label", "forget"]), st.integers(0, 7), st.integers(1, 3000)
    ),
    min_size=3,
    max_size=25,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, small=st.booleans())
def test_whatever_happened_before_what_is_erased_is_gone_and_the_rest_is_intact(
    steps: list[tuple[str, int, int]], small: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home, count = tmp_path_factory.mktemp("rule"), 0
    before, sqlite_bytes.SMALL = sqlite_bytes.SMALL, sqlite_bytes.SMALL if small else 0
    live: dict[str, list[Record]] = {}
    secrets: dict[str, list[bytes]] = {}
    erased: list[bytes] = []
    try:
        with Memory(home / "me.db", embedder="none") as memory:
            for what, which, size in steps:
                id, count = f"id-{which}", count + 1
                word = f"{random.Random(f'{count}-{which}-{size}').randbytes(7).hex()}"
                text = f"{word} {'pad ' * (size // 4)}{word}"
                if what == "remember" and id not in live:
                    live[id] = [memory.remember(text, id=id, labels=[f"{word}label"], metadata={"m": f"{word}meta"})]
                    secrets.setdefault(id, []).append(word.encode())
                elif what == "revise" and id in live:
                    live[id].append(memory.revise(id, text=text))
                    secrets[id].append(word.encode())
                elif what == "label" and id in live:
                    live[id].append(memory.revise(id, labels=[f"{word}label"]))
                    secrets[id].append(word.encode())
                elif what == "forget" and id in live:
                    memory.forget(id)
                    erased += secrets.pop(id)
                    del live[id]
                    assert gone(home, *erased)
                for id, versions in live.items():
                    if versions:
                        latest = versions[-1]
                        assert memory.get(id) == latest
            assert gone(home, *erased)
            for id, versions in live.items():
                history = memory.history(id)
                assert [record.text.encode() for record in history] == [record.text.encode() for record in versions]
                assert [(record.labels, record.metadata) for record in history] == [
                    (r.labels, r.metadata) for r in versions
                ]
                assert versions[-1].text.split()[0] in " ".join(texts(memory.recall(versions[-1].text.split()[0])))
            assert memory.count() == len(live)
        assert gone(home, *erased)
    finally:
        sqlite_bytes.SMALL = before


def test_everything_must_be_said_plainly(memory: Memory) -> None:
    for wrong in ("yes", "no", 1, "", None):
        assert isinstance(refused(memory.forget, everything=wrong), Invalid)
    assert memory.count() == 40


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_what_is_remembered_is_its_owners_alone_to_read(tmp_path: Path) -> None:
    with Memory(tmp_path / "me.db", embedder="hashing:") as memory:
        memory.remember(["mine", "and mine"] * 20)
        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
