"""What the URL of a store on PostgreSQL says beside what libpq is told (`postgresql.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import Invalid
from ..postgresql import Place
from ..postgresql import parsed as place_of

OWN = {"partitions": "16", "pool": "8", "durability": "full"}
PARTITIONS_MAX, POOL_MAX = 1024, 1000

# How soon a connection that leads nowhere is noticed, unless the URL says otherwise; in seconds, the last one in ms.
PATIENCE: Mapping[str, str] = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, and how. `place` prints without a password; `conninfo` has it."""

    place: Place
    conninfo: str
    partitions: int
    pool: int
    durability: str

    @property
    def schema(self) -> str:
        return self.place.schema


def parsed(url: str) -> Address:
    place = place_of(url, "simonides", OWN)
    told = {name: value for name, value in conninfo_to_dict(place.conninfo).items() if value is not None}
    durability = place.options["durability"]
    if durability not in ("full", "normal"):
        raise Invalid(f"durability={durability!r}: write full or normal")
    return Address(
        place=place,
        conninfo=make_conninfo("", **{**PATIENCE, **told}),
        partitions=_number("partitions", place.options["partitions"], PARTITIONS_MAX),
        pool=_number("pool", place.options["pool"], POOL_MAX),
        durability=durability,
    )


def _number(name: str, given: str, most: int) -> int:
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= most):
        raise Invalid(f"{name}={given!r}: write a number from 1 to {most}")
    return int(given)
