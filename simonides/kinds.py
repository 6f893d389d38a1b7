"""The kinds of record. To add one, add a class here: storage, search and every door follow."""

from __future__ import annotations

from dataclasses import dataclass

from .record import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation(Body):
    """A whole that messages are part of; its text is its title. `session` is the name its owner knows it by."""

    session: str = ""

    @property
    def key(self) -> str | None:
        return self.session or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Body):
    """One turn of a conversation. `role` is user, assistant, system or tool; `name` is the speaker's, if known."""

    role: str = "user"
    name: str | None = None

    @property
    def who(self) -> str:
        return self.name or self.role


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Body):
    """Something to remember that nobody said in a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Body):
    """A statement held true for a time. Linked subject → object, it is an edge of the graph."""

    predicate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity(Body):
    """Somebody or something that facts are about."""

    name: str
    type: str = "thing"

    @property
    def key(self) -> str:
        return f"{self.type}:{self.name.casefold()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Body):
    """A file that was read: its name, and the digest of its bytes. Its chunks are what is searched."""

    name: str
    digest: str
    media_type: str = "text/plain"

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Body):
    """A passage of a document; `place` is where in it (a heading, a page, a line)."""

    place: str = ""

    @property
    def who(self) -> str | None:
        return self.place or None


KINDS: dict[str, type[Body]] = {cls.__name__.lower(): cls for cls in Body.__subclasses__()}
