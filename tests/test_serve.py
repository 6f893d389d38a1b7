"""`simonides serve`: what it says, when it refuses, and that nothing that was answered is ever lost."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import ROOT
from serving import PATIENCE_S, Child, child, served, until

from simonides import Memory
from simonides.cli import main
from simonides.errors import Invalid, Unavailable
from simonides.servers.house import opened
from simonides.servers.run import bound
from simonides.serving import Serving

CLIENTS = 32
ENOUGH = 100  # writes that were answered before it is stopped


def simonides(*words: str) -> Any:
    return CliRunner().invoke(main, list(words))


# -- what it says -------------------------------------------------------------------------------------------------


def test_it_says_where_everything_is_and_answers_there(home: Path) -> None:
    with child(home, "--log", "json") as server:
        assert server.said["keys"] is False and server.said["store"].startswith("sqlite:///")
        for door in ("docs", "metrics"):
            assert httpx.get(server.said[door]).status_code == 200, door
        assert httpx.get(f"{server.said['api']}/stats").status_code == 200
        assert server.stop() == 0
        ready = next(line for line in server.lines() if line["event"] == "ready")
        assert ready["doors"]["api"] == server.said["api"] and ready["keys"] is False


def test_grpc_is_a_door_of_the_same_house(home: Path) -> None:
    grpc = pytest.importorskip("grpc")
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with child(home, "--grpc-port", str(port)) as server:
        assert server.said["grpc"] == f"127.0.0.1:{port}"
        with grpc.insecure_channel(server.said["grpc"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            said = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert said.status == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() == 0


def test_what_the_guide_shows_works(home: Path) -> None:
    if not shutil.which("curl") or not shutil.which("bash"):
        pytest.skip("there is no curl here to run the guide's examples with")
    guide = (ROOT / "docs" / "guides" / "over-http.md").read_text("utf-8")
    calls = re.findall(r"```sh\n(curl .*?)```", guide, re.S)
    assert len(calls) >= 5
    with child(home) as server:
        for each in calls:
            shown = each.replace("http://127.0.0.1:40020", server.url).replace("curl -s", "curl -sS --fail-with-body")
            ran = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, timeout=PATIENCE_S)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert json.loads(ran.stdout)
        found = httpx.post(f"{server.url}/api/v1/recall", json={"text": "Lisbon", "user": "ana"}).json()
        assert found["hits"][0]["record"]["text"] == "I moved to Lisbon in May"


def test_an_open_session_of_mcp_does_not_hold_up_the_end(home: Path) -> None:
    with child(home, "--drain-seconds", "30") as server:
        begin = {
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {
                "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}
            },
        }  # fmt: skip
        takes = {"Accept": "application/json, text/event-stream"}
        with httpx.Client(timeout=PATIENCE_S) as client:
            begun = client.post(f"{server.url}/mcp", json=begin, headers=takes, follow_redirects=True)
            assert begun.status_code == 200, begun.text
            if session := begun.headers.get("mcp-session-id"):
                takes |= {"Mcp-Session-Id": session}
            with client.stream("GET", str(begun.url), headers=takes):
                began = time.monotonic()
                assert server.stop() == 0
        assert time.monotonic() - began < 15


def test_people_are_told_in_words(home: Path) -> None:
    with child(home, "--log", "pretty") as server:
        said = server.log.read_text()
        assert f"API      {server.url}/api/v1" in said and f"Docs     {server.url}/docs" in said
        assert "none asked" in said
        assert server.stop(signal.SIGINT) == 0


def test_a_port_that_is_taken_is_said_to_be(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = simonides("serve", "--port", str(port))
    assert refused.exit_code == 5 and f"port {port} at 127.0.0.1 is taken" in refused.stderr
    assert "--port 0" in refused.stderr and "Traceback" not in refused.output


def test_an_address_that_is_not_here_is_said_to_be() -> None:
    with pytest.raises(Unavailable, match=r"192\.0\.2\.1"):
        bound("192.0.2.1", 0)
    with pytest.raises(Unavailable, match="no address"):
        bound("nobody.invalid", 0)


def test_a_name_of_two_addresses_is_listened_at_on_both() -> None:
    sockets = bound("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
    finally:
        for each in sockets:
            each.close()


def test_wrong_settings_are_an_error_before_anything_is_opened(home: Path) -> None:
    refused = simonides("serve", "--port", "70000")
    assert refused.exit_code == 2 and "port must be between 0 and 65535" in refused.stderr
    assert not (home / "home").exists()


def test_a_server_is_not_begun_for_one_user(home: Path) -> None:
    told = CliRunner().invoke(main, ["serve", "--user", "ana"])
    assert told.exit_code == 2 and "--user" in told.stderr and "simonides keys" in told.stderr


async def test_what_cannot_be_opened_leaves_nothing_behind(home: Path) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, said: unheard.append(said))
    with pytest.raises(Invalid, match="directories"):
        async with opened(home / "me.db", Serving(directory="nothing:")):
            pass
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
    del others
    gc.collect()
    assert unheard == []


def test_every_setting_is_a_flag(home: Path) -> None:
    told = " ".join(simonides("serve", "--help").output.split())
    for flag in ("--host", "--port", "--require-key", "--cors-origins", "--upstream-key-file", "--no-metrics"):
        assert flag in told


def test_neither_the_package_nor_its_help_needs_the_server() -> None:
    code = (
        "import sys, simonides, simonides.cli\n"
        "print([name for name in ('fastapi', 'pydantic', 'uvicorn', 'structlog', 'httpx', 'prometheus_client')"
        " if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_what_is_not_needed_to_be_ready_is_imported_later(home: Path) -> None:
    code = (
        "import sys, asyncio\n"
        "from simonides.servers import run\n"
        "from simonides.servers.house import opened\n"
        "async def main():\n"
        "    async with opened(':memory:'): print([n for n in ('mcp', 'httpx', 'grpc') if n in sys.modules])\n"
        "asyncio.run(main())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed here")
def test_the_examples_of_the_guide_run(home: Path) -> None:
    guide = (ROOT / "docs" / "operate" / "serve.md").read_text("utf-8")
    examples = re.findall("^curl .*$", guide, re.MULTILINE)
    assert len(examples) == 3
    with served() as server:
        for example in examples:
            command = example.replace("http://127.0.0.1:40020", server.url).replace("curl ", "curl --fail ", 1)
            ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S)
            assert ran.returncode == 0, f"{example}: {ran.stderr}"
            assert json.loads(ran.stdout)


# -- keys ---------------------------------------------------------------------------------------------------------


def test_beyond_this_machine_it_refuses_without_a_key(home: Path) -> None:
    refused = simonides("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.exit_code == 2 and "simonides keys create" in refused.stderr


def test_with_a_key_it_serves_others_and_asks_for_it(home: Path) -> None:
    made = simonides("--json", "keys", "create", "a client")
    assert made.exit_code == 0, made.output
    secret = next(value for value in json.loads(made.stdout).values() if str(value).startswith("sim_"))
    with child(home, "--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.said["keys"] is True
        assert httpx.get(f"{url}/api/v1/stats").status_code == 401
        assert httpx.get(f"{url}/api/v1/stats", headers={"X-API-Key": secret}).status_code == 200
        for page, count in (("guides/keys", 2), ("operate/container", 2), ("operate/scaled", 1)):
            shown = re.findall("^curl .*?(?=  #|$)", (ROOT / "docs" / f"{page}.md").read_text("utf-8"), re.MULTILINE)
            assert len(shown) == count, page
            for each in shown if shutil.which("curl") else ():
                command = re.sub(r"http://[a-z0-9.]+:40020", url, each).replace("curl ", "curl -sS --fail ", 1)
                environment = {**os.environ, "KEY": secret}
                ran = subprocess.run(["sh", "-c", command], capture_output=True, env=environment, cwd=home)
                assert ran.returncode == 0, f"{each}: {ran.stderr!r}"
        assert server.stop() == 0
        assert secret not in server.log.read_text()


def test_keys_are_asked_for_on_this_machine_where_somebody_wants_it(home: Path) -> None:
    with child(home, SIMONIDES_REQUIRE_KEY="1") as server:
        assert httpx.get(f"{server.url}/api/v1/stats").status_code == 401
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert server.stop() == 0
        assert any("keys create" in line["event"] for line in server.lines())


def test_a_proxy_in_front_of_a_server_without_keys_is_warned_of(home: Path) -> None:
    with child(home, "--trusted-proxies", "127.0.0.1") as server:
        assert server.stop() == 0
        assert any("--require-key" in line["event"] for line in server.lines())


# -- new settings -------------------------------------------------------------------------------------------------


def limit(server: Child) -> str | None:
    return httpx.get(f"{server.url}/api/v1/certificates").headers.get("ratelimit-limit")


def test_it_reads_its_settings_again(home: Path) -> None:
    settings = home / "config.toml"
    settings.write_text("[server]\nrate = 5000\n")
    with child(home) as server:
        assert limit(server) == "5000"
        settings.write_text("[server]\nrate = 6000\nidle_seconds = 9\n")  # its file changed
        until(lambda: limit(server) == "6000")
        settings.write_text("[server]\nrate = -1\n")
        until(lambda: "the settings stay as they were" in server.log.read_text())
        assert limit(server) == "6000"
        stamp = settings.stat()
        settings.write_text("[server]\nrate = 70\n")
        os.utime(settings, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: limit(server) == "70")
        assert server.stop() == 0
        said = [line["event"] for line in server.lines()]
        assert "settings taken over: rate" in said and "these settings need a restart: idle_seconds" in said


def test_a_flag_counts_more_than_a_file_that_changes(home: Path) -> None:
    with child(home, "--rate", "4000") as server:
        (home / "config.toml").write_text("[server]\nrate = 9\nfailures_max = 3\n")
        until(lambda: "settings taken over: failures_max" in server.log.read_text())
        assert limit(server) == "4000"


# -- nothing is lost ----------------------------------------------------------------------------------------------


async def write_until_it_is_gone(url: str, acknowledged: list[str], broken: list[str], enough: asyncio.Event) -> None:
    """Write one thing after another from many clients; note what was answered, and answers that broke off."""
    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE_S, limits=httpx.Limits(max_connections=CLIENTS)
    ) as client:

        async def one(writer: int) -> None:
            for number in range(100_000):
                id = f"w{writer}-{number}"
                try:
                    async with client.stream("POST", "/api/v1/memories", json=memory(id)) as answer:
                        try:
                            body = await answer.aread()
                        except httpx.HTTPError as error:
                            broken.append(f"{id}: {error!r}")
                            return
                except httpx.HTTPError:
                    return  # refused, or closed before a word of an answer: it was not taken on
                if answer.status_code not in (201, 202):
                    broken.append(f"{id}: {answer.status_code} {body!r}")
                    return
                acknowledged.append(id)
                if len(acknowledged) >= ENOUGH:
                    enough.set()

        await asyncio.gather(*(one(writer) for writer in range(CLIENTS)))


def memory(id: str) -> dict[str, Any]:
    return {"content": f"This is what {id} had to say.", "id": id}


async def stopped_under_load(server: Child, number: int) -> tuple[list[str], list[str]]:
    acknowledged: list[str] = []
    broken: list[str] = []
    enough = asyncio.Event()
    writing = asyncio.create_task(write_until_it_is_gone(server.url, acknowledged, broken, enough))
    waiting = asyncio.create_task(enough.wait())
    await asyncio.wait({writing, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    assert enough.is_set(), f"{len(acknowledged)} were answered, {broken}, {server.log.read_text()}"
    server.process.send_signal(number)
    await asyncio.wait_for(writing, PATIENCE_S)
    return acknowledged, broken


def kept(store: str) -> set[str]:
    with Memory(store, embedder="none") as memory:
        return {record.id for record in memory.find(limit=10_000)}


@pytest.fixture
def under_load(home: Path) -> Iterator[Child]:
    with child(home, "--log-level", "warning", SIMONIDES_EMBEDDER="hashing:") as server:
        yield server


def test_what_was_answered_is_there_after_a_stop_under_load(under_load: Child) -> None:
    acknowledged, broken = asyncio.run(stopped_under_load(under_load, signal.SIGTERM))
    assert under_load.process.wait(PATIENCE_S) == 0, under_load.log.read_text()
    assert broken == [] and len(acknowledged) >= ENOUGH
    assert set(acknowledged) <= kept(under_load.said["store"])


def test_what_was_answered_is_there_after_a_kill(under_load: Child) -> None:
    acknowledged, _ = asyncio.run(stopped_under_load(under_load, signal.SIGKILL))
    under_load.process.wait(PATIENCE_S)
    assert len(acknowledged) >= ENOUGH
    assert set(acknowledged) <= kept(under_load.said["store"])


async def test_a_request_under_way_is_answered_and_a_stream_without_end_is_ended(home: Path) -> None:
    with child(home) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(memory("the last one")).encode()
        head = f"POST /api/v1/memories HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        await writer.drain()
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            async with client.stream("GET", f"{server.url}/api/v1/events") as events:
                assert events.status_code == 200
                server.process.send_signal(signal.SIGTERM)
                async for _ in events.aiter_raw():
                    pass  # to its end
            for _ in range(600):
                try:
                    await client.get(f"{server.url}/health/live")
                except httpx.HTTPError:
                    break  # nobody new is let in
        await asyncio.sleep(0.5)  # the request takes its time
        writer.write(body[5:])
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 202")), answer
        writer.close()
        await writer.wait_closed()
        assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0
        assert kept(server.said["store"]) == {"the last one"}


def test_work_that_a_call_began_is_finished_before_it_ends(tmp_path: Path) -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0.3)
        done.append(await server.house.desk.memory.count())

    async def begin() -> None:
        server.house.desk.tasks.begin("count", "local", work())

    with served(tmp_path / "m.db") as server:
        server.wait(begin())
    assert done == [0]


def test_who_does_not_end_in_time_is_not_waited_for(tmp_path: Path) -> None:
    with served(serving=Serving(port=0, directory="memory:", drain_seconds=0.1)) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(f"POST /api/v1/memories HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode())
            until(
                lambda: "simonides_api_requests_active 2.0" in httpx.get(f"{server.url}/metrics").text
            )  # and this one
            begun = time.monotonic()
    assert time.monotonic() - begun < 15, "not as long as the body may take"


def test_a_directory_that_cannot_be_opened_is_said_before_it_is_ready(home: Path) -> None:
    (home / "keys").mkdir()
    refused = simonides("serve", "--port", "0", "--directory", f"sqlite:///{home / 'keys'}", "--embedder", "none")
    assert refused.exit_code == 5 and "keys cannot be opened" in refused.stderr
    assert "ready" not in refused.output
