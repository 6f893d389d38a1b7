"""Statements that go to the server in one message, and whose answers come back together.

psycopg's pipeline sends each statement by itself and looks after each whether it may go on, which takes longer than the
server needs for most of them. What is asked here is prepared at once, and values go as they are written in SQL.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.generators import fetch_many, send
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from .postgres_rows import array

NUMBERS = frozenset({20, 21, 23})  # PostgreSQL's numbers of the types bigint, smallint and integer
BYTEA = 17
TEXT, BINARY = 0, 1


class Db(AsyncConnection[Any]):
    """A connection, with the names of the statements that trips have prepared on it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.prepared: dict[str, bytes] = {}
        self.names = map("trip_{}".format, itertools.count())


class Answer:
    """What a statement gave, once its trip was made."""

    __slots__ = ("_encoding", "_result")

    def __init__(self) -> None:
        self._result: PGresult | None = None
        self._encoding = ""

    def came(self, result: PGresult, encoding: str) -> None:
        self._result, self._encoding = result, encoding

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows: numbers, texts and None."""
        result = self._result
        assert result is not None, "the trip was made"
        are_numbers = [result.ftype(column) in NUMBERS for column in range(result.nfields)]
        return [
            tuple(self._value(result.get_value(row, column), number) for column, number in enumerate(are_numbers))
            for row in range(result.ntuples)
        ]

    def _value(self, sent: bytes | None, is_number: bool) -> Any:
        if sent is None:
            return None
        return int(sent) if is_number else sent.decode(self._encoding)


class Trip:
    """`async with Trip(db) as trip:` sends what was asked within when it ends, and waits for all of it.

    The first statement that fails is raised, and those behind it are not done. Where the body fails, nothing is sent.
    """

    def __init__(self, db: Db) -> None:
        self._db = db
        self._encoding = db.info.encoding
        self._asked: list[tuple[str, list[bytes | None], list[int], Answer]] = []

    def ask(self, sql: str, values: Sequence[Any] = ()) -> Answer:
        """Have the statement done after those before it. Its values stand where it has %s: texts, numbers, None, and
        lists of them or of bytes.
        """
        answer, sent = Answer(), [_sent(value, self._encoding) for value in values]
        self._asked.append((sql, [value for value, _ in sent], [form for _, form in sent], answer))
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._asked:
            await self._db.wait(self._made())

    def _made(self) -> PQGen[None]:
        pgconn = self._db.pgconn
        pgconn.enter_pipeline_mode()
        try:
            new = self._send(pgconn)
            yield from send(pgconn)
            yield from self._answered(pgconn, new)
        finally:
            _leave(pgconn)

    def _send(self, pgconn: PGconn) -> dict[str, bytes]:
        """Hand everything to libpq; return the names of the statements that are prepared with it."""
        new = dict[str, bytes]()
        for sql, values, forms, _ in self._asked:
            name = self._db.prepared.get(sql) or new.get(sql)
            if name is None:
                name = new[sql] = next(self._db.names).encode()
                pgconn.send_prepare(name, _numbered(sql))
            pgconn.send_query_prepared(name, values, forms)
        pgconn.pipeline_sync()
        return new

    def _answered(self, pgconn: PGconn, new: dict[str, bytes]) -> PQGen[None]:
        failed: psycopg.Error | None = None
        try:
            for sql, _, _, answer in self._asked:
                if sql in new:
                    result = yield from _next(pgconn)
                    failed = failed or self._failure(result)
                    if result.status == ExecStatus.COMMAND_OK:
                        self._db.prepared[sql] = new.pop(sql)
                    else:
                        new.pop(sql)
                result = yield from _next(pgconn)
                failed = failed or self._failure(result)
                answer.came(result, self._encoding)
            yield from _next(pgconn)
        except psycopg.Error as error:
            raise failed or error from None
        if failed:
            raise failed

    def _failure(self, result: PGresult) -> psycopg.Error | None:
        if result.status == ExecStatus.FATAL_ERROR:
            return psycopg.errors.error_from_result(result, encoding=self._encoding)
        return None


def _next(pgconn: PGconn) -> PQGen[PGresult]:
    results: list[PGresult] = yield from fetch_many(pgconn)
    if not results:
        raise psycopg.OperationalError("the connection was lost")
    return results[0]


def _leave(pgconn: PGconn) -> None:
    """Leave the pipeline; a connection that has more to say is of no use any longer."""
    if pgconn.status == ConnStatus.OK:
        try:
            pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            pgconn.finish()


@lru_cache(maxsize=1000)
def _numbered(sql: str) -> bytes:
    """Return the statement as the server reads it, with $1 for the first %s."""
    count = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(count)}", sql).encode()


def _sent(value: Any, encoding: str) -> tuple[bytes | None, int]:
    """Return the value as it is sent, and in which format."""
    if isinstance(value, list):
        value = array(value)
    if value is None:
        return None, TEXT
    if isinstance(value, str):
        return value.encode(encoding), TEXT
    if isinstance(value, int):
        return b"%d" % value, TEXT
    parts = [struct.pack(">i", -1) if one is None else struct.pack(">i", len(one)) + one for one in value]
    return struct.pack(">iiiii", 1, 1, BYTEA, len(value), 1) + b"".join(parts), BINARY
