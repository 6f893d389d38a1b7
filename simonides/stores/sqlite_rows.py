"""What SQLite says in its own way of what `rows.py` says of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from ..query import Query, same
from . import rows
from .rows import COLUMNS, NOTHING, By, Condition, Dialect

INSERT = f"INSERT INTO records ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def where(query: Query, realm: int, *, of_given: bool = False, by: By = NOTHING) -> tuple[str, list[Any]]:
    """Return `rows.where` as SQLite reads it."""
    return rows.where(query, realm, SQLITE, of_given=of_given, by=by)


def _among(column: str, names: Collection[str]) -> Condition:
    return f"r.{column} IN (SELECT value FROM json_each(?))", [_names(names)]


def _linked(realm: int, role: str, targets: Collection[str]) -> Condition:
    sql = "r.row IN (SELECT row FROM links WHERE realm = ? AND role = ? AND target IN (SELECT value FROM json_each(?)))"
    return sql, [realm, role, _names(targets)]


def _bears(realm: int, label: str, of_given: bool) -> Condition:
    sql = "SELECT row FROM labels WHERE realm = ? AND label = ?"
    return f"EXISTS ({sql} AND row = r.row)" if of_given else f"r.row IN ({sql})", [realm, label]


def _holds(key: str, value: Any) -> Condition:
    sql = "instr(r.metadata, ?) AND holds(r.metadata, ?)"
    return sql, [f"{_encode(key).decode()}:", _encode([key, value]).decode()]


def holds(metadata: Any, wanted: Any) -> int:
    """The SQL function: whether the JSON object has this [key, value] at its top."""
    key, value = _decode(wanted)
    found: Mapping[str, Any] = _decode(metadata) if metadata else {}
    return int(key in found and same(found[key], value))


def _names(names: Iterable[str]) -> str:
    return _encode(sorted(names)).decode()


# A + before a column keeps SQLite from using an index for it.
SQLITE = Dialect(among=_among, linked=_linked, bears=_bears, holds=_holds, unled="+")
