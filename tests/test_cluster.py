"""Everything together: two servers, two workers, PostgreSQL, Valkey and a feed; a rolling restart in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from engines import Postgres, Valkey
from serving import PATIENCE_S, Child, child

BATCH, WRITERS, READERS = 20, 8, 8
ASKED_EACH = 5  # of so many rounds of batches one is asked for by what it says
SETTLED_S = 120.0


@dataclass
class Cluster:
    """The processes, and which of the servers a balancer would send calls to."""

    folder: Path
    environment: dict[str, str]
    messages: int
    key: str
    stack: contextlib.ExitStack
    servers: list[Child] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def serve(self) -> Child:
        made = self.stack.enter_context(child(self.folder, "--require-key", **self.environment))
        self.servers.append(made)
        return made

    def work(self) -> subprocess.Popen[bytes]:
        log = self.stack.enter_context((self.folder / f"worker-{len(self.workers)}.log").open("wb"))
        made = subprocess.Popen(
            [sys.executable, "-m", "simonides", "worker", "--lease-seconds", "3"],
            cwd=self.folder, env={**os.environ, **self.environment}, stdout=log, stderr=log,
        )  # fmt: skip
        self.workers.append(made)
        self.stack.callback(lambda: (made.kill(), made.wait()))
        return made

    def command(self, *words: str) -> Any:
        ran = subprocess.run(
            [sys.executable, "-m", "simonides", *words, "--json"],
            cwd=self.folder, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture(
    params=[("", 5_000), ("valkey", 1_000), ("kafka", 1_000)], ids=["the store's log", "Redis Streams", "Kafka"]
)
def cluster(request: pytest.FixtureRequest, home: Path, postgres: Postgres, valkey: Valkey) -> Iterator[Cluster]:
    broker, messages = request.param
    name = f"cluster_{secrets.token_hex(4)}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN NOSUPERUSER NOBYPASSRLS")
        admin.execute(f"CREATE DATABASE {name} OWNER {name}")
    with psycopg.connect(postgres.url(name), autocommit=True) as admin:
        admin.execute("CREATE EXTENSION vector")
    url = postgres.url(name).replace("postgres@", f"{name}@")
    environment = {
        "SIMONIDES_URL": url,
        "SIMONIDES_CACHE": valkey.url,
        "SIMONIDES_FEED": request.getfixturevalue(broker).url if broker else "",
        "SIMONIDES_EMBEDDER": "hashing:",
        "SIMONIDES_WORK": "elsewhere",
    }
    with contextlib.ExitStack() as stack:
        made = Cluster(home, environment, messages, "", stack)
        made.key = made.command("keys", "create", "first")["secret"]
        yield made


def text(number: int) -> str:
    return f"The crate {number:05d} of ship {number % 97} holds {number * 7919 % 100_003} lamps"


async def test_thousands_of_messages_and_a_rolling_restart(cluster: Cluster) -> None:
    first, _ = cluster.serve(), cluster.serve()
    cluster.work()
    doomed = cluster.work()
    balanced = list(cluster.servers)
    errors, stored = list[str](), 0
    headers = {"Authorization": f"Bearer {cluster.key}"}
    limits = httpx.Limits(max_keepalive_connections=0)  # a balancer makes its connections anew
    async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S, limits=limits) as client:

        async def call(number: int, path: str, body: Any) -> Any:
            server = balanced[number % len(balanced)]
            answer = await client.post(f"{server.url}/api/v1{path}", json=body)
            if answer.status_code >= 300:
                errors.append(f"{answer.status_code} {answer.text}")
            return answer.json()

        async def write(writer: int) -> None:
            nonlocal stored
            for start in range(writer * BATCH, cluster.messages, WRITERS * BATCH):
                messages = [
                    {"role": "user", "content": text(n)} for n in range(start, min(start + BATCH, cluster.messages))
                ]
                session = f"ship-{start // BATCH % 40}"
                body = {"content": messages, "session": session, "user": "marta"}
                await call(start, "/memories?wait=stored", body)
                stored += len(messages)

        async def leave(server: Child, instead: list[Child]) -> None:
            """Take a server out of turn, as balancers do, and stop it when the last call sent to it has arrived."""
            balanced[:] = instead
            await asyncio.sleep(1)
            assert await asyncio.to_thread(server.stop) == 0

        async def restart() -> None:
            while stored < cluster.messages // 3:
                await asyncio.sleep(0.05)
            doomed.send_signal(signal.SIGKILL)
            fresh = await asyncio.to_thread(cluster.serve)
            await leave(first, [fresh, cluster.servers[1]])
            cluster.work()
            second = await asyncio.to_thread(cluster.serve)
            await leave(cluster.servers[1], [fresh, second])
            gone = cluster.workers[0]
            gone.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gone.wait, PATIENCE_S) == 0
            cluster.work()

        await asyncio.gather(*map(write, range(WRITERS)), restart())
        assert not errors[:3] and stored == cluster.messages
        end = time.monotonic() + SETTLED_S
        while lagging := [each for each in cluster.command("status")["followers"] if each["lag"]]:
            assert time.monotonic() < end, lagging
            await asyncio.sleep(0.5)

        missing = list[str]()

        async def there() -> list[str]:
            """Return every message, once for each time that it is there."""
            told, after = list[str](), ""
            while after is not None:
                asked = {"user": "marta", "kinds": "message", "limit": 1000, **({"after": after} if after else {})}
                answer = (await client.get(f"{balanced[0].url}/api/v1/memories", params=asked)).json()
                told += [each["text"] for each in answer["results"]]
                after = answer["next"]
            return sorted(told)

        async def read(reader: int) -> None:
            """Ask for messages by what they say: some from everywhere."""
            for start in range(reader * BATCH, cluster.messages, READERS * BATCH * ASKED_EACH):
                wanted = [text(n) for n in range(start, min(start + BATCH, cluster.messages))]
                asked = {"texts": wanted, "user": "marta", "limit": 1, "effort": "low"}
                found = (await call(start, "/recall/batch", asked))["results"]
                firsts = [[hit["record"]["text"] for hit in each["hits"]] for each in found]
                missing.extend(said for said, first in zip(wanted, firsts, strict=True) if first != [said])

        assert await there() == [text(n) for n in range(cluster.messages)]
        await asyncio.gather(*map(read, range(READERS)))
    assert not errors and not missing
