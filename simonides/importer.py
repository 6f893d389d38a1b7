"""Reads what other programs kept. An importer is one module in `importers/`; it is found by listing the folder.

To add one, add a file with `recognises` and `read`. Records get ids made of what they are (`stable_id`), so that
reading the same file twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .record import Record, Scope


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read; the rest of the file was."""

    file: str
    line: int | None  # counted from 1; None: the file as a whole, or its format has no lines
    message: str

    def __str__(self) -> str:
        return f"{self.file}{f':{self.line}' if self.line else ''}: {self.message}"


class Importer(Protocol):
    name: str  # for people: "ChatGPT export"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether this file, beginning with `head` (at most 64 KiB, decompressed), is of this format."""
        ...

    def read(self, path: Path, scope: Scope) -> Iterator[Record | Problem]:
        """Yield a conversation before its messages, and messages in their order."""
        ...
