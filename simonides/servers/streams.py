"""Export, import and events over HTTP: lines of JSON out and in, and server-sent events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Request
from pydantic import ConfigDict, Field
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..access import Permit
from ..api import PREFIX, Desk
from ..api.operation import granted, read
from ..api.streams import Events, Export, Import, Imported, events, export, take_in
from ..errors import Unauthorized
from .gate import Gate
from .http import principal_of, problems_of
from .reading import json_of, once_only
from .spool import spooled

PING_S = 15  # between two signs of life in a stream of events


class ExportQuery(Export):
    model_config = ConfigDict(strict=False)  # in a URL everything is text

    metadata: str | None = Field(None, description="A JSON object.", max_length=10_000)  # type: ignore[assignment]


class ImportQuery(Import):
    model_config = ConfigDict(strict=False)


class EventsQuery(Events):
    model_config = ConfigDict(strict=False)


def mount(made: FastAPI) -> None:
    desk: Desk = made.state.desk
    gate: Gate = made.state.gate

    @made.get(
        f"{PREFIX}/export",
        name="export_all",
        tags=["exchange"],
        summary="Export every version of what matches, as lines of JSON.",
        response_class=StreamingResponse,
        responses=problems_of(401, 403, 422, 429)
        | {200: {"content": {"application/x-ndjson": {}}, "description": "One version a line."}},
    )
    async def export_all(request: Request, query: Annotated[ExportQuery, Query()]) -> Response:
        once_only(request, ("kinds", "labels", "sources"))
        asked = query.model_dump(exclude_unset=True)
        if isinstance(asked.get("metadata"), str):
            asked["metadata"] = json_of("metadata", asked["metadata"])
        which = read(Export, asked)
        lines = export(which, granted(desk, principal_of(request), which, Permit.READ))
        first = await anext(lines)  # what is wrong with the question is said before the answer begins
        headers = {"Content-Disposition": 'attachment; filename="simonides.jsonl"'}
        return StreamingResponse(_all(first, lines), 200, headers, "application/x-ndjson")

    @made.post(
        f"{PREFIX}/import",
        name="import_all",
        tags=["exchange"],
        summary="Take in an export of ours, or a file of another program, told by what it holds.",
        response_model=Imported,
        responses=problems_of(401, 403, 413, 415, 422, 429, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-ndjson": {"schema": {"type": "string"}},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            }
        },
    )
    async def import_all(request: Request, query: Annotated[ImportQuery, Query()]) -> Response:
        once_only(request)
        call = granted(desk, principal_of(request), query, Permit.WRITE)
        with gate.hold(call.principal, "imports", desk.serving.imports_max):
            async with spooled(request.stream()) as path:
                found = await take_in(path, "the file sent", call, ids=query.ids)
        return Response(msgspec.json.encode(found), 200 if found["indexed"] else 202, None, "application/json")

    @made.get(
        f"{PREFIX}/events",
        name="events",
        tags=["system"],
        summary="What happens, as it happens: server-sent events read off the log.",
        response_class=EventSourceResponse,
        responses=problems_of(401, 403, 422, 429)
        | {200: {"content": {"text/event-stream": {}}, "description": "An event for each line of the log."}},
    )
    async def all_events(
        request: Request,
        query: Annotated[EventsQuery, Query()],
        last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^[0-9]{1,15}$")] = None,
    ) -> Response:
        once_only(request)
        if last_event_id is not None:
            query = query.model_copy(update={"after": int(last_event_id)})
        call = granted(desk, principal_of(request), query, Permit.READ)
        held = gate.hold(call.principal, "streams", desk.serving.streams_max)
        return Held(_told(query, call), held)


class Held(EventSourceResponse):
    """A stream of events, which counts as one that is open while it is."""

    def __init__(self, content: AsyncIterator[dict[str, str]], held: AbstractContextManager[None]) -> None:
        super().__init__(content, ping=PING_S)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in rest:
        yield each


async def _told(asked: Events, call: Any) -> AsyncIterator[dict[str, str]]:
    with contextlib.suppress(Unauthorized):  # the key was closed: whoever comes back will hear so
        async for event in events(asked, call):
            yield {"event": event["did"], "id": str(event["seq"]), "data": json.dumps(event, ensure_ascii=False)}
