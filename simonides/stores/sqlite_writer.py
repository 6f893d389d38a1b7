"""The one thread that writes. What callers hand in at once is committed at once: one flush of the disk for all."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import apsw

from ..errors import Invalid

GROUP = 512  # writes in one transaction


@dataclass(slots=True)
class Job:
    """Something to do with the connection, alone or (`together`) in one transaction with its neighbours."""

    work: Callable[[apsw.Connection], Any]
    together: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """`undone` is called whenever something was rolled back, for what the caller remembers of the database."""

    def __init__(
        self,
        connection: apsw.Connection,
        translate: Callable[[BaseException], BaseException],
        undone: Callable[[], None],
    ) -> None:
        self._connection, self._translate, self._undone = connection, translate, undone
        self._closed = False
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="simonides-writer", daemon=True)
        self._thread.start()

    async def together(self, work: Callable[[apsw.Connection], Any]) -> Any:
        return await self._hand_in(work, True)

    async def alone(self, work: Callable[[apsw.Connection], Any]) -> Any:
        return await self._hand_in(work, False)

    async def close(self) -> None:
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _hand_in(self, work: Callable[[apsw.Connection], Any], together: bool) -> Any:
        if self._closed:
            raise Invalid("this memory is closed")
        loop = asyncio.get_running_loop()
        job = Job(work, together, loop, loop.create_future())
        self._queue.put(job)
        return await job.future

    def _run(self) -> None:
        job = self._queue.get()
        while job is not None:
            group, job = self._gather(job)
            if group[0].together:
                self._transact(group)
            else:
                self._attempt(group[0])
            _answer(group)
            if job is _NOTHING:
                job = self._queue.get()
        self._leave()
        self._connection.close()

    def _leave(self) -> None:
        """Answer those who came in at the last moment."""
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.error = Invalid("this memory is closed")
                _answer([job])

    def _gather(self, first: Job) -> tuple[list[Job], Job | None]:
        """Return the jobs to do now, and the one to go on with: another kind of job, or the end."""
        group = [first]
        while first.together and len(group) < GROUP:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None or not job.together:
                return group, job
            group.append(job)
        return group, _NOTHING

    def _transact(self, group: list[Job]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                self._step(job)
            self._connection.execute("COMMIT")
        except BaseException as error:  # raised where the callers wait; this thread goes on
            self._roll_back()
            for job in group:
                job.error = job.error or self._translate(error)

    def _step(self, job: Job) -> None:
        """Do one job so that its failure undoes nobody else's work."""
        self._connection.execute("SAVEPOINT job")
        self._attempt(job)
        if job.error:
            if not self._connection.in_transaction:  # the disk was full: SQLite itself has rolled everything back
                raise job.error
            self._connection.execute("ROLLBACK TO job")
            self._undone()
        self._connection.execute("RELEASE job")

    def _attempt(self, job: Job) -> None:
        try:
            job.result = job.work(self._connection)
        except BaseException as error:  # raised where the caller waits; this thread goes on
            job.error = self._translate(error)

    def _roll_back(self) -> None:
        self._undone()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class Refusing(Writer):
    """What stands in a writer's place where nothing is written: in a snapshot."""

    def __init__(self) -> None:
        pass

    async def _hand_in(self, work: Callable[[apsw.Connection], Any], together: bool) -> Any:
        raise Invalid("a snapshot is only read from")


_NOTHING = Job(lambda connection: None, False, None, None)  # type: ignore[arg-type]


def _answer(group: list[Job]) -> None:
    for loop in {job.loop for job in group}:
        mine = [job for job in group if job.loop is loop]
        if not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed just now: nobody waits there any more
                loop.call_soon_threadsafe(_resolve, mine)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():  # the caller was cancelled
            continue
        if job.error:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
