"""Our own export. What it yields are versions with the clocks they had: restore them, do not write them anew.

Only what the scope sees is yielded. An export of several spaces is read once for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import Damaged
from ..exports import is_header, parse
from ..importer import Problem
from ..record import Record, Scope
from .archive import members, shown
from .elements import ELEMENT_MAX

name = "Simonides export"


def recognises(path: Path, head: bytes) -> bool:
    return is_header(head.partition(b"\n")[0])


def read(path: Path, scope: Scope) -> Iterator[Record | Problem]:
    hidden: dict[tuple[str, str], int] = {}
    try:
        for member in members(path):
            for found in parse(member.name, _lines(member.blocks)):
                if isinstance(found, Problem) or scope.sees(found.scope, shared=False):
                    yield found
                else:
                    hidden[found.scope.realm] = hidden.get(found.scope.realm, 0) + 1
    except Damaged as error:
        yield Problem(shown(path), None, str(error))
    except OSError as error:
        yield Problem(shown(path), None, f"cannot be read: {error.strerror or error}")
    for realm, count in hidden.items():
        yield Problem(shown(path), None, _left_out(realm, count, scope))


def _left_out(realm: tuple[str, str], count: int, scope: Scope) -> str:
    tenant, space = realm
    versions = f"{count} version{'s' if count > 1 else ''} of tenant {tenant!r}, space {space!r}"
    why = "belongs to others than were named" if realm == scope.realm else "can be imported with these named"
    return f"{versions} left out: {why}"


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without their ends, the last one too when the blocks break off."""
    pending: list[bytes] = []
    broken: Damaged | None = None
    try:
        for block in blocks:
            *whole, rest = block.split(b"\n")
            for line in whole:
                yield b"".join([*pending, line])
                pending = []
            pending.append(rest)
            if sum(map(len, pending)) > ELEMENT_MAX:
                raise Damaged(f"a line is longer than {ELEMENT_MAX // 1024**2} MiB")
    except Damaged as error:
        broken = error
    if any(pending):
        yield b"".join(pending)
    if broken:
        raise broken
