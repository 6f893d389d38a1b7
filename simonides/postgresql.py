"""How PostgreSQL is reached: what a URL says, a pool of connections, TLS, and its errors as ours.

A URL is as libpq has it, several hosts, certificates and all, whatever its scheme: `postgres://me@db.example.com/memory`.
Beyond this machine the server has to prove who it is: unless the URL or the environment says otherwise, `sslmode` is
`verify-full`, by the certificates that the system trusts, or those in `~/.postgresql/root.crt` where there are any.

Whoever stands on this is naive: it says what it wants done with a connection, and `Pool.run` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

from .errors import Damaged, Full, Invalid, SimonidesError, Unavailable

try:
    import psycopg
    from psycopg import errors as pg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
except ImportError as error:  # pragma: no cover - of an installation without it
    raise Unavailable("PostgreSQL needs what is not installed: pip install 'simonides[postgres]'") from error

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")

CONNECT_S = 10  # how long one host may take to answer, unless the URL says connect_timeout
WAIT_S = 10.0  # how long a call waits for a connection
CONNECTIONS = 8  # of one pool at most
IDENTIFIER_MAX = 63  # bytes of a name in PostgreSQL; a longer one is cut without a word


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """Where a URL leads: what libpq is told, the schema, and the options that are the backend's own."""

    conninfo: str
    schema: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        """Name it as an error may: without its password."""
        told = conninfo_to_dict(self.conninfo)
        host, port = told.get("host") or "this machine", told.get("port")
        return f"{host}{f':{port}' if port else ''}/{told.get('dbname') or ''}"

    __repr__ = __str__

    @property
    def database(self) -> str:
        return str(conninfo_to_dict(self.conninfo).get("dbname") or "")


def parsed(url: str, schema: str, own: Mapping[str, str] | None = None) -> Place:
    """Return where the URL leads. `own` are the backend's own options with what they are where none is given.

    Raise Invalid for what cannot be, without repeating a password.
    """
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    schema = given.pop("schema", schema)
    if not schema or len(schema.encode()) > IDENTIFIER_MAX or "\0" in schema or schema.startswith("pg_"):
        raise Invalid(f"{schema!r} cannot be a schema: it has 1 to {IDENTIFIER_MAX} bytes and does not begin with pg_")
    options = {name: given.pop(name, default) for name, default in (own or {}).items()}
    try:
        told = conninfo_to_dict(f"postgresql://{path}{'?' if given else ''}{urlencode(given)}")
    except psycopg.ProgrammingError as error:
        said = str(error).strip() if "invalid URI query parameter" in str(error) else "as libpq has it"
        raise Invalid(f"not a URL of PostgreSQL: write {scheme}://user@host/database ({said})") from None
    return Place(make_conninfo(**_careful(told)), schema, options)


def _careful(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what libpq is told with what is left unsaid: TLS that is verified, a name, and an end to waiting."""
    made = {"connect_timeout": str(CONNECT_S), "application_name": "simonides"} | dict(told)
    hosts = str(told.get("host") or os.environ.get("PGHOST") or "").split(",")
    if "sslmode" not in told and "PGSSLMODE" not in os.environ and not all(map(_is_here, hosts)):
        made["sslmode"] = "verify-full"
    strict = made.get("sslmode") in ("verify-full", "verify-ca")
    if strict and "sslrootcert" not in told and "PGSSLROOTCERT" not in os.environ:
        own = Path("~/.postgresql/root.crt").expanduser()
        made["sslrootcert"] = str(own) if own.exists() else "system"
    return made


def _is_here(host: str) -> bool:
    """Whether the host is this machine: nothing, a folder with a socket, or an address of its own."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"{}"'.format(name.replace('"', '""'))


class Pool:
    """Connections to one place, opened when first needed; each is in the schema, and commits by itself.

    `prepare` is run once, on a connection of its own, before anything else: what it raises is raised by whoever came
    first, and tried again by whoever comes next. `settings` are set on each connection.
    """

    def __init__(
        self,
        place: Place,
        prepare: Callable[[Connection], Awaitable[None]],
        *,
        settings: Mapping[str, str] | None = None,
        size: int = CONNECTIONS,
    ) -> None:
        self.path = ""  # of further schemas, as `prepare` may find out: ", public"
        self._place, self._prepare, self._size = place, prepare, size
        self._settings = dict(settings or {})
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do the work and return what it returns; raise errors of ours.

        Where a connection turns out to be dead, as after a restart of the server, it is done once more on another: so
        the work is such as may be done twice.
        """
        pool = self._pool or await self._opened()
        with translating(self._place):
            async with pool.connection(WAIT_S) as connection:
                try:
                    return await work(connection)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    if not connection.closed:
                        raise
            await pool.check()
            async with pool.connection(WAIT_S) as connection:
                return await work(connection)

    async def _opened(self) -> AsyncConnectionPool[Connection]:
        async with self._opening:
            if self._closed:
                raise Invalid("this is closed")
            if self._pool is None:
                with translating(self._place):
                    async with await connected(self._place) as connection:
                        await self._prepare(connection)
                    self._pool = await self._filled()
            return self._pool

    async def _filled(self) -> AsyncConnectionPool[Connection]:
        pool = AsyncConnectionPool(
            self._place.conninfo,
            connection_class=cast("type[Connection]", psycopg.AsyncConnection),
            kwargs={"autocommit": True},
            min_size=1,
            max_size=self._size,
            open=False,
            configure=self._configure,
            timeout=WAIT_S,
            name="simonides",
        )
        try:
            await pool.open(wait=True, timeout=WAIT_S)
        except BaseException:
            await pool.close()
            raise
        return pool

    async def _configure(self, connection: Connection) -> None:
        settings = {"search_path": f"{quoted(self._place.schema)}{self.path}"} | self._settings
        names = ", ".join("set_config(%s, %s, false)" for _ in settings)
        await connection.execute(f"SELECT {names}".encode(), [part for each in settings.items() for part in each])

    async def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()


async def connected(place: Place) -> Connection:
    """Return a connection that is in no pool; whoever opened it closes it."""
    return await psycopg.AsyncConnection.connect(place.conninfo, autocommit=True)


async def make_schema(db: Connection, place: Place, mark: str) -> bool:
    """Make the schema where it is not there, and go on in it; return whether its tables are still to be made.

    A schema is ours if it has the table `mark`; Invalid where another program has tables there.
    """
    sql = b"""SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %(name)s),
        EXISTS (SELECT FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(name)s),
        to_regclass(%(mark)s) IS NOT NULL"""
    asked = {"name": place.schema, "mark": f"{quoted(place.schema)}.{quoted(mark)}"}
    there, used, ours = await (await db.execute(sql, asked)).fetchone() or (False, False, False)
    if used and not ours:
        raise Invalid(f"the schema {place.schema} of {place} is another program's: name another with schema=")
    if not there:
        await db.execute(f"CREATE SCHEMA {quoted(place.schema)}".encode())
    await db.execute(b"SELECT set_config('search_path', %s, true)", [quoted(place.schema)])
    return not ours


@contextlib.contextmanager
def translating(place: Place) -> Iterator[None]:
    """Raise errors of ours for those of PostgreSQL."""
    try:
        yield
    except psycopg.Error as error:
        ours = translated(error, place)
        if ours is error:
            raise
        raise ours from error


def translated(error: Exception, place: Place) -> Exception:
    """Return the error of our own tree that this is. What only a mistake in our SQL can be passes as it is."""
    said = " ".join(str(error).split())
    match error:
        case SimonidesError():
            return error
        case pg.DiskFull():
            return Full(f"the disk of PostgreSQL at {place} is full: nothing of this call was kept")
        case pg.InsufficientPrivilege() | pg.InvalidAuthorizationSpecification():
            return Unavailable(f"PostgreSQL at {place} does not let this role do that: {said}")
        case pg.DataCorrupted() | pg.IndexCorrupted():
            return Damaged(f"PostgreSQL at {place} says that its files are damaged: {said}")
        case pg.ReadOnlySqlTransaction():
            return Unavailable(f"PostgreSQL at {place} is a replica, which takes no writes: {said}")
        case PoolTimeout():
            return Unavailable(f"PostgreSQL at {place} did not answer within {WAIT_S:g} seconds")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return Unavailable(f"PostgreSQL at {place} did not answer: {said}")
    return error
