"""What every directory owes. Subclass DirectorySuite, give it the two fixtures below, and run pytest (asyncio_mode =
"auto").

`make_directory` returns an async function that opens a new, empty directory each time; whoever calls it closes it.
`directory` is one such directory, closed after the test. See `tests/test_directories.py` for both.

    class TestMyDirectory(DirectorySuite):
        pass
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..access import EVERYTHING, Permit
from ..directory import Directory, Grant, Key, id_in
from ..errors import Invalid, NotFound
from ..record import now

MakeDirectory = Callable[[], Awaitable[Directory]]

DAY, TICK = timedelta(days=1), timedelta(microseconds=1)
JUNE = datetime(2026, 6, 1, 9, 30, 15, 123456, tzinfo=UTC)
PLAIN = Grant(name="laptop", tenant="acme")
BOUND = Grant(
    name="Ana’s phone, 電話",
    tenant="acme",
    spaces=frozenset({"main", "team, west", "équipe"}),
    user="o'hara; DROP TABLE keys",
    permits=Permit.READ | Permit.ERASE,
    rate=600,
    expires=JUNE,
)

_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
_times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
grants = st.builds(
    Grant,
    name=_names,
    tenant=st.sampled_from(["acme", "other"]),
    spaces=st.none() | st.frozensets(_names, min_size=1, max_size=3),
    user=st.none() | _names,
    permits=st.sampled_from([Permit(bits) for bits in range(EVERYTHING.value + 1)]),
    rate=st.none() | st.integers(1, 1_000_000),
    expires=st.none() | _times,
)

rule = settings(  # the fixture only opens directories, so it may serve every example
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class DirectorySuite:
    """Everything that a directory owes."""

    # -- copies --------------------------------------------------------------------------------------------------

    async def test_a_copy_of_the_keys_opens_what_they_opened(
        self, directory: Directory, make_directory: MakeDirectory
    ) -> None:
        made = [await directory.make(grant) for grant in (PLAIN, BOUND, PLAIN)]
        await directory.revoke(made[2][0].id, JUNE)
        await directory.note({made[0][0].id: JUNE})
        kept = await directory.kept()
        assert [key for key, _ in kept] == await directory.keys()
        assert await directory.kept(limit=1) == kept[:1] and await directory.kept(after=made[0][0].id) == kept[1:]
        with pytest.raises(Invalid):
            await directory.kept(after="nobody")
        assert not any(secret.encode() in own for _, own in kept for _, secret in made)
        copy = await make_directory()
        assert await copy.restore(kept[:2]) == 2
        assert await copy.restore(kept) == 1 and await copy.restore(kept) == await copy.restore([]) == 0
        assert await copy.kept() == kept
        for key, secret in made:
            assert await copy.find(secret) == await directory.get(key.id)
        await copy.close()

    async def test_a_copy_opens_nothing_that_is_closed(self, directory: Directory) -> None:
        [one, other] = [(await directory.make(PLAIN))[0] for _ in range(2)]
        older = await directory.kept()
        await directory.revoke(one.id, JUNE)
        revoked = await directory.kept()
        assert await directory.restore(older) == 0 and await directory.kept() == revoked
        closed = [(dataclasses.replace(key, name="x", revoked=JUNE - DAY), own) for key, own in older]
        assert await directory.restore(closed) == 0
        for id in (one.id, other.id):
            key = await directory.get(id)
            assert (key.revoked, key.name) == (JUNE - DAY, PLAIN.name)

    # -- making and finding --------------------------------------------------------------------------------------

    async def test_a_key_is_what_it_was_granted(self, directory: Directory) -> None:
        before = now()
        for grant in (PLAIN, BOUND):
            key, _ = await directory.make(grant)
            assert _granted(key) == grant
            assert before - TICK <= key.made <= now()
            assert (key.revoked, key.used) == (None, None)

    async def test_a_key_is_found_by_its_secret_alone(self, directory: Directory) -> None:
        made = [await directory.make(grant) for grant in (PLAIN, BOUND, PLAIN)]
        for key, secret in made:
            assert await directory.find(secret) == key
            assert id_in(secret) == key.id
            assert await directory.find(key.id) is None

    async def test_no_two_keys_share_an_id_or_a_secret(self, directory: Directory) -> None:
        made = await asyncio.gather(*(directory.make(PLAIN) for _ in range(50)))
        assert len({key.id for key, _ in made}) == len({secret for _, secret in made}) == 50

    async def test_what_is_almost_a_secret_is_nobodys(self, directory: Directory) -> None:
        (key, secret), (other, others) = await directory.make(PLAIN), await directory.make(PLAIN)
        head, tail = secret[:-43], secret[-43:]
        wrong = [
            *("", " ", key.id, secret[:-1], f"{secret}a", f" {secret}", f"{secret}\n", secret.swapcase()),
            *(head, head + others[-43:], others.replace(other.id, key.id), head + "a" * 43, secret + "\0"),
            *(f"sim_{'a' * 12}_{tail}", f"sim__{tail}", f"SIM{secret[3:]}", secret.encode().hex(), secret * 9),
            *("' OR 1=1 --", "%", "*", "\ud800", "é" * 60, "x" * 100_000),
        ]
        assert [text for text in wrong if await directory.find(text)] == []
        assert await directory.find(secret) == key

    @rule
    @given(grant=grants, position=st.integers(0, 58), letter=st.characters())
    def test_any_grant_is_kept_and_any_letter_counts(
        self, make_directory: MakeDirectory, grant: Grant, position: int, letter: str
    ) -> None:
        async def story(directory: Directory) -> None:
            key, secret = await directory.make(grant)
            assert _granted(key) == grant
            assert await directory.find(secret) == await directory.get(key.id) == key
            assert await directory.keys() == [key]
            changed = secret[:position] + letter + secret[position + 1 :]
            assert (await directory.find(changed) == key) == (changed == secret)

        _told(make_directory, story)

    @rule
    @given(text=st.text())
    def test_any_text_may_be_asked_for(self, make_directory: MakeDirectory, text: str) -> None:
        async def story(directory: Directory) -> None:
            await directory.make(PLAIN)
            assert await directory.find(text) is None
            with pytest.raises(NotFound):
                await directory.get(text)

        _told(make_directory, story)

    # -- listing -------------------------------------------------------------------------------------------------

    async def test_keys_are_listed_in_the_order_they_were_made(self, directory: Directory) -> None:
        made = [(await directory.make(dataclasses.replace(PLAIN, name=str(n))))[0] for n in range(5)]
        assert await directory.keys() == made
        assert await directory.keys(limit=2) == made[:2]

    async def test_pages_are_everything_once_whatever_is_made_or_revoked_between_them(
        self, directory: Directory
    ) -> None:
        made = [(await directory.make(PLAIN))[0].id for _ in range(7)]
        found = list[str]()
        while page := await directory.keys(after=found[-1] if found else None, limit=3):
            found += [key.id for key in page]
            await directory.revoke(found[-1], now())
            if len(found) == 3:
                made.append((await directory.make(PLAIN))[0].id)
        assert found == made

    async def test_after_an_id_that_no_key_has_there_is_no_page(self, directory: Directory) -> None:
        await directory.make(PLAIN)
        with pytest.raises(Invalid):
            await directory.keys(after="nobody")

    async def test_a_tenant_is_listed_its_own_keys_alone(self, directory: Directory) -> None:
        ours, _ = await directory.make(PLAIN)
        theirs, _ = await directory.make(dataclasses.replace(PLAIN, tenant="other"))
        assert await directory.keys(tenant="acme") == [ours]
        assert await directory.keys(tenant="other") == [theirs]
        assert await directory.keys(tenant="nobody") == await directory.keys(tenant="") == []
        assert await directory.keys(tenant="other", after=ours.id) == [theirs]

    async def test_a_tenant_reaches_its_own_keys_alone(self, directory: Directory) -> None:
        key, secret = await directory.make(PLAIN)
        for tenant in ("other", "", "%"):
            with pytest.raises(NotFound):
                await directory.get(key.id, tenant=tenant)
            with pytest.raises(NotFound):
                await directory.revoke(key.id, now(), tenant=tenant)
        assert await directory.get(key.id, tenant="acme") == await directory.find(secret) == key

    # -- revoking ------------------------------------------------------------------------------------------------

    async def test_a_revoked_key_is_found_and_says_that_it_is(self, directory: Directory) -> None:
        key, secret = await directory.make(PLAIN)
        other, others = await directory.make(PLAIN)
        assert await directory.find(secret) == key
        closed = await directory.revoke(key.id, JUNE, tenant="acme")
        assert closed == dataclasses.replace(key, revoked=JUNE)
        assert await directory.find(secret) == await directory.get(key.id) == closed
        assert await directory.find(others) == other
        assert (closed.closed(JUNE - TICK), closed.closed(JUNE)) == (None, "revoked")

    async def test_of_two_revocations_the_earlier_counts(self, directory: Directory) -> None:
        key, _ = await directory.make(PLAIN)
        for at, counts in ((JUNE + DAY, JUNE + DAY), (JUNE, JUNE), (JUNE + DAY, JUNE)):
            assert (await directory.revoke(key.id, at)).revoked == counts

    async def test_a_key_that_is_not_there_is_not_revoked(self, directory: Directory) -> None:
        key, _ = await directory.make(PLAIN)
        for id in ("", "nobody", key.id[:-1], key.id.upper()):
            with pytest.raises(NotFound):
                await directory.revoke(id, now())
        assert await directory.keys() == [key]

    async def test_only_what_opens_something_is_counted(self, directory: Directory) -> None:
        assert await directory.count(JUNE) == 0
        await directory.make(BOUND)  # until June
        key, _ = await directory.make(PLAIN)
        assert [await directory.count(at) for at in (JUNE - TICK, JUNE)] == [2, 1]
        await directory.revoke(key.id, JUNE)
        assert [await directory.count(at) for at in (JUNE - TICK, JUNE)] == [2, 0]

    # -- uses ----------------------------------------------------------------------------------------------------

    async def test_the_last_use_is_noted_and_never_goes_back(self, directory: Directory) -> None:
        (key, secret), (idle, _) = await directory.make(PLAIN), await directory.make(PLAIN)
        for at, noted in ((JUNE, JUNE), (JUNE - DAY, JUNE), (JUNE + TICK, JUNE + TICK)):
            await directory.note({key.id: at, "nobody": at})
            assert await directory.find(secret) == dataclasses.replace(key, used=noted)
        await directory.note({})
        assert await directory.get(idle.id) == idle

    # -- at once -------------------------------------------------------------------------------------------------

    async def test_many_at_once_lose_nothing(self, directory: Directory) -> None:
        made = [await directory.make(PLAIN) for _ in range(20)]
        await asyncio.gather(
            *(directory.revoke(key.id, JUNE) for key, _ in made[::2]),
            *(directory.note({key.id: JUNE}) for key, _ in made),
            *(directory.find(secret) for _, secret in made),
            *(directory.make(PLAIN) for _ in range(20)),
        )
        found = await directory.keys()
        assert len(found) == 40
        assert [(key.revoked, key.used) for key in found[:20]] == [(JUNE, JUNE), (None, JUNE)] * 10
        assert [await directory.find(secret) for _, secret in made] == found[:20]


def _granted(key: Key) -> Grant:
    return Grant(**{field.name: getattr(key, field.name) for field in dataclasses.fields(Grant)})


def _told(make_directory: MakeDirectory, story: Callable[[Directory], Awaitable[Any]]) -> None:
    """Run an example of a rule, which has a loop and a directory of its own."""

    async def tell() -> None:
        directory = await make_directory()
        try:
            await story(directory)
        finally:
            await directory.close()

    asyncio.run(tell())
