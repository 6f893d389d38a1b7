"""What the server is and how it is."""

from __future__ import annotations

from ..access import Permit
from ..config import OFF
from ..errors import SimonidesError
from ..record import now
from ..serving import hide
from ..version import VERSION
from ..wire import Json
from .operation import Call, Desk, operation
from .shapes import Asked
from .upkeep import Capabilities, Health


async def parts(desk: Desk) -> list[Json]:
    """Return each part of the memory with whether it works, and whether it is a fallback."""
    memory = desk.memory
    try:
        place = await memory.position()
        store = _part("store", True, False, "answers")
        late = place.written - place.indexed
    except SimonidesError as error:
        return [_part("store", False, False, error.message)]
    if memory.settings.embedder == OFF:
        vectors = _part("vectors", True, True, "there is no embedder: recall goes by words alone")
    elif memory.behind:
        vectors = _part("vectors", False, True, memory.behind)
    else:
        says = f"{memory.settings.embedder} over {hide(memory.settings.index_url)}"
        vectors = _part("vectors", True, False, f"{says}; {late} changes behind" if late else says)
    llm = _part("llm", True, True, "none: everything works by rule, without a language model")
    return [store, vectors, await _cache(desk), llm]


async def _cache(desk: Desk) -> Json:
    cache, seconds = desk.memory.cache, desk.memory.settings.cache_seconds
    if cache is None:
        return _part("cache", True, True, "none: every answer is worked out, and each process counts calls for itself")
    try:
        await cache.ping()
    except SimonidesError as error:
        return _part("cache", False, True, f"{error.message}; each process counts calls for itself meanwhile")
    kept = f"answers are kept for {seconds:g} s" if seconds else "no answers are kept"
    return _part("cache", True, False, f"{cache.name}, {'shared' if cache.shared else 'in this process'}: {kept}")


def _part(name: str, works: bool, fallback: bool, says: str) -> Json:
    return {"name": name, "works": works, "fallback": fallback, "says": says}


@operation("GET", "/health", needs=Permit.READ, gives=Health)
async def health(asked: Asked, call: Call) -> Json:
    """Say how the server is, part by part."""
    found = await parts(call.desk)
    status = "ok" if all(each["works"] for each in found) else "degraded" if found[0]["works"] else "down"
    uptime = (now() - call.desk.began).total_seconds()
    return {"status": status, "version": VERSION, "uptime_seconds": round(uptime, 3), "parts": found}


@operation("GET", "/capabilities", needs=Permit.READ, gives=Capabilities)
async def capabilities(asked: Asked, call: Call) -> Json:
    """Say what works here, and what is a fallback."""
    from . import OPERATIONS

    return {"version": VERSION, "operations": list(OPERATIONS), "parts": await parts(call.desk)}


ROWS = (health, capabilities)
