"""Wall time with the CPU time of the whole process beside it: what waits for a neighbour on the machine shows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

WARM = 10  # calls before those that count
SECONDS = 20.0  # after which no further call is begun


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: a median in the row's unit, its percentiles, and the CPU time of one call (or record).

    CPU time is in ms beside a time, and in µs a record beside a rate.
    """

    value: float
    p95: float | None = None
    cpu: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Lap:
    wall_s: float
    cpu_s: float


class Watch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self) -> Lap:
        return Lap(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def timed(call: Callable[[int], object], times: int, *, warm: int = WARM, seconds: float = SECONDS) -> Figure:
    """Return how long a call takes, in ms. It is told its number, those of the warm-up first."""
    for number in range(warm):
        call(number)
    laps, whole = list[Lap](), Watch()
    while len(laps) < times and (not laps or whole.lap().wall_s < seconds):
        watch = Watch()
        call(warm + len(laps))
        laps.append(watch.lap())
    return of_laps(laps)


async def timed_there(call: Callable[[int], Awaitable[object]], times: int, *, warm: int = WARM) -> Figure:
    """The same, on the event loop that runs."""
    for number in range(warm):
        await call(number)
    laps, whole = list[Lap](), Watch()
    while len(laps) < times and (not laps or whole.lap().wall_s < SECONDS):
        watch = Watch()
        await call(warm + len(laps))
        laps.append(watch.lap())
    return of_laps(laps)


def of_laps(laps: Sequence[Lap]) -> Figure:
    walls = sorted(lap.wall_s for lap in laps)
    p95 = walls[min(len(walls) - 1, int(0.95 * len(walls)))] if len(walls) >= 20 else None
    return Figure(median(walls) * 1e3, None if p95 is None else p95 * 1e3, median(lap.cpu_s for lap in laps) * 1e3)


def rate(count: int, laps: Sequence[Lap]) -> Figure:
    """Return how many a second, when each lap did `count` of them."""
    return Figure(count / median(lap.wall_s for lap in laps), cpu=median(lap.cpu_s for lap in laps) / count * 1e6)
