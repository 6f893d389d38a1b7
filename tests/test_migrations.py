"""A store of an older release is brought up to date, with a copy made before; one of a newer release is left alone."""

from pathlib import Path

import apsw
import pytest

from simonides import Damaged, Invalid, Memory
from simonides.sqlite_file import version
from simonides.stores.sqlite_migrations import SCHEMA, migrate

NEXT = {SCHEMA + 1: "ALTER TABLE records ADD COLUMN mood TEXT; UPDATE records SET mood = 'calm'"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Memory(tmp_path / "m.db", embedder="none") as memory:
        memory.remember("I like tea", user="ana")
    return tmp_path / "m.db"


def test_a_migration_keeps_everything_and_a_copy_of_what_was(path: Path) -> None:
    db = apsw.Connection(str(path))
    migrate(db, str(path), NEXT, SCHEMA + 1)
    assert db.execute("SELECT text, mood FROM records").fetchall() == [("I like tea", "calm")]
    assert version(db) == SCHEMA + 1
    with Memory(f"{path}.before-{SCHEMA + 1}", embedder="none") as before:
        assert [record.text for record in before.find(user="ana")] == ["I like tea"]


def test_a_step_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    db = apsw.Connection(str(path))
    broken = {SCHEMA + 1: "ALTER TABLE records ADD COLUMN mood TEXT; SELECT no_such_function()"}
    with pytest.raises(apsw.SQLError):
        migrate(db, str(path), broken, SCHEMA + 1)
    db.close()
    with Memory(path, embedder="none") as memory:
        assert memory.recall("tea")[0].text == "I like tea"


def test_a_migration_is_done_once(path: Path) -> None:
    db = apsw.Connection(str(path))
    migrate(db, str(path), NEXT, SCHEMA + 1)
    migrate(db, str(path), NEXT, SCHEMA + 1)
    assert version(db) == SCHEMA + 1


def test_forgetting_removes_the_copies_made_before_migrations(path: Path) -> None:
    db = apsw.Connection(str(path))
    migrate(db, str(path), {SCHEMA + 1: "SELECT 1"}, SCHEMA + 1)
    db.execute(f"PRAGMA user_version = {SCHEMA}")
    db.close()
    with Memory(path, embedder="none") as memory:
        certificate = memory.forget(user="ana")
    assert certificate.places["backups"] == 1
    assert not list(path.parent.glob("*.before-*"))


def test_a_store_of_a_newer_release_is_not_touched(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    with pytest.raises(Damaged, match="newer"):
        Memory(path, embedder="none")


def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "other.db"))
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(Invalid, match="another program"):
        Memory(tmp_path / "other.db", embedder="none")
    db = apsw.Connection(str(tmp_path / "other.db"))
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


RELEASED = sorted((Path(__file__).parent / "released").glob("*.db"))


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_every_released_schema_opens_and_answers(released: Path, tmp_path: Path) -> None:
    copy = tmp_path / released.name
    copy.write_bytes(released.read_bytes())
    with Memory(copy, embedder="hashing:") as memory:
        assert memory.recall("where do I live?", user="ana")[0].text == "I live in Porto"
        assert memory.doctor() == []
        [first, second, _] = memory.history("move", user="ana")
        assert (first.text, second.text) == ("I live in Lisbon", "I live in Lisbon now")


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_a_migrated_store_has_the_schema_of_a_new_one(released: Path, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / released.name
    copy.write_bytes(released.read_bytes())
    with Memory(copy, embedder="none"):
        pass
    assert _schema(copy) == _schema(path)


def _schema(path: Path) -> dict[str, str]:
    found = apsw.Connection(str(path)).execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {name: " ".join(sql.split()) for name, sql in found.fetchall()}
