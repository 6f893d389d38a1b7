"""The data routes of SomaFractalMemory: payloads under coordinates, which are their owner's names of records."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ...access import Permit
from ...api import OPERATIONS, Desk
from ...api.operation import granted
from ...api.shapes import Asked, Text
from ...errors import Invalid, NotFound
from ...record import stable_id
from ..http import principal_of, problems_of
from . import kept

ERRORS = problems_of(401, 403, 404, 409, 413, 415, 422, 429, 503, 507)
SAYING = ("text", "content", "summary", "fact", "task", "description", "title")  # members of a payload that say it
PLACED = "has_coordinate"  # in the metadata of every record that is kept under one
Type = Literal["episodic", "semantic"]
Coordinate = Annotated[str, Field(min_length=1, max_length=200, examples=["1,2,3"])]


class Store(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    coord: Coordinate
    payload: dict[str, JsonValue]
    memory_type: Type = "episodic"


class Stored(BaseModel):
    coord: str
    memory_type: str


class Memory(BaseModel):
    coordinate: list[float]
    payload: dict[str, JsonValue]
    memory_type: str
    metadata: dict[str, JsonValue]
    importance: int
    created_at: str | None
    updated_at: str | None


class Got(BaseModel):
    memory: Memory


class Deleted(BaseModel):
    coord: str
    deleted: bool


class Scored(Memory):
    score: float


class FoundPayloads(BaseModel):
    memories: list[Scored]


class Search(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    top_k: int = Field(5, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1000)
    memory_type: Type | None = None
    filters: dict[str, str | int | float | bool | None] | None = Field(
        None, description="Members of the payload that have these values."
    )


def mount(made: FastAPI) -> None:
    desk: Desk = made.state.desk

    async def asked(request: Request, name: str, **arguments: Any) -> Any:
        said = {name: value for name, value in arguments.items() if value is not None}
        return await OPERATIONS[name](desk, principal_of(request), said)

    def id_of(request: Request, coordinate: list[float]) -> str:
        """Return the id of whatever this caller keeps there: another user's coordinates are other places."""
        scope = granted(desk, principal_of(request), Asked.model_validate({}), Permit(0)).scope
        return stable_id(None, "coordinate", *scope.realm, scope.user or "", spelled(coordinate))

    @made.post("/memories", name="store_payload", tags=["coordinates"], response_model=Stored, responses=ERRORS)
    async def store_payload(request: Request, body: Store) -> Any:
        """Keep a payload under a coordinate; what was there before becomes its past."""
        place = read(body.coord)
        metadata = {
            "coordinate": spelled(place), "payload": body.payload, "memory_type": body.memory_type, PLACED: True,
            **{f"payload.{name}": value for name, value in body.payload.items() if _plain(value)},
        }  # fmt: skip
        text, id = said(body.payload), id_of(request, place)
        more: dict[str, Any] = {"metadata": metadata, "labels": [body.memory_type]}
        new = {"content": text, "id": id, **more}
        await kept(partial(asked, request), id, new, {"text": text, "archived": False, **more})
        return {"coord": body.coord, "memory_type": body.memory_type}

    async def search(request: Request, body: Search) -> Any:
        filters = {f"payload.{name}": value for name, value in (body.filters or {}).items()}
        more: dict[str, Any] = {"metadata": {**filters, PLACED: True}, "shared": False}
        if body.memory_type:
            more["labels"] = [body.memory_type]
        limit = min(body.offset + body.top_k, 1000)
        hits = (await asked(request, "recall", text=body.query, limit=limit, **more))["hits"][body.offset :]
        return {"memories": [{**_memory(hit["record"]), "score": hit["score"]} for hit in hits]}

    @made.post(
        "/memories/search", name="search_payloads", tags=["coordinates"], response_model=FoundPayloads, responses=ERRORS
    )
    async def search_payloads(request: Request, body: Search) -> Any:
        """Search the payloads by meaning and words."""
        return await search(request, body)

    @made.get(
        "/memories/search",
        name="search_payloads_by_url",
        tags=["coordinates"],
        response_model=FoundPayloads,
        responses=ERRORS,
    )
    async def search_payloads_by_url(
        request: Request,
        query: Annotated[Text, Query()],
        top_k: Annotated[int, Query(ge=1, le=1000)] = 5,
        offset: Annotated[int, Query(ge=0, le=1000)] = 0,
        memory_type: Annotated[Type | None, Query()] = None,
        filters: Annotated[str | None, Query(description="A JSON object.", max_length=10_000)] = None,
    ) -> Any:
        """The same by URL."""
        body = {
            "query": query,
            "top_k": top_k,
            "offset": offset,
            "memory_type": memory_type,
            "filters": _object(filters),
        }
        try:
            return await search(request, Search.model_validate(body))
        except ValueError as error:
            if isinstance(error, Invalid):
                raise
            raise Invalid("filters must be a JSON object of plain values") from None

    @made.get("/memories/{coord}", name="get_payload", tags=["coordinates"], response_model=Got, responses=ERRORS)
    async def get_payload(request: Request, coord: Annotated[str, Path(max_length=200)]) -> Any:
        """Show what is kept under a coordinate."""
        return {"memory": _memory(await asked(request, "get", id=id_of(request, read(coord))))}

    @made.delete(
        "/memories/{coord}", name="delete_payload", tags=["coordinates"], response_model=Deleted, responses=ERRORS
    )
    async def delete_payload(request: Request, coord: Annotated[str, Path(max_length=200)]) -> Any:
        """Erase what is kept under a coordinate, with its past."""
        try:
            await asked(request, "erase", id=id_of(request, read(coord)))
        except NotFound:
            return {"coord": coord, "deleted": False}
        return {"coord": coord, "deleted": True}


def read(text: str) -> list[float]:
    """Return the numbers of a coordinate written like 1,2,3."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise Invalid(f"{text!r} is no coordinate: write numbers with commas between, like 1,2,3") from None
    if not all(map(math.isfinite, numbers)):
        raise Invalid("a coordinate is made of finite numbers")
    return numbers


def spelled(coordinate: list[float]) -> str:
    return ",".join(repr(number + 0.0) for number in coordinate)


def said(payload: dict[str, Any]) -> str:
    """Return what a payload says as a text: the member that says it, or all of it as JSON."""
    for name in SAYING:
        if isinstance(payload.get(name), str) and payload[name].strip():
            return str(payload[name])
    return json.dumps(payload, ensure_ascii=False)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _object(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid("filters must be a JSON object") from None


def _memory(record: Any) -> dict[str, Any]:
    metadata = record["metadata"]
    if "coordinate" not in metadata:
        raise NotFound("nothing is kept under this coordinate")
    return {
        "coordinate": read(metadata["coordinate"]),
        "payload": metadata["payload"],
        "memory_type": metadata["memory_type"],
        "metadata": {"coordinate": metadata["coordinate"]},
        "importance": record["importance"],
        "created_at": record["begun"] or record["known"]["since"],
        "updated_at": record["known"]["since"],
    }
