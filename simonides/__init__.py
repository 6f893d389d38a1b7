"""Memory for AI systems: keeps what was said, finds what matters, corrects itself, and forgets provably.

    from simonides import Memory

    memory = Memory("me.db")
    memory.remember("I moved to Lisbon in May", user="me")
    for hit in memory.recall("where do I live?", user="me"):
        print(hit)

`AsyncMemory` is the same for code that awaits.
"""

from .errors import Conflict, Damaged, Forbidden, Full, Invalid, NotFound, SimonidesError, Unavailable
from .kinds import Chunk, Conversation, Document, Entity, Fact, Message, Note
from .memory import AsyncMemory
from .query import Hit, Place
from .record import Link, Record, Scope, Span
from .sync import Memory
from .version import VERSION

__version__ = VERSION

__all__ = [
    "AsyncMemory",
    "Chunk",
    "Conflict",
    "Conversation",
    "Damaged",
    "Document",
    "Entity",
    "Fact",
    "Forbidden",
    "Full",
    "Hit",
    "Invalid",
    "Link",
    "Memory",
    "Message",
    "NotFound",
    "Note",
    "Place",
    "Record",
    "Scope",
    "SimonidesError",
    "Span",
    "Unavailable",
]
