"""pgvector used by hand, as its client would: a table of texts and vectors, and one that is searched by words, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import texts
from clusters import Clustered
from vectors import DIMENSION

from simonides.indexes.pgvector import Half

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True)
class Way:
    """A table, its indexes, and the statement that finds ten texts in it."""

    table: str
    columns: str
    indexes: tuple[str, ...]
    sql: str


VECTORS = Way(
    "raw_vectors",
    f"id bigserial PRIMARY KEY, body text, v halfvec({DIMENSION})",
    ("hnsw (v halfvec_ip_ops)",),
    "SELECT id, body FROM raw_vectors ORDER BY v <#> %(vector)s::halfvec LIMIT 10",
)
# The hundred best by words and the hundred nearest, fused by reciprocal rank (Cormack et al., 2009).
BOTH = Way(
    "raw_both",
    f"{VECTORS.columns}, said tsvector GENERATED ALWAYS AS (to_tsvector('english', body)) STORED",
    (*VECTORS.indexes, "gin (said)"),
    """
    WITH said AS (
        SELECT id, ts_rank(said, asked) AS score
        FROM raw_both, websearch_to_tsquery('english', %(words)s) asked WHERE said @@ asked
        ORDER BY score DESC LIMIT 100
    ), near AS (
        SELECT id, v <#> %(vector)s::halfvec AS far FROM raw_both ORDER BY v <#> %(vector)s::halfvec LIMIT 100
    ), ranked AS (
        SELECT id, row_number() OVER (ORDER BY score DESC) AS place FROM said
        UNION ALL
        SELECT id, row_number() OVER (ORDER BY far) FROM near
    ), best AS (SELECT id, sum(1.0 / (60 + place)) AS score FROM ranked GROUP BY id ORDER BY score DESC LIMIT 10)
    SELECT id, body FROM best JOIN raw_both USING (id) ORDER BY score DESC
    """,
)


class Raw:
    def __init__(self, db: Connection, embedder: Clustered, way: Way) -> None:
        self._db, self._embedder, self._way = db, embedder, way
        self._insert = f"INSERT INTO {way.table} (body, v) VALUES (%s, %s::halfvec)".encode()

    async def fill(self, size: int) -> None:
        """Put in the texts, and then make the indexes."""
        way = self._way
        await self._db.execute(f"CREATE TABLE {way.table} ({way.columns})".encode())
        for number in range(size // texts.THOUSAND):
            some = texts.thousand(number)
            rows = [(text, Half(vector)) for text, vector in zip(some, self._embedder.vectors(some), strict=True)]
            async with self._db.cursor() as cursor, self._db.transaction():
                await cursor.executemany(self._insert, rows)
        await self._db.execute(b"SET maintenance_work_mem = '1GB'")
        for index in way.indexes:
            await self._db.execute(f"CREATE INDEX ON {way.table} USING {index}".encode())
        await self._db.execute(b"SET hnsw.ef_search = 160")
        await self._db.execute(f"ANALYZE {way.table}".encode())

    async def recall(self, text: str) -> list[str]:
        [vector] = await self._embedder.embed([text], query=True)
        asked = {"vector": Half(vector), "words": " or ".join(text.split())}
        found = await self._db.execute(self._way.sql.encode(), asked, prepare=True, binary=True)
        return [body for _, body in await found.fetchall()]

    async def add(self, text: str) -> None:
        [vector] = await self._embedder.embed([text])
        await self._db.execute(self._insert, [text, Half(vector)], prepare=True, binary=True)
