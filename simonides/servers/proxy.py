"""The proxy: any OpenAI client pointed at `/v1` has a memory.

Of a chat it takes the last user's message, recalls for it, inserts what was found as one marked message, passes the
call to the upstream and its answer back as it comes, and then remembers the message and the answer. Every other call
is passed on as it is. Where the memory fails, the chat goes on without it, and a header says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as Asked

from ..access import Permit, Principal
from ..calls import Calls
from ..errors import Conflict, Invalid, SimonidesError
from ..memory import AsyncMemory
from ..query import within
from ..recall import Context, Hits
from ..record import Scope, now
from .openai.answers import Answer
from .openai.refusals import NotAllowed, TooLarge, kind, problem
from .openai.turns import Talk, marked, nothing_new, read, whose, without
from .openai.upstream import (
    METHODS,
    Gone,
    Upstream,
    incoming,
    outgoing,
    readable,
    send_on,
    shown,
    target,
    uncompressed,
    while_there,
)
from .openai.wishes import EXTRAS, Wish, Wont, may, wish_of

REFUSED = ("PUT", "PATCH")
MESSAGES = {"chat/completions": "messages", "responses": "input"}  # what has a memory, and where its messages are
HITS, HITS_MAX = 50, 200  # of so many recalled, the best that are not sent anyway
RECALL_SECONDS = 10.0
SESSIONS_MAX = 10_000
NOTES_MAX = 500  # characters

_log = logging.getLogger(__name__)


class Gate(Protocol):
    """Says who is at the door, or raises Unauthorized or Limited."""

    async def enter(self, headers: Mapping[str, str], client: str) -> Principal: ...


class Serving(Protocol):
    """The settings that are read here, at every call, for they may change. `simonides.serving` says what they mean."""

    @property
    def body_mb_max(self) -> int: ...
    @property
    def upstream(self) -> str: ...
    @property
    def upstream_key(self) -> str: ...
    @property
    def upstream_seconds(self) -> float: ...
    @property
    def proxy_budget(self) -> int: ...
    @property
    def proxy_user(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """A question to a model that has a memory, and what is heard of its answer."""

    talk: Talk
    wish: Wish  # with the session that it goes to
    at: datetime
    ids: tuple[str, str]  # of the question and of its answer
    owner: tuple[str, ...]
    passages: tuple[str, ...] = ()  # what the model was given
    answer: Answer = field(default_factory=Answer)


@dataclass(frozen=True, slots=True)
class Call:
    """What goes to the upstream; `told` are headers of ours for its answer."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float
    told: Mapping[str, str] = field(default_factory=dict)


class Proxy:
    """The routes below `/v1`. `drain` waits for what is still to be remembered: await it before the memory closes."""

    def __init__(self, memory: AsyncMemory, gate: Gate, serving: Callable[[], Serving]) -> None:
        self._memory, self._gate, self._serving = memory, gate, serving
        self._upstream = Upstream()
        self._calls = Calls()
        self._keeping = dict[asyncio.Task[None], Scope]()  # whose turns are not remembered yet
        self._sessions = OrderedDict[
            tuple[tuple[str, ...], str], str
        ]()  # by whose they are, of answers that the upstream keeps

    def routes(self) -> list[Route]:
        return [Route("/v1/{path:path}", self, methods=[*METHODS, *REFUSED], include_in_schema=False)]

    async def drain(self) -> None:
        """Wait until the calls under way have ended and their turns are remembered, then let go of the upstream."""
        await self._calls.ended()
        while self._keeping:
            await asyncio.wait(set(self._keeping))
        await self._upstream.close()

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with self._calls:
            try:
                call, turn = await self._received(request)
            except ClientDisconnect:
                return
            except SimonidesError as error:
                await problem(error)(scope, receive, send)
                return
            try:
                await while_there(receive, self._passed_on(call, turn, request, send))
            finally:
                if turn and turn.answer.begun and Permit.WRITE in turn.wish.does:
                    task = asyncio.create_task(self._keep(turn))
                    self._keeping[task] = turn.wish.scope
                    task.add_done_callback(self._keeping.pop)

    # -- what comes in -------------------------------------------------------------------------------------------

    async def _received(self, request: Request) -> tuple[Call, Turn | None]:
        serving = self._serving()
        client = request.client.host if request.client else ""
        principal = await self._gate.enter(shown(request.headers), client)
        method, path = request.method, request.path_params["path"]
        if method not in METHODS:
            raise NotAllowed
        may(principal, f"{method} {path}", shared=bool(serving.upstream_key))
        url = target(serving.upstream, request.scope)
        body = await _body(request, serving.body_mb_max * 2**20)
        call = Call(method, url, outgoing(request.headers, serving.upstream_key), body, serving.upstream_seconds)
        if method == "POST" and path in MESSAGES:
            return await self._with_memory(call, request, principal, path)
        return call, None

    async def _with_memory(
        self, call: Call, request: Request, principal: Principal, path: str
    ) -> tuple[Call, Turn | None]:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Invalid("the body is compressed: send it as it is")
        body, extras = without(read(call.body, MESSAGES[path]), EXTRAS)
        if extras:
            call = replace(call, body=body.encoded())
        wish = wish_of(request.headers, extras, body.user, principal, self._wont())
        if not wish.does:
            return call, None
        turn = self._turn(body.talk, wish, principal)
        context = await self._context(turn)
        if context.text:
            call = replace(call, body=body.with_context(marked(context.text)).encoded())
            turn = replace(turn, passages=tuple(citation.hit.text for citation in context.citations))
        return replace(call, headers=uncompressed(call.headers), told=_told(turn, context)), turn

    def _wont(self) -> Wont:
        settings, serving = self._memory.settings, self._serving()
        home = Scope(tenant=settings.tenant, space=settings.space)
        return Wont(home, tuple(settings.require.split(",")), serving.proxy_user or None, serving.proxy_budget)

    def _turn(self, talk: Talk, wish: Wish, principal: Principal) -> Turn:
        scope, at = wish.scope, now()
        mine = whose(scope, principal.name)
        session = scope.session or self._sessions.get((mine, talk.before)) or talk.session(scope, principal.name)
        scope = replace(scope, session=session)
        return Turn(talk, replace(wish, scope=scope), at, talk.ids(scope, at), mine)

    # -- what is recalled ----------------------------------------------------------------------------------------

    async def _context(self, turn: Turn) -> Context:
        if Permit.READ not in turn.wish.does or not turn.wish.budget or not turn.talk.question.strip():
            return Context("", 0, ())
        try:
            async with asyncio.timeout(RECALL_SECONDS):
                await self._kept(turn.wish.scope)
                return await recalled(self._memory, turn.talk, turn.wish, turn.ids)
        except Exception as error:  # whatever it is: somebody waits for an answer
            _log.warning("a chat went on without its memory: %s", kind(error))
            return Context("", 0, (), (f"the memory did not answer ({kind(error)}): no context",))

    async def _kept(self, scope: Scope) -> None:
        """Wait until what this user said before is remembered."""
        before = {
            task for task, other in self._keeping.items() if (other.realm, other.user) == (scope.realm, scope.user)
        }
        if before:
            await asyncio.wait(before)

    # -- what is passed on ---------------------------------------------------------------------------------------

    async def _passed_on(self, call: Call, turn: Turn | None, request: Request, send: Send) -> None:
        answer = turn.answer if turn else Answer()
        calling = self._upstream.call(call.method, call.url, call.headers, call.body, call.seconds)
        try:
            async with calling as response:
                answer.starts(response.status_code, response.headers.get("content-type", ""), readable(response))
                if turn and not readable(response):
                    _log.warning("the upstream compressed its answer, though asked not to: it is not remembered")
                async for chunk in send_on(response, send, incoming(response, call.told)):
                    if turn:
                        answer.hears(chunk)
            answer.ends()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Gone as error:
            await problem(error, call.told)(request.scope, request.receive, send)
        except httpx.HTTPError as error:
            # Too late for a status: without an end, the client sees that the answer broke off.
            _log.warning("the upstream broke off: %s", kind(error))

    # -- what is remembered --------------------------------------------------------------------------------------

    async def _keep(self, turn: Turn) -> None:
        """Remember what is new of a turn that was answered: the question, and the answer to it where it is whole."""
        talk, answer, ended = turn.talk, turn.answer, now()
        if answer.id:
            self._sessions[turn.owner, answer.id] = turn.wish.scope.session or ""
            while len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        try:
            if talk.is_new:
                await self._said(turn, "user", turn.ids[0], talk.question, turn.at)
            if (talk.asked is not None or talk.before) and not nothing_new(answer.text, turn.passages):
                await self._said(turn, "assistant", turn.ids[1], answer.text, ended)
        except Exception as error:  # nobody waits any more who could be told
            _log.error("a turn was not remembered: %s", kind(error))

    async def _said(self, turn: Turn, role: str, id: str, text: str, at: datetime) -> None:
        """Keep one message. Of a request that was tried again, what is answered now is what was answered."""
        if not text.strip():
            return
        whose = {**turn.wish.whose, "session": turn.wish.scope.session}
        message = {"role": role, "content": text, "id": id, "at": at}
        try:
            await self._memory.remember(
                message, title=turn.talk.title or None, folder=turn.wish.folder, source="proxy", **whose
            )
        except Conflict:
            await self._memory.revise(id, text=text, **whose)


async def recalled(memory: AsyncMemory, talk: Talk, wish: Wish, own: Collection[str] = ()) -> Context:
    """Return what to have in mind for the question, whatever the session in which it was said.

    What the client sends anyway has no place in it, nor what is in the folders that it excludes, nor what this very
    turn left (`own`) when it was tried before.
    """
    effort = "high" if wish.excluded else "medium"
    hits = await memory.recall(talk.question, limit=HITS_MAX, effort=effort, **wish.whose)
    sent = {item.text.strip() for item in talk.items}
    left = [
        hit
        for hit in hits
        if hit.id not in own
        and hit.text.strip() not in sent
        and not any(within(hit.record.folder, folder) for folder in wish.excluded)
    ]
    return await memory.pack(Hits(left[:HITS]).noting(*hits.notes), talk.question, budget=wish.budget)


def _told(turn: Turn, context: Context) -> dict[str, str]:
    """Return the headers that say what the memory did."""
    told = {
        "X-Simonides-Session": _line(turn.wish.scope.session or ""),
        "X-Simonides-Context-Count": str(len(context.citations)),
        "X-Simonides-Context-Tokens": str(context.tokens),
    }
    notes = "; ".join((*turn.wish.notes, *context.notes))
    return {**told, "X-Simonides-Notes": _line(notes)[:NOTES_MAX]} if notes else told


def _line(text: str) -> str:
    """Return the text as a header can hold it."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"the body is larger than {most // 2**20} MiB")
    return bytes(body)
