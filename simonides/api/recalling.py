"""Find what matters: recall, context, and why something was not found."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field

from ..access import Permit
from ..wire import Json, context_as_json, hit_as_json, missing_as_json
from .memories import FILTERS, picked
from .operation import Call, operation
from .shapes import ContextShape, Found, MissingShape, Name, Shape, Text, Which

Effort = Annotated[
    Literal["low", "medium", "high"],
    Field(description="How far to look: low is vectors and words alone, high looks further and takes longer."),
]


class Recall(Which):
    text: Text = Field(description="A question, or whatever is at hand.", examples=["where do I live?"])
    limit: int = Field(10, ge=1, le=1000)
    explain: bool = Field(False, description="Say of each hit which signals found it.")
    effort: Effort = "medium"
    min_relevance: float = Field(0.0, ge=0, le=1, description="Leave out hits that score less.")


@operation(
    "POST",
    "/recall",
    needs=Permit.READ,
    gives=Found,
    reads=True,
    repeats=True,
    example={"text": "where do I live?", "user": "ana"},
)
async def recall(asked: Recall, call: Call) -> Json:
    """Find what is most worth having in mind for a text, best first."""
    return await _recalled(asked, call)


async def _recalled(asked: Recall, call: Call) -> Json:
    more = picked(asked, (*FILTERS, "limit", "explain", "effort", "min_relevance"))
    hits = await call.memory.recall(asked.text, **more, **call.whose)
    return {"hits": [hit_as_json(hit) for hit in hits], "notes": list(hits.notes)}


class RecallMany(Which):
    """Several questions with the same filters."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=100)]
    limit: int = Field(10, ge=1, le=1000)
    explain: bool = False
    effort: Effort = "medium"
    min_relevance: float = Field(0.0, ge=0, le=1)


class FoundMany(Shape):
    results: list[Found] = Field(description="One for each text, in their order.")


@operation(
    "POST",
    "/recall/batch",
    needs=Permit.READ,
    gives=FoundMany,
    reads=True,
    repeats=True,
    example={"texts": ["where do I live?", "what do I eat?"], "user": "ana"},
)
async def recall_many(asked: RecallMany, call: Call) -> Json:
    """Recall for several texts at once."""
    more: dict[str, Any] = asked.model_dump(exclude={"texts"}, exclude_unset=True)
    each = [Recall(text=text, **more) for text in asked.texts]
    return {"results": list(await asyncio.gather(*(_recalled(one, call) for one in each)))}


class ExplainMissing(Recall):
    id: Name = Field(description="The record that was expected.")


@operation(
    "POST",
    "/recall/missing",
    needs=Permit.READ,
    gives=MissingShape,
    reads=True,
    repeats=True,
    example={"id": "01890a5d-ac96-774b-bcce-b302099a8057", "text": "where do I live?"},
)
async def explain_missing(asked: ExplainMissing, call: Call) -> Json:
    """Say why a recall with these arguments does not return a record, or in which place it does."""
    more = picked(asked, (*FILTERS, "limit", "effort", "min_relevance"))
    return missing_as_json(await call.memory.explain_missing(asked.id, asked.text, **more, **call.whose))


class Assemble(Which):
    text: Text = Field(description="What the context is for.", examples=["plan my weekend"])
    budget: int = Field(1500, ge=1, le=1_000_000, description="Tokens that it may take.")
    limit: int = Field(50, ge=1, le=1000, description="Passages at most.")
    effort: Effort = "medium"


@operation(
    "POST",
    "/context",
    needs=Permit.READ,
    gives=ContextShape,
    reads=True,
    repeats=True,
    example={"text": "plan my weekend", "user": "ana", "budget": 500},
)
async def context(asked: Assemble, call: Call) -> Json:
    """Put together what to have in mind for a text, ready for a prompt, within a budget of tokens, with citations."""
    more = picked(asked, (*FILTERS, "budget", "limit", "effort"))
    return context_as_json(await call.memory.context(asked.text, **more, **call.whose))


ROWS = (recall, recall_many, explain_missing, context)
