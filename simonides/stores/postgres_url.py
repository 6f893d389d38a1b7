"""What the URL of a store on PostgreSQL says: our own parameters, and what libpq is told.

`postgresql://user@host1,host2/database?schema=simonides&partitions=16&pool=8&durability=full` and whatever libpq knows
(sslmode, sslrootcert, sslcert, sslkey, target_session_attrs, connect_timeout, options, …). Beyond this machine TLS is
asked for and the server's certificate checked (`sslmode=verify-full`), unless the URL or PGSSLMODE says otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import Invalid

PARTITIONS_MAX, POOL_MAX = 1024, 1000
LOOPBACK = ("", "localhost", "127.0.0.1", "::1")

# What a connection is told where the URL does not say otherwise; seconds, and milliseconds for tcp_user_timeout.
PATIENCE: Mapping[str, str] = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "application_name": "simonides",
}


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a store is. `conninfo` may hold a password: `place` is what may be shown."""

    conninfo: str
    place: str
    schema: str = "simonides"
    partitions: int = 16
    pool: int = 8
    durability: str = "full"


def parsed(url: str) -> Address:
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in ("schema", "partitions", "pool", "durability")}
    theirs = [(name, value) for name, value in given if name not in ours]
    try:
        told: dict[str, Any] = conninfo_to_dict(urlunsplit(parts._replace(query=urlencode(theirs), fragment="")))
    except psycopg.ProgrammingError as error:
        raise Invalid(f"the URL of the PostgreSQL store cannot be read: {str(error).strip()}") from None
    hosts = [str(told.get(name) or "") for name in ("host", "hostaddr") if told.get(name)] or [""]
    every = [host for several in hosts for host in several.split(",")]
    if not all(host in LOOPBACK or host.startswith(("/", "@")) for host in every):
        _check_certificates(told)
    conninfo = make_conninfo(**(dict(PATIENCE) | {name: str(value) for name, value in told.items()}))
    place = (
        f"{hosts[0] or 'this machine'}:{told.get('port') or 5432}, database {told.get('dbname') or told.get('user')}"
    )
    return Address(
        conninfo=conninfo,
        place=place,
        schema=_name(ours.get("schema", "simonides")),
        partitions=_number("partitions", ours.get("partitions", "16"), PARTITIONS_MAX),
        pool=_number("pool", ours.get("pool", "8"), POOL_MAX),
        durability=_one_of("durability", ours.get("durability", "full"), ("full", "normal")),
    )


def _check_certificates(told: dict[str, Any]) -> None:
    if "sslmode" in told or os.environ.get("PGSSLMODE"):
        return
    told["sslmode"] = "verify-full"
    if "sslrootcert" not in told and not os.environ.get("PGSSLROOTCERT"):
        told["sslrootcert"] = "system"


def _name(schema: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema) or schema.startswith("pg_"):
        raise Invalid(
            f"schema={schema!r}: write a name of small letters, digits and _, not beginning with a digit or pg_"
        )
    return schema


def _number(name: str, given: str, most: int) -> int:
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= most:
        raise Invalid(f"{name}={given!r}: write a number from 1 to {most}")
    return int(given)


def _one_of(name: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise Invalid(f"{name}={given!r}: write {' or '.join(known)}")
    return given
