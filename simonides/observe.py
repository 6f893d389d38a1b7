"""What is measured: Prometheus metrics and, where somebody collects them, traces. Put around any contract, once.

Nothing of what is remembered, and no name of anybody, is in a metric or a trace: labels are routes as they are
declared, names of methods, numbers of statuses. Each server counts for itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from .errors import Unavailable
from .store import Pooled
from .version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

T = TypeVar("T")

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAITS = ("grown",)  # what takes as long as nothing happens is not measured
QUERY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Observer:
    """The metrics of one server. `tracer` is OpenTelemetry's, or None."""

    def __init__(self, tracer: Any = None) -> None:
        made = self.registry = CollectorRegistry()
        self.tracer = tracer
        self.requests = Counter("simonides_api_requests", "Requests", ["method", "route", "status"], registry=made)
        self.seconds = Histogram(
            "simonides_api_request_duration_seconds", "What a request took", ["method", "route"], buckets=REQUEST_S,
            registry=made,
        )  # fmt: skip
        self.active = Gauge("simonides_api_requests_active", "Requests under way", registry=made)
        self.sent = Counter("simonides_api_response_bytes", "Bytes of bodies sent", registry=made)
        self.durations = {
            part: Histogram(name, text, ["operation"], buckets=QUERY_S, registry=made)
            for part, name, text in (
                ("store", "simonides_db_query_duration_seconds", "What the store took"),
                ("index", "simonides_index_query_duration_seconds", "What the vector index took"),
                ("embedder", "simonides_embedding_duration_seconds", "What the embedder took"),
                ("cache", "simonides_cache_duration_seconds", "What the cache took"),
            )
        }
        self.errors = Counter("simonides_part_errors", "Calls that failed", ["part", "operation"], registry=made)
        self.hits = Counter("simonides_cache_hits", "Values that were in the cache", ["kind"], registry=made)
        self.misses = Counter("simonides_cache_misses", "Values that were not in the cache", ["kind"], registry=made)
        self.embeddings = Counter("simonides_embedding_requests", "Calls of the embedder", ["status"], registry=made)
        self.embedded = Counter("simonides_embedding_texts", "Texts embedded", registry=made)
        self.tokens = Counter("simonides_embedding_tokens", "Tokens of the texts embedded", registry=made)
        rss = Gauge("simonides_memory_rss_bytes", "Memory of this process that is in RAM", registry=made)
        rss.set_function(resident)
        heap = Gauge("simonides_memory_heap_bytes", "Of that, what is of no file: its own", registry=made)
        heap.set_function(own)
        self._pooled = list[weakref.ref[Pooled]]()
        for which, name in enumerate(("active", "idle")):
            gauge = Gauge(
                f"simonides_db_connections_{name}", f"Connections of the store that are {name}", registry=made
            )
            gauge.set_function(functools.partial(self._connections, which))
        Gauge("simonides_info", "This server", ["version"], registry=made).labels(VERSION).set(1)
        ProcessCollector(registry=made)

    # -- requests (see `servers.care.Watch`) ----------------------------------------------------------------------

    def began(self, scope: Any) -> Any:
        self.active.inc()
        return _span(self.tracer, scope) if self.tracer else None

    def ended(self, begun: Any, seen: Any) -> None:
        self.active.dec()
        self.requests.labels(_method(seen.method), seen.route, seen.status).inc()
        self.seconds.labels(_method(seen.method), seen.route).observe(seen.seconds)
        self.sent.inc(seen.sent)
        if begun:
            begun(seen)

    # -- parts ----------------------------------------------------------------------------------------------------

    def around(self, part: str, what: T) -> T:
        """Return the same store, index, embedder or cache, its calls measured."""
        if isinstance(what, Pooled):
            self._pooled.append(weakref.ref(what))
        return cast(T, _shape(cast(type, type(what)), part)(what, self))

    def _connections(self, which: int) -> float:
        there = [found.connections for each in self._pooled if (found := each()) is not None]
        return float(sum(connections[which] for connections in there))

    def call(self, part: str, operation: str) -> Timed:
        """Return what measures what is done within it: a call of that part."""
        return Timed(self, part, operation)

    def embed(self, embedder: Any, texts: Sequence[str], fine: bool) -> None:
        self.embeddings.labels("ok" if fine else "failed").inc()
        if fine:
            self.embedded.inc(len(texts))
            self.tokens.inc(sum(embedder.tokens(text) for text in texts))

    def looked_up(self, group: str, found: Sequence[bytes | None]) -> None:
        """Count what a cache was asked for: by kind, which the names of groups begin with."""
        kind, missed = group.partition("/")[0], sum(value is None for value in found)
        self.hits.labels(kind).inc(len(found) - missed)
        self.misses.labels(kind).inc(missed)

    # -- what it comes to -----------------------------------------------------------------------------------------

    def told(
        self,
        parts: Sequence[Mapping[str, Any]],
        store: Mapping[str, float] | None = None,
        more: Sequence[Metric] = (),
    ) -> bytes:
        """Return all of it as Prometheus reads it: with how the parts are (see `api.system.parts`), and, for whom it
        may concern, what is in the whole store; and what more there is to tell.
        """
        health = GaugeMetricFamily("simonides_health_status", "1: works, 0.5: as a fallback, 0: not", labels=["part"])
        for each in parts:
            health.add_metric([each["name"]], 0.5 if each["works"] and each["fallback"] else float(each["works"]))
        families = [
            health,
            *more,
            *(GaugeMetricFamily(name, TOLD[name], value) for name, value in (store or {}).items()),
        ]
        return generate_latest(self.registry) + generate_latest(_given(families))


class Timed:
    """Measures what is done within it. Its span says nothing of an error but its kind: messages may hold what was
    remembered.
    """

    __slots__ = ("_begun", "_observer", "_of", "_span", "_tracing")

    def __init__(self, observer: Observer, part: str, operation: str) -> None:
        self._observer, self._of = observer, (part, operation)
        self._tracing = observer.tracer and observer.tracer.start_as_current_span(
            f"{part}.{operation}", record_exception=False, set_status_on_exception=False
        )

    def __enter__(self) -> None:
        self._span = self._tracing.__enter__() if self._tracing else None
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        part, operation = self._of
        self._observer.durations[part].labels(operation).observe(time.perf_counter() - self._begun)
        if isinstance(error, Exception):
            self._observer.errors.labels(part, operation).inc()
            if self._span:
                self._span.set_attribute("error.type", type(error).__qualname__)
        if self._tracing:
            self._tracing.__exit__(kind, error, trace)


TOLD = {
    "simonides_conversations_total": "Conversations that are kept",
    "simonides_messages_total": "Messages that are kept",
    "simonides_records_total": "Records of every kind that are kept",
    "simonides_versions_total": "Versions of all records",
    "simonides_embeddings_total": "Vectors that are kept",
    "simonides_collections_total": "Spaces that hold something, each a collection of its own",
    "simonides_storage_bytes_total": "Bytes that the store takes on the disk",
    "simonides_index_lag_changes": "Changes that cannot be found by meaning yet",
}


def counted(stats: Mapping[str, Any], size: int, lag: int) -> dict[str, float]:
    """Return what is in a store, from `AsyncMemory.stats`, by the names that metrics have."""
    names = {"conversation": "conversations", "message": "messages", "records": "records", "versions": "versions"}
    found = {f"simonides_{plural}_total": float(stats.get(name, 0)) for name, plural in names.items()}
    found["simonides_embeddings_total"] = float(stats.get("vectors", 0))
    found["simonides_collections_total"] = float(stats.get("spaces", 0))
    return {**found, "simonides_storage_bytes_total": float(size), "simonides_index_lag_changes": float(lag)}


def _given(families: Sequence[Metric]) -> CollectorRegistry:
    class Given:
        def collect(self) -> Iterator[Metric]:
            yield from families

    made = CollectorRegistry()
    made.register(cast(Any, Given()))
    return made


def resident() -> float:
    """Return the bytes of this process that are in RAM; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as said:
            return float(said.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0.0


def own() -> float:
    """Return the bytes in RAM that are of no file, as mapped pages of a store are; 0 where the system does not say."""
    try:
        with open("/proc/self/status", "rb") as said:
            return next(float(line.split()[1]) * 1024 for line in said if line.startswith(b"RssAnon:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0


def _method(name: str) -> str:
    """Return the method where it is one: anybody may send any word."""
    return name if name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


# -- of the same shape ----------------------------------------------------------------------------------------------


@functools.cache
def _shape(kind: type, part: str) -> type:
    """Return a class with all that `kind` has: what is awaited is measured, the rest is passed on."""
    made: dict[str, Any] = {"__init__": _init, "__getattr__": _of_part}
    for name in dir(kind):
        if name.startswith("_"):
            continue
        awaited = inspect.iscoroutinefunction(getattr(kind, name)) and name not in WAITS
        made[name] = _measured(part, name) if awaited else _passed_on(name)
    return type(f"Observed{kind.__name__}", (), made)


def _init(self: Any, what: Any, observer: Observer) -> None:
    self._what, self._observer = what, observer


def _of_part(self: Any, name: str) -> Any:
    return getattr(self._what, name)


def _passed_on(name: str) -> property:
    return property(lambda self: getattr(self._what, name))


def _measured(part: str, name: str) -> Any:
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._observer.call(part, name):
            return await getattr(self._what, name)(*args, **kwargs)

    async def embed(self: Any, texts: Sequence[str], **kwargs: Any) -> Any:
        fine = False
        try:
            with self._observer.call(part, name):
                found = await getattr(self._what, name)(texts, **kwargs)
            fine = True
            return found
        finally:
            self._observer.embed(self._what, texts, fine)

    async def get(self: Any, group: str, keys: Sequence[str]) -> Any:
        with self._observer.call(part, name):
            found = await self._what.get(group, keys)
        self._observer.looked_up(group, found)
        return found

    if part == "cache" and name == "get":
        return get
    return embed if part == "embedder" and name in ("embed", "encode") else call


# -- traces -----------------------------------------------------------------------------------------------------


def provider(endpoint: str, exporter: Any = None) -> TracerProvider:
    """Return what sends traces there over OTLP; shut it down in the end. Unavailable where the extra is missing."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            module = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")

            exporter = module.OTLPSpanExporter(endpoint=endpoint)
    except ModuleNotFoundError as error:
        raise Unavailable(f"traces need {error.name}: install it with `pip install 'simonides[tracing]'`") from None
    made = TracerProvider(resource=Resource.create({"service.name": "simonides", "service.version": VERSION}))
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


def _span(tracer: Any, scope: Any) -> Any:
    """Begin the span of a request, within the caller's own trace; return what ends it."""
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    outer = TraceContextTextMapPropagator().extract(headers)
    span = tracer.start_span(scope["method"], context=outer, kind=trace.SpanKind.SERVER)
    mark = context.attach(trace.set_span_in_context(span, outer))

    def end(seen: Any) -> None:
        span.update_name(f"{_method(seen.method)} {seen.route}")
        span.set_attribute("http.request.method", _method(seen.method))
        span.set_attribute("http.route", seen.route)
        span.set_attribute("http.response.status_code", seen.status)
        span.set_attribute("simonides.request_id", seen.id)
        if seen.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        context.detach(mark)
        span.end()

    return end
