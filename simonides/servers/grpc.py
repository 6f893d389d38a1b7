"""The memory over gRPC: typed calls for what is asked most, streams, and `Call` for every operation of the table.

One call: `Gate` (who is it?) → a method → `Operation` (is it allowed?) → `AsyncMemory`, as over HTTP, with the same
answers. Health (grpc.health.v1) and reflection hold nothing of anybody's: no key is asked for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
import msgspec
from google.protobuf.descriptor import MethodDescriptor
from grpc import StatusCode
from grpc.aio import ServicerContext
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from starlette.datastructures import Headers

from ..access import Permit, Principal
from ..api import OPERATIONS, Desk, Operation
from ..api.operation import Call, granted, read
from ..api.shapes import Asked
from ..api.streams import Events, Export, Import, events, export, take_in
from ..errors import Invalid, Limited, NotFound, SimonidesError, Unavailable
from . import messages
from .gate import Gate
from .replays import Replays, Reply
from .seeds import soma_grpc
from .spool import spooled

SERVICE = "simonides.v1.Memory"
NAMED = {"Store": "remember", "StoreMany": "remember", "Recall": "recall", "Delete": "erase", "Health": "health"}
STATUS = {
    "invalid": StatusCode.INVALID_ARGUMENT,
    "unauthorized": StatusCode.UNAUTHENTICATED,
    "forbidden": StatusCode.PERMISSION_DENIED,
    "not_found": StatusCode.NOT_FOUND,
    "conflict": StatusCode.ABORTED,
    "limited": StatusCode.RESOURCE_EXHAUSTED,
    "damaged": StatusCode.DATA_LOSS,
    "unavailable": StatusCode.UNAVAILABLE,
    "full": StatusCode.RESOURCE_EXHAUSTED,
}
SAID_MAX = 1000  # characters of an error: more does not fit in what a client takes of trailers
PIECE = 256 * 1024  # bytes of an export in one message; clients take 4 MB where nobody told them otherwise
KEEPALIVE_MS = 30_000  # between two looks whether a silent client is still there

log = logging.getLogger(__name__)

T = TypeVar("T")


async def start(
    desk: Desk,
    gate: Gate,
    *,
    host: str,
    port: int,
    replays: Replays | None = None,
    credentials: grpc.ServerCredentials | None = None,
) -> Door:
    """Open the door at that address; port 0 takes a free one. Raise Unavailable where it cannot be listened at.

    `replays` are the answers to marked writes, which all doors of one server share, as an erase empties them.
    """
    door = Door(desk, gate, replays or Replays(), credentials)
    await door.open(f"[{host}]" if ":" in host and not host.startswith("[") else host, port)
    return door


class Door:
    """gRPC, while it is open. `port` is where it listens."""

    port: int

    def __init__(
        self, desk: Desk, gate: Gate, replays: Replays, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self._desk, self._gate, self._replays, self._credentials = desk, gate, replays, credentials
        if replays.clear not in desk.on_erase:
            desk.on_erase.append(replays.clear)
        self._endless: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._health = _Health(desk)
        self._server: grpc.aio.Server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", desk.serving.body_mb_max * 2**20),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 3),
            ],
            maximum_concurrent_rpcs=desk.serving.connections_max,
        )
        health_file, reflection_file = health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR
        pool = messages.pool_of(health_file.serialized_pb, reflection_file.serialized_pb)
        self._methods = messages.methods(pool.FindServiceByName(SERVICE))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        soma = messages.methods(pool.FindServiceByName(soma_grpc.SERVICE))
        answers = {
            name: grpc.unary_unary_rpc_method_handler(self._answering(self._soma(run, soma[name])))
            for name, run in soma_grpc.METHODS.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(soma_grpc.SERVICE, answers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, soma_grpc.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool)

    async def open(self, host: str, port: int) -> None:
        address = f"{host}:{port}"
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise Unavailable(f"gRPC cannot listen at {address}: is something else there already?") from None
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        """Take no new calls, end the streams that have no end of their own, and give the others so many seconds."""
        self._closing = True
        await self._health.enter_graceful_shutdown()
        for task in self._endless:
            task.cancel()
        await self._server.stop(grace)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        one = {
            name: grpc.unary_unary_rpc_method_handler(self._answering(self._named(row, self._methods[name])))
            for name, row in NAMED.items()
        }
        return {
            **one,
            "Call": grpc.unary_unary_rpc_method_handler(self._answering(self._call)),
            "Events": grpc.unary_stream_rpc_method_handler(self._streaming(self._events)),
            "Export": grpc.unary_stream_rpc_method_handler(self._streaming(self._export)),
            "Import": grpc.stream_unary_rpc_method_handler(self._answering(self._import)),
        }

    # -- who comes, and what goes wrong ------------------------------------------------------------------------------

    def _answering(self, work: Callable[[Any, ServicerContext, Principal], Awaitable[bytes]]) -> Any:
        """Return a method that answers once. It is handed what came as it came: nothing is read of a stranger."""

        async def method(request: Any, context: ServicerContext) -> bytes:
            return await self._guarded(context, lambda principal: work(request, context, principal))

        return method

    def _streaming(self, work: Callable[[bytes, ServicerContext, Principal], Awaitable[None]]) -> Any:
        async def method(request: bytes, context: ServicerContext) -> None:
            await self._guarded(context, lambda principal: work(request, context, principal))

        return method

    async def _guarded(self, context: ServicerContext, work: Callable[[Principal], Awaitable[T]]) -> T:
        """Let in who may come in, and answer; what goes wrong becomes a status."""
        try:
            entered = await self._gate.admit(headers_of(context), address_of(context.peer()))
            if room := entered.room:
                context.set_trailing_metadata(
                    (
                        ("ratelimit-limit", str(room.limit)),
                        ("ratelimit-remaining", str(room.remaining)),
                        ("ratelimit-reset", str(room.reset)),
                    )
                )
            return await work(entered.principal)
        except SimonidesError as error:
            status, said, trailers = STATUS.get(error.code, StatusCode.INTERNAL), error.message, trailers_of(error)
        except _Late as late:
            status, said, trailers = StatusCode.DEADLINE_EXCEEDED, str(late), (("simonides-code", "timeout"),)
        except Exception:
            log.exception("a call over gRPC failed")
            status, said, trailers = StatusCode.INTERNAL, "something went wrong here; the log says what", ()
        await context.abort(status, clipped(said), trailers)
        raise AssertionError("abort raises")

    # -- operations --------------------------------------------------------------------------------------------------

    def _named(self, name: str, method: MethodDescriptor) -> Callable[..., Awaitable[bytes]]:
        async def answer(request: bytes, context: ServicerContext, principal: Principal) -> bytes:
            asked = messages.arguments(messages.parsed(method, request))
            if method.name == "StoreMany":
                asked["content"] = [each.get("content") for each in asked.get("content", ())]
            found = await self._done(OPERATIONS[name], asked, context, principal, mark_of(context))
            return messages.answered(method, found)

        return answer

    async def _call(self, request: bytes, context: ServicerContext, principal: Principal) -> bytes:
        asked = messages.arguments(messages.parsed(method := self._methods["Call"], request))
        name = asked.get("operation", "")
        if (row := OPERATIONS.get(name)) is None:
            raise NotFound(f"there is no operation {name!r}; there are: {', '.join(OPERATIONS)}")
        answer = await self._done(row, asked.get("arguments", {}), context, principal, mark_of(context))
        return messages.answered(method, {"answer": answer})

    def _soma(self, run: Callable[..., Awaitable[dict[str, Any]]], method: MethodDescriptor) -> Any:
        async def answer(request: bytes, context: ServicerContext, principal: Principal) -> bytes:
            asked = messages.arguments(messages.parsed(method, request))
            scope = granted(self._desk, principal, read(Asked, {}), Permit(0)).scope

            async def ask(name: str, **arguments: Any) -> dict[str, Any]:
                return await self._done(OPERATIONS[name], arguments, context, principal)

            async with self._timed(context):
                return messages.answered(method, await run(asked, ask, scope))

        return answer

    async def _done(
        self,
        row: Operation,
        asked: Mapping[str, Any],
        context: ServicerContext,
        principal: Principal,
        mark: str | None = None,
    ) -> dict[str, Any]:
        async def work() -> dict[str, Any]:
            async with self._timed(context):
                return await row(self._desk, principal, asked, once=mark)

        async def reply() -> Reply:
            return Reply(msgspec.json.encode(await work()), 200)

        if mark is None or row.reads:
            return await work()
        request = hashlib.sha256(msgspec.json.encode([row.name, asked], order="deterministic")).digest()
        try:
            found, replayed = await self._replays.once(f"grpc {principal.name}", mark, request, reply)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise Unavailable("the same write was given up by whoever sent it first: send it again") from None
        if replayed:
            context.set_trailing_metadata((*(context.trailing_metadata() or ()), ("idempotency-replayed", "true")))
        answer: dict[str, Any] = msgspec.json.decode(found.content)
        return answer

    @contextlib.asynccontextmanager
    async def _timed(self, context: ServicerContext) -> AsyncIterator[None]:
        """Give what is inside the time that its client leaves it, at most what the server allows."""
        left, most = context.time_remaining(), self._desk.serving.seconds_max
        seconds = most if left is None else min(left, most)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise _Late(f"it took longer than {seconds:g} s; it may be done all the same") from None

    # -- streams -----------------------------------------------------------------------------------------------------

    async def _events(self, request: bytes, context: ServicerContext, principal: Principal) -> None:
        asked = read(Events, messages.arguments(messages.parsed(method := self._methods["Events"], request)))
        call = granted(self._desk, principal, asked, Permit.READ)
        if asked.after is None:
            asked = asked.model_copy(update={"after": (await call.memory.position()).written})
        with self._gate.hold(principal, "streams", self._desk.serving.streams_max):
            await context.send_initial_metadata(())  # who has it misses nothing of what is written from now on
            async with self._without_end(), contextlib.aclosing(events(asked, call)) as found:
                async for event in found:
                    await context.write(messages.answered(method, event))

    @contextlib.asynccontextmanager
    async def _without_end(self) -> AsyncIterator[None]:
        """End what is inside when the door is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._endless.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._closing or task.uncancel():
                raise
            raise Unavailable("the server is stopping: come back with the last seq as after") from None
        finally:
            self._endless.discard(task)

    async def _export(self, request: bytes, context: ServicerContext, principal: Principal) -> None:
        asked = read(Export, messages.arguments(messages.parsed(method := self._methods["Export"], request)))
        call = granted(self._desk, principal, asked, Permit.READ)
        async with contextlib.aclosing(export(asked, call)) as found:
            async for block in found:
                for at in range(0, len(block), PIECE):
                    await context.write(messages.answered(method, {"data": block[at : at + PIECE]}))

    async def _import(self, requests: AsyncIterator[bytes], context: ServicerContext, principal: Principal) -> bytes:
        method = self._methods["Import"]
        if (begin := await anext(aiter(requests), None)) is None:
            raise Invalid("nothing was sent to import")
        said = messages.arguments(messages.parsed(method, begin))
        first = said.pop("data", b"")
        asked = read(Import, said)
        call: Call = granted(self._desk, principal, asked, Permit.WRITE)

        async def blocks() -> AsyncIterator[bytes]:
            yield first
            async for data in requests:
                yield messages.arguments(messages.parsed(method, data)).get("data", b"")

        with self._gate.hold(principal, "imports", self._desk.serving.imports_max):
            async with spooled(blocks()) as path:
                return messages.answered(method, await take_in(path, "the file sent", call, ids=asked.ids))


class _Late(Exception):
    """A call took longer than it may."""


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """What the standard asks for: the store is looked at whenever somebody asks."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    async def Check(self, request: Any, context: ServicerContext) -> Any:
        answer = await super().Check(request, context)
        try:
            await self._desk.memory.position()
        except SimonidesError:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        return answer


# -- what goes beside a message --------------------------------------------------------------------------------------


def headers_of(context: ServicerContext) -> Headers:
    """Return the metadata of a call as headers; what is binary is not among them."""
    found = context.invocation_metadata() or ()
    return Headers(raw=[(k.encode(), v.encode("latin-1", "replace")) for k, v in found if isinstance(v, str)])


def address_of(peer: str) -> str:
    """Return the address in what gRPC calls a peer: ipv4:127.0.0.1:50514, ipv6:%5B::1%5D:50514, unix:…"""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer


def mark_of(context: ServicerContext) -> str | None:
    mark = headers_of(context).get("idempotency-key")
    if mark is not None and (not mark.strip() or not mark.isprintable() or len(mark) > 200):
        raise Invalid("an idempotency-key must be a printable text of at most 200 characters")
    return mark


def trailers_of(error: SimonidesError) -> tuple[tuple[str, str], ...]:
    """Return what a program may want to know of an error. A client that tries again by itself waits as it is told."""
    found = [("simonides-code", error.code), ("simonides-retryable", str(error.retryable).lower())]
    if isinstance(error, Limited):
        seconds = max(1, round(error.retry_after + 0.5))
        found += [("retry-after", str(seconds)), ("grpc-retry-pushback-ms", str(seconds * 1000))]
    elif error.retryable:
        found += [("retry-after", "1")]
    return tuple(found)


def clipped(text: str) -> str:
    """Return what of a text fits in a status."""
    said = text if len(text) <= SAID_MAX else f"{text[: SAID_MAX - 1]}…"
    return said.encode("utf-8", "replace").decode()
