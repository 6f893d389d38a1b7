"""What a server is told: where it listens, whom it believes, how much it takes on. `config.serving()` reads it.

A field says what it means and in which unit, what it may be, whether a running server takes a new value, and whether
it is a secret: a secret is in no repr, no answer and no error.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import Invalid

HIDDEN = "•••"  # stands where a secret is
LOG_LEVELS = ("debug", "info", "warning", "error")
LOGS = ("auto", "pretty", "json")
FULL = REFUSE, ACCEPT = ("refuse", "accept")  # what becomes of a write while too much waits to be indexed

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):(?:[^/]*|(?![0-9]+[/?#]).*)@", re.DOTALL)  # one with a slash in it too

_SECRET = re.compile(r"(?<=[?&]secret=)[^&#\s\"']*")


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a setting beside its name, its type and its default."""

    meaning: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    url: bool = False  # empty, or http(s)://…
    urls: bool = False  # each is a URL, which may have commas in it
    origins: bool = False  # each is an origin as a browser names it, or *
    reload: bool = False  # a running server takes a new value
    secret: bool = False


def setting(default: Any, meaning: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"about": About(meaning, **more)})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Serving:
    """What a server is told. Each may be given as a flag of `simonides serve`, as `SIMONIDES_<NAME>`, or in the table
    `[server]` of the configuration file.
    """

    host: str = setting("127.0.0.1", "the address to listen on; beyond this machine (0.0.0.0) keys are asked for")
    port: int = setting(40020, "the port for HTTP; 0 takes a free one", least=0, most=65535)
    require_key: bool = setting(False, "ask for keys on this machine too")
    directory: str = setting("", "URL of the directory that holds the keys; empty: the default one")
    allowed_hosts: tuple[str, ...] = setting(
        (), "names that a request may call the server by; none: on this machine its own names, beyond it any"
    )
    trusted_proxies: tuple[str, ...] = setting(
        (), "addresses of reverse proxies, which are believed when they say who the client is"
    )
    cors_origins: tuple[str, ...] = setting(
        (), "origins whose web pages may call, or * for any; none: no page may", origins=True, reload=True
    )

    rate: int = setting(0, "calls a minute that a key may make; 0: as many as it likes", least=0, reload=True)
    failures_max: int = setting(10, "wrong keys a minute from one address before it has to wait", least=1, reload=True)
    body_mb_max: int = setting(8, "megabytes (2²⁰ bytes) of one request; imports are streamed", least=1, reload=True)
    batch_max: int = setting(1000, "things in one batch", least=1, most=10_000, reload=True)
    seconds_max: float = setting(60.0, "seconds that a call may take", least=0.001, reload=True)
    connections_max: int = setting(2000, "open connections; more are turned away", least=1)
    idle_seconds: float = setting(75.0, "seconds that a connection is kept open without a request", least=1)
    drain_seconds: float = setting(20.0, "seconds that calls under way have to end when the server is stopped", least=0)

    queue_max: int = setting(
        0, "changes that may wait to be indexed before writes are turned away; 0: any number", least=0, reload=True
    )
    when_full: str = setting(
        REFUSE,
        "what becomes of a write then: refuse answers 429, accept keeps it and does not wait until it is indexed",
        choices=FULL,
        reload=True,
    )

    upstream: str = setting(
        "https://api.openai.com/v1", "where the proxy sends chats: the base URL of an OpenAI API", url=True, reload=True
    )
    upstream_key: str = setting("", "the key for it; empty: the client's own is passed on", secret=True, reload=True)
    upstream_seconds: float = setting(600.0, "seconds that it may take to answer", least=1, reload=True)
    proxy_budget: int = setting(1500, "tokens of context that the proxy inserts", least=0, reload=True)
    proxy_user: str = setting("", "whose memory a chat through the proxy is where it names nobody", reload=True)

    grpc_port: int = setting(0, "the port for gRPC; 0: off", least=0, most=65535)
    metrics: bool = setting(True, "answer at /metrics")
    tracing: str = setting("", "where traces are sent: the URL of an OTLP endpoint; empty: nowhere", url=True)
    log: str = setting("auto", "how the log is written; auto: pretty at a terminal, otherwise JSON", choices=LOGS)
    log_level: str = setting("info", "what is logged: this and what is graver", choices=LOG_LEVELS, reload=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)
        return f"Serving({', '.join(f'{field.name}={told(field, getattr(self, field.name))!r}' for field in fields)})"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        host = self.host.strip("[]").casefold()
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def keys_asked(self) -> bool:
        """Whether whoever calls must show a key."""
        return self.require_key or not self.loopback


def about(field: dataclasses.Field[Any]) -> About:
    found: About = field.metadata["about"]
    return found


def changed(old: Serving, new: Serving) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of what differs: what a running server takes over, and what needs a restart."""
    differ = [field for field in dataclasses.fields(Serving) if getattr(old, field.name) != getattr(new, field.name)]
    taken = tuple(field.name for field in differ if about(field).reload)
    return taken, tuple(field.name for field in differ if not about(field).reload)


def told(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a value as it may be shown: JSON, and no secret."""
    if isinstance(value, str):
        return HIDDEN if value and about(field).secret else hide(value)
    return [hide(each) for each in value] if isinstance(value, tuple) else value


def hide(text: str) -> str:
    """Return a text without the password of a URL in it, and without a secret among its options."""
    return _SECRET.sub(HIDDEN, _PASSWORD.sub(rf"\1:{HIDDEN}@", text))


# -- what a value may be -----------------------------------------------------------------------------------------


def check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise Invalid where the setting cannot have this value. The message does not repeat a secret."""
    rules, complaint = about(field), _complaint(field, value)
    if complaint:
        not_this = "" if rules.secret else f", not {hide(repr(value))}"
        raise Invalid(f"{field.name} must be {complaint}{not_this}")


def _complaint(field: dataclasses.Field[Any], value: Any) -> str:
    """Return what it must be, where it is not."""
    rules = about(field)
    if not _is(field.type, value):
        return WANTED[str(field.type)]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _range(rules) if not _within(rules, value) else ""
    if rules.choices and value not in rules.choices:
        return f"one of {', '.join(rules.choices)}"
    if rules.origins and not all(each == "*" or _is_origin(each) for each in value):
        return "origins like https://app.example.com (no path), or *"
    if rules.url and value and not _is_url(value):
        return "a URL that begins with http:// or https://"
    if any(
        _CONTROL.search(each) for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, str)
    ):
        return "one line without control characters"
    return "an address or the name of a machine" if field.name == "host" and (not value or " " in value) else ""


WANTED = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple[str, ...]": "a list of texts",
}


def _is(kind: Any, value: Any) -> bool:
    if kind == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(each, str) and each for each in value)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    return isinstance(value, str if kind == "str" else int if kind == "int" else int | float)


def _within(rules: About, value: float) -> bool:
    above = rules.least is None or value >= rules.least
    return above and (rules.most is None or value <= rules.most) and abs(value) < float("inf")


def _range(rules: About) -> str:
    least, most = (f"{bound:g}" if bound is not None else "" for bound in (rules.least, rules.most))
    return f"between {least} and {most}" if most else f"at least {least}"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _is_origin(text: str) -> bool:
    return _is_url(text) and re.fullmatch(r"https?://[^/?#@\s]+", text) is not None
