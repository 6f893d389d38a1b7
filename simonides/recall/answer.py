"""One recall, from question to hits."""

from __future__ import annotations

import asyncio

from ..query import Query
from .gather import Means, gather
from .question import Question
from .rank import Hits, rank


async def answer(question: Question, query: Query, means: Means, *, explain: bool = False) -> Hits:
    pool = await gather(question, query, means)
    return await asyncio.to_thread(rank, question, pool, query.limit, explain=explain)
