"""Which versions say the words of a question best: BM25 (`bm25.py`) over the lists that FTS5 keeps.

FTS5 can rank by itself, but fetches the length of every version that says any of the words: 1 to 2 µs each, and a
question may meet 20,000. Here they are first ranked as if all were equally long, and lengths are looked up, with the
filters of the query, for those that lead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw
import numpy as np

from .bm25 import Rows

STRETCHES, STRETCH = 8, 500  # of neighbouring rows, in which common words are counted
TELLING = 400  # versions of such a sample that say a word, for it to tell how common it is
HOPELESS = 1 / 4  # share of what would be on the way to so many, below which the rest of the sample is not looked at

# Every place of every term; of a connection's own, because it is only another view of the lists.
INSTANCES = "CREATE VIRTUAL TABLE IF NOT EXISTS temp.instances USING fts5vocab (main, words, instance)"


def said(db: apsw.Connection, term: str) -> Rows:
    """Return the rows that say the term, ascending, each as often as it does."""
    return _rows(db, "SELECT group_concat(doc) FROM instances WHERE term = ?", (term,))


@dataclass(frozen=True, slots=True)
class Sample:
    """A few stretches of neighbouring rows, and how many rows of a realm are in them: common words are counted there.

    Counting one that is in all of a million versions takes 12 ms, and in a sample of 4,000 a fifth of one.
    """

    stretches: tuple[tuple[int, int], ...]  # before which row each begins, and how many rows of the realm are in it

    @staticmethod
    def of(db: apsw.Connection, realm: int) -> Sample:
        newest = _one(db, "SELECT ifnull(max(row), 0) FROM records")
        starts = [newest * n // STRETCHES for n in range(STRETCHES)]
        sql = "SELECT count(*) FROM records WHERE row > ? AND row <= ? AND +realm = ?"  # +: by row, not by an index
        return Sample(tuple((start, _one(db, sql, (start, start + STRETCH, realm))) for start in starts))

    def share(self, db: apsw.Connection, term: str) -> float | None:
        """Return about which share of the realm's versions says the term; None where too few here do to tell.

        Most terms are far too rare, which the first stretches tell.
        """
        sql = "SELECT count(*) FROM words WHERE words MATCH ? AND rowid > ? AND rowid <= ?"
        count, seen, found = sum(rows for _, rows in self.stretches), 0, 0
        for start, rows in self.stretches:
            found += _one(db, sql, (f'"{term}"', start, start + STRETCH))
            seen += rows
            if found * count < HOPELESS * TELLING * seen:
                return None
        return min(1.0, found / count) if found >= TELLING else None


def labelled(db: apsw.Connection, realm: int, label: str, limit: int) -> Rows | None:
    """Return the rows that bear the label, ascending; None where they are more than the limit."""
    sql = "SELECT group_concat(row) FROM (SELECT row FROM labels WHERE realm = ? AND label = ? LIMIT ?)"
    rows = _rows(db, sql, (realm, label, limit + 1))
    return rows if len(rows) <= limit else None


def owned(db: apsw.Connection, realm: int, level: str, names: Sequence[str], limit: int) -> Rows | None:
    """Return the rows that bear one of the names at that level; None where they are more than the limit."""
    marks = ", ".join("?" * len(names))
    sql = f"SELECT group_concat(row) FROM (SELECT row FROM records WHERE realm = ? AND {level} IN ({marks}) LIMIT ?)"
    rows = _rows(db, sql, (realm, *names, limit + 1))
    return rows if len(rows) <= limit else None


def said_lately(db: apsw.Connection, term: str, before: int, limit: int) -> Rows:
    """Return the newest rows below that one that say the term, each once."""
    sql = (
        "SELECT group_concat(row) FROM (SELECT rowid AS row FROM words WHERE words MATCH ? AND rowid < ?"
        " ORDER BY rowid DESC LIMIT ?)"
    )
    return _rows(db, sql, (f'"{term}"', before, limit))


def sizes(db: apsw.Connection, rows: Rows, where: str, values: Sequence[Any]) -> tuple[Rows, Rows]:
    """Return those of the rows that meet the condition on `records r`, and how many bytes the text of each has."""
    sql = (
        "SELECT group_concat(r.row), group_concat(octet_length(r.text))"
        f" FROM json_each(?) j CROSS JOIN records r ON r.row = j.value WHERE {where}"
    )
    found, long = db.execute(sql, (f"[{','.join(map(str, rows.tolist()))}]", *values)).get
    return _numbers(found), _numbers(long)


def _rows(db: apsw.Connection, sql: str, values: tuple[str | int, ...]) -> Rows:
    """Return the numbers of the one text that the statement makes: a row each would cost three times as much."""
    return _numbers(_one(db, sql, values))


def _numbers(joined: str | None) -> Rows:
    return np.fromstring(joined, np.int64, sep=",") if joined is not None else np.zeros(0, np.int64)


def _one(db: apsw.Connection, sql: str, values: tuple[str | int, ...] = ()) -> Any:
    return db.execute(sql, values).get
