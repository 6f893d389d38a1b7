"""Files of a data set, value by value, in the shape that they should have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import Damaged
from ..importer import Problem
from ..importers.archive import members
from ..importers.elements import elements

T = TypeVar("T")


def values(path: Path, shape: type[T]) -> Iterator[T]:
    """Yield the values that the file lists, or that follow one another in it. Raise Damaged where one is broken."""
    try:
        for member in members(path):
            for element in elements(member.name, member.blocks):
                if isinstance(element, Problem):
                    raise Damaged(str(element))
                yield shaped(element.value, shape, f"{member.name}:{element.line}")
    except Damaged as error:
        raise Damaged(f"{path}: {error}") if str(path) not in str(error) else error from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror or error}") from error


def shaped(value: Any, shape: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise Damaged(f"{where}: is not what it should be: {error}") from None
