"""The routes of Sekha's controller that differ from ours. Its conversations are ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ...api import OPERATIONS, PREFIX, Desk
from ...api.shapes import Importance, Moment, Name, Names, Text
from ...errors import Invalid
from ...pruning import DAYS, IMPORTANT, LIMIT
from ...query import Hit
from ...wire import hits_of
from ..http import principal_of, problems_of

PAGE_MAX = 1000
USUAL = 10  # results, where nobody says how many
ERRORS = problems_of(401, 403, 413, 415, 422, 429, 503)


class Filters(BaseModel):
    """What narrows a question; each holds for every way of finding."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: Name | None = None
    labels: Names | None = None
    folder: Name | None = None
    pinned: bool | None = None
    archived: bool | None = None
    importance_min: Importance | None = None
    since: Moment | None = None
    until: Moment | None = None
    user: Name | None = None
    session: Name | None = None
    space: Name | None = None
    conversation_id: Name | None = None


class Ask(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    filters: Filters | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_MAX)] | None = None
    offset: Annotated[int, Field(ge=0, le=PAGE_MAX)] | None = None

    @property
    def size(self) -> int:
        return USUAL if self.limit is None else self.limit

    @property
    def start(self) -> int:
        return self.offset or 0


class Result(BaseModel):
    conversation_id: str | None
    message_id: str
    score: float
    content: str
    metadata: dict[str, JsonValue]
    label: str | None
    folder: str | None
    timestamp: str | None


class Results(BaseModel):
    results: list[Result]
    total: int
    page: int
    page_size: int


class Words(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    limit: int = Field(USUAL, ge=1, le=PAGE_MAX)


class Message(BaseModel):
    id: str
    conversation_id: str | None
    role: str
    content: str
    timestamp: str | None
    embedding_id: str | None = None
    metadata: dict[str, JsonValue]


class Messages(BaseModel):
    results: list[Message]
    total: int


class Assemble(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    query: Text
    preferred_labels: Annotated[list[Name], Field(max_length=100)] = Field(default_factory=list)
    context_budget: int = Field(4000, ge=1, le=1_000_000, description="Tokens.")
    excluded_folders: Annotated[list[Name], Field(max_length=100)] | None = None


class Threshold(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    threshold_days: float = Field(DAYS, ge=0, le=36_500)
    importance_threshold: float = Field(IMPORTANT, ge=0, le=10)
    limit: int = Field(LIMIT, ge=1, le=PAGE_MAX)


class Suggestion(BaseModel):
    conversation_id: str
    conversation_label: str
    last_accessed: str
    message_count: int
    token_estimate: int
    importance_score: int
    preview: str
    recommendation: Literal["archive"]
    reason: str


class Suggestions(BaseModel):
    suggestions: list[Suggestion]
    total: int


class Execute(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    conversation_ids: Annotated[list[Name], Field(min_length=1, max_length=PAGE_MAX)]


class Executed(BaseModel):
    archived: list[str]


class Rebuilt(BaseModel):
    success: bool
    message: str
    estimated_completion_seconds: float


def mount(made: FastAPI) -> None:
    async def asked(request: Request, name: str, **arguments: Any) -> Any:
        desk: Desk = made.state.desk
        return await OPERATIONS[name](desk, principal_of(request), arguments)

    @made.post(f"{PREFIX}/query", name="query", tags=["search"], response_model=Results, responses=ERRORS)
    async def query(request: Request, body: Ask) -> Any:
        """Search by meaning and words together."""
        said = await asked(request, "recall", text=body.query, limit=_most(body), **_filters(body.filters))
        hits = said["hits"]
        return {
            "results": [_result(hit) for hit in hits[body.start : body.start + body.size]],
            "total": len(hits),
            "page": body.start // body.size + 1,
            "page_size": body.size,
        }

    @made.post(f"{PREFIX}/search/fts", name="search_words", tags=["search"], response_model=Messages, responses=ERRORS)
    async def search_words(request: Request, body: Words) -> Any:
        """Search by words alone; any text may be asked for, operators and quotes are just text."""
        said = await asked(request, "recall", text=body.query, limit=min(body.limit * 5, PAGE_MAX), effort="low")
        hits = [hit for hit in said["hits"] if {"words", "exact"} & set(hit["by"])][: body.limit]
        return {"results": [_message(hit) for hit in hits], "total": len(hits)}

    @made.post(
        f"{PREFIX}/search/exact", name="search_exact", tags=["search"], response_model=Messages, responses=ERRORS
    )
    async def search_exact(request: Request, body: Words) -> Any:
        """Search for what holds this very text, whatever its case."""
        text = body.query.casefold()
        said = await asked(request, "recall", text=f'"{body.query}"', limit=PAGE_MAX)
        hits = [hit for hit in said["hits"] if text in hit["record"]["text"].casefold()][: body.limit]
        return {"results": [_message(hit) for hit in hits], "total": len(hits)}

    @made.post(
        f"{PREFIX}/context/assemble",
        name="assemble_context",
        tags=["search"],
        response_model=list[Message],
        responses=ERRORS,
    )
    async def assemble_context(request: Request, body: Assemble) -> Any:
        """Put together the messages worth having in mind, within a budget of tokens, each with its citation."""
        excluded = [folder.strip("/") for folder in body.excluded_folders or () if folder.strip("/")]
        outside = {"outside": excluded} if excluded else {}
        said = await asked(request, "recall", text=body.query, limit=100, **outside)
        hits = hits_of(said)
        preferred = set(body.preferred_labels)
        hits.sort(key=lambda hit: -hit.score * (1.2 if preferred & set(hit.record.labels) else 1.0))
        desk: Desk = made.state.desk
        chosen = await desk.memory.pack(hits, body.query, budget=body.context_budget)
        by_id = {hit["record"]["id"]: hit for hit in said["hits"]}
        return [_cited(by_id[citation.id], citation.hit) for citation in chosen.citations]

    @made.post(
        f"{PREFIX}/prune/dry-run", name="prune_dry_run", tags=["upkeep"], response_model=Suggestions, responses=ERRORS
    )
    async def prune_dry_run(request: Request, body: Threshold) -> Any:
        """Suggest conversations to archive, what most speaks for first; nothing is changed."""
        said = await asked(request, "propose_prune", kinds=["conversation"], **body.model_dump())
        suggestions = [_suggestion(each) for each in said["results"]]
        return {"suggestions": suggestions, "total": len(suggestions)}

    @made.post(
        f"{PREFIX}/prune/execute", name="prune_execute", tags=["upkeep"], response_model=Executed,
        responses=problems_of(401, 403, 404, 409, 413, 415, 422, 429, 503, 507),
    )  # fmt: skip
    async def prune_execute(request: Request, body: Execute) -> Any:
        """Archive these conversations with their messages, all of them or none; `organise` brings them back."""
        said = await asked(request, "prune", ids=body.conversation_ids, dry_run=False)
        named = set(body.conversation_ids)
        return {"archived": [record["id"] for record in said["results"] if record["id"] in named]}

    @made.post(
        f"{PREFIX}/rebuild-embeddings",
        name="rebuild_embeddings",
        tags=["upkeep"],
        status_code=202,
        response_model=Rebuilt,
        responses=ERRORS,
    )
    async def rebuild_embeddings(request: Request) -> Any:
        """Make the words and the vector index again; it goes on behind."""
        task = await asked(request, "rebuild")
        place = await asked(request, "position")
        return {
            "success": True,
            "message": f"begun as task {task['id']}: ask {PREFIX}/tasks/{task['id']} how far it is",
            "estimated_completion_seconds": round(1 + place["written"] / 20_000, 1),
        }


def _most(body: Ask) -> int:
    if body.start + body.size > PAGE_MAX:
        raise Invalid(f"offset and limit together go up to {PAGE_MAX}: ask a narrower question")
    return body.start + body.size


def _filters(filters: Filters | None) -> dict[str, Any]:
    said = filters.model_dump(exclude_none=True) if filters else {}
    if label := said.pop("label", None):
        said["labels"] = [*said.get("labels", ()), label]
    if conversation := said.pop("conversation_id", None):
        said["conversation"] = conversation
    if "folder" in said:
        said["folder"] = said["folder"].strip("/") or None
    return said


def _suggestion(proposal: Any) -> dict[str, Any]:
    record = proposal["record"]
    return {
        "conversation_id": record["id"],
        "conversation_label": record["labels"][0] if record["labels"] else record["text"],
        "last_accessed": max(filter(None, (proposal["said"], proposal["last_recalled"]))),
        "message_count": proposal["messages"],
        "token_estimate": proposal["tokens"],
        "importance_score": proposal["importance"],
        "preview": proposal["preview"],
        "recommendation": "archive",
        "reason": proposal["says"],
    }


def _result(hit: Any) -> dict[str, Any]:
    record = hit["record"]
    return {
        "conversation_id": record["part_of"],
        "message_id": record["id"],
        "score": hit["score"],
        "content": record["text"],
        "metadata": record["metadata"],
        "label": record["labels"][0] if record["labels"] else hit["title"],
        "folder": record["folder"],
        "timestamp": record["at"],
    }


def _message(hit: Any) -> dict[str, Any]:
    record = hit["record"]
    return {
        "id": record["id"],
        "conversation_id": record["part_of"],
        "role": record["body"].get("role") or "user",
        "content": record["text"],
        "timestamp": record["at"],
        "metadata": record["metadata"],
    }


def _cited(hit: Any, found: Hit) -> dict[str, Any]:
    record = hit["record"]
    label = record["labels"][0] if record["labels"] else hit["title"]
    citation = {"label": label, "folder": record["folder"], "timestamp": record["at"]}
    return {**_message(hit), "metadata": {**record["metadata"], "citation": citation}}
