"""How SQLite goes about finding: by what few records have, and never through the whole realm for it."""

from __future__ import annotations

from typing import Any

import pytest

from simonides.kinds import Note
from simonides.query import Query
from simonides.record import Link, Record, Scope
from simonides.store import Batch
from simonides.stores import sqlite

HERE = Scope()
NAMED: dict[str, dict[str, Any]] = {
    "id": {"ids": frozenset({"7", "8"})},
    "key": {"kinds": frozenset({"conversation"}), "keys": frozenset({"trip"})},
    "part": {"part_of": frozenset({"trip", "work"})},
    "link": {"linked": ("about", frozenset({"0"}))},
    "label": {"labels": frozenset({"rare"})},
    "folder": {"folder": "attic"},
}


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("name", NAMED)
async def test_what_few_records_have_is_not_looked_for_in_all(name: str, newest: bool) -> None:
    store = sqlite.open()
    few = {"labels": ("rare",), "folder": "attic", "part_of": "trip", "links": (Link("about", "0"),)}
    notes = [Record(scope=HERE, id=f"{n}", body=Note(text="n"), **(few if n == 7 else {})) for n in range(20)]
    await store.commit(Batch(put=tuple(notes)))
    query, ran = Query(scope=HERE, newest=newest, **NAMED[name]), list[tuple[str, Any]]()

    def plan(db: Any) -> str:
        db.exec_trace = lambda _, sql, values: ran.append((sql, values)) or True
        found = store._find(db, query)
        db.exec_trace = None
        assert [record.id for record in found] == [note.id for note in notes if query.matches(note)][:: 1 - 2 * newest]
        return " ".join(step[3] for step in db.execute(f"EXPLAIN QUERY PLAN {ran[-1][0]}", ran[-1][1]))

    steps = await store._read(plan)
    assert "(realm=?)" not in steps
    assert "SCAN r" not in steps
    await store.close()
