"""The gRPC service of SomaFractalMemory: its payloads under coordinates, the same as behind its routes."""

from __future__ import annotations

import contextlib
import heapq
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from ...errors import Invalid, NotFound
from ...record import Scope, stable_id
from .soma import PLACED, read, said, spelled

SERVICE = "somafractalmemory.MemoryService"
TYPES = ("episodic", "semantic")
TOP_K = 5  # where nobody says
TOP_K_MAX = 1000

Ask = Callable[..., Awaitable[dict[str, Any]]]  # an operation by its name, and its arguments


async def store(asked: Mapping[str, Any], ask: Ask, scope: Scope) -> dict[str, Any]:
    """Keep a payload under a coordinate; what was there before becomes its past."""
    memory = asked.get("memory", {})
    place, payload, kind = _place(memory.get("coord")), memory.get("payload"), _type(memory) or TYPES[0]
    if not isinstance(payload, Mapping):
        raise Invalid("payload_json must be a JSON object")
    plain = {f"payload.{name}": value for name, value in payload.items() if not isinstance(value, dict | list)}
    metadata = {"coordinate": spelled(place), "payload": payload, "memory_type": kind, PLACED: True, **plain}
    text, id = said(dict(payload)), _id(scope, place)
    try:
        await ask("get", id=id)
    except NotFound:
        await ask("remember", content=text, id=id, metadata=metadata, labels=[kind])
    else:
        await ask("revise", id=id, text=text, metadata=metadata, labels=[kind], archived=False)
    return {"ok": True, "id": id}


async def recall(asked: Mapping[str, Any], ask: Ask, scope: Scope) -> dict[str, Any]:
    """Return the payloads whose coordinates lie nearest, the nearest first; those of other lengths lie nowhere."""
    place, kind, most = _place(asked.get("query")), _type(asked), asked.get("top_k", TOP_K)
    if not 1 <= most <= TOP_K_MAX:
        raise Invalid(f"top_k goes from 1 to {TOP_K_MAX}")
    near: list[tuple[float, str, dict[str, Any]]] = []
    for label in [kind] if kind else TYPES:
        after: str | None = None
        while True:
            more = {"after": after} if after else {}
            found = await ask("find", kinds=["note"], labels=[label], limit=1000, **more)
            there = [(read(each["coordinate"]), each) for each in _payloads(found["results"])]
            near += [(math.dist(place, at), each["coordinate"], each) for at, each in there if len(at) == len(place)]
            near = heapq.nsmallest(most, near, key=lambda each: each[:2])
            if (after := found["next"]) is None:
                break
    memories = [
        {"coord": {"values": read(name)}, "payload": each["payload"], "memory_type": each["memory_type"]}
        for _, name, each in near
    ]
    return {"memories": memories}


async def delete(asked: Mapping[str, Any], ask: Ask, scope: Scope) -> dict[str, Any]:
    """Erase what is kept under a coordinate, with its past; `ok` says whether something was."""
    try:
        await ask("erase", id=_id(scope, _place(asked.get("coord"))))
    except NotFound:
        return {"ok": False}
    return {"ok": True}


async def health(asked: Mapping[str, Any], ask: Ask, scope: Scope) -> dict[str, Any]:
    return {"status": (await ask("health"))["status"]}


def _payloads(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what was kept under a coordinate; a record may bear its label for other reasons."""
    for record in records:
        kept = record["metadata"]
        if isinstance(kept.get("coordinate"), str) and isinstance(kept.get("payload"), Mapping):
            with contextlib.suppress(Invalid):
                read(kept["coordinate"])
                yield kept


METHODS = {"Store": store, "Recall": recall, "Delete": delete, "Health": health}


def _place(coordinate: Any) -> list[float]:
    values = (coordinate or {}).get("values", [])
    if not values or not all(map(math.isfinite, values)):
        raise Invalid("a coordinate is made of finite numbers, at least one")
    return list(values)


def _type(asked: Mapping[str, Any]) -> str | None:
    kind = asked.get("memory_type")
    if kind is not None and kind not in TYPES:
        raise Invalid(f"memory_type must be one of {', '.join(TYPES)}")
    return kind


def _id(scope: Scope, place: list[float]) -> str:
    """Return the id of whatever this caller keeps there, the same as by URL."""
    return stable_id(None, "coordinate", *scope.realm, scope.user or "", spelled(place))
