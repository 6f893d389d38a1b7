"""How processes tell each other that something was written: NOTIFY after the commit, LISTEN while somebody waits.

A notification says no more than that a look is worth while. It is sent in the background on a connection of the pool,
never in the transaction of a write, which it would keep waiting, and others with it (docs/decisions/0023). So it may be
lost: then whoever waits looks a little later. Where none is heard at all (a pooler that hands connections on, a cut
connection) they look as often as if there were none.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time

import psycopg

from ..errors import SimonidesError
from ..growth import Growth
from ..postgresql import quoted
from .postgres_pool import Pool

GAP_S = 0.05  # between two notifications, and between two times that those who wait are told
CLOSE_S = 1.0  # that closing waits for the last one
TOLD_S = (2.0, 2.0)  # between two looks of who hears of what is written: from, to
UNTOLD_S = (0.01, 0.25)  # the same of who does not
LINGER_S = 60.0  # for which it is listened after somebody last waited
AGAIN_S = (0.5, 30.0)  # until a connection that was lost is made anew: from, to

# Whether it survives a crash of the server does not matter, so its commit waits for no disk.
NOTIFY = "SET LOCAL synchronous_commit = off; NOTIFY {channel}, '{name}'"

log = logging.getLogger("simonides")


class Bell:
    """The channel has the name of the schema. What is said on it is by whom, so that nobody listens to himself."""

    def __init__(self, pool: Pool, growth: Growth) -> None:
        self._pool, self._growth = pool, growth
        self._name = secrets.token_hex(8)
        self._due: asyncio.TimerHandle | None = None  # something was written that nobody was told of yet
        self._rung = float("-inf")  # when they were last told
        self._ringing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._wanted = float("-inf")  # when somebody last waited
        self._told = float("-inf")  # when those who wait were last told
        self._telling: asyncio.TimerHandle | None = None
        self._closed = False
        growth.look_s = UNTOLD_S

    # -- out -----------------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Tell the others that something was written, in the background; what is written soon after is told at once."""
        if self._due is None and not self._closed:
            wait = self._rung + GAP_S - time.monotonic()
            self._due = asyncio.get_running_loop().call_later(max(wait, 0.0), self._ring)

    def _ring(self) -> None:
        self._due, self._rung = None, time.monotonic()
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.get_running_loop().create_task(self._say())
        else:
            self.ring()

    async def _say(self) -> None:
        sql = NOTIFY.format(channel=quoted(self._pool.address.schema), name=self._name)
        try:
            async with self._pool.lent() as db:
                await db.execute(sql)
        except (SimonidesError, psycopg.Error) as error:
            log.debug("others are not told of what was written, and find it when they look: %s", error)

    # -- in ------------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Somebody waits: listen, in the background."""
        self._wanted = time.monotonic()
        if (self._listening is None or self._listening.done()) and not self._closed:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        again = AGAIN_S[0]
        while self._is_wanted:
            begun = time.monotonic()
            try:
                await self._hear()
            except psycopg.Error as error:
                log.debug("what others write is found by looking: %s", error)
                again = AGAIN_S[0] if time.monotonic() - begun > AGAIN_S[1] else min(2 * again, AGAIN_S[1])
                await asyncio.sleep(random.uniform(again / 2, again))

    async def _hear(self) -> None:
        """Listen as long as it is wanted. It begins with a notification of our own: who hears that hears others."""
        db = await self._pool.open()
        try:
            await db.execute(f"LISTEN {quoted(self._pool.address.schema)}")
            self.ring()
            while self._is_wanted:
                async for heard in db.notifies(timeout=LINGER_S):
                    self._growth.look_s = TOLD_S
                    if heard.payload != self._name:
                        self._tell()
        finally:
            self._growth.look_s = UNTOLD_S
            self._growth.stir()
            await db.close()

    @property
    def _is_wanted(self) -> bool:
        return time.monotonic() - self._wanted < LINGER_S

    def _tell(self) -> None:
        """Have those who wait look, now or soon: however many write, they look so often and no more."""
        if self._telling is None:
            wait = self._told + GAP_S - time.monotonic()
            self._telling = asyncio.get_running_loop().call_later(max(wait, 0.0), self._tell_now)

    def _tell_now(self) -> None:
        self._telling, self._told = None, time.monotonic()
        self._growth.stir()

    # -- both ----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Say what is due, listen no more."""
        self._closed = True
        if self._telling:
            self._telling.cancel()
        ringing = [self._ringing] if self._ringing else []
        if self._due:
            self._due.cancel()
            ringing.append(asyncio.get_running_loop().create_task(self._say()))
        if ringing:
            await asyncio.wait(ringing, timeout=CLOSE_S)
        tasks = [*ringing, *([self._listening] if self._listening else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
