"""The one task that writes. What callers hand in at once is committed at once: one flush of the disk for all."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ..errors import Invalid
from ..record import now
from ..store import Batch, Cursor, Lines
from . import rows
from .postgres_errors import AGAIN, STALE, lost, translated
from .postgres_known import Numbers, load, numbers_of
from .postgres_plan import Known, Plan, Walls
from .postgres_pool import ALL, PLANNED_ANEW, PLANNED_ONCE, Pool
from .postgres_rows import kept
from .postgres_trip import Db, Trip
from .postgres_written import Written, write

GROUP = 512  # commits in one transaction
TRIES = 6  # of a group that others came in the way of, or whose connection was lost

T = TypeVar("T")


@dataclass(slots=True)
class Job:
    """A commit, or other work to do alone in a transaction."""

    future: asyncio.Future[Any]
    batch: Batch = field(default_factory=Batch)
    cursor: Cursor | None = None
    work: Callable[[Db], Awaitable[Any]] | None = None
    lines: slice | None = None
    error: BaseException | None = None

    @property
    def alone(self) -> bool:
        return self.work is not None or bool(self.batch.erase or self.batch.log)


class Writer:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._jobs: deque[Job] = deque()
        self._task: asyncio.Task[None] | None = None
        self._db: Db | None = None
        self._numbers = Numbers()
        self.realms: dict[Walls, int] = {}  # only ever grows
        self._closed = False

    async def commit(self, batch: Batch, cursor: Cursor | None) -> Lines:
        lines: Lines = await self._hand_in(Job(self._future(), batch, cursor))
        return lines

    async def alone(self, work: Callable[[Db], Awaitable[T]]) -> T:
        """Do the work in a transaction of its own, which sees all realms. It may be done more than once."""
        done: T = await self._hand_in(Job(self._future(), work=work))
        return done

    async def close(self) -> None:
        self._closed = True
        if self._task:
            await self._task
        if self._db:
            await self._db.close()

    def _future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def _hand_in(self, job: Job) -> Any:
        if self._closed:
            raise Invalid("this memory is closed")
        self._jobs.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await job.future

    async def _run(self) -> None:
        while self._jobs:
            group = [self._jobs.popleft()]
            while self._jobs and not group[0].alone and not self._jobs[0].alone and len(group) < GROUP:
                group.append(self._jobs.popleft())
            await self._answer(group)

    async def _answer(self, group: list[Job]) -> None:
        """Do the jobs, and tell those who wait. What fails for a reason in one of them is done one by one."""
        try:
            results = await self._insist(group)
        except BaseException as error:
            if len(group) > 1 and isinstance(error, psycopg.DataError | psycopg.ProgrammingError):
                for job in group:
                    await self._answer([job])
                return
            found = translated(error, self._pool.address.place)
            for job in group:
                _fail(job, job.error or found)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for job, result in zip(group, results, strict=True):
            if job.error:
                _fail(job, job.error)
            elif not job.future.done():
                job.future.set_result(result)

    async def _insist(self, group: list[Job]) -> list[Any]:
        attempt = Attempt()
        for tried in range(1, TRIES + 1):
            try:
                return await self._attempt(await self._connection(), group, attempt)
            except psycopg.Error as error:
                stale = isinstance(error, STALE)
                if stale and self._db is not None:
                    await self._db.close()
                await self._roll_back()
                again, attempt.sure = stale or isinstance(error, AGAIN), True
                if tried == TRIES or not (again or lost(error)):
                    raise
                if again:
                    attempt.plan = None  # it was rolled back, for certain
                if tried > 1:
                    await asyncio.sleep(random.uniform(0, 0.02 * 2**tried if again else 0.3))
            except Exception:  # a text that cannot be sent, say: what it locked is let go of
                await self._roll_back()
                raise
        raise AssertionError("the last try raises or returns")

    async def _attempt(self, db: Db, group: list[Job], attempt: Attempt) -> list[Any]:
        if work := group[0].work:
            await db.execute("BEGIN")
            await db.execute(ALL)
            await db.execute(PLANNED_ANEW)
            result = await work(db)
            await db.execute("COMMIT")
            return [result]
        batches, cursors = [job.batch for job in group], [job.cursor for job in group if job.cursor]
        walls = {wall for batch in batches for wall in _walls(batch)}
        if unknown := [wall for wall in walls if wall not in self.realms]:
            self.realms |= await numbers_of(db, unknown)
        here = {wall: self.realms[wall] for wall in walls if wall in self.realms}
        known = await load(db, batches, cursors, here, sorted(walls), self._numbers, sure=attempt.sure)
        if (results := await attempt.found(db, group, known)) is not None:
            await _rolled_back(db)
            return results
        plan = Plan(known, self._numbers.take)
        for job in group:
            job.error = job.lines = None
            try:
                job.lines = plan.take(job.batch, job.cursor, now())
            except Exception as error:  # raised where the caller waits; the others go on
                job.error = error
        if known.guessed and any(job.error for job in group):  # of what was taken to be new, not all will be written
            await _rolled_back(db)
            attempt.sure = True
            return await self._attempt(db, group, attempt)
        if plan.empty:
            await _rolled_back(db)
            return [Lines() for _ in group]
        attempt.plan, attempt.head = plan, known.head
        written = await write(db, plan)
        self.realms |= plan.made
        return _shared_out(group, plan, written)

    async def _connection(self) -> Db:
        if self._db is None or self._db.closed:
            self._db = await self._pool.open()
            self._db.prepare_threshold = None  # what a trip prepared would go with what psycopg no longer needs
            await self._db.execute(PLANNED_ONCE)
        return self._db

    async def _roll_back(self) -> None:
        if self._db is not None and not self._db.closed:
            try:
                if self._db.pgconn.transaction_status != TransactionStatus.IDLE:
                    await _rolled_back(self._db)
                return
            except psycopg.Error:
                await self._db.close()
        self._db = None


@dataclass(slots=True)
class Attempt:
    """What was sent on a connection that may have been lost before the answer came."""

    plan: Plan | None = None
    head: int = 0
    sure: bool = False  # the first time, what seems to be new is not looked for

    async def found(self, db: Db, group: list[Job], known: Known) -> list[Any] | None:
        """Return the answers where it was written after all, now that whoever wrote it has let go of its locks.

        Vectors without a line are simply written again: those that are there are left out.
        """
        if self.plan is None:
            return None
        if not self.plan.lines:
            moved = [job.cursor for job in group if job.cursor]
            there = moved and all(known.cursors.get(cursor.name) == cursor.now for cursor in moved)
            return [Lines() for _ in group] if there else None
        realm, line = self.plan.lines[0]
        sql = (
            "SELECT seq FROM changes WHERE seq > %s AND realm = %s AND id = %s AND version = %s AND at = %s"
            " ORDER BY seq LIMIT 1"
        )
        values = (self.head, realm, kept(line.id), line.version, rows.stamp(line.at))
        async with Trip(db) as trip:
            found = trip.ask(sql, values)
        if not found.rows:
            return None
        return _shared_out(group, self.plan, Written(found.rows[0][0] - 1))


async def _rolled_back(db: Db) -> None:
    async with Trip(db) as trip:
        trip.ask("ROLLBACK")


def _shared_out(group: Sequence[Job], plan: Plan, written: Written) -> list[Any]:
    changes = plan.numbered(written.before)
    found = list[Lines]()
    for job in group:
        lines = changes[job.lines] if job.lines else []
        upto = job.lines.stop if job.lines and lines else len(changes) + 1
        went = [name for name in job.batch.followed if name in written.followed and plan.followed[name] >= upto]
        found.append(Lines(lines, went))
    return found


def _walls(batch: Batch) -> set[Walls]:
    """Return the realms that a batch names."""
    lines = (*batch.log, *(letter.change for letter in batch.letters))
    refs = [*batch.erase, *(one.ref for one in batch.embeddings), *(line.ref for line in lines)]
    walls = {record.scope.realm for record in (*batch.put, *batch.restore)} | {(ref.tenant, ref.space) for ref in refs}
    return walls | ({batch.certificate.scope.realm} if batch.certificate else set())


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done():
        job.future.set_exception(error)
