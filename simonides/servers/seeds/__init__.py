"""Routes as clients of other memories know them, one file a design: each maps its shapes to our operations.

What these routes answer follows the operations in every respect that matters: scope, permits, filters, erases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...errors import Conflict, NotFound


async def kept(
    asked: Callable[..., Awaitable[Any]], id: str, new: Mapping[str, Any], next: Mapping[str, Any]
) -> dict[str, Any]:
    """Remember what is new under this id, or make it the next version of what is there; return what was answered.

    It looks first: to remember what once was there, and was revised since, would be a write that was done already.
    """
    try:
        await asked("get", id=id)
    except NotFound:
        try:
            return dict(await asked("remember", **new))
        except Conflict:  # somebody was quicker
            pass
    return dict(await asked("revise", id=id, **next))
