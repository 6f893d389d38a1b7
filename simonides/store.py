"""Where records live. The truth is here; every index can be rebuilt from it.

To add a store, add one file to `stores/` and run the suite in `testing/stores/` against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .errors import Conflict, Invalid
from .query import Query
from .record import Record, Ref, Scope

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vectors of one version of a record: one for each part of its text, shape (parts, dimension), unit length.

    `tokens` is what its tokens mean (see `tokens.pack`), for weighing it against a question; empty where the embedder
    does not say.
    """

    ref: Ref
    version: int
    model: str
    vectors: NDArray[np.float32]
    tokens: bytes = b""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What an erase took away, and from where; it holds nothing of what was erased but ids."""

    id: str
    at: datetime
    scope: Scope
    ids: tuple[str, ...]
    derived: tuple[str, ...]  # of those ids, the ones that went because they were derived from the others alone
    places: Mapping[str, int]  # e.g. {"records": 3, "versions": 4, "words": 4, "vectors": 4, "exports": 1}
    method: str  # how the bytes were removed

    @property
    def count(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A follower's place in the log: it moves from `was` to `now`, and only if it still is at `was`."""

    name: str
    was: int
    now: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A change that a follower could not follow, put aside so that it does not keep the follower from what comes after.

    `tries` counts how often it was tried; 0: somebody asked for it to be tried again. `error` says what went wrong in
    words of ours, and holds no text of a record.
    """

    follower: str
    change: Change
    tries: int
    at: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What is written together, or not at all.

    `put` writes a version that is believed from now on. `restore` writes a version with the clocks it had elsewhere (an
    export read back); versions of one id come in order. An embedding whose record or version is gone by then, or which
    is there already, is left out silently: the log will say so to its follower. So is a letter about a record that was
    erased by then.

    `log` is for a copy of another store: its lines, with the numbers and times they had there. What the batch restores
    and erases leaves no lines of its own then, these are written in their place; see `check_log`. A line of an erase
    notes its record as not certified, as an erase does, and the line of a certificate ends that.

    `followed` names followers that have nothing left to do about the lines of this batch, because it holds what they
    make of them. One whose place is the line just before these goes on to the last of them, in the same transaction;
    one that is anywhere else, or has not begun, stays where it is and reads them later.
    """

    put: tuple[Record, ...] = ()
    restore: tuple[Record, ...] = ()
    erase: tuple[Ref, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    certificate: Certificate | None = None
    letters: tuple[Letter, ...] = ()  # each takes the place of the one of its follower and line that is there
    answered: tuple[tuple[str, int], ...] = ()  # follower and line of letters that go
    log: tuple[Change, ...] = ()
    followed: tuple[str, ...] = ()

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            self.put + other.put,
            self.restore + other.restore,
            self.erase + other.erase,
            self.embeddings + other.embeddings,
            self.certificate or other.certificate,
            self.letters + other.letters,
            self.answered + other.answered,
            self.log + other.log,
            self.followed + other.followed,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the log: the outbox, the audit trail and what followers read are this."""

    seq: int
    at: datetime
    id: str
    version: int  # 0: erased
    kind: str  # "certificate" for the line that an erase leaves behind; its `note` is the certificate
    scope: Scope
    note: Mapping[str, Any] | None = None

    @property
    def ref(self) -> Ref:
        return Ref(*self.scope.realm, self.id)


class Lines(list[Change]):
    """The lines of the log that a commit wrote. `followed`: those of the batch's `followed` that went on with them."""

    def __init__(self, lines: Iterable[Change] = (), followed: Iterable[str] = ()) -> None:
        super().__init__(lines)
        self.followed = frozenset(followed)


def check_log(batch: Batch, head: int) -> None:
    """Raise Conflict where the lines of another store's log do not go on after this one's last, and Invalid where the
    batch writes what none of them speaks of.
    """
    if not batch.log:
        return
    numbers = [line.seq for line in batch.log]
    if numbers != list(range(head + 1, head + 1 + len(numbers))):
        raise Conflict(f"the log goes on with line {head + 1}, and not with {numbers[0]} to {numbers[-1]}")
    named = {(line.ref, line.version) for line in batch.log}
    written = {(record.ref, record.version) for record in batch.restore} | {(ref, 0) for ref in batch.erase}
    if batch.put or batch.certificate or not written <= named:
        raise Invalid("what is written with the lines of another store's log is what they speak of, and nothing else")


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the vectors of one realm and model reach: `slots` were ever given, `holes` of them were emptied."""

    group: int  # names the realm and model among those of the store, never used twice
    slots: int
    holes: int


@dataclass(frozen=True, slots=True)
class Health:
    """What a check found: an empty list of complaints is a healthy store."""

    complaints: tuple[str, ...]
    counts: Mapping[str, int]


@runtime_checkable
class Pooled(Protocol):
    """A store that reads by several connections at once."""

    @property
    def connections(self) -> tuple[int, int]:
        """Return how many are at work now, and how many are open and wait for work."""
        ...


class Store(Protocol):
    """All methods may be called at once, from any task; none blocks the event loop."""

    identity: str  # made with the store, never changes: tells its files from another store's
    folder: str | None  # where files beside it may live; None: nowhere

    async def commit(self, batch: Batch, *, cursor: Cursor | None = None) -> Lines:
        """Write the batch, its lines of the log, and a follower's new place, in one transaction.

        A record whose version is already there with the same content is left alone, without a line in the log.
        Raise Conflict where that version has other content, where it is not the next one, where it has another scope
        than those before it, where a live key is taken (by a record whose latest version has not ended), or where the
        cursor has moved; then nothing was written. What is put, restored, erased and embedded is done in this order;
        then the letters go that were answered, the new ones come, and who has `followed` goes on.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Store]:
        """Give this store as it is now, to be read at leisure: what is written meanwhile is not in its answers.

        Writers go on; to write to the snapshot is Invalid. It is closed by leaving it.
        """
        ...

    async def find(self, query: Query) -> list[Record]:
        """Return the records that match, in the order asked for, at most `query.limit`.

        With `after`, only those that `Query.comes_after` says stand behind it, whether or not a record is there still.
        """
        ...

    async def count(self, query: Query) -> int:
        """Return how many match, whatever `after` and `limit` say."""
        ...

    async def around(self, query: Query, records: Sequence[Record]) -> list[tuple[Record | None, Record | None]]:
        """Return, for each record, the one before and the one after it in the whole that it is part of, by when it was
        said; only such as match, so that None may also stand for one that does not.

        What the query says of the asking does not narrow what stands around: its `ids`, `newest`, `after` and `limit`.
        So the query that found a record by its id finds what is beside it.
        """
        ...

    async def words(self, query: Query, text: str) -> list[tuple[Record, float]]:
        """Return the matching records that share words with the text, with a score above 0, best first.

        Any text may be asked for: operators, quotes and emoji are just text. Very common words may be passed over.
        """
        ...

    async def spread(self, scope: Scope, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        """Return how many versions the realm has, and about how many of them hold each term (see `words.terms`)."""
        ...

    async def changes(self, *, after: int = 0, limit: int = 100, erases: bool = False) -> list[Change]:
        """Return the log's lines after that one, in order; with `erases` only those without a version: of what was
        erased, and certificates. The others are then passed over where they lie, at a small part of what reading costs.
        """
        ...

    async def head(self, scope: Scope | None = None) -> int:
        """Return the number of the log's last line; 0 while there is none. With a scope, of the last line that is about
        its realm: of its walls alone, whatever levels it names.

        It is asked before every recall, and sees what any process has written; whatever is read after it shows at least
        that. Where nothing was written, it costs next to nothing, and never a search through the log.
        """
        ...

    async def grown(self, after: int, wait_s: float) -> int:
        """Return the number of the log's last line as soon as it is beyond `after`, whoever writes; or as it is when so
        many seconds are over.

        What is written through this store ends the wait at once, and what another process writes ends it soon: the
        store looks, or is told (see `growth.py`). Closing the store ends it with Invalid.
        """
        ...

    async def cursor(self, name: str) -> int:
        """Return how far the named follower has read; 0 if it never did."""
        ...

    async def cursors(self, prefix: str) -> dict[str, int]:
        """Return the places of all followers whose names begin so; those at 0 are as if they never were."""
        ...

    async def letters(self, follower: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        """Return the letters of that follower, or of all, about lines of the log behind `after`, by line and follower.

        An erase of a record takes its letters with it.
        """
        ...

    async def extent(self, scope: Scope, model: str) -> Extent:
        """Return how far the vectors of this realm and model reach.

        A vector's slot is its number, from 0 in the order of writing. Slots are never used twice; what sits in one
        never changes but to a hole, when it is erased.
        """
        ...

    async def vectors(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, bytes]]:
        """Return (slot, vector as little-endian half floats) from that slot on, holes left out, in order."""
        ...

    async def embedded(self, scope: Scope, model: str, *, start: int, limit: int) -> list[tuple[int, Embedding]]:
        """Return (first slot, embedding) of the next `limit` versions that have vectors, in the order of slots.

        `start` is 0, or the slot after the last one of an embedding.
        """
        ...

    async def holes(self, scope: Scope, model: str, *, after: int) -> list[int]:
        """Return the slots emptied, in the order they were, the first `after` of them left out."""
        ...

    async def slots(self, query: Query, model: str, *, start: int = 0, limit: int | None = None) -> NDArray[np.int64]:
        """Return the slots, ascending from `start`, of the versions that match."""
        ...

    async def owners(self, query: Query, model: str, slots: Sequence[int]) -> list[tuple[int, Record, bytes]]:
        """Return (slot, record, vector) for those of the slots whose record matches, in any order.

        A record of several of the slots is one and the same object: it is read once.
        """
        ...

    async def tokens(self, scope: Scope, model: str, which: Sequence[tuple[str, int]]) -> list[bytes]:
        """Return the tokens that this model embedded of each of these (id, version); empty where there are none."""
        ...

    async def recalled(self, last: Mapping[Ref, datetime]) -> None:
        """Note when these records were last recalled, each of them as a whole; the later time stays.

        It is no version and no line of the log, and an erase takes it away. A record that is not there is passed over.
        """
        ...

    async def recalls(self, scope: Scope, ids: Sequence[str]) -> dict[str, datetime]:
        """Return when each of these was last recalled; what never was is left out."""
        ...

    async def last_recalls(self, scope: Scope, *, after: str = "", limit: int = 1000) -> list[tuple[str, datetime]]:
        """Return (id, when it was last recalled) of the realm's records behind that id, in the order of ids."""
        ...

    async def models(self, scope: Scope | None = None) -> dict[str, int]:
        """Return how many vectors each model has here."""
        ...

    async def drop_model(self, model: str, *, limit: int | None = None) -> int:
        """Remove every vector of a model, with its tokens; return how many.

        With a `limit` stop after the version with which so many are removed; fewer are only where none is left.
        """
        ...

    async def realms(self) -> list[Scope]:
        """Return every tenant and space that holds or held something."""
        ...

    async def scrub(self, erased: Sequence[str] = ()) -> Mapping[str, Any]:
        """See to it that no byte of what was erased remains in any file of this store; say how.

        `erased` are samples of the erased texts, so that the store can prove it on its own bytes.
        """
        ...

    async def unfinished(self) -> list[Ref]:
        """Return what was erased and is not certified yet: an erase is going on, or was cut off."""
        ...

    async def rebuild(self) -> None:
        """Make everything that is derived inside the store (the words) again from the records, and remove what belongs
        to none; then nothing is left of what `check` says to rebuild for.
        """
        ...

    async def counts(self) -> dict[str, int]:
        """Return how much there is: records (live), versions, vectors, changes, and live records of each kind."""
        ...

    async def check(self) -> Health:
        """Look the whole store over: the file, and the log, the words and the vectors against the records.

        Each complaint says what to do.
        """
        ...

    async def close(self) -> None: ...
