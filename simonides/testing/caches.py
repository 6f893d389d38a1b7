"""What every cache owes. Subclass CacheSuite, give it the fixture below, and run pytest (asyncio_mode = "auto").

`cache` is an open cache, in which nothing that other tests kept can be seen. See `tests/test_caches.py`.

    class TestMyCache(CacheSuite):
        pass
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

from ..cache import VALUE_MAX, Cache, Lock, Room

LONG = 600.0  # seconds that no test takes
PATIENCE_S = 10.0
TEXTS = ("", "a", "b", "{a}", "a:b", "a b\n", "Lisbon 電話 🌉", "\ud800", "x" * 10_000)


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is met; it is asked again and again."""
    end = time.monotonic() + PATIENCE_S
    while not await met():
        assert time.monotonic() < end, "it is not met"
        await asyncio.sleep(0.01)


class CacheSuite:
    # -- values --------------------------------------------------------------------------------------------------

    async def test_what_is_set_is_there_and_what_is_not_is_none(self, cache: Cache) -> None:
        values = {key: f"{place}".encode() * place for place, key in enumerate(TEXTS)}
        assert await cache.get("g", TEXTS) == [None] * len(TEXTS)
        await cache.set("g", values, LONG)
        assert await cache.get("g", [*TEXTS, "no", TEXTS[1]]) == [*values.values(), None, values[TEXTS[1]]]
        assert await cache.get("g", []) == []
        await cache.set("g", {}, LONG)

    async def test_groups_are_apart_whatever_they_are_called(self, cache: Cache) -> None:
        for group in TEXTS:
            await cache.set(group, {"key": group.encode("utf-8", "replace")}, LONG)
        for group in TEXTS:
            assert await cache.get(group, ["key"]) == [group.encode("utf-8", "replace")]

    async def test_bytes_come_back_as_they_were(self, cache: Cache) -> None:
        every = bytes(range(256)) * 9
        await cache.set("g", {"every": every, "none": b""}, LONG)
        assert await cache.get("g", ["every", "none"]) == [every, b""]

    async def test_the_last_value_counts_and_so_does_its_time(self, cache: Cache) -> None:
        await cache.set("g", {"a": b"1"}, 0.05)
        await cache.set("g", {"a": b"2"}, LONG)
        await asyncio.sleep(0.06)
        assert await cache.get("g", ["a"]) == [b"2"]
        await cache.set("g", {"a": b"3"}, 0.05)

        async def gone() -> bool:
            return await cache.get("g", ["a"]) == [None]

        await until(gone)

    async def test_a_value_is_gone_when_its_time_is(self, cache: Cache) -> None:
        begun = time.monotonic()
        await cache.set("g", {"short": b"1", "longer": b"2"}, 0.2)
        await cache.set("g", {"long": b"3"}, LONG)
        found = await cache.get("g", ["short", "long"])
        assert found == [b"1", b"3"] or time.monotonic() - begun > 0.2

        async def gone() -> bool:
            return await cache.get("g", ["short", "longer", "long"]) == [None, None, b"3"]

        await until(gone)
        assert time.monotonic() - begun >= 0.19

    async def test_what_has_no_time_is_not_kept(self, cache: Cache) -> None:
        for seconds in (0.0, -1.0):
            await cache.set("g", {"a": b"1"}, seconds)
            assert await cache.get("g", ["a"]) == [None]

    async def test_what_is_too_large_is_not_kept_and_takes_nothing_with_it(self, cache: Cache) -> None:
        await cache.set("g", {"large": b"x" * (VALUE_MAX + 1), "small": b"1"}, LONG)
        assert await cache.get("g", ["large", "small"]) == [None, b"1"]

    # -- clear ---------------------------------------------------------------------------------------------------

    async def test_a_group_is_cleared_alone_and_counted(self, cache: Cache) -> None:
        await cache.set("mine", {f"{n}": b"1" for n in range(2_500)}, LONG)
        await cache.set("mine", {"0": b"2"}, LONG)
        await cache.set("theirs", {"0": b"1"}, LONG)
        assert await cache.clear("mine") == 2_500
        assert await cache.get("mine", ["0", "2499"]) == [None, None]
        assert await cache.get("theirs", ["0"]) == [b"1"]
        assert await cache.clear("mine") == await cache.clear("never") == 0
        await cache.set("mine", {"0": b"3"}, LONG)
        assert await cache.get("mine", ["0"]) == [b"3"]

    async def test_what_is_past_its_time_is_not_counted(self, cache: Cache) -> None:
        await cache.set("g", {"short": b"1"}, 0.02)
        await asyncio.sleep(0.05)
        await cache.set("g", {"long": b"1"}, LONG)
        assert await cache.clear("g") == 1

    async def test_what_is_of_an_earlier_generation_does_not_get_in_after_a_clear(self, cache: Cache) -> None:
        await cache.set("g", {"a": b"5"}, LONG, generation=5)
        assert await cache.clear("g", generation=7) == 1
        for generation in (0, 5, 6):
            await cache.set("g", {"a": b"old"}, LONG, generation=generation)
            assert await cache.get("g", ["a"]) == [None]
        await cache.set("g", {"a": b"7"}, LONG, generation=7)
        assert await cache.get("g", ["a"]) == [b"7"]
        await cache.set("other", {"a": b"1"}, LONG, generation=1)
        assert await cache.get("other", ["a"]) == [b"1"]
        assert await cache.clear("g", generation=6) == 1  # an erase that comes late lets nothing older in
        await cache.set("g", {"a": b"6"}, LONG, generation=6)
        assert await cache.get("g", ["a"]) == [None]
        large = 2**52
        await cache.clear("g", generation=large)
        await cache.set("g", {"a": b"1"}, LONG, generation=large - 1)
        await cache.set("g", {"b": b"1"}, LONG, generation=large)
        assert await cache.get("g", ["a", "b"]) == [None, b"1"]

    async def test_many_at_once_get_what_they_asked_for(self, cache: Cache) -> None:
        async def one(n: int) -> None:
            await cache.set(f"g{n % 3}", {f"k{n}": f"{n}".encode()}, LONG)
            assert await cache.get(f"g{n % 3}", [f"k{n}", "no"]) == [f"{n}".encode(), None]

        await asyncio.gather(*(one(n) for n in range(100)))

    # -- counts --------------------------------------------------------------------------------------------------

    async def test_so_many_are_let_through_and_no_more(self, cache: Cache) -> None:
        rooms = [await cache.take("n", 3) for _ in range(5)]
        assert [(room.allowed, room.remaining) for room in rooms] == [(True, 2), (True, 1), (True, 0)] + [
            (False, 0)
        ] * 2
        assert all(room.limit == 3 and 55 <= room.reset <= 61 for room in rooms)
        assert await cache.take("other", 3) == Room(3, 2, 61)

    async def test_looking_counts_nothing(self, cache: Cache) -> None:
        assert [await cache.take("n", 1, count=0) for _ in range(3)] == [Room(1, 1, 0)] * 3
        await cache.take("n", 1)
        looked = await cache.take("n", 1, count=0)
        assert not looked.allowed and looked.remaining == 0 and looked.reset > 0

    async def test_several_are_counted_together_or_not_at_all(self, cache: Cache) -> None:
        assert (await cache.take("n", 10, count=4)).remaining == 6
        assert (await cache.take("n", 10, count=7)) == dataclasses.replace(
            await cache.take("n", 10, count=0), allowed=False
        )
        room = await cache.take("n", 10, count=6)
        assert room.allowed and room.remaining == 0

    async def test_a_rate_may_change(self, cache: Cache) -> None:
        for _ in range(3):
            await cache.take("n", 3)
        assert not (await cache.take("n", 2)).allowed
        assert (await cache.take("n", 5)).remaining == 1
        assert not (await cache.take("n", 0)).allowed

    async def test_windows_of_another_length_are_another_count(self, cache: Cache) -> None:
        assert (await cache.take("n", 1, 60)).allowed
        room = await cache.take("n", 1, 3600)
        assert room.allowed and 3600 <= room.reset <= 3660
        assert not (await cache.take("n", 1, 3600)).allowed

    async def test_many_at_once_are_counted_each(self, cache: Cache) -> None:
        rooms = await asyncio.gather(*(cache.take("n", 17) for _ in range(60)))
        assert sum(room.allowed for room in rooms) == 17
        assert sorted(room.remaining for room in rooms if room.allowed) == list(range(17))

    async def test_in_no_second_is_more_let_through_and_whoever_waits_is(self, cache: Cache) -> None:
        through = list[tuple[float, float]]()
        end = time.monotonic() + 3.3
        while time.monotonic() < end:
            before = time.monotonic()
            room = await cache.take("n", 4, 1)
            if room.allowed:
                through.append((before, time.monotonic()))
            else:
                assert 1 <= room.reset <= 2
            await asyncio.sleep(0.02)
        assert len(through) >= 5
        for first, last in zip(through, through[4:], strict=False):
            assert last[1] - first[0] > 1.0

    # -- locks ---------------------------------------------------------------------------------------------------

    async def test_a_lock_is_held_by_one(self, cache: Cache) -> None:
        held = await cache.lock("n", LONG)
        assert held is not None and held.name == "n"
        assert await cache.lock("n", LONG) is None
        other = await cache.lock("other", LONG)
        assert other is not None
        assert await cache.release(held)
        assert await cache.lock("n", LONG) is not None

    async def test_of_many_at_once_one_gets_it(self, cache: Cache) -> None:
        found = await asyncio.gather(*(cache.lock("n", LONG) for _ in range(40)))
        assert sum(lock is not None for lock in found) == 1

    async def test_tokens_only_ever_grow(self, cache: Cache) -> None:
        tokens = []
        for _ in range(30):
            held = await cache.lock("n", LONG)
            assert held is not None
            tokens.append(held.token)
            assert await cache.release(held)
        assert all(one < other for one, other in pairwise(tokens))

    async def test_only_its_holder_renews_and_releases_a_lock(self, cache: Cache) -> None:
        first = await cache.lock("n", LONG)
        assert first is not None and await cache.release(first)
        second = await cache.lock("n", LONG)
        assert second is not None
        for stranger in (first, Lock("n", 0), Lock("n", second.token + 1), Lock("never", second.token)):
            assert not await cache.renew(stranger, LONG)
            assert not await cache.release(stranger)
        assert await cache.lock("n", LONG) is None
        assert await cache.renew(second, LONG) and await cache.release(second) and not await cache.release(second)

    async def test_a_lock_ends_unless_it_is_renewed(self, cache: Cache) -> None:
        first, kept = await cache.lock("n", 0.1), await cache.lock("kept", 0.5)
        assert first is not None and kept is not None
        assert await cache.renew(kept, LONG)
        found = list[Lock]()

        async def free() -> bool:
            found.extend(filter(None, [await cache.lock("n", LONG)]))
            return bool(found)

        await until(free)
        assert found[0].token > first.token
        assert not await cache.renew(first, LONG) and not await cache.release(first)
        await asyncio.sleep(0.45)
        assert await cache.lock("kept", LONG) is None

    # ------------------------------------------------------------------------------------------------------------

    async def test_it_is_there(self, cache: Cache) -> None:
        await cache.ping()
        assert cache.name and cache.patience_s > 0 and isinstance(cache.shared, bool)
