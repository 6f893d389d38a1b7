"""What can be asked of a memory from outside, each thing once. Every door walks this table."""

from __future__ import annotations

from . import conversations, following, memories, people, pruning, recalling, system, upkeep
from .operation import PREFIX, Call, Desk, Operation

OPERATIONS: dict[str, Operation] = {
    row.name: row
    for part in (memories, recalling, conversations, pruning, upkeep, following, people, system)
    for row in part.ROWS
}

__all__ = ["OPERATIONS", "PREFIX", "Call", "Desk", "Operation"]
