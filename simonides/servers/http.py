"""The memory over HTTP: a route for every operation of the table, under /api/v1, with OpenAPI made from its models.

One call: `Doorway` (who is it?) → a route → `Operation` (is it allowed?) → `AsyncMemory`. Errors are problem documents.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ..access import Principal
from ..api import OPERATIONS, PREFIX, Desk, Operation
from ..errors import Conflict, Invalid, SimonidesError
from ..version import VERSION
from . import docs
from .gate import Gate
from .problems import MEDIA_TYPE, TITLES, Problem, problem, refusal
from .reading import SLASH, Reader, Shown, is_list
from .replays import Replays, Reply

OPEN = frozenset({"/health/live", "/health/ready", *docs.PATHS})  # hold nothing of anybody's
ELSEWHERE = ("/v1",)  # doors that let people in themselves
KEYS = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
METADATA = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    "example": {"project": "bridge"},
}
STREAMS = tuple(f"{PREFIX}/{name}" for name in ("events", "export"))  # answer no HEAD: nobody knows their length
TAGS = {"recalling": "recall", "people": "keys"}  # what a resource is called, where not as its file
SEVERAL = ("results", "hits")  # what an answer calls what there may be several of
ABOUT = """Memory for AI systems: keeps what was said, finds what matters, corrects itself, and forgets provably.

Show a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are problem documents with a stable `code`.
Writes take an `Idempotency-Key`, so that a retry is answered and not done again."""


def app(desk: Desk, gate: Gate, *, more: Iterable[Callable[[FastAPI], None]] = ()) -> FastAPI:
    """Return the application. `more` are other doors of the same house, which mount themselves.

    They find `desk` and `gate` in `made.state`; `closing`, an event that is set when the server stops, which ends what
    has no end of its own; and `at_end`, a list for what they have to have awaited then.
    """
    made = Described(
        gate,
        title="Simonides",
        version=VERSION,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    replays = Replays(erased=desk.memory._erased_behind)
    made.state.desk, made.state.gate, made.state.replays = desk, gate, replays
    made.state.closing, made.state.at_end = asyncio.Event(), []
    desk.on_erase.append(replays.clear)
    made.add_exception_handler(SimonidesError, _refused)
    made.add_exception_handler(RequestValidationError, _invalid)
    made.add_exception_handler(HTTPException, _http)
    made.add_exception_handler(Exception, _failed)
    for row in OPERATIONS.values():
        _add(made, row)
    _add_probes(made, desk)
    docs.add(made)
    for mount in more:
        mount(made)
    made.add_middleware(Doorway, gate=gate)
    return made


class Described(FastAPI):
    """Says in its OpenAPI document, too, what `Doorway` asks for."""

    def __init__(self, gate: Gate, **named: Any) -> None:
        self._gate = gate
        super().__init__(**named)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            found = super().openapi()
            parts = found.setdefault("components", {})
            parts["securitySchemes"] = KEYS
            parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            needed: list[dict[str, Any]] = [{name: []} for name in KEYS]
            for path, operations in found["paths"].items():
                for each in operations.values():
                    if path not in OPEN:
                        each["security"] = needed if self._gate.requires else [*needed, {}]
                    for parameter in each.get("parameters", ()):
                        if parameter["name"] == "metadata":  # JSON in a URL, which a model of FastAPI's cannot say
                            parameter["content"] = {"application/json": {"schema": METADATA}}
                            parameter.pop("schema", None)
        assert self.openapi_schema is not None
        return self.openapi_schema


class Doorway:
    """Lets in who may come in, before anything of the request is read. Whoever is inside has `state.principal`."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"%2f" in scope.get("raw_path", b"").lower():
            scope = {**scope, "path": unquote(re.sub("(?i)%2f", SLASH, scope["raw_path"].decode("ascii", "replace")))}
        if scope["type"] == "http" and scope["method"] == "HEAD" and _has_head(scope["path"]):
            scope = {**scope, "method": "GET"}  # whoever serves leaves the body out
        if scope["type"] != "http" or _stays_open(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            entered = await self._gate.admit(request.headers, request.client.host if request.client else "")
        except SimonidesError as error:
            await refusal(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = entered.principal
        room = entered.room

        async def with_limits(message: Any) -> None:
            if message["type"] == "http.response.start" and room is not None:
                limits = {
                    "ratelimit-limit": room.limit,
                    "ratelimit-remaining": room.remaining,
                    "ratelimit-reset": int(room.reset + 1),
                }
                message["headers"] = [*message["headers"], *((n.encode(), str(v).encode()) for n, v in limits.items())]
            await send(message)

        await self._app(scope, receive, with_limits)


def _stays_open(scope: Scope) -> bool:
    path = scope["path"]
    return path in OPEN or any(path == door or path.startswith(f"{door}/") for door in ELSEWHERE)


def _has_head(path: str) -> bool:
    return path in OPEN or (path.startswith(f"{PREFIX}/") and path not in STREAMS)


def principal_of(request: Request) -> Principal:
    return cast(Principal, request.state.principal)


# -- a route for a row --------------------------------------------------------------------------------------------


def _add(made: FastAPI, row: Operation) -> None:
    read = Reader(row)

    async def answer(request: Request) -> Response:
        said = await read(request)
        only = chosen(row.gives, said.fields)
        if said.match is not None and said.match.strip() != "*":
            said.arguments["version"] = _version(said.match)
        try:
            reply, replayed = await _done(request, row, said.arguments, only, said.mark)
        except Conflict as error:
            if said.match is None:
                raise
            return problem(412, error.code, error.message)
        headers = {**reply.headers, **({"Idempotency-Replayed": "true"} if replayed else {})}
        if row.name == "get" and _same(request.headers.get("if-none-match"), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(reply.content, reply.status, headers, "application/json")

    answer.__signature__ = inspect.Signature(read.parameters)  # type: ignore[attr-defined]
    made.router.add_api_route(
        row.route,
        answer,
        methods=[row.method],
        name=row.name,
        summary=row.does,
        description=row.tells,
        tags=[TAGS.get(row.resource, row.resource)],
        status_code=row.status,
        response_model=row.gives,
        responses=_refusals(row, read.has_body),
        openapi_extra=_example(row) if read.has_body else None,
        route_class_override=Shown,
    )


async def _done(
    request: Request, row: Operation, arguments: Mapping[str, Any], only: Paths | None, mark: str | None
) -> tuple[Reply, bool]:
    desk: Desk = request.app.state.desk
    replays: Replays = request.app.state.replays
    principal = principal_of(request)

    async def work() -> Reply:
        try:
            async with asyncio.timeout(desk.serving.seconds_max):
                return _reply(row, await row(desk, principal, arguments, once=mark), only)
        except TimeoutError:
            raise HTTPException(
                504, f"it took longer than {desk.serving.seconds_max:g} s; it may be done all the same"
            ) from None

    if mark is None or row.reads:
        return await work(), False
    if not mark.strip() or not mark.isprintable():
        raise Invalid("an Idempotency-Key must be a printable text")
    digest = hashlib.sha256(json.dumps([row.name, arguments], sort_keys=True).encode()).digest()
    # A certificate holds nothing of what was erased, so it may be shown to whoever asks again.
    outlives = row.destroys and not arguments.get("dry_run")
    return await replays.once(principal.name, mark, digest, work, outlives=outlives)


def _reply(row: Operation, found: Any, only: Paths | None) -> Reply:
    version = found.get("version") if row.name == "get" else (found.get("record") or {}).get("version")
    headers = {} if version is None else {"ETag": f'"{version}"'}
    later = found.get("indexed") is False and row.status in (200, 201) and not row.reads
    return Reply(msgspec.json.encode(projected(found, only)), 202 if later else row.status, headers)


def _same(if_none_match: str | None, etag: str) -> bool:
    """Return whether the caller has that version already (RFC 9110, section 13.1.2)."""
    known = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return etag in known or "*" in known


def _version(if_match: str) -> int:
    found = re.fullmatch(r'\s*(?:W/)?"(\d{1,18})"\s*', if_match)
    if found is None:
        raise Invalid('If-Match must be the ETag that was given: "3"')
    return int(found[1])


# -- only some fields ---------------------------------------------------------------------------------------------

Paths = list[list[str]]


def chosen(gives: type[BaseModel], only: str | None) -> Paths | None:
    """Return the fields asked for, which that model has: of each result, where it gives several."""
    if only is None:
        return None
    paths = [path.strip().split(".") for path in only.split(",") if path.strip()]
    if not paths:
        raise Invalid("fields is empty: leave it out for everything")
    several = next((name for name in SEVERAL if name in gives.model_fields), None)
    of = _model_in(gives.model_fields[several].annotation) if several else gives
    assert of is not None
    for path in paths:
        _check(of, path)
    return paths


def _check(of: type[BaseModel], path: list[str]) -> None:
    first, *rest = path
    if first not in of.model_fields:
        raise Invalid(f"there is no field {first!r}; there are: {', '.join(of.model_fields)}")
    annotation = of.model_fields[first].annotation
    if not rest or typing.get_origin(annotation) is dict:
        return
    inner = None if is_list(annotation) else _model_in(annotation)
    if inner is None:
        raise Invalid(f"{first} has no fields of its own")
    _check(inner, rest)


def projected(found: Any, paths: Paths | None) -> Any:
    """Return what was found with only these fields: of each result, where there are several."""
    if paths is None:
        return found
    for name in SEVERAL:
        if isinstance(found.get(name), list):
            return {**found, name: [_only(each, paths) for each in found[name]]}
    return _only(found, paths)


def _only(value: Any, paths: Paths) -> Any:
    made: dict[str, Any] = {}
    for first, *rest in paths:
        if first in value and rest and isinstance(value[first], dict):
            made[first] = {**made.get(first, {}), **_only(value[first], [rest])}
        elif first in value:
            made[first] = value[first]
    return made


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation speaks of, be it optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in typing.get_args(annotation))
    return next((each for each in found if each is not None), None)


def _example(row: Operation) -> dict[str, Any] | None:
    content = {"application/json": {"example": row.example}}
    return {"requestBody": {"content": content}} if row.example else None


def _refusals(row: Operation, has_body: bool) -> dict[int | str, dict[str, Any]]:
    statuses = [401, 403, 404, 413, 422, 429, 500, 503, 504]
    if has_body:
        statuses.append(415)
    if not row.reads:
        statuses += [409, 507]
    if row.name == "revise":
        statuses.append(412)
    found = problems_of(*sorted(statuses))
    if row.name == "get":
        found[304] = {"description": "It is still that version."}
    if not row.reads and row.status in (200, 201):
        stored = {"application/json": {"schema": {"$ref": f"#/components/schemas/{row.gives.__name__}"}}}
        found[202] = {"content": stored, "description": "Stored, and not indexed yet: see `task`."}
    return found


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of answers with these statuses."""
    return {
        status: {
            "description": f"{TITLES[status]}.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


# -- probes and errors --------------------------------------------------------------------------------------------


def _add_probes(made: FastAPI, desk: Desk) -> None:
    @made.get("/health/live", tags=["system"], name="live", summary="Whether the process answers.")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @made.get("/health/ready", tags=["system"], name="ready", summary="Whether the store answers.")
    async def ready() -> dict[str, str]:
        await desk.memory.position()
        return {"status": "ok"}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SimonidesError)
    return refusal(error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(each["loc"][:1] == ("body",) and isinstance(each.get("input"), bytes) for each in error.errors()):
        return problem(415, "media_type", "the body must be JSON, and the Content-Type application/json")
    if broken := next((each for each in error.errors() if each["type"] == "json_invalid"), None):
        why = str(broken.get("ctx", {}).get("error", "")).lower()
        return problem(422, "invalid", f"the body is no JSON: {why} at character {broken['loc'][-1]}")
    said = []
    for each in error.errors()[:3]:
        where = ".".join(str(part) for part in each["loc"] if part not in ("body", "query", "path", "header"))
        said.append(f"{where or 'the request'}: {each['msg']}")
    return problem(422, "invalid", "; ".join(said))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method", 408: "timeout", 413: "too_large", 504: "timeout"}
    if error.status_code == 400:  # of a body: not UTF-8, or nested too deeply
        return problem(422, "invalid", "the body is no JSON that can be read")
    if error.status_code == 405:
        methods = ", ".join(_methods(request))
        return problem(405, "method", f"this address takes {methods}: see /docs", headers={"Allow": methods})
    if error.status_code == 404 and error.detail == "Not Found":
        return problem(404, "not_found", "there is nothing at this address: /docs shows what there is")
    return problem(
        error.status_code,
        codes.get(error.status_code, "http"),
        str(error.detail),
        retryable=error.status_code >= 500,
        headers=error.headers,
    )


def _methods(request: Request) -> list[str]:
    """Return the methods that there are at the request's path: of a name of ours, not of an id that is spelled so."""
    at = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    path = min((route.path for route in at), key=lambda path: path.count("{"), default="")
    found = {method for route in at if route.path == path for method in getattr(route, "methods", None) or ()}
    return sorted(found | ({"HEAD"} if "GET" in found and _has_head(request.scope["path"]) else set()))


async def _failed(request: Request, error: Exception) -> Response:
    return problem(500, "error", "something went wrong here; the log says what, under the request's id")
