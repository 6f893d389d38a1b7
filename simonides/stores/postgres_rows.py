"""What PostgreSQL says in its own way of what `rows.py` says of records, and texts as it can keep them."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import pq
from psycopg.adapt import Dumper

from ..query import Query
from ..record import Record, Scope, Span
from . import rows
from .rows import COLUMNS, NOTHING, By, Condition, Dialect

TYPES = {
    **dict.fromkeys(COLUMNS, "text"),
    **dict.fromkeys(("realm", "version"), "int"),
    **dict.fromkeys(("importance", "pinned"), "smallint"),
    **dict.fromkeys(("at", "valid_since", "valid_until", "known_since", "known_until", "begun"), "bigint"),
}
QUOTED = ", ".join(f'"{column}"' for column in COLUMNS)

BIGINT, BIGINTS = 20, 1016  # PostgreSQL's numbers of the types bigint and bigint[]
NUMBER = np.dtype([("size", ">i4"), ("number", ">i8")])

_ESCAPED = re.compile("\x01([\x01\x02])")
_REAL = {"\x01": "\x00", "\x02": "\x01"}
_encode = msgspec.json.Encoder().encode


def kept(text: str) -> str:
    """Return the text as PostgreSQL can keep it, which has no NUL: \\x00 as \\x01\\x01, and \\x01 as \\x01\\x02.

    Two texts are in the same order after it, and one begins with the other as before.
    """
    if "\x00" in text or "\x01" in text:
        return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    return text


def given(text: str) -> str:
    """Return the text that was kept."""
    return _ESCAPED.sub(lambda found: _REAL[found[1]], text) if "\x01" in text else text


def bound(values: Iterable[Any]) -> list[Any]:
    """Return the values of a statement as PostgreSQL can take them."""
    return [
        kept(value) if isinstance(value, str) else list(map(kept, value)) if _are_texts(value) else value
        for value in values
    ]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def array(column: Sequence[Any]) -> list[Any] | str:
    """Return values for a parameter that is cast to an array; numbers and texts as PostgreSQL writes one.

    psycopg looks at every element of a list, which takes longer than the server needs.
    """
    first = next((value for value in column if value is not None), 0)
    if isinstance(first, int):
        return f"{{{str(list(column))[1:-1]}}}".replace("None", "NULL")
    if not isinstance(first, str):
        return list(column)
    return "{" + ",".join("NULL" if text is None else _quoted(text) for text in column) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def about(sql: str, realms: Sequence[int], values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return a statement, which says `realm {among}` in the end, and its values, for these realms alone."""
    which = sorted(set(realms))
    if len(which) == 1:
        return sql.format(among="= %s"), [*values, which[0]]
    return sql.format(among="= ANY(%s::int[])"), [*values, which]


def unbound(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a row that was read as it was before it was kept."""
    return tuple(given(value) if isinstance(value, str) else value for value in row)


def as_row(record: Record, realm: int, known: Span) -> list[Any]:
    return bound(rows.as_row(record, realm, known))


def as_record(row: Sequence[Any], scope: Scope) -> Record:
    """Return the record of a row of COLUMNS. What is JSON needs no look: it has such characters escaped anyway."""
    (_, id, _, user, agent, session, _, _, part_of, folder, _, _, _, source, _, _, _, _, _, _, _, _, _, text, _) = row
    if "\x01" in text or "\x01" in f"{id}{user}{agent}{session}{part_of}{folder}{source}":
        row = unbound(row)
    return rows.as_record(tuple(row), scope)


class Numbers:
    """Numbers on their way to PostgreSQL, as an array of bigint is sent: numpy writes it ten times as fast."""

    def __init__(self, numbers: Sequence[int] | NDArray[np.int64]) -> None:
        sent = np.empty(len(numbers), NUMBER)
        sent["size"], sent["number"] = 8, numbers
        self.bytes = struct.pack(">iiiii", 1, 0, BIGINT, len(numbers), 1) + sent.tobytes()


class _NumbersDumper(Dumper):
    format, oid = pq.Format.BINARY, BIGINTS

    def dump(self, obj: Numbers) -> bytes:
        return obj.bytes


psycopg.adapters.register_dumper(Numbers, _NumbersDumper)


def numbers(sent: bytes | None) -> NDArray[np.int64]:
    """Return the numbers of an array of bigint as PostgreSQL sends it: a header of 20 bytes, and each with its size."""
    if sent is None or len(sent) < 20:
        return np.zeros(0, np.int64)
    return np.frombuffer(sent, NUMBER, offset=20)["number"].astype(np.int64)


def where(query: Query, realm: int, *, of_given: bool = False, by: By = NOTHING) -> tuple[str, list[Any]]:
    """Return `rows.where` as PostgreSQL reads it."""
    sql, values = rows.where(query, realm, POSTGRES, of_given=of_given, by=by)
    return sql.replace("?", "%s"), bound(values)


def _among(column: str, names: Collection[str]) -> Condition:
    return f"r.{column} = ANY(?::text[])", [sorted(names)]


def _linked(realm: int, role: str, targets: Collection[str]) -> Condition:
    sql = "r.row_id IN (SELECT row_id FROM links WHERE realm = ? AND role = ? AND target = ANY(?::text[]))"
    return sql, [realm, role, sorted(targets)]


def _bears(realm: int, label: str, of_given: bool) -> Condition:
    sql = "SELECT row_id FROM labels WHERE realm = ? AND label = ?"
    if of_given:
        return f"EXISTS ({sql} AND row_id = r.row_id)", [realm, label]
    return f"r.row_id IN ({sql})", [realm, label]


def _holds(key: str, value: Any) -> Condition:
    return "? = ANY(r.facets)", [_facet(key, value)]


def facets(record: Record) -> str | None:
    """Return what the metadata holds at its top, as an array of numbers: one for each key and scalar value."""
    numbers = [
        _facet(key, value)
        for key, value in record.metadata.items()
        if value is None or isinstance(value, str | int | float)
    ]
    return f"{{{','.join(map(str, numbers))}}}" if numbers else None


def _facet(key: str, value: Any) -> int:
    """Return the number of a key and its value: the same for what `query.same` calls one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    one = f"n{value}".encode() if isinstance(value, int) and not isinstance(value, bool) else _encode(value)
    return _number(_encode(key) + one)


@lru_cache(maxsize=200_000)
def term_number(term: str) -> int:
    """Return the number that a term is kept as: 64 bits of its hash, so that none of it can be read in a file."""
    return _number(term.encode("utf-8", "surrogatepass"))


def _number(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), signed=True)


POSTGRES = Dialect(among=_among, linked=_linked, bears=_bears, holds=_holds)
