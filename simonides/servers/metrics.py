"""What Prometheus reads, at /metrics. Whoever may come in may know how the server does; how much is in the whole store
is told only to whoever runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ..access import Permit
from ..api import Desk
from ..api.operation import operates
from ..api.system import parts
from ..config import store_url
from ..errors import SimonidesError
from ..observe import MEDIA_TYPE, Observer, counted
from .http import principal_of


def answer(observer: Observer) -> Callable[[Request], Awaitable[Response]]:
    async def metrics(request: Request) -> Response:
        desk: Desk = request.app.state.desk
        principal = principal_of(request)
        runs_it = operates(principal, desk.home) and Permit.ADMIN in principal.permits
        store = await _store(desk) if runs_it else None
        return Response(observer.told(await parts(desk), store), media_type=MEDIA_TYPE)

    return metrics


async def _store(desk: Desk) -> dict[str, float] | None:
    """Return what is in the store; None where it does not answer, which the health says."""
    try:
        stats, place = await desk.memory.stats(), await desk.memory.position()
    except SimonidesError:
        return None
    size = await asyncio.to_thread(_size, desk.memory.settings.store_url)
    return counted(stats, size, place.written - place.indexed)


def _size(url: str) -> int:
    """Return the bytes of the store's files: those of SQLite's database begin with its name."""
    scheme, _, path = store_url(url).partition(":///")
    if scheme != "sqlite" or path == ":memory:":
        return 0
    files = [Path(path.partition("?")[0] + more) for more in ("", "-wal", "-shm")]
    return sum(each.stat().st_size for each in files if each.exists())
