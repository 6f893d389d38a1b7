"""Sends what happens to whoever wants to hear of it: each line of the log, as an event (CloudEvents 1.0), to a sink.

A sender is a follower: its place in the log moves once the sink has acknowledged. So nothing is left out, and what was
sent before a crash is sent again, with the same id. Events of one scope come in the order in which things happened.
An event says what the server-sent events say: what happened to which record, and no text. With `content=1` it also
holds the record, as programs read it; of what was erased it never holds more than the id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Self
from urllib.parse import parse_qsl, quote

from .address import yes
from .config import open_backend
from .errors import Conflict, Invalid, SimonidesError
from .follow import followed, live, step
from .plain import as_json, change_as_json
from .record import Record, Scope
from .sink import Event, Later, Sink, SwitchedOff
from .store import Batch, Change, Cursor, Store
from .turn import Turn

WAIT_S, WAIT_MAX_S = 0.5, 300.0  # after the first failure; each next wait is twice as long, up to the other
LOOK_S = 1.0  # between two looks at what other processes have written
TYPES = {
    "written": "simonides.record.written",
    "erased": "simonides.record.erased",
    "certified": "simonides.certificate.issued",
}
OURS = ("content", "from")  # options that every sink's URL may have beside its own

log = logging.getLogger("simonides")


class Sender:
    """Follows the log into one sink. `fresh` begins behind what is there already; otherwise it begins at the start."""

    kinds: frozenset[str] | None = None
    joins = True  # nothing is written but its place

    def __init__(self, sink: Sink, *, content: bool = False, fresh: bool = True) -> None:
        self.name = f"sink/{sink.name}"
        self.sink, self._content, self._fresh = sink, content, fresh

    async def begin(self, store: Store) -> None:
        """Take up its place in the log, where it never had one.

        A place of 0 does not tell whether it was ever taken up: a cursor of its own does, set before the first.
        """
        begun = f"begun/{self.name}"
        if not self._fresh or await store.cursor(self.name):
            return
        if not (mark := await store.cursor(begun)):
            mark = await store.head() + 1
            try:
                await store.commit(Batch(), cursor=Cursor(begun, 0, mark))
            except Conflict:  # another process was first
                mark = await store.cursor(begun)
        if mark > 1:
            with contextlib.suppress(Conflict):
                await store.commit(Batch(), cursor=Cursor(self.name, 0, mark - 1))

    async def follow(self, changes: Sequence[Change], store: Store) -> Batch:
        await self.sink.send(await events(changes, store, content=self._content))
        return Batch()

    async def ahead(self, records: Sequence[Record], store: Store) -> None:
        """Nothing is sent that is not written."""

    async def tidy(self, store: Store) -> bool:
        return False


async def events(changes: Sequence[Change], store: Store, *, content: bool) -> list[Event]:
    found = {(record.ref, record.version): record for record in await live(changes, store)} if content else {}
    return [event(change, store.identity, found.get((change.ref, change.version))) for change in changes]


def event(change: Change, identity: str, record: Record | None = None) -> Event:
    said = change_as_json(change)
    return Event(
        id=f"{identity}/{change.seq}",
        number=change.seq,
        type=TYPES[said["did"]],
        source=f"urn:simonides:{identity}",
        subject=change.id,
        time=change.at,
        key=key(change.scope),
        data=said if record is None else {**said, "record": as_json(record)},
    )


def key(scope: Scope) -> str:
    """Return what keeps the events of one user in one place: tenant/space/user, each spelt as in a URL."""
    return "/".join(quote(level, safe="") for level in (scope.tenant, scope.space, scope.user or ""))


async def senders(urls: Sequence[str], store: Store) -> list[Sender]:
    """Return a sender into each of the sinks, at its place in this log."""
    made = list[Sender]()
    try:
        for url in urls:
            made.append(sender(url))
            await made[-1].begin(store)
    except BaseException:
        for each in made:
            await each.sink.close()
        raise
    return made


def sender(url: str) -> Sender:
    """Return the sender into the sink that the URL names; it connects to nothing yet."""
    base, _, query = url.partition("?")
    parts = [part for part in query.split("&") if part]
    ours = dict(parse_qsl("&".join(part for part in parts if part.partition("=")[0] in OURS)))
    theirs = "&".join(part for part in parts if part.partition("=")[0] not in OURS)
    if ours.get("from", "now") not in ("now", "start"):
        raise Invalid(f"from must be now or start, not {ours['from']!r}")
    content = yes(ours, "content")
    sink: Sink = open_backend("sinks", f"{base}{'?' if theirs else ''}{theirs}")
    return Sender(sink, content=content, fresh=ours.get("from") != "start")


class Sending:
    """The senders of one store at work, each in a task of its own: none waits for another, and nobody for them.

    What a sink does not take now it is sent later: after waits that grow, or when it asked to be sent to again.
    `behind` says of each that is held up why. Of several processes one sends at a time, each sink by itself.
    """

    def __init__(self, store: Store, senders: Sequence[Sender]) -> None:
        self.behind: dict[str, str] = {}
        self.senders = tuple(senders)
        self._store = store
        self._ending = False
        self._stirs = [asyncio.Event() for _ in senders]
        self._tasks = list[asyncio.Task[None]]()

    def begun(self) -> Self:
        """Begin; return self."""
        for sender, stir in zip(self.senders, self._stirs, strict=True):
            self._tasks.append(asyncio.get_running_loop().create_task(self._send(sender, stir)))
        return self

    def notice(self) -> None:
        """Something was written just now."""
        for stir in self._stirs:
            stir.set()

    async def ended(self, patience_s: float) -> None:
        """Send what is written by now, as far as it is taken within that time; the rest waits for the next opening."""
        self._ending = True
        self.notice()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sender in self.senders:
            await sender.sink.close()

    async def _send(self, sender: Sender, stir: asyncio.Event) -> None:
        turn = Turn(self._store, sender.name)
        try:
            await self._send_on(sender, stir, turn)
        finally:
            await turn.over()

    async def _send_on(self, sender: Sender, stir: asyncio.Event, turn: Turn) -> None:
        failures = 0
        while True:
            stir.clear()
            try:
                if await self._sent(sender, turn):
                    continue
                failures = 0
                self._well(sender)
                await turn.over()
                if self._ending:
                    return
                await self._more(sender, stir)
            except SwitchedOff as off:
                self.behind[sender.name] = str(off)
                log.warning("%s; it is asked again when the memory is next opened", off)
                return
            except SimonidesError as error:
                failures += 1
                self._held_up(sender, error)
                if self._ending:
                    return
                await self._pause(error, failures, stir)

    async def _sent(self, sender: Sender, turn: Turn) -> bool:
        """Send some; return whether there is more, and nobody else sends it."""
        if await self._store.head() <= await followed(sender.name, self._store) or not await turn.mine():
            return False
        return not (await step(sender, self._store)).done

    async def _more(self, sender: Sender, stir: asyncio.Event) -> None:
        """Wait until there is more to send."""
        place = await followed(sender.name, self._store)
        while not self._ending:
            await _either(stir, LOOK_S)
            if stir.is_set() or await self._store.head() > place:
                return

    async def _pause(self, error: SimonidesError, failures: int, stir: asyncio.Event) -> None:
        """Wait until it is time to try again, whatever is written meanwhile."""
        wait = error.after_s if isinstance(error, Later) else pause_s(failures)
        until = asyncio.get_running_loop().time() + wait
        while not self._ending and (left := until - asyncio.get_running_loop().time()) > 0:
            stir.clear()
            await _either(stir, left)

    def _well(self, sender: Sender) -> None:
        if self.behind.pop(sender.name, None):
            log.info("%s takes events again", sender.name)

    def _held_up(self, sender: Sender, error: SimonidesError) -> None:
        if sender.name not in self.behind:
            log.warning("what happens is kept, but not sent yet: %s", error)
        self.behind[sender.name] = str(error)


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: between half of the full wait and all of it, so that
    those who failed together do not come back together.
    """
    full: float = min(WAIT_S * 2 ** min(failures - 1, 20), WAIT_MAX_S)
    return full * random.uniform(0.5, 1.0)


async def _either(stir: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(stir.wait(), seconds)
