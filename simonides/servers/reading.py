"""What a request says to an operation: its path, its URL, its headers and its body, each read by a model of its own.

FastAPI is shown the same models for OpenAPI, and does not read with them: what it does for handlers of every kind takes
longer than all the rest of a call.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..api import Operation
from ..api.shapes import Strict
from ..errors import Invalid

IN_QUERY = frozenset({"wait"})  # of a body's fields, those that stand in the URL
SLASH = "\ufdd0"  # stands in a path for a slash that belongs to an id; no text holds it
FIELDS = "Only these fields of each result, separated by commas: id,text,scope.user. The others are left out."
MARK, MATCH = "Idempotency-Key", "If-Match"
HEADERS = {
    MARK: Header(
        alias=MARK,
        description="A mark of this write: sent again with the same mark it is answered again, not done again.",
        max_length=200,
    ),
    MATCH: Header(
        alias=MATCH, description='The ETag of the version that is meant to be the latest: `"3"`.', max_length=100
    ),
}


class Shown(APIRoute):
    """A route that FastAPI describes by the signature of its endpoint, which takes the request as it came."""

    def get_route_handler(self) -> Any:
        return self.endpoint


@dataclass(frozen=True, slots=True)
class Said:
    """What a request said. `fields` are those that it wants of the answer; `mark` and `match` stood in its headers."""

    arguments: dict[str, Any]
    fields: str | None = None
    mark: str | None = None
    match: str | None = None


class Reader:
    """Reads what requests say to one operation. `parameters` is what of it stands where, as FastAPI is shown it."""

    def __init__(self, row: Operation) -> None:
        in_path = re.findall(r"{(\w+)}", row.path)
        fields = {name: info for name, info in row.takes.model_fields.items() if name not in in_path}
        has_body = row.method in ("POST", "PUT", "PATCH")
        in_body = {name: info for name, info in fields.items() if has_body and name not in IN_QUERY}
        in_query = {name: info for name, info in fields.items() if name not in in_body}
        self._lists = frozenset(name for name, info in in_query.items() if is_list(info.annotation))
        self._headers = [name for name, there in ((MARK, not row.reads), (MATCH, row.name == "revise")) if there]
        ids = {name: (row.takes.model_fields[name].rebuild_annotation(), ...) for name in in_path}
        headers = {name: (Annotated[str, HEADERS[name]] | None, None) for name in self._headers}
        self._named = TypeAdapter(create_model("Named", **ids, **headers))  # type: ignore[call-overload]
        query, body = _query_model(row, in_query), _body_model(row, in_body)
        self._query, self._body = TypeAdapter(query), TypeAdapter(body) if in_body else None
        self.parameters = [_parameter(name, Annotated[kind, Path()]) for name, (kind, _) in ids.items()]
        self.parameters.append(_parameter("query", Annotated[query, Query()]))
        if in_body:
            required = isinstance(body, type)
            self.parameters.append(
                _parameter("body", Annotated[body, Body()], inspect.Parameter.empty if required else None)
            )
        self.parameters += [
            _parameter(name.lower().replace("-", "_"), Annotated[str | None, HEADERS[name]], None)
            for name in self._headers
        ]

    @property
    def has_body(self) -> bool:
        return self._body is not None

    async def __call__(self, request: Request) -> Said:
        """Return what the request says; raise Invalid or RequestValidationError with what is wrong with it."""
        wrong = list[Any]()
        headers = {name: request.headers[name] for name in self._headers if name in request.headers}
        named = _read(self._named, {**request.path_params, **headers}, "path", wrong)
        asked = _read(self._query, self._of_url(request), "query", wrong)
        body = _read(self._body, await _content(request), "body", wrong) if self._body else {}
        if wrong:
            raise RequestValidationError(wrong)
        once_only(request, self._lists)
        fields, mark, match = asked.pop("fields", None), named.pop(MARK, None), named.pop(MATCH, None)
        if isinstance(asked.get("metadata"), str):
            asked["metadata"] = json_of("metadata", asked["metadata"])
        ids = {name: value.replace(SLASH, "/") for name, value in named.items()}
        return Said({**asked, **body, **ids}, fields, mark, match)

    def _of_url(self, request: Request) -> dict[str, Any]:
        said = request.query_params
        return {name: said.getlist(name) if name in self._lists else said[name] for name in said}


def _read(model: TypeAdapter[Any], said: Any, where: str, wrong: list[Any]) -> dict[str, Any]:
    """Return what was said, as the model reads it; add to `wrong` what it does not take."""
    try:
        found = model.validate_python(said)
    except ValidationError as error:
        wrong += [{**each, "loc": (where, *each["loc"])} for each in error.errors(include_url=False)]
        return {}
    return {} if found is None else found.model_dump(exclude_unset=True)


async def _content(request: Request) -> Any:
    """Return the body: what its JSON says, the bytes where it is said to be something else, None where it is empty."""
    try:
        content = await request.body()
    except ClientDisconnect:
        raise HTTPException(400) from None
    if not content or not _is_json(request.headers.get("content-type", "")):
        return content or None
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        found = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "no JSON", "ctx": {"error": error.msg}}
        raise RequestValidationError([found]) from None
    except (ValueError, RecursionError):
        raise HTTPException(400) from None


def _is_json(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def json_of(name: str, text: str) -> Any:
    """Return what stands in the URL as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid(f'{name} must be a JSON object, like {{"project":"bridge"}}') from None


def once_only(request: Request, lists: Collection[str] = ()) -> None:
    """Refuse a URL that says one thing twice: nobody should have to know which of them counts."""
    if not request.query_params:
        return
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if count > 1 and name not in lists:
            raise Invalid(f"{name} stands in the URL {count} times: name it once")


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
    return create_model(f"{camel(row.name)}Query", __config__=ConfigDict(extra="forbid"), **found)


def _body_model(row: Operation, fields: Mapping[str, FieldInfo]) -> Any:
    """Return the model of the body, or that or None where all of it may be left out."""
    found: dict[str, Any] = {field: (info.rebuild_annotation(), info) for field, info in fields.items()}
    made = create_model(f"{camel(row.name)}Body", __base__=Strict, __doc__=row.takes.__doc__, **found)
    return made if any(info.is_required() for info in fields.values()) else made | None


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list or any(map(is_list, typing.get_args(annotation)))


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
