"""What commits that are written together come to, worked out before anything is written: pure, and without SQL.

`Known` is what the store holds of all that the commits name, read under the locks of their realms. `Plan.take` takes
one commit after another; one that conflicts leaves no trace in the plan, and the others go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from ..errors import Conflict, Invalid
from ..record import TICK, Record, Ref, Scope, Span
from ..store import Batch, Change, Cursor, Embedding, Letter, check_log
from . import rows

Walls = tuple[str, str]
Owner = tuple[str, str, str]
Name = tuple[Walls, str, str, Owner]  # a natural name: where, of which kind, the key, whose


@dataclass(frozen=True, slots=True)
class Last:
    """The latest version of a record, as far as writing needs it; times as in the tables."""

    version: int
    row: int
    owner: Owner
    kind: str
    key: str | None
    known_since: int
    known_until: int | None
    valid_until: int | None

    def name(self, walls: Walls) -> Name | None:
        return None if self.key is None or self.known_until is not None else (walls, self.kind, self.key, self.owner)


@dataclass(frozen=True, slots=True)
class Group:
    number: int
    dimension: int
    slots: int
    new: bool = False


@dataclass(slots=True)
class Known:
    """What is there. `realms` has the number of each, `new_realms` numbers to give to those that are not there yet."""

    realms: dict[Walls, int] = field(default_factory=dict)
    new_realms: dict[Walls, int] = field(default_factory=dict)
    last: dict[Ref, Last] = field(default_factory=dict)
    contents: dict[tuple[Ref, int], Record] = field(default_factory=dict)
    bearers: dict[Name, dict[str, Last]] = field(default_factory=dict)
    stored: dict[Ref, list[tuple[int, Record]]] = field(default_factory=dict)  # of what is to be erased, every version
    rows: dict[tuple[Ref, int], int] = field(default_factory=dict)  # of what is to be embedded
    groups: dict[tuple[Walls, str], Group] = field(default_factory=dict)
    new_groups: dict[tuple[Walls, str], int] = field(default_factory=dict)
    embedded: set[tuple[int, int]] = field(default_factory=set)  # (group, row)
    cursors: dict[str, int] = field(default_factory=dict)
    head: int = 0  # the log's last line; where lines are copied, none comes after it meanwhile
    guessed: bool = False  # something was taken to be new without a look


@dataclass(frozen=True, slots=True)
class Version:
    """A version to write."""

    record: Record
    known: Span
    realm: int


@dataclass(frozen=True, slots=True)
class Placed:
    """An embedding to write: its group, its first slot, and the row that it belongs to."""

    embedding: Embedding
    realm: int
    group: int
    slot: int
    row: int


class Plan:
    def __init__(self, known: Known, numbers: Callable[[], int]) -> None:
        self._known, self._numbers = known, numbers
        self.made: dict[Walls, int] = {}  # realms to make
        self.versions: dict[int, Version] = {}  # by row
        self.ended: dict[int, tuple[int, int]] = {}  # row: its realm, and when it was believed no longer
        self.erased: dict[Ref, int] = {}  # with the realm
        self.gone: dict[int, tuple[int, Record]] = {}  # row: its realm and record
        self.placed: list[Placed] = []
        self.cursors: dict[str, int] = {}
        self.followed: dict[str, int] = {}  # how many of the lines, from the first on, a follower need not read
        self.letters: dict[tuple[str, int], Letter | None] = {}  # None: it goes
        self.erasing: dict[tuple[int, str], bool] = {}  # of what was erased: whether its certificate is to come
        self.lines: list[tuple[int, Change]] = []  # with the realm
        self._copies = False  # the lines of the commit are those that it brings
        self._journal: list[Callable[[], Any]] = []

    def take(self, batch: Batch, cursor: Cursor | None, at: datetime) -> slice:
        """Take in a commit; return which of the lines are its own. Raise Conflict or Invalid, with nothing taken in."""
        self._journal.clear()
        first = len(self.lines)
        try:
            self._take(batch, cursor, at)
        except Exception:
            for undo in reversed(self._journal):
                undo()
            raise
        for name in batch.followed:
            if self.followed.get(name, 0) == first < len(self.lines):
                self.followed[name] = len(self.lines)
        return slice(first, len(self.lines))

    @property
    def empty(self) -> bool:
        return not (self.lines or self.placed or self.cursors or self.letters or self.erasing)

    def _take(self, batch: Batch, cursor: Cursor | None, at: datetime) -> None:
        self._copies = bool(batch.log)
        if cursor:
            if self._known.cursors.get(cursor.name, 0) != cursor.was:
                raise Conflict(f"the follower {cursor.name} is no longer at {cursor.was}")
            self._set(self._known.cursors, cursor.name, cursor.now)
            self._set(self.cursors, cursor.name, cursor.now)
        check_log(batch, self._known.head)
        for record in batch.put:
            self._put(record, at)
        for record in batch.restore:
            self._restore(record, at)
        for ref in batch.erase:
            self._erase(ref, at)
        for line in batch.log:
            self._copy(line)
        for embedding in batch.embeddings:
            self._embed(embedding)
        for named in batch.answered:
            self._set(self.letters, named, None)
        for letter in batch.letters:
            self._set(self.letters, (letter.follower, letter.change.seq), letter)
        if certificate := batch.certificate:
            realm = self._realm(certificate.scope.realm)
            note = msgspec.to_builtins(certificate)
            self._log(realm, Change(0, at, certificate.id, 0, "certificate", certificate.scope, note))
            for id in certificate.ids:
                self._set(self.erasing, (realm, id), False)

    # -- the parts of a commit -----------------------------------------------------------------------------------

    def _put(self, record: Record, at: datetime) -> None:
        last = self._next(record)
        if last is None:
            return
        if last.version:
            at = max(at, rows.moment(last.known_since) + TICK)
            self._end(record.ref, last, rows.stamp(at))
        self._check_key(record, at)
        self._insert(record, Span(since=at), at)

    def _restore(self, record: Record, at: datetime) -> None:
        last = self._next(record)
        if last is None:
            return
        known = rows.known(record, at)
        if last.version:
            since = rows.stamp(known.since)
            self._end(record.ref, last, since if last.known_until is None else last.known_until)
        if known.until is None:
            self._check_key(record, at)
        self._insert(record, known, at)

    def _next(self, record: Record) -> Last | None:
        """Return the version that this one follows (NOTHING before the first); None where it is there already."""
        last = self._known.last.get(record.ref, NOTHING)
        if last.version and record.version <= last.version:
            there = self._known.contents.get((record.ref, record.version))
            if there is None or not record.says_the_same(there):
                raise Conflict(f"{record.id} has other content at version {record.version} already")
            return None
        if record.version != last.version + 1:
            raise Conflict(f"{record.id} is at version {last.version}; the next is not {record.version}")
        if last.version and last.owner != _owner(record.scope):
            raise Conflict(f"{record.id} is there already, and belongs elsewhere")
        return last

    def _check_key(self, record: Record, at: datetime) -> None:
        if record.body.key is None or record.valid.ended(at):
            return
        moment = rows.stamp(at)
        assert moment is not None
        name = record.scope.realm, record.kind, record.body.key, _owner(record.scope)
        for id, other in self._known.bearers.get(name, {}).items():
            if id != record.id and (other.valid_until is None or other.valid_until > moment):
                raise Conflict(f"the {record.kind} {record.body.key!r} is there already, as {id}")

    def _end(self, ref: Ref, last: Last, until: int | None) -> None:
        """Say until when the latest version was believed."""
        assert until is not None
        walls = ref.tenant, ref.space
        if name := last.name(walls):
            self._drop(self._known.bearers.get(name, {}), ref.id)
        if version := self.versions.get(last.row):
            known = version.known.ending(rows.moment(until))
            self._set(self.versions, last.row, dataclasses.replace(version, known=known))
        else:
            self._set(self.ended, last.row, (self._known.realms[walls], until))

    def _insert(self, record: Record, known: Span, at: datetime) -> None:
        ref, row = record.ref, self._numbers()
        realm = self._realm(record.scope.realm)
        since = rows.stamp(known.since)
        assert since is not None
        last = Last(
            *(record.version, row, _owner(record.scope), record.kind, record.body.key, since),
            *(rows.stamp(known.until), rows.stamp(record.valid.until)),
        )
        self._set(self.versions, row, Version(record, known, realm))
        self._set(self._known.last, ref, last)
        self._set(self._known.contents, (ref, record.version), record)
        self._set(self._known.rows, (ref, record.version), row)
        if name := last.name(record.scope.realm):
            self._set(self._known.bearers.setdefault(name, {}), ref.id, last)
        if not self._copies:
            self._log(realm, Change(0, at, record.id, record.version, record.kind, record.scope))

    def _erase(self, ref: Ref, at: datetime) -> None:
        last = self._known.last.get(ref, NOTHING)
        if not last.version:
            return
        realm = self._realm((ref.tenant, ref.space))
        mine = [
            (row, dataclasses.replace(version.record, known=version.known))
            for row, version in self.versions.items()
            if version.record.ref == ref
        ]
        for row, record in (*self._known.stored.get(ref, ()), *mine):
            self._set(self.gone, row, (realm, record))
            self._drop(self._known.rows, (ref, record.version))
        if name := last.name((ref.tenant, ref.space)):
            self._drop(self._known.bearers.get(name, {}), ref.id)
        self._drop(self._known.last, ref)
        self._set(self.erased, ref, realm)
        self._set(self.erasing, (realm, ref.id), True)
        if self._copies:
            return
        user, agent, session = (level or None for level in last.owner)
        scope = Scope(tenant=ref.tenant, space=ref.space, user=user, agent=agent, session=session)
        self._log(realm, Change(0, at, ref.id, 0, last.kind, scope))

    def _copy(self, line: Change) -> None:
        realm = self._realm(line.scope.realm)
        self._log(realm, line)
        if line.kind == "certificate":
            for id in (line.note or {})["ids"]:
                self._set(self.erasing, (realm, id), False)
        elif not line.version:
            self._set(self.erasing, (realm, line.id), True)

    def _embed(self, embedding: Embedding) -> None:
        row = self._known.rows.get((embedding.ref, embedding.version))
        if row is None:
            return
        walls = embedding.ref.tenant, embedding.ref.space
        count, dimension = embedding.vectors.shape
        name = walls, embedding.model
        group = self._known.groups.get(name) or Group(self._known.new_groups[name], dimension, 0, new=True)
        if group.dimension != dimension:
            has = f"{embedding.model} has {group.dimension} dimensions here"
            raise Invalid(f"{has}, not {dimension}: give another model another name")
        if (group.number, row) in self._known.embedded:
            return
        self._known.embedded.add((group.number, row))
        self._journal.append(lambda: self._known.embedded.discard((group.number, row)))
        self._set(self._known.groups, name, dataclasses.replace(group, slots=group.slots + count))
        self._add(self.placed, Placed(embedding, self._realm(walls), group.number, group.slots, row))

    def numbered(self, before: int) -> list[Change]:
        """Return the lines with their numbers, which come after that one."""
        return [dataclasses.replace(line, seq=seq) for seq, (_, line) in enumerate(self.lines, before + 1)]

    def groups(self) -> Iterator[tuple[int, str, Group]]:
        """Return (realm, model, group) for the groups that were added to."""
        touched = {placed.group for placed in self.placed}
        for (walls, model), group in self._known.groups.items():
            if group.number in touched:
                yield self._realm(walls), model, group

    # -- with a way back -----------------------------------------------------------------------------------------

    def _realm(self, walls: Walls) -> int:
        if walls not in self._known.realms:
            self._set(self.made, walls, self._known.new_realms[walls])
            self._set(self._known.realms, walls, self._known.new_realms[walls])
        return self._known.realms[walls]

    def _log(self, realm: int, line: Change) -> None:
        self._add(self.lines, (realm, line))

    def _add(self, some: list[Any], one: Any) -> None:
        some.append(one)
        self._journal.append(some.pop)

    def _set(self, some: MutableMapping[Any, Any], name: Any, value: Any) -> None:
        if name in some:
            was = some[name]
            self._journal.append(lambda: some.__setitem__(name, was))
        else:
            self._journal.append(lambda: some.pop(name))
        some[name] = value

    def _drop(self, some: MutableMapping[Any, Any], name: Any) -> None:
        if name in some:
            was = some.pop(name)
            self._journal.append(lambda: some.__setitem__(name, was))


NOTHING = Last(0, 0, ("", "", ""), "", None, 0, None, None)


def _owner(scope: Scope) -> Owner:
    return scope.user or "", scope.agent or "", scope.session or ""
