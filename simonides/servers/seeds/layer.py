"""The routes of the LLM Memory Layer: add a text, search, and the history of a session."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ...access import Permit
from ...api import OPERATIONS, Desk
from ...api.operation import granted
from ...api.shapes import Asked, Name, Text
from ...record import stable_id
from ..http import principal_of, problems_of
from ..reading import SLASH
from . import kept

USUAL = 5  # results, where nobody says how many
NAME = "memory_id"  # in the metadata: the caller's own name of a memory
ERRORS = problems_of(401, 403, 409, 413, 415, 422, 429, 503, 507)


class Add(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text
    session_id: Name | None = None
    id: Name | None = Field(None, description="The same id twice is one memory; another text under it revises it.")
    metadata: dict[str, JsonValue] | None = None


class Added(BaseModel):
    task_id: str
    id: str


class SearchTexts(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    session_id: Name | None = None


class KeptText(BaseModel):
    id: str
    session_id: str | None
    user_id: str | None
    text: str
    created_at: str | None
    metadata: dict[str, JsonValue]


class ScoredText(KeptText):
    score: float


class FoundTexts(BaseModel):
    results: list[ScoredText]


class History(BaseModel):
    session_id: str
    messages: list[KeptText]
    next: str | None


def mount(made: FastAPI) -> None:
    desk: Desk = made.state.desk

    async def asked(request: Request, name: str, once: str | None = None, **arguments: Any) -> Any:
        said = {name: value for name, value in arguments.items() if value is not None}
        return await OPERATIONS[name](desk, principal_of(request), said, once=once)

    def id_of(request: Request, name: str) -> str:
        """Return the id of what this caller calls so: another user's names are theirs."""
        scope = granted(desk, principal_of(request), Asked.model_validate({}), Permit(0)).scope
        return stable_id(None, NAME, *scope.realm, scope.user or "", name)

    @made.post("/memory", name="add_memory", tags=["texts"], status_code=202, response_model=Added, responses=ERRORS)
    async def add_memory(
        request: Request, body: Add, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> Any:
        """Add a text. It is stored when this answers; the task says when it can be found by meaning."""
        metadata = {**(body.metadata or {}), **({} if body.id is None else {NAME: body.id})}
        more: dict[str, Any] = {"metadata": metadata or None, "wait": "stored"}
        new = {"content": body.text, "session": body.session_id, **more}
        if body.id is None:
            said = await asked(request, "remember", idempotency_key, **new)
        else:
            id = id_of(request, body.id)
            said = await kept(partial(asked, request), id, {**new, "id": id}, {"text": body.text, **more})
        place = await asked(request, "position")
        record = said["record"] if "record" in said else said["results"][0]
        return {"task_id": said["task"] or f"log-{place['written']}", "id": body.id or record["id"]}

    @made.post("/memory/search", name="search_memory", tags=["texts"], response_model=FoundTexts, responses=ERRORS)
    async def search_memory(request: Request, body: SearchTexts) -> Any:
        """Search by meaning."""
        said = await asked(request, "recall", text=body.query, limit=body.top_k or USUAL, session=body.session_id)
        return {"results": [{**_memory(hit["record"]), "score": hit["score"]} for hit in said["hits"]]}

    @made.get(
        "/sessions/{id}/history", name="session_history", tags=["texts"], response_model=History, responses=ERRORS
    )
    async def session_history(
        request: Request,
        id: Annotated[Name, Path()],
        after: Annotated[str | None, Query(max_length=1000)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> Any:
        """Show what was said in a session, the latest first where it takes several pages, each in order."""
        session = id.replace(SLASH, "/")
        said = await asked(
            request, "find", session=session, shared=False, kinds=["message", "note"], limit=limit, after=after
        )
        messages = [_memory(record) for record in said["results"]][::-1]
        return {"session_id": session, "messages": messages, "next": said["next"]}


def _memory(record: Any) -> dict[str, Any]:
    metadata = dict(record["metadata"])
    return {
        "id": metadata.pop(NAME, record["id"]),
        "session_id": record["scope"]["session"],
        "user_id": record["scope"]["user"],
        "text": record["text"],
        "created_at": record["at"],
        "metadata": metadata,
    }
