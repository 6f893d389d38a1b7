"""Schemathesis asks the whole OpenAPI document, with every check it has: no 500, and no answer that is not described.

It goes through examples, the borders of every schema, values drawn at random and chains of calls. A fixed seed and few
examples keep it short; `SIMONIDES_EXAMPLES=200` looks longer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from doors import House, house
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from simonides.access import EVERYTHING

ACCEPTED = ("2xx", "3xx", "401", "403", "404", "409", "429", "503")
EXAMPLES = int(os.environ.get("SIMONIDES_EXAMPLES", "1"))
ENDLESS = "events"  # what happens, as it happens: its answer has no end
LATER = "rebuild"  # each of them makes the index again, which is all that it would measure
# Parameters that are left out: with `fields` an answer is a part of what is described, and a mark that was used is
# refused. test_api.py has both.
APART = ("fields", "Idempotency-Key")
# Arguments of which a schema cannot say all: places of pages, folders, spans that end before they begin, what is past,
# bodies by kind, metadata within 64 bits. Who takes one may answer 422 to what the schema allows; nobody else may.
JUDGED = frozenset(
    "after ends expires content messages folder metadata at since until as_of filters payload coord ids".split()
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve a house that asks for keys; give its address and a key to everything."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # without it, no TCP_NODELAY: 40 ms an answer
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    ready, stopping = threading.Event(), list[uvicorn.Server]()
    keys = list[str]()

    async def run() -> None:
        async with house(tmp_path_factory.mktemp("served") / "m.db", require=True) as home:
            keys.append(await home.key(permits=EVERYTHING))
            await filled(home)
            server = uvicorn.Server(uvicorn.Config(home.made, log_level="error", ws="none", lifespan="off"))
            stopping.append(server)
            ready.set()
            await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", keys[0]
    stopping[0].should_exit = True
    thread.join(60)


async def filled(home: House) -> None:
    await home.memory.remember([{"role": "user", "content": "I am allergic to walnuts"}], session="kitchen", user="ana")


def test_no_answer_is_a_surprise(served: tuple[str, str]) -> None:
    url, key = served
    said = httpx.get(f"{url}/openapi.json", timeout=60).json()
    operations = [each for methods in said["paths"].values() for each in methods.values()]
    for each in operations:
        each["parameters"] = [part for part in each.get("parameters", ()) if part["name"] not in APART]
    judged = [each["operationId"] for each in operations if takes(said, each) & JUDGED]
    assert len(judged) < len(operations) * 0.8
    refusing = {"positive_data_acceptance": {"expected-statuses": [*ACCEPTED, "422"]}}
    config = SchemathesisConfig.from_dict(
        {
            "seed": 7,
            "base-url": url,
            "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
            "phases": {"stateful": {"enabled": True}},
            "auth": {"openapi": {"Bearer": {"bearer": key}}},
            "request-timeout": 60,
            "operations": [{"include-operation-id": judged, "checks": refusing}],
        }
    )
    schema: Any = schemathesis.openapi.from_dict(said, config=config)
    schema = schema.exclude(operation_id=[ENDLESS, LATER])
    found: dict[tuple[str, str], str] = {}
    asked = 0
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            found["error", event.label] = f"{event.value!r} {event.info}"
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            asked += len(event.recorder.interactions)
            for id, nodes in event.recorder.checks.items():
                for node in nodes:
                    if node.status is Status.FAILURE and node.failure_info is not None:
                        case = event.recorder.cases[id].value
                        failure = node.failure_info.failure
                        found.setdefault(
                            (node.name, case.operation.label),
                            f"{failure.title}: {failure.message}\n{node.failure_info.code_sample}",
                        )
    assert asked > 500
    assert not found, "\n\n".join(f"{check} at {label}: {what}" for (check, label), what in found.items())


def takes(openapi: Any, operation: Any) -> set[str]:
    """Return the names of what an operation takes."""
    names = {part["name"] for part in operation["parameters"]}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for part in (schema, *schema.get("anyOf", ())):
            found = openapi["components"]["schemas"].get(part.get("$ref", "").rpartition("/")[2], {})
            names |= found.get("properties", {}).keys()
    return names
