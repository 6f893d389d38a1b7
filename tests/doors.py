"""A memory behind its HTTP door, in this process, with keys; and what an operation looks like as a request."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI

from simonides import AsyncMemory
from simonides.api import OPERATIONS, Desk, Operation
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.servers import streams
from simonides.servers.gate import Gate
from simonides.servers.http import app
from simonides.servers.reading import IN_QUERY
from simonides.servers.seeds import layer, sekha, soma

DOORS = (streams.mount, sekha.mount, layer.mount, soma.mount)  # what `simonides serve` mounts beside the table


@dataclass
class House:
    """A memory, its keys and its application."""

    desk: Desk
    made: FastAPI

    @property
    def memory(self) -> AsyncMemory:
        return self.desk.memory

    def client(self, key: str | None = None, **more: Any) -> httpx.AsyncClient:
        """Return a client that shows this key."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(self.made, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://memory.test", headers=headers, **more)

    async def key(self, name: str = "a key", tenant: str = "default", **grant: Any) -> str:
        assert self.desk.directory is not None
        return (await self.desk.directory.make(Grant(name=name, tenant=tenant, **grant)))[1]


@contextlib.asynccontextmanager
async def house(store: str | Path = ":memory:", *, require: bool = False, **more: Any) -> AsyncIterator[House]:
    """Open a house over a store, and close it in the end."""
    directory = MemoryDirectory()
    usual = {"settled": False, "embedder": "hashing:", "zone": "Europe/Lisbon", "cache": "process:"}  # as servers have
    memory = AsyncMemory(store, **{**usual, **more})
    desk, gate = Desk(memory, directory), Gate(directory, require=require, failures_max=10**6, cache=memory.cache)
    try:
        yield House(desk, app(desk, gate, more=DOORS))
    finally:
        await desk.tasks.ended()
        await gate.close()
        await memory.close()
        await directory.close()


def request_of(row: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation as httpx sends it: method, url, params, json."""
    in_path = re.findall(r"{(\w+)}", row.path)
    url = re.sub(r"{(\w+)}", lambda found: quote(str(arguments[found[1]]), safe=""), row.route)
    rest = {name: value for name, value in arguments.items() if name not in in_path}
    has_body = row.method in ("POST", "PUT", "PATCH")
    body = {name: value for name, value in rest.items() if has_body and name not in IN_QUERY}
    params = {name: _spelled(value) for name, value in rest.items() if name not in body}
    return {"method": row.method, "url": url, "params": params, **({"json": body} if body else {})}


def _spelled(value: Any) -> Any:
    """Return a value as it stands in a URL."""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else value


async def ask(client: httpx.AsyncClient, name: str, arguments: Mapping[str, Any], **more: Any) -> httpx.Response:
    """Ask for an operation over HTTP."""
    return await client.request(**request_of(OPERATIONS[name], arguments), **more)
