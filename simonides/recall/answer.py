"""One recall, from question to hits."""

from __future__ import annotations

import asyncio

from ..query import Query
from .means import Effort, Hits, Means
from .question import Question


async def answer(
    question: Question, query: Query, means: Means, effort: Effort, *, explain: bool = False, least: float = 0.0
) -> Hits:
    """Return at most `query.limit` hits, best first; none whose score is below `least`."""
    from .gather import gather  # here, because they need numpy, and a program that only writes does not
    from .rank import rank

    pool = await gather(question, query, means, effort)
    hits = await asyncio.to_thread(rank, question, pool, query.limit, explain=explain, least=least)
    if query.valid_at is None:
        ends = (candidate.record.valid.until for candidate in pool.candidates.values())
        hits.until = min((end for end in ends if end is not None and end > question.at), default=None)
    return hits
