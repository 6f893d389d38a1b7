"""Put aside what is out of use: proposed with its reasons, archived when asked, and brought back by `organise`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..access import Permit
from ..pruning import DAYS, IMPORTANT, LIMIT
from ..wire import Json, as_json, proposal_as_json
from .memories import SEES_AND_WRITES, picked
from .operation import Call, operation
from .shapes import Asked, FactorShape, Importance, Moment, Name, Names, RecordShape, Scalar, Shape
from .shapes import Limit as Count

FILTERS = ("kinds", "labels", "folder", "outside", "since", "until", "importance_min", "metadata", "sources")


class ProposePrune(Asked):
    """Which of what is active and not pinned. What others share with the levels that are named is left alone."""

    threshold_days: float = Field(DAYS, ge=0, le=36_500, description="Nothing said or recalled for so long.")
    importance_threshold: float = Field(IMPORTANT, ge=0, le=10, description="At most so important.")
    limit: Count = LIMIT
    kinds: Annotated[list[Literal["conversation", "note"]], Field(min_length=1, max_length=2)] | None = None
    labels: Names | None = Field(None, description="Bears every one of these labels.")
    folder: Name | None = Field(None, description="In this folder or below it.")
    outside: Names | None = Field(None, description="In none of these folders, nor below one of them.")
    since: Moment | None = Field(None, description="Said, or begun, at or after.")
    until: Moment | None = Field(None, description="Said, or begun, before.")
    importance_min: Importance | None = None
    metadata: dict[str, Scalar] | None = Field(None, description="Metadata has these values at its top level.")
    sources: Names | None = None


class ProposalShape(Shape):
    """Something that may be archived, and why."""

    says: str = Field(description="Why, in a sentence.")
    score: float = Field(ge=0, le=1, description="How much speaks for it.")
    why: list[FactorShape] = Field(description="Each reason's value and share; the shares add up to the score.")
    record: RecordShape
    preview: str
    messages: int
    tokens: int = Field(description="About how many there are in all of it.")
    importance: int = Field(description="Of the most important thing in it.")
    at: str = Field(description="When this was proposed.")
    said: str = Field(description="When it was last spoken in.")
    last_recalled: str | None
    ended: str | None
    instead: str | None = Field(description="The id of what says the same, or superseded it.")


class Proposals(Shape):
    results: list[ProposalShape]


@operation("GET", "/prune", needs=Permit.READ, gives=Proposals)
async def propose_prune(asked: ProposePrune, call: Call) -> Json:
    """Propose conversations and notes to archive, what most speaks for first, each with why.

    By age, importance, last recall, duplication and supersession. Nothing is changed, and nothing pinned is proposed.
    """
    thresholds: Any = {
        "threshold_days": asked.threshold_days,
        "importance_threshold": asked.importance_threshold,
        "limit": asked.limit,
    }
    found = await call.memory.propose(**thresholds, **picked(asked, FILTERS), **call.whose)
    return {"results": [proposal_as_json(each) for each in found]}


class Prune(Asked):
    ids: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    dry_run: bool = Field(True, description="Only show what would be archived.")


class Pruned(Shape):
    """What is archived now, or would be: each of the named, followed by what is part of it."""

    dry_run: bool
    results: list[RecordShape]
    undo: str


@operation(
    "POST",
    "/prune",
    needs=SEES_AND_WRITES,
    gives=Pruned,
    repeats=True,
    example={"ids": ["019a1c2e-7d10-7c55-8b1f-2f6f0a3c9d41"], "dry_run": True},
)
async def prune(asked: Prune, call: Call) -> Json:
    """Archive what is named, with its parts, all of it or nothing; unless told otherwise, only show what would be.

    What is archived is found only by who asks for it, and `organise` with `archived: false` brings it back.
    """
    found = await call.memory.archive(asked.ids, dry_run=asked.dry_run, **call.whose)
    return {
        "dry_run": asked.dry_run,
        "results": [as_json(each) for each in found],
        "undo": "PUT /api/v1/memories/{id}/organise with archived: false brings each of them back",
    }


ROWS = (propose_prune, prune)
