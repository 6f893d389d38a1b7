"""How far what follows the log is, who follows it, and what could not be followed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..access import Permit
from ..wire import Json, letter_as_json, status_as_json
from .operation import Call, operation
from .shapes import Asked, Name, Scalar, Shape

Line = Annotated[int, Field(ge=0, lt=2**53)]


class FollowingShape(Shape):
    """One follower. `workers` are those alive that share it, each with how many shards it holds."""

    name: str
    place: int = Field(description="The line of the log up to which everything is followed.")
    lag: int = Field(description="Lines of the log behind it.")
    lag_seconds: float = Field(description="Since the first of them was written.")
    letters: int = Field(description="What it could not follow; at most a thousand are counted.")
    shared: bool = Field(description="Whether workers share it.")
    workers: dict[str, int]


class StatusShape(Shape):
    head: int = Field(description="The last line of the log.")
    waiting: int = Field(description="Lines that are not indexed yet.")
    queue_max: int = Field(description="How many may wait before writes are turned away or not waited for; 0: any.")
    when_full: str
    followers: list[FollowingShape]


@operation("GET", "/status", needs=Permit.ADMIN, gives=StatusShape, whole=True)
async def status(asked: Asked, call: Call) -> Json:
    """Say how far each follower of the log is, which workers share it, and how much waits.

    Where workers announced themselves it watches them for a second, to tell who is alive.
    """
    serving = call.desk.serving
    waiting, _ = await call.memory.backlog()
    more = {"waiting": waiting, "queue_max": serving.queue_max, "when_full": serving.when_full}
    return {**status_as_json(await call.memory.status()), **more}


class LetterShape(Shape):
    """A change that a follower could not follow."""

    follower: str
    seq: int = Field(description="The line of the log that it is about.")
    id: str
    version: int
    kind: str
    scope: dict[str, Scalar]
    tries: int = Field(description="0: it is to be tried again.")
    at: str
    error: str


class LettersShape(Shape):
    results: list[LetterShape]
    next: int | None = Field(description="Goes into `after` for the page behind this one.")


class Letters(Asked):
    follower: Name | None = Field(None, description="Only of this follower.")
    after: Line = 0
    limit: int = Field(100, ge=1, le=1000)


@operation("GET", "/letters", needs=Permit.ADMIN, gives=LettersShape, whole=True)
async def letters(asked: Letters, call: Call) -> Json:
    """List what followers could not follow and put aside, in the order of the log."""
    found = await call.memory.letters(asked.follower, after=asked.after, limit=asked.limit)
    following = found[-1].change.seq if len(found) == asked.limit else None
    return {"results": [letter_as_json(each) for each in found], "next": following}


class Chosen(Asked):
    """Which letters: those about these lines of the log, or all."""

    seqs: Annotated[list[Line], Field(min_length=1, max_length=1000)] | None = None
    follower: Name | None = Field(None, description="Only of this follower.")


class LettersCounted(Shape):
    count: int


@operation("POST", "/letters/replay", needs=Permit.ADMIN, gives=LettersCounted, repeats=True, whole=True)
async def replay_letters(asked: Chosen, call: Call) -> Json:
    """Have letters tried again; what fails again is a letter again.

    Where workers follow, that is some seconds later.
    """
    return {"count": await call.memory.replay_letters(asked.seqs, follower=asked.follower)}


@operation("POST", "/letters/drop", needs=Permit.ADMIN, gives=LettersCounted, destroys=True, whole=True)
async def drop_letters(asked: Chosen, call: Call) -> Json:
    """Throw letters away: what they are about stays without what the follower would have made of it."""
    return {"count": await call.memory.drop_letters(asked.seqs, follower=asked.follower)}


ROWS = (status, letters, replay_letters, drop_letters)
