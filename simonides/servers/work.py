"""Runs a worker in this process: says what it does, answers probes where a port is named, and ends without loss."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .. import config
from ..config import Settings
from ..errors import SimonidesError
from ..follow import Patience
from ..observe import MEDIA_TYPE, Observer
from ..serving import Serving, hide
from ..worker import Figures, Stand, Worker, opened
from . import logs
from .run import bound, loop_factory

log = logging.getLogger("simonides.worker")

SAID_S = 30.0  # between two lines of the log that say how far it is, while there is anything to say


def work(settings: Settings, flags: Mapping[str, Any], *, port: int, tries: int, **given: Any) -> None:
    """Work until a signal says to stop. `flags` are settings of a server, the rest what `worker.opened` takes."""
    serving = config.serving(flags)
    with logs.logged(serving), asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_work(settings, serving, port, Patience(tries=tries), **given))


async def _work(settings: Settings, serving: Serving, port: int, patience: Patience, **given: Any) -> None:
    observer = Observer()
    async with opened(settings, patience=patience, around=observer.around, **given) as worker:
        gc.freeze()
        with _signals(worker):
            async with _probes(worker, observer, serving.host, port):
                names = ", ".join(worker.figures)
                log.info("ready: following %s of %s", names, hide(settings.store_url))
                said = asyncio.create_task(_say(worker))
                try:
                    await worker.run(serving.drain_seconds)
                finally:
                    said.cancel()
    log.info("stopped: %s", "; ".join(f"{name} {made.followed} followed" for name, made in worker.figures.items()))


@contextlib.contextmanager
def _signals(worker: Worker) -> Iterator[None]:
    """Have SIGTERM and SIGINT stop it."""

    def stop() -> None:
        log.info("stopping: the batches under way are finished")
        worker.stop()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        for number in numbers:
            loop.add_signal_handler(number, stop)
    except NotImplementedError:  # Windows
        before = {each: signal.signal(each, lambda *_: loop.call_soon_threadsafe(stop)) for each in numbers}
        yield
        for number, act in before.items():
            signal.signal(number, act)
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _say(worker: Worker) -> None:
    """Write into the log how far it is, where anything happened."""
    before = dict.fromkeys(worker.figures, 0)
    while True:
        await asyncio.sleep(SAID_S)
        for name, made in worker.figures.items():
            if made.followed > before[name]:
                log.info("%s: %d followed, %.0f a second, %d shards", name, made.followed, made.rate, made.held)
                before[name] = made.followed


# -- probes and metrics ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _probes(worker: Worker, observer: Observer, host: str, port: int) -> AsyncIterator[None]:
    if not port:
        yield
        return
    sockets = bound(host, port)
    settings = uvicorn.Config(probes(worker, observer), log_config=None, access_log=False, lifespan="off", ws="none")
    server = _Server(settings)
    serving = asyncio.create_task(server.serve(sockets))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        for each in sockets:
            each.close()


class _Server(uvicorn.Server):
    """uvicorn, which leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def probes(worker: Worker, observer: Observer) -> Starlette:
    """Return what answers probes and Prometheus. It tells nothing of what is remembered, and asks for no key."""

    async def live(request: Request) -> Response:
        return PlainTextResponse("alive")

    async def ready(request: Request) -> Response:
        """It is ready where its store answers and no follower waits."""
        waits = [made.behind for made in worker.figures.values() if made.behind]
        with contextlib.suppress(SimonidesError):
            await worker.stands()
            if not waits:
                return PlainTextResponse("ready")
        return PlainTextResponse("waiting", 503)

    async def metrics(request: Request) -> Response:
        try:
            families = await told(worker)
        except SimonidesError:
            families = ()
        return Response(observer.told([], more=families), media_type=MEDIA_TYPE)

    routes = {"/health/live": live, "/health/ready": ready, "/metrics": metrics}
    return Starlette(routes=[Route(path, answer, methods=["GET"]) for path, answer in routes.items()])


async def told(worker: Worker) -> Sequence[Metric]:
    """Return what Prometheus is told of the followers."""
    stands = await worker.stands()
    rows: dict[str, tuple[str, Callable[[Stand, Figures], float]]] = {
        "simonides_follower_lag_changes": ("Lines of the log not followed yet", lambda s, f: s.lag),
        "simonides_follower_lag_seconds": ("Since the first of them was written", lambda s, f: s.lag_s),
        "simonides_letters": ("What could not be followed; at most a thousand are counted", lambda s, f: s.letters),
        "simonides_leases_held": ("Shards that this worker holds", lambda s, f: f.held),
        "simonides_follower_rate": ("Changes a second, lately", lambda s, f: f.rate),
        "simonides_follower_followed": ("Changes followed by this worker", lambda s, f: f.followed),
        "simonides_follower_retries": ("Batches that had to wait, or came second", lambda s, f: f.retries),
    }
    counters = ("simonides_follower_followed", "simonides_follower_retries")
    families = list[Metric]()
    for name, (meaning, value) in rows.items():
        kind: Any = CounterMetricFamily if name in counters else GaugeMetricFamily
        family = kind(name, meaning, labels=["follower"])
        for follower, stand in stands.items():
            family.add_metric([follower], float(value(stand, worker.figures[follower])))
        families.append(family)
    return families
