"""Makes the schema of a store when it is first opened, and brings one of an older release up to date, all or nothing.

A step is SQL that leads from the schema before it to its number. `postgres_schema.sql` is the newest; a new schema
means a new number here, and a step to it. PostgreSQL makes and changes tables in transactions, so a step that fails
leaves the store as it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib import resources
from typing import Any

import psycopg
from psycopg import Connection

from .. import words as language
from ..errors import Damaged, Invalid
from ..postgresql import quoted
from .postgres_errors import translated
from .postgres_pool import ALL
from .postgres_upkeep import make_words
from .postgres_url import Address

SCHEMA = 1
STEPS: Mapping[int, str] = {}
BY_REALM = ") PARTITION BY HASH (realm);"

# The second wall: whatever a query forgets, it sees nothing but the realms of the tenants that its transaction names.
# The sub-selects are worked out once for a statement, not for each row.
SEEN = "(SELECT current_setting('simonides.all', true)) = 'on'"
OF_TENANT = f"tenant = ANY((SELECT nullif(current_setting('simonides.tenant', true), ''))::text[]) OR {SEEN}"
OF_REALM = f"realm = ANY(ARRAY(SELECT m.realm FROM realms m)) OR {SEEN}"
WALLED = (
    *(
        "records",
        "labels",
        "links",
        "words",
        "groups",
        "vectors",
        "tokens",
        "holes",
        "recalls",
        "changes",
        "erasing",
        "letters",
    ),
)


def prepare(db: Connection[Any], address: Address, steps: Mapping[int, str] = STEPS, newest: int = SCHEMA) -> str:
    """Make the schema or migrate it, and return the store's identity. Whoever comes second waits, and finds it done."""
    try:
        found = _meta(db, address)
        if found is None or found.get("schema") != str(newest) or found.get("words") != str(language.VERSION):
            with db.transaction():
                db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"simonides {address.schema}",))
                found = _brought_up(db, address, steps, newest)
    except psycopg.Error as error:
        raise translated(error, address.place) from error
    return found["identity"]


def _brought_up(db: Connection[Any], address: Address, steps: Mapping[int, str], newest: int) -> dict[str, str]:
    found = _meta(db, address)
    if found is None:
        _create(db, address, newest)
    elif (schema := int(found.get("schema", 0))) > newest:
        raise Damaged(
            f"{address.schema} was made by a newer Simonides (schema {schema}, this one knows {newest}): update it"
        )
    else:
        db.execute(ALL)
        for step in range(schema + 1, newest + 1):
            db.execute(steps[step])
        _note(db, "schema", str(newest))
        if found.get("words") != str(language.VERSION):
            make_words(db)
            _note(db, "words", str(language.VERSION))
    made = _meta(db, address)
    assert made is not None
    return made


def _meta(db: Connection[Any], address: Address) -> dict[str, str] | None:
    """Return what the store says of itself; None where there is none. It is looked for in the catalogue, which is
    looked at anew where another process has just made it.
    """
    sql = "SELECT 1 FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND relname = 'meta'"
    if not db.execute(sql, (address.schema,)).fetchone():
        return None
    return dict(db.execute("SELECT name, value FROM meta").fetchall())


def _note(db: Connection[Any], name: str, value: str) -> None:
    sql = "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    db.execute(sql, (name, value))


def _create(db: Connection[Any], address: Address, newest: int) -> None:
    if not db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,)).fetchone():
        db.execute(f"CREATE SCHEMA {quoted(address.schema)}")
    sql = "SELECT 1 FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    if db.execute(sql, (address.schema,)).fetchone():
        raise Invalid(f"schema {address.schema} has tables of another program; name another one with ?schema=")
    db.execute("; ".join([_tables(address.partitions), *_walls(), *_unsampled()]))
    _note(db, "identity", str(uuid.uuid4()))
    _note(db, "schema", str(newest))
    _note(db, "words", str(language.VERSION))


def _tables(partitions: int) -> str:
    sql = resources.files(__package__).joinpath("postgres_schema.sql").read_text("utf-8")
    if partitions == 1:
        return sql.replace(BY_REALM, ");")
    parted = [part.rpartition("CREATE TABLE ")[2].split()[0] for part in sql.split(BY_REALM)[:-1]]
    return sql + "; ".join(
        f"CREATE TABLE {table}_{n} PARTITION OF {table} FOR VALUES WITH (MODULUS {partitions}, REMAINDER {n})"
        for table in parted
        for n in range(partitions)
    )


def _unsampled() -> list[str]:
    """Let PostgreSQL keep no samples of what may have to be erased: no client can reach them."""
    said = {"records": ("text", "body", "metadata", "labels", "key", "folder"), "labels": ("label",)}
    return [
        f"ALTER TABLE {table} ALTER {column} SET STATISTICS 0" for table, columns in said.items() for column in columns
    ]


def _walls() -> list[str]:
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
        f" CREATE POLICY walls ON {table} USING ({seen})"
        for table, seen in (("realms", OF_TENANT), *((table, OF_REALM) for table in WALLED))
    ]
