"""The memory over HTTP: a route for every operation of the table, under /api/v1, with OpenAPI made from its models.

One call: `Doorway` (who is it?) → a route → `Operation` (is it allowed?) → `AsyncMemory`. Errors are problem documents.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any, cast
from urllib.parse import unquote

import msgspec
from fastapi import Body, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..access import Principal
from ..api import OPERATIONS, Desk, Operation
from ..errors import Conflict, Invalid, SimonidesError
from ..version import VERSION
from . import docs
from .gate import Gate
from .problems import MEDIA_TYPE, Problem, problem, refusal
from .replays import Replays

OPEN = frozenset({"/health/live", "/health/ready", *docs.PATHS})  # hold nothing of anybody's
ELSEWHERE = ("/v1",)  # doors that let people in themselves
PROBLEM = {"$ref": "#/components/schemas/Problem"}
IN_QUERY = frozenset({"wait"})  # of a body's fields, those that stand in the URL
SLASH = "\ufdd0"  # stands in a path for a slash that belongs to an id; no text holds it
FIELDS = "Only these fields of each result, separated by commas: id,text,scope.user"
ABOUT = """Memory for AI systems: keeps what was said, finds what matters, corrects itself, and forgets provably.

Show a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are problem documents with a stable `code`.
Writes take an `Idempotency-Key`, so that a retry is answered and not done again."""


def app(desk: Desk, gate: Gate, *, more: Iterable[Callable[[FastAPI], None]] = ()) -> FastAPI:
    """Return the application. `more` are other doors of the same house, which mount themselves.

    They find `desk` and `gate` in `made.state`; `closing`, an event that is set when the server stops, which ends what
    has no end of its own; and `at_end`, a list for what they have to have awaited then.
    """
    made = _App(
        title="Simonides",
        version=VERSION,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    made.state.desk, made.state.gate, made.state.replays = desk, gate, Replays()
    made.state.closing, made.state.at_end = asyncio.Event(), []
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


class _App(FastAPI):
    """Describes the keys that are asked for, and the problems, each once."""

    def openapi(self) -> dict[str, Any]:
        made = self.openapi_schema is not None
        schema = super().openapi()
        if not made:
            parts = schema.setdefault("components", {})
            parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            parts["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": "A key: `simonides keys create` makes one."},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
            }
            anybody: list[dict[str, list[str]]] = [] if self.state.desk.serving.keys_asked else [{}]
            schema["security"] = [*anybody, {"key": []}, {"header": []}]
            for path in OPEN & schema["paths"].keys():
                for operation in schema["paths"][path].values():
                    operation["security"] = []
        return schema


class Doorway:
    """Lets in who may come in, before anything of the request is read. Whoever is inside has `state.principal`."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and b"%2f" in scope.get("raw_path", b"").lower():
            scope = {**scope, "path": unquote(re.sub("(?i)%2f", SLASH, scope["raw_path"].decode("ascii", "replace")))}
        if scope["type"] != "http" or _stays_open(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            principal = await self._gate.enter(request.headers, request.client.host if request.client else "")
        except SimonidesError as error:
            await refusal(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        room = self._gate.room(principal)

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


def principal_of(request: Request) -> Principal:
    return cast(Principal, request.state.principal)


# -- a route for a row --------------------------------------------------------------------------------------------


def _add(made: FastAPI, row: Operation) -> None:
    in_path = re.findall(r"{(\w+)}", row.path)
    fields = {name: info for name, info in row.takes.model_fields.items() if name not in in_path}
    has_body = row.method in ("POST", "PUT", "PATCH")
    in_body = {name: info for name, info in fields.items() if has_body and name not in IN_QUERY}
    in_query = {name: info for name, info in fields.items() if name not in in_body}
    parameters = [_parameter("request", Request)]
    parameters += [
        _parameter(name, Annotated[row.takes.model_fields[name].rebuild_annotation(), Path()]) for name in in_path
    ]
    query = _query_model(row, in_query)
    parameters.append(_parameter("query", Annotated[query, Query()]))
    if in_body:
        body = _model(f"{_camel(row.name)}Body", in_body, row.takes.__doc__)
        required = any(info.is_required() for info in in_body.values())
        annotation: Any = body if required else body | None
        parameters.append(
            _parameter("body", Annotated[annotation, Body()], inspect.Parameter.empty if required else None)
        )
    if not row.reads:
        parameters.append(_parameter("idempotency_key", Annotated[str | None, Header(max_length=200)], None))
    if row.name == "revise":
        parameters.append(_parameter("if_match", Annotated[str | None, Header(max_length=100)], None))
    endpoint = _endpoint(row, in_path)
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made.add_api_route(
        row.route,
        endpoint,
        methods=[row.method],
        name=row.name,
        summary=row.does,
        description=row.tells,
        tags=[row.resource],
        status_code=row.status,
        response_model=row.gives,
        responses=_refusals(row),
    )


def _endpoint(row: Operation, in_path: list[str]) -> Callable[..., Awaitable[Response]]:
    async def endpoint(
        request: Request,
        query: BaseModel,
        body: BaseModel | None = None,
        idempotency_key: str | None = None,
        if_match: str | None = None,
        **named: str,
    ) -> Response:
        asked = query.model_dump(exclude_unset=True)
        only = asked.pop("fields", None)
        if isinstance(asked.get("metadata"), str):
            asked["metadata"] = _json(asked["metadata"])
        ids = {name: value.replace(SLASH, "/") for name, value in named.items()}
        arguments = {**asked, **(body.model_dump(exclude_unset=True) if body else {}), **ids}
        if if_match is not None:
            arguments["version"] = _version(if_match)
        try:
            found, replayed = await _done(request, row, arguments, idempotency_key)
        except Conflict as error:
            if if_match is None:
                raise
            return problem(412, error.code, error.message)
        return _answer(request, row, found, only, replayed)

    return endpoint


async def _done(request: Request, row: Operation, arguments: Mapping[str, Any], mark: str | None) -> tuple[Any, bool]:
    desk: Desk = request.app.state.desk
    replays: Replays = request.app.state.replays
    principal = principal_of(request)

    async def work() -> Any:
        try:
            async with asyncio.timeout(desk.serving.seconds_max):
                return await row(desk, principal, arguments, once=mark)
        except TimeoutError:
            raise HTTPException(
                504, f"it took longer than {desk.serving.seconds_max:g} s; it may be done all the same"
            ) from None
        finally:
            if row.destroys:
                replays.clear()

    if mark is None or row.reads:
        return await work(), False
    if not mark.strip() or not mark.isprintable():
        raise Invalid("an Idempotency-Key must be a printable text")
    request_digest = hashlib.sha256(msgspec.json.encode([row.name, arguments], order="deterministic")).digest()
    return await replays.once(principal.name, mark, request_digest, work)


def _answer(request: Request, row: Operation, found: Any, only: str | None, replayed: bool) -> Response:
    headers: dict[str, str] = {}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    version = found.get("version") if row.name == "get" else (found.get("record") or {}).get("version")
    if version is not None:
        headers["ETag"] = f'"{version}"'
        if row.name == "get" and request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
    later = found.get("indexed") is False and row.status in (200, 201) and not row.reads
    return Response(
        msgspec.json.encode(projected(found, only)), 202 if later else row.status, headers, "application/json"
    )


def _version(if_match: str) -> int:
    found = re.fullmatch(r'\s*(?:W/)?"(\d{1,18})"\s*', if_match)
    if found is None:
        raise Invalid('If-Match must be the ETag that was given: "3"')
    return int(found[1])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid('metadata must be a JSON object, like {"project":"bridge"}') from None


# -- only some fields ---------------------------------------------------------------------------------------------


def projected(found: Any, only: str | None) -> Any:
    """Return what was found with only these fields: of each result, where there are several."""
    if only is None:
        return found
    paths = [path.strip().split(".") for path in only.split(",") if path.strip()]
    if not paths:
        raise Invalid("fields is empty: leave it out for everything")
    for name in ("results", "hits"):
        if isinstance(found.get(name), list):
            return {**found, name: [_only(each, paths) for each in found[name]]}
    return _only(found, paths)


def _only(value: Any, paths: list[list[str]]) -> Any:
    made: dict[str, Any] = {}
    for first, *rest in paths:
        if first not in value:
            raise Invalid(f"there is no field {first!r}; there are: {', '.join(value)}")
        if rest and isinstance(value[first], dict):
            made[first] = {**made.get(first, {}), **_only(value[first], [rest])}
        elif rest:
            raise Invalid(f"{first} has no fields of its own")
        else:
            made[first] = value[first]
    return made


# -- models of what stands where ----------------------------------------------------------------------------------


def _query_model(row: Operation, fields: Mapping[str, FieldInfo]) -> type[BaseModel]:
    found: dict[str, Any] = {}
    for name, info in fields.items():
        if name == "metadata":
            found[name] = (
                str | None,
                Field(None, description="A JSON object: its values at the top level.", max_length=10_000),
            )
        else:
            found[name] = (info.rebuild_annotation(), info)
    if row.reads:
        found["fields"] = (str | None, Field(None, description=FIELDS, max_length=1000))
    return create_model(f"{_camel(row.name)}Query", __config__=ConfigDict(extra="forbid"), **found)


def _model(name: str, fields: Mapping[str, FieldInfo], doc: str | None) -> type[BaseModel]:
    found: dict[str, Any] = {field: (info.rebuild_annotation(), info) for field, info in fields.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=doc, **found)


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _refusals(row: Operation) -> dict[int | str, dict[str, Any]]:
    statuses = [401, 403, 404, 413, 422, 429, 500, 503, 504]
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
        status: {"content": {MEDIA_TYPE: {"schema": PROBLEM}}, "description": "A problem document."}
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
    said = []
    for each in error.errors()[:3]:
        where = ".".join(str(part) for part in each["loc"] if part not in ("body", "query", "path", "header"))
        said.append(f"{where or 'the request'}: {each['msg']}")
    return problem(422, "invalid", "; ".join(said))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method", 408: "timeout", 413: "too_large", 504: "timeout"}
    return problem(
        error.status_code,
        codes.get(error.status_code, "http"),
        str(error.detail),
        retryable=error.status_code >= 500,
        headers=error.headers,
    )


async def _failed(request: Request, error: Exception) -> Response:
    return problem(500, "error", "something went wrong here; the log says what, under the request's id")
