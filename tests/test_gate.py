"""The gate: what is shown, who is let in, how often, and what is told to those who are not."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from common import JUNE
from starlette.datastructures import Headers

from simonides.access import LOCAL, Permit, Principal
from simonides.cache import Room
from simonides.caches.process import ProcessCache
from simonides.directories.memory import MemoryDirectory
from simonides.directory import Grant
from simonides.errors import Full, Limited, SimonidesError, Unauthorized
from simonides.servers import gate as gates
from simonides.servers.gate import FAILURES_MAX, Gate, network

HERE, THERE = "192.0.2.1", "192.0.2.2"
GRANT = Grant(name="laptop", tenant="acme", spaces=frozenset({"main"}), user="ana", permits=Permit.READ)
WRONG = f"sim_{'a' * 12}_{'a' * 43}"


class Clock:
    """Both clocks of a gate, which stand still until told."""

    def __init__(self) -> None:
        self.seconds = 1000.25

    def now(self) -> datetime:
        return JUNE + timedelta(seconds=self.seconds)

    def ticks(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory() -> MemoryDirectory:
    return MemoryDirectory()


@pytest.fixture
async def gate(directory: MemoryDirectory, clock: Clock) -> AsyncIterator[Gate]:
    made = Gate(directory, require=True, clock=clock.now, ticks=clock.ticks)
    yield made
    await made.close()


@pytest.fixture
async def secret(directory: MemoryDirectory) -> str:
    _, secret = await directory.make(GRANT)
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def refused(gate: Gate, headers: Mapping[str, str], client: str = HERE) -> SimonidesError:
    with pytest.raises((Unauthorized, Limited)) as caught:
        await gate.enter(headers, client)
    return caught.value


# -- what is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer KEY"},
        {"authorization": "bearer KEY"},
        {"AUTHORIZATION": "BEARER   KEY  "},
        {"X-API-Key": "KEY"},
        {"x-api-key": " KEY "},
        {"X-Api-Key": "KEY", "Authorization": "Bearer KEY"},
        Headers({"Authorization": "Bearer KEY", "Accept": "*/*"}),
        Headers(raw=[(b"x-api-key", b"KEY"), (b"x-api-key", b"KEY")]),
    ],
    ids=str,
)
async def test_a_key_is_taken_from_either_header_however_it_is_spelled(
    gate: Gate, directory: MemoryDirectory, headers: Mapping[str, str]
) -> None:
    key, secret = await directory.make(GRANT)
    shown = [(name.encode(), value.replace("KEY", secret).encode()) for name, value in headers.items()]
    for each in (Headers(raw=shown), {name.decode(): value.decode() for name, value in shown}):
        principal = await gate.enter(each, HERE)
        assert principal == Principal(
            name=key.id, tenant="acme", spaces=frozenset({"main"}), user="ana", permits=Permit.READ
        )


@pytest.mark.parametrize("require", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {WRONG}")],
        [("x-api-key", WRONG)],
        [("authorization", "Bearer KEY"), ("x-api-key", WRONG)],
        [("x-api-key", "KEY"), ("x-api-key", WRONG)],
        [("authorization", "Bearer KEY"), ("authorization", f"Bearer {WRONG}")],
        [("authorization", "Bearer KEY"), ("x-api-key", "")],
        [("authorization", "KEY")],
        [("authorization", "Basic KEY")],
        [("authorization", "Basic KEY"), ("x-api-key", "KEY")],
        [("authorization", "BearerKEY")],
        [("authorization", "Bearer KEY KEY")],
        [("authorization", "Bearer KEY,KEY")],
        [("authorization", 'Bearer "KEY"')],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("x-api-key", "")],
        [("x-api-key", "Bearer KEY")],
        [("x-api-key", "é" * 2000)],
    ],
    ids=str,
)
async def test_a_wrong_key_is_never_let_in_and_never_local(
    directory: MemoryDirectory, secret: str, headers: list[tuple[str, str]], require: bool
) -> None:
    gate = Gate(directory, require=require)
    raw = [(name.encode(), value.replace("KEY", secret).encode()) for name, value in headers]
    error = await refused(gate, Headers(raw=raw))
    assert isinstance(error, Unauthorized)
    assert secret not in str(error) and WRONG not in str(error)


async def test_where_no_directory_is_a_key_is_wrong(secret: str) -> None:
    gate = Gate(None, require=False)
    assert await gate.enter({}, HERE) == LOCAL
    assert isinstance(await refused(gate, bearer(secret)), Unauthorized)
    await gate.close()


async def test_without_a_key_one_is_local_only_where_none_is_asked_for(gate: Gate, directory: MemoryDirectory) -> None:
    error = await refused(gate, {"accept": "*/*"})
    assert isinstance(error, Unauthorized) and "simonides keys create" in str(error)
    assert "no key in the header" in str(await refused(gate, bearer("")))
    assert await Gate(directory, require=False).enter({"accept": "*/*"}, HERE) is LOCAL


async def test_a_key_that_expires_opens_nothing_from_then_on(
    gate: Gate, directory: MemoryDirectory, clock: Clock
) -> None:
    _, secret = await directory.make(dataclasses.replace(GRANT, expires=clock.now() + timedelta(seconds=1)))
    await gate.enter(bearer(secret), HERE)
    clock.seconds += 1
    assert "expired" in str(await refused(gate, bearer(secret)))


async def test_a_revoked_key_opens_nothing_at_once(
    gate: Gate, directory: MemoryDirectory, secret: str, clock: Clock
) -> None:
    key = await gate.enter(bearer(secret), HERE)
    await directory.revoke(key.name, clock.now())
    assert "revoked" in str(await refused(gate, bearer(secret)))


# -- wrong keys --------------------------------------------------------------------------------------------------


async def test_who_shows_too_many_wrong_keys_has_to_wait(
    gate: Gate, secret: str, clock: Clock, directory: MemoryDirectory
) -> None:
    _, fresh = await directory.make(GRANT)
    await gate.enter(bearer(secret), HERE)
    for n in range(FAILURES_MAX):
        shown = bearer(f"{WRONG[:-2]}{n:02}") if n % 2 else {"Authorization": "Basic abc"}
        assert isinstance(await refused(gate, shown), Unauthorized)
    for shown in (bearer(WRONG), {"Authorization": "Basic abc"}, bearer(fresh)):  # nothing is looked up any more
        error = await refused(gate, shown)
        assert isinstance(error, Limited) and 60 <= error.retry_after <= 61
    await gate.enter(bearer(secret), HERE)  # who was in lately goes on, behind the same address
    await gate.enter(bearer(fresh), THERE)  # others are not concerned
    assert isinstance(await refused(gate, bearer(WRONG), THERE), Unauthorized)
    clock.seconds += error.retry_after
    assert isinstance(await refused(gate, bearer(WRONG)), Unauthorized)
    await gate.enter(bearer(fresh), HERE)


async def test_a_known_key_that_is_revoked_is_refused_from_a_barred_address_too(
    gate: Gate, directory: MemoryDirectory, secret: str, clock: Clock
) -> None:
    principal = await gate.enter(bearer(secret), HERE)
    for _ in range(FAILURES_MAX):
        await refused(gate, bearer(WRONG))
    await directory.revoke(principal.name, clock.now())
    assert isinstance(await refused(gate, bearer(secret)), Unauthorized)


async def test_one_machine_may_not_try_from_each_of_its_addresses(gate: Gate) -> None:
    for n in range(FAILURES_MAX):
        assert isinstance(await refused(gate, bearer(WRONG), f"2001:db8::{n}"), Unauthorized)
    assert isinstance(await refused(gate, bearer(WRONG), "2001:db8::ffff"), Limited)
    assert isinstance(await refused(gate, bearer(WRONG), "2001:db8:0:1::"), Unauthorized)


async def test_no_key_and_a_key_that_ended_are_no_attempts(
    gate: Gate, directory: MemoryDirectory, clock: Clock, secret: str
) -> None:
    _, ended = await directory.make(dataclasses.replace(GRANT, expires=JUNE))
    for _ in range(FAILURES_MAX):
        assert isinstance(await refused(gate, {}), Unauthorized)
        assert isinstance(await refused(gate, bearer(ended)), Unauthorized)
    await gate.enter(bearer(secret), HERE)


async def test_a_local_caller_without_a_key_is_not_barred(directory: MemoryDirectory) -> None:
    gate = Gate(directory, require=False)
    for _ in range(FAILURES_MAX + 1):
        await refused(gate, bearer(WRONG))
    assert await gate.enter({}, HERE) is LOCAL


async def test_wrong_keys_from_very_many_addresses_cost_bounded_memory(gate: Gate) -> None:
    for n in range(12_000):
        await refused(gate, bearer(WRONG), f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert isinstance(gate._failures._own, ProcessCache) and gate._failures._own.names <= 10_000


async def test_keys_that_came_in_cost_bounded_memory(
    gate: Gate, directory: MemoryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "KNOWN_MAX", 5)
    for _ in range(12):
        await gate.enter(bearer((await directory.make(GRANT))[1]), HERE)
    assert len(gate._known) == 5


def test_one_machine_is_one_address() -> None:
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::") == network("2001:db8:1:2::1%eth0")
    assert network("2001:db8:1:3::") != network("2001:db8:1:2::")
    assert network("::ffff:192.0.2.1") == network(HERE) == HERE != network(THERE)
    assert network("") == "" and network("unix:/run/s.sock") == "unix:/run/s.sock"


# -- rates -------------------------------------------------------------------------------------------------------


async def test_a_key_has_its_rate_and_others_have_theirs(gate: Gate, directory: MemoryDirectory, clock: Clock) -> None:
    _, slow = await directory.make(dataclasses.replace(GRANT, rate=3))
    _, free = await directory.make(GRANT)
    rooms = [(await gate.admit(bearer(slow), HERE)).room for _ in range(3)]
    assert rooms == [Room(3, 2, 61), Room(3, 1, 61), Room(3, 0, 61)]
    error = await refused(gate, bearer(slow))
    assert isinstance(error, Limited) and error.retry_after == 61
    assert (await gate.admit(bearer(free), HERE)).room is None
    clock.seconds += error.retry_after
    await gate.enter(bearer(slow), HERE)


async def test_who_has_no_rate_has_the_servers_which_may_change(
    directory: MemoryDirectory, secret: str, clock: Clock
) -> None:
    gate = Gate(directory, require=False, rate=2, ticks=clock.ticks, clock=clock.now)
    for shown in ({}, bearer(secret)):
        assert [(await gate.admit(shown, HERE)).room for _ in range(2)] == [Room(2, 1, 61), Room(2, 0, 61)]
        assert isinstance(await refused(gate, shown), Limited)
    gate.rate = 3
    await gate.enter(bearer(secret), HERE)
    gate.rate = 0
    assert (await gate.admit(bearer(secret), HERE)).room is None
    await gate.close()


# -- uses --------------------------------------------------------------------------------------------------------


async def test_uses_are_noted_together_and_not_one_by_one(
    directory: MemoryDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = list[Any]()
    note = directory.note
    monkeypatch.setattr(directory, "note", lambda uses: notes.append(dict(uses)) or note(uses))
    gate = Gate(directory, require=True, clock=clock.now)
    made = [await directory.make(GRANT) for _ in range(3)]
    for _, secret in made * 50:
        clock.seconds += 1
        await gate.enter(bearer(secret), HERE)
    await gate.close()
    assert [set(uses) for uses in notes] == [{key.id for key, _ in made}]
    assert (await directory.get(made[-1][0].id)).used == clock.now()


async def test_uses_are_noted_by_themselves_before_long(
    gate: Gate, directory: MemoryDirectory, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "NOTE_S", 0.0)
    for _ in range(2):
        key = await gate.enter(bearer(secret), HERE)
        assert gate._noting is not None
        await gate._noting
        assert (await directory.get(key.name)).used is not None
    await asyncio.sleep(0)


async def test_a_directory_that_cannot_note_a_use_keeps_nobody_out(
    gate: Gate,
    directory: MemoryDirectory,
    secret: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def full(uses: Mapping[str, datetime]) -> None:
        raise Full

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "simonides"):
        patched.setattr(directory, "note", full)
        key = await gate.enter(bearer(secret), HERE)
        await gate.settle()
    assert "could not be noted" in caplog.text and secret not in caplog.text
    assert (await directory.get(key.name)).used is None
    await gate.settle()  # what waited is noted then
    assert (await directory.get(key.name)).used == clock.now()
